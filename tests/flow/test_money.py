"""What requests cost: failures, clamps, losers of races, sub-graphs, the baseline, concurrent requests."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.exceptions import ModelRateLimitError, ModelTimeoutError
from langchain_core.messages import HumanMessage

from dynflow import BudgetExceeded, Flow, ParamError, load, loads
from dynflow.compile import check_text
from dynflow.models.settings import Price
from dynflow.prompt_size import PromptSize
from dynflow.testing import FakeChat

MODELS = """
models:
  small: {provider: host, price: {input: 0, output: 0}}
  large: {provider: host, max_tokens: 100, price: {input: 10, output: 100}}
"""
RESERVED = (PromptSize([HumanMessage("word")]).most * 10 + 100 * 100) / 1e6
"""What `large` can cost at most where it is asked `word`."""
ONE = f"""
version: 1
{MODELS}
nodes:
  cloud: {{type: chat, model: large, OPTIONS}}
  sorry: {{type: prompt, role: answer, template: sorry}}
edges:
  - {{from: start, to: cloud}}
  - {{from: cloud, to: sorry, when: cloud.failed}}
  - {{from: cloud, to: end}}
  - {{from: sorry, to: end}}
"""


def one(large: FakeChat, limits: str = "", options: str = "") -> Flow:
    text = ONE.replace(", OPTIONS", options and f", {options}") + (f"limits: {limits}\n" if limits else "")
    return loads(text, models={"large": large, "small": FakeChat()})


def test_an_answer_costs_its_tokens() -> None:
    result = one(FakeChat(replies=["one two three"])).run("four words of prompt")
    assert result.ledger.usd == pytest.approx((4 * 10 + 3 * 100) / 1e6)
    assert result.ledger.tokens() == {"input": 4, "output": 3, "cached": 0, "reasoning": 0}


@pytest.mark.parametrize(
    ("error", "usd"),
    [(ModelRateLimitError("later"), 0.0), (ModelTimeoutError("lost"), RESERVED)],
    ids=["surely unbilled", "in doubt"],
)
def test_a_failure_in_doubt_is_billed_in_full(error: Exception, usd: float) -> None:
    flow = one(FakeChat(fail_with=error), "{usd_per_day: 1}")
    result = flow.run("word")
    assert result.ledger.usd == pytest.approx(usd)
    assert 1 - flow._engine.day.left == pytest.approx(usd)


def test_a_model_that_cannot_be_called_reserves_nothing() -> None:
    text = ONE.replace(", OPTIONS", "") + "limits: {usd_per_day: 1}\n"
    flow = loads(text, models={"small": FakeChat()})  # `large` was not handed over
    assert flow.run("word").trace.path == ["start", "cloud", "sorry", "end"]
    assert flow._engine.day.left == 1


@pytest.mark.parametrize("options", ["labels: [yes_, no_]", "output: {type: object}"])
def test_an_answer_that_does_not_fit_is_paid_for(options: str) -> None:
    result = one(FakeChat(replies=["neither of them"]), options=options).run("x")
    assert result.trace.path == ["start", "cloud", "sorry", "end"]
    assert result.ledger.tokens()["output"] == 3
    assert result.ledger.usd is not None
    assert result.ledger.usd > 3 * 100 / 1e6


def test_a_clamp_is_said_in_the_trace() -> None:
    large = FakeChat(replies=["one two three four"])
    text = ONE.replace(", OPTIONS", "").replace("max_tokens: 100, ", "") + "limits: {usd_per_request: 0.00097}\n"
    result = loads(text, models={"large": large, "small": FakeChat()}).run("word")
    assert large.calls[0].options["max_tokens"] == 2
    assert result.trace.visits[0].notes == ("max_tokens is 2: the limits afford no more",)
    assert "max_tokens is 2" in str(result.value.response_metadata)


def test_limits_that_afford_the_whole_context_clamp_nothing() -> None:
    large = FakeChat()
    text = ONE.replace(", OPTIONS", "").replace("max_tokens: 100", "capabilities: {context: 1000}")
    result = loads(text + "limits: {usd_per_day: 5}\n", models={"large": large, "small": FakeChat()}).run("word")
    assert "max_tokens" not in large.calls[0].options
    assert result.trace.visits[0].notes == ()


async def test_requests_side_by_side_share_the_day() -> None:
    text = ONE.replace(", OPTIONS", "").replace("max_tokens: 100", "capabilities: {context: 1000}")
    flow = loads(text + "limits: {usd_per_day: 0.25}\n", models={"large": FakeChat(delay=0.05), "small": FakeChat()})
    flow.warm_up()
    results = await asyncio.gather(*(flow.arun("word") for _ in range(4)))
    # Two whole contexts fit into the day; the third request is clamped to the rest, and the fourth refused.
    assert [result.trace.answer for result in results] == ["cloud", "cloud", "cloud", "sorry"]
    assert [bool(result.trace.visits[0].notes) for result in results] == [False, False, True, False]
    assert (await flow.arun("word")).trace.answer == "cloud"  # what was reserved and not used is free again


def test_the_models_own_max_tokens_binds_the_hosts_model() -> None:
    large = FakeChat(replies=["word " * 200])
    one(large, "{usd_per_request: 1}").run("x")
    assert large.calls[0].options["max_tokens"] == 100


async def both(flow: Flow, value: Any = "x") -> list[Any]:
    return [flow.run(value), await flow.arun(value)]


RACE = f"""
version: 1
{MODELS}
nodes:
  first: {{type: race, of: [local, cloud], OPTIONS}}
  local: {{type: chat, model: small}}
  cloud: {{type: chat, model: large}}
  loser_ran: {{type: prompt, role: answer, template: loser ran}}
