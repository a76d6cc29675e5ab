"""LED's draw on a GPU, in Triton kernels.

Between the second and the third kernel, sampler/latent_layers.py reads the latent layers.

    scan_tiles    over (row, tile of the vocabulary): one pass over the final layer's logits, for their normaliser
    draw_final    one program a row: thinking phase, uniform number, the k most probable tokens, the coin
    draw_latent   one program a row: aggregates, j*, q, the token, statistics
    write_policy  over (row, tile): log-policies over the engine's log-probabilities, where these are asked for

They do the arithmetic of led_rl/led.py, request_slots.py and uniforms.py, to which tests compare them. Rows that
decode as usual run along, and what is written of them is unspecified but in range.

Every size of a block is fixed or follows from the model and the largest k: a row's result depends neither on the
number of rows nor on anything that is tuned, and tensor-parallel ranks draw the same tokens.
"""

try:
    import triton
    import triton.language as tl
except ImportError:  # a platform without Triton: only CUDA tensors need it
    triton = None

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
    NORMED,
    ORDER,
    PRODUCT,
    ROWS,
    UNDRAWABLE,
    K,
)
from led_rl.sampler.latent_layers import LOWEST

TILE = 2048  # vocabulary columns
UNIFORM, WEIGHT, ENTROPY_OF_FINAL, BROKEN, POSTERIOR = range(5)  # columns of the figures; posteriors from POSTERIOR on

