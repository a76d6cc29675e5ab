"""The keys of a run's config that say how it is watched."""

from dataclasses import dataclass, field


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
