"""A W&B workspace with the views that people want of LED runs, built with wandb-workspaces."""

import json
from typing import Any

from led_rl.decoding import UserError

NAME = "LED-RL"
# section -> title of a chart -> what it draws: names of metrics, or one regular expression
SECTIONS: dict[str, dict[str, tuple[str, ...] | str]] = {
    "Reward": {
        "reward": ("reward",),
        "spread of rewards in a group": ("reward_std",),
        "groups without a difference": ("frac_reward_zero_std",),
        "each reward": r"^rewards/.*/mean$",
    },
    "Rollout length": {
        "thinking tokens": ("rollout/thinking_length",),
        "answer tokens": ("rollout/answer_length",),
        "total tokens": ("rollout/total_length",),
        "cut off": ("completions/clipped_ratio",),
        "tokens per second": ("rollout/tokens_per_second",),
    },
    "Wall time of a step": {
        "split": ("time/rollout", "time/reward", "time/training", "time/weight_sync"),
        "rollout": ("time/rollout",),
        "training": ("time/training",),
    },
    "Entropy and support": {
        "entropy of the policy": ("entropy",),
        "mass of the policy on the sampled support": ("led/support_mass",),
        "importance of samples": r"^sampling/.*",
        "gradient": ("grad_norm",),
    },
    "LED": {
        "explored share of thinking tokens": ("led/explored_fraction",),
        "confidence": ("led/confidence",),
        "entropy: LED and the final layer": ("led/entropy_mu", "led/entropy_final"),
        "rows whose layers were read": ("led/read_fraction",),
        "chosen depth": r"^led/depth_\d+$",
    },
    "Evaluation": {
        "pass@1": r"^evaluation/(.*/)?pass@1$",
        "pass@k": r"^evaluation/(.*/)?pass@(?!1$)\d+$",
        "differences of pass@1": r"^evaluation/(.*/)?pass@1 minus .*",
        "total tokens": r"^evaluation/(.*/)?total_tokens$",
        "cut off": r"^evaluation/(.*/)?truncated$",
    },
}
STACKED = "split"


def workspace(entity: str, project: str, name: str = NAME) -> Any:
    """The workspace as an object of wandb-workspaces; nothing is sent.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as charts
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError('wandb-workspaces is not installed: pip install "led-rl[dashboard]"') from error

    def chart(section: str, title: str, what: tuple[str, ...] | str) -> Any:
        x = "evaluation/step" if section == "Evaluation" else "Step"
        if isinstance(what, str):
            return charts.LinePlot(title=title, x=x, metric_regex=what)
        return charts.LinePlot(title=title, x=x, y=list(what), plot_type="stacked-area" if title == STACKED else None)

    sections = [
        workspaces.Section(
            name=section, panels=[chart(section, title, what) for title, what in panels.items()], is_open=True
        )
        for section, panels in SECTIONS.items()
    ]
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections)


def workspace_json(made: Any) -> str:
    """What would be sent, as JSON."""
    return json.dumps(json.loads(made._to_model().model_dump_json(by_alias=True)), indent=2)


def save(made: Any) -> str:
    """Creates the workspace in W&B and returns its address.

    Raises:
        UserError: W&B refuses or cannot be reached.
    """
    try:
        return made.save().url
    except Exception as error:  # whatever the client of W&B, or its transport, raises
        raise UserError(
            f"W&B did not take the workspace of {made.entity}/{made.project} ({type(error).__name__}: {error}); log in "
            "(`wandb login`), or print it with --dry-run"
        ) from error
