"""The final answer of a text without a box: the whole text, the last "the answer is ...", or its last sentence."""

import re
from itertools import pairwise

READ = 5_000  # characters at the end of the text that are searched
MOST_CANDIDATES = 20  # numbers and formulas of one sentence
_ANSWER_IS = re.compile(
    r"\banswers?\b(?:\s+(?:to|for|of)\b[^.:\n]{0,80})?[\s*_]*(?P<verb>(?:is|are|equals|would be|must be|should be|=|:)"
    r"(?:\s+(?:therefore|thus|simply|just|then|exactly|equal to))*)[\s:*_]*",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"^(?:not\b|n't\b|never\b|neither\b|no\b\s+longer|unlikely\b|wrong\b|incorrect\b|unknown\b)", re.I
)
_NEGATED_BEFORE = re.compile(
    r"(?:\bnot|n't|\bnever|\bneither|\bif|\bwhether|\bunless|\bsuppose|\bassum(?:e|ing)|\bimagine|\bguess|\bdoubt\w*|"
    r"\b(?:false|untrue|wrong|incorrect|unlikely|impossible)\s+that)\b[^.\n]{0,30}$",
    re.IGNORECASE,
)
_COMPARED = re.compile(r"\s*(?:more|less|fewer|greater|smaller|higher|lower|times|plus|minus)\b", re.IGNORECASE)
_END_OF_TEXT = re.compile(r"<[|｜](?:endoftext|im_end|eot_id|end▁of▁sentence)[|｜]>|</s>|<end_of_turn>")
_CONCLUSION = re.compile(
    r"\b(?:so|thus|therefore|hence|then|finally|leaving|total|altogether|in all|overall)\b", re.IGNORECASE
)
_SENTENCE = re.compile(
    r"\b(?:answers?|is|are|was|not|isn't|equals|so|thus|therefore|hence|think|maybe|because)\b", re.IGNORECASE
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_TEMPLATE = re.compile(
    r"(?:<[|｜][\w▁]{1,30}[|｜]>(?:assistant|user|system)?|</?s>|<(?:eos|pad|end_of_turn)>|\[/?INST\])$"
)
_HOPE = re.compile(
    r"(?:^|(?<=[\s.!$*]))(?:I (?:really )?)?hope (?:it|this|that)(?:(?: is|'s) (?:correct|right)| helps)[.!]*$",
    re.IGNORECASE,
)
_PLACES = "(?:step|case|problem|question|example|figure|equation|theorem|part|page|lemma)"
# A sentence with one of these words states no answer: negated, doubted, conditional, a bound, or a place in the text.
_REFUSED = re.compile(
    r"\b(?:not|cannot|no|never|neither|nor|except|might|(?-i:may)|maybe|could|would|perhaps|possibly|if|whether|unless|"
    r"suppose|assume|assuming|guess|unsure|unknown|(?:we|is|are|was|were)\s+(?:are\s+)?given|try|tried|fails?|wrong|"
    r"(?:which|this|that|it)(?:\s+is|['’]s)\s+(?:impossible|absurd|false|invalid)|contradict\w*|unclear|doubt\w*|"
    rf"incorrect|either|between|than|at least|at most|up to|{_PLACES}\s+\d+)\b|n['’]t\b|\?",
    re.IGNORECASE,
)
_PLACE = re.compile(rf"\b{_PLACES}\s+\d", re.IGNORECASE)
_NUMBER_WORDS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|twenty"
_CANDIDATE = re.compile(
    r"\x01(?P<formula>\d+)\x02|(?P<number>(?:(?<![\w\d)])[-−]\s?)?(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:\s?/\s?\d+)?(?:\s?\\?%)?)"
    rf"|\b(?P<word>{_NUMBER_WORDS})\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"\s*(?:,\s*(?:and|or)?|;|and|or)\s*", re.IGNORECASE)
_RANGE = re.compile(r"\s*(?:to|out of|of|of the|through|until|-|–|:)\s*", re.IGNORECASE)
_VALUE = re.compile(r"\$|\\[(\[]|[-−]?\d")
_MONEY = re.compile(r"[\d,.]+\s+(?:\\?[^\\a-z])*[a-z]{2,}")
_NAME = re.compile(r"\\?[A-Za-z]+")
_FILLER = r"(?:\s|\\?\$|\*|exactly|precisely|equal|to|only|just|then|thus|therefore)*$"
_COPULA = re.compile(rf"(?:\b(?:is|are|was|were|equals?)\b|=|:){_FILLER}", re.IGNORECASE)
_VERB = re.compile(
    rf"\b(?:becomes?|gives?|has|have|needs?|takes?|costs?|makes?|gets?|pays?|earns?)\b{_FILLER}", re.IGNORECASE
)


def without_closing(text: str) -> str:
    """The text without what a chat template or a habit puts behind the answer: <|im_end|>, "I hope it is correct."."""
    before = None
    while text != before:
        before, text = text, text.rstrip()
        for pattern in (_TEMPLATE, _HOPE):
            start = max(0, len(text) - 80)
            if match := pattern.search(text, start):
                text = text[: match.start()].rstrip()
    return text


def answer_without_box(text: str, unboxed: str) -> str | None:
    """The answer that stands in for a box where `unboxed` allows it: see rewards.math_answer.MathAnswer."""
    if unboxed == "none":
        return None
    if (end := _END_OF_TEXT.search(text)) and text[: end.start()].strip() and re.search(r"\d", text[end.end() :]):
        return None  # the text went on behind its end: which of the two is the answer?
    if "####" not in text and (bare := _bare(text)):
        return bare
    if unboxed == "bare":
        return None
    text = text[-READ:]
    if hashes := re.search(r"(?:^|\n)\s*####[ \t]*(\S[^\n]*)\s*$", text):
        return hashes[1].strip()  # the form of GSM8K
    if statement := _statement(text):
        return statement
    return _last_sentence(text) if unboxed == "formula" else None


def _bare(text: str) -> str | None:
    """The whole text, when it is one line and no sentence: at most two words beside a number, or three."""
    line = text.strip()
    if not line or "\n" in line or len(line) > 500:
        return None
    prose = re.sub(r"\\[A-Za-z]+", " ", line)
    if _SENTENCE.search(prose):
        return None
    if _PLACE.search(line):
        return None
    if re.search(r"(?<=\S)\s*\\[(\[]", line.strip()) or ("$" in line.strip("$.") and not re.match(r"\\?\$\s*\d", line)):
        return None  # words around a formula
    most_words = 2 if re.search(r"\d", line) else 3
    return line if len(re.findall(r"[A-Za-z]{2,}", prose)) <= most_words else None


def _statement(text: str) -> str | None:
    """What the last "the answer is ..." states; a negated or conditional one states nothing."""
    answer = None
    for match in _ANSWER_IS.finditer(text):
        rest = text[match.end() :]
        if _NEGATION.match(rest.lstrip(" *_")) or _NEGATED_BEFORE.search(
            text[max(0, match.start() - 50) : match.start()]
        ):
            continue
        end = re.search(r"\n|\.(?=\s|$)|[;!?](?=\s|$)|,\s+(?=[a-z]{3,})|\s+(?:because|since|but|not|as|which)\b", rest)
        if end and end[0] == "?":
            continue
        stated = rest[: end.start()] if end else rest
        if formula := _FORMULA.match(rest):
            behind = stated[formula.end() :]
            if _COMPARED.match(behind):
                answer = None  # "$12$ more than $3$"
                continue
            listed = _LISTED.match(behind)
            stated = stated if listed and listed[0].strip() and _VALUE.match(behind, listed.end()) else formula[0]
        stated = stated.strip().strip("*_").strip()
        answer = stated or answer
    if answer and re.search(r"\b(?:is|are|equals)\b", _FORMULA.sub(" ", answer)):
        return _last_sentence(answer)  # "Final Answer: the largest n is 34"
    return answer


def _last_sentence(text: str) -> str | None:
    """The number, formula or list that the last sentence states, or the last formula of a sentence before it.

    None where a sentence on the way is negated, doubted, conditional or a question, or leaves a choice.
    """
    formulas: list[str] = []

    def placed(match: re.Match[str]) -> str:
        content = next(group for group in match.groups() if group).strip()
        if match[2] and _MONEY.match(content):
            return match.group()  # "$5 and gets $": two amounts of money
        formulas.append(content)
        return f"\x01{len(formulas) - 1}\x02"

    marked = _FORMULA.sub(placed, re.sub("[\x01\x02]", "", text))
    sentences = [each for each in re.split(r"(?<=[.!?])\s+|\n+", marked) if re.search(r"\w", each)]
    for back, sentence in enumerate(reversed(sentences)):
        if _REFUSED.search(sentence):
            return None
        last = next((part for part in reversed(sentence.split(";")) if _CANDIDATE.search(part)), sentence)
        sentence = sentence if last.count("(") != last.count(")") else last
        found = list(_CANDIDATE.finditer(sentence))
        if back and not any(match["formula"] for match in found):
            continue
        if len(found) > MOST_CANDIDATES:
            return None
        if found:
            return _chosen(sentence, found, formulas)
    return None


def _chosen(sentence: str, found: list[re.Match[str]], formulas: list[str]) -> str | None:
    """The one candidate, or list of candidates, of a sentence; the one behind its last "is" where it has several."""
    if any(match["number"] or match["word"] for match in found):
        values = [each for each in found if not each["formula"] or not _NAME.fullmatch(formulas[int(each["formula"])])]
        found = values or found
    if any(match["word"] for match in found) and not all(match["word"] for match in found):
        found = [match for match in found if not match["word"]]
    groups = [[found[0]]]
    for before, match in pairwise(found):
        between = sentence[before.end() : match.start()].replace("*", "")
        if _RANGE.fullmatch(between):
            return None
        if _LISTED.fullmatch(between):
            groups[-1].append(match)
        else:
            groups.append([match])
    if len(groups) > 1:
        before_each = [sentence[: group[0].start()] for group in groups]
        stated = [group for group, before in zip(groups, before_each, strict=True) if _COPULA.search(before)]
        in_formulas = [group for group in groups if group[0]["formula"]]
        done = [group for group, before in zip(groups, before_each, strict=True) if _VERB.search(before)]
        if not (stated or in_formulas) and len(done) > 1 and not _CONCLUSION.search(sentence[: done[-1][0].start()]):
            return None  # "Sarah has 6 and David has 4"
        groups = (stated or in_formulas or done)[-1:]
        behind = sentence[groups[0][-1].end() :] if groups and not in_formulas else ""
        if re.search(r"\b(?:and|or)\b.*\d", behind):
            return None  # 15 apples and 3 pears: two answers
    if not groups:
        return None
    first, last = groups[0][0], groups[0][-1]
    written = re.sub("\x01(\\d+)\x02", lambda match: formulas[int(match[1])], sentence[first.start() : last.end()])
    return written.replace("*", "") if len(groups[0]) > 1 else written
