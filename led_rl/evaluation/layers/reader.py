"""Reads the layers of any causal language model of transformers: states of chosen positions, final norm, LM head.

Nothing here knows an architecture. The head is the model's own forward pass behind its base model, so that scaled and
capped logits are included; the final norm is the module whose output is the last hidden state. Both are checked
against the model's own logits before anything is read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from led_rl.decoding import UserError

TOLERANCE = 2e-2  # relative, of the check that the head gives the model's own logits; wide enough for bfloat16
POSITIONS_AT_ONCE = 512  # of one forward pass: bounds the states that are held at once


class UnreadableModelError(UserError):
    """A model whose layers cannot be read with its own head."""


class LayerReader:
    """A loaded model in evaluation mode, and how to read its layers.

    Attributes:
        layers: transformer layers; `states` returns one more, the embeddings first.
        vocabulary: logits of a state.

    Raises:
        UnreadableModelError: the model's logits are not its head applied to its last hidden state.
    """

    def __init__(self, model: Any):
        self.model = model
        self.device = next(model.parameters()).device
        self._norm: Any = None
        self._check()

    @torch.no_grad()
    def _check(self) -> None:
        seen: list[tuple[Any, Tensor]] = []
        hooks = [
            module.register_forward_hook(lambda module, _, output: seen.append((module, output)))
            for name, module in self.model.named_modules()
            if "norm" in type(module).__name__.lower() and not any(part.isdigit() for part in name.split("."))
        ]
        try:
            output = self.model(torch.tensor([[1, 2]], device=self.device), output_hidden_states=True, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        states, name = output.hidden_states, type(self.model).__name__
        if not states:
            raise UnreadableModelError(f"{name} does not hand on its layers' states")
        self.layers, self.vocabulary = len(states) - 1, output.logits.shape[-1]
        self._norm = next((module for module, normed in reversed(seen) if torch.equal(normed, states[-1])), None)
        own = output.logits[0].to(torch.promote_types(output.logits.dtype, torch.float32))
        try:
            read = self.logits(states[-1][0])
        except (TypeError, AttributeError, RuntimeError) as error:
            raise UnreadableModelError(f"the LM head of {name} cannot be applied to a state: {error}") from error
        if read.shape != own.shape or (read - own).abs().max() > TOLERANCE * (1 + own.abs().max()):
            raise UnreadableModelError(
                f"{name} does not apply its LM head to its last hidden state; its layers cannot be read with the head"
            )

    @property
    def has_norm(self) -> bool:
        """Whether the final norm was found."""
        return self._norm is not None

    def norm(self, states: Tensor) -> Tensor:
        """The model's final norm; (..., hidden) -> (..., hidden)."""
        return self._norm(states)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Logits of states that are ready for the head; (tokens, hidden) -> (tokens, vocab), float32 or finer."""
        from transformers.modeling_outputs import MoeModelOutputWithPast

        base = self.model.base_model
        inner = [base, *(getattr(base, name) for name in ("decoder",) if hasattr(base, name))]
        with _instead(inner, MoeModelOutputWithPast(last_hidden_state=cast(Any, states[None]))):
            logits = self.model(inputs_embeds=states[None], use_cache=False).logits[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def states(self, tokens: Sequence[int], positions: Sequence[int]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """States at ascending `positions` of one sequence, a block of positions at a time.

        Yields:
            The positions of a block, and layers + 1 tensors (positions of the block, hidden); the final norm has been
            applied to the last one and to no other.
        """
        wanted = set(positions)
        past = None
        for start in range(0, max(wanted) + 1, POSITIONS_AT_ONCE):
            block = tokens[start : start + POSITIONS_AT_ONCE]
            output = self.model(
                torch.tensor([list(block)], device=self.device),
                past_key_values=past,
                use_cache=True,
                output_hidden_states=True,
                logits_to_keep=1,
            )
            past = output.past_key_values
            here = [start + i for i in range(len(block)) if start + i in wanted]
            if here:
                index = torch.tensor([position - start for position in here], device=self.device)
                yield here, [state[0].index_select(0, index) for state in output.hidden_states]


@contextmanager
def _instead(modules: Sequence[Any], output: Any) -> Iterator[None]:
    """While open, calling any of `modules` returns `output`."""
    for module in modules:
        module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for module in modules:
            del module.forward
