"""Finding the final answer in the text after the think part: boxes by brace matching, statements where allowed."""

import re
from itertools import pairwise

from rewards.answer_text.braces import group_end
from rewards.answer_text.statements import answer_without_box, without_closing

LONGEST_ANSWER = 2_000  # characters of one answer
MOST_BOXES = 200
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])")
_JOINED = re.compile(r"(?:[\s,;$.]|\\[,;:! ()\[\]]|\\q?quad|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|&|\*|~)*")
_HAS_JOINT = re.compile(r",|;|\b(?:and|or)\b")
# An answer that the text takes back. "Statement \\boxed{3} is false" and "\\boxed{43} is impossible" are answers.
_REJECTED_BEFORE = re.compile(
    r"\b(?:the|my|our|this)\s+(?:\w+\s+)?answer\s+(?:is|was)(?:n't|\s+(?:\w+ly\s+)?not)[\s:$*]*$"
    r"|\b(?:false|untrue|not\s+true|wrong|incorrect)\s+that\s+(?:the|my|our)\s+(?:\w+\s+)?answer\s+is[\s:$*]*$",
    re.IGNORECASE,
)
_REJECTED_BEHIND = re.compile(
    r"[\s$*.,]*(?:(?:(?:no|wait|hmm|but|actually)[\s,.]+){0,3}(?:that|this|it|which)(?:\s+is|'s|\s+was)|is|was)\s+"
    r"(?:\w+ly\s+)?(?:wrong|incorrect|not\s+(?:correct|right|the\s+(?:\w+\s+)?answer))\b"
    r"|[\s$*]*cannot\s+be\s+(?:right|correct|the\s+(?:\w+\s+)?answer)\b",
    re.IGNORECASE,
)
# What tells the parts of a question apart: "(a)", "for part (b)", "Part (ii):".
_PART = re.compile(r"(?:\b(?:for|in)\s+)?(?:\b[Pp]art\s*)?\(\s*([a-h]|i{1,3}|iv|v|I{1,3}|IV|V|[1-9])\s*\)\s*:?")
_AROUND_PART = re.compile(
    rf"(?:\b(?:so|thus|and\s+)?the\s+answer\s+(?:to|for)\s+)?{_PART.pattern}(?:\s*(?:it|the answer)?\s*is\b)?"
)
PART_NAMES = (list("abcdefgh"), ["i", "ii", "iii", "iv", "v"], ["I", "II", "III", "IV", "V"], list("123456789"))


def final_answer(text: str, unboxed: str = "none") -> tuple[str | None, str]:
    """The answer as written, and "" or why there is none.

    `unboxed` says what may stand in for a missing box: see rewards.math_answer.MathAnswer.
    """
    if len(_BOX.findall(text)) > MOST_BOXES:
        return None, "too many boxes"
    text = without_closing(text)
    boxes = final_boxes(text)
    if boxes:
        if any(not box.strip(" \t\r\n.,$") for box in boxes):
            return None, "empty box"
        *_, (start, end, _) = box_spans(text)
        if _REJECTED_BEFORE.search(text[max(0, start - 80) : start]) or _REJECTED_BEHIND.match(text[end : end + 80]):
            return None, "box taken back"
        answer = joined(boxes)
    else:
        found = answer_without_box(text, unboxed)
        if not found:
            return None, "no box" if unboxed == "none" else "no answer"
        answer = found
    if len(answer) > LONGEST_ANSWER:
        return None, "answer too long"
    return answer, ""


def final_boxes(text: str) -> list[str]:
    """Contents of the last box, or of all boxes of the list that the last box ends; [] without a box.

    A list is joined by commas, "and", "or", or by the names of parts, which then stand before the contents: "(a) 3".
    """
    spans = box_spans(text)
    if not spans:
        return []
    first = len(spans) - 1
    while first:
        between = text[spans[first - 1][1] : spans[first][0]]
        named = len(between) <= 80 and bool(_PART.search(between))
        if len(between) > 80 or not _JOINED.fullmatch(_AROUND_PART.sub("", between) if named else between):
            break
        if not named and not _HAS_JOINT.search(between):
            break
        first -= 1
    contents = [content for _, _, content in spans[first:]]
    if len(contents) > 1:
        around = [text[max(0, spans[first][0] - 20) : spans[first][0]]]
        around += [text[a[1] : b[0]] for a, b in pairwise(spans[first:])] + [text[spans[-1][1] :][:20]]
        names = [name for piece in around for name in _PART.findall(piece)]
        if any(names == known[: len(contents)] for known in PART_NAMES):
            return [f"({name}) {content}" for name, content in zip(names, contents, strict=True)]
    return contents


def joined(boxes: list[str]) -> str:
    """The boxes of a list as one answer."""
    return ", ".join(dict.fromkeys(box.strip() for box in boxes))


def box_spans(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of the outermost boxes, in order; a box inside a box counts as its content."""
    spans: list[tuple[int, int, str]] = []
    position = 0
    while match := _BOX.search(text, position):
        start = match.end()
        while start < len(text) and text[start].isspace():
            start += 1
        if start < len(text) and text[start] == "[" and "framebox" in match.group():
            start = text.find("]", start) + 1
        if start < len(text) and text[start] == "{":
            end, content = _braced(text, start)
        else:  # TeX boxes the next token: \boxed5, \boxed\pi
            token = re.compile(r"-?[\d.,]*\d|\\[A-Za-z]+|[^\s$\\{}]").match(text, start)
            end, content = (token.end(), token.group()) if token else (start, "")
        inner = box_spans(content) if _BOX.search(content) else []
        if inner:
            content = inner[-1][2] if len(inner) == 1 else ", ".join(part[2] for part in inner)
        spans.append((match.start(), end, content))
        position = max(end, match.end())
    return spans


def _braced(text: str, start: int) -> tuple[int, str]:
    """End and content of the group that opens at `start`; an unclosed one ends with its line or formula."""
    if (closed := group_end(text, start)) is not None:
        return closed, text[start + 1 : closed - 1]
    tail = re.compile(r"(?<!\\)\$|\n|\\\]|\\\)").search(text, start)
    end = tail.start() if tail else len(text)
    return end, text[start + 1 : end].rstrip(" .")
