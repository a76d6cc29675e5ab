"""The keys of a run's config that say how it is watched."""

import logging
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)


@dataclass
class ObservationKeys:
    """When the watchdog speaks (watchdog.py), and how long a rollout server may be silent (rollout_client.py)."""

    watchdog_factor: float = field(
        default=10.0,
        metadata={
            "help": "Say which process is in which stage once a step takes this many times the median of the steps so "
            "far; 0: never."
        },
    )
    watchdog_floor: float = field(
        default=60.0, metadata={"help": "Seconds that a step may take in any case before the watchdog speaks."}
    )
    vllm_server_request_timeout: float = field(
        default=3600.0, metadata={"help": "Seconds that a rollout server may take to answer one request."}
    )


def warn_of_idle_keys(args: Any) -> None:
    """Warns of keys that were given and have no effect beside the config's others."""
    server = args.use_vllm and args.vllm_mode == "server"
    idle = {
        "watchdog_floor": "" if args.watchdog_factor else "watchdog_factor: 0 switches the watchdog off",
        "vllm_server_request_timeout": "" if server else "it belongs to use_vllm: true with vllm_mode: server",
    }
    for key, reason in idle.items():
        given = getattr(args, key)
        if reason and given != ObservationKeys.__dataclass_fields__[key].default:
            logger.warning(f"{key}: {given!r} has no effect: {reason}")
