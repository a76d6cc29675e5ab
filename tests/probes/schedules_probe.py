"""Runs real trainers whose rollouts and groups change over steps; tests/training/schedules/ judges what they did.

schedules_probe.py here MODEL FOLDER    one process, transformers generation: dynamic sampling, resumed, used twice
schedules_probe.py vllm MODEL FOLDER    one process, vLLM: schedules, shares of groups, dynamic sampling over supports
schedules_probe.py two MODEL FOLDER     by torchrun on two processes: dynamic sampling of groups that lie on both
"""

import os
import sys
from pathlib import Path

from led_rl.engines.environment import prepare_training

prepare_training()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from led_rl.training.config import LEDGRPOConfig  # noqa: E402
from led_rl.training.rollout import replaced  # noqa: E402
from led_rl.training.trainer import LEDGRPOTrainer  # noqa: E402

LETTERS = "abcdefghijklmnop"
ROWS = Dataset.from_dict({"prompt": [f"say {c}<think>" for c in LETTERS], "dull": [i % 2 == 0 for i in range(16)]})
SETTINGS = {
    "per_device_train_batch_size": 16,
    "num_generations": 4,
    "max_completion_length": 12,
    "max_steps": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "seed": 5,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "float32"},
    "disable_tqdm": True,
    "report_to": "none",
    "use_vllm": False,
}
VLLM = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_enable_sleep_mode": False,
    "vllm_max_model_length": 64,
    "vllm_engine_arguments": {"max_num_seqs": 16, "max_num_batched_tokens": 4096},
    "vllm_importance_sampling_clip_max": 1e6,
    "learning_rate": 0.0,  # every step's rollout comes from the same weights
}


def letters(prompts, completions, dull, log_extra, **_):
    """Share of letters in each completion, 1 for all completions of a dull prompt; logs the prompt of each."""
    log_extra("asked", [prompt[4] for prompt in prompts])
    shares = [sum(c.isalpha() for c in text) / max(1, len(text)) for text in completions]
    return [1.0 if same else share for same, share in zip(dull, shares, strict=True)]


class Recorder(LEDGRPOTrainer):
    """Keeps the tensors of each scored batch, its rewards, and what its completions table says."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        kept = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
        kept["letters"] = [row["prompt"][4] for row in inputs]
        kept["asked"] = list(self._logs["extra"]["asked"])[-len(self._logs["prompt"]) :]
        kept["rewards"] = list(self._logs["rewards"]["letters"])
        kept["prompts"] = list(self._logs["prompt"])
        self.scored = [*getattr(self, "scored", []), kept]
        return output


class Seeded(Recorder):
    """Every row of a rollout has a seed of its own: of the step and of its place."""

    def _generate(self, prompts):
        generate = self.vllm_generation.llm.generate

        def seeded(requests, sampling_params, **options):
            given = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(requests)
            self.requests = [*getattr(self, "requests", []), given]
            rows = [one.clone() for one in given]
            for i, row in enumerate(rows):
                row.seed = 1000 * self.state.global_step + i
            return generate(requests, sampling_params=rows, **options)

        with replaced(self.vllm_generation.llm, "generate", seeded):
            return super()._generate(prompts)


def run(trainer_class, model: str, folder: Path, resume: bool | str = False, **changes) -> dict:
    trainer = trainer_class(
        model=model,
        reward_funcs=letters,
        args=LEDGRPOConfig(output_dir=str(folder), **(SETTINGS | changes)),
        train_dataset=ROWS,
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
    )
    trainer.train(resume_from_checkpoint=resume or None)
    facts = {"log_history": trainer.state.log_history, "scored": trainer.scored}
    facts["parameters"] = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    facts["requests"] = [
        [(one.temperature, dict(one.extra_args or {})) for one in rows] for rows in getattr(trainer, "requests", [])
    ]
    return facts


def here(model: str, folder: Path) -> dict:
    dynamic = {"dynamic_sampling": True, "dynamic_sampling_max_rounds": 3}
    saving = {"save_strategy": "steps", "save_steps": 2}
    facts = {
        "plain": run(Recorder, model, folder / "plain", max_steps=1),
        "dynamic": run(Recorder, model, folder / "dynamic", **dynamic, **saving),
        "bounded": run(
            Recorder, model, folder / "bounded", max_steps=2, **(dynamic | {"dynamic_sampling_max_rounds": 1})
        ),
    }
    checkpoint = str(folder / "dynamic" / "checkpoint-2")
    facts["resumed"] = run(Recorder, model, folder / "resumed", checkpoint, **dynamic)
    twice = {"num_iterations": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    facts["used twice"] = run(Recorder, model, folder / "twice", steps_per_generation=4, **twice, **dynamic)
    return facts


def vllm(model: str, folder: Path) -> dict:
    heat = {"temperature": 1.2, "temperature_schedule": {"linear": {4: 0.8}}}
    mixed = {
        "decoding": "led",
        "led_share": 0.5,
        "led_to_step": 3,
        "led_depth": 4,
        "led_depth_schedule": {"steps": {1: 8, 2: 2}},
        "led_k_schedule": {"linear": {2: 4}},
    }
    return {
        "standard": run(Seeded, model, folder / "standard", **VLLM, **heat),
        "mixed": run(Seeded, model, folder / "mixed", **VLLM, **heat, **mixed),
        "dynamic": run(
            Seeded,
            model,
            folder / "dynamic",
            **VLLM,
            decoding="led",
            led_share=0.5,
            top_k=20,
            max_steps=2,
            dynamic_sampling=True,
            generation_kwargs={"stop": list("aeiou")},
            mask_truncated_completions=True,
        ),
    }


def two(model: str, folder: Path) -> dict:
    """Three groups of four on two processes: the second one lies on both."""
    shape = {"per_device_train_batch_size": 6, "ddp_backend": "gloo", "max_steps": 3, "dynamic_sampling": True}
    facts = run(Recorder, model, folder / "two", **shape)
    parts = [None, None]
    torch.distributed.all_gather_object(parts, facts["scored"])
    return facts | {"scored": parts}


if __name__ == "__main__":
    job, model, folder = sys.argv[1:]
    facts = {"here": here, "vllm": vllm, "two": two}[job](model, Path(folder))
    if os.environ.get("RANK", "0") == "0":
        torch.save(facts, Path(folder) / f"{job}.pt")
