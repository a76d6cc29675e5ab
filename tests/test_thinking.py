"""The rules of thinking: the last marker decides, `</think>` ends it, a later `<think>` opens it again."""

import pytest
from conftest import character_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from led_rl.thinking import MissingMarkersError, ThinkMarkers

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


def test_markers_are_single_tokens_of_the_tokenizer():
    tokenizer = character_tokenizer()
    markers = ThinkMarkers.from_tokenizer(tokenizer)
    assert tokenizer.convert_ids_to_tokens([markers.start, markers.end]) == ["<think>", "</think>"]
    swapped = ThinkMarkers.from_tokenizer(tokenizer, "</think>", "<think>")
    assert (swapped.start, swapped.end) == (markers.end, markers.start)


def test_a_tokenizer_without_markers_is_refused_with_the_markers_named():
    without = character_tokenizer(think_tokens=False)
    half = character_tokenizer(think_tokens=False)
    half.add_tokens(["<think>"])
    for tokenizer, missing in ((without, "<think>"), (half, "</think>")):
        with pytest.raises(MissingMarkersError) as error:
            ThinkMarkers.from_tokenizer(tokenizer)
        assert f"no token {missing!r}" in str(error.value)
        assert "single tokens" in str(error.value)
