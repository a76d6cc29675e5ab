"""Rollout requests as a plan wants them, through the doors that TRL's `VLLMGeneration.generate` leaves open.

What is the same for all rows is set for the time of a rollout: `temperature` and `generation_kwargs`, which TRL reads
at every call. Where a group holds rows of both kinds, the engine's own `generate` gets a list of sampling parameters,
one for each row, and a server two requests for each prompt.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from led_rl.decoding import PREFIX, STANDARD, DecodingParams
from led_rl.training.rollout import LEDVLLMGeneration, replaced
from led_rl.training.schedules.plan import RolloutPlan


def with_decoding(given: dict[str, Any], decoding: DecodingParams, served: bool) -> dict[str, Any]:
    """A copy of `generation_kwargs` whose requests ask for `decoding`, and for no other."""
    key = "vllm_xargs" if served else "extra_args"
    result = {name: value for name, value in given.items() if name != key}
    extra = {name: value for name, value in given.get(key, {}).items() if not name.startswith(PREFIX)}
    if served or not decoding.is_standard:  # a server may have a default decoding: standard rows name theirs, too
        extra |= decoding.to_extra_args() or {f"{PREFIX}_decoding": decoding.decoding}
    return result | ({key: extra} if extra else {})


@contextmanager
def requested(engine: LEDVLLMGeneration, plan: RolloutPlan) -> Iterator[None]:
    """While open, `engine.generate` samples rows as `plan` says: those of whole groups over all processes, in order."""
    served = engine.mode == "server"
    kwargs = with_decoding(engine.generation_kwargs, plan.rollout_decoding, served)
    with ExitStack() as stack:
        stack.enter_context(replaced(engine, "temperature", plan.temperature))
        stack.enter_context(replaced(engine, "generation_kwargs", kwargs))
        if plan.is_mixed and not served:
            group = engine.accelerator.process_index // engine.tensor_parallel_size  # that generates together
            stack.enter_context(replaced(engine.llm, "generate", mixed_here(engine.llm.generate, plan, group)))
        elif plan.is_mixed and engine.accelerator.is_main_process:
            client = engine.vllm_client
            stack.enter_context(replaced(client, "generate", mixed_by_server(client, plan)))
        yield


def mixed_here(generate: Callable, plan: RolloutPlan, group: int) -> Callable:
    """`LLM.generate` with sampling parameters for each row, where `group` groups of processes hold the rows before."""

    def generate_mixed(prompts: list, sampling_params: Any, **options: Any) -> Any:
        standard = sampling_params.clone()
        standard.extra_args = with_decoding(
            {"extra_args": sampling_params.extra_args or {}}, STANDARD, served=False
        ).get("extra_args")
        first = group * len(prompts)
        rows = [sampling_params if plan.explores(first + i) else standard for i in range(len(prompts))]
        return generate(prompts, sampling_params=rows, **options)

    return generate_mixed


def mixed_by_server(client: Any, plan: RolloutPlan) -> Callable:
    """`LEDClient.generate` with two requests for each prompt, sent together, and their rows in the plan's order."""
    places = [plan.explores(member) for member in range(plan.generations)]
    lists = ("completion_ids", "logprobs", "logprob_token_ids")

    def generate_mixed(prompts: list, features: Any = None, n: int = 1, **sampling: Any) -> dict[str, Any]:
        given = sampling.pop("generation_kwargs", None) or {}

        def answer(decoding: DecodingParams, count: int) -> tuple[dict[str, Any], Any]:
            own = copy.copy(client)  # holds what the server tells of its own requests
            del own.generate  # the class's, not this function
            kwargs = with_decoding(given, decoding, served=True)
            return own.generate(prompts, features, n=count, generation_kwargs=kwargs, **sampling), own

        with ThreadPoolExecutor(2) as executor:
            mine, others = (plan.decoding, plan.explored), (STANDARD, n - plan.explored)
            (explored, exploring), (standard, other) = executor.map(answer, *zip(mine, others, strict=True))
        merged = {"prompt_ids": explored["prompt_ids"]}
        for name in lists:
            merged[name] = merge(explored.get(name), standard.get(name), places)
        for name in ("supports", "stopped"):
            setattr(client, name, merge(getattr(exploring, name), getattr(other, name), places))
        client.statistics = exploring.statistics + other.statistics
        return merged

    return generate_mixed


def merge(explored: list | None, standard: list | None, places: list[bool]) -> list | None:
    """The rows of whole groups in order, from those that explored and the others; `places` are those of a group."""
    if not explored or not standard:
        return explored if explored is None else []
    rows = {True: iter(explored), False: iter(standard)}
    groups = (len(explored) + len(standard)) // len(places)
    return [next(rows[explores]) for _ in range(groups) for explores in places]