edges:
  - {{from: start, to: first}}
  - {{from: first, to: loser_ran, when: cloud.ok or cloud.failed}}
  - {{from: first, to: end}}
  - {{from: loser_ran, to: end}}
limits: LIMITS
"""


async def test_a_loser_counts_as_not_run_but_is_paid_for() -> None:
    text = RACE.replace(", OPTIONS", "").replace("LIMITS", "{usd_per_day: 1}")
    large = FakeChat(hang_after=0)  # nothing came of it: what it cost is in doubt, so all that was reserved
    flow = loads(text, models={"small": FakeChat(replies=["fast"], delay=0.05), "large": large})
    for result in await both(flow, "word"):
        assert result.value.text == "fast"
        assert {entry.node: entry.usd for entry in result.ledger.entries}["cloud"] == pytest.approx(RESERVED)
    assert 1 - flow._engine.day.left == pytest.approx(2 * RESERVED)
    large.release()


async def test_a_member_that_never_started_costs_nothing() -> None:
    text = RACE.replace("OPTIONS", "stagger: 10s").replace("LIMITS", "{usd_per_day: 1}")
    large = FakeChat()
    flow = loads(text, models={"small": FakeChat(), "large": large})
    for result in await both(flow):
        assert [entry.node for entry in result.ledger.entries] == ["local", "first"]
    assert large.calls == []


async def test_a_loser_costs_its_prompt_and_what_had_come() -> None:
    text = RACE.replace(", OPTIONS", "").replace("LIMITS", "{max_tokens: 50}")
    large = FakeChat(hang_after=1)
    flow = loads(text, models={"small": FakeChat(delay=0.05), "large": large})
    for result in await both(flow, "word"):
        (entry,) = [entry for entry in result.ledger.entries if entry.node == "cloud"]
        assert entry.usd == pytest.approx((10 + 100) / 1e6)  # and the one word that had come
        assert entry.usage is not None
        assert entry.usage.estimated
    large.release()


async def test_a_sub_graph_keeps_the_outer_budget(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(
        "version: 1\nmodels:\n"
        "  large: {provider: litellm, model: openai/none, max_tokens: 100, price: {input: 0, output: 100}}\n"
        "nodes: {cloud: {type: chat, model: large}}\nedges: [{from: start, to: cloud}, {from: cloud, to: end}]\n"
    )
    text = """
version: 1
nodes: {inner: {type: graph, uses: inner.yaml}}
edges: [{from: start, to: inner}, {from: inner, to: end}]
limits: {usd_per_request: 0.001}
"""
    flow = loads(text, base=tmp_path)
    with pytest.raises(BudgetExceeded):
        flow.run("x")
    with pytest.raises(BudgetExceeded):
        await flow.arun("x")


SHARED = f"""
version: 1
{MODELS}
nodes:
  cloud: {{type: chat, model: large}}
  local: {{type: chat, model: small}}
edges:
  - {{from: start, to: local, when: "input.text == 'easy' or budget.baseline_left < 1"}}
  - {{from: start, to: cloud}}
  - {{from: cloud, to: local, when: "cloud.error == 'budget'"}}
  - {{from: cloud, to: end}}
  - {{from: local, to: end}}
