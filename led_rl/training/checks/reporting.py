"""Whether a run can report where its recipe says, before weights are loaded."""

import importlib.util
import os

from transformers.integrations import get_reporting_integration_callbacks

from led_rl.training.config import CheckError, Recipe


def check_reporting(recipe: Recipe) -> None:
    """Raises CheckError naming `report_to` where a package or the login of W&B is missing."""
    wanted = recipe.training.report_to or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()  # as the trainer does; says which package is missing
        except (RuntimeError, ImportError) as error:
            raise CheckError(f"{recipe.path}: report_to: {name}: {str(error).splitlines()[0]}") from error
    if "wandb" in wanted and not _wandb_can_log(recipe.run.wandb_mode):
        raise CheckError(
            f"{recipe.path}: report_to: wandb: nobody is logged in. Run `wandb login`, set WANDB_API_KEY, or set "
            "wandb_mode: offline"
        )


def _wandb_can_log(mode: str | None) -> bool:
    """Whether W&B would log without asking for a login; RANK > 0 does not log."""
    if (mode or os.environ.get("WANDB_MODE", "online")) in ("offline", "disabled", "dryrun"):
        return True
    if os.environ.get("WANDB_DISABLED") or os.environ.get("RANK", "0") != "0":
        return True
    if importlib.util.find_spec("wandb") is None:
        return False
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
