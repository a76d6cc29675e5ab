"""Rule-based rewards with TRL's signature: `(completions, **columns) -> list[float | None]`.

`load_reward(name, **options)` is the one door for recipes; docs/rewards.md describes every reward and option. Importing
this package is instant and imports neither sympy nor math-verify: algebra happens in worker processes
(rewards.grader.workers.pool).
"""

from rewards.calling import RewardError, call_reward, checked_rewards
from rewards.golds import BadGold, check_golds
from rewards.registry import BUILT_IN, RewardFunction, load_reward

__all__ = [
    "BUILT_IN",
    "BadGold",
    "RewardError",
    "RewardFunction",
    "call_reward",
    "check_golds",
    "checked_rewards",
    "load_reward",
]
