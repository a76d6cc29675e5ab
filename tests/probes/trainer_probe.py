"""Runs real trainers on real vLLM in a process of its own; tests/training/test_trainer.py judges what they did.

trainer_probe.py train MODEL FOLDER     LED: four steps straight, checkpoints at 2 and 4
trainer_probe.py resume MODEL FOLDER    LED: resumes at 2; standard decoding, ours and TRL's own trainer; no thinking
"""

import sys
from functools import partial
from pathlib import Path

from led_rl.engines.environment import prepare_training

prepare_training()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from led_rl.engines.vllm_engine import model_runner  # noqa: E402
from led_rl.sampler.capture_options import EngineOptions  # noqa: E402
from led_rl.training.config import LEDGRPOConfig  # noqa: E402
from led_rl.training.rollout import LEDVLLMGeneration, rollouts_by  # noqa: E402
from led_rl.training.trainer import LEDGRPOTrainer  # noqa: E402
from rewards import load_reward  # noqa: E402

# Thinking from the start, closed by the prompt, reopened, without markers.
PROMPTS = ["say {}<think>", "say {}<think>x</think>", "<think>x</think>{}<think>y", "say {}"]
STEPS = 4


def settings(output_dir, **changes) -> LEDGRPOConfig:
    values = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 24,
        "max_steps": STEPS,
        "save_steps": 2,
        "logging_steps": 1,
        "use_vllm": True,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "beta": 0.0,
        "temperature": 0.9,
        "top_p": 0.9,
        "min_p": 0.01,
        "top_k": 20,
        "vllm_importance_sampling_clip_max": 1.0,
        "seed": 5,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": False,
        "vllm_max_model_length": 128,
        "vllm_engine_arguments": {"max_num_seqs": 16},
        "model_init_kwargs": {"dtype": "float32"},
        "log_completions": False,
        "disable_tqdm": True,
    }
    return LEDGRPOConfig(**(values | changes))


class Recorder:
    """Mixed into a trainer: what reaches the loss at every step, and the weights it was sampled with."""

    def _compute_loss(self, model, inputs):
        if not hasattr(self, "steps"):
            self.steps = []
        weights = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        self.steps.append({"weights": weights, **{k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}})
        loss = super()._compute_loss(model, inputs)
        self.steps[-1]["loss"] = loss.detach()
        return loss


class RecordingLED(Recorder, LEDGRPOTrainer):
    pass


class RecordingTRL(Recorder, GRPOTrainer):
    pass


def build(trainer_class, model: str, args: LEDGRPOConfig, prompts=PROMPTS):
    return trainer_class(
        model=model,
        reward_funcs=load_reward("letters_reward:share_of_letters"),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [p.format(c) for c in "abcdefgh" for p in prompts]}),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
    )


def outcome(trainer) -> dict:
    return {
        "steps": trainer.steps,
        "log_history": trainer.state.log_history,
        "parameters": {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()},
    }


def engine_model(trainer):
    return model_runner(trainer.vllm_generation.llm).model


def train(model: str, folder: Path) -> dict:
    trainer = build(RecordingLED, model, settings(folder / "led", decoding="led"))
    trainer.train()
    facts = outcome(trainer)
    # One more rollout, as the next step would do it: it syncs the weights first.
    prompts = [p.format(c) for c in "qrst" for p in PROMPTS]
    prompt_ids = trainer.processing_class(prompts)["input_ids"]
    repeated = [ids for ids in prompt_ids for _ in range(4)]
    completion_ids, logprobs = trainer._generate_single_turn(repeated, None, {}, 4)
    facts["rollout"] = {"prompt_ids": repeated, "completion_ids": completion_ids, "logprobs": logprobs}
    facts["engine"] = {name: parameter.detach().clone() for name, parameter in engine_model(trainer).named_parameters()}
    return facts


def resume(model: str, folder: Path) -> dict:
    resumed = build(RecordingLED, model, settings(folder / "resumed", decoding="led"))
    resumed.train(resume_from_checkpoint=str(folder / "led" / "checkpoint-2"))
    ours = build(RecordingLED, model, settings(folder / "ours", train_support="vocabulary"))
    ours.train()
    args = settings(folder / "theirs")
    engine = partial(LEDVLLMGeneration, options=EngineOptions(), engine_arguments={"max_num_seqs": 16}, run_seed=5)
    with rollouts_by(engine):
        theirs = build(RecordingTRL, model, args)
    theirs.train()
    facts = {"resumed": outcome(resumed), "ours": outcome(ours), "theirs": outcome(theirs), "error": None}
    closed = settings(folder / "closed", decoding="led", led_think_start="marker", max_completion_length=1)
    try:
        build(RecordingLED, model, closed, ["say {}", "<think>x</think>{}"]).train()
    except RuntimeError as error:
        facts["error"] = str(error)
    return facts


if __name__ == "__main__":
    job, model, folder = sys.argv[1:]
    torch.save({"train": train, "resume": resume}[job](model, Path(folder)), Path(folder) / f"{job}.pt")
