"""Outcomes of every answer node, whatever the edges say: each row once, within the budget, as replay reads them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dynflow import BudgetExceeded, Flow, loads
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.outcomes import OutcomeFile, read_outcomes
from dynflow.collecting import Collection, CollectionReport, collect_outcomes
from dynflow.errors import BatchFileError, GradingError, OutcomeError, Overloaded
from dynflow.grading import Answered, read_grader
from dynflow.grading.comparing import Exact
from dynflow.grading.grader import Grade
from dynflow.testing import FakeChat

CASCADE = """
version: 1
params: {trust_above: {default: 0.5, min: 0, max: 1, tune: true}}
models:
  small: {provider: host, price: {input: 0, output: 0}}
  large: {provider: host, max_tokens: 10, price: {input: 0, output: 100000}}
nodes:
  draft: {type: chat, model: small, logprobs: true}
  cloud: {type: chat, model: large}
  stand_in: {type: chat, model: small}
edges:
  - {from: start, to: draft}
  - {from: draft, to: cloud, when: draft.failed or draft.confidence < params.trust_above}
  - {from: draft, to: end}
  - {from: cloud, to: stand_in, when: cloud.failed}
  - {from: cloud, to: end}
  - {from: stand_in, to: end}
baseline: cloud
LIMITS
"""


def flow(graph: str = CASCADE, limits: str = "", **models: Any) -> Flow:
    fakes = {"small": FakeChat(replies=["no"], logprob=-0.5), "large": FakeChat(replies=["yes"])}
    return loads(graph.replace("LIMITS", limits), models={**fakes, **models})


class Files:
    """Questions and outcomes."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "questions.jsonl"
        self.target = folder / "outcomes.jsonl"

    def write(self, count: int = 4, **more: Any) -> None:
        rows = [{"id": row, "input": f"question {row}", "reference": "yes", **more} for row in range(count)]
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.target.read_text("utf-8").splitlines()]

    def read(self) -> OutcomeFile:
        return read_outcomes(self.target)

    async def collect(self, flow: Flow, **options: Any) -> CollectionReport:
        with Collection(flow, self.source, self.target, **{"grade": Exact(), **options}) as collection:
            return await collection.run()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path)
    found.write()
    return found


def calls(flow: Flow, name: str) -> int:
    return len(flow.models[name].calls)


async def test_every_answer_node_on_every_row(files):
    asked = flow()
    report = await files.collect(asked)
    (row, *_) = sorted(files.rows(), key=lambda row: row["id"])
    assert len(row.pop("key")) == 32
    assert row.pop("seconds") >= 0
    for outcome in row["outcomes"].values():
        assert outcome.pop("seconds") >= 0
    draft = {"usd": 0, "model": "small", "tokens": {"input": 2, "output": 1}, "response": "no"}
    cloud = {"usd": pytest.approx(0.1), "model": "large", "tokens": {"input": 2, "output": 1}, "response": "yes"}
    assert row == {
        "id": 0,
        "prompt": "question 0",
        "reference": "yes",
        "outcomes": {
            "draft": {"quality": 0, **draft, "ports": {"confidence": pytest.approx(0.6065, abs=1e-3), "tokens": 3}},
            "cloud": {"quality": 1, **cloud, "ports": {"confidence": None, "tokens": 3}},
        },
        "grading_usd": 0,
        "usd": pytest.approx(0.1),
    }
    assert (report.rows, report.finished, report.failed, report.usd) == (4, 4, 0, pytest.approx(0.4))
    assert report.nodes["cloud"].mean_quality == 1
    assert report.as_dict()["nodes"]["draft"]["quality"] == 0


async def test_replay_reads_what_was_collected(files):
    files.write(40)
    replies = {f"question {row}": "yes" if row % 2 else "no" for row in range(40)}
    some = FakeChat(replies=lambda messages: replies[messages[-1].text], logprob=-0.1)
    asked = flow(small=some)
    await files.collect(asked)
    found = evaluate(asked, files.read())
    assert found.figures["quality"].value == 0.5
    assert found.figures["strong_share"].value == 0
    assert found.baselines["always_strong"]["quality"].value == 1
    assert found.baselines["always_strong"]["usd"].value == pytest.approx(0.1)


