"""Evaluation during training: the live engine with freshly synced weights, under each of several decodings.

Training goes on bit for bit as it would without: the random numbers of torch, numpy and Python are put back,
the seconds and statistics of the engine too, and training syncs its weights itself, which empties the prefix cache.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from led_rl.decoding import DecodingParams
from led_rl.sampler.capture_options import EngineOptions, admitting
from led_rl.training.evaluation_keys import evaluates, evaluation_decodings
from led_rl.training.rollout import LEDVLLMGeneration, replaced
from led_rl.training.schedules.requests import with_decoding
from rewards import call_reward

CORRECT_FROM = 1.0  # of the first reward


def options_for_evaluation(options: EngineOptions, args: Any) -> EngineOptions:
    """What the engine must capture so that evaluation can read latent layers, where rollouts do not read them."""
    decodings = list(evaluation_decodings(args).values()) if evaluates(args) else []
    if not args.decoding_params().reads_depth and (latent := next((d for d in decodings if d.reads_depth), None)):
        kept = {"final_entropy": options.final_entropy, "support": options.support}
        options = replace(EngineOptions.for_decoding(latent, **kept), baselines=options.baselines)
    return replace(options, baselines=tuple(dict.fromkeys((*options.baselines, *admitting(decodings)))))


def pass_metrics(correct: np.ndarray) -> dict[str, float]:
    """pass@1 and pass@n of (problems, n) verdicts; NaN ones, which cannot be judged, count as no sample."""
    judged = ~np.isnan(correct)
    if not judged.any():
        return {}
    whole = judged.all(1)
    rates = np.nansum(correct, 1)[judged.any(1)] / judged.sum(1)[judged.any(1)]
    metrics = {"pass@1": float(rates.mean())}
    if (n := correct.shape[1]) > 1 and whole.any():
        metrics[f"pass@{n}"] = float(correct[whole].any(1).mean())
    return metrics


class LiveEvaluation:
    """Mixed into a GRPOTrainer: `evaluate` samples `eval_dataset` instead of computing a loss on it.

    Metrics, by decoding: `eval_DECODING_pass@1`, `eval_DECODING_pass@K` with K = eval_samples, `eval_DECODING_length`
    (mean completion, tokens), `eval_DECODING_truncated` (share cut off), `eval_DECODING_reward`,
    `eval_DECODING_unjudged` (share), `eval_DECODING_seconds`; with several datasets, `eval_NAME_DECODING_...`. A sample
    is correct if its dataset's reward (the first one, but for benchmarks) gives it at least CORRECT_FROM.

    TRL's own evaluation stays where there is no vLLM engine or no `eval_decodings` (a plain GRPOConfig), and where
    tools or a rollout function generate.
    """

    evaluation_rewards: dict[str, Any]  # by dataset; the first reward judges the others
    args: Any
    vllm_generation: Any
    state: Any
    accelerator: Any

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        trainer: Any = self
        if not (trainer.use_vllm and trainer.args.eval_decodings) or trainer.rollout_func is not None or trainer.tools:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # type: ignore[misc]
        datasets = trainer.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(datasets, dict):
            datasets = {"": datasets}
        rewards = getattr(self, "evaluation_rewards", {})
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        was_training = trainer.model.training
        trainer.model.eval()  # what is logged now is evaluation's
        try:
            with self._apart_from_training():
                self.vllm_generation.sync_weights()
                for name, dataset in datasets.items():
                    for label, decoding in evaluation_decodings(self.args).items():
                        torch.manual_seed(self.args.eval_seed * 1_000_003 + self.accelerator.process_index)
                        found = self._evaluate_one(dataset, decoding, rewards.get(name, trainer.reward_funcs[0]))
                        prefix = "_".join(filter(None, (metric_key_prefix, name, label)))
                        metrics |= {f"{prefix}_{metric}": value for metric, value in found.items()}
            metrics[f"{metric_key_prefix}_seconds"] = time.perf_counter() - started
            with replaced(trainer, "log_completions", False):  # the table of the last training step stands
                trainer.log(metrics)
        finally:
            trainer.model.train(was_training)
        trainer.control = trainer.callback_handler.on_evaluate(self.args, self.state, trainer.control, metrics)
        return metrics

    @contextmanager
    def _apart_from_training(self) -> Iterator[None]:
        """Keeps evaluation out of the run's random numbers, seconds and statistics."""
        engine = self.vllm_generation
        seconds = engine.generate_seconds, engine.sync_seconds
        states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that others draw from
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        try:
            with torch.random.fork_rng(devices):
                yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            engine.generate_seconds, engine.sync_seconds = seconds
            engine.take_statistics()

    def _evaluate_one(self, dataset: Dataset, decoding: DecodingParams, reward: Any) -> dict[str, float]:
        """Metrics of one dataset under one decoding, over all processes."""
        trainer: Any = self
        started = time.perf_counter()
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        n, count = self.args.eval_samples, len(dataset)
        # every process takes equally many problems, as a tensor-parallel group needs; those beyond the last one repeat
        mine = [(rank + i * processes) % count for i in range(-(-count // processes))]
        fresh = [rank + i * processes < count for i in range(len(mine))]
        rows = [dataset[i] for i in mine for _ in range(n)]
        completions = self._sample([row["prompt"] for row in rows], decoding)
        ends = {*trainer.eos_token_ids} if hasattr(trainer, "eos_token_ids") else {trainer._tokenizer.eos_token_id}
        verdicts = self._judge(reward, rows, completions)
        local = [
            (mine[i], verdicts[i * n + j], len(ids := completions[i * n + j]), not ids or ids[-1] not in ends)
            for i in range(len(mine))
            if fresh[i]
            for j in range(n)
        ]
        gathered = sorted(gather_object(local), key=lambda row: row[0])
        rewards = np.array([row[1] for row in gathered], dtype=float).reshape(-1, n)  # (problems, n) NaN: unjudged
        correct = np.where(np.isnan(rewards), np.nan, rewards >= CORRECT_FROM)
        judged = ~np.isnan(rewards)
        return {
            **pass_metrics(correct),
            **({"reward": float(rewards[judged].mean())} if judged.any() else {}),
            "unjudged": float(1 - judged.mean()),
            "length": float(np.mean([row[2] for row in gathered])),
            "truncated": float(np.mean([row[3] for row in gathered])),
            "seconds": time.perf_counter() - started,
        }

    def _sample(self, prompts: Sequence[Any], decoding: DecodingParams) -> list[list[int]]:
        """One completion for each prompt; prompts repeat eval_samples times in a row."""
        trainer, engine = self, self.vllm_generation
        prompt_ids = trainer._tokenize_prompts(list(prompts))[0]  # type: ignore[attr-defined]
        given = with_decoding(engine.generation_kwargs or {}, decoding, engine.mode == "server")
        with replaced(engine, "generation_kwargs", given):
            # TRL's own method: the subclass would count these tokens as a rollout's
            return super(LEDVLLMGeneration, engine).generate(  # type: ignore[misc]
                prompt_ids, None, self.args.eval_samples
            )[1]

    def _judge(self, reward: Any, rows: Sequence[dict[str, Any]], completions: Sequence[list[int]]) -> list[float]:
        """The reward of each completion; NaN where there is nothing to judge. Raises RewardError."""
        trainer: Any = self
        texts = trainer.processing_class.batch_decode(completions, skip_special_tokens=True)
        chat = isinstance(rows[0]["prompt"], list)
        columns = {name: [row[name] for row in rows] for name in rows[0] if name not in ("prompt", "completion")}
        rewards = call_reward(
            reward,
            [[{"role": "assistant", "content": text}] if chat else text for text in texts],
            prompts=[row["prompt"] for row in rows],
            completion_ids=list(completions),
            trainer_state=self.state,
            log_extra=lambda column, values: None,
            log_metric=lambda name, value: None,
            **columns,
        )
        return [float("nan") if value is None else value for value in rewards]
