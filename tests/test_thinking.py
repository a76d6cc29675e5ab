"""The rules of thinking: the last marker decides, `</think>` ends it, a later `<think>` opens it again."""

import string
from pathlib import Path

import pytest
from conftest import character_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from subprocesses import ROOT
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from led_rl.thinking import END, START, MissingMarkersError, ThinkMarkers

OPEN, CLOSE = 3, 4
MARKERS = ThinkMarkers(OPEN, CLOSE)
tokens = st.lists(st.sampled_from([OPEN, CLOSE, 7, 8, 9]), max_size=12)


@pytest.mark.parametrize(
    ("prompt", "unmarked", "thinks"),
    [
        ([7, OPEN], False, True),
        ([OPEN, 7, 8], False, True),
        ([7, OPEN, CLOSE], True, False),  # a template that closes thinking
        ([OPEN, 7, CLOSE, 8], True, False),
        ([CLOSE, 7, OPEN, 8], False, True),  # an earlier turn was closed, this one is open
        ([7, 8], True, True),  # no marker: as in the paper
        ([7, 8], False, False),  # think_start: marker
        ([], True, True),
        ([], False, False),
    ],
)
def test_the_last_marker_in_the_prompt_decides(prompt, unmarked, thinks):
    assert MARKERS.thinking_after(prompt, unmarked) is thinks


@pytest.mark.parametrize(
    ("prompt", "completion", "unmarked", "mask"),
    [
        ([OPEN], [7, 8, CLOSE, 9, 7], True, "TTT.."),  # the closing marker is still thought
        ([OPEN], [7, CLOSE, 8, OPEN, 9, CLOSE, 7], True, "TT..TT."),  # thinking reopened
        ([OPEN, CLOSE], [7, OPEN, 8, CLOSE, 9], True, "..TT."),  # the model opens it itself
        ([7], [8, 9], True, "TT"),
        ([7], [8, OPEN, 9], False, "..T"),
        ([OPEN], [CLOSE, CLOSE, 7], True, "T.."),
        ([OPEN], [OPEN, 7], True, "TT"),
        ([OPEN], [], True, ""),
    ],
)
def test_which_tokens_were_sampled_while_thinking(prompt, completion, unmarked, mask):
    found = MARKERS.thinking_mask(prompt, completion, unmarked)
    assert "".join("T" if thinking else "." for thinking in found) == mask


@given(tokens, tokens, st.booleans())
def test_each_token_is_thought_if_what_precedes_it_says_so(prompt, completion, unmarked):
    mask = MARKERS.thinking_mask(prompt, completion, unmarked)
    assert mask == [MARKERS.thinking_after(prompt + completion[:i], unmarked) for i in range(len(completion))]


@given(tokens, tokens, tokens, st.booleans())
def test_cutting_a_completion_anywhere_does_not_move_its_phases(prompt, first, second, unmarked):
    whole = MARKERS.thinking_mask(prompt, first + second, unmarked)
    assert whole[len(first) :] == MARKERS.thinking_mask(prompt + first, second, unmarked)


def naive_mask(markers, prompt, completion, unmarked):
    """`thinking_mask` by looking for every marker at the end of every prefix; of several the longest counts."""
    whole = prompt + completion
    mask, thinking = [], unmarked
    for length in range(len(whole)):
        prefix = tuple(whole[:length])
        ending = [
            (len(m), opens)
            for ms, opens in ((markers.start, True), (markers.end, False))
            for m in ms
            if prefix[-len(m) :] == m
        ]
        thinking = max(ending)[1] if ending else thinking
        mask.append(thinking)
    return mask[len(prompt) :]


patterns = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
marker_sets = st.lists(patterns, min_size=2, max_size=6, unique=True).flatmap(
    lambda found: st.integers(1, len(found) - 1).map(lambda n: ThinkMarkers(tuple(found[:n]), tuple(found[n:])))
)
few_tokens = st.lists(st.integers(0, 4), max_size=30)


@given(marker_sets, few_tokens, few_tokens, st.booleans())
def test_markers_of_several_tokens_are_found_as_a_search_finds_them(markers, prompt, completion, unmarked):
    """Markers that overlap, repeat themselves, or lie within one another."""
    assert markers.thinking_mask(prompt, completion, unmarked) == naive_mask(markers, prompt, completion, unmarked)
    thinks = naive_mask(markers, prompt + completion, [0], unmarked)[0]
    assert markers.thinking_after(prompt + completion, unmarked) is thinks


