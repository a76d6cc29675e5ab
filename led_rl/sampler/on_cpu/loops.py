"""LED's draw on a CPU, one row after the other, compiled by numba.

A step of a small model is a few hundred operators of some microseconds each; the hundred that the draw takes in torch
would be a tenth of it. These loops do the same arithmetic as led_rl/led.py, request_slots.py and uniforms.py, to
which tests compare them, in four calls. What is large stays in torch: the LM head's product, the softmax.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from led_rl.led import EPS, TIE
from led_rl.sampler.columns import (
    AGGREGATION,
    COIN,
    CONFIDENCE,
    DECODING,
    DEPTH,
    DEPTHS,
    ENTROPY,
    ENTROPY_FINAL,
    EXPLOIT,
    EXPLORED,
    GREEDY,
    KEY,
    KNOWN,
    LARGEST_UNIFORM,
    LED,
    MAX_ENTROPY_LAYER,
    MEAN_ALL,
    ORDER,
    PRODUCT,
    ROWS,
    UNDRAWABLE,
    K,
)

GOLDEN, MIX_1, MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Followed(NamedTuple):
    """The batch's tables that the phases are followed in (request_slots.py), one row a request."""

    settings: np.ndarray  # (rows, columns) int64
    state: np.ndarray  # (rows,) int64, updated
    tokens: np.ndarray  # (>= rows,) int64 token fed in at each row
    positions: np.ndarray  # (>= rows,) int64
    alphabet: np.ndarray  # (states, letters) int64
    goto: np.ndarray  # (states, 1 + letters) int64
    thinks: np.ndarray  # (states,) bool


class Out(NamedTuple):
    """What the loops write of up to so many rows; the next step writes over it."""

    rows: np.ndarray  # (rows,) int64 rows that are drawn, in front
    uniform: np.ndarray  # (rows,) float64
    values: np.ndarray  # (rows, k) float32 largest logits
    log_p_top: np.ndarray  # (rows,) float64 log-probability of the largest
    tokens: np.ndarray  # (rows,) int64
    candidates: np.ndarray  # (rows, k) int64
    posterior: np.ndarray  # (rows, k) float64 of the final layer
    allowed: np.ndarray  # (rows, k) bool candidates that may be drawn
    policy: np.ndarray  # (rows, k) float64
    explored: np.ndarray  # (rows,) float64
    wanted: np.ndarray  # (rows,) int64 indices into `rows` whose latent layers are read, in front
    sums: np.ndarray  # (rows, statistics) float64 of the batch, updated


@njit(cache=True)
def follow(followed, out):
    """Phases (Working.follow): writes the rows that decode as asked and their uniform numbers; returns their number."""
    settings, state, tokens, positions, alphabet, goto, thinks = followed
    rows, uniform = out.rows, out.uniform
    count = 0
    for row in range(len(rows)):
        known = settings[row, KNOWN]
        if positions[row] >= known:
            symbol = 0
            for letter in range(alphabet.shape[1]):
                if alphabet[state[row], letter] == tokens[row]:
                    symbol = letter + 1
            state[row] = goto[state[row], symbol]
        if thinks[state[row]] and positions[row] >= known - 1:
            x = np.uint64(settings[row, KEY]) + np.uint64(positions[row] + 1) * GOLDEN
            x = (x ^ (x >> np.uint64(30))) * MIX_1
            x = (x ^ (x >> np.uint64(27))) * MIX_2
            x = x ^ (x >> np.uint64(31))
            rows[count] = row
            uniform[count] = float(x >> np.uint64(12)) * 2.0**-52
            count += 1
    return count


@njit(cache=True)
def top_k(logits, log_p, rows, values, candidates, log_p_top):
    """The largest of `rows` (n,) of (all rows, vocab) logits, largest first: (n, k) values and distinct ids.

    k <= vocab. log_p_top (n,) takes the first one's of `log_p`, the (all rows, vocab) log-probabilities.
    """
    for i in range(len(rows)):
        line, most, ids = logits[rows[i]], values[i], candidates[i]
        k = len(most)
        most[:] = -np.inf
        ids[:] = -1
        for token in range(len(line)):
            x = line[token]
            if x > most[k - 1]:
                j = k - 1
                while j > 0 and most[j - 1] < x:
                    most[j] = most[j - 1]
                    ids[j] = ids[j - 1]
                    j -= 1
                most[j] = x
                ids[j] = token
        unused = 0
        for j in range(k):
            if ids[j] < 0:  # fewer than k tokens are allowed: any others, once each
                while (ids == unused).any():
                    unused += 1
                ids[j] = unused
        log_p_top[i] = log_p[rows[i], ids[0]]


