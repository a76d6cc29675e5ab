# ruff: noqa: RUF009
"""The recipe of an evaluation: its keys, each with its meaning, and what is refused before anything is loaded."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from led_rl.decoding import LARGEST_INTEGER
from led_rl.evaluation.arms import SAMPLING_KEYS, check_sampling
from led_rl.evaluation.rows import EvaluationError
from led_rl.evaluation.run import SCHEDULES
from led_rl.recipe import RecipeError, checked, described, find_recipe, keys_of, overrides, read_yaml

ENGINES = ("auto", "vllm", "transformers")
REPORT_TO = ("wandb", "tensorboard", "none")
BAD_GOLDS = ("refuse", "drop")
# Keys by other names, which a command line without a recipe has always taken.
ALIASES = {"model": "checkpoints", "decodings": "arms", "seed": "seeds", "chunk_size": "chunk"}


LARGEST = {"n": 100_000, "data_parallel": 1024, "tensor_parallel_size": 1024, "max_num_seqs": 65_536}
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
# Arguments of vllm.LLM, and of the class that builds it, that the recipe's keys or its checkpoints decide.
ENGINE_KEYS = {
    **dict.fromkeys(("model", "tokenizer"), "checkpoints"),
    **dict.fromkeys(("depth", "latent_layers", "max_k", "explored", "support"), "arms"),
    **{key: key for key in ("dtype", "max_num_seqs", "tensor_parallel_size")},
    "data_parallel_size": "data_parallel",
}
OURS_TO_SET = (
    *("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict", "return_tensors"),
    *("padding", "truncation", "max_length", "return_assistant_tokens_mask", "tokenizer_kwargs"),
)


def _key(default: Any, text: str) -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class EvaluationRecipe:
    """What an evaluation compares, on what, and how it runs."""

    checkpoints: list[str] | dict[str, str] | str = _key(
        [], "Hub ids, checkpoint folders, LoRA adapters, run folders (every checkpoint-*); LABEL=PATH or {label: path}."
    )
    benchmarks: list[str] | str = _key([], "Names, NAME=FILE.jsonl, or paths of benchmark files.")
    data: list[str] | str | None = _key(None, "JSONL files of one's own, with `reward` and the columns below.")
    problem_column: str | None = _key(None, "What is asked in `data`; found if not named.")
    answer_column: str | None = _key(None, "The gold in `data`, or a text that ends in `#### gold`; becomes `answer`.")
    reward: str | None = _key(None, "Reward of `data`, in place of a benchmark's: a name, or package.module:function.")
    reward_options: dict[str, Any] | None = _key(None, "Options of the reward.")
    bad_golds: str = _key("refuse", "Golds that the reward cannot use: refuse or drop.")
    correct_from: float | None = _key(None, "Reward from which a sample is correct; default: the benchmark's.")
    arms: list[Any] | str = _key(
        ["standard", "top_k_control", "led"],
        "Each `DECODING key value ...` or a mapping: temperature, top_p, top_k, min_p, max_tokens and LED's options.",
    )
    baselines: list[str] | str | None = _key(
        None, "Arms that every other is compared with; default: standard and top_k_control of the same temperature."
    )
    n: int = _key(16, "Samples of a problem, under each seed.")
    seeds: list[int] | int = _key([0], "Each gives n samples.")
    temperature: float = _key(1.0, "Of arms that name none.")
    top_p: float = _key(1.0, "Of arms that name none.")
    top_k: int = _key(0, "Of arms that name none; 0: no limit.")
    min_p: float = _key(0.0, "Of arms that name none.")
    max_tokens: int = _key(2048, "Longest completion.")
    depth: int = _key(8, "Layers that LED reads, the final one included.")
    k: int = _key(8, "Candidates of LED and of its control.")
    system_prompt: str | None = _key(None, "System message before each problem.")
    enable_thinking: bool | None = _key(None, "Option of Qwen3's and others' chat templates; default: the template's.")
    chat_template_options: dict[str, Any] = _key({}, "Further options of the chat template.")
    limit: int | None = _key(None, "Only the first problems of each benchmark.")
    output: str | None = _key(None, "Folder of the records; default: runs/<name of the recipe>.")
    schedule: str = _key("blocks", "blocks: arms in turn, timed; throughput: all requests in flight.")
    chunk: int | None = _key(None, "Problems of a block; default: 32, or fewer to make 8 blocks.")
    regrade: bool = _key(False, "Grade the recorded completions anew; none is generated again.")
    engine: str = _key("auto", "auto (vllm where it is installed), vllm or transformers.")
    dtype: str | None = _key(None, "Of weights and activations; default: the checkpoint's (float32 on CPU).")
    data_parallel: int = _key(1, "Engine processes that share the problems, each on GPUs of its own.")
    tensor_parallel_size: int = _key(1, "GPUs of one engine.")
    max_num_seqs: int = _key(64, "Sequences that one engine decodes at a time.")
    report_to: list[str] | str = _key([], "Where to log beside the report: wandb, tensorboard, both, or none.")
    run_name: str | None = _key(None, "Of the W&B runs, before the arm's name; default: the output folder's name.")
    group: str | None = _key(None, "Of the W&B runs, to compare several evaluations; default: the run name.")
    engine_arguments: dict[str, Any] = _key({}, "Further arguments of vllm.LLM.")

    def __post_init__(self) -> None:
        for name in ("checkpoints", "benchmarks", "arms", "data", "report_to", "baselines"):
            value = getattr(self, name)
            if isinstance(value, str):  # a comma within brackets parts nothing
                parts = re.split(r",(?![^\[{]*[\]}])", value)
                setattr(self, name, [part.strip() for part in parts if part.strip()])
        self.data = self.data or []
        if isinstance(self.seeds, int):
            self.seeds = [self.seeds]
        if not self.checkpoints:
            raise EvaluationError("checkpoints is missing: give hub ids or folders")
        if not self.benchmarks and not self.data:
            raise EvaluationError("benchmarks is missing: give names, such as gsm8k, or `data` with a `reward`")
        if self.data and not self.reward:
            raise EvaluationError("reward is missing: `data` needs the name of a reward, such as math_answer")
        for key in SAMPLING_KEYS:
            check_sampling(key, key, getattr(self, key))
        for key in ("n", "depth", "k", "limit", "chunk", "data_parallel", "tensor_parallel_size", "max_num_seqs"):
            value = getattr(self, key)
            if value is not None and not 1 <= value <= LARGEST.get(key, LARGEST_INTEGER):
                most = f" and <= {LARGEST.get(key, LARGEST_INTEGER)}" if value > 1 else ""
                raise EvaluationError(f"{key}: expected an integer >= 1{most}, got {value!r}")
        if not self.seeds or any(not 0 <= seed < 2**63 for seed in self.seeds):
            raise EvaluationError(f"seeds: expected integers from 0 to 2^63 - 1, got {self.seeds!r}")
        if len(set(self.seeds)) < len(self.seeds):
            raise EvaluationError(f"seeds: each may stand once, got {self.seeds!r}")
        if self.correct_from is not None and not math.isfinite(self.correct_from):
            raise EvaluationError(f"correct_from: expected a finite number, got {self.correct_from!r}")
        for key, allowed in (("schedule", SCHEDULES), ("engine", ENGINES), ("bad_golds", BAD_GOLDS)):
            if getattr(self, key) not in allowed:
                raise EvaluationError(f"{key} must be one of {', '.join(allowed)}; got {getattr(self, key)!r}")
        if unknown := [name for name in self.report_to if name not in REPORT_TO]:
            raise EvaluationError(f"report_to must be of {', '.join(REPORT_TO)}; got {unknown[0]!r}")
        if "none" in self.report_to and len(self.report_to) > 1:
            raise EvaluationError(f"report_to: none stands alone; got {', '.join(self.report_to)}")
        if taken := [name for name in OURS_TO_SET if name in self.chat_template_options]:
            raise EvaluationError(f"chat_template_options: {taken[0]} is set by the evaluation itself; leave it out")
        self._check_engine()
        if self.enable_thinking is not None:
            self.chat_template_options = {**self.chat_template_options, "enable_thinking": self.enable_thinking}

    def _check_engine(self) -> None:
        """What the engine would ignore, or find wrong once it starts."""
        if self.engine == "transformers":
            ignored: dict[str, Any] = {"engine_arguments": {}, "dtype": None, "tensor_parallel_size": 1}
            for key, default in ignored.items():
                if getattr(self, key) != default:
                    raise EvaluationError(f"{key}: engine: transformers has no such option; it belongs to vllm")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise EvaluationError(f"dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if taken := [key for key in self.engine_arguments if key in ENGINE_KEYS]:
            raise EvaluationError(f"engine_arguments: {taken[0]} follows from the recipe's {ENGINE_KEYS[taken[0]]}")

    def shown(self) -> dict[str, Any]:
        """The keys that say what is compared, for a report."""
        keys = ("benchmarks", "arms", "n", "temperature", "max_tokens", "depth", "k", "limit")
        return {key: getattr(self, key) for key in keys}

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds, each of which gives n samples."""
        return (self.seeds,) if isinstance(self.seeds, int) else tuple(self.seeds)

    @property
    def arm_defaults(self) -> dict[str, Any]:
        """Sampling settings, depth and k of arms that do not name their own."""
        return {key: getattr(self, key) for key in (*SAMPLING_KEYS, "depth", "k")}


