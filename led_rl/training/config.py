"""The config dataclasses that a recipe becomes: what a run is about, and TRL's settings with LED's beside them."""

import logging
import os
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers.integrations import get_reporting_integration_callbacks
from trl import GRPOConfig, ModelConfig

from led_rl.data import EXTRACTIONS
from led_rl.decoding import AGGREGATIONS, OWN_KEYS, DecodingParams, UserError
from led_rl.engines.environment import meet_on_a_free_port
from led_rl.methods.properties import DECODINGS
from led_rl.thinking import END, START
from led_rl.training.baseline_keys import BaselineKeys, check_trains
from led_rl.training.checks.values import check_choices, check_generation_kwargs, check_ranges, settle_types
from led_rl.training.evaluation_keys import EvaluationData, EvaluationKeys, settle_evaluation
from led_rl.training.observation.keys import ObservationKeys, warn_of_idle_keys
from led_rl.training.schedules.keys import ScheduleKeys, settle_schedules

SEQUENCE_LEVEL_REFUSAL = (
    "vllm_importance_sampling_mode: {mode!r} with decoding: {decoding!r} would stop training in silence. LED samples "
    "from its own policy mu, so every token has a log-ratio to the trained policy; a sequence-level mode multiplies by "
    "the exponential of their SUM, which vanishes over a few dozen tokens, and the gradient with it. Allowed: "
    "'token_truncate' or 'token_mask', or vllm_importance_sampling_correction: false (the paper's way)."
)


UNKNOWN_SUPPORT = (
    "train_support: vocabulary: rollouts are truncated by top_p, top_k or min_p, and the loss does not know which "
    "tokens could be sampled. Probability leaks to tokens that are never sampled; set top_k > 0 with use_vllm: true to "
    "train on the sampled support"
)
VOCABULARY_LOSS = (
    "train_support: vocabulary with decoding: {decoding!r}: the loss pushes probability to tokens that can never be "
    "sampled and so are never pushed back. On the quickstart's model this took pass@16 from 84 % to 43-48 % in 240 "
    "steps (docs/training.md). Watch led/support_mass, or set train_support: sampled"
)
NO_CORRECTION = (
    "vllm_importance_sampling_correction: false with decoding: {decoding!r}: rollouts are flatter than the policy, and "
    "uncorrected updates pull the policy towards them. On the quickstart's model the reward fell to 0 within 51 steps "
    "with either loss (docs/training.md). The paper trains this way at learning rate 1e-6 for 91 steps"
)
logger = logging.getLogger(__name__)