@njit(cache=True)
def take_one_candidate(settings, out, logits, n):
    """Rewrites the candidates of the undrawable among the first n of `out.rows` (final_layer.py), the token first.

    A row is undrawable where `log_p_top` is not finite. logits: (all rows, vocab).
    """
    for i in range(n):
        if not math.isfinite(out.log_p_top[i]):
            row, ids = out.rows[i], out.candidates[i]
            first = 0
            if settings[row, GREEDY]:
                line, infinite = logits[row], -1
                for token in range(len(line)):
                    if math.isnan(line[token]):
                        infinite = token
                        break
                    if infinite < 0 and line[token] == np.inf:
                        infinite = token
                first = max(infinite, 0)
            for j in range(len(ids)):
                ids[j] = 0 if j == first else j
            ids[0] = first


@njit(cache=True)
def draw_small_final(followed, out, logits, log_p, entropy_final, read_all):
    """`follow`, `top_k`, `take_one_candidate` and `draw_final`: the number of rows drawn, and of rows wanted."""
    n = follow(followed, out)
    top_k(logits, log_p, out.rows[:n], out.values, out.candidates, out.log_p_top)
    take_one_candidate(followed.settings, out, logits, n)
    return n, draw_final(followed.settings, out, entropy_final, read_all, n)


@njit(cache=True)
def draw_final(settings, out, entropy_final, read_all, n):
    """The final layer's part of the first n of `out.rows`, and the whole draw of those that read no latent layer.

    Needs rows, uniform, values, log_p_top and candidates; entropy_final: (all rows,) or empty. Fills `wanted` with the
    indices into `rows` that are left to draw_latent, whose policy is b so far, and returns their number.
    """
    rows, uniform, values, log_p_top, tokens = out.rows, out.uniform, out.values, out.log_p_top, out.tokens
    candidates, posterior, allowed, policy = out.candidates, out.posterior, out.allowed, out.policy
    explored, wanted, sums = out.explored, out.wanted, out.sums
    k = values.shape[1]
    count = 0
    for i in range(n):
        row = rows[i]
        led = settings[row, DECODING] == LED
        undrawable = not math.isfinite(log_p_top[i])
        for j in range(k):
            if undrawable:
                posterior[i, j], allowed[i, j] = (1.0 if j == 0 else 0.0), j == 0
            else:
                posterior[i, j] = math.exp(np.float64(values[i, j] - values[i, 0]) + np.float64(log_p_top[i]))
                allowed[i, j] = values[i, j] > -np.inf and j < settings[row, K]
            policy[i, j] = max(posterior[i, j], EPS if led else 0.0) if allowed[i, j] else 0.0
        _normalise(policy[i])
        if settings[row, GREEDY]:
            _to_argmax(policy[i])
        confidence = posterior[i, 0]
        explored[i] = 0.0
        reads = False
        if led and not undrawable:
            p_explore = 1 - confidence if settings[row, EXPLOIT] else 1.0
            reads, explored[i] = p_explore > 0 or read_all, p_explore  # of weight 0, q does not count
            if settings[row, COIN]:
                explore = uniform[i] < p_explore
                within = uniform[i] / p_explore if explore else (uniform[i] - p_explore) / (1 - p_explore)
                uniform[i] = min(max(within, 0.0), LARGEST_UNIFORM)
                explored[i] = 1.0 if explore else 0.0
                reads = explore or read_all
        sums[row, ROWS] += 1
        sums[row, CONFIDENCE] += confidence
        sums[row, EXPLORED] += explored[i]
        if undrawable:
            sums[row, UNDRAWABLE] += 1
        elif len(entropy_final):
            sums[row, ENTROPY_FINAL] += entropy_final[row]
        if reads:
            wanted[count] = i
            count += 1
        else:
            tokens[i] = candidates[i, _drawn(policy[i], uniform[i])]
            sums[row, ENTROPY] += _entropy(policy[i])
    return count


@njit(cache=True)
def gather(states, settings, out, wanted, layers, gathered):
    """The latent states of `wanted` rows, from (captured, max_rows, hidden) into (m * layers, hidden)."""
    for w in range(len(wanted)):
        row = out.rows[wanted[w]]
        for layer in range(layers):
            gathered[w * layers + layer] = states[settings[row, ORDER + layer], row]


@njit(cache=True)
def draw_small_latent(logits, vocab, scale, temperature, settings, out, wanted, table, depths):
    """`latent_posteriors`, then `draw_latent`."""
    latent_posteriors(logits, vocab, scale, out, wanted, temperature, table)
    draw_latent(settings, out, wanted, table, depths)


