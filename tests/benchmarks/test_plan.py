"""`led-rl plan`: its counts beside what real models, optimizers and engines hold, its sums by hand, its refusals."""

import json
import re
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from subprocesses import BIN, ROOT, run_command
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from led_rl.benchmarks.cost_model import HARDWARE
from led_rl.benchmarks.plan import ASSUMED, GIB, Setup, plan
from led_rl.benchmarks.plan_advice import advise
from led_rl.benchmarks.sizes import Sizes, count
from led_rl.commands.plan import main
from led_rl.decoding import UserError
from led_rl.training.supported_loss import Supports, SupportSwitch

SHAPE = {"vocab_size": 119, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 6,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
CONFIGS = {"qwen3": Qwen3Config(**SHAPE), "llama": LlamaConfig(**SHAPE)}
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
SETUP = Setup(
    gpus=8, memory=80 * GIB, batch=2, micro_batches=4, rollouts=8, prompt=512, completion=1536, itemsize=2, stage=3,
    sharded=False, offload_optimizer=False, offload_weights=False, master=True, reference=False, checkpointing=True,
    colocated=True, sleeps=True, engine_share=0.5, tensor_parallel=1, depth=8,
)  # fmt: skip


def kept_by_a_real_model(model, batch: int, tokens: int) -> int:
    """Bytes that autograd keeps in a forward pass with PyTorch's own attention."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.ones(batch, tokens, dtype=torch.int64), use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_counts_are_those_of_a_real_model(name, checkpointing, adapter):
    def adapt(model):
        return get_peft_model(model, LORA) if adapter else model

    sizes = count(CONFIGS[name], 3, 80, torch.float32, checkpointing, adapt)
    model = adapt(AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa").train())
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    body = (model.get_base_model() if adapter else model).base_model
    assert sizes.activations == pytest.approx(kept_by_a_real_model(body, 3, 80), rel=0.15)
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sizes.trained == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (sizes.recomputed > 0) == checkpointing


def test_weights_gradients_and_optimizer_are_those_of_a_real_step():
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen3"])
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 8, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    setup = replace(SETUP, gpus=1, stage=0, master=False, itemsize=4)
    sizes = count(CONFIGS["qwen3"], 1, 8, torch.float32, False)
    parts = plan(setup, sizes, CONFIGS["qwen3"], HARDWARE["h100"]).training
    assert parts["weights"] == sum(p.nbytes for p in model.parameters())
    assert parts["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    states = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.dim()]
    assert parts["optimizer"] == sum(tensor.nbytes for tensor in states)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "vocab"), [("qwen3", 119), ("llama", 119), ("qwen3", 40_000)])
def test_the_peak_of_a_real_update_is_the_plan_s(name, checkpointing, vocab):
    """PyTorch counts every tensor of the second micro-batch of a step, the loss over supports included.

    Its counter cannot follow frozen weights: with an adapter only activations and weights are compared, above.
    """
    batch, prompt, tokens, k = 16, 32, 96, 8
    config = type(CONFIGS[name])(**SHAPE | {"vocab_size": vocab})
    config.pad_token_id = None
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").train()
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    switch = SupportSwitch()
    switch.install(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW(model.parameters())
    input_ids = torch.randint(vocab, (batch, prompt + tokens))
    labels = input_ids.clone()
    labels[:, :prompt] = -100
    ids = torch.randint(vocab, (batch, tokens, k))
    ids[..., 0] = input_ids[:, prompt:]
    supports = Supports(ids, torch.zeros(batch, tokens))
    batch_of = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    # The gauge of the support's mass goes through TRL's loss, whose tiles are copied on a CPU and not on a GPU.
    gauges = vocab == SHAPE["vocab_size"]

    def micro_batch():
        with switch.over(supports, gauges=gauges):
            scored = model(**batch_of, fused_lm_head=True)
        scored.log_probs.mean().backward()

    micro_batch()
    optimizer.step()  # so that its state is there; the gradients stay, as the first micro-batch's do
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        micro_batch()
    measured = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    setup = replace(
        SETUP, gpus=1, stage=0, master=False, itemsize=4, batch=batch, prompt=prompt, completion=tokens, support=k,
        checkpointing=checkpointing, colocated=False,
    )  # fmt: skip
    sizes = count(config, batch, prompt + tokens, torch.float32, checkpointing)
    parts = plan(setup, sizes, config, HARDWARE["h100"]).training
    planned = sum(parts.values()) - parts["runtime"]
    assert planned == pytest.approx(measured, rel=0.15), {part: size / 2**20 for part, size in parts.items()}


def test_keys_and_values_are_those_of_a_real_engine(engine):
    config = engine.llm.llm_engine.vllm_config
    space = 2**30  # VLLM_CPU_KVCACHE_SPACE
    text = config.model_config.hf_text_config
    setup = replace(SETUP, itemsize=4, prompt=100, completion=28, memory=8 * GIB)
    sizes = Sizes(0, 0, 0, 0)
    found = plan(setup, sizes, text, HARDWARE["h100"])
    token_bytes = found.rollout["engine: keys and values"] / (found.concurrent * 128)
    blocks = config.cache_config.num_gpu_blocks * config.cache_config.block_size
    assert blocks * token_bytes == pytest.approx(space, rel=0.15)


def test_a_stage_shards_what_it_should():
    sizes, config = Sizes(1_000_000, 1_000_000, 0, 0), CONFIGS["qwen3"]
    parts = {stage: plan(replace(SETUP, stage=stage), sizes, config, HARDWARE["h100"]).training for stage in range(4)}
    assert [parts[stage]["optimizer"] for stage in range(4)] == [12e6, 1.5e6, 1.5e6, 1.5e6]
    assert [parts[stage]["gradients"] for stage in range(4)] == [2e6, 2e6, 0.25e6, 0.25e6]
    assert [parts[stage]["weights"] for stage in range(4)] == [2e6, 2e6, 2e6, 0.25e6]
    offloaded = plan(replace(SETUP, offload_optimizer=True, offload_weights=True), sizes, config, HARDWARE["h100"])
    assert (offloaded.training["optimizer"], offloaded.training["weights"]) == (0, 0)


def test_times_are_the_roofline_by_hand():
    sizes, config = Sizes(10**9, 10**9, 0, 0), CONFIGS["qwen3"]
    setup = replace(SETUP, batch=1, micro_batches=8)
    seconds = plan(setup, sizes, config, HARDWARE["h100"]).seconds
    cache = 2 * 6 * 2 * 32 * 2  # bytes of a token: keys and values, layers, heads, columns, bytes
    step = (2e9 + 8 * cache * (512 + 0.5 * 1536 / 2)) / (3.35e12 * ASSUMED["decoding"])
    assert seconds["rollout"] == pytest.approx(1536 * step)
    tokens = 8 * (512 + 0.5 * 1536)
    forward = tokens * (2e9 + 2 * 6 * 96 * (512 + 0.5 * 1536))
    assert seconds["training"] == pytest.approx(5 * forward / (989e12 * ASSUMED["rate"]))
    assert seconds["weight sync"] == pytest.approx(2e9 / (3.35e12 * ASSUMED["sync"]))


def test_changes_are_named_until_it_fits():
    setup = replace(SETUP, gpus=8, stage=0, master=False, sleeps=False, checkpointing=False, memory=40 * GIB)

    def size(setup: Setup) -> Sizes:
        return Sizes(4 * 10**9, 4 * 10**9, (1 if setup.checkpointing else 20) * setup.batch * GIB, 0)

    found = advise(setup, size, CONFIGS["qwen3"], HARDWARE["h100"])
    assert not found.fits
    assert found.advice[0].startswith("gradient_checkpointing: true: ")
    assert any(line.startswith("deepspeed: launch/zero3.json") for line in found.advice)
    assert found.advice[-1].endswith("fits")
    assert advise(replace(setup, memory=400 * GIB), size, CONFIGS["qwen3"], HARDWARE["h100"]).advice == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configuration")
    Qwen3Config(**SHAPE, architectures=["Qwen3ForCausalLM"]).save_pretrained(folder)
    return folder


def test_the_command_reads_a_recipe_for_gpus_anywhere(model):
    command = [BIN / "led-rl", "plan", ROOT / "recipes" / "grpo_led.yaml", "--model_name_or_path", model]
    text = run_command(*command, "--gpus", "8")
    assert "fits: " in text
    assert "rollout" in text


def test_what_does_not_fit_is_exit_status_1(model, capsys):
    recipe = [str(ROOT / "recipes" / "grpo_led.yaml"), "--model_name_or_path", str(model)]
    assert main([*recipe, "--json", "--gpu-memory", "2"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    assert found["advice"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--gpus", "0"], "expected an integer >= 1, got '0'"),
        (["--gpu-memory", "-1"], "expected GiB above 0"),
        (["--hardware", "b200"], "expected one of h200, h100, a100; got 'b200'"),
        (["--learning_rat", "1"], "unknown key 'learning_rat'"),
        (["--model_name_or_path", "/nowhere"], "model_name_or_path: /nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(model, arguments, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        main([str(ROOT / "recipes" / "grpo_led.yaml"), "--model_name_or_path", str(model), *arguments])
