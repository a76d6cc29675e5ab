"""What the layers of a model hold while it thinks: the quantities behind LED, per layer, token and position.

For each thinking token, at the position that it is drawn from, with p_l layer l's posterior at temperature T, C the
final layer's k most probable tokens, and LED's latent layers l = L-1 ... L-d+1:

    entropy            H(p_l) / log V, over the whole vocabulary                        with and without the final norm
    top1, top2, top_k  mass of layer l's own 1, 2, k most probable tokens
    candidate_mass     mass that layer l gives to C
    overlap            share of C among layer l's own k most probable tokens
    candidate_entropy  H of p_l on C, floored at EPS and renormalised, in nats
    confidence         max p_L;  1 - confidence is the probability that LED explores
    depth              LED's j* (led_rl/led.py)

Sums are kept by problem: the tokens of one problem depend on each other, so intervals resample problems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from led_rl.decoding import DecodingParams
from led_rl.evaluation.estimates import Floats
from led_rl.evaluation.layers.reader import LayerReader
from led_rl.led import EPS, combine, entropy

MEASURES = ("entropy", "top1", "top2", "top_k", "candidate_mass", "overlap", "candidate_entropy")
SCALARS = (
    "final_entropy",  # nats, on C, of the final layer
    "latent_entropy",  # nats, on C, of the one of LED's latent layers whose entropy is largest
    "explore_entropy",  # nats, of LED's q
    "mu_entropy",  # nats, of what LED draws from
    "explored",  # 1 - confidence
    "explore_gain",  # (1 - confidence) * (H(q) - H(b)): what LED adds where it explores
    "latent_overlap",  # overlap, mean of LED's latent layers
    "confident",  # confidence >= CONFIDENT
    "hidden",  # confident, and latent_entropy >= HIGH_ENTROPY
)
CONFIDENT = 0.9
HIGH_ENTROPY = float(np.log(2))  # nats: that of two equally probable candidates
CONFIDENCE_BINS = 20
POSITION_BINS = 10
LOGITS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Thought:
    """One completion, and which of its tokens were thought."""

    problem: str
    prompt: Sequence[int]
    completion: Sequence[int]
    thinking: Sequence[bool]
    explored: Sequence[bool] | None = None  # where LED really explored, if that is known


@dataclass(frozen=True)
class Analysis:
    """Sums over thinking tokens by problem; P problems, L layers."""

    problems: list[str]
    tokens: Floats  # (P,) thinking tokens read
    layers: Floats  # (P, 2, MEASURES, L + 1): without and with the final norm; the final layer always has it
    scalars: Floats  # (P, SCALARS)
    confidence: Floats  # (P, CONFIDENCE_BINS) tokens by confidence
    depth: Floats  # (P, d) tokens by j*
    positions: Floats  # (P, POSITION_BINS, 4): 1 - confidence, tokens; really explored, tokens where that is known
    k: int
    temperature: float
    vocabulary: int
    latent_layers: tuple[int, ...]
    has_norm: bool  # False: layers[:, 1] holds NaN

    def layer_means(self, measure: str, norm: bool = False) -> Floats:
        """(L + 1,) mean over tokens."""
        return self.layers[:, int(norm), MEASURES.index(measure)].sum(0) / self.tokens.sum()

    def scalar(self, name: str) -> Floats:
        """(P,) sums by problem."""
        return self.scalars[:, SCALARS.index(name)]


def analyse(
    reader: LayerReader,
    thoughts: Sequence[Thought],
    decoding: DecodingParams,
    temperature: float = 1.0,
    *,
    positions_each: int = 0,
    done: Callable[[], object] = lambda: None,
) -> Analysis:
    """Reads the layers at the thinking tokens of `thoughts`.

    Args:
        decoding: LED's parameters: k, and the latent layers that it reads.
        positions_each: thinking tokens of a completion that are read, evenly spread; 0 reads all.
        done: called after each completion.

    Raises:
        ValueError: no token was thought.
        DecodingError: the model has fewer layers than `decoding` reads.
    """
    latent = decoding.layers(reader.layers)
    problems = list(dict.fromkeys(thought.problem for thought in thoughts if any(thought.thinking)))
    if not problems:
        raise ValueError("no completion holds a thinking token")
    numbers = {problem: number for number, problem in enumerate(problems)}
    sums = [_Sums(reader.layers + 1, len(latent) + 1) for _ in problems]
    for thought in thoughts:
        thinking = [i for i, thinks in enumerate(thought.thinking) if thinks]
        if thinking:
            places = _spread(len(thinking), positions_each)
            bins = {
                len(thought.prompt) - 1 + thinking[place]: place * POSITION_BINS // len(thinking) for place in places
            }  # by the position that a token is drawn from
            into = sums[numbers[thought.problem]]
            for positions, states in reader.states([*thought.prompt, *thought.completion], sorted(bins)):
                settings = decoding, latent, temperature
                _read_block(reader, states, settings, into, [bins[position] for position in positions])
            if thought.explored is not None:
                for place, bin_ in zip(places, bins.values(), strict=True):
                    into.positions[bin_, 2:] += (float(thought.explored[thinking[place]]), 1.0)
        done()
    return Analysis(
        problems,
        np.array([one.tokens for one in sums]),
        np.stack([one.layers for one in sums]),
        np.stack([one.scalars for one in sums]),
        np.stack([one.confidence for one in sums]),
        np.stack([one.depth for one in sums]),
        np.stack([one.positions for one in sums]),
        min(decoding.k, reader.vocabulary),
        temperature,
        reader.vocabulary,
        latent,
        reader.has_norm,
    )


class _Sums:
    """Of one problem; fields as in `Analysis`, without its first axis."""

    def __init__(self, layers: int, depths: int):
        self.tokens = 0.0
        self.layers = np.zeros((2, len(MEASURES), layers))
        self.scalars = np.zeros(len(SCALARS))
        self.confidence = np.zeros(CONFIDENCE_BINS)
        self.depth = np.zeros(depths)
        self.positions = np.zeros((POSITION_BINS, 4))


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` of the numbers 0 ... count - 1, evenly spread; all of them if wanted is 0 or above count."""
    if not 0 < wanted < count:
        return list(range(count))
    return [int((i + 0.5) * count / wanted) for i in range(wanted)]


