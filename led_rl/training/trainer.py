"""GRPO with LED rollouts: TRL's trainer, and the few methods in which LEDGRPOTrainer differs."""

import inspect
import logging
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import get_config_model_id

from led_rl.decoding import PREFIX, check_decoding
from led_rl.sampler.capture_options import EngineOptions
from led_rl.training.checks.arguments import check_architecture, check_tied_head, check_trainer_arguments
from led_rl.training.checks.running import check_gradient, check_rewards
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.correction import finite_or_none, ratio_statistics, token_classes
from led_rl.training.evaluation_callback import LiveEvaluation, options_for_evaluation
from led_rl.training.observation.completions import CompletionsTable
from led_rl.training.observation.provenance import Provenance
from led_rl.training.observation.watchdog import Watchdog
from led_rl.training.rollout import LEDVLLMGeneration, check_sampling_arguments, rollouts_by
from led_rl.training.rollout_metrics import cut_short, ending_metrics, lengths_of, mask_cut, rollout_metrics
from led_rl.training.schedules.keys import largest_decoding
from led_rl.training.schedules.scheduled_trainer import ScheduledTrainer
from led_rl.training.step_clock import ROLLOUT, TRAINING, StepClock
from led_rl.training.supported_loss import Supports, SupportSwitch
from led_rl.training.turns import Turn, align_turns, stopped
from rewards import checked_rewards

LEAST_SUPPORT_MASS = 0.95
LITTLE_MASS = (
    "led/support_mass is {mass:.3f} at step {step}: the policy gives 1 - this to tokens that rollouts cannot sample, "
    "and nothing in the loss pushes it back. Raise led_k (or top_k, top_p), lower the learning rate or temperature, or "
    "mix in standard rollouts (led_share)"
)
logger = logging.getLogger(__name__)


