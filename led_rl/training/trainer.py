"""GRPO with LED rollouts: TRL's trainer, and the few methods in which LEDGRPOTrainer differs."""

import logging
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from transformers import TrainerCallback
from trl import GRPOTrainer

from led_rl.decoding import PREFIX, check_decoding
from led_rl.sampler.capture_options import EngineOptions
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.correction import finite_or_none, ratio_statistics, token_classes
from led_rl.training.evaluation_callback import LiveEvaluation, options_for_evaluation
from led_rl.training.rollout import LEDVLLMGeneration, rollouts_by
from led_rl.training.supported_loss import Supports, SupportSwitch
from led_rl.training.turns import Turn, align_turns
from rewards import checked_rewards

NO_THOUGHT = (
    "decoding: {decoding!r}, but no token of this rollout was sampled with it: no prompt ends inside a think part and "
    "no completion opened one. Use a chat template that opens <think>, or led_think_only: false."
)
LEAST_SUPPORT_MASS = 0.95
LITTLE_MASS = (
    "led/support_mass is {mass:.3f} at step {step}: the policy gives 1 - this to tokens that rollouts cannot sample, "
    "and nothing in the loss pushes it back. Raise led_k (or top_k, top_p), lower the learning rate or temperature, or "
    "mix in standard rollouts"
)
logger = logging.getLogger(__name__)


