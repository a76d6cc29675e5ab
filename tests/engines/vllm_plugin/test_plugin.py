"""The plugin as vLLM meets it: versions, engines without LED, architectures, and an engine in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch
from agreement import kept

from led_rl.decoding import DecodingError, DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_plugin.plugin import KNOWN_VERSIONS, register
from led_rl.sampler.capture_options import EngineOptions

THINK = 3


def test_unknown_vllm_versions_fail_loudly(monkeypatch):
    import vllm

    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    with pytest.raises(RuntimeError, match=f"{KNOWN_VERSIONS[0]}.*0.99.0"):
        register()


def test_an_engine_without_led_refuses_led_requests_and_keeps_serving(engine, tiny_model):
    from led_rl.engines.vllm_engine import VLLMEngine

    plain = kept(VLLMEngine(tiny_model, depth=0, max_model_len=64, max_num_seqs=4))
    with pytest.raises(Exception, match="LED_RL_DEPTH"):
        plain.generate([[5, 6, THINK]], DecodingParams("led"), Sampling(max_tokens=2))
    completion = plain.generate([[5, 6, THINK]], DecodingParams(), Sampling(max_tokens=2))[0][0]
    assert len(completion.token_ids) == 2
    # LED and plain runs must not share vLLM's compile cache
    assert plain.llm.llm_engine.vllm_config.compute_hash() != engine.llm.llm_engine.vllm_config.compute_hash()
    # the engine that was built with LED still has it
    assert engine.generate([[5, 6, THINK]], DecodingParams("led"), Sampling(max_tokens=2))[0][0].thinking[0]


def test_refusals_name_the_reason(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel
    from vllm.engine.arg_utils import EngineArgs

    from led_rl.engines.vllm_plugin.submission import check_engine

    config = GPT2Config(n_layer=2, n_embd=32, n_head=1, vocab_size=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    vllm_config = EngineArgs(model=str(tmp_path), dtype="float32", skip_tokenizer_init=True).create_engine_config()
    with pytest.raises(DecodingError, match=r"Qwen3ForCausalLM.*GPT2LMHeadModel"):
        check_engine(DecodingParams("led", depth=2), EngineOptions(2), vllm_config)


@pytest.mark.parametrize(
    ("depth", "layers", "message"), [("many", "", "LED_RL_DEPTH"), ("-1", "", "LED_RL_DEPTH"), ("2", "a", "LAYERS")]
)
def test_wrong_engine_options_name_the_variable(monkeypatch, depth, layers, message):
    monkeypatch.setenv("LED_RL_DEPTH", depth)
    monkeypatch.setenv("LED_RL_LATENT_LAYERS", layers)
    with pytest.raises(ValueError, match=message):
        EngineOptions.from_environment()


OWN_PROCESS = """
import json, os, sys
os.environ["LED_RL_DEPTH"] = "8"
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=8,
              logprobs_mode="processed_logprobs")
    params = SamplingParams(temperature=0.8, top_p=0.5, max_tokens=12, logprobs=0, ignore_eos=True, detokenize=False,
                            extra_args={"led": True, "led_k": 8, "led_draw": "marginal"})
    outputs = llm.generate([{"prompt_token_ids": p} for p in json.loads(sys.argv[2])], params, use_tqdm=False)
    samples = [output.outputs[0] for output in outputs]
    facts = [[list(x.token_ids), [s[t].logprob for s, t in zip(x.logprobs, x.token_ids)]] for x in samples]
    print("FACTS" + json.dumps(facts))
"""


def test_plain_vllm_with_its_engine_in_another_process_samples_led(tiny_model, tmp_path):
    prompts = [[5 + i, 17, 42, 9 + i, THINK] for i in range(6)]
    script = tmp_path / "own_process.py"
    script.write_text(OWN_PROCESS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LED_RL")}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    run = subprocess.run(
        [sys.executable, str(script), tiny_model, json.dumps(prompts)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    facts = json.loads(run.stdout.partition("FACTS")[2].splitlines()[0])
    reference = TransformersEngine(tiny_model)
    for prompt, (tokens, logprobs) in zip(prompts, facts, strict=True):
        with torch.no_grad():
            led, _ = reference.distributions(prompt + tokens[:-1], DecodingParams("led"), 0.8)
        thinking = reference.markers(DecodingParams("led")).thinking_mask(prompt, tokens)
        for step, (token, logprob, thought) in enumerate(zip(tokens, logprobs, thinking, strict=True)):
            if thought:
                row = len(prompt) - 1 + step
                mu = led.mu[row][led.candidates[row] == token]
                assert logprob == pytest.approx(mu.log().item(), abs=1e-5)


def test_a_part_of_vllm_that_is_gone_is_named(monkeypatch):
    from vllm.v1.sample import logits_processor

    from led_rl.engines.vllm_plugin.plugin import named, replace

    monkeypatch.delattr(logits_processor, "BUILTIN_LOGITS_PROCESSORS")
    with pytest.raises(RuntimeError, match=r"logits_processor\.BUILTIN_LOGITS_PROCESSORS of vLLM, and"):
        named(logits_processor, "BUILTIN_LOGITS_PROCESSORS")
    with pytest.raises(RuntimeError, match="no such name"):
        replace(logits_processor, "BUILTIN_LOGITS_PROCESSORS", lambda original: original)
