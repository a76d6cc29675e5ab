"""Engines of whose configuration LED knows that it would not work: refused at submission, with the reason."""

import pytest
from agreement import kept

from led_rl.decoding import DecodingError, DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.sampler.capture_options import EngineOptions

NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
REFUSED = [
    ({"speculative_config": NGRAM}, "speculative decoding"),
    ({"enable_lora": True}, "LoRA"),
    ({"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}, "pipeline parallelism"),
    ({"enable_prompt_embeds": True}, "enable_prompt_embeds"),
]


def config(model, **arguments):
    """The configuration with which vLLM would start an engine."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(model=model, dtype="float32", max_model_len=128, **arguments).create_engine_config()


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_engines_that_led_cannot_work_in_are_refused_by_the_reason(tiny_model, arguments, reason):
    from led_rl.engines.vllm_plugin.submission import check_engine

    vllm_config = config(tiny_model, **arguments)
    for decoding in ("led", "top_k_control", "led_reference"):
        with pytest.raises(DecodingError, match=reason):
            check_engine(DecodingParams(decoding), EngineOptions(8), vllm_config)


def test_batch_sharded_sampling_is_refused(tiny_model):
    from led_rl.engines.vllm_plugin.submission import check_engine

    vllm_config = config(tiny_model, tensor_parallel_size=2)
    vllm_config.parallel_config.enable_batch_sharded_sampling = True  # vLLM itself allows it to runner V2 alone
    with pytest.raises(DecodingError, match="enable_batch_sharded_sampling"):
        check_engine(DecodingParams("led"), EngineOptions(8), vllm_config)


def test_tensor_parallelism_is_not_refused(tiny_model):
    from led_rl.engines.vllm_plugin.submission import check_engine

    check_engine(DecodingParams("led"), EngineOptions(8), config(tiny_model, tensor_parallel_size=2))


@pytest.mark.filterwarnings("error:An output with one or more elements was resized")
def test_an_engine_that_speculates_refuses_led_requests_and_serves_the_others(engine, tiny_model):
    from led_rl.engines.vllm_engine import VLLMEngine

    speculating = kept(VLLMEngine(tiny_model, depth=8, max_model_len=128, max_num_seqs=4, speculative_config=NGRAM))
    prompts = [[5, 6, 7 + i, 5, 6, 7 + i, 5, 6] for i in range(8)]
    sampling = Sampling(temperature=0.0, max_tokens=24)
    with pytest.raises(Exception, match="speculative decoding"):
        speculating.generate(prompts, DecodingParams("led"), sampling)
    served, expected = (e.generate(prompts, DecodingParams(), sampling) for e in (speculating, engine))
    assert [group[0].token_ids for group in served] == [group[0].token_ids for group in expected]
