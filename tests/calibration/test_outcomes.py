"""Outcome files: every fault of every line is told, with its place and mend, and nothing is left out in silence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from dynflow.calibration.outcomes import read_outcomes
from dynflow.errors import OutcomeError


def good(id: Any = "a", **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "prompt": "What is 2 + 2?",
        "outcomes": {"weak": {"quality": 1}, "strong": {"quality": 0.5}},
    } | changes


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_rows_are_read_whole(tmp_path: Path) -> None:
    full = {"quality": 0.25, "usd": 0.01, "seconds": 2, "response": "4", "ports": {"confidence": 0.9}, "model": "m"}
    messages = [{"role": "user", "content": "Hi"}]
    rows = [
        good(),
        good(2, outcomes={"weak": full, "strong": {"error": "timeout", "quality": 0.7}}),
        {"id": "c", "messages": messages, "inputs": {"lang": "de"}, "outcomes": {"check": {"ports": {"passed": True}}}},
    ]
    file = read_outcomes(write(tmp_path / "o.jsonl", *rows[:2], "", rows[2]))
    assert [row.id for row in file.rows] == ["a", "2", "c"]
    assert [row.line for row in file.rows] == [1, 2, 4]
    assert file.names == ("weak", "strong", "check")
    weak, strong = file.rows[1].outcomes.values()
    assert (weak.quality, weak.usd, weak.seconds, weak.response) == (0.25, 0.01, 2, "4")
    assert weak.ports == {"confidence": 0.9}
    assert (strong.quality, strong.error) == (0.0, "timeout")
    assert file.rows[2].input == {"messages": messages, "lang": "de"}
    assert file.rows[2].outcomes["check"].quality is None


FAULTS = [
    ("{not json", "no JSON"),
    ("[1]", "a row is an object, not a list"),
    ({"prompt": "x", "outcomes": {"w": {"quality": 1}}}, 'no "id": give each row its own'),
    (good(True), '"id" is a text or a whole number'),
    (good(prompt=" "), '"prompt" is empty'),
    (good(prompt=7), '"prompt" is a text, not a number'),
    (good(messages=[]), 'both "prompt" and "messages"'),
    ({"id": 1, "promt": "x", "outcomes": {"w": {"quality": 1}}}, "is 'promt' meant for it?"),
    ({"id": 1, "messages": [], "outcomes": {"w": {"quality": 1}}}, '"messages" is a list with at least one'),
    ({"id": 1, "prompt": "x"}, 'no "outcomes"'),
    (good(outcomes={}), '"outcomes" is empty'),
    (good(outcomes=[1]), '"outcomes" is an object'),
    (good(outcomes={"weak": 1}), "the outcome of 'weak' is an object"),
    (good(outcomes={"weak": {"qualty": 1}}), "is 'qualty' meant for it?"),
    (good(outcomes={"weak": {"quality": 1.01}}), "from 0 to 1, not 1.01"),
    (good(outcomes={"weak": {"quality": -0.1}}), "from 0 to 1, not -0.1"),
    (good(outcomes={"weak": {"quality": True}}), "from 0 to 1, not true"),
    ('{"id": 1, "prompt": "x", "outcomes": {"weak": {"quality": NaN}}}', "from 0 to 1, not NaN"),
    (good(outcomes={"weak": {"quality": 1, "usd": -1}}), "'usd' of 'weak' is USD, from 0 to a billion"),
    (good(outcomes={"weak": {"quality": 1, "usd": 1e308}}), "from 0 to a billion, not 1e+308"),
    (good(outcomes={"weak": {"quality": 1, "seconds": "2"}}), "'seconds' of 'weak' is seconds"),
    (good(outcomes={"weak": {"quality": 1, "response": 4}}), '"response" of'),
    (good(outcomes={"weak": {"quality": 1, "ports": [1]}}), '"ports" of'),
    (good(outcomes={"weak": {"error": "tiemout"}}), "did you mean 'timeout'"),
    (good(outcomes={"weak": {"error": "bogus"}}), "no kind of failure (expected one of: auth,"),
]


@pytest.mark.parametrize(("row", "told"), FAULTS, ids=[told for _, told in FAULTS])
def test_a_fault_is_told_with_its_line(tmp_path: Path, row: Any, told: str) -> None:
    path = write(tmp_path / "o.jsonl", good("first"), row)
    with pytest.raises(OutcomeError) as caught:
        read_outcomes(path)
    assert f"{path}:2: " in str(caught.value)
    assert told in str(caught.value)
    assert [fault.line for fault in caught.value.faults] == [2]


def test_every_fault_of_every_line_is_told_at_once(tmp_path: Path) -> None:
    bad = {"id": "b", "prompt": "", "outcomes": {"weak": {"quality": 2}, "strong": {}}}
    with pytest.raises(OutcomeError) as caught:
        read_outcomes(write(tmp_path / "o.jsonl", bad, good("a"), "?", good("a")))
    assert [fault.line for fault in caught.value.faults] == [1, 1, 1, 3, 4]
    assert "the id 'a' stands in line 2 already" in str(caught.value)


def test_of_very_many_faults_every_line_is_named(tmp_path: Path) -> None:
    rows = [good(n, prompt="" if n % 10 else "x") for n in range(1, 101)]
    with pytest.raises(OutcomeError) as caught:
        read_outcomes(write(tmp_path / "o.jsonl", *rows))
    assert len(caught.value.faults) == 90
    assert "lines 23–29, 31–39, 41–49" in str(caught.value)  # noqa: RUF001
    assert "90 faulty lines" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults


def test_an_empty_file_says_what_a_row_is(tmp_path: Path) -> None:
    with pytest.raises(OutcomeError, match="has no rows"):
        read_outcomes(write(tmp_path / "o.jsonl", ""))