async def test_goes_on_where_it_was(files):
    files.write(2)
    await files.collect(flow())
    files.write(5)
    second = flow()
    report = await files.collect(second)
    assert (report.earlier, report.finished, report.usd) == (2, 5, pytest.approx(0.5))
    assert calls(second, "large") == 3
    await files.collect(third := flow())
    assert calls(third, "large") == 0
    with pytest.raises(BatchFileError, match="another graph"):
        await files.collect(flow(), grade=read_grader("regex:{reference}", flow()))
    files.write(5, reference="other")  # the grades depend on it
    with pytest.raises(BatchFileError, match="other inputs"):
        await files.collect(flow())


async def test_a_sample_is_by_chance_and_part_of_a_larger_one(files):
    files.write(30)
    await files.collect(flow(), sample=5, seed=1)
    first = [row["id"] for row in files.rows()]
    assert len(first) == 5
    assert first != sorted(first)
    report = await files.collect(more := flow(), sample=12, seed=1)
    assert [row["id"] for row in files.rows()][:5] == first
    assert calls(more, "large") == 7
    assert (report.rows, report.earlier) == (12, 5)
    files.target.unlink()
    await files.collect(flow(), sample=5, seed=2)
    assert {row["id"] for row in files.rows()} != set(first)


async def test_a_budget_is_never_passed_and_what_is_done_is_a_sample(files):
    files.write(30)
    report = await files.collect(flow(), usd=2.05)  # a call may cost 1, and does cost 0.1
    assert "budget of $2.05" in (report.stopped or "")
    assert 1 < report.usd + report.unfinished_usd <= 2.05
    done = [row["id"] for row in files.rows()]
    assert 0 < len(done) < 30
    assert done != list(range(len(done)))
    again = await files.collect(unpaid := flow(), usd=2.05)  # earlier runs count
    assert again.stopped is not None
    assert calls(unpaid, "large") == 0
    assert (await files.collect(flow())).left == 0


async def test_a_budget_needs_bounds(files):
    with pytest.raises(BudgetExceeded, match=r"'large'.*max_tokens"):
        await files.collect(flow(CASCADE.replace("max_tokens: 10, ", "")), usd=1)
    with pytest.raises(BudgetExceeded, match=r"price of 'small' is unknown"):
        await files.collect(flow(CASCADE.replace(", price: {input: 0, output: 0}", "")), usd=1)


async def test_limits_of_the_graph(files):
    files.write(30)
    shared = flow(limits="limits: {baseline_share: 0.1}")  # is of walks, and this is none
    assert (await files.collect(shared)).failed == 0
    files.target.unlink()
    stopped = await files.collect(flow(limits="limits: {usd_per_day: 1.25}"))
    assert "limits leave" in (stopped.stopped or "")
    assert 0 < stopped.finished < 30
    files.target.unlink()
    dear = await files.collect(flow(limits="limits: {usd_per_request: 0.5}"))  # as in a walk
    assert dear.errors == {"budget": 30}


async def test_the_judge_is_paid_from_the_budget(files):
    graph = CASCADE.replace(
        "nodes:", "  judge: {provider: host, max_tokens: 2, price: {input: 0, output: 200000}}\nnodes:", 1
    )
    judge = FakeChat(replies=['{"score":5}'])
    asked = flow(graph, judge=judge)
    report = await files.collect(asked, grade=read_grader("judge:judge", asked))
    assert report.nodes["draft"].mean_quality == 0.5
    assert report.usd == pytest.approx(4 * (0.1 + 2 * 0.2))
    assert files.rows()[0]["grading_usd"] == pytest.approx(0.4)
    files.target.unlink()
    short = await files.collect(asked, grade=read_grader("judge:judge", asked), usd=1.2, concurrency=1)
    assert short.stopped is not None
    assert short.usd + short.unfinished_usd <= 1.2


async def test_what_a_grader_that_failed_has_cost_is_counted(files):
    class OutOfService(Exact):
        tries = 0

        async def grade(self, answered, budget=None):
            self.tries += 1
            return Grade(None, 0.25, failure=Overloaded("later")) if self.tries == 1 else Grade(1.0, 0.5)

    files.write(1)
    asked = flow()
    report = await files.collect(asked, grade=OutOfService())
    assert report.errors == {}
    assert files.rows()[0]["grading_usd"] == pytest.approx(0.25 + 2 * 0.5)
    assert calls(asked, "large") == 1