@given(tokens, tokens, st.booleans())
def test_markers_of_one_token_are_found_as_a_search_finds_them(prompt, completion, unmarked):
    assert MARKERS.thinking_mask(prompt, completion, unmarked) == naive_mask(MARKERS, prompt, completion, unmarked)


def test_a_marker_cut_by_the_end_of_the_prompt_counts_once_complete():
    markers = ThinkMarkers(((1, 2),), ((3, 4, 5),))
    assert markers.thinking_mask([9, 1], [2, 7, 3, 4, 5, 8], unmarked=False) == [False, *[True] * 4, False]


def test_a_marker_without_tokens_is_refused():
    for start, end in (((), ((4,),)), (((3,),), ((),)), (((3,), ()), ((4,),))):
        with pytest.raises(ValueError, match="at least one token"):
            ThinkMarkers(start, end)


def test_a_marker_that_is_a_token_of_the_tokenizer_is_that_token_alone():
    tokenizer = character_tokenizer()
    assert ThinkMarkers.from_tokenizer(tokenizer) == ThinkMarkers(OPEN, CLOSE)
    assert ThinkMarkers.from_tokenizer(tokenizer, END, START) == ThinkMarkers(CLOSE, OPEN)
    half = character_tokenizer(think_tokens=False)
    half.add_tokens([START])
    markers = ThinkMarkers.from_tokenizer(half)
    assert markers.start == ((half.convert_tokens_to_ids(START),),)
    assert markers.end == (tuple(END),)
    pieces = half.convert_tokens_to_ids(list(END))
    assert {token: "".join(text) for token, text in markers.spelled} == dict(zip(pieces, END, strict=True))
    start, *_ = markers.start[0]
    assert markers.thinking_mask([start], [50, *pieces, 50], False) == [True] * 9 + [False]


def test_markers_may_be_named_as_text_or_as_token_ids():
    tokenizer = character_tokenizer()
    assert ThinkMarkers.from_tokenizer(tokenizer, (50, 51), [60]) == ThinkMarkers(((50, 51),), ((60,),))
    assert ThinkMarkers.from_tokenizer(None, (50, 51), [60]) == ThinkMarkers(((50, 51),), ((60,),))
    letters = tokenizer.convert_tokens_to_ids(list("so:"))
    spelled = ThinkMarkers.from_tokenizer(tokenizer, "so:")
    assert spelled.thinking_mask(letters[:1], [*letters[1:], 50], False) == [False, False, True]


def test_a_tokenizer_that_cannot_spell_a_marker_is_refused_with_the_marker_named():
    core = Tokenizer(
        models.WordLevel(
            {"<unk>": 0, "<": 1, "/": 2, ">": 3, **{c: 4 + i for i, c in enumerate("thnk")}}, unk_token="<unk>"
        )
    )  # no letter i
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(MissingMarkersError, match=r"'<think>'.*led_start_marker"):
        ThinkMarkers.from_tokenizer(tokenizer)
    assert ThinkMarkers.from_tokenizer(tokenizer, "<k>", "</k>").thinking_mask([], [1, 2, 7, 3, 4]) == [True] * 4 + [
        False
    ]


def test_a_tokenizer_without_an_unknown_token_is_refused_as_well():
    """The tokenizers package raises a plain exception: "Missing [UNK] token"."""
    core = Tokenizer(models.WordLevel({"<": 0, "k": 1, ">": 2, "/": 3}))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    with pytest.raises(MissingMarkersError, match=r"'</think>'.*led_end_marker"):
        ThinkMarkers.from_tokenizer(tokenizer, "<k>")
    with pytest.raises(MissingMarkersError, match=r"no tokenizer.*led_end_marker"):
        ThinkMarkers.from_tokenizer(None, [1])


# How Qwen's tokenizers split text into the words that merges stay within: punctuation takes newlines along.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A byte-level BPE tokenizer without think tokens that merges `>` and `</` with what often stands beside them."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    corpus = ["<b>\n</b>\n\n", " </i>\n", "</", "thinking", "think", "a.</b>", "(b)</b>", "</i><b>", "</i>**a**"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.fixture(scope="module")
def byte_markers(byte_tokenizer):
    return ThinkMarkers.from_tokenizer(byte_tokenizer)