KEYS = keys_of(EvaluationRecipe)


def load_evaluation(arguments: Sequence[str]) -> EvaluationRecipe:
    """`[RECIPE.yaml] [--key value ...]` -> the recipe. The command line wins over the file.

    Raises:
        RecipeError, EvaluationError: a missing file, bad YAML, an unknown key, a wrong type, or a refused value.
    """
    where, values = "command line", {}
    rest = list(arguments)
    keys = KEYS | {alias: KEYS[key] for alias, key in ALIASES.items()}
    if rest and not rest[0].startswith("--"):
        path = find_recipe(rest.pop(0))
        where = str(path)
        values = {"output": f"runs/{path.stem}"} | _by_name(read_yaml(path), where)
    values |= _by_name(overrides(rest, keys), "command line")
    if not values.get("output"):
        raise RecipeError(f"{where}: output is missing: name the folder of the records: --output FOLDER")
    for key, value in values.items():
        values[key] = checked(where, key, _as_text(key, value), KEYS, "see led-rl evaluate --help for all keys")
    try:
        return EvaluationRecipe(**values)
    except EvaluationError as error:
        raise EvaluationError(f"{where}: {error}") from error


def _by_name(values: dict[str, Any], where: str) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if name in renamed:
            other = next(alias for alias in values if ALIASES.get(alias) == name)
            raise RecipeError(f"{where}: {other!r} is another name of {name!r}; give one of them")
        renamed[name] = value
    return renamed


def _as_text(key: str, value: Any) -> Any:
    """A command line's `2024` that names a file or an arm is text, and one mapping is a list of one arm."""
    if key == "arms" and isinstance(value, dict):
        return [value]
    takes_text = KEYS.get(key, (None, None))[1] in (str, str | None)
    return str(value) if takes_text and type(value) in (int, float) else value


def help_text() -> str:
    """Every key with its type, default and meaning."""
    usage = "usage: led-rl evaluate [RECIPE.yaml] [--key value ...]"
    also = ", ".join(f"--{alias}: --{key}" for alias, key in ALIASES.items())
    return "\n".join([usage, "", *described([EvaluationRecipe], KEYS), f"Other names: {also}"])
