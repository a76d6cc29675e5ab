"""Runs vLLM over two tensor-parallel worker processes; tests/engines/test_vllm_parallel.py judges what it did.

parallel_probe.py v1|v2|gpu MODEL REQUESTS FACTS

reads batches of requests from a JSON file and writes what it found to another; v2 works in Triton's interpreter, gpu on
two GPUs.
"""

import json
import os
import sys
from pathlib import Path

from led_rl.engines.environment import set_cpu_environment

if "v2" in sys.argv[1:2]:  # workers run these lines, too
    TESTS = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(TESTS), str(TESTS / "engines" / "vllm_plugin")]
    import v2_on_cpu

    v2_on_cpu.install()
if "gpu" not in sys.argv[1:2]:
    set_cpu_environment()
os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # to send the workers the functions below


def noting(call, note):
    """`call`, whose arguments and result go to `note`."""

    def noted(*args, **kwargs):
        result = call(*args, **kwargs)
        note(args, result)
        return result

    return noted


def start_watching(worker) -> None:
    """In a worker: traces what is drawn, and notes the tokens and the size of what the ranks gather."""
    from vllm.distributed import get_tp_group

    from led_rl.engines.vllm_plugin.request_statistics import decoder_of

    group, decoder = get_tp_group(), decoder_of(worker.model_runner)
    worker.led_decoder, worker.led_gathered, worker.led_tokens = decoder, [], []
    decoder.trace = []
    decoder.draw = noting(decoder.draw, lambda _, drawn: drawn and worker.led_tokens.append(drawn.tokens.tolist()))
    for name in ("all_gather", "gather"):
        setattr(group, name, noting(getattr(group, name), lambda args, _: worker.led_gathered.append(args[0].numel())))


def watched(worker) -> dict:
    """In a worker: what the steps drew, read and gathered since the last call."""
    policies, read, rows = [], [], []
    for step in worker.led_decoder.trace:
        rows.append(len(step.positions))
        for row, (draw, at) in sorted(step.draws.items()):
            policies.append([row, int(step.positions[row]), draw.candidates[at].tolist(), draw.policy[at].tolist()])
        for draw in {id(draw): draw for draw, _ in step.draws.values()}.values():
            if draw.table is not None:
                read.append([int(draw.read.sum()), *draw.table.shape[1:]])
    facts = {"policies": policies, "tokens": worker.led_tokens[:], "read": read, "rows": rows}
    facts["gathered"] = worker.led_gathered[:]
    for seen in (worker.led_decoder.trace, worker.led_tokens, worker.led_gathered):
        seen.clear()
    head = worker.model_runner.get_model().lm_head
    shard = head.shard_indices
    facts["runner"] = type(worker.model_runner).__module__
    facts["vocabulary"] = [shard.org_vocab_start_index, shard.org_vocab_end_index, head.weight.shape[0]]
    return facts | {"totals": worker.led_decoder.totals(reset=True)}


def main(model: str, batches: list) -> list[dict]:
    from vllm import SamplingParams

    from led_rl.benchmarks.acceptance.requests import BASELINES
    from led_rl.engines.vllm_engine import VLLMEngine
    from led_rl.sampler.capture_options import HOOKED

    sizes = {"max_model_len": 128, "max_num_seqs": 32, "tensor_parallel_size": 2}
    llm = VLLMEngine(model, depth=8, dtype="float32", support=True, baselines=(*BASELINES, *HOOKED), **sizes).llm
    llm.collective_rpc(start_watching)
    facts = []
    for requests in batches:
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
        outputs = llm.generate(prompts, [SamplingParams(**settings) for _, settings in requests], use_tqdm=False)
        samples = [output.outputs[0] for output in outputs]
        facts.append(
            {
                "tokens": [list(sample.token_ids) for sample in samples],
                "logprobs": [[s[t].logprob for s, t in zip(x.logprobs, x.token_ids, strict=True)] for x in samples],
                "supports": [sample.sampling_mask.token_ids for sample in samples],
                "ranks": llm.collective_rpc(watched),
            }
        )
    return facts


if __name__ == "__main__":
    facts = main(sys.argv[2], json.loads(Path(sys.argv[3]).read_text()))
    Path(sys.argv[4]).write_text(json.dumps(facts))
