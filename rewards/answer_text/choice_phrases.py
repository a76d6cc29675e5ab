"""The phrases in which a text states, rejects or doubts a choice letter, as regular expressions of plain text."""

import re

LETTER = (
    r"(?:\(\s*(?P<round>[A-Za-z])\s*\)|\[\s*(?P<square>[A-Za-z])\s*\]|(?P<bare>[A-Za-z])"
    r"(?![\w'^_(=+*/<>\\]|\.[A-Za-z]))"
)
NOUN = r"(?:answer|option|choice|letter|statement|alternative)"
OPTIONAL_NOUN = (
    rf"(?:(?:the\s+)?(?:(?:correct|right|best|final)\s+)?{NOUN}(?:\s+(?:choice|option))?\s+(?:is\s+)?:?\s*)?"
)
ADVERBS = (
    r"(?:\s*,?\s*(?:therefore|thus|hence|clearly|definitely|certainly|obviously|probably|most likely|likely|"
    r"simply|"
    r"indeed|also|then|again|still|now|actually|really|just|exactly|in fact|undoubtedly|presumably)\b,?)*"
)
IS = r"(?:is|'s|was|would be|can only be|seems to be|appears to be|must be|should be|has to be|will be)"
CORRECT = r"(?:correct|right|best|better|appropriate|accurate|plausible|suitable|reasonable|final|likely)"

STATED = re.compile(
    r"\b(?:answer|option|choice|pick|selection|solution(?=\s*:|\s+is\s+(?:option|choice))|"
    r"correct\s+(?:one|statement|letter|alternative)|best\s+(?:one|statement|match(?:es)?|fits?))"
    r"(?:\s+(?:choice|option|here))?(?:\s+(?:to|for|of|among)\b[^.:]{0,80}?|,\s+as\b[^.,]{1,40},)?"
    rf"{ADVERBS}\s*(?:{IS}(?=[\s:(])|=|:|-)+{ADVERBS}"
    rf"\s*[:,]?\s*(?:not\s+\(?[A-Za-z]\)?,?\s+but\s+(?:rather\s+)?)?{OPTIONAL_NOUN}{LETTER}",
    re.I,
)
CHOSEN = re.compile(
    r"(?:^\W*(?=(?:choose|select|pick)\b)|"
    r"\b(?:I|we|let us|let's)(?:'d|'ll|'m| am| would| will| therefore| thus| hence| must| shall| should|"
    r" now)*\s+)"
    rf"(?:choose|select|pick|go with|going with|settle on|opt for|answer|"
    rf"say)\s+(?:with\s+)?{OPTIONAL_NOUN}{LETTER}",
    re.I,
)
PREDICATE = re.compile(
    rf"(?:\b{NOUN}\s+)?(?<![\w\\^_'-]){LETTER}\)?(?::[^.;]{{0,60}}?)?\s+(?:is|must be|has to be|"
    rf"would be|stands out as|turns out to be){ADVERBS}\s+"
    rf"(?:(?P<the>the|our|my)\s+)?(?:(?:only|most|single|one)\s+)*(?P<word>{CORRECT}|answer|choice|one)\b"
    rf"(?P<noun>\s+(?:{NOUN}|one)\b)?",
    re.I,
)
REMAINS = re.compile(
    rf"\bleav(?:es|ing)\s+(?:us\s+with\s+)?(?:only\s+|just\s+)?{OPTIONAL_NOUN}{LETTER}(?=\W*$)"
    rf"|\bonly\s+(?:{NOUN}\s+)?{LETTER.replace('?P<', '?P<only_')}\s+(?:is|has|satisfies|fits|works|match\w*|"
    rf"remains|"
    rf"agrees|gives|can)\b"
    rf"|\b(?:points?\s+to|makes?)\s+{LETTER.replace('?P<', '?P<made_')}\s+(?:as\s+)?the\s+(?:\w+\s+)?"
    r"(?:answer|choice)\b"
    rf"|^not\s+\(?[A-Z]\)?,?\s+but\s+(?:rather\s+)?{LETTER.replace('?P<', '?P<but_')}(?=\W*$)"
    rf"|(?<![\w\\^_'-]){LETTER.replace('?P<', '?P<left_')}\s+(?:alone\s+)?(?:remains|is\s+left|survives)\b",
    re.I,
)
THEN = (
    r"(?:wait[:,]|in summary|in conclusion|to conclude|overall|"
    r"therefore|thus|so|hence|consequently|accordingly|→|⇒|=>|->|"
    r"\\(?:to|Rightarrow|implies|rightarrow))"
)
IT = r"(?:(?:it|this|that|which|the answer|we have|we get)(?:\s*(?:is|'s|must be|has to be|should be))?)"
CONCLUSION = re.compile(
    rf"(?:\b|(?<=\W)|^)(?:{THEN}[\s,:]*{IT}?|(?:^|(?<=[,;]\s))(?:but\s+)?(?:it|this|that)\s*(?:is|'s|must be|"
    rf"has to be))"
    rf"{ADVERBS}\s*{OPTIONAL_NOUN}{LETTER}"
    rf"|\b(?:corresponds? to|match(?:es|ing)?|closest to|agrees? with|that is|namely|which is|"
    rf"nearest to|supports?)\s*,?\s+(?:the\s+)?"
    rf"(?:answer|option|choice)\s+{LETTER.replace('?P<', '?P<option_')}(?=\W*$)",
    re.I,
)
ALONE = re.compile(rf"^\W*?(?:{NOUN}\s+)?{LETTER}\)?[\s.!]*$", re.I)
OPTION_LINE = re.compile(rf"^\s*(?:{NOUN}\s+)?{LETTER}(?:\)|\.|:|\s-)?\s+\S", re.I)