if triton is not None:
    _KNOWN, _DECODING, _DEPTH, _K = tl.constexpr(KNOWN), tl.constexpr(DECODING), tl.constexpr(DEPTH), tl.constexpr(K)
    _EXPLOIT, _COIN, _AGGREGATION = tl.constexpr(EXPLOIT), tl.constexpr(COIN), tl.constexpr(AGGREGATION)
    _NORMED, _GREEDY, _KEY, _ORDER = tl.constexpr(NORMED), tl.constexpr(GREEDY), tl.constexpr(KEY), tl.constexpr(ORDER)
    _LED, _MEAN_ALL, _PRODUCT = tl.constexpr(LED), tl.constexpr(MEAN_ALL), tl.constexpr(PRODUCT)
    _MAX_ENTROPY_LAYER = tl.constexpr(MAX_ENTROPY_LAYER)
    _ROWS, _EXPLORED, _CONFIDENCE = tl.constexpr(ROWS), tl.constexpr(EXPLORED), tl.constexpr(CONFIDENCE)
    _ENTROPY, _ENTROPY_FINAL, _DEPTHS = tl.constexpr(ENTROPY), tl.constexpr(ENTROPY_FINAL), tl.constexpr(DEPTHS)
    _UNIFORM, _WEIGHT, _BROKEN = tl.constexpr(UNIFORM), tl.constexpr(WEIGHT), tl.constexpr(BROKEN)
    _UNDRAWABLE = tl.constexpr(UNDRAWABLE)
    _ENTROPY_OF_FINAL, _POSTERIOR = tl.constexpr(ENTROPY_OF_FINAL), tl.constexpr(POSTERIOR)
    _EPS, _TIE, _LARGEST_UNIFORM = tl.constexpr(EPS), tl.constexpr(TIE), tl.constexpr(LARGEST_UNIFORM)
    _LOWEST, _TILE = tl.constexpr(LOWEST), tl.constexpr(TILE)
    _NONE_LEFT = tl.constexpr(-(2**63))

    @triton.jit
    def _ranks(values, ids):
        """int64 that orders tokens: larger float32 values first, then smaller ids. NaN ranks with +inf."""
        values = tl.where(values == 0, 0.0, tl.where(values == values, values, float("inf")))  # one zero
        bits = values.to(tl.int32, bitcast=True)
        bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        return (bits.to(tl.int64) << 32) | (ids ^ 0x7FFFFFFF).to(tl.int64)

    @triton.jit
    def _value_of(rank):
        bits = (rank >> 32).to(tl.int32)
        return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)

    @triton.jit
    def _id_of(rank):
        return (rank & 0x7FFFFFFF).to(tl.int32) ^ 0x7FFFFFFF

    @triton.jit
    def _normalised(values, axis: tl.constexpr):
        """Values over their sum along an axis; zeros stay."""
        total = tl.sum(values, axis, keep_dims=True)
        return values / tl.where(total > 0, total, 1.0)

    @triton.jit
    def _entropy(probabilities, axis: tl.constexpr):
        positive = tl.where(probabilities > 0, probabilities, 1.0)
        return -tl.sum(positive * tl.log(positive), axis)

    @triton.jit
    def _to_argmax(probabilities, index):
        return tl.where(index == tl.argmax(probabilities, 0), 1.0, 0.0).to(tl.float64)

    @triton.jit
    def scan_tiles(
        logits,  # (rows, vocab), rows `stride` apart
        best,  # (rows, tiles) out, rank of the tile's most probable token
        totals,  # (rows, tiles) float32 out, sum of e = exp(x - largest x)
        weighted,  # (rows, tiles) float32 out, sum of e * (x - largest x)
        stride,
        vocab,
        WANTS_ENTROPY: tl.constexpr,
    ):
        row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
        column = tile * _TILE + tl.arange(0, _TILE)
        inside = column < vocab
        x = tl.load(logits + row * stride + column, mask=inside, other=float("-inf")).to(tl.float32)
        known = tl.where(x == x, x, float("inf"))  # NaN shows in the sums, and never leads out of range
        largest = tl.max(known, 0)
        first = tl.min(tl.where(inside & (known == largest), column, 0x7FFFFFFF), 0)
        shifted = x - tl.maximum(largest, _LOWEST)
        e = tl.exp(shifted)
        at = row * tl.num_programs(1) + tile
        tl.store(best + at, _ranks(largest, first))
        tl.store(totals + at, tl.sum(e, 0))
        if WANTS_ENTROPY:
            tl.store(weighted + at, tl.sum(tl.where(e > 0, e * shifted, e), 0))

    @triton.jit(do_not_specialize=["letters", "k", "latents", "read_all"])
    def draw_final(
        logits,  # (rows, vocab), rows `stride` apart
        best,  # (rows, tiles) from scan_tiles, as the next two
        totals,
        weighted,
        slots,  # (rows,) from here on to `thinks`: DecodingSlots
        settings,  # (slots, columns)
        state,  # (slots,) updated
        alphabet,  # (states, letters)
        goto,  # (states, 1 + letters)
        thinks,  # (states,)
        tokens_in,  # (rows,) token fed in
        positions,  # (rows,) its position
        temperature,  # (rows,)
        active,  # (rows,) bool out: decodes as its request asks
        wanted,  # (rows,) bool out: reads latent layers
        candidates,  # (rows, k) out
        allowed,  # (rows,) int32 out: candidates that may be drawn, the first so many
        figures,  # (rows, POSTERIOR + k) float64 out
        scale,  # (rows,) float32 out, 1 / temperature
        order,  # (rows, latents) out, or None: latent layers, as indices into the captured
        normed,  # (rows,) bool out, or None
        stride,
        vocab,
        columns,
        letters,
        k,
        latents,
        read_all,
        WANTS_ENTROPY: tl.constexpr,
        TILES: tl.constexpr,  # tiles, padded to a power of two, as the next two
        CANDIDATES: tl.constexpr,
        LAYERS: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        slot = tl.load(slots + row).to(tl.int64)
        setting = settings + slot * columns
        led = tl.load(setting + _DECODING) == _LED
        figure = figures + row * (_POSTERIOR + k)

        # The phase: Working.follow.
        token, position, known = tl.load(tokens_in + row), tl.load(positions + row), tl.load(setting + _KNOWN)
        phase = tl.load(state + slot)
        symbol = tl.zeros((), tl.int32)
        for letter in range(letters):
            symbol = tl.where(tl.load(alphabet + phase * letters + letter) == token, letter + 1, symbol)
        phase = tl.where(position >= known, tl.load(goto + phase * (letters + 1) + symbol), phase)
        is_active = tl.load(thinks + phase) & (position >= known - 1)
        tl.store(active + row, is_active)

        # The uniform number: uniforms.py.
        x = tl.load(setting + _KEY).to(tl.uint64, bitcast=True)
        x += (position + 1).to(tl.uint64, bitcast=True) * tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
        x = (x ^ (x >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
        x = (x ^ (x >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
        x = x ^ (x >> 31)
        uniform = (x >> 12).to(tl.int64).to(tl.float64) * 2.0**-52

        # The normaliser over the whole vocabulary.
        tile, tiles = tl.arange(0, TILES), tl.cdiv(vocab, _TILE)
        at = row * tiles + tile
        left = tl.load(best + at, mask=tile < tiles, other=_NONE_LEFT)  # rank of each tile's most probable token left
        peaks = tl.maximum(tl.where(tile < tiles, _value_of(left), _LOWEST), _LOWEST).to(tl.float64)
        peak = tl.max(peaks, 0)
        part = tl.exp(peaks - peak)
        sums = tl.load(totals + at, mask=tile < tiles, other=0.0).to(tl.float64)
        total = tl.sum(part * sums, 0).to(tl.float32).to(tl.float64)  # 1 - confidence is 0 where it is in led.py
        log_total = tl.log(total)
        if WANTS_ENTROPY:
            shifted = tl.load(weighted + at, mask=tile < tiles, other=0.0).to(tl.float64) + (peaks - peak) * sums
            entropy = log_total - tl.sum(part * shifted, 0) / total
            tl.store(figure + _ENTROPY_OF_FINAL, tl.where(total > 0, entropy, 0.0))

        # The k most probable tokens: the best of the tiles' best, and then the next in its tile.
        index, within = tl.arange(0, CANDIDATES), tl.arange(0, _TILE)
        ids = tl.zeros((CANDIDATES,), tl.int64)
        values = tl.full((CANDIDATES,), float("-inf"), tl.float32)
        for j in range(k):
            taken = tl.max(left, 0)
            ids = tl.where(index == j, _id_of(taken), ids)
            values = tl.where(index == j, _value_of(taken), values)
            its_tile = _id_of(taken) // _TILE
            column = its_tile * _TILE + within
            line = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf")).to(tl.float32)
            ranks = _ranks(line, column)
            ranks = tl.where((column < vocab) & (ranks < taken), ranks, _NONE_LEFT)
            left = tl.where(tile == its_tile, tl.max(ranks, 0), left)
        posterior = tl.exp(values.to(tl.float64) - peak - log_total)
        may = (values > float("-inf")) & (index < tl.load(setting + _K))  # the first so many: values descend

        # An undrawable row (final_layer.py) has one candidate: its total is 0 or NaN.
        is_greedy, broken = tl.load(setting + _GREEDY) != 0, (total > 0) == 0
        only = tl.where(is_greedy, tl.sum(tl.where(index == 0, ids, 0), 0), 0)
        others = tl.where(index == 0, only, tl.where(index == only, 0, index))
        ids = tl.where(broken, others, ids)
        posterior = tl.where(broken, tl.where(index == 0, 1.0, 0.0), posterior)
        may = tl.where(broken, index == 0, may)
        tl.store(figure + _BROKEN, tl.where(broken, 1.0, 0.0))
        tl.store(candidates + row * k + index, ids, mask=index < k)
        tl.store(figure + _POSTERIOR + index, posterior, mask=index < k)
        tl.store(allowed + row, tl.sum(may.to(tl.int32), 0))

        # The coin: led.toss_coin.
        confidence = tl.sum(tl.where(index == 0, posterior, 0.0), 0)
        p_explore = tl.where((tl.load(setting + _EXPLOIT) != 0) | broken, 1 - confidence, 1.0)
        explore = uniform < p_explore
        rest = tl.where(explore, uniform / p_explore, (uniform - p_explore) / (1 - p_explore))
        rest = tl.minimum(tl.maximum(rest, tl.full((), 0, tl.float64)), tl.full((), _LARGEST_UNIFORM, tl.float64))
        coin = tl.load(setting + _COIN) != 0
        weight = tl.where(coin, tl.where(explore, 1.0, 0.0).to(tl.float64), p_explore)
        tl.store(figure + _UNIFORM, tl.where(led & coin, rest, uniform))
        tl.store(figure + _WEIGHT, tl.where(led, weight, 0.0))
        reads = (weight > 0) | ((read_all != 0) & (broken == 0))  # of weight 0, q does not count
        tl.store(wanted + row, is_active & led & reads)

        # Safe to store: all reads of `state` are above. Rows without a LED request share the spare slot and write its
        # unchanged value, so the race is harmless.
        tl.store(state + slot, phase)

        # What the latent layers are asked.
        tl.store(scale + row, 1.0 / tl.where(is_greedy, 1.0, tl.load(temperature + row).to(tl.float32)))
        if order is not None:
            layer = tl.arange(0, LAYERS)
            asked = tl.load(setting + _ORDER + layer, mask=layer < latents, other=0)
            tl.store(order + row * latents + layer, asked, mask=layer < latents)
        if normed is not None:
            tl.store(normed + row, tl.load(setting + _NORMED) != 0)

    @triton.jit(do_not_specialize=["k", "latents"])
    def draw_latent(
        log_normaliser,  # (rows, latents), of rows that are wanted; as the next
        latent_logits,  # (rows, latents, k)
        slots,  # (rows,)
        settings,  # (slots, columns)
        sums,  # (slots, statistics) float64, updated
        active,  # (rows,) from draw_final, as the next four
        wanted,
        candidates,  # (rows, k)
        allowed,
        figures,
        tokens,  # (rows,) int64 out
        policy,  # (rows, k) float64 out
        depths,  # (rows,) int64 out, j*
        table,  # (rows, 1 + latents, k) float64 out, posteriors
        row_sums,  # (rows, 1 + statistics) float64 out: tokens known at admission, and the slot's sums so far
        columns,
        statistics,
        k,
        latents,
        WANTS_ENTROPY: tl.constexpr,
        CANDIDATES: tl.constexpr,  # k, padded to a power of two, as the next two
        LAYERS: tl.constexpr,  # 1 + all captured layers
        STATISTICS: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        slot = tl.load(slots + row).to(tl.int64)
        setting = settings + slot * columns
        led, coin = tl.load(setting + _DECODING) == _LED, tl.load(setting + _COIN) != 0
        is_greedy, kind = tl.load(setting + _GREEDY) != 0, tl.load(setting + _AGGREGATION)
        is_active, reads = tl.load(active + row), tl.load(wanted + row)
        figure = figures + row * (_POSTERIOR + k)
        uniform, weight = tl.load(figure + _UNIFORM), tl.load(figure + _WEIGHT)
        index, layer = tl.arange(0, CANDIDATES), tl.arange(0, LAYERS)
        may = index < tl.load(allowed + row)
        posterior = tl.load(figure + _POSTERIOR + index, mask=index < k, other=0.0)
        eps = tl.full((), _EPS, tl.float64)

        # b: led.exploit_branch; top_k_control has no floor.
        b = _normalised(tl.where(may, tl.maximum(posterior, tl.where(led, eps, 0.0)), 0.0), 0)
        b = tl.where(is_greedy, _to_argmax(b, index), b)

        # The table of posteriors, (LAYERS, CANDIDATES).
        latent = (layer > 0) & (layer <= tl.where(reads, latents, 0))
        pair = row * latents + layer - 1
        norm = tl.load(log_normaliser + pair, mask=latent, other=0.0).to(tl.float64)
        real = latent[:, None] & (index < k)[None, :]
        x = tl.load(latent_logits + pair[:, None] * k + index[None, :], mask=real, other=float("-inf")).to(tl.float64)
        posteriors = tl.where((layer == 0)[:, None], posterior[None, :], tl.exp(x - norm[:, None]))
        place = (row * (latents + 1) + layer)[:, None] * k + index[None, :]
        tl.store(table + place, posteriors, mask=(layer <= latents)[:, None] & (index < k)[None, :])

        # q: led.explore_branch.
        floored = tl.where(posteriors > eps, posteriors, eps)  # NaN, of a layer that overflowed, counts as 0
        floored = tl.where(may[None, :], floored, 0.0)
        terms = tl.where(kind == _PRODUCT, tl.log(floored), floored)
        aggregates = tl.where(kind == _MAX_ENTROPY_LAYER, terms, tl.cumsum(terms, 0))
        highest = tl.max(aggregates, 1, keep_dims=True)
        aggregates = tl.where(kind == _PRODUCT, tl.exp(aggregates - highest), aggregates)
        aggregates = _normalised(tl.where(may[None, :], aggregates, 0.0), 1)
        depth = tl.minimum(tl.load(setting + _DEPTH), latents + 1)
        entropies = tl.where(layer < depth, _entropy(aggregates, 1), -1.0)
        most = tl.max(entropies, 0)
        chosen = tl.min(tl.where(entropies >= most - _TIE, layer, LAYERS - 1), 0)
        chosen = tl.where(kind == _MEAN_ALL, depth - 1, chosen)
        q = tl.sum(tl.where((layer == chosen)[:, None], aggregates, 0.0), 0)
        q = tl.where(is_greedy, _to_argmax(q, index), q)
        tl.store(depths + row, chosen)

        # The token: led.inverse_cdf.
        mixed = _normalised((1 - weight) * b + weight * q, 0)
        drawn_from = tl.where(reads, tl.where(coin, tl.where(weight > 0, q, b), mixed), b)
        cdf = tl.cumsum(drawn_from, 0)
        drawable = drawn_from > 0
        drawn = tl.min(tl.where(drawable & (cdf > uniform * tl.max(cdf, 0)), index, CANDIDATES), 0)
        drawn = tl.minimum(drawn, tl.max(tl.where(drawable, index, 0), 0))
        tl.store(tokens + row, tl.load(candidates + row * k + drawn))
        tl.store(policy + row * k + index, drawn_from, mask=index < k)

        # Statistics.
        column = tl.arange(0, STATISTICS)
        confidence = tl.sum(tl.where(index == 0, posterior, 0.0), 0)
        added = tl.where(column == _ROWS, 1.0, 0.0).to(tl.float64)
        added = tl.where(column == _EXPLORED, weight, added)
        added = tl.where(column == _CONFIDENCE, confidence, added)
        added = tl.where(column == _ENTROPY, _entropy(drawn_from, 0), added)
        added = tl.where(column == _UNDRAWABLE, tl.load(figure + _BROKEN), added)
        if WANTS_ENTROPY:
            added = tl.where(column == _ENTROPY_FINAL, tl.load(figure + _ENTROPY_OF_FINAL), added)
        added = tl.where(column == tl.where(reads, _DEPTHS + chosen, -1), 1.0, added)
        so_far = tl.load(sums + slot * statistics + column, mask=column < statistics, other=0.0)
        so_far = tl.where(is_active, so_far + added, so_far)
        tl.debug_barrier()  # every warp has read the sums
        tl.store(sums + slot * statistics + column, so_far, mask=column < tl.where(is_active, statistics, 0))
        tl.store(row_sums + row * (statistics + 1) + 1 + column, so_far, mask=column < statistics)
        tl.store(row_sums + row * (statistics + 1), tl.load(setting + _KNOWN).to(tl.float64))

    @triton.jit(do_not_specialize=["k"])
    def write_policy(
        scores,  # (rows, vocab) float32, rows `stride` apart; of rows that are active, log-policies are written
        active,  # (rows,) bool
        candidates,  # (rows, k)
        policy,  # (rows, k) float64
        stride,
        vocab,
        k,
    ):
        row = tl.program_id(0).to(tl.int64)
        if tl.load(active + row):
            column = tl.program_id(1) * _TILE + tl.arange(0, _TILE)
            log_policy = tl.full((_TILE,), float("-inf"), tl.float32)
            for j in range(k):
                its = column == tl.load(candidates + row * k + j)
                log_policy = tl.where(its, tl.log(tl.load(policy + row * k + j)).to(tl.float32), log_policy)
            tl.store(scores + row * stride + column, log_policy, mask=column < vocab)
