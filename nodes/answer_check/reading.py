"""What an answer says, taken apart: its final answer, its written equations, where it breaks off or runs on."""

from __future__ import annotations

import ast
import functools
import json
import math
import re
import unicodedata
from dataclasses import dataclass

from dynflow.nodes.answer_check.equations import Step, number, numbers, steps

MAX_CHARACTERS = 8_000  # what is read of an answer or a question, half from its head and half from its tail
_MOST = 100  # so many equations, and numbers of a question, are looked at
_INVISIBLE = frozenset(("Cc", "Cf", "Co", "Cs"))

_FINAL = re.compile(
    r"^\s*#{2,6}[ \t]*(?=[-$€£(]*\d|[A-Z]\b)(?P<marked>[^\n]*)"
    r"|\\boxed\{(?P<boxed>[^{}]*)\}"
    r"|(?:final answer|answer is|answer:)\s*:?\s*\**(?P<said>[^\n]{1,80})",
    re.IGNORECASE | re.MULTILINE,
)
_FENCE = re.compile(r"```(\w*)\n(.*?)(?:```|\Z)", re.DOTALL)
_BROKEN_END = re.compile(r"(?:<<[^>]*|[-+*/=(,:]|\b(?:and|the|of|to|is|a|so|then|for))\s*$")
_REFUSAL = re.compile(
    r"\bas an ai\b|\bi(?:'m| am) (?:sorry|unable|not able)|\bi (?:can(?:no|')t|do not|don't) "
    r"(?:help|answer|provide|assist|know|have)|\b(?:not|im)possible to (?:determine|answer|know|tell|say)|"
    r"\bnot enough information|\bcannot be (?:determined|answered|calculated)|\bno (?:valid )?solution\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:assum\w+|however|approximately|about|probably|maybe|perhaps|seems?|unclear|ambiguous|"
    r"not specified|mistake|incorrect|contradict\w*|actually|wait|note)\b|\?",
    re.IGNORECASE,
)
_NEXT_TURN = re.compile(
    r"^\s*(?:#+\s*)?(?:question|problem|user|human|q|input|instruction)\s*\d*\s*:", re.IGNORECASE | re.MULTILINE
)
_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_WORDS: dict[str, float] = {
    **{word: float(value) for value, word in enumerate(_TO_TWENTY.split())},
    "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
    "thousand": 1e3, "million": 1e6, "dozen": 12, "pair": 2, "pairs": 2, "once": 1, "twice": 2, "double": 2,
    "thrice": 3, "triple": 3, "half": 1 / 2, "halves": 1 / 2, "third": 1 / 3, "thirds": 1 / 3, "quarter": 1 / 4,
    "quarters": 1 / 4, "fourth": 1 / 4, "fourths": 1 / 4, "fifth": 1 / 5, "fifths": 1 / 5, "sixth": 1 / 6,
    "eighth": 1 / 8, "tenth": 1 / 10, "tenths": 1 / 10, "week": 7, "weeks": 7, "year": 12, "years": 12,
}  # fmt: skip
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """One answer to one question, taken apart."""

    question: str
    answer: str
    asked: tuple[float, ...]
    """Numbers of the question, digits first, then words such as `half`."""
    digits: int
    """How many of them stand there in digits."""
    steps: tuple[Step, ...]
    final: float | None
    """The number of the final answer, or the last one where none is marked."""
    marked: bool
    """Whether the final answer is marked as such (`####`, `\\boxed`, `the answer is`)."""
    after: str
    """What goes on after the line of a marked final answer."""
    before: float | None
    """The last number before the final answer."""

    @property
    def broken_off(self) -> bool:
        """Whether it ends in the middle of a sentence or an equation."""
        text = self.answer.rstrip()
        if not text or _BROKEN_END.search(text[-160:]):
            return True
        if self.marked or self.code or self.as_json is not None:
            return text.count("```") % 2 == 1
        return text[-1].isalpha() and len(text) > 80

    @property
    def reckons(self) -> bool:
        """Whether it is an answer in words about numbers: the question has two of them, or the answer an equation."""
        return (self.digits >= 2 or bool(self.steps)) and not (
            self.json_wanted or self.as_json is not None or self.code
        )

    @property
    def refuses(self) -> bool:
        """Whether it says that it cannot answer."""
        return _REFUSAL.search(self.answer) is not None

    @property
    def hedges(self) -> int:
        """Words of doubt in it."""
        return sum(1 for _ in _HEDGE.finditer(self.answer))

    @property
    def runs_on(self) -> bool:
        """Whether it goes on to another question, or to text after its final answer."""
        return bool(_NEXT_TURN.search(self.answer)) or len(self.after.split()) > 3

    @property
    def repeats(self) -> float:
        """Share of its lines and sentences, 0…1, that stood there before."""
        pieces = [piece for piece in re.split(r"\n+|(?<=[.!?])\s+", self.answer.strip()) if len(piece) > 12]
        return 1 - len(set(pieces)) / len(pieces) if pieces else 0.0

    @functools.cached_property
    def as_json(self) -> object:
        """The value of an answer that is one JSON object or list, in a fence or bare; None where it is none."""
        return json_of(self.answer)

    @property
    def json_wanted(self) -> bool:
        """Whether the question asks for JSON."""
        return re.search(r"\bjson\b", self.question, re.IGNORECASE) is not None

    @property
    def json_broken(self) -> bool:
        """Whether it should be JSON, or begins as if it were, and is not."""
        begins = self.answer.lstrip()[:1] in ("{", "[") or any(language == "json" for language, _ in self.code)
        return (self.json_wanted or begins) and self.as_json is None

    @property
    def code_broken(self) -> bool:
        """Whether a fenced block of Python does not parse; other languages are not judged."""
        return any(not _parses(text) for language, text in self.code if language in ("python", "py"))

    @property
    def json_values(self) -> list[str]:
        """Texts and numbers in an answer that is JSON, as they are written."""
        return _leaves(self.as_json, [])

    @functools.cached_property
    def code(self) -> tuple[tuple[str, str], ...]:
        """Fenced blocks, as (language, text)."""
        return tuple((language.casefold(), text) for language, text in _FENCE.findall(self.answer))


