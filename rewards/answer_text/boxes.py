"""Finding the final answer in the text after the think part: boxes by brace matching, statements where allowed."""

import re

from rewards.answer_text.braces import group_end

LONGEST_ANSWER = 2_000  # characters of one answer
MOST_BOXES = 200
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])")
_JOINED = re.compile(r"(?:[\s,;$.]|\\[,;:! ()\[\]]|\\q?quad|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|&|\*|~)*")
_HAS_JOINT = re.compile(r",|;|\b(?:and|or)\b")
_ANSWER_IS = re.compile(
    r"\banswers?\b(?:\s+(?:to|for|of)\b[^.:\n]{0,80})?[\s*_]*(?P<verb>(?:is|are|equals|would be|must be|should be|=|:)"
    r"(?:\s+(?:therefore|thus|simply|just|then|exactly|equal to))*)[\s:*_]*",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"^(?:not\b|n't\b|never\b|neither\b|no\b\s+longer|unlikely\b|wrong\b|incorrect\b|unknown\b)", re.I
)
_NEGATED_BEFORE = re.compile(r"(?:\bnot|n't|\bnever|\bneither|\bif|\bwhether)\b[^.\n]{0,30}$", re.IGNORECASE)
_SENTENCE = re.compile(
    r"\b(?:answers?|is|are|was|not|isn't|equals|so|thus|therefore|hence|think|maybe|because)\b", re.IGNORECASE
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def final_answer(text: str, unboxed: str = "none") -> tuple[str | None, str]:
    """The answer as written, and "" or why there is none.

    `unboxed` says what may stand in for a missing box: see rewards.math_answer.MathAnswer.
    """
    if len(_BOX.findall(text)) > MOST_BOXES:
        return None, "too many boxes"
    boxes = final_boxes(text)
    if boxes:
        if any(not box.strip(" \t\r\n.,$") for box in boxes):
            return None, "empty box"
        answer = ", ".join(dict.fromkeys(box.strip() for box in boxes))
    else:
        found = _without_box(text, unboxed)
        if not found:
            return None, "no box" if unboxed == "none" else "no answer"
        answer = found
    if len(answer) > LONGEST_ANSWER:
        return None, "answer too long"
    return answer, ""


def final_boxes(text: str) -> list[str]:
    """Contents of the last box, or of all boxes of the comma-joined list that the last box ends; [] without a box."""
    spans = box_spans(text)
    if not spans:
        return []
    contents = [spans[-1][2]]
    for (_, end, content), (start, _, _) in zip(spans[-2::-1], spans[:0:-1], strict=True):
        between = text[end:start]
        if len(between) > 80 or not _JOINED.fullmatch(between) or not _HAS_JOINT.search(between):
            break
        contents.append(content)
    return contents[::-1]


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


def _without_box(text: str, unboxed: str) -> str | None:
    if unboxed == "none":
        return None
    if bare := _bare(text):
        return bare
    if unboxed == "bare":
        return None
    if statement := _statement(text[-5_000:]):
        return statement
    if unboxed == "formula":
        formulas = list(_FORMULA.finditer(text[-5_000:]))
        if formulas:
            return next(group for group in formulas[-1].groups() if group).strip()
    return None


def _bare(text: str) -> str | None:
    """The whole text, when it is one line and no sentence: at most two words beside a number, or three."""
    line = text.strip()
    if not line or "\n" in line or len(line) > 500:
        return None
    prose = re.sub(r"\\[A-Za-z]+", " ", line)
    if _SENTENCE.search(prose):
        return None
    if "$" in line.strip("$.") and not re.match(r"\\?\$\s*\d", line):
        return None  # words around a formula
    most_words = 2 if re.search(r"\d", line) else 3
    return line if len(re.findall(r"[A-Za-z]{2,}", prose)) <= most_words else None


def _statement(text: str) -> str | None:
    """What the last "the answer is ..." states; a negated or conditional one states nothing."""
    answer = None
    for match in _ANSWER_IS.finditer(text):
        rest = text[match.end() :]
        if _NEGATION.match(rest.lstrip(" *_")) or _NEGATED_BEFORE.search(text[: match.start()]):
            continue
        end = re.search(r"\n|\.(?=\s|$)|[;!?](?=\s|$)|,\s+(?=[a-z]{3,})|\s+(?:because|since|but|not|as|which)\b", rest)
        stated = rest[: end.start()] if end else rest
        stated = stated.strip().strip("*_").strip()
        answer = stated or answer
    return answer