Settings = tuple[DecodingParams, Sequence[int], float]  # LED's parameters, its latent layers, the temperature


def _read_block(
    reader: LayerReader, states: Sequence[Tensor], settings: Settings, into: _Sums, bins: Sequence[int]
) -> None:
    """Adds the tokens of one block of positions to `into`.

    Args:
        states: layers + 1 of (positions, hidden).
        bins: (positions,) the bin of POSITION_BINS that a token counts for.
    """
    size = max(1, LOGITS_AT_ONCE // reader.vocabulary)
    for start in range(0, len(bins), size):
        rows = slice(start, start + size)
        explored = _read_rows(reader, [state[rows] for state in states], settings, into)
        for bin_, share in zip(bins[rows], explored, strict=True):
            into.positions[bin_, :2] += (share, 1.0)


def _read_rows(reader: LayerReader, states: Sequence[Tensor], settings: Settings, into: _Sums) -> list[float]:
    """Adds rows whose logits fit into memory at once; returns 1 - confidence of each."""
    decoding, latent, temperature = settings
    last = len(states) - 1
    final = (reader.logits(states[last]) / temperature).softmax(-1)  # (rows, vocab)
    candidates = final.topk(min(decoding.k, final.shape[-1]), dim=-1).indices  # (rows, k)
    on_final, sums, own = _measure(final, candidates)
    into.layers[:, :, last] += sums
    posteriors = {last: on_final}
    overlaps = {}
    for normed in (False, True) if reader.has_norm else (False,):
        for layer, state in enumerate(states[:last]):
            ready = reader.norm(state) if normed else state
            on_candidates, sums, own = _measure((reader.logits(ready) / temperature).softmax(-1), candidates)
            into.layers[int(normed), :, layer] += sums
            if normed == decoding.latent_norm:
                posteriors[layer], overlaps[layer] = on_candidates, own
    if not reader.has_norm:
        into.layers[1] = np.nan
    order = torch.stack([posteriors[layer] for layer in (last, *latent)], dim=1)  # (rows, depth, k)
    led = combine(
        candidates,
        order,
        torch.ones_like(candidates, dtype=torch.bool),
        exploit=decoding.exploit,
        aggregation=decoding.aggregation,
    )
    entropies = entropy(_on_candidates(order))  # (rows, depth)
    confidence = led.confidence.double()
    largest = entropies[:, 1:].amax(1) if latent else entropies[:, 0]
    overlap = torch.stack([overlaps[layer] for layer in latent]).mean(0) if latent else torch.ones_like(confidence)
    confident = confidence >= CONFIDENT
    explore, exploit = entropy(led.explore.double()), entropy(led.exploit.double())
    values = {
        "final_entropy": entropies[:, 0],
        "latent_entropy": largest,
        "explore_entropy": explore,
        "mu_entropy": entropy(led.mu.double()),
        "explored": 1 - confidence,
        "explore_gain": (1 - confidence) * (explore - exploit),
        "latent_overlap": overlap,
        "confident": confident.double(),
        "hidden": (confident & (largest >= HIGH_ENTROPY)).double(),
    }
    into.scalars += np.array([values[name].sum().item() for name in SCALARS])
    into.tokens += len(confidence)
    bins = (confidence * CONFIDENCE_BINS).long().clamp_max(CONFIDENCE_BINS - 1)
    into.confidence += torch.bincount(bins, minlength=CONFIDENCE_BINS).cpu().numpy()
    into.depth += torch.bincount(led.depth, minlength=len(into.depth)).cpu().numpy()
    return (1 - confidence).tolist()


def _measure(posterior: Tensor, candidates: Tensor) -> tuple[Tensor, Floats, Tensor]:
    """Of one layer: its posterior on the candidates (rows, k), sums of MEASURES over rows, overlap (rows,)."""
    vocabulary = posterior.shape[-1]
    top = posterior.topk(candidates.shape[-1], dim=-1)
    on_candidates = posterior.gather(-1, candidates)
    shared = (top.indices[:, :, None] == candidates[:, None]).any(1).double().mean(-1)  # (rows,)
    values = {
        "entropy": torch.special.entr(posterior).sum(-1) / float(np.log(vocabulary)),
        "top1": top.values[:, 0],
        "top2": top.values[:, :2].sum(-1),
        "top_k": top.values.sum(-1),
        "candidate_mass": on_candidates.sum(-1),
        "overlap": shared,
        "candidate_entropy": entropy(_on_candidates(on_candidates)),
    }
    return on_candidates, np.array([values[name].double().sum().item() for name in MEASURES]), shared


def _on_candidates(posterior: Tensor) -> Tensor:
    """(..., k) posteriors on the candidates, floored and renormalised, float64."""
    floored = posterior.double().clamp_min(EPS)
    return floored / floored.sum(-1, keepdim=True)
