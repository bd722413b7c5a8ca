"""What can be seen of a request without a model: its normalised text, and some thirty surface features.

Normalising comes first, because prompts are hostile: whoever pads a text, writes it in look-alike letters or hides
characters in it should not get another route for it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

MAX_CHARACTERS = 4_000  # what is measured of a text, half from its head and half from its tail
_MAX_RAW = 200_000  # what is looked at of a text, likewise
_INVISIBLE = {"Cc", "Cf", "Co", "Cs"}
_LOOKALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁԛԝӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧοıɡ",  # noqa: RUF001 (they are the point)
    "ABESIJKMHOPCTYXaesijopcyxhdqwlABEZHIKMNOPTYXoig",
)
ENDING_WORDS = 28
_WORD = re.compile(r"\S+")
_CONVERSATION = 1_000  # characters: about what the encoders take in
_PADDING = 8  # what recurs so often says nothing, not even once
_LINE_OR_SENTENCE = re.compile(r"(?<=\n)|(?<=[.!?])(?=\s)")
_DECORATION = re.compile(r"\s*(?:([^\w\s])\1{3,}\s*)+")  # possessive, it is misread by CPython before 3.11.5
_CHOICES = re.compile(r"(?:\n\(?[A-Z][.)] ?.*){2,}(?:\nAnswer:?)?\s*$")


def normalise(text: str) -> str:
    """The text as the classifier reads it, at most 4,000 characters: head and tail of a longer one.

    Compatibility forms become plain (NFKC), invisible characters go, look-alike letters and stacked accents in a mostly
    Latin text become plain Latin, and white space is collapsed. A text that is one piece over and over is read once; so
    are signs, letters, words, lines and sentences that recur, and those that recur eight times or more are padding,
    which goes. Upper and lower case stay.
    """
    text = _head_and_tail(unicodedata.normalize("NFKC", _head_and_tail(text, _MAX_RAW)), _MAX_RAW)
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _INVISIBLE)
    if not text.isascii() and _mostly_latin(text):
        text = "".join(c for c in text if unicodedata.category(c) != "Mn").translate(_LOOKALIKES)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ?\n[ \n]*", "\n", text)
    text = _unrolled(_undecorated(text).strip())
    text = re.sub(r"([^\w\s]|_)\1{3,}", r"\1\1\1", text)
    text = re.sub(r"([^\W\d_])\1{4,}", r"\1", text)
    text = re.sub(rf"\b([^\W\d_]\w{{0,29}})(?:\W{{1,3}}\1\b){{{_PADDING - 1},}}\W{{0,3}}", "", text) or text
    text = re.sub(r"\b(\w{1,30})(?:\W{1,3}\1\b){3,}", r"\1", text)
    return _head_and_tail(_without_repeats(text).strip(), MAX_CHARACTERS)


def _undecorated(text: str) -> str:
    """The text without runs of a sign at its ends, such as `!!!!`."""
    bare = text
    for _ in range(2):  # from the end, then from the beginning
        bare = bare[::-1]
        run = _DECORATION.match(bare)
        bare = bare[run.end() :] if run else bare
    return bare or text


def _unrolled(text: str) -> str:
    """The piece that the text repeats from end to end, or the text itself."""
    for joint in ("\n", " ", ""):
        whole = text + joint
        period = (whole + whole).find(whole, 1)
        if period < len(whole):
            return whole[:period].strip()
    return text


def _without_repeats(text: str) -> str:
    """Each line or sentence at most twice, none that recurs as padding does; short ones, such as `A. 8`, may recur."""
    pieces = [(piece, piece.strip().casefold()) for piece in _LINE_OR_SENTENCE.split(text)]
    counts = Counter(key for _, key in pieces if key)
    seen: Counter[str] = Counter()
    kept = []
    for piece, key in pieces:
        seen[key] += 1
        if counts[key] < _PADDING and (seen[key] <= 2 or len(key) <= 12):
            kept.append(piece)
    return "".join(kept) or text


def reading(text: str) -> str:
    """The normalised text without lettered choices at the end.

    Without the choices, a test question and the same question asked in a chat are one: what was learnt from recorded
    benchmarks then holds for chats.
    """
    text = normalise(text)
    return _CHOICES.sub("", text) or text


def ending(text: str) -> str:
    """The last 28 words of a text, with their lines: what is asked, mostly, and out of reach of what is put before it.

    On recorded questions they tell as much as the whole text. With more of them a prefix has a say in more requests.
    """
    words = list(_WORD.finditer(text))
    return text[words[-ENDING_WORDS].start() :] if len(words) > ENDING_WORDS else text


def conversation(turns: Sequence[str]) -> str:
    """A whole conversation as one text to judge, its last 1,000 characters: what is cut of a long one is the oldest."""
    return "\n".join(turns)[-_CONVERSATION:]


def _head_and_tail(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}\n{text[1 - most // 2 :]}"


def _mostly_latin(text: str) -> bool:
    """By the letters that are no other script's look-alikes of Latin ones: a disguise may be most of a short text."""
    letters = [c for c in text[:2000] if c.isalpha() and ord(c) not in _LOOKALIKES]
    return 2 * sum(c < "ɐ" for c in letters) >= len(letters)


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


