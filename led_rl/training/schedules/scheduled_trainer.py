"""The trainer's part of schedules: a plan for each rollout, its temperature in the loss, and dynamic sampling."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from led_rl.decoding import DecodingParams
from led_rl.training.checkpointing import CheckpointingTrainer
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.rollout import LEDVLLMGeneration
from led_rl.training.schedules.dynamic_sampling import Counts, DynamicSampler, Row, fresh_rows, groups_that_differ
from led_rl.training.schedules.keys import schedules_of, start_plan
from led_rl.training.schedules.plan import RolloutPlan, plan_at
from led_rl.training.schedules.requests import requested
from led_rl.training.schedules.temperature import scored_at
from led_rl.training.step_clock import StepClock
from led_rl.training.turns import Turn


class ScheduledTrainer(CheckpointingTrainer):
    """GRPOTrainer whose rollouts and groups change over the steps as its config says (docs/schedules.md).

    Where the config names nothing of the kind, every method is TRL's.
    """

    args: LEDGRPOConfig
    vllm_generation: LEDVLLMGeneration
    clock: StepClock
    _turns: list[Turn]
    _plan: RolloutPlan | None = None  # of the training batch that was sampled last
    _inputs: list[dict[str, Any]]  # of the batch that is being sampled
    _kept: list[Row] | None = None  # what TRL is to take for sampled now
    _rewards: Tensor | None = None  # (rows of all processes, functions) of these
    _samples = False  # whether what is sampled now may still make way

    @cached_property
    def _schedules(self) -> list:
        return schedules_of(self.args)

    @property
    def rollout_decoding(self) -> DecodingParams:
        """The decoding of the rollout under way, standard if none of its rows explores."""
        model: Any = self.model
        if self._plan is None or not model.training:
            return self.args.decoding_params()
        return self._plan.rollout_decoding

    @property
    def loss_temperature(self) -> float | None:
        """What logits are divided by in place of the config's temperature; None where that does not change.

        A batch keeps the temperature that it was sampled at for as long as it is trained on.
        """
        model: Any = self.model
        if self.args.temperature_schedule is None or self._plan is None or not model.training:
            return None
        return self._plan.temperature

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        model: Any = self.model
        if not model.training or not (self._schedules or self.args.dynamic_sampling):
            return super()._generate_and_score_completions(inputs)
        if self._schedules:
            self._plan = plan_at(self._schedules, start_plan(self.args), self.state.global_step)
            self._log_plan(self._plan)
        self._inputs = inputs
        return super()._generate_and_score_completions(inputs)

    def _log_plan(self, plan: RolloutPlan) -> None:
        values = {"schedule/led_share": plan.explored / plan.generations}
        if self.args.led_depth_schedule is not None:
            values["schedule/led_depth"] = plan.decoding.depth
        if self.args.led_k_schedule is not None:
            values["schedule/led_k"] = plan.decoding.k
        if self.args.temperature_schedule is not None:
            values["schedule/temperature"] = plan.temperature
        if self.args.decoding == "standard":
            del values["schedule/led_share"]
        for name, value in values.items():
            self._metrics["train"][name].append(value)

    def _generate(self, prompts: list) -> Any:
        model: Any = self.model
        if not model.training:
            return super()._generate(prompts)
        with self._requests():
            if not self.args.dynamic_sampling:
                return super()._generate(prompts)
            with self._uncounted():
                rows, self._rewards, counts, before = self._sample_dynamically()
            self._log_counts(counts, before)
            prompts[:] = [row.inputs["prompt"] for row in rows]  # TRL's own lists, from which it goes on
            self._inputs[:] = [row.inputs for row in rows]
            for column in {name for row in rows for name in row.extras}:
                self._pending_extra_logs[column] = [row.extras.get(column) for row in rows]
            self._kept = rows
            self._turns.clear()
            return super()._generate(prompts)  # counts and decodes what is kept

    def _log_counts(self, counts: Counts, reward: float) -> None:
        """Logs what dynamic sampling did; `reward` is the mean of the batch as it was first sampled."""
        local = torch.tensor([float(counts.tokens)], device=self.accelerator.device)
        tokens = self.accelerator.reduce(local, "sum").item()
        self.clock.tokens += tokens
        values = {
            "equal_groups": counts.equal,
            "replaced_groups": counts.replaced,
            "left_groups": counts.left,
            "rounds": counts.rounds,
            "drawn_prompts": counts.drawn,
            "discarded_tokens": tokens,
            "reward_before": reward,
        }
        for name, value in values.items():
            self._metrics["train"][f"dynamic_sampling/{name}"].append(value)

    @contextmanager
    def _requests(self) -> Iterator[None]:
        if self._plan is None or not self.use_vllm:
            yield
            return
        with requested(self.vllm_generation, self._plan):
            yield

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        kept, self._kept = self._kept, None
        if kept is None:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if self.use_vllm:
            self.vllm_generation.supports = _all_or_none([row.support for row in kept])
            self.vllm_generation.stopped = _all_or_none([row.stopped for row in kept])
        return [row.completion_ids for row in kept], _all_or_none([row.logprobs for row in kept])

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        rewards, self._rewards = self._rewards, None
        if rewards is None:
            rewards = super()._calculate_rewards(*args, **kwargs)
        plan = self._plan
        if plan is not None and plan.is_mixed and not self._samples:
            self._log_reward_split(rewards, plan)
        return rewards

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        temperature = self.loss_temperature
        if temperature is None:
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        with scored_at(temperature):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _log_reward_split(self, rewards: Tensor, plan: RolloutPlan) -> None:
        """Mean rewards of rows that explored and of the others, which are of the same groups."""
        total = self._weighted(rewards)
        explores = torch.tensor([plan.explores(row) for row in range(len(total))], device=total.device)
        for name, rows in (("led/reward_led", explores), ("led/reward_standard", ~explores)):
            self._metrics["train"][name].append(total[rows].nanmean().item())

    def _weighted(self, rewards: Tensor) -> Tensor:
        """(rows,) weighted sums of (rows, functions) rewards, NaN where no function judged anything."""
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        total[rewards.isnan().all(1)] = torch.nan
        return total

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """While open, TRL's metrics and counters take nothing of what is sampled."""
        metrics, seen = self._metrics, self.state.num_input_tokens_seen
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._samples = True
        try:
            yield
        finally:
            self._metrics, self.state.num_input_tokens_seen, self._samples = metrics, seen, False

    def _sample_dynamically(self) -> tuple[list[Row], Tensor, Counts, float]:
        """Samples the batch and replaces its groups of equal rewards.

        Returns this process's rows, the rewards of all processes', what was done, and the mean reward before.
        """
        args, accelerator, size = self.args, self.accelerator, self.num_generations
        assert size is not None
        deciding = args.dynamic_sampling_reward
        sampler = DynamicSampler(
            accelerator.process_index,
            accelerator.num_processes,
            size,
            args.dynamic_sampling_max_rounds,
            self._sample_and_score,
            partial(
                groups_that_differ,
                weights=self.reward_weights.to(accelerator.device),
                num_generations=size,
                deciding=None if deciding is None else self.reward_func_names.index(deciding),
                each_alone=self.multi_objective_aggregation == "normalize_then_sum",
            ),
            gather_object,
        )
        dataset: Any = self._remove_unused_columns(self.train_dataset, description="training")
        rows, rewards = self._sample_and_score(self._inputs)
        before = self._weighted(rewards).nanmean().item()
        counts = sampler.fill(rows, rewards, lambda taken: fresh_rows(dataset, args.seed, self._step, taken))
        return rows, rewards, counts, before

    def _sample_and_score(self, inputs: list[dict[str, Any]]) -> tuple[list[Row], Tensor]:
        """Completions of this process's rows, and the rewards of all processes'."""
        prompts = [row["prompt"] for row in inputs]
        _, completion_ids, _, completions, logprobs, *_ = super()._generate(prompts)
        rewards = self._calculate_rewards(inputs, prompts, completions, completion_ids)
        extras = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        engine = self.vllm_generation if self.use_vllm else None
        rows = [
            Row(
                inputs[i],
                completion_ids[i],
                None if logprobs is None else logprobs[i],
                None if engine is None or engine.supports is None else engine.supports[i],
                None if engine is None or engine.stopped is None else engine.stopped[i],
                {column: values[i] for column, values in extras.items()},
            )
            for i in range(len(inputs))
        ]
        return rows, rewards


def _all_or_none(values: list) -> list | None:
    """The values, or None where there are none: what the engine tells, it tells of every row."""
    return None if any(value is None for value in values) else values