FOLLOWS = re.compile(  # what may follow a bare letter that is an answer and no word of a phrase
    r"^\s*(?:$|[.,;:!)\]]|\(|-\s|[\ue000]|(?:because|since|as|for|due|by|given|which|where|with|in|on|here|and|"
    r"or|but|so|"
    r"not|rather|instead|from|after|according|based|among|at|when|therefore|indeed|too|if|unless|only|is|isn't|"
    r"was|cannot|"
    r"can't|would|fails?)\b)"
)
REJECTED_AFTER = re.compile(
    r"^\W*(?:which\s+(?:is|was)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|not|impossible)\b|(?:is|isn't|was|"
    r"wasn't|would|wouldn't|cannot|can|can't|could|fails?|does|doesn't|violates|contradicts)\b"
    r"|(?:only\s+)?(?:if|unless)\b)"
)
WRONG_AFTER = re.compile(
    r"^\W*(?:(?:\w+ly\s+)?(?:wrong|incorrect|false|impossible|excluded|eliminated|not\b|ruled))", re.I
)
ANOTHER = re.compile(
    r"^\s*(?:->|→|⇒|[,;/&|+-]|,?\s*\b(?:and|or|as well as)\b)?\s*(?:(?:and|or|also|maybe|perhaps|possibly|even|"
    r"both)\b\s*)*"
    r"(?:(?:option|choice|answer)s?\s+)?(?:\(\s*[A-Za-z]\s*\)|[A-Z](?![\w'^_(=]))(?=\s*(?:$|[.,;:!?/&|)(-]|"
    r"(?:and|or|are)\b|[A-Z]\b))"
)
JOINED_BEFORE = re.compile(rf"(?:^|[\s(])\(?[A-Z]\)?\s*,?\s*(?:and|or|nor|&|/)\s+(?:{NOUN}\s+)?$")
HEDGE = re.compile(
    r"\b(?:not|never|neither|nor|no|cannot|nobody|hardly|none|without|false|wrong|incorrect\w*|untrue|"
    r"mistake\w*|impossible|"
    r"unlikely|doubt\w*|deny|if|whether|unless|suppos\w+|assum\w+|wonder\w*|might|may|could|would have|had|"
    r"were|tempt\w+|"
    r"claim\w*|saying|thought|think the opposite|seem\w*|initially|students?|readers?|someone|somebody|some|"
    r"many|people|"
    r"check\w*|verify|test\w*|contrary|least|worst|(?<!only )possibl[ey]|nothing|whoever|"
    r"misconception|myth|fails|disagree\w*|dispute\w*|"
    r"reject\w*|by no means|used to|at first|"
    r"instead of|rather than|opposite|second[- ]best|runner-up|for the sake of|let us say|let's say|"
    r"except|perhaps|maybe|careless|naive\w*|say that)\b|n't\b",
    re.I,
)
NEGATION = re.compile(  # of a box: fewer words than HEDGE, as a box is mostly meant
    r"\b(?:not|never|neither|nor|cannot|false|wrong|incorrect\w*|untrue|impossible|unlikely|doubt\w*|disagree\w*|rejects?|"
    r"eliminates?|excludes?|rules?\s+out|discards?|suppos\w+|would have)\b|n't\b|\bif the answer\b",
    re.I,
)
BOX_REJECTED = re.compile(
    r"\W*(?:is|was|must be|would be|can be|could be|seems?)\s+(?:\w+ly\s+)*"
    r"(?:wrong|incorrect|false|not\b|impossible|excluded|eliminated|ruled)|\W*(?:isn't|cannot|can't|fails)\b",
    re.I,
)
NO_HEDGE = re.compile(
    r"\b(?:no|without(?:\s+an?y?)?|beyond(?:\s+an?y?)?)\s+(?:doubt|question)\b|\bnot only\b|\bI think\b|"
    r"\bsome\s+\w+ing\b",
    re.I,
)
BOUNDARY = re.compile(
    r"[,;:]|\s-\s|\b(?:but|so|however|therefore|thus|hence|while|whereas|and|because|since|as)\b", re.I
)
ALTERNATIVE = re.compile(  # "A, or it may be D", "A. Or D."
    r"[^\w]{0,3}\b(?:or|alternatively|possibly|maybe|perhaps)\b[^.!?\n]{0,25}?\b[A-Z](?![\w'^_(=])\W*?(?:$|[.!?\n])",
    re.I,
)
REASONED = re.compile(rf"^{LETTER}\)?(?=\s*,?\s+(?:because|since|due to)\b|,\s+as\b)", re.I)
IT_IS = re.compile(rf"(?<![\w\\^_'-]){LETTER}\)?\s+it\s+is(?=\W*$)", re.I)
SENTENCES = re.compile(r"[^.!?\n]*(?:[.!?](?!\s|$)[^.!?\n]*)*(?:[.!?]+(?=\s|$)|\n|$)")
REJECTION = re.compile(
    rf"(?<![\w\\^_'-]){LETTER}\)?\s+(?:is|was|must be|would be|can be|seems?)\s+(?:\w+ly\s+|also\s+|then\s+)*"
    r"(?:wrong|incorrect|false|not\b|invalid|impossible|excluded|eliminated|ruled\s+out|out\b)|"
    rf"(?<![\w\\^_'-]){LETTER.replace('?P<', '?P<no_')}\)?\s+(?:isn't|cannot|can't|wasn't)\b",
    re.I,
)
TAKEN_BACK = re.compile(
    r"^\W*(?:no\b\s*[,.!]|I (?:strongly )?disagree\b|"
    r"(?:(?:wait|hmm|but|no|oops|actually|sorry|well)\W+)*(?:that|this|it)\s*(?:is|'s|was|"
    r"can|cannot|"
    r"can't)\s*(?:\w+ly\s+)?(?:wrong|incorrect|not\b|false|a mistake|be\b|impossible))",
    re.I,
)
CORRECTION = re.compile(
    r"\b(?:wait|no|actually|but|however|correction|rather|hmm|oops|sorry|reconsider\w*|instead|re-?check\w*|"
    r"mistake|error|"
    r"wrong|correct (?:this|that|it|my\w*)|on second thought|finally|overall|not)\b|n't\b",
    re.I,
)
SPECIES = re.compile(r"\s*(?:coli|elegans|subtilis|pylori|melanogaster|cerevisiae|sapiens|difficile)\b")  # E. coli