@functools.lru_cache(maxsize=512)
def read(question: str, answer: str) -> Reading:
    """Take an answer apart; never fails. Of a very long text head and tail are read."""
    question, answer = plain(_capped(question)), plain(_capped(answer))
    written = numbers(question)[:_MOST]
    worded = [_WORDS[word.casefold()] for word in _WORD.findall(question)][:_MOST]
    finals = list(_FINAL.finditer(answer))
    last = finals[-1] if finals else None
    said = next((text for text in last.groups() if text), "") if last else ""
    told = _signed_numbers(said)
    body = re.sub(r"<<[^>]*>>", "", answer[: last.start()] if last else answer)
    earlier = numbers(body)
    final = told[0] if told else (earlier[-1] if earlier else None)
    return Reading(
        question=question,
        answer=answer,
        asked=(*written, *worded),
        digits=len(written),
        steps=tuple(steps(answer)[:_MOST]),
        final=final,
        marked=bool(told) or (last is not None and last.lastgroup != "marked"),
        after=answer[last.end() :].strip() if last else "",
        before=(earlier[-1] if earlier else None) if told else (earlier[-2] if len(earlier) > 1 else None),
    )


def json_of(answer: str) -> object:
    """The object or list that an answer is, whole or in its only fence; None where it is none."""
    blocks = _FENCE.findall(answer)
    text = blocks[0][1] if len(blocks) == 1 else answer
    if not re.match(r"\s*[\[{]", text):
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _leaves(value: object, found: list[str]) -> list[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _leaves(item, found)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        found.append(str(value))
    return found


def same(one: float, other: float) -> bool:
    """Whether two numbers are one, up to rounding."""
    return math.isclose(one, other, rel_tol=5e-3, abs_tol=1e-6)


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _signed_numbers(text: str) -> list[float]:
    return [
        (-1 if sign else 1) * number(digits)
        for sign, digits in re.findall(r"(-\s?[$€£]?\s?)?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)", text)
    ]


def plain(text: str) -> str:
    """The text without what cannot be seen: compatibility forms made plain (NFKC), invisible characters left out."""
    text = unicodedata.normalize("NFKC", text) if not text.isascii() else text
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _INVISIBLE).strip()


def _capped(text: str) -> str:
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]}\n{text[-half:]}"
