"""LED generation with transformers: slow and obvious. The oracle that other engines are tested against."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from led_rl.decoding import DecodingError, DecodingParams, is_tied
from led_rl.engines.engine import Completion, Request, Sampling
from led_rl.led import LEDDistribution, led_distribution
from led_rl.methods.dola import dola
from led_rl.methods.near_final import near_final
from led_rl.thinking import ThinkMarkers


class TransformersEngine:
    """A causal LM of transformers as an `Engine` (engine.py): batched, left-padded, with a KV cache.

    Args:
        model: checkpoint folder or hub id, loaded in float32, or a loaded `PreTrainedModel`.
        tokenizer: needed if `model` is a loaded model.
        max_num_seqs: sequences of a batch of `step`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, max_num_seqs: int = 64):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if isinstance(model, str):
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
            model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        if getattr(model.config, "attn_logit_softcapping", None):
            model.set_attn_implementation("eager")  # the default one leaves Gemma 2's cap on attention out
        self.model = model.eval()
        self.tied = is_tied(model.config)
        self.capacity = self.max_num_seqs = max_num_seqs
        self._waiting: list[tuple[int, Request]] = []
        self.tokenizer = tokenizer
        end = model.generation_config.eos_token_id
        self.end_tokens = {tokenizer.eos_token_id, *(end if isinstance(end, list) else [end])} - {None}

    def markers(self, decoding: DecodingParams) -> ThinkMarkers:
        return decoding.markers(self.tokenizer)

    def layer_logits(self, hidden_states: Sequence[Tensor], decoding: DecodingParams) -> Tensor:
        """(..., hidden) states after 0 ... L layers -> (..., depth, vocab) logits before temperature, final first.

        transformers has applied the final norm to the last of them, and to no other. Gemma 2's cap on final logits is
        part of the head: it holds for latent layers, too.
        """
        head = self.model.get_output_embeddings()
        states = [hidden_states[-1]]
        for layer in decoding.layers(len(hidden_states) - 1, self.tied):
            state = hidden_states[layer]
            states.append(self.model.base_model.norm(state) if decoding.normed else state)
        logits = head(torch.stack(states, dim=-2)).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @torch.no_grad()
    def policy(self, token_ids: Sequence[int], decoding: DecodingParams, temperature: float) -> Tensor:
        """(len(token_ids), vocab) probabilities of `dola` or `near_final` after every prefix of one sequence."""
        states = self.model(torch.tensor([list(token_ids)]), output_hidden_states=True).hidden_states
        return chosen_layer_policy(self.layer_logits([state[0] for state in states], decoding), decoding, temperature)

    @torch.no_grad()
    def distributions(
        self, token_ids: Sequence[int], decoding: DecodingParams, temperature: float
    ) -> tuple[LEDDistribution, Tensor]:
        """The LED distribution after every prefix of one sequence, and its layers' posteriors.

        Returns:
            The distribution with rows = len(token_ids), and (rows, depth, vocab) probabilities, final layer first.
        """
        output = self.model(torch.tensor([list(token_ids)]), output_hidden_states=True)
        logits = self.layer_logits([state[0] for state in output.hidden_states], decoding)
        distribution = led_distribution(
            logits, decoding.k, temperature, exploit=decoding.exploit, aggregation=decoding.aggregation
        )
        return distribution, torch.softmax(logits / (temperature or 1.0), dim=-1)

    def add(self, index: int, request: Request) -> None:
        """Takes a request; its completion comes from `step` under the same index."""
        self._waiting.append((index, request))

    def step(self) -> list[tuple[int, Completion]]:
        """Runs one batch to its end: the requests that were added with the settings of the first."""
        first = self._waiting[0][1]
        alike = (first.decoding, replace(first.sampling, seed=0))
        batch = [(i, r) for i, r in self._waiting if (r.decoding, replace(r.sampling, seed=0)) == alike]
        batch = batch[: self.max_num_seqs]
        taken = {index for index, _ in batch}
        self._waiting = [(i, r) for i, r in self._waiting if i not in taken]
        prompts, seeds = [r.prompt for _, r in batch], [r.sampling.seed for _, r in batch]
        started = time.perf_counter()
        completions = self._sampled(prompts, seeds, first.decoding, first.sampling)
        wall_s = time.perf_counter() - started
        return [(index, replace(c, wall_s=wall_s)) for (index, _), c in zip(batch, completions, strict=True)]

    def generate(
        self, prompts: list[list[int]], decoding: DecodingParams, sampling: Sampling
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt of token ids, in order."""
        requests = [prompt for prompt in prompts for _ in range(sampling.n)]
        seeds = [sampling.seed * 1_000_003 + i for i in range(len(requests))]
        completions = self._sampled(requests, seeds, decoding, sampling)
        return [completions[i : i + sampling.n] for i in range(0, len(completions), sampling.n)]

    @torch.no_grad()
    def _sampled(
        self, requests: list[list[int]], seeds: list[int], decoding: DecodingParams, sampling: Sampling
    ) -> list[Completion]:
        """A completion for each prompt, drawn from a stream of its own seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        width = max(map(len, requests))
        pad = self.tokenizer.pad_token_id
        tokens = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in requests])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in requests])
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        unmarked = decoding.think_start == "prompt"
        automaton = self.markers(decoding).automaton
        phase = [automaton.state_after(prompt, unmarked) for prompt in requests]
        sampled: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        phases: list[list[bool]] = [[] for _ in requests]
        running = set(range(len(requests)))
        cache = None
        for _ in range(sampling.max_tokens):
            output = self.model(
                tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, output_hidden_states=True
            )
            cache = output.past_key_values
            states = [state[:, -1] for state in output.hidden_states]
            thinking = [automaton.thinks(state) for state in phase]
            log_policy = self._log_policy(states, decoding, sampling, thinking)  # (rows, vocab)
            step = []
            for row, generator in enumerate(generators):
                token = int(torch.multinomial(log_policy[row].exp(), 1, generator=generator))
                step.append(token)
                if row not in running:
                    continue
                sampled[row].append(token)
                logprobs[row].append(float(log_policy[row, token]))
                phases[row].append(thinking[row])
                phase[row] = automaton.step(phase[row], token)
                if token in self.end_tokens:
                    running.discard(row)
            if not running:
                break
            tokens = torch.tensor(step)[:, None]
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=-1)
            positions = positions[:, -1:] + 1
        return [
            Completion(sampled[row], logprobs[row], phases[row], row not in running) for row in range(len(requests))
        ]

    def _log_policy(
        self, states: Sequence[Tensor], decoding: DecodingParams, sampling: Sampling, thinking: Sequence[bool]
    ) -> Tensor:
        """(rows, vocab) log-probabilities from which each row draws: its decoding's, or standard sampling."""
        logits = self.layer_logits(states, decoding)  # (rows, depth, vocab)
        policy = standard_policy(logits[:, 0], sampling)
        if decoding.decoding in CHOOSING:
            explored = chosen_layer_policy(logits, decoding, sampling.temperature)
        elif decoding.reads_latents:
            led = led_distribution(
                logits, decoding.k, sampling.temperature, exploit=decoding.exploit, aggregation=decoding.aggregation
            )
            explored = torch.zeros_like(policy).scatter_(-1, led.candidates, led.mu)
        elif decoding.decoding == "top_k_control":
            explored = standard_policy(logits[:, 0], Sampling(sampling.temperature, top_k=decoding.k))
        elif not decoding.is_standard:
            raise DecodingError(
                f"decoding {decoding.decoding!r} changes the forward pass, which the transformers engine does not: use "
                "engine: vllm"
            )
        else:
            return policy.log()
        rows = torch.tensor([on or not decoding.think_only for on in thinking])
        return torch.where(rows[:, None], explored, policy).log()

    def load_weights(self, checkpoint: str) -> None:
        """Replaces the weights in place by those of another checkpoint of the same architecture."""
        from transformers import AutoModelForCausalLM

        other = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(other.state_dict())

    def close(self) -> None:
        """Lets go of the model."""
        del self.model


