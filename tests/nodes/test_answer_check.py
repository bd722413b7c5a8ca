"""The answer check: what it reads of an answer, what it finds wrong, what it makes of evidence, and the node."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynflow
from dynflow.compile import check_text
from dynflow.errors import ArtefactError
from dynflow.nodes.answer_check.checks import CHECKS
from dynflow.nodes.answer_check.equations import steps
from dynflow.nodes.answer_check.features import NAMES, features
from dynflow.nodes.answer_check.reading import read
from dynflow.nodes.answer_check.sources import sources
from dynflow.nodes.answer_check.verdict import Case, Verdict, opinion, without_estimator
from dynflow.nodes.difficulty_classifier import artefact as difficulty
from dynflow.testing import FakeChat

QUESTION = "Ann buys 4 boxes of 12 pencils and gives 5 away. How many pencils does she have left?"
RIGHT = "She has 4 * 12 = <<4*12=48>>48 pencils.\nShe keeps 48 - 5 = <<48-5=43>>43.\n#### 43"
JSON = "Give the name and the age as JSON: Ann is 31 years old."


@pytest.mark.parametrize(
    ("text", "operands", "holds"),
    [
        ("<<3*60=180>>", (3, 60), True),
        ("5 classes * 15 students = <<5*15=75>>75 students", (5, 15), True),
        ("3 boxes * $1.50 = $4.50", (3, 1.5), True),
        ("10 miles/hour x 3 hours = 30 miles.", (10, 3), True),
        ("235 / 3 = 78.33", (235, 3), True),
        ("40 * 10% = 4", (40, 10, 100), True),
        ("1/4 * 1,000 = 250", (1, 4, 1000), True),
        ("-6 + 3 = -3 degrees", (6, 3), True),
        ("42 + 75 = 107", (42, 75), False),
        ("7 / 0 = 7", (7, 0), False),
    ],
)
def test_written_equations_are_worked_out(text: str, operands: tuple[float, ...], holds: bool) -> None:
    (step,) = steps(text)
    assert step.operands == operands
    assert step.holds is holds


def test_a_chain_is_several_equations_and_algebra_is_none() -> None:
    assert [step.holds for step in steps("(80 + 20) / 4 = 100 / 4 = 26")] == [True, False]
    assert steps("6s + 9 = 3s + 27, so 3s = 18 and x + y = 20") == []
    assert steps("It is 5 pm = late, and 3 cats - no dogs") == []


@pytest.mark.parametrize(
    ("answer", "final", "marked"),
    [
        (RIGHT, 43, True),
        ("The total is 6.\n#### $1,250.50", 1250.5, True),
        ("So \\boxed{-15}.", -15, True),
        ("First 3, then 4.\nThe answer is: 7 apples.", 7, True),
        ("She has 48 pencils, then 43.", 43, False),
        ("Paris.", None, False),
    ],
)
def test_the_final_answer_is_found(answer: str, final: float | None, marked: bool) -> None:
    reading = read(QUESTION, answer)
    assert (reading.final, reading.marked) == (final, marked)


def test_numbers_are_followed_back_to_where_they_come_from() -> None:
    found = sources(read(QUESTION, RIGHT))
    assert (found.operands, found.chained, found.foreign, found.unused_results, found.unused_asked) == (4, 1, 0, 0, 0)
    strange = sources(read(QUESTION, "4 * 12 = 48. 48 + 17 = 65. 4 + 5 = 9.\n#### 65"))
    assert (strange.foreign, strange.unused_results) == (1, 1)
    assert sources(read(QUESTION, "4 * 12 = 48\n#### 48")).unused_asked == 1


@pytest.mark.parametrize(
    ("question", "answer", "reasons"),
    [
        (QUESTION, RIGHT, []),
        (QUESTION, "", ["empty", "cut_off", "final_answer"]),
        (QUESTION, "I'm sorry, I cannot help with that.", ["refusal", "final_answer"]),
        (QUESTION, "She has 4 * 12 = <<4*1", ["cut_off"]),
        (QUESTION, RIGHT.replace("=43>>43", "=33>>33").replace("#### 43", "#### 33"), ["arithmetic"]),
        (QUESTION, f"{RIGHT}\n\nQuestion: Bob has 3 pens. How many?", ["run_on"]),
        (QUESTION, "4 * 12 = 48\n48 + 17 = 65\n#### 65", ["origin"]),
        (QUESTION, "12 / 5 = 2.4\n#### 2.4", ["count"]),
        (QUESTION, "So she has many pencils.\n" * 5, ["repetition", "final_answer"]),
        (JSON, '{"name": "Ann", "age": 31}', []),
        (JSON, '```json\n{"name": "Ann", "age": 31}\n```', []),
        (JSON, '{"name": "Ann", "age": 31', ["json"]),
        (JSON, "Ann is 31.", ["json"]),
        ("Write a Python function.", "```python\ndef f(x):\n    return x\n```", []),
        ("Write a Python function.", "```python\ndef f(x:\n    return x\n```", ["code"]),
        ("What is the capital of France?", "The capital of France is Paris.", []),
    ],
)
def test_what_is_wrong_is_named(question: str, answer: str, reasons: list[str]) -> None:
    verdict = without_estimator(Case(question, answer, tuple(CHECKS)))
    assert verdict.reasons == reasons
    good = without_estimator(Case(QUESTION, RIGHT, tuple(CHECKS))).confidence
    assert verdict.confidence < good if reasons else verdict.confidence == good
    assert verdict.score == pytest.approx(1 - verdict.confidence)


def test_only_the_checks_that_were_asked_for_are_made() -> None:
    wrong = Case(QUESTION, "4 * 12 = 47", ("json", "empty"))
    assert without_estimator(wrong).reasons == []


def judged(**known: Any) -> Verdict:
    return without_estimator(Case(QUESTION, RIGHT, tuple(CHECKS), **known))


def test_evidence_counts() -> None:
    plain = judged().confidence
    assert judged(token_confidence=0.5).confidence == pytest.approx(0.5 * plain)
    assert judged(judged=1.0).confidence > plain > judged(judged=0.0).confidence
    alike, unlike = "48 - 5 = 43, so 43.", "#### 48"
    assert judged(samples=(alike, alike)).confidence > judged(samples=(alike,)).confidence > plain
    assert judged(samples=(alike, unlike)).confidence == pytest.approx(plain)
    assert judged(samples=(unlike,)).confidence < plain
    unfit = judged(fits=False)
    assert unfit.reasons == ["schema"]
    assert unfit.confidence < 0.05


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Yes.", 1),
        ("**Correct**", 1),
        ("no, it is wrong", 0),
        ("Not quite", 0),
        ("0.25", 0.25),
        (0.7, 0.7),
        ("hm", None),
        (3, None),
        (True, 1),
    ],
)
def test_a_judges_words_are_understood(said: object, meant: float | None) -> None:
    assert opinion(said) == meant


def test_features_are_finite_whatever_they_are_of() -> None:
    texts = [
        "",
        "\x00",
        "9" * 9000,
        "1+1=2 " * 3000,
        "((((" * 500,
        "<<" * 4000,
        "{" * 5000,
        "½ of ∞",
        "1/0 = 3",
        "\u200b",
    ]
    pairs = [(one, other) for one in texts for other in texts[:4]]
    measured = features([one for one, _ in pairs], [other for _, other in pairs])
    assert measured.shape == (len(pairs), len(NAMES))
    assert np.isfinite(measured).all()


def test_values_of_json_are_looked_up_in_the_question() -> None:
    answers = ['{"name": "Ann", "age": 31}', '{"name": "Ann", "ages": [31, 32]}', "Ann is 31."]
    measured = features([JSON] * 3, answers)
    assert measured[:, NAMES.index("json_values_foreign")] == pytest.approx([0, 1 / 3, 0])
    assert [read(JSON, answer).reckons for answer in answers] == [False] * 3


def test_what_cannot_be_seen_changes_nothing() -> None:
    hidden = "\u200b".join(QUESTION), RIGHT.replace(" ", "\u2060 ")
    assert (features([QUESTION], [RIGHT]) == features([hidden[0]], [hidden[1]])).all()


GRAPH = """
version: 1
models: {{a: {{provider: host}}, b: {{provider: host}}}}
nodes:
  draft: {{type: chat, model: a}}
  check:
    type: answer_check
    answer: ${{draft.answer}}
{options}
  cloud: {{type: chat, model: b}}
