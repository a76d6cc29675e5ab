"""Asserting that what an engine did, step by step, is what transformers says it should have done."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from led_rl.benchmarks.acceptance.models import CLOSE, THINK  # noqa: F401
from led_rl.benchmarks.acceptance.requests import random_text  # noqa: F401
from led_rl.engines.agreement import Grammar, compare, generate_traced, sampling_params  # noqa: F401
from led_rl.engines.transformers_engine import TransformersEngine

TOLERANCE = 1e-5


_ENGINES = []


def kept(engine: Any) -> Any:
    """The engine, alive to the end: one that goes takes the parallel groups of all engines in its process with it."""
    _ENGINES.append(engine)
    return engine


def check_agreement(
    reference: TransformersEngine,
    prompts: list[list[int]],
    params: list[Any],
    outputs: list[Any],
    traced: dict,
    grammars: Mapping[int, Grammar] | None = None,
) -> Counter:
    """Asserts that phase, table and log-probability of every generated token are the oracle's; counts what it saw.

    `grammars`: by number of the request, what its structured output allows.
    """
    found = compare(reference, prompts, params, outputs, traced, grammars, TOLERANCE)
    assert not found.faults, found.faults[:5]
    assert found.outside == 0, "tokens that transformers could not have drawn"
    assert max(found.tables, default=0.0) <= TOLERANCE, sorted(found.tables)[-5:]
    assert max(found.logprobs, default=0.0) < TOLERANCE, sorted(found.logprobs)[-5:]
    return found.seen
