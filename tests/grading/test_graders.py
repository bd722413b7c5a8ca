"""Each grader on answers that are right, wrong, and hard to tell."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dynflow import loads
from dynflow.errors import GradingError
from dynflow.grading import Answered, Grade, Grader, read_grader
from dynflow.grading.comparing import Exact, Number, Pattern, numbers
from dynflow.grading.own import Own
from dynflow.grading.schema import Schema
from dynflow.testing import FakeChat

JUDGED = """
version: 1
models: {large: {provider: host, max_tokens: 5, price: {input: 0, output: 100000}}}
nodes: {cloud: {type: chat, model: large}}
edges:
  - {from: start, to: cloud}
  - {from: cloud, to: end}
"""


def grade(grader: Grader, text: str, reference: Any = None) -> Grade:
    return asyncio.run(grader.grade(Answered(text, "why?", reference, "cloud", "why?")))


def quality(grader: Grader, text: str, reference: Any = None) -> float | None:
    return grade(grader, text, reference).quality


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("Paris", "paris", 1),
        (" The  Eiffel Tower. ", "Eiffel tower", 1),
        ("**Paris**!", "Paris", 1),
        ("It is Paris", "Paris", 0),
        ("3.5", "35", 0),
        ("Roma", ["Rome", "Roma"], 1),
        ("\uff30aris", "Paris", 1),
        ("42", 42, 1),
        ("", "A", 0),
        ("(A)", "A", 1),
    ],
)
def test_exact(text, reference, right):
    assert quality(Exact(), text, reference) == right


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$20.00", ["20"]),
        ("it costs $ 1,234.50.", ["1234.50"]),
        ("-3 or \u22124", ["-3", "-4"]),
        ("-$5 and $-6", ["-5", "-6"]),
        ("3-5 apples", ["3", "5"]),
        ("- 7 bullets", ["7"]),
        ("1,2,3", ["1", "2", "3"]),
        (".5 and 1,000,000", [".5", "1000000"]),
        ("H2O v1.2", []),
    ],
)
def test_numbers_of_a_text(text, found):
    from decimal import Decimal

    assert list(numbers(text)) == [Decimal(number) for number in found]


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("3 + 2 = 5 hens, so $20.00", 20, 1),
        ("20.01", "20", 0),
        ("20.", "$20.00", 1),
        ("0.1", 0.1, 1),
        ("none", 3, 0),
        ("7", [6, 7], 1),
    ],
)
def test_number(text, reference, right):
    assert quality(Number(), text, reference) == right


def test_pattern_extracts_the_last_match_and_compares():
    grader = Pattern(r"answer:\s*(\S+)")
    assert quality(grader, "Answer: B. No: answer: C.", "c") == 1
    assert quality(grader, "Answer: B", "c") == 0
    assert quality(grader, "C", "c") == 0
    assert quality(Pattern(r"[A-D]\b"), "(B) or D", "D") == 1


def test_pattern_with_the_reference_in_it():
    grader = Pattern(r"\b{reference}\b")
    assert quality(grader, "It is paris, of course", "Paris") == 1
    assert quality(grader, "comparison", "paris") == 0
    assert quality(grader, "a+b", ["x", "a+b"]) == 1  # no pattern itself
    assert quality(grader, "aab", "a+b") == 0


def test_schema():
    grader = Schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    assert quality(grader, '{"n": 3}') == 1
    assert quality(grader, '```json\n{"n": 3}\n```') == 1
    assert quality(grader, '{"n": "3"}') == 0
    assert quality(grader, "n is 3") == 0
    assert grader.fault({}) is None
    with pytest.raises(GradingError, match="no JSON schema"):
        Schema({"type": "objekt"})
    with pytest.raises(GradingError, match="refers to what is not in it"):
        Schema({"$ref": "https://example.org/schema.json"})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "no 'reference'"),
        ({"reference": []}, "empty list"),
        ({"reference": float("nan")}, "a finite number, not nan"),
        ({"reference": None}, "text or a number"),
        ({"reference": ["a", {}]}, "text or a number"),
        ({"reference": " "}, "text or a number"),
    ],
)
def test_rows_that_cannot_be_graded(row, said):
    assert said in (Exact().fault(row) or "")


def test_a_number_needs_a_number():
    assert "'some' " not in (Number().fault({"reference": "12 kg"}) or "")
    assert "one number" in (Number().fault({"reference": "some"}) or "")
    assert "one number" in (Number().fault({"reference": "3 or 4"}) or "")


def test_a_function_of_the_host():
    async def later(answered: Answered) -> float:
        return 0.25

    assert quality(Own(lambda answered: answered.text == answered.reference), "a", "a") == 1
    assert quality(Own(later), "a") == 0.25
    for given in (2, None, "good", float("nan")):
        with pytest.raises(GradingError, match="a number from 0 to 1"):
            quality(Own(lambda answered, given=given: given), "a")
    assert Own(later).identity() != Own(test_exact).identity()


def test_a_judge_is_asked_and_paid():
    judge = FakeChat(replies=['{"score": 7}'])
    grader = read_grader("judge:large", loads(JUDGED, models={"large": judge}))
    given = grade(grader, "because {question}", ["a", "b"])
    assert given.quality == 0.7
    assert given.usd == pytest.approx(0.2)  # two words
    asked = judge.calls[0].messages[-1].text
    assert "<question>\nwhy?\n" in asked
    assert "<reference>\na\nb\n" in asked
    assert "<answer>\nbecause {question}\n" in asked  # an answer's braces are no places of ours


@pytest.mark.parametrize(
    "reply", ["8", '{"score": 11}', '{"score": 7.5}', '{"score": 7, "why": "x"}', '{"score": "7"}']
)
def test_a_judge_that_gives_no_score_gives_no_grade(reply):
    flow = loads(JUDGED, models={"large": FakeChat(replies=[reply])})
    given = grade(read_grader("judge:large", flow), "x")
    assert given.quality is None
    assert "judge 'large'" in (given.why or "")
    assert given.usd is not None
    assert given.usd > 0


def test_a_judge_without_a_key_is_no_bad_grade():
    fail = JUDGED.replace("provider: host", "provider: litellm, model: openai/x, api_key: '${env:NO_SUCH_KEY}'")
    from dynflow import MissingEnvironment

    given = grade(read_grader("judge:large", loads(fail)), "x")
    assert isinstance(given.failure, MissingEnvironment)
    assert given.why is None


def test_names_of_graders(tmp_path):
    flow = loads(JUDGED, models={"large": FakeChat()})
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "array"}))
    assert isinstance(read_grader("exact", flow), Exact)
    assert isinstance(read_grader("number", flow), Number)
    assert read_grader("regex:a:(b)", flow).identity() == ["regex", "a:(b)"]
    assert isinstance(read_grader(f"schema:{schema}", flow), Schema)
    for text, said in [
        ("exakt", "did you mean 'exact'"),
        ("foo", "expected one of: exact"),
        ("regex", "regex:PATTERN"),
        ("number:3", "as number, not"),
        ("regex:(", "no regular expression"),
        ("schema:missing.json", "cannot be read"),
        ("judge:larg", "did you mean 'large'"),
    ]:
        with pytest.raises(GradingError, match=said.replace("(", r"\(")):
            read_grader(text, flow)
    with pytest.raises(GradingError, match="goes with judge"):
        read_grader("exact", flow, judge_prompt="{answer}")
    with pytest.raises(GradingError, match=r"\{answer\}"):
        read_grader("judge:large", flow, judge_prompt="good?")
