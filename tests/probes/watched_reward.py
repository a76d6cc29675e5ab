"""A reward that looks into the run it scores: importing it makes led_rl/train.py build a trainer that is watched.

The launch scripts start led_rl/train.py itself, and a user's reward is the only code of a test that runs in there.
Every process appends what it sees to `watched-RANK.jsonl` in the run's folder, a line for each rollout and each log;
tests/training/test_zero.py and test_lora.py judge. With KILL_IN_SAVE=STEP in the environment every process kills
itself (kill -9) in the middle of that step's save, when the weights are written and the optimizer's state is not; with
KILL_IN_STEP=STEP between that step's rollout and its loss.
"""

import json
import os
import signal
from pathlib import Path

import torch
from engine_weights import fused, merged
from letters_reward import share_of_letters  # noqa: F401 (the reward)

from led_rl.engines.vllm_engine import model_runner
from led_rl.training import build
from led_rl.training.trainer import LEDGRPOTrainer


class Watched(LEDGRPOTrainer):
    """Writes down rollouts, logs, and how far the engine's parameters are from the trainer's, gathered."""

    def note(self, kind: str, **facts) -> None:
        folder = Path(self.args.output_dir)
        facts = {"kind": kind, "step": self.state.global_step, "process": os.getpid()} | facts
        with (folder / f"watched-{self.accelerator.process_index}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def gathered(self) -> dict[str, torch.Tensor]:
        """The parameters in full, on every process."""
        parameters = dict(self.accelerator.unwrap_model(self.model).named_parameters())
        if not any(hasattr(parameter, "ds_id") for parameter in parameters.values()):
            return parameters
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters.values())):
            return {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def engine_apart(self) -> float:
        """Largest difference of a parameter of the engine's and of the trainer's."""
        whole = self.gathered()
        if hasattr(self.model, "peft_config"):
            whole = merged(whole, self.model.peft_config["default"].lora_alpha / self.model.peft_config["default"].r)
        expected = fused(whole)
        engine = dict(model_runner(self.vllm_generation.llm).model.named_parameters())
        assert set(expected) == set(engine), set(expected) ^ set(engine)
        # vLLM pads the vocabulary
        return max((engine[name][: len(value)] - value).abs().max().item() for name, value in expected.items())

    def held(self) -> dict[str, int]:
        """Numbers that this process keeps: of Adam's state, of DeepSpeed's float32 copies, and of parameters."""
        optimizer, master = self.optimizer, []
        while hasattr(optimizer, "optimizer"):
            for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):  # ZeRO-2's, ZeRO-3's
                master += getattr(optimizer, name, [])
            optimizer = optimizer.optimizer
        states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        parameters = list(self.accelerator.unwrap_model(self.model).parameters())
        return {
            "optimizer": sum(value.numel() for value in states if value.dim()),
            "master": sum({id(part): part.numel() for part in master}.values()),
            "whole": sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters),
            "parameters": sum(p.numel() + (p.ds_tensor.numel() if p.numel() == 0 else 0) for p in parameters),
            "trained": sum(getattr(p, "ds_numel", p.numel()) for p in parameters if p.requires_grad),
        }

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        completions, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self.note("rollout", prompts=prompt_ids, completions=completions, logprobs=logprobs, apart=self.engine_apart())
        return completions, logprobs

    def log(self, logs, start_time=None) -> None:
        super().log(logs, start_time)
        second_model = getattr(self, "ref_model", None) is not None
        self.note("log", **self.held(), second_model=second_model, logged=self.state.log_history[-1])

    def die_in(self, what: str, step: int) -> None:
        if os.environ.get(what) == str(step):
            self.accelerator.wait_for_everyone()
            os.kill(os.getpid(), signal.SIGKILL)

    def _calculate_rewards(self, *args, **kwargs):
        self.die_in("KILL_IN_STEP", self.state.global_step + 1)
        return super()._calculate_rewards(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir) -> None:
        self.die_in("KILL_IN_SAVE", self.state.global_step)
        super()._save_optimizer_and_scheduler(output_dir)


build.LEDGRPOTrainer = Watched
