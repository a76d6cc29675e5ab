"""The rules of thinking: the last marker decides, `</think>` ends it, a later `<think>` opens it again."""

import pytest
from conftest import character_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from led_rl.thinking import END, START, MissingMarkersError, ThinkMarkers, spellings

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
    assert markers.end == (tuple(half.convert_tokens_to_ids(list(END))),)


def test_markers_may_be_named_as_text_or_as_token_ids():
    tokenizer = character_tokenizer()
    assert ThinkMarkers.from_tokenizer(tokenizer, (50, 51), [60]) == ThinkMarkers(((50, 51),), ((60,),))
    assert ThinkMarkers.from_tokenizer(None, (50, 51), [60]) == ThinkMarkers(((50, 51),), ((60,),))
    letters = tuple(tokenizer.convert_tokens_to_ids(list("so:")))
    assert ThinkMarkers.from_tokenizer(tokenizer, "so:").start == (letters,)


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
    assert ThinkMarkers.from_tokenizer(tokenizer, "<k>", "</k>").end == ((1, 2, 7, 3),)


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


def test_a_marker_is_known_in_each_of_its_spellings(byte_tokenizer):
    plain, merged = (byte_tokenizer.encode(text, add_special_tokens=False) for text in (END, END + "\n"))
    assert merged[: len(plain)] != plain  # ">\n" is one token: no spelling starts with the other
    assert {tuple(plain), tuple(merged)} <= set(spellings(byte_tokenizer, END))
    assert all(END in byte_tokenizer.decode(list(spelling)) for spelling in spellings(byte_tokenizer, END))


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
