"""Trains twice on real vLLM, with and without evaluation; tests/training/test_evaluation_callback.py compares.

evaluation_probe.py MODEL FOLDER
"""

import sys
from pathlib import Path

import torch
import trainer_probe  # first: it prepares the environment
from datasets import Dataset
from transformers import AutoTokenizer

from led_rl.training.trainer import LEDGRPOTrainer
from rewards import load_reward

EVALUATED = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_on_start": True,
    "eval_decodings": ["standard", "led"],
    "eval_samples": 3,
    "metric_for_best_model": "eval_standard_reward",
    "greater_is_better": True,
    "load_best_model_at_end": True,
    "save_steps": 1,
}


class Recording(trainer_probe.Recorder, LEDGRPOTrainer):
    """Besides: completions and engine weights at each evaluation."""

    sampled: list

    def _sample(self, prompts, decoding):
        completions = super()._sample(prompts, decoding)
        engine = trainer_probe.engine_model(self).state_dict()["model.norm.weight"].clone()
        trained = dict(self.model.named_parameters())["model.norm.weight"].detach().clone()
        prompt_ids = self._tokenize_prompts(list(prompts))[0]
        self.sampled.append((self.state.global_step, decoding.decoding, prompt_ids, completions, engine, trained))
        return completions


def run(model: str, folder: Path, decoding: str, **changes) -> dict:
    trainer = Recording(
        model=model,
        reward_funcs=load_reward("letters_reward:share_of_letters"),
        args=trainer_probe.settings(folder, decoding=decoding, max_steps=3, **changes),
        train_dataset=Dataset.from_dict({"prompt": [p.format(c) for c in "abcdefgh" for p in trainer_probe.PROMPTS]}),
        eval_dataset=Dataset.from_dict({"prompt": [f"say {c}<think>" for c in "xyz"]})
        if "eval_strategy" in changes
        else None,
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
    )
    trainer.sampled = []
    trainer.train()
    best = trainer.state.best_model_checkpoint
    return trainer_probe.outcome(trainer) | {"sampled": trainer.sampled, "best": best}


if __name__ == "__main__":
    model, folder = sys.argv[1], Path(sys.argv[2])
    facts = {}
    for decoding in ("led", "standard"):
        facts[decoding] = run(model, folder / f"{decoding}-evaluated", decoding, **EVALUATED)
        facts[f"{decoding}-plain"] = run(model, folder / f"{decoding}-plain", decoding, save_strategy="no")
    torch.save(facts, folder / "evaluation.pt")