@dataclass
class LEDGRPOConfig(ObservationKeys, ScheduleKeys, EvaluationKeys, BaselineKeys, GRPOConfig):
    """`GRPOConfig` and the decoding of the rollouts.

    Defaults are TRL's but for two: `vllm_importance_sampling_mode` is `token_truncate`, as TRL's `sequence_mask` is
    refused with LED and two arms shall differ in `decoding` alone; and `use_vllm` is on where the decoding needs it.
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "vllm_engine_arguments"]  # noqa: RUF012 (as TRL's)

    use_vllm: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Roll out with vLLM; LED needs it. Default: on with LED, and in recipes."}
    )
    vllm_importance_sampling_mode: str = field(
        default="token_truncate",
        metadata={"help": "How log-ratios of policy to behaviour policy weigh the loss; token-level with LED."},
    )
    vllm_engine_arguments: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of vllm.LLM that take precedence over TRL's (colocate mode)."}
    )
    train_support: str | None = field(
        default=None,
        metadata={
            "help": "What the loss normalises a token's probability over: 'sampled', the ids that could be drawn in "
            "its place, or 'vocabulary', TRL's and the paper's way. Default: sampled; vocabulary where standard "
            "decoding is truncated without top_k."
        },
    )
    decoding: str = field(
        default="standard",
        metadata={"help": f"Decoding of thinking tokens in rollouts (docs/decodings.md): {', '.join(DECODINGS)}."},
    )
    led_depth: int = field(default=8, metadata={"help": "Layers LED reads, the final one included (the paper's d)."})
    led_k: int | None = field(
        default=None, metadata={"help": "Candidates: the final layer's k most probable tokens; default: 8 with LED."}
    )
    led_latent_layers: list[int] | None = field(
        default=None, metadata={"help": "Explicit latent layers, in order of aggregation; default: from the top down."}
    )
    led_latent_norm: bool = field(default=False, metadata={"help": "Apply the final norm to latent states."})
    led_exploit: bool = field(default=True, metadata={"help": "Mix in the final layer by its confidence."})
    led_draw: str | None = field(
        default=None,
        metadata={
            "help": "'marginal' draws from mu, 'coin' tosses for the branch first (faster, importance ratios of higher "
            "variance); default: marginal with importance-sampling correction, else coin."
        },
    )
    led_aggregation: str = field(
        default="cumulative_sum", metadata={"help": f"How latent layers join the final one: {', '.join(AGGREGATIONS)}."}
    )
    led_start_marker: str = field(default=START, metadata={"help": "What opens the think part."})
    led_end_marker: str = field(default=END, metadata={"help": "What closes the think part."})
    led_think_only: bool = field(default=True, metadata={"help": "Explore only while the sequence thinks."})
    led_think_start: str = field(
        default="prompt", metadata={"help": "Prompts without a think marker: 'prompt' thinks at once, 'marker' waits."}
    )

    def __post_init__(self) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            meet_on_a_free_port()
        if self.deepspeed:
            self._meet_for_deepspeed()
        if self.use_vllm is None:
            self.use_vllm = self.decoding != DecodingParams().decoding
        settle_types(self, ObservationKeys, ScheduleKeys)
        settle_evaluation(self)
        check_ranges(vars(self))
        super().__post_init__()
        check_choices(vars(self) | {"scale_rewards": str(self.scale_rewards)})
        if self.decoding not in DECODINGS:
            raise ValueError(f"decoding must be one of {', '.join(DECODINGS)}; got {self.decoding!r}")
        check_trains(self.decoding)
        if self.use_vllm:
            check_generation_kwargs(self.generation_kwargs)  # type: ignore[arg-type]
        if self.data_seed is not None and self.data_seed != self.seed:
            logger.warning(f"data_seed: {self.data_seed} has no effect: GRPO orders the rows by seed ({self.seed})")
        try:
            get_reporting_integration_callbacks(self.report_to)  # else found out once the weights are loaded
        except ValueError as error:
            raise ValueError(f"report_to: {error}") from error
        decoding, *_ = [self.decoding_params(name) for name in (self.decoding, *(self.eval_decodings or ()))]
        settle_schedules(self)
        warn_of_idle_keys(self)
        self._settle_support(decoding)
        if decoding.is_standard:
            return
        if not self.use_vllm:
            raise ValueError(f"decoding: {self.decoding!r} needs use_vllm: true; only the vLLM engine samples with LED")
        if self.loss_type == "vespo":
            raise ValueError(
                f"loss_type: 'vespo' with decoding: {self.decoding!r} would stop training in silence: it weighs each "
                "token by the exponential of log-ratios summed over the sequence. Allowed: every other loss of TRL's"
            )
        if self.vllm_importance_sampling_correction and self.vllm_importance_sampling_mode.startswith("sequence"):
            raise ValueError(
                SEQUENCE_LEVEL_REFUSAL.format(mode=self.vllm_importance_sampling_mode, decoding=self.decoding)
            )

    @classmethod
    def standard(cls, args: GRPOConfig) -> "LEDGRPOConfig":
        """A copy of a plain GRPOConfig: standard decoding and TRL's own loss."""
        config = object.__new__(cls)
        vars(config).update({item.name: item.default for item in fields(cls) if item.name not in vars(args)})
        vars(config).update(vars(args) | {"train_support": "vocabulary"})
        return config

    def _meet_for_deepspeed(self) -> None:
        """Closes two gaps of transformers' `deepspeed` argument: a single process, and processes without GPUs."""
        if "RANK" not in os.environ:
            # `accelerate launch` sets no rendezvous for a single process, and DeepSpeed then looks for MPI
            meet_on_a_free_port()
            os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        if not torch.cuda.is_available():
            # transformers would not pass `ddp_backend` on, and every process would think that it is alone
            os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
            PartialState(backend=self.ddp_backend or "gloo")
            self.accelerator_config = {"use_configured_state": True}

    def _settle_support(self, decoding: DecodingParams) -> None:
        """Checks `train_support`, and gives it a value where the recipe names none."""
        allowed = (None, "sampled", "vocabulary")
        if self.train_support not in allowed:
            raise ValueError(f"train_support must be one of sampled, vocabulary; got {self.train_support!r}")
        unbounded = self.truncates and self.top_k <= 0
        if self.train_support == "sampled" and not self.use_vllm:
            raise ValueError("train_support: sampled needs use_vllm: true; only the vLLM engine tells the supports")
        if self.train_support == "sampled" and unbounded:
            raise ValueError(
                "train_support: sampled with top_p or min_p needs top_k > 0, which bounds the size of a token's "
                "support (64, say); allowed besides: train_support: vocabulary"
            )
        if self.train_support is None:
            self.train_support = "sampled"
            if self.truncates and (unbounded or not self.use_vllm):
                if not decoding.is_standard:
                    raise ValueError(
                        f"decoding: {self.decoding!r} with top_p or min_p needs top_k > 0 (64, say), so that the loss "
                        "knows which answer tokens could be sampled; allowed besides: train_support: vocabulary"
                    )
                logger.warning(UNKNOWN_SUPPORT)
                self.train_support = "vocabulary"
        if not decoding.is_standard and self.train_support == "vocabulary":
            logger.warning(VOCABULARY_LOSS.format(decoding=self.decoding))
        if not decoding.is_standard and not self.vllm_importance_sampling_correction:
            logger.warning(NO_CORRECTION.format(decoding=self.decoding))

    @property
    def truncates(self) -> bool:
        """Whether standard decoding draws from part of the vocabulary."""
        return self.top_p < 1 or self.top_k > 0 or bool(self.min_p)

    @property
    def needs_supports(self) -> bool:
        """Whether rollouts must say which ids each token could have been."""
        return self.train_support == "sampled" and (self.truncates or self.decoding != "standard")

    def decoding_params(self, decoding: str | None = None) -> DecodingParams:
        """The rollouts' decoding, or another with the same settings; raises DecodingError naming the key at fault."""
        names = (item.name for item in fields(DecodingParams) if item.name not in ("decoding", *OWN_KEYS))
        values: dict[str, Any] = {name: getattr(self, f"led_{name}") for name in names}
        values["latent_layers"] = None if self.led_latent_layers is None else tuple(self.led_latent_layers)
        values["draw"] = self.led_draw or ("marginal" if self.vllm_importance_sampling_correction else "coin")
        decoding = decoding or self.decoding
        return DecodingParams(decoding, **values, **self.own_values(decoding))