async def test_turns_of_a_conversation_that_finish_in_another_order_keep_theirs(files):
    class Later(Exact):
        async def grade(self, answered, budget=None):
            await asyncio.sleep(0.05 * (4 - int(answered.question.split()[-1])))
            return Grade(1.0)

    files.write(4, conversation="c")
    await files.collect(flow(), grade=Later(), concurrency=4)
    found = files.read()
    assert [row.id for row in found.rows] == ["3", "2", "1", "0"]
    assert list(found.turns) == [3, 2, 1, 0]
    assert [row.id for row in found.shuffled().rows] == ["0", "1", "2", "3"]
    files.target.write_text(json.dumps({**files.rows()[0], "turn": "last"}), "utf-8")
    with pytest.raises(OutcomeError, match='"turn" is a whole number, not "last"'):
        files.read()


async def test_rows_of_a_conversation_are_drawn_together_and_say_so(files):
    rows = [{"id": row, "input": f"question {row}", "reference": "yes"} for row in range(24)]
    rows = [{**row, "conversation": row["id"] % 6} if row["id"] < 18 else row for row in rows]
    files.source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    await files.collect(flow(), sample=10, seed=1, concurrency=1)
    found = files.read()
    assert 10 <= len(found.rows) <= 12
    assert 1 < found.drawn < len(found.rows)
    for row in found.rows:
        if row.conversation is not None:
            fellows = [int(each.id) for each in found.rows if each.conversation == row.conversation]
            assert fellows == [int(row.conversation), int(row.conversation) + 6, int(row.conversation) + 12]
    files.source.write_text(json.dumps({**rows[0], "conversation": 1.5}), "utf-8")
    with pytest.raises(BatchFileError, match=r':1: "conversation" is a text or a whole number, not 1.5'):
        await files.collect(flow())


async def test_a_failure_is_an_outcome_and_its_fallback_is_then_run(files):
    def sometimes(messages):
        if messages[-1].text == "question 2":
            raise TimeoutError("too slow")
        return "yes"

    asked = flow(large=FakeChat(replies=sometimes))
    report = await files.collect(asked)
    rows = {row["id"]: row["outcomes"] for row in files.rows()}
    assert list(rows[1]) == ["draft", "cloud"]
    assert list(rows[2]) == ["draft", "cloud", "stand_in"]
    assert (rows[2]["cloud"]["quality"], rows[2]["cloud"]["error"]) == (0, "timeout")
    assert (report.failed, report.errors) == (1, {"timeout": 1})
    assert {row.id: row.outcomes["cloud"].error for row in files.read().rows}["2"] == "timeout"
    again = await files.collect(flow(), retry_failed=True)
    assert again.failed == 0
    assert len(files.rows()) == 4


async def test_what_no_row_is_to_blame_for_stops_it(files):
    graph = CASCADE.replace("large: {provider: host", "large: {provider: litellm, model: a/b, api_key: '${env:NO_KEY}'")
    report = await files.collect(loads(graph.replace("LIMITS", ""), models={"small": FakeChat(logprob=-0.1)}))
    assert "NO_KEY" in (report.stopped or "")
    assert (report.finished, files.rows()) == (0, [])


async def test_an_answer_without_a_grade_is_kept_and_told(files):
    asked = flow(small=FakeChat(replies=["good"], logprob=-0.1))
    report = await files.collect(asked, grade=read_grader("judge:small", asked))
    assert report.errors == {"ungraded": 4}
    assert len(report.ungraded) == 8
    assert "judge 'small'" in report.ungraded[0]
    with pytest.raises(OutcomeError, match=":1: the outcome of 'draft', an answer, has no quality"):
        evaluate(asked, files.read())
    assert files.rows()[0]["outcomes"]["draft"]["response"] == "good"  # to be graded by hand


async def test_rows_that_cannot_be_graded_are_told_by_line(files):
    lines = ['{"id": 1, "input": "a", "reference": "b"}', '{"id": 2, "input": "a"}', '{"id": 3, "input": " "}', "x"]
    files.source.write_text("\n".join(lines), "utf-8")
    asked = flow()
    with pytest.raises(BatchFileError) as caught:
        await files.collect(asked)
    told = str(caught.value)
    assert ":2: the row has no 'reference'" in told
    assert ":3: the request is empty" in told
    assert ":4: no JSON" in told
    assert ":1:" not in told
    assert calls(asked, "small") == 0


