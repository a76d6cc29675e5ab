"""The recipe of a study: a model, training arms x seeds, decodings, claims; checked before anything is run.

A **cell** is a model under a decoding, `TRAINING ARM/DECODING`: `led/led T 0.6` is the model trained with arm `led`,
sampled with the evaluation's arm `led T 0.6`, and `base/...` the model before training. A figure of a cell has one
value for each seed and problem, so that claims about cells are paired by both.
"""

import dataclasses
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from led_rl.evaluation.arms import Arm

BASE, CHOSEN = "base", "chosen"
Count = Annotated[int, Field(ge=1, strict=True)]  # strict: true is no number
Several = Annotated[int, Field(ge=2, strict=True)]
Row = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]  # what numpy's generators take
Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WarmUp(_Part):
    """How the base model is made from random weights (python -m led_rl.toy.warmup)."""

    task: str = "countdown"
    shape: str = "quickstart"
    steps: Count = 1200
    seed: Seed = 0
    learning_rate: float = Field(2.5e-3, gt=0)
    layer_dropout: float = Field(0.0, ge=0, lt=1)


class Problems(_Part):
    """Held-out problems: rows [first, end) of a JSONL file, and the reward that judges them."""

    file: str
    reward: str
    rows: tuple[Row, Row]
    columns: dict[str, Any] = {}  # further keys of an evaluation: problem_column, answer_column, reward_options


class Training(_Part):
    """Every arm with every seed: the training recipe, with the overrides of all arms and then the arm's own."""

    recipe: str
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    overrides: dict[str, Any] = {}
    launch: list[str] = []  # words before train.py, `accelerate launch ...`; none: this Python


class Evaluation(_Part):
    """How each model is sampled; `only`: pattern of training arms -> the decodings they are sampled with."""

    arms: list[Any]
    n: Count
    temperature: float = Field(1.0, ge=0)
    max_tokens: Count
    depth: Count = 8
    k: Count = 8
    only: dict[str, list[str]] = {}
    options: dict[str, Any] = {}  # further keys of an evaluation: max_num_seqs, engine, dtype, ...


class Analysis(_Part):
    """What `led-rl analyse` reads of the base and of every trained model, all on the base's own thoughts."""

    problems: Several
    n: Count = 4
    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: Count
    depth: Count = 8
    k: Count = 8


class Claim(_Part):
    """`figure` of the first cell is larger (or smaller) than that of the second, or than 0 where none is named."""

    text: str
    figure: str  # pass@K, `alpha pass@K` (its slope over temperature), total_tokens, ...
    first: str
    second: str | None = None
    expected: Literal["larger", "smaller"] = "larger"


class Premise(_Part):
    """A figure of the analysis of a model before training lies above (or below) a bound."""

    text: str
    figure: str  # of analysis.json's `means`, or `LAYER FIGURE`: final top2, latent candidate_mass
    above: float | None = None
    below: float | None = None


class Confirmation(_Part):
    """The best cell of a screening, by its mean figure, is tested again with fresh seeds on fresh problems."""

    among: list[str] = Field(min_length=1)
    figure: str
    rows: tuple[Row, Row]
    seeds: list[Seed] = Field(min_length=1)
    claims: list[Claim] = Field(min_length=1)  # `chosen` names the chosen cell


class Budget(_Part):
    """Seconds that parts of the study were measured to take, on `machine`."""

    machine: str
    warmup_step_s: Seconds = 0
    train_start_s: Seconds = 0
    train_step_s: Seconds = 0
    evaluate_start_s: Seconds = 0
    completion_s: Seconds = 0
    analyse_s: Seconds = 0


class StudyRecipe(_Part):
    """A study."""

    title: Name
    question: str
    method: str
    base: Name
    warmup: WarmUp | None = None
    problems: Problems
    train: Training | None = None
    evaluate: Evaluation
    analyse: Analysis | None = None
    premises: list[Premise] = []
    claims: list[Claim] = []
    confirm: Confirmation | None = None
    budget: Budget
    unproven: str = ""  # what of this recipe has never been run
    output: str = ""
    smoke: dict[str, Any] = {}  # dotted keys -> values of the smallest size, for a test of the whole path


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked recipe."""

    name: str
    path: Path
    recipe: StudyRecipe
    arms: dict[str, Arm]  # the evaluation's, by name

    @property
    def output(self) -> Path:
        return Path(self.recipe.output)

    @property
    def training_arms(self) -> dict[str, dict[str, Any]]:
        return self.recipe.train.arms if self.recipe.train else {}

    def decodings(self, training_arm: str) -> list[str]:
        """Names of the evaluation's arms that a training arm's models are sampled with."""
        for pattern, names in self.recipe.evaluate.only.items():
            if fnmatchcase(training_arm, pattern):
                return names
        return list(self.arms)


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """`--key value` words for led_rl/train.py."""
    return [
        word
        for key, value in values.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value, default=str))
    ]