class CheckError(UserError):
    """A run is well-formed, but what it names cannot be used together, or not at all."""


@dataclass
class RunConfig(EvaluationData):
    """What a run is about, beside the trainer's and the model's own settings."""

    dataset: str = field(default="", metadata={"help": "Hub id, or path of a JSONL file."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of the hub dataset."})
    max_rows: int | None = field(default=None, metadata={"help": "Use only the first rows of the dataset."})
    problem_column: str | None = field(default=None, metadata={"help": "Column with the problem or question."})
    answer_column: str | None = field(default=None, metadata={"help": "Column with the gold; becomes `answer`."})
    answer_extraction: str = field(default="auto", metadata={"help": f"Gold within it: {', '.join(EXTRACTIONS)}."})
    prompt_template: str = field(default="{problem}", metadata={"help": "User message around {problem}."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message."})
    rewards: list[dict[str, Any]] = field(
        default_factory=list, metadata={"help": "List of {name, weight, options of the reward ...}."}
    )
    bad_golds: str = field(default="refuse", metadata={"help": "Rows with unusable golds: refuse or drop."})
    resume: str = field(default="auto", metadata={"help": "auto: from the last whole checkpoint, or never."})
    check_only: bool = field(default=False, metadata={"help": "Check and build everything, then stop before training."})
    wandb_mode: str | None = field(default=None, metadata={"help": "online, offline or disabled."})

    CHOICES: typing.ClassVar[dict[str, tuple[str, ...]]] = {
        "answer_extraction": EXTRACTIONS,
        "bad_golds": ("refuse", "drop"),
        "resume": ("auto", "never"),
        "wandb_mode": ("online", "offline", "disabled"),
    }

    def __post_init__(self) -> None:
        if not self.dataset:
            raise ValueError("dataset is missing: give a hub id or the path of a JSONL file")
        if not self.rewards:
            raise ValueError("rewards is missing: give a list such as [{name: math_answer}]")
        for key, allowed in self.CHOICES.items():
            value = getattr(self, key)
            if value is not None and value not in allowed:
                raise ValueError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1; got {self.max_rows}")
        if "{problem}" not in self.prompt_template:
            raise ValueError(f"prompt_template must contain {{problem}}; got {self.prompt_template!r}")
        for reward in self.rewards:
            if not isinstance(reward.get("name"), str):
                raise ValueError(f"rewards: every entry needs a name; got {reward!r}")
            if not isinstance(reward.get("weight", 1.0), int | float):
                raise ValueError(
                    f"rewards: the weight of {reward['name']!r} must be a number; got {reward['weight']!r}"
                )


@dataclass
class Recipe:
    """One run: its file, the values as given (paths resolved), and the dataclasses made of them."""

    path: Path
    values: dict[str, Any]
    run: RunConfig
    training: LEDGRPOConfig
    model: ModelConfig

    @property
    def output_dir(self) -> Path:
        return Path(str(self.training.output_dir))


CONFIGS = (RunConfig, LEDGRPOConfig, ModelConfig)