# Each counts its matches; a feature's value is log(1 + count). The order is part of every artefact.
_COUNTS: dict[str, re.Pattern[str]] = {
    "words": re.compile(r"\w+"),
    "sentences": re.compile(r"[.!?](?=\s|$)"),
    "lines": re.compile(r"\n"),
    "questions": re.compile(r"\?"),
    "numbers": re.compile(r"\d+(?:[.,]\d+)*"),
    "big_numbers": re.compile(r"\d[\d,]{3,}"),
    "fractions": re.compile(r"\d\s?(?:[/\u2044]\s?\d|%)|\b(?:half|third|quarter|percent|twice|double|triple)\b"),
    "money": re.compile(r"[$€£]|\b(?:dollars?|cents?|euros?)\b", re.IGNORECASE),
    "operators": re.compile(r"[=<>+*^|\u2200-\u22ff\u2190-\u21ff]|\d\s*[-/]\s*\d"),
    "formulas": re.compile(r"\\[a-zA-Z]+|\b[a-zA-Z]\s?[\^_=(]|\b\d+[a-z]\b|\b[xyz]\b"),
    "code": re.compile(r"```|[{};]|\(\)|==|->|\b(?:def|class|return|import|function|SELECT|void|int)\b"),
    "quotes": re.compile(r"[\"“”]"),
    "blanks": re.compile(r"_{2,}|\.\.\.|:$"),
    "capitals": re.compile(r"\b[A-Z][a-z]+"),
    "acronyms": re.compile(r"\b[A-Z]{2,}\b"),
    "long_words": re.compile(r"\b[^\W\d]{10,}\b"),
    "lookups": _words("who", "when", "where", "which", "what", "whose"),
    "reasons": _words("why", "how", "explain", "because", "reason", "justify"),
    "quantities": _words(
        "how (?:many|much|long|far|old|often)", "total", "average", "sum", "remaining", "left", "each"
    ),
    "conditions": _words("if", "suppose", "assume", "given", "let", "unless", "when", "whenever"),
    "derivations": _words("prove", "proof", "derive", "show that", "theorem", "integral", "derivative", "solve"),
    "calculations": _words("calculate", "compute", "find", "determine", "estimate", "evaluate", "probability"),
    "writing": _words("write", "translate", "summari[sz]e", "rewrite", "list", "compose", "draft", "story", "poem"),
    "negations": _words("not", "no", "never", "except", "least", "false", "incorrect", "cannot", r"\w+n't"),
    "comparisons": _words("more", "less", "most", "than", "best", "greater", "fewer", "compared?", "same", "between"),
    "sequences": _words("then", "after", "before", "first", "next", "finally", "later", "per", "every", "day", "week"),
    "statements": _words("statements?", "following", "according", "scenarios?", "passage", "true"),
}


def _shares(text: str) -> list[float]:
    """Shares of the text, each 0…1, and the mean length of its words over ten."""
    length = max(len(text), 1)
    words = text.split()
    return [
        sum(c.isdigit() for c in text) / length,
        sum(c.isupper() for c in text) / length,
        sum(not c.isalnum() and not c.isspace() for c in text) / length,
        sum(not c.isascii() for c in text) / length,
        len({word.casefold() for word in words}) / max(len(words), 1),
        sum(map(len, words)) / max(len(words), 1) / 10,
    ]


NAMES: tuple[str, ...] = (
    "characters", *_COUNTS,
    "digit_share", "upper_share", "sign_share", "foreign_share", "distinct_share", "word_length",
)  # fmt: skip


def surface_features(texts: Sequence[str]) -> NDArray[np.float32]:
    """Features of normalised texts: float32 of shape [len(texts), len(NAMES)], columns as in `NAMES`."""
    import numpy as np

    rows = [
        [
            math.log1p(len(text)),
            *(math.log1p(sum(1 for _ in pattern.finditer(text))) for pattern in _COUNTS.values()),
            *_shares(text),
        ]
        for text in texts
    ]
    return np.array(rows, dtype=np.float32).reshape(len(texts), len(NAMES))