@njit(cache=True)
def latent_posteriors(logits, vocab, scale, out, wanted, temperature, table):
    """Layers from 1 on of the (m, depth, k) table, from (m * (depth - 1), padded vocab) logits at scale 1."""
    m, depth, k = table.shape
    rows, candidates = out.rows, out.candidates
    for w in range(m):
        i = wanted[w]
        factor = scale / temperature[rows[i]]
        for layer in range(1, depth):
            line = logits[w * (depth - 1) + layer - 1, :vocab]
            top = np.max(line) if factor > 0 else np.min(line)
            total = 0.0
            for value in line:
                total += np.exp((value - top) * np.float32(factor))
            for j in range(k):
                # in float64: the logarithm of a small posterior keeps every rounding of its exponent
                table[w, layer, j] = math.exp((np.float64(line[candidates[i, j]]) - np.float64(top)) * factor) / total


@njit(cache=True)
def draw_latent(settings, out, wanted, table, depths):
    """The draw of `wanted` (m,) from their (m, depth, k) float64 table of posteriors, whose first layer it fills in.

    `policy` comes with b and leaves with what was drawn from; `depths` (m,) takes j*.
    """
    m, layers, k = table.shape
    rows, uniform, tokens, candidates, posterior = out.rows, out.uniform, out.tokens, out.candidates, out.posterior
    allowed, policy, explored, sums = out.allowed, out.policy, out.explored, out.sums
    total, q = np.empty(k), np.empty(k)
    aggregates, entropies = np.empty((layers, k)), np.empty(layers)
    for w in range(m):
        i = wanted[w]
        row = rows[i]
        kind, depth = settings[row, AGGREGATION], min(settings[row, DEPTH], layers)
        table[w, 0] = posterior[i]
        total[:] = 0.0
        for layer in range(depth):
            for j in range(k):
                p = table[w, layer, j]
                p = (p if p > EPS else EPS) if allowed[i, j] else 0.0  # NaN, of a layer that overflowed, counts as 0
                if kind == MAX_ENTROPY_LAYER:
                    total[j] = p
                elif kind == PRODUCT:
                    total[j] += math.log(p) if p > 0 else -np.inf
                else:
                    total[j] += p
            aggregates[layer] = total
            if kind == PRODUCT:
                aggregates[layer] = np.exp(total - np.max(total))
            _normalise(aggregates[layer])
            entropies[layer] = _entropy(aggregates[layer])
        chosen = depth - 1
        if kind != MEAN_ALL:
            most = np.max(entropies[:depth])
            chosen = 0
            while entropies[chosen] < most - TIE:
                chosen += 1
        q[:] = aggregates[chosen]
        if settings[row, GREEDY]:
            _to_argmax(q)
        depths[w] = chosen
        if settings[row, COIN]:
            if explored[i] > 0:
                policy[i] = q
        else:
            for j in range(k):
                policy[i, j] = (1 - explored[i]) * policy[i, j] + explored[i] * q[j]
            _normalise(policy[i])
        tokens[i] = candidates[i, _drawn(policy[i], uniform[i])]
        sums[row, ENTROPY] += _entropy(policy[i])
        sums[row, DEPTHS + chosen] += 1


@njit(cache=True)
def write_policy(scores, rows, candidates, policy):
    """Log-policies (n, k) at the candidates of `rows` of (all rows, vocab) scores, and -inf elsewhere in these rows."""
    for i in range(len(rows)):
        line = scores[rows[i]]
        line[:] = -np.inf
        for j in range(policy.shape[1]):
            if policy[i, j] > 0:
                line[candidates[i, j]] = math.log(policy[i, j])


@njit(cache=True)
def _normalise(values):
    total = 0.0
    for value in values:
        total += value
    for j in range(len(values)):
        values[j] /= total


@njit(cache=True)
def _to_argmax(values):
    best = np.argmax(values)
    values[:] = 0.0
    values[best] = 1.0


@njit(cache=True)
def _entropy(values):
    result = 0.0
    for value in values:
        if value > 0:
            result -= value * math.log(value)
    return result


@njit(cache=True)
def _drawn(values, uniform):
    """Index drawn by the inverse of the cumulative sum; never one of probability 0."""
    total = 0.0
    for value in values:
        total += value
    target, so_far, last = uniform * total, 0.0, 0
    for j in range(len(values)):
        so_far += values[j]
        if values[j] > 0:
            last = j
            if so_far > target:
                return j
    return last
