"""What one request can cost at most: the limit, else the dearest path at its longest, else a refusal with the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

import dynflow
from dynflow.calibration.cost_cap import most_usd
from dynflow.errors import CalibrationError

PATHS = """
version: 1
models:
  small: {provider: host, price: {input: 1, output: 2}, max_tokens: 1000, capabilities: {context: 10_000}%s}
  large: {provider: host, price: {input: 10, output: 30}, capabilities: {context: 10_000}%s}
nodes:
  draft: {type: chat, model: small}
  other: {type: chat, model: small, max_tokens: 500}
  cloud: {type: chat, model: large, max_tokens: 2000}
edges:
  - {from: start, to: draft, when: input.tokens < 9}
  - {from: start, to: other}
  - {from: draft, to: cloud, when: draft.failed}
  - {from: draft, to: end}
  - {from: other, to: end}
  - {from: cloud, to: end}
%s"""
DRAFT, CLOUD = (10_000 * 1 + 1000 * 2) / 1e6, (10_000 * 10 + 2000 * 30) / 1e6


def most(small: str = "", large: str = "", limits: str = "") -> float:
    return most_usd(dynflow.loads(PATHS.replace("10_000", "10000") % (small, large, limits)))


def test_the_dearest_path_counts_with_each_call_at_its_longest() -> None:
    assert most() == pytest.approx(DRAFT + CLOUD)


def test_every_attempt_may_be_billed() -> None:
    assert most(", retries: 1") == pytest.approx(2 * DRAFT + CLOUD)
    text = PATHS.replace("10_000", "10000") % ("", "", "")
    hosted = text.replace("large: {provider: host,", "large: {provider: litellm, model: openai/x,")
    assert most_usd(dynflow.loads(hosted)) == pytest.approx(DRAFT + 3 * CLOUD)


def test_a_tighter_limit_of_tokens_counts() -> None:
    shorter = (10_000 * 1 + 100 * 2) / 1e6 + (10_000 * 10 + 100 * 30) / 1e6
    assert most(limits="limits: {max_tokens: 100}") == pytest.approx(shorter)


def test_a_limit_of_usd_is_the_most() -> None:
    assert most(limits="limits: {usd_per_request: 0.05}") == 0.05


def test_time_that_has_a_price_needs_an_end() -> None:
    text = (PATHS.replace("10_000", "10000") % ("", "", "")).replace("output: 2}", "output: 2, second: 0.001}")
    for limits in ("", "limits: {usd_per_request: 0.05}"):  # what time costs is known only afterwards
        with pytest.raises(CalibrationError, match=r"each second of 'small' has a price.*set a `timeout:`") as caught:
            most_usd(dynflow.loads(text + limits))
        assert caught.value.code == "no_cap"
    assert most_usd(dynflow.loads(f"{text}limits: {{timeout: 10s}}")) == pytest.approx(DRAFT + 0.01 + CLOUD)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (", max_tokens: 1000", "", r"an answer of 'small' may have any length.*`max_tokens`"),
        ("capabilities: {context: 10000}", "", r"a prompt of 'large' may have any length.*context: …"),
        ("price: {input: 10, output: 30}, ", "", r"the price of 'large' is unknown.*give 'large' a `price:`"),
    ],
)
def test_what_has_no_bound_is_refused_with_the_mend(old: str, new: str, told: str) -> None:
    text = PATHS.replace("10_000", "10000") % ("", "", "")
    assert old in text
    with pytest.raises(CalibrationError, match=told) as caught:
        most_usd(dynflow.loads(text.replace(old, new)))
    assert caught.value.code == "no_cap"
    assert "usd_per_request" in str(caught.value)


def test_what_is_free_needs_no_bound_and_what_is_inside_counts(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(PATHS.replace("10_000", "10000") % ("", "", ""), encoding="utf-8")
    outer = """
version: 1
models: {free: {provider: host, price: {input: 0, output: 0}}}
nodes:
  quick: {type: chat, model: free}
  tutor: {type: graph, uses: inner.yaml}
edges:
  - {from: start, to: quick, when: input.tokens < 9}
  - {from: start, to: tutor}
  - {from: quick, to: tutor, when: quick.failed}
  - {from: quick, to: end}
  - {from: tutor, to: end}
"""
    assert most_usd(dynflow.loads(outer, base=tmp_path)) == pytest.approx(DRAFT + CLOUD)


def test_members_of_a_race_all_cost() -> None:
    text = """
version: 1
models: {a: {provider: host, price: {input: 1, output: 2}, max_tokens: 1000, capabilities: {context: 10000}}}
nodes:
  both: {type: race, of: [one, two]}
  one: {type: chat, model: a}
  two: {type: chat, model: a}
edges: [{from: start, to: both}, {from: both, to: end}]
"""
    assert most_usd(dynflow.loads(text)) == pytest.approx(2 * DRAFT)
