"""Trains with LED rollouts over their supports in every setting of TRL's; tests/training/test_losses.py judges.

losses_probe.py MODEL FOLDER FACTS NAME...    two steps for each named one of SETTINGS; every engine stays in memory
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import trainer_probe
from peft import LoraConfig
from transformers import AutoTokenizer

from led_rl.training.trainer import LEDGRPOTrainer

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
SETTINGS = {
    **{loss: {"loss_type": loss} for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "sapo", "cispo")},
    "sequence level": {"importance_sampling_level": "sequence"},
    "token_mask": {"vllm_importance_sampling_mode": "token_mask"},
    "reference model": {"beta": 0.1},
    "adapter": {"peft": True},
    "adapter with reference": {"beta": 0.1, "peft": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "batches split and used twice": {
        "num_iterations": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "max_steps": 4,
    },
    "top entropies": {"top_entropy_quantile": 0.5},
    "control": {"decoding": "top_k_control"},
    "standard, truncated": {"decoding": "standard"},
}


class Aligned(LEDGRPOTrainer):
    """Counts tokens whose support holds them, after TRL's shuffling and splitting, and those without a support."""

    seen = (0, 0)

    def _compute_loss(self, model, inputs):
        mask = inputs["completion_mask"].bool()
        ids, tokens = inputs["support_ids"][mask], inputs["completion_ids"][mask]
        empty = int((ids[:, 0] < 0).sum())
        inside = int((ids == tokens[:, None]).any(-1).sum())
        assert inside + empty == len(tokens), "a support does not hold its token"
        self.seen = self.seen[0] + inside, self.seen[1] + empty
        return super()._compute_loss(model, inputs)


def run(model: str, folder: Path, changes: dict) -> dict:
    changes = {"decoding": "led", "max_steps": 2, "max_completion_length": 12, "output_dir": folder} | changes
    peft = changes.pop("peft", False)
    trainer = Aligned(
        model=model,
        reward_funcs=trainer_probe.load_reward("letters_reward:share_of_letters"),
        args=trainer_probe.settings(**changes),
        train_dataset=trainer_probe.Dataset.from_dict(
            {"prompt": [p.format(c) for c in "abcdefgh" for p in trainer_probe.PROMPTS]}
        ),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        peft_config=LORA if peft else None,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    moved = sum(bool((p != before[name]).any()) for name, p in trainer.model.named_parameters() if name in before)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {"moved": moved, "trained": len(before), "seen": trainer.seen, "logged": logged}


if __name__ == "__main__":
    model, folder, file, *names = sys.argv[1:]
    facts = {}
    for name in names:
        try:
            facts[name] = run(model, Path(folder) / name.replace(" ", "-"), dict(SETTINGS[name]))
        except Exception as error:
            facts[name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, facts[name].get("error", "trained"), flush=True)
    Path(file).write_text(json.dumps(facts))