class LEDGRPOTrainer(LiveEvaluation, ScheduledTrainer):
    """`trl.GRPOTrainer` whose rollouts may be sampled with LED. The only changes to TRL's:

    * the rollout engine is `LEDVLLMGeneration`: vLLM that captures latent states, seeded with the run's seed, its
      arguments open to the recipe, its weights replaceable on CPU;
    * each rollout request carries the decoding, in its `extra_args` or, to a server, in its `vllm_xargs`; the
      log-probabilities that come back are those of the behaviour policy mu, and TRL's own importance-sampling
      correction uses them;
    * with `vllm_mode: server`, the server must prove at construction that it samples with LED (`LEDClient`);
    * logged beside TRL's metrics at every step: `rollout/*` (thinking, answer and total length in tokens, tokens/s),
      `time/*` (rollout, reward, weight_sync, training; seconds, the slowest process) and, with LED, `led/*`
      (explored fraction, confidence, entropies of mu and of the final layer in nats, share of each chosen depth),
      averaged over whole completions, all turns of a tool loop together (docs/watching.md);
    * with `train_support: sampled`, the log-probabilities of the loss, of the old policy and of the reference model are
      normalised over the ids that the engine could have drawn (supported_loss.py), and so are the entropy metric and
      the KL term; `led/support_mass` says how much of the policy lies there, `correction/*` how the ratios spread;
    * what would learn nothing in silence is an error: an infinite reward, a gradient that is no number, a dataset
      smaller than a batch (checks/);
    * completions that a `stop` string ended are not counted, nor masked, as cut short;
    * `save_total_limit` leaves copies of checkpoints alone; a run resumed within a batch rolls out in phase;
    * syncing merges adapters into copies: frozen weights are not rounded anew each time (merging.py);
    * decoding, temperature and the groups that are trained on may change over the steps (`ScheduledTrainer`);
    * evaluation samples `eval_dataset` with the live engine instead of computing a loss (`LiveEvaluation`).

    The advantages, the form of the loss and the data flow are TRL's. A plain GRPOConfig trains as with TRL's class.
    """

    args: LEDGRPOConfig
    vllm_generation: LEDVLLMGeneration
    _warned_of_mass = False

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: GRPOConfig | None = None, *positional: Any, **named: Any
    ):
        bound = inspect.signature(GRPOTrainer.__init__).bind(self, model, reward_funcs, args, *positional, **named)
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = LEDGRPOConfig(f"{name.split('/')[-1]}-GRPO")  # as TRL's
        elif not isinstance(args, LEDGRPOConfig):
            args = LEDGRPOConfig.standard(args)
        check_trainer_arguments(args, bound.arguments)
        reward_funcs = None if reward_funcs is None else checked_rewards(reward_funcs)
        self.decoding = args.decoding_params()
        self.clock = StepClock(self)
        self._turns: list[Turn] = []
        self._stopped: list[bool] | None = None  # of the last rollout, where stop strings may end completions
        self._supports: Supports | None = None  # of the batch that is scored now
        self._records: list[list[list[int]]] | None = None  # of the rollout that is being generated
        with rollouts_by(partial(self._make_rollouts, args)):
            super().__init__(model, reward_funcs, args, *positional, **named)
        self._switch = SupportSwitch()
        if args.needs_supports:
            for scored in (self.model, self.ref_model):
                if scored is not None:
                    scored = self.accelerator.unwrap_model(scored)
                    self._switch.install(scored.get_base_model() if is_peft_model(scored) else scored)
        self.markers = check_decoding(self.decoding, self.accelerator.unwrap_model(self._model).config, self._tokenizer)
        self.watchdog = Watchdog(self.clock, self.accelerator, args.watchdog_factor, args.watchdog_floor)
        self.completions, self.provenance = CompletionsTable(self), Provenance(self)
        for callback in (self.clock, self.watchdog, self.completions, self.provenance):
            self.add_callback(callback)
        if self.use_vllm:
            self.vllm_generation.enter = self.clock.enter

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with self.watchdog:
            return super().train(*args, **kwargs)

    def _make_rollouts(self, args: LEDGRPOConfig, **trl_arguments: Any) -> LEDVLLMGeneration:
        """The rollout engine; raises before it starts if the model cannot be sampled as the run asks."""
        served = args.vllm_mode == "server"
        options, requests, largest = EngineOptions(), {}, largest_decoding(args)
        if served or not self.decoding.is_standard:
            # A server may have a default decoding: requests for standard decoding say so too.
            wanted = self.decoding.to_extra_args() or {f"{PREFIX}_decoding": self.decoding.decoding}
            requests = {"vllm_xargs" if served else "extra_args": wanted}  # a server ignores the latter
            options = EngineOptions.for_decoding(largest, final_entropy=True)
        if args.needs_supports:
            options = EngineOptions.for_decoding(largest, final_entropy=True, support=True)
        config = trl_arguments["model"].config
        check_decoding(largest, config, self._tokenizer)
        check_architecture(config, args)
        check_tied_head(trl_arguments["model"])
        check_sampling_arguments(args)
        return LEDVLLMGeneration(
            decoding=largest,
            request_arguments=requests,
            options=options_for_evaluation(options, args),
            engine_arguments=dict(args.vllm_engine_arguments or {}),  # type: ignore[arg-type]
            run_seed=args.seed,
            wants_supports=args.needs_supports,
            request_timeout=args.vllm_server_request_timeout,
            **trl_arguments,
        )

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        # No collective here: within a tool loop a process may have more turns than another.
        completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if self.use_vllm:
            engine, blank = self.vllm_generation, [()] * len(completion_ids)
            supports = engine.supports if self.args.needs_supports else blank
            stopped = engine.stopped if engine.wants_endings else blank
            assert supports is not None
            assert stopped is not None
            self._turns += map(Turn, prompt_ids, completion_ids, supports, map(bool, stopped))
        return completion_ids, None if logprobs is None else finite_or_none(logprobs)

    def _generate(self, prompts: list) -> Any:
        self._turns = []
        self.clock.enter(ROLLOUT)
        generated = super()._generate(prompts)
        prompt_ids, completion_ids, tool_mask = generated[:3]
        if self.args.needs_supports:
            self._records = align_turns(self._turns, prompt_ids, completion_ids)
        self._stopped = None
        if self.use_vllm and self.vllm_generation.wants_endings and self.rollout_func is None:
            self._stopped = self._correct_endings(prompt_ids, completion_ids, tool_mask)
        self._log_rollout(prompt_ids, completion_ids, tool_mask)
        self.completions.note(completion_ids, self._records)
        self.clock.enter(TRAINING)
        return generated

    def _correct_endings(self, prompts: Any, completions: Any, tool_mask: Any) -> list[bool]:
        """Whether each completion was cut short; replaces TRL's metrics of it, which take stop strings for cuts."""
        ends = [*self.eos_token_ids, self._tokenizer.pad_token_id]
        cut = cut_short(completions, stopped(self._turns, prompts, completions), ends)
        lengths = [len(ids) for ids in completions] if tool_mask is None else [sum(mask) for mask in tool_mask]
        local = torch.tensor([lengths, cut], device=self.accelerator.device).T.contiguous()  # (completions, 2)
        all_lengths, all_cut = self.accelerator.gather(local).cpu().T
        for name, value in ending_metrics(all_lengths, all_cut.bool()).items():
            self._metrics[self._mode][name][-1] = value
        return cut

    def _log_rollout(self, prompts: Any, completions: Any, tool_mask: Any) -> None:
        """Lengths and LED statistics of one rollout, over all processes."""
        unmarked = self.decoding.think_start == "prompt"
        lengths = lengths_of(prompts, completions, tool_mask, self.markers, unmarked)
        statistics = self.vllm_generation.take_statistics() if self.use_vllm else None
        values = torch.tensor([*lengths, *(statistics or {}).values()], dtype=torch.float64)
        (*lengths,) = self.accelerator.reduce(values.to(self.accelerator.device, torch.float32), "sum").tolist()
        if statistics is not None:
            statistics = dict(zip(statistics, lengths[3:], strict=True))
        self.clock.tokens += lengths[1]
        for name, value in rollout_metrics(
            lengths[:3], statistics, self.rollout_decoding, self.markers is not None
        ).items():
            self.append_metric(name, value)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        masks_cut = self.mask_truncated_completions
        if self.use_vllm and self.vllm_generation.wants_endings and self.rollout_func is None:
            self.mask_truncated_completions = False  # TRL's would mask what a stop string ended
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.mask_truncated_completions = masks_cut
        self.completions.take()
        if masks_cut and self._stopped is not None:
            mask_cut(output, torch.tensor(self._stopped, device=self.accelerator.device))
            counted = output["completion_mask"] * output.get("tool_mask", 1)
            output["num_items_in_batch"] = self.accelerator.gather(counted.sum()).sum()
        if self._supports is None and self._records is not None:  # nothing was scored on the way
            self._supports = Supports.of(self._records, output["completion_ids"].shape[1], self.accelerator.device)
        if self._supports is not None:
            output["support_ids"], output["support_explored"] = self._supports.ids, self._supports.explored
            self._log_correction(output, self._supports)
        self._supports = self._records = None
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if not self.decoding.is_standard:
            # off_policy_mask_threshold is to measure how far the policy has moved since the rollout. TRL would compare
            # the policy with mu, and mask what LED explored, although that is wanted and corrected for. Without this
            # input TRL compares it with the old policy, which is taken over the supports.
            inputs = {name: value for name, value in inputs.items() if name != "sampling_per_token_logps"}
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
        with self._switch.over(self._supports, gauges=in_loss, temperature=self.loss_temperature) as head:
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
        self.append_metric("led/support_mass", mean)
        if mean < LEAST_SUPPORT_MASS and not self._warned_of_mass and self.accelerator.is_main_process:
            logger.warning(LITTLE_MASS.format(mass=mean, step=self.state.global_step + 1))
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
            self.append_metric(f"correction/{name}", value)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.judging():
            rewards = super()._calculate_rewards(*args, **kwargs)
            check_rewards(rewards, self.reward_func_names)
        return rewards

    @property
    def _model(self) -> Any:
        return self.model  # transformers types it as optional

    @property
    def _mode(self) -> str:
        return "train" if self._model.training else "eval"

    def append_metric(self, name: str, value: float) -> None:
        """Adds to the metrics of the next log, which holds the mean."""
        self._metrics[self._mode][name].append(value)

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        check_gradient(grad_norm, self.state.global_step, bool(self.args.fp16))  # before this step's weights are saved
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        with self.completions.instead_of_trl():
            super().log(logs, start_time)
        depths = [logs[name] for name in sorted(logs, key=_depth_of) if _depth_of(name) >= 0]
        if depths and self.accelerator.is_main_process and "wandb" in (self.args.report_to or []):
            import wandb

            if wandb.run is not None:
                histogram = (np.array(depths), np.arange(len(depths) + 1) - 0.5)
                wandb.log({"led/depth": wandb.Histogram(np_histogram=histogram)}, commit=False)


def _depth_of(metric: str) -> int:
    """j of `led/depth_j`, -1 for other metrics."""
    name, _, depth = metric.rpartition("_")
    return int(depth) if name == "led/depth" and depth.isdigit() else -1
