"""The recipe keys of evaluation during training, and what they must be. transformers' own `eval_*` keys say when."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from led_rl.decoding import DecodingParams
from led_rl.engines.environment import has_gpu
from led_rl.methods.properties import DECODINGS, PROPERTIES


@dataclass
class EvaluationKeys:
    """How the live engine is evaluated (evaluation_callback.py)."""

    eval_decodings: list[str] | None = field(
        default=None,
        metadata={
            "help": "Decodings under which eval_dataset is sampled. Default in recipes and with LED: standard, and the "
            "rollouts' own; otherwise TRL evaluates."
        },
    )
    eval_samples: int = field(default=4, metadata={"help": "Completions of each problem and decoding; k of pass@k."})
    eval_seed: int = field(default=0, metadata={"help": "Seed of evaluation; the run's own random numbers stay as is."})


@dataclass
class EvaluationData:
    """What is evaluated."""

    eval_dataset: str | None = field(
        default=None, metadata={"help": "Hub id or JSONL file to evaluate on during training; columns as in `dataset`."}
    )
    eval_dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the hub dataset."})
    eval_dataset_split: str = field(default="test", metadata={"help": "Split of the hub dataset."})
    eval_benchmarks: list[str] | None = field(
        default=None, metadata={"help": "Benchmarks by name (docs/evaluation.md), each judged by its own reward."}
    )
    eval_rows: int | None = field(
        default=None, metadata={"help": "Use only the first rows of eval_dataset and of each benchmark."}
    )


def evaluation_decodings(args: Any) -> dict[str, DecodingParams]:
    """The decodings of `eval_decodings`, with the run's own depth, k and other `led_*` settings."""
    return {name: args.decoding_params(name) for name in args.eval_decodings or ()}


def evaluates(args: Any) -> bool:
    """Whether a run with these settings evaluates at all."""
    return args.eval_strategy not in (None, "no") or bool(args.eval_on_start)


def settle_evaluation(args: Any) -> None:
    """Checks the keys of a config whose `use_vllm` is settled, and gives `eval_decodings` a value with LED.

    Raises ValueError that names the key.
    """
    if args.eval_samples < 1:
        raise ValueError(f"eval_samples must be at least 1; got {args.eval_samples}")
    if args.eval_decodings is None and args.decoding != "standard":
        args.eval_decodings = ["standard", args.decoding]
    if args.eval_decodings is None:
        return
    if unknown := [name for name in args.eval_decodings if name not in DECODINGS]:
        raise ValueError(f"eval_decodings must be of {', '.join(DECODINGS)}; got {unknown[0]!r}")
    if not args.eval_decodings or len(set(args.eval_decodings)) != len(args.eval_decodings):
        raise ValueError(f"eval_decodings must name each decoding once; got {args.eval_decodings!r}")
    if not args.use_vllm and (foreign := [name for name in args.eval_decodings if name != "standard"]):
        raise ValueError(f"eval_decodings: {foreign[0]!r} needs use_vllm: true; only the vLLM engine samples with it")
    if has_gpu() and (eager := [name for name in args.eval_decodings if not PROPERTIES[name].keeps_graphs]):
        raise ValueError(
            f"eval_decodings: {eager[0]!r} needs an engine without CUDA graphs, and rollouts have one with them; "
            "evaluate with led-rl evaluate"
        )
    if args.num_generations_eval is None and evaluates(args):
        args.num_generations_eval = 1  # of TRL's own evaluation, whose batch size would have to be a multiple of it


def describe_evaluation(step: int, metrics: Mapping[str, float]) -> str:
    """One line of an evaluation's pass rates."""
    rates = [f"{name.removeprefix('eval_')} {value:.3f}" for name, value in metrics.items() if "pass@" in name]
    return " | ".join([f"evaluation at step {step}", *rates, f"{metrics.get('eval_seconds', 0.0):.1f} s"])
