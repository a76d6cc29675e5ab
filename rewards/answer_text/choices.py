"""The letter that a text settles on, among the options of a multiple-choice question.

A text is read sentence by sentence into claims. "The answer is C", a box and `<answer>C</answer>` are explicit claims;
"B is correct", "leaving D" and "Therefore B." are weaker ones, which count where no explicit one contradicts them.
What is negated, asked, supposed or said of somebody else is no claim, and a list of letters claims several.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rewards.answer_text.boxes import MOST_BOXES, box_spans
from rewards.answer_text.choice_phrases import (
    ALONE,
    ALTERNATIVE,
    ANOTHER,
    BOUNDARY,
    BOX_REJECTED,
    CHOSEN,
    CONCLUSION,
    CORRECTION,
    FOLLOWS,
    HEDGE,
    IT_IS,
    JOINED_BEFORE,
    NEGATION,
    NO_HEDGE,
    OPTION_LINE,
    PREDICATE,
    REASONED,
    REJECTED_AFTER,
    REJECTION,
    REMAINS,
    SENTENCES,
    SPECIES,
    STATED,
    TAKEN_BACK,
    WRONG_AFTER,
)
from rewards.answer_text.letters import letter_of, plain

LONGEST_TEXT = 5_000  # characters of the end of a text that are read for statements
LONGEST_MARKED = 300  # of a box or tag, in which a statement is looked for
SEVERAL = "several"

_BOXED = re.compile("\ue000([A-Z+-])\ue001")  # what `_mark_boxes` puts in place of a box or a tag
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)(?:</answer>|$)", re.I | re.S)
_FEW_WORDS = 6  # between two claims: too few for a change of mind that is not announced


@dataclass(frozen=True)
class _Claim:
    """A letter, or SEVERAL, that a text claims; where it stands in the plain text, and how explicitly it is said."""

    letter: str
    start: int
    end: int
    explicit: bool
    concluding: bool = False


def chosen_letter(text: str, letters: str) -> str | None:
    """The one letter of `letters` that `text`, what follows the think part, settles on; None for none or several."""
    if "\n" not in text.strip() and len(text) <= 200 and _is_option(text) and (alone := letter_of(text)):
        return alone if alone in letters else None
    marked = _marked(text[-LONGEST_TEXT:])
    settled = _settled(marked, list(_claims(marked)))
    return settled if settled is not None and settled in letters else None


def boxed_letter(boxes: list[str]) -> str | None:
    """The one letter that all of `boxes` name."""
    found = {letter_of(box) for box in boxes}
    return found.pop() if len(found) == 1 else None


def _is_option(text: str) -> bool:
    """Whether a line is one option, as in "(C) 42 m": no list of options, and no sentence about one."""
    option = re.match(
        r"^\W*(?:(?:option|choice|letter)\s+)?[A-Za-z]\s*(?:[)\].:]|-?\s|$)(.*)", plain(text), re.I | re.S
    )
    if not option or REJECTED_AFTER.match(option[1]) or text.rstrip().endswith("?"):
        return False
    return not re.search(r"\([A-Z]\)|(?:^|\s)[A-Z][.):](?:\s|$)", option[1])


def _marked(text: str) -> str:
    """Plain text with a mark in place of every box and `<answer>` tag: its letter, + for several, - for none."""
    pieces, position = [], 0
    for start, end, content in box_spans(text) if text.count("\\boxed") <= MOST_BOXES else ():
        pieces += [text[position:start], _mark(content)]
        position = end
    text = _TAG.sub(lambda match: _mark(match.group(1)), "".join([*pieces, text[position:]]))
    text = plain(text).replace("i.e.", "that is,").replace("。", ". ")
    text = re.sub(r"\bans\b\.?\s*:?", "Answer:", text, flags=re.I)
    text = re.sub(r"答案\s*(?:是|为|选)?\s*:?", "Answer: ", text)
    return re.sub(r"(:|\bis|\banswer)[ \t]*\n\s*(?=\W*[A-Za-z]\b)", _joined, text, flags=re.I)


def _joined(match: re.Match) -> str:
    return f"{match[1]} " if match[1] in (":", "is") else f"{match[1]}: "


def _mark(content: str) -> str:
    if marks := _BOXED.findall(content):
        return f"\ue000{marks[-1]}\ue001"
    words = plain(content[:LONGEST_MARKED])
    letter = letter_of(content) or _settled(words, list(_claims(words)))
    listed = re.match(r"^\W*[A-Z](?:\W+(?:(?:and|or)\W+)?[A-Z])+\W*$", plain(content))
    return f"\ue000{letter or ('+' if listed else '-')}\ue001"


def _claims(text: str) -> Iterator[_Claim]:
    """The claims of a marked text in their order; a rejected letter takes back earlier claims of it (`_settled`)."""
    found: list[_Claim] = []
    for sentence in SENTENCES.finditer(text):
        if not sentence[0].strip():
            continue
        words = sentence[0].lstrip()
        offset = sentence.end() - len(words)
        if words.rstrip().endswith("?"):
            continue
        for mark in _BOXED.finditer(words):
            rejected = NEGATION.search(_scope(words[: mark.start()])) or BOX_REJECTED.match(words[mark.end() :])
            if mark[1] != "-" and not rejected:
                letter = SEVERAL if mark[1] == "+" else mark[1]
                found.append(_Claim(letter, offset + mark.start(), offset + mark.end(), True))
        for pattern in (STATED, CHOSEN, PREDICATE, REMAINS, CONCLUSION, IT_IS, REASONED):
            for match in pattern.finditer(words):
                species = match.end() >= len(words.rstrip(" .")) and SPECIES.match(text, sentence.end())
                if not species and (claim := _claim(pattern, match, words, offset)):
                    another = ALTERNATIVE.match(text, offset + match.end())
                    found.append(replace(claim, letter=SEVERAL) if another else claim)
    found += _last_line(text)
    yield from sorted(found, key=lambda claim: (claim.end, claim.start))


def _claim(pattern: re.Pattern, match: re.Match, words: str, offset: int) -> _Claim | None:
    """The claim of a match in a sentence; None if the sentence does not make it its own."""
    name, written = next((name, value) for name, value in match.groupdict().items() if value and _is_letter_group(name))
    before, after = words[: match.start()], words[match.end() :]
    bare = name.endswith("bare")
    if bare and written.islower() and (pattern is not STATED or re.search(r"\w", after)):
        return None
    if _hedged(before, match[0][: match.start(name) - match.start()]):
        return None
    if re.search(r"would be", match[0], re.I) and re.search(r"\b(?:if|were|without|had|only)\b", words, re.I):
        return None
    if pattern is CONCLUSION and re.search(r"(?:^|\W)[A-Z]\s*$", before):
        return None  # "A → D"
    listed = JOINED_BEFORE.search(words[: match.start(name)]) if pattern is PREDICATE else ANOTHER.match(after)
    several = listed or re.search(r"\balso\b", match[0])
    start, end = offset + match.start(), offset + match.end()
    if pattern is PREDICATE:
        if JOINED_BEFORE.search(before) and re.search(r"\bnor\s+\S*\s*$", before):
            return None
        if re.match(r"^\W*(?:is|was|would|if|unless|only|but|except)\b", after) or (
            match["word"] in ("answer", "choice", "one") and not match["the"]
        ):
            return None
        if (match["word"] == "better" and re.match(r"\s+than\b", after)) or re.match(
            r"\s+(?:that|which|to)\s+(?:\w+\s+)?(?:should|must|can|could|fails?|avoid|reject|rule\s+out|eliminate)\b",
            after,
            re.I,
        ):
            return None  # "plan A is better than plan B", "C is the answer to avoid"
        if match["word"] == "one" and re.search(r"\w", after):
            return None  # "the one that fails"
        explicit = bool(match["the"] and (match["noun"] or match["word"] in ("answer", "choice")))
        return _Claim(SEVERAL if several else written.upper(), start, end, explicit, explicit)
    if several:
        return _Claim(SEVERAL, start, end, pattern in (STATED, CHOSEN))
    if pattern is REMAINS:
        return None if WRONG_AFTER.match(after) else _Claim(written.upper(), start, end, False, True)
    if (bare and not FOLLOWS.match(after)) or REJECTED_AFTER.match(after):
        return None
    if pattern is CHOSEN and re.match(
        r"\s+(?:as|for)\b(?!\s+(?:the|my|our)\s+(?:\w+\s+)?(?:answer|choice|option))", after
    ):
        return None
    if pattern is CONCLUSION and not re.match(
        r"^\)?\s*(?:[.,;!]|$|(?:because|since|as|by|for|here|then|due)\b|\()", after
    ):
        return None
    return _Claim(written.upper(), start, end, pattern in (STATED, CHOSEN), pattern in (CONCLUSION, IT_IS, REASONED))


def _is_letter_group(name: str) -> bool:
    return name.endswith(("round", "square", "bare"))


def _hedged(before: str, within: str) -> bool:
    """Whether a claim after `before` is negated, supposed, or said of others; `within`: its words up to the letter."""
    return bool(HEDGE.search(NO_HEDGE.sub("", _scope(before))) or re.search(r"\bno longer\b", within))


def _scope(before: str) -> str:
    """The words before a claim that may negate it: its clause, or all of them behind "that"."""
    if re.search(r"\bthat\s*(?:(?:the|my|our)\s+)?(?:\w+\s+){0,3}$", before, re.I):
        return before  # "it is not the case, however, that the answer is"
    boundaries = list(BOUNDARY.finditer(before))
    return before[boundaries[-1].end() :] if boundaries else before


def _last_line(text: str) -> list[_Claim]:
    """A last line that is nothing but a letter, or the only line that looks like an option, or such a first line."""
    lines = [line for line in re.finditer(r"[^\n]+", text) if line[0].strip()]
    if not lines:
        return []
    alone = [line for line in lines if ALONE.match(line[0])]
    last = lines[-1]
    if ALONE.match(last[0]):
        if len({letter_of(line[0]) for line in alone[-2:]}) > 1 and lines[-2:] == alone[-2:]:
            return [_Claim(SEVERAL, last.start(), last.end(), False)]
    elif len(alone) == 1 and alone[0] is lines[0]:
        last = lines[0]  # the letter, then why
    elif (ends := [each for each in SENTENCES.finditer(text) if each[0].strip()]) and ALONE.match(ends[-1][0]):
        if sum(bool(ALONE.match(each[0])) for each in ends) > 1:
            return []
        last = ends[-1]  # "Not B. D."
    elif sum(bool(OPTION_LINE.match(line[0])) for line in lines) > 1 or not _is_option(last[0]):
        return []
    letter = letter_of(re.sub(r"^\s*(?:[>#-]+\s+)+", "", last[0]))
    return [_Claim(letter, last.start(), last.end(), False, True)] if letter else []


def _settled(text: str, claims: list[_Claim]) -> str | None:
    """The letter on which a text with these claims ends."""
    taken_back = _taken_back(text, claims)
    explicit: _Claim | None = None
    for claim in (claim for claim in claims if claim.explicit):
        if explicit and claim.letter != explicit.letter and not _changes_its_mind(text[explicit.end : claim.start]):
            claim = _Claim(SEVERAL, claim.start, claim.end, True)
        explicit = claim
    after = [claim for claim in claims if not claim.explicit and (explicit is None or claim.start >= explicit.end)]
    after = [claim for claim in after if claim not in taken_back]
    if explicit is None or (explicit.letter == SEVERAL and after and after[-1].concluding):
        if not after:
            return None
        unanimous = len({claim.letter for claim in after}) == 1
        last = after[-1]
        return last.letter if (unanimous or last.concluding) and last.letter != SEVERAL else None
    others = [claim for claim in after if claim.letter != explicit.letter]
    if others:
        corrected = CORRECTION.search(text[explicit.end : others[-1].start])
        return others[-1].letter if corrected and others[-1].letter != SEVERAL else None
    return None if explicit.letter == SEVERAL or explicit in taken_back else explicit.letter


def _changes_its_mind(between: str) -> bool:
    return bool(CORRECTION.search(between)) or len(re.findall(r"\w+", between)) >= _FEW_WORDS


def _taken_back(text: str, claims: list[_Claim]) -> set[_Claim]:
    """The claims that a later sentence rejects: "A is wrong", or at once "No, that is wrong"."""
    rejected = set()
    for sentence in SENTENCES.finditer(text):
        for match in REJECTION.finditer(sentence[0]):
            letter = next(
                value for name, value in match.groupdict().items() if value and _is_letter_group(name)
            ).upper()
            rejected |= {claim for claim in claims if claim.letter == letter and claim.end <= sentence.start()}
        if sentence[0].strip() and TAKEN_BACK.match(sentence[0]):
            before = [claim for claim in claims if claim.end <= sentence.start()]
            if before and not re.search(r"[.!?\n]\s*\w", text[before[-1].end : sentence.start()]):
                rejected.add(before[-1])
    return rejected
