"""Runs vLLM's V2 runner in a process of its own, without a GPU in Triton's interpreter.

tests/engines/vllm_plugin/test_runner_v2.py judges what it did.

v2_probe.py MODEL REQUESTS FACTS    reads requests from a JSON file and writes what it found to another
"""

import json
import os
import sys
from pathlib import Path

from led_rl.engines.environment import has_gpu

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engines" / "vllm_plugin"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if has_gpu():
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # to read traces
else:
    import v2_on_cpu

    v2_on_cpu.install()

import agreement
import torch
from agreement import sampling_params
from changed_loop import KINDS, changing_requests, check_replay, keys_of_requests
from test_led_in_vllm import draws

from led_rl.benchmarks.acceptance.requests import BASELINES, mixed_requests, pressing_requests
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import VLLMEngine, model_runner, request_decoder

if has_gpu():
    agreement.TOLERANCE = 5e-3  # attention kernels multiply float32 as TF32


def sums_of(traced: dict) -> dict[str, float]:
    drawn = [step.draws[row] for found in traced.values() for step, row in found if row in step.draws]
    read = [(draw, at) for draw, at in drawn if draw.read is not None and draw.read[at]]
    return {
        "rows": len(drawn),
        "read": len(read),
        "confidence": sum(float(draw.confidence[at]) for draw, at in drawn),
        "explored": sum(float(draw.explored[at]) for draw, at in drawn),
    } | {f"depth_{j}": sum(int(draw.depth[at]) == j for draw, at in read) for j in range(8)}


def agree(llm, reference, prompts, params):
    """What `check_agreement` saw, and the sums of the traced rows."""
    outputs, traced = agreement.generate_traced(llm, prompts, params)
    return agreement.check_agreement(reference, prompts, params, outputs, traced), sums_of(traced)


def watch_slots(model_state) -> list[tuple[int, bool]]:
    """Fills as requests are admitted: their slot, and whether they ask for LED."""
    admitted, admit = [], model_state.add_request

    def add_request(slot, request):
        admit(slot, request)
        admitted.append((slot, request.req_id in model_state.led_slot_of))

    model_state.add_request = add_request
    return admitted


def slots_that_led_left(admitted: list[tuple[int, bool]]) -> int:
    """Requests that decode as usual in a slot whose last request asked for LED."""
    count, last = 0, {}
    for slot, led in admitted:
        count += last.get(slot, False) and not led
        last[slot] = led
    return count


def steps_without_waiting(decoder, generate) -> int:
    """Raises if LED's draw waits for the device; the number of draws. A first, equal run tunes kernels and verifies."""
    generate()
    count, draw = 0, decoder.draw

    def guarded(*args):
        nonlocal count
        count += 1
        torch.cuda.set_sync_debug_mode("error")
        try:
            return draw(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    decoder.draw = guarded
    generate()
    decoder.draw = draw
    return count


def sleep_and_wake(model, lost):
    """What a sleep of level 2 does: memory of the time of the model's loading is lost, and its buffers are restored."""
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = [tensor.clone() for tensor in lost]
    for tensor in lost:
        tensor.fill_(77)
    for name, buffer in model.named_buffers():
        buffer.copy_(saved[name])
    assert all(map(torch.equal, lost, before))


def main(model: str, requests: dict) -> dict:
    engine = VLLMEngine(
        model,
        depth=8,
        support=True,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=16,
        max_num_batched_tokens=64,
        block_size=32,
        num_gpu_blocks_override=14,  # room for a few sequences: some are preempted and resumed
        enable_prefix_caching=True,
        disable_log_stats=False,
        baselines=(*BASELINES, *KINDS),
    )
    llm, config = engine.llm, engine.llm.llm_engine.vllm_config
    runner = model_runner(llm)
    decoder, reference = request_decoder(llm), TransformersEngine(model)
    facts: dict = {
        "runner": [cls.__module__ for cls in type(runner).__mro__],
        "sampler": type(runner.sampler).__name__,
        "graphs": str(config.compilation_config.cudagraph_mode),
        "async": config.scheduler_config.async_scheduling,
    }
    admitted = watch_slots(runner.model_state)
    at_load = [*decoder.tensors().values(), runner.model.led_states.rows]

    decoder.totals(reset=True)
    prompts, params = mixed_requests(64)
    for i, param in enumerate(params):
        param.max_tokens, param.n = 6, 2 if i % 8 == 1 and param.temperature else 1
    facts["mixed"], facts["traced"] = agree(llm, reference, prompts, params)
    facts["totals"] = decoder.totals()
    facts["slots that led left"] = slots_that_led_left(admitted)

    facts["pressed"], _ = agree(llm, reference, *pressing_requests(16))
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    facts["preemptions"] = metrics["vllm:num_preemptions"].value

    kinds = KINDS[: 2 if has_gpu() else 3]  # noise needs an engine without CUDA graphs
    prompts, params = changing_requests(4, [*kinds, *kinds, "led", None] * 2, 40)
    with keys_of_requests(decoder.slots) as keys:
        outputs, _ = agreement.generate_traced(llm, prompts, params)
    facts["changed"] = check_replay(reference.model, prompts, params, outputs, keys)
    facts["changed and preempted"] = sum(len(admissions) > 1 for admissions in keys.values())
    facts["kept of the past"] = len(decoder.slots.carried.history.keys)

    for name in ("seeded", "reversed", "unedited"):
        batch = requests["seeded"][::-1] if name == "reversed" else requests[name]
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in batch]
        outputs = llm.generate(prompts, [sampling_params(**settings) for _, settings in batch], use_tqdm=False)
        facts[name] = [list(output.outputs[0].token_ids) for output in outputs]
    facts["rows in outputs"] = [output.kv_transfer_params["led"]["rows"] for output in outputs]

    for draw in ("coin", "marginal"):
        extra_args = {"led": 1, "led_draw": draw}
        tokens = draws(engine, requests["prompt"], requests["draws"], extra_args=extra_args, top_p=0.5, logprobs=None)
        facts[draw] = tokens.tolist()
    sleep_and_wake(runner.model, at_load)
    llm.collective_rpc("reload_weights")  # as TRL does after such a sleep
    assert all(any(buffer is tensor for buffer in runner.model.buffers()) for tensor in at_load)
    facts["woken"], _ = agree(llm, reference, *pressing_requests(6))
    if has_gpu():
        generate = lambda: draws(engine, requests["prompt"], 64, extra_args={"led": 1}, max_tokens=20)  # noqa: E731
        facts["steps without waiting"] = steps_without_waiting(decoder, generate)
    return facts


if __name__ == "__main__":
    facts = main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
    Path(sys.argv[3]).write_text(json.dumps(facts))