edges:
  - {{from: start, to: draft}}
  - {{from: draft, to: cloud, when: draft.failed}}
  - {{from: draft, to: check}}
  - from: check
    to: cloud
    when: check.failed or check.confidence < 0.5 or not check.passed
  - {{from: check, to: end}}
  - {{from: cloud, to: end}}
"""


JUDGED = GRAPH.replace(
    "  check:\n",
    "  judge: {{type: runnable, name: judge, input: '${{draft.text}}', ports: {{says: string}}}}\n  check:\n",
).replace(
    "  - {{from: draft, to: check}}\n",
    "  - {{from: draft, to: judge}}\n"
    "  - {{from: judge, to: cloud, when: judge.failed}}\n"
    "  - {{from: judge, to: check}}\n",
)
"""The same with a judge, who says what the draft says."""


def flow(draft: str, *options: str, graph: str = GRAPH) -> dynflow.Flow:
    text = graph.format(options="\n".join(f"    {line}" for line in options))
    models = {"a": FakeChat(replies=[draft]), "b": FakeChat(replies=["from the cloud"])}
    return dynflow.loads(text, models=models, runnables={"judge": lambda said: {"says": said}})


@pytest.mark.parametrize("estimator", ["embedding", "surface", "rules"])
async def test_a_good_draft_is_kept_and_a_bad_one_is_not(estimator: str) -> None:
    good, bad = flow(RIGHT, f"estimator: {estimator}"), flow("4 * 12 = 38\n#### 38", f"estimator: {estimator}")
    assert good.invoke(QUESTION).text == RIGHT
    assert (await bad.ainvoke(QUESTION)).text == "from the cloud"
    assert [message.text for message in bad.batch([QUESTION, QUESTION])] == ["from the cloud"] * 2


def test_a_shipped_head_judges_answers_without_numbers_by_the_checks() -> None:
    question = "What is the capital of France?"
    assert flow("The capital of France is Paris.").invoke(question).text.endswith("Paris.")
    assert flow("I'm sorry, I can't help with that.").invoke(question).text == "from the cloud"


def test_an_answer_must_fit_its_schema() -> None:
    schema = "output: {type: object, required: [name, age], properties: {age: {type: integer}}}"
    fits = '{"name": "Ann", "age": 31}'
    assert flow(fits, schema).invoke(JSON).text == fits
    assert flow('{"name": "Ann", "age": "old"}', schema).invoke(JSON).text == "from the cloud"
    assert flow("Ann, 31", schema).invoke(JSON).text == "from the cloud"


def test_the_graph_brings_evidence_along() -> None:
    judge, samples = "judge: ${judge.says}", ("samples:", "  - ${draft.text}")
    agreeing = flow(RIGHT, "estimator: rules", judge, *samples, graph=JUDGED)
    assert agreeing.run(QUESTION).trace.path[-2] == "cloud"  # no judge speaks so
    sure = flow("yes", "estimator: rules", "checks: []", judge, *samples, graph=JUDGED)
    assert sure.invoke(JSON).text == "yes"
    unsure = flow("no", "estimator: rules", "checks: []", judge, graph=JUDGED)
    assert unsure.invoke(JSON).text == "from the cloud"


def test_a_judge_that_says_nothing_fails_the_check() -> None:
    result = flow(RIGHT, "judge: ${judge.says}", graph=JUDGED).run(QUESTION)
    assert result.trace.path == ["start", "draft", "judge", "check", "cloud", "end"]
    failed = next(visit for visit in result.trace.visits if visit.node == "check")
    assert "neither yes nor no" in (failed.message or "")


DIFFICULTY = Path(__file__).parents[2] / "nodes" / "difficulty_classifier" / "artefacts" / "surface"


@pytest.mark.parametrize(
    ("option", "code", "says"),
    [
        ("checks: [arithmetics]", "bad_value", "did you mean 'arithmetic'"),
        ("checks: []", "too_few", "nothing else to judge by"),
        ("token_confidence: 7", "bad_value", "from 0 to 1"),
        ("judge: ${draft.text}", "type_mismatch", "free text"),
        (f"estimator: {DIFFICULTY}", "bad_value", "is a head of difficulty_classifier, not of answer_check"),
        ("estimator: embeding", "bad_value", "did you mean 'embedding'"),
        ("estimator: ./nowhere", "bad_value", "dynflow train check"),
        ("output: {type: thing}", "bad_schema", "no JSON schema"),
        ("output: {$ref: 'https://example.org/schema.json'}", "bad_schema", "nothing is fetched"),
    ],
)
def test_wrong_options_are_told(option: str, code: str, says: str) -> None:
    source, graph = check_text(GRAPH.format(options=f"    {option}").encode(), None)
    assert graph is None
    assert [(problem.code, says in problem.text) for problem in source.sorted()] == [(code, True)]


def test_a_judge_whose_labels_say_nothing_is_told() -> None:
    labelled = JUDGED.replace(
        "{{type: runnable, name: judge, input: '${{draft.text}}', ports: {{says: string}}}}",
        "{{type: chat, model: b, role: signal, labels: [good, meh]}}",
    )
    source, _ = check_text(labelled.format(options="    judge: ${judge.label}").encode(), None)
    assert [problem.code for problem in source.sorted()] == ["bad_value"]
    assert "'meh'" in source.sorted()[0].text


def test_a_head_of_answers_tells_no_difficulty() -> None:
    folder = DIFFICULTY.parents[2] / "answer_check" / "artefacts" / "surface"
    with pytest.raises(ArtefactError, match=r"is a head of answer_check, not of .* `dynflow train difficulty`"):
        difficulty.load(str(folder))


def test_loading_the_node_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dynflow.node import node_type; node_type('answer_check');"
        "from dynflow.nodes.answer_check.artefact import load; load('embedding');"
        "print([name for name in ('numpy', 'onnxruntime', 'safetensors', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_verdict_is_a_probability() -> None:
    verdict = judged(judged=0.9, token_confidence=math.inf)
    assert 0 <= verdict.confidence <= 1