baseline: cloud
limits: {{baseline_share: 0.1}}
"""


def shared(text: str = SHARED) -> Flow:
    return loads(text, models={"small": FakeChat(replies=["small"]), "large": FakeChat(replies=["large"])})


async def test_a_caller_has_his_share_of_the_baseline() -> None:
    flow = shared()
    alice, bob = ({"configurable": {"caller": name}} for name in ("alice", "bob"))
    assert [flow.invoke("hard", alice).text for _ in range(3)] == ["large", "large", "small"]
    assert [flow.invoke("hard", bob).text, flow.invoke("hard").text] == ["large", "large"]
    assert (await flow.ainvoke("hard", alice)).text == "small"
    for _ in range(26):
        flow.invoke("easy", alice)
    assert [flow.invoke("hard", alice).text for _ in range(2)] == ["large", "small"]  # the third of now 31 requests
    assert flow.batch(["hard"] * 2, [bob, bob])[1].text == "small"


def test_beyond_his_share_the_baseline_fails_before_anything_is_sent() -> None:
    flow = shared(SHARED.replace(" or budget.baseline_left < 1", ""))
    results = [flow.run("hard") for _ in range(3)]
    assert [result.trace.path[-2] for result in results] == ["cloud", "cloud", "local"]
    assert "limits.baseline_share" in str(results[2].trace.as_dict()["nodes"][0]["message"])
    assert len(flow.models["large"].calls) == 2


def test_a_caller_is_named_by_a_text() -> None:
    with pytest.raises(ParamError, match=r"configurable.caller names who asks, as a text; not int"):
        shared().invoke("hard", {"configurable": {"caller": 7}})
    assert one(FakeChat()).invoke("x", {"configurable": {"caller": 7}}).text == "ok"  # no share, no caller


def test_the_share_is_counted_for_all_flows_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "shared.yaml"
    file.write_text(SHARED)
    models = {"small": FakeChat(replies=["small"]), "large": FakeChat(replies=["large"])}
    assert [load(file, models=models).invoke("hard").text for _ in range(3)] == ["large", "large", "small"]


async def test_a_graph_turns_cheap_as_money_runs_out() -> None:
    text = SHARED.replace("budget.baseline_left < 1", "budget.day_left_usd < 0.02").replace(
        "baseline_share: 0.1", "usd_per_day: 0.04"
    )
    flow = loads(text, models={"small": FakeChat(), "large": FakeChat(replies=["word " * 100])})
    assert [(await flow.arun("hard")).trace.answer for _ in range(4)] == ["cloud", "cloud", "local", "local"]


async def test_time_to_the_first_token_is_told_of_streams() -> None:
    flow = one(FakeChat(replies=["one two"], delay=0.05))
    async for chunk in flow.astream("x"):
        last = chunk
    (line,) = last.response_metadata["dynflow"]["ledger"]["nodes"]
    assert 0.04 < line["first_token_seconds"] <= line["seconds"]
    assert flow.run("x").ledger.entries[0].first_token_seconds is None


def test_a_call_that_cannot_be_counted_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("no folder")
    monkeypatch.setenv("DYNFLOW_STATE", str(tmp_path / "state"))
    file = tmp_path / "graph.yaml"
    file.write_text(ONE.replace(", OPTIONS", "") + "limits: {usd_per_day: 5}\n")
    large = FakeChat()
    result = load(file, models={"large": large, "small": FakeChat()}).run("x")
    assert result.value.text == "sorry"
    assert "nothing is spent" in str(result.trace.as_dict())
    assert large.calls == []


def test_the_page_on_money() -> None:
    page = (Path(__file__).parents[2] / "docs" / "money.md").read_text("utf-8")
    graph, prices = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    source, checked = check_text(graph)
    assert checked is not None, [problem.render() for problem in source.errors()]
    Price.model_validate(yaml.safe_load(prices)["price"])
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    answers = {name: FakeChat(replies=[name]) for name in ("small", "large")}
    exec(program, {"flow": loads(graph, models=answers)})
    assert len(answers["large"].calls) == 1


def test_the_baseline_is_what_it_cost_or_would_have() -> None:
    text = ONE.replace(", OPTIONS", "").replace(
        "{from: start, to: cloud}", "{from: start, to: local, when: \"'easy' in input\"}\n  - {from: start, to: cloud}"
    )
    text = text.replace("  sorry:", "  local: {type: chat, model: small}\n  sorry:").replace(
        "{from: sorry, to: end}", "{from: sorry, to: end}\n  - {from: local, to: end}"
    )
    flow = loads(
        text + "baseline: cloud\n", models={"large": FakeChat(replies=["a b"]), "small": FakeChat(replies=["a b"])}
    )
    easy, hard = flow.run("easy"), flow.run("hard")
    assert easy.ledger.usd == 0
    assert easy.ledger.baseline_usd == pytest.approx(hard.ledger.usd)
    assert hard.ledger.saved_usd == 0


async def test_a_race_costs_what_its_members_cost_also_as_the_baseline() -> None:
    text = RACE.replace(", OPTIONS", "").replace("limits: LIMITS", "baseline: first")
    text = text.replace("when: cloud.ok or cloud.failed", "when: first.usd <= 0")
    flow = loads(text, models={"small": FakeChat(delay=5), "large": FakeChat(replies=["one two"])})
    for result in await both(flow, "word"):
        spent = (1 * 10 + 2 * 100) / 1e6
        assert result.trace.path == ["start", "first", "end"]  # the edge saw what the members cost
        assert result.ledger.usd == pytest.approx(spent)
        assert result.ledger.baseline_usd == pytest.approx(spent)
        assert result.ledger.saved_usd == pytest.approx(0.0)


async def test_a_visit_that_nothing_was_billed_for_takes_nothing_of_the_share() -> None:
    text = SHARED.replace("cloud.error == 'budget'", "cloud.failed")
    refused = FakeChat(fail_with=ModelRateLimitError("later"))
    flow = loads(text, models={"small": FakeChat(replies=["small"]), "large": refused})
    for _ in range(3):
        assert flow.invoke("hard").text == "small"
        assert (await flow.ainvoke("hard")).text == "small"
    assert len(refused.calls) == 6  # the share admits two of these requests
    lost = loads(text, models={"small": FakeChat(), "large": FakeChat(fail_with=ModelTimeoutError("lost"))})
    for _ in range(3):
        lost.invoke("hard")
    assert len(lost.models["large"].calls) == 2  # each may have been billed