CHOOSING = ("dola", "near_final")  # decodings that choose a layer


def chosen_layer_policy(logits: Tensor, decoding: DecodingParams, temperature: float) -> Tensor:
    """(rows, vocab) probabilities of `dola` or `near_final`.

    `logits`: (rows, 1 + latent layers, vocab) before temperature, final layer first (`layer_logits`).
    """
    final, latent = logits[:, 0], logits[:, 1:].unbind(1)
    k = min(decoding.k, final.shape[-1])
    greedy = torch.full((len(final),), temperature == 0)
    settings: dict[str, Any] = {"temperature": temperature or 1.0, "greedy": greedy}
    if decoding.decoding == "dola":
        values, candidates = final.topk(k, dim=-1)
        allowed = ~torch.isneginf(values)
        contrast = dola(final, latent, candidates, allowed, relative_top=decoding.dola_relative_top, **settings)
        policy = contrast.policy
    else:
        candidates, policy, *_ = near_final(final, latent, k, **settings)
    return torch.zeros_like(final).scatter_(-1, candidates, policy.to(final.dtype))


def standard_policy(logits: Tensor, sampling: Sampling) -> Tensor:
    """(rows, vocab) probabilities of temperature, min-p, top-k and top-p sampling, in vLLM's order."""
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / sampling.temperature
    if sampling.min_p:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < sampling.min_p * probabilities.amax(-1, keepdim=True), -torch.inf)
    if sampling.top_k:
        least = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        probabilities, order = logits.softmax(-1).sort(dim=-1, descending=True)
        beyond = probabilities.cumsum(-1) - probabilities >= sampling.top_p  # the first token always stays
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter_(-1, order, beyond), -torch.inf)
    return logits.softmax(-1)