class LEDGRPOTrainer(LiveEvaluation, GRPOTrainer):
    """`trl.GRPOTrainer` whose rollouts may be sampled with LED. The only changes to TRL's:

    * the rollout engine is `LEDVLLMGeneration`: vLLM that captures latent states, seeded with the run's seed, its
      arguments open to the recipe, its weights replaceable on CPU;
    * each rollout request carries the decoding, in its `extra_args` or, to a server, in its `vllm_xargs`; the
      log-probabilities that come back are those of the behaviour policy mu, and TRL's own importance-sampling
      correction uses them;
    * with `vllm_mode: server`, the server must prove at construction that it samples with LED (`LEDClient`);
    * logged beside TRL's metrics at every step: `rollout/*` (thinking, answer and total length in tokens, tokens/s),
      `time/*` (rollout, reward, weight_sync, training; seconds, the slowest process) and, with LED, `led/*`
      (explored fraction, confidence, entropies of mu and of the final layer in nats, share of each chosen depth; none
      of these with a server, which hands on tokens, log-probabilities and supports alone).

    * with `train_support: sampled`, the log-probabilities of the loss, of the old policy and of the reference model are
      normalised over the ids that the engine could have drawn (supported_loss.py), and so are the entropy metric and
      the KL term; `led/support_mass` says how much of the policy lies there, `correction/*` how the ratios spread.

    * evaluation samples `eval_dataset` with the live engine instead of computing a loss (`LiveEvaluation`).

    The advantages, the form of the loss, the data flow and checkpoints are TRL's.
    """

    args: LEDGRPOConfig
    vllm_generation: LEDVLLMGeneration
    _warned_of_mass = False

    def __init__(self, model: Any, reward_funcs: Any = None, args: LEDGRPOConfig | None = None, **kwargs: Any):
        args = args or LEDGRPOConfig("led-grpo")
        reward_funcs = checked_rewards(reward_funcs)
        self.decoding = args.decoding_params()
        self._reward_seconds = 0.0
        self._rollout_tokens = 0
        options = EngineOptions()
        served = args.use_vllm and args.vllm_mode == "server"
        if served or not self.decoding.is_standard:
            # A server may have a default decoding: requests for standard decoding say so too.
            wanted = self.decoding.to_extra_args() or {f"{PREFIX}_decoding": self.decoding.decoding}
            key = "vllm_xargs" if served else "extra_args"  # a server ignores the latter
            generation_kwargs: dict[str, Any] = dict(args.generation_kwargs or {})  # type: ignore[arg-type]
            args.generation_kwargs = {**generation_kwargs, key: {**generation_kwargs.get(key, {}), **wanted}}
            options = EngineOptions.for_decoding(self.decoding, final_entropy=True)
        if args.needs_supports and kwargs.get("rollout_func") is not None:
            raise ValueError(
                "rollout_func with train_support: sampled: the loss cannot know which tokens a custom rollout could "
                "have sampled; allowed: train_support: vocabulary"
            )
        self._turns: list[Turn] = []
        self._supports: Supports | None = None  # of the batch that is scored now
        self._records: list[list[list[int]]] | None = None  # of the rollout at work
        if args.needs_supports:
            options = EngineOptions.for_decoding(self.decoding, final_entropy=True, support=True)
        make_rollouts = partial(
            LEDVLLMGeneration,
            decoding=self.decoding,
            options=options_for_evaluation(options, args),
            engine_arguments=dict(args.vllm_engine_arguments or {}),
            run_seed=args.seed,
            wants_supports=args.needs_supports,
        )
        with rollouts_by(make_rollouts):
            super().__init__(model, reward_funcs, args, **kwargs)
        self._switch = SupportSwitch()
        if args.needs_supports:
            for scored in (self.model, self.ref_model):
                if scored is not None:
                    scored = self.accelerator.unwrap_model(scored)
                    self._switch.install(scored.get_base_model() if is_peft_model(scored) else scored)
        self.markers = check_decoding(self.decoding, self._model.config, self._tokenizer)
        if served and not self.decoding.is_standard and self.accelerator.is_main_process:
            logger.warning("rollouts come from a server: led/* is not logged, rollout/* and time/* are")
        self.add_callback(_StepClock(self))

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self._log_rollout(prompt_ids, completion_ids)
        if self.args.needs_supports:
            supports = self.vllm_generation.supports
            assert supports is not None
            self._turns += map(Turn, prompt_ids, completion_ids, supports)
        return completion_ids, None if logprobs is None else finite_or_none(logprobs)

    def _generate(self, prompts: list) -> Any:
        self._turns = []
        generated = super()._generate(prompts)
        prompt_ids, completion_ids = generated[:2]
        self._records = align_turns(self._turns, prompt_ids, completion_ids) if self.args.needs_supports else None
        return generated

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self._supports is None and self._records is not None:  # nothing was scored on the way
            self._supports = Supports.of(self._records, output["completion_ids"].shape[1], self.accelerator.device)
        if self._supports is not None:
            output["support_ids"], output["support_explored"] = self._supports.ids, self._supports.explored
            self._log_correction(output, self._supports)
        self._supports = self._records = None
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if "support_ids" not in inputs:
            return super()._compute_loss(model, inputs)
        self._supports = Supports(inputs["support_ids"], inputs["support_explored"])
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._supports = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        score = super()._get_per_token_logps_and_entropies
        if self._records is not None and self._supports is None:
            self._supports = Supports.of(self._records, logits_to_keep, self.accelerator.device)
        if self._supports is None:
            return score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        in_loss = self._records is None
        with self._switch.over(self._supports, gauges=in_loss) as head:
            scored = score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        if in_loss:
            self._log_support_mass(head.masses)
        return scored

    def _log_support_mass(self, masses: list[torch.Tensor]) -> None:
        """Mean mass of the full policy on the supports of the loss's gauged tokens, over all processes."""
        local = torch.zeros(2, device=self.accelerator.device)
        for mass in masses:
            local += torch.stack([mass.sum(), mass.new_tensor(float(len(mass)))])
        total, count = self.accelerator.reduce(local, "sum").tolist()
        if not count:
            return
        mean = total / count
        self._append("led/support_mass", mean)
        if mean < LEAST_SUPPORT_MASS and not self._warned_of_mass and self.accelerator.is_main_process:
            logger.warning(LITTLE_MASS.format(mass=mean, step=self.state.global_step))
            self._warned_of_mass = True

    def _log_correction(self, output: dict[str, Any], supports: Supports) -> None:
        if "importance_sampling_ratio" not in output:
            return
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        log_ratio = output["old_per_token_logps"] - output["sampling_per_token_logps"]

        def reduce(values: torch.Tensor, how: str) -> torch.Tensor:
            if how == "sum":
                return self.accelerator.reduce(values, "sum")
            return self.accelerator.gather(values[None]).amax(0)

        weights = token_classes(supports.explored, mask)
        clip_max = self.args.vllm_importance_sampling_clip_max
        for name, value in ratio_statistics(log_ratio, weights, clip_max, reduce).items():
            self._append(f"correction/{name}", value)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        rewards = super()._calculate_rewards(*args, **kwargs)
        self._reward_seconds += time.perf_counter() - start
        return rewards

    def _log_rollout(self, prompt_ids: list[list[int]], completion_ids: list[list[int]]) -> None:
        """Lengths and LED statistics of one rollout, over all processes."""
        total = sum(map(len, completion_ids))
        thought = 0
        if self.markers is not None:
            unmarked = self.decoding.think_start == "prompt"
            for prompt, completion in zip(prompt_ids, completion_ids, strict=True):
                thought += sum(self.markers.thinking_mask(prompt, completion, unmarked))
        statistics = self.vllm_generation.take_statistics() if self.use_vllm else None
        values = torch.tensor(
            [len(completion_ids), total, thought, *(statistics or {}).values()], dtype=torch.float64
        ).to(self.accelerator.device, torch.float32)
        count, total, thought, *sums = self.accelerator.reduce(values, "sum").tolist()
        self._rollout_tokens += total
        self._append("rollout/total_length", total / count)
        if self.markers is not None:
            self._append("rollout/thinking_length", thought / count)
            self._append("rollout/answer_length", (total - thought) / count)
        if statistics is not None and self.decoding.decoding == "led":
            self._log_led(dict(zip(statistics, sums, strict=True)))
        elif self.decoding.think_only and not (self.decoding.is_standard or statistics or thought):  # from a server
            raise RuntimeError(NO_THOUGHT.format(decoding=self.decoding.decoding))

    def _log_led(self, sums: dict[str, float]) -> None:
        rows, read = sums.pop("rows"), sums.pop("read")
        if not rows:
            raise RuntimeError(NO_THOUGHT.format(decoding=self.decoding.decoding))
        for name, total in sums.items():
            share = total / (rows if not name.startswith("depth_") else max(read, 1.0))
            self._append(f"led/{'explored_fraction' if name == 'explored' else name}", share)
        self._append("led/read_fraction", read / rows)

    def _log_step(self, step_seconds: float) -> None:
        """Where the wall time of one optimizer step went; the slowest process counts."""
        rollout, weight_sync = self.vllm_generation.take_seconds() if self.use_vllm else (0.0, 0.0)
        reward, self._reward_seconds = self._reward_seconds, 0.0
        training = step_seconds - rollout - weight_sync - reward
        local = torch.tensor([[rollout, reward, weight_sync, training]], device=self.accelerator.device)
        slowest = self.accelerator.gather(local).amax(0).tolist()
        for name, seconds in zip(("rollout", "reward", "weight_sync", "training"), slowest, strict=True):
            self._append(f"time/{name}", seconds)
        if slowest[0]:
            self._append("rollout/tokens_per_second", self._rollout_tokens / slowest[0])
        self._rollout_tokens = 0

    @property
    def _model(self) -> Any:
        return self.model  # transformers types it as optional

    def _append(self, name: str, value: float) -> None:
        self._metrics["train" if self._model.training else "eval"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        depths = [logs[name] for name in sorted(logs, key=_depth_of) if _depth_of(name) >= 0]
        if depths and self.accelerator.is_main_process and "wandb" in (self.args.report_to or []):
            import wandb

            if wandb.run is not None:
                histogram = (np.array(depths), np.arange(len(depths) + 1) - 0.5)
                wandb.log({"led/depth": wandb.Histogram(np_histogram=histogram)}, commit=False)


class _StepClock(TrainerCallback):
    """Wall time of each optimizer step, optimizer included, logged before TRL logs the step."""

    def __init__(self, trainer: LEDGRPOTrainer):
        self.trainer = trainer
        self.started = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer._log_step(time.perf_counter() - self.started)


def _depth_of(metric: str) -> int:
    """j of `led/depth_j`, -1 for other metrics."""
    name, _, depth = metric.rpartition("_")
    return int(depth) if name == "led/depth" and depth.isdigit() else -1
