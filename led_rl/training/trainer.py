"""GRPO with LED rollouts: TRL's trainer and the few methods in which ours differs."""

import logging
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from led_rl.decoding import PREFIX, DecodingParams
from led_rl.sampler.capture_options import EngineOptions
from led_rl.thinking import MissingMarkersError, ThinkMarkers
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.rollout import LEDVLLMGeneration, rollouts_by

NO_THOUGHT = (
    "decoding: {decoding!r}, but no token of this rollout was sampled with it: no prompt ends inside a think part and "
    "no completion opened one. Use a chat template that opens <think>, or led_think_only: false."
)
logger = logging.getLogger(__name__)


class LEDGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` whose rollouts may be sampled with LED. The only changes to TRL's:

    * the rollout engine is `LEDVLLMGeneration`: vLLM that captures latent states, seeded with the run's seed, its
      arguments open to the recipe, its weights replaceable on CPU;
    * each rollout request carries the decoding, in its `extra_args` or, to a server, in its `vllm_xargs`; the
      log-probabilities that come back are those of the behaviour policy mu, and TRL's own importance-sampling
      correction uses them;
    * with `vllm_mode: server`, the server must prove at construction that it samples with LED (`LEDClient`);
    * logged beside TRL's metrics at every step: `rollout/*` (thinking, answer and total length in tokens, tokens/s),
      `time/*` (rollout, reward, weight_sync, training; seconds, the slowest process) and, with LED, `led/*`
      (explored fraction, confidence, entropies of mu and of the final layer in nats, share of each chosen depth; not
      with a server, which hands on tokens and log-probabilities alone).

    The loss, the advantages, the data flow and checkpoints are TRL's.
    """

    args: LEDGRPOConfig
    vllm_generation: LEDVLLMGeneration

    def __init__(self, model: Any, reward_funcs: Any = None, args: LEDGRPOConfig | None = None, **kwargs: Any):
        args = args or LEDGRPOConfig("led-grpo")
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
        make_rollouts = partial(
            LEDVLLMGeneration,
            decoding=self.decoding,
            options=options,
            engine_arguments=dict(args.vllm_engine_arguments or {}),
            run_seed=args.seed,
        )
        with rollouts_by(make_rollouts):
            super().__init__(model, reward_funcs, args, **kwargs)
        self.markers = check_decoding(self.decoding, self._model.config, self._tokenizer)
        if served and not self.decoding.is_standard and self.accelerator.is_main_process:
            logger.warning("rollouts come from a server: led/* is not logged, rollout/* and time/* are")
        self.add_callback(_StepClock(self))

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self._log_rollout(prompt_ids, completion_ids)
        return completion_ids, logprobs

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


def check_decoding(
    decoding: DecodingParams, model_config: Any, tokenizer: PreTrainedTokenizerBase
) -> ThinkMarkers | None:
    """The tokenizer's think markers, None if it has none and needs none.

    Raises:
        DecodingError: the model has fewer layers than the decoding reads.
        MissingMarkersError: the decoding follows the thinking phase, and the tokenizer cannot spell its markers.
    """
    decoding.layers(model_config.get_text_config().num_hidden_layers)
    try:
        return ThinkMarkers.from_tokenizer(tokenizer, decoding.start_marker, decoding.end_marker)
    except MissingMarkersError:
        if decoding.is_standard or not decoding.think_only:
            return None
        raise


def _depth_of(metric: str) -> int:
    """j of `led/depth_j`, -1 for other metrics."""
    name, _, depth = metric.rpartition("_")
    return int(depth) if name == "led/depth" and depth.isdigit() else -1
