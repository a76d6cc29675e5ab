"""A user's own reward, given by dotted path: it varies between completions of a random model, so that weights move."""

from rewards.answer_text.completions import completion_texts


def share_of_letters(completions, **columns):
    """The share of lower-case letters from a to m, in plain or conversational completions."""
    return [sum("a" <= c <= "m" for c in text) / max(len(text), 1) for text in completion_texts(completions)]