async def test_nodes_that_others_read_run_once_before_them(files):
    graph = """
version: 1
models: {small: {provider: host}, large: {provider: host}}
nodes:
  draft: {type: chat, model: small}
  asking: {type: prompt, user: "Is {draft} right?", with: {draft: "${draft.text}"}}
  judge: {type: chat, role: signal, model: small, messages: "${asking.messages}", labels: [good, bad]}
  better: {type: chat, model: large, messages: "${asking.messages}"}
  idle: {type: prompt, template: "not needed {input}"}
edges:
  - {from: start, to: idle}
  - {from: idle, to: draft}
  - {from: draft, to: asking}
  - {from: asking, to: judge}
  - {from: judge, to: better, when: judge.label == "bad" or judge.failed}
  - {from: judge, to: end}
  - {from: better, to: end}
"""
    small = FakeChat(replies=lambda messages: "bad" if "right?" in messages[-1].text else "one")
    large = FakeChat(replies=lambda messages: f"<{messages[-1].text}>")
    asked = loads(graph, models={"small": small, "large": large})
    await files.collect(asked)
    outcomes = files.rows()[0]["outcomes"]
    assert list(outcomes) == ["draft", "judge", "better"]
    assert outcomes["better"]["response"] == "<Is one right?>"
    assert "quality" not in outcomes["judge"]
    assert outcomes["judge"]["ports"]["label"] == "bad"
    assert (len(small.calls), len(large.calls)) == (8, 4)
    assert evaluate(asked, files.read(), of="better").figures["strong_share"].value == 1


async def test_what_reads_a_failed_node_fails_as_that_did(files):
    graph = """
version: 1
models: {small: {provider: host}, large: {provider: host}}
nodes:
  draft: {type: chat, model: small}
  asking: {type: prompt, user: "Is {draft} right?", with: {draft: "${draft.text}"}}
  better: {type: chat, model: large, messages: "${asking.messages}"}
edges:
  - {from: start, to: draft}
  - {from: draft, to: asking}
  - {from: asking, to: better}
  - {from: better, to: end}
"""
    large = FakeChat()
    await files.collect(loads(graph, models={"small": FakeChat(fail_with=TimeoutError()), "large": large}))
    outcomes = files.rows()[0]["outcomes"]
    assert list(outcomes) == ["draft", "better"]
    assert outcomes["better"] == {"quality": 0, "error": "timeout"}
    assert not large.calls


async def test_a_race_and_declared_keys(files):
    graph = """
version: 1
inputs: {lang: {type: string, default: en}}
models: {small: {provider: host}, large: {provider: host}}
nodes:
  first: {type: chat, model: small}
  second: {type: chat, model: large}
  both: {type: race, of: [first, second], stagger: 5s}
edges:
  - {from: start, to: both}
  - {from: both, to: end}
"""
    files.write(1, input={"messages": [{"role": "user", "content": "hi"}], "lang": "de"})
    asked = loads(graph, models={"small": FakeChat(replies=["yes"]), "large": FakeChat()})
    await files.collect(asked)
    (row,) = files.rows()
    assert (row["messages"], row["inputs"]) == ([{"role": "user", "content": "hi"}], {"lang": "de"})
    assert row["outcomes"]["both"]["quality"] == 1
    assert row["outcomes"]["both"]["ports"]["winner"] == "first"
    assert list(row["outcomes"]) == ["both"]
    assert files.read().rows[0].input == {"messages": row["messages"], "lang": "de"}


def test_from_python_with_a_function(files):
    heard: list[int] = []
    seen: list[Answered] = []

    def good(answered: Answered) -> bool:
        seen.append(answered)
        return answered.text == answered.reference

    report = collect_outcomes(
        flow(), files.source, files.target, grade=good, told=lambda report: heard.append(report.finished)
    )
    assert (report.nodes["cloud"].mean_quality, report.nodes["draft"].mean_quality) == (1, 0)
    assert heard == [1, 2, 3, 4]
    assert {answered.node for answered in seen} == {"draft", "cloud"}
    assert seen[0].question.startswith("question ")
    files.target.unlink()
    with pytest.raises(GradingError):
        collect_outcomes(flow(), files.source, files.target, grade=lambda answered: 7)