def words(tokenizer, *texts):
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


@pytest.mark.parametrize("before", ["", "so", "so ", "so\n", "so\n\n", "so.", "(so)", "so?"])
@pytest.mark.parametrize("after", ["", " so", "so", "\n", "\n\n", "\nso", "\n\n4 < 5", "<answer>", "**so**", "\\boxed"])
def test_text_is_followed_whatever_stands_around_the_marker(byte_tokenizer, byte_markers, before, after):
    markers = byte_markers
    closed, opened, neither = words(byte_tokenizer, *(before + marker + after for marker in (END, START, "<thin>")))
    for unmarked in (True, False):
        assert not markers.thinking_after(closed, unmarked)
        assert markers.thinking_after(opened, unmarked)
        assert not markers.thinking_after(opened + closed, unmarked)
        assert markers.thinking_after(closed + opened, unmarked)
        assert markers.thinking_after(neither, unmarked) is unmarked
    mask = markers.thinking_mask(opened, [*closed, 1, 2], False)
    assert mask[0]
    assert mask[-1] is False


# What may stand around a marker: nothing, every printable character, line breaks, and runs of two.
NEIGHBOURS = (
    "",
    *string.printable,
    "\n\n",
    "\r\n",
    "**",
    "</",
    "\\[",
    '="',
    '">',
    "};",
    "é",
    "…",
    "\u3000",
    "😀",
    "so",
    " so",
)


def trained(pre_tokenizer, corpus, size):
    core = Tokenizer(models.BPE(byte_fallback=False))
    core.pre_tokenizer, core.decoder = pre_tokenizer, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.fixture(scope="module")
def markup():
    """Text in which every sign stands beside `<`, `</` and `>`: pages of markup, and this repository's own."""
    pages = [path.read_text() for path in sorted(ROOT.glob("led_rl/**/*.py"))[:20]]
    signs = [f'{a}<b class="x">{b}</b>{c}' for a in string.punctuation for b in ("", "t") for c in string.punctuation]
    return pages + signs * 3


def tokenizers(markup):
    """Real byte-level ones: Mistral's with 131 000 tokens, and BPEs trained here as GPT-2 and Qwen split text."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    qwen = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    yield "as GPT-2 splits", trained(gpt2, markup, 3000)
    yield "as Qwen splits", trained(qwen, markup, 3000)
    yield "unsplit", trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), markup[20:], 1500)
    mistral_common = pytest.importorskip("mistral_common")
    from transformers.integrations.mistral import convert_tekken_tokenizer

    yield "Mistral's", convert_tekken_tokenizer(str(Path(mistral_common.__file__).parent / "data/tekken_240911.json"))


def test_thinking_ends_whatever_a_tokenizer_merges_with_the_marker(markup):
    merged = 0
    for name, tokenizer in tokenizers(markup):
        markers = ThinkMarkers.from_tokenizer(tokenizer)
        assert len(markers.spelled) < 2000
        plain = tokenizer.encode(END, add_special_tokens=False)
        for before in NEIGHBOURS:
            texts = [before + END + after for after in NEIGHBOURS]
            for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
                merged += not any(ids[i : i + len(plain)] == plain for i in range(len(ids)))
                assert not markers.thinking_after(ids, True), (name, text)
            almost = tokenizer([text.replace(END, "</thin k>") for text in texts], add_special_tokens=False)
            assert all(markers.thinking_after(ids, True) for ids in almost["input_ids"])
    assert merged > 5000


def test_byte_tokens_and_spaces_of_sentencepiece_are_read_as_the_text_they_stand_for():
    pieces = ["<unk>", "▁", "<", "/", "▁<", "think", ">", "▁so", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "<")], unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    markers = ThinkMarkers.from_tokenizer(tokenizer)
    for ids in (["▁<", "/", "think", ">"], ["<", "/", "think", "<0x3E>"], ["▁so", "<", "<0x2F>", "think", ">", "▁so"]):
        assert not markers.thinking_after([vocabulary[piece] for piece in ids], True)
    assert markers.thinking_after([vocabulary[piece] for piece in ("▁<", "/", "▁", "think", ">")], True)
