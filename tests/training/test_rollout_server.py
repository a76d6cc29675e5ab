"""TRL's server mode: rollouts drawn with LED by a server that really runs, and refused from one that ignores LED.

Weights cannot be sent here (NCCL needs GPUs): the trainer's steps leave them as they are, so the server's stay right.
"""

import sys
from dataclasses import replace

import pytest
from servers import SIZES, running
from test_serving import CLOSED, THINKING, check
from trl.generation.vllm_client import VLLMClient

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.environment import CPU_ENVIRONMENT
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.rollout_client import LEDClient, RolloutServerError
from led_rl.training.schedules.plan import RolloutPlan
from led_rl.training.schedules.requests import requested
from led_rl.training.trainer import LEDGRPOTrainer

LED = DecodingParams("led", k=3, depth=6, draw="marginal")
SAMPLING = Sampling(temperature=0.9, top_p=0.8, top_k=20)
PROMPTS = ["say {}<think>", "say {}<think>x</think>"]
ENGINE = ["--dtype", "float32", "--enforce-eager", *SIZES]


@pytest.fixture(scope="module")
def reference(tiny_model):
    return TransformersEngine(tiny_model)


@pytest.fixture
def trainer_of(led_server, tiny_model, tmp_path, monkeypatch):
    """`trainer_of(decoding, **changes)`: a trainer whose rollouts come from the server; weights are not sent."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda *args, **kwargs: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", lambda *args, **kwargs: None)

    def build(decoding: DecodingParams, **changes) -> LEDGRPOTrainer:
        args = LEDGRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=12,
            max_steps=1,
            learning_rate=0.0,
            temperature=SAMPLING.temperature,
            top_p=SAMPLING.top_p,
            top_k=SAMPLING.top_k,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            vllm_mode="server",
            vllm_server_base_url=led_server,
            use_vllm=True,
            logging_steps=1,
            led_draw="marginal",
            model_init_kwargs={"dtype": "float32"},
            log_completions=False,
            disable_tqdm=True,
            save_strategy="no",
            decoding=decoding.decoding,
            led_k=decoding.k,
            led_depth=decoding.depth,
            **changes,
        )
        return LEDGRPOTrainer(
            model=tiny_model,
            reward_funcs=lambda completions, **_: [float(len(set(text))) for text in completions],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [p.format(c) for c in "abcd" for p in PROMPTS]}),
            eval_dataset=Dataset.from_dict({"prompt": [PROMPTS[0].format(c) for c in "xyz"]}),
            processing_class=AutoTokenizer.from_pretrained(tiny_model, padding_side="left"),
        )

    return build


DECODINGS = [LED, DecodingParams("top_k_control", k=2, depth=6), DecodingParams()]


@pytest.mark.parametrize("decoding", DECODINGS, ids=lambda decoding: decoding.decoding)
def test_rollouts_from_a_server_are_drawn_with_the_trainer_s_decoding(trainer_of, reference, decoding):
    live = {"eval_strategy": "steps", "eval_steps": 1, "eval_samples": 2, "eval_decodings": ["standard", "led"]}
    trainer = trainer_of(decoding, **live)
    prompts = [THINKING] * 4 + [CLOSED] * 4
    _, completions, logprobs, _ = trainer.vllm_generation.generate(prompts, None, 4)
    explored = 0
    for prompt, tokens, values in zip(prompts, completions, logprobs, strict=True):
        explored += check(reference, decoding, prompt, tokens, [value[0] for value in values], SAMPLING)
    assert (explored > 10) == (not decoding.is_standard)  # not the server's default
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert entry["rollout/thinking_length"] > 1
    assert entry["time/rollout"] > 0
    (evaluated,) = (entry for entry in trainer.state.log_history if "eval_led_pass@2" in entry)
    assert all(1 <= evaluated[f"eval_{name}_length"] <= 12 for name in ("standard", "led"))
    told = {name for name in entry if name.startswith("led/")} - {"led/support_mass"}
    if decoding.decoding != "led":
        assert told == set()
        return
    assert {"led/confidence", "led/entropy_mu", "led/entropy_final", "led/read_fraction", "led/depth_5"} < told
    assert entry["led/explored_fraction"] == pytest.approx(1 - entry["led/confidence"], abs=1e-5)  # a marginal draw
    assert sum(entry[f"led/depth_{j}"] for j in range(6)) == pytest.approx(1.0)


def test_a_server_draws_half_of_each_group_with_led(trainer_of, reference):
    trainer = trainer_of(LED, led_share=0.5)
    prompts, plan = [THINKING] * 4 + [CLOSED] * 4, RolloutPlan(LED, 0.7, 4, 2)
    with requested(trainer.vllm_generation, plan):
        _, completions, logprobs, _ = trainer.vllm_generation.generate(prompts, None, 4)
    supports, explored = trainer.vllm_generation.supports, []
    for row, (prompt, tokens) in enumerate(zip(prompts, completions, strict=True)):
        values, sampling = [value[0] for value in logprobs[row]], replace(SAMPLING, temperature=0.7)
        explored.append(
            check(reference, LED if plan.explores(row) else DecodingParams(), prompt, tokens, values, sampling)
        )
        assert all(token in ids for token, ids in zip(tokens, supports[row], strict=True))
    assert explored[0] == explored[2] == 0
    assert explored[1] + explored[3] > 4
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert (entry["led/reward_led"] + entry["led/reward_standard"]) / 2 == pytest.approx(entry["reward"])


def test_a_server_that_refuses_the_decoding_is_refused_with_its_reason(trainer_of):
    with pytest.raises(RolloutServerError, match=r"refuses decoding: 'led'.*LED_RL_DEPTH=8"):
        trainer_of(DecodingParams("led", depth=9))


def test_a_rollout_without_a_thought_is_an_error(trainer_of):
    trainer = trainer_of(LED, led_start_marker="~" * 12)  # no completion opens a think part by chance
    trainer.train_dataset = trainer.train_dataset.map(lambda row: {"prompt": PROMPTS[1].format("a")})
    with pytest.raises(RuntimeError, match="no token of this rollout was sampled with it"):
        trainer.train()


def test_a_server_that_ignores_led_is_refused(tiny_model, tmp_path):
    environment = {**CPU_ENVIRONMENT, "VLLM_PLUGINS": "none"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny_model, *ENGINE]
    with running(tmp_path / "log", *command, **environment) as url:
        with pytest.raises(RolloutServerError, match=r"does not know LED.*HTTP 200.*led-rl serve"):
            LEDClient(base_url=url, decoding=LED)
        LEDClient(base_url=url, decoding=DecodingParams())


def test_a_server_that_reports_the_final_layer_s_log_probabilities_is_refused(led_server):
    """`led-rl serve` reports the behaviour policy's; the check is shown to tell by a token that has alternatives."""
    LEDClient(base_url=led_server, decoding=LED)

    class Raw(LEDClient):
        def _one_token(self, vllm_xargs):
            return super()._one_token({**vllm_xargs, "led_k": 5} if vllm_xargs.get("led_k") == 1 else vllm_xargs)

    with pytest.raises(RolloutServerError, match="--logprobs-mode processed_logprobs"):
        Raw(base_url=led_server, decoding=LED)
