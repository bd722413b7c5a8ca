"""The benchmark of speculation: whole rounds, taken up again where they broke off; bars kept, and bars missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.scripts import load_script

speculative = load_script("speculative")
SPEEDS = {"plain": 0.010, "fixed a": 0.005, "fixed b": 0.008}
BARS = speculative.Bars({"copy": 2.4})


class Synthetic:
    """Writes at a given speed."""

    def __init__(self, name: str, seconds: float, text: str = "text") -> None:
        self.name, self.seconds, self.text, self.calls = name, seconds, text, 0

    def write(self, system: str, prompt: str, tokens: int) -> Any:
        self.calls += 1
        seconds = self.seconds * (tokens - 1) * (1 + 0.01 * (self.calls % 3))
        return speculative.Written(self.text, tokens, seconds, seconds + 0.1)


def contenders(ours: float, text: str = "text") -> list[Synthetic]:
    return [*(Synthetic(name, seconds) for name, seconds in SPEEDS.items()), Synthetic("dynflow", ours, text)]


def judged(given: list[Synthetic], file: Path) -> tuple[str, list[str]]:
    found = speculative.measure(given, file, 2, 3, 20, lambda text: None)
    page, _, verdicts = speculative.report(found, [each.name for each in given], BARS)
    return page, [str(each) for each in verdicts if not each.held]


def test_bars_that_are_kept(tmp_path: Path) -> None:
    page, missed = judged(contenders(0.004), tmp_path / "lines.jsonl")
    assert missed == []
    assert "| copy | 99 | 2.00 (" in page
    assert "Answers that differ from plain decoding's: 0 of 144." in page


def test_bars_that_are_missed(tmp_path: Path) -> None:
    _, missed = judged(contenders(0.006), tmp_path / "lines.jsonl")
    assert any(each.startswith("MISSED: copy, of plain at least 2.4: 1.67 (") for each in missed)
    assert any(each.startswith("MISSED: write, of the best fixed setting at least 0.95: 0.83 (") for each in missed)
    _, missed = judged(contenders(0.012), tmp_path / "slower.jsonl")
    assert any(each.startswith("MISSED: write, of plain at least 0.97: 0.83 (") for each in missed)
    below = next(each for each in missed if "write, prompts whose whole interval is below plain: " in each)
    assert "prompt 2: 0.8" in below


def test_a_text_that_is_not_the_plain_one_is_told(tmp_path: Path) -> None:
    page, _ = judged(contenders(0.004, "other"), tmp_path / "lines.jsonl")
    assert "differ from plain decoding's: 36 of 144" in page
    assert "- dynflow, copy 1, repeat 1" in page


def test_it_goes_on_with_the_first_round_that_is_not_whole(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    judged(contenders(0.004), file)
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:-6]) + "\n", encoding="utf-8")  # one round and a half are gone
    again = contenders(0.004)
    judged(again, file)
    assert [each.calls for each in again] == [2, 2, 2, 2]


def test_measurements_of_other_heads_and_further_repeats_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    judged(contenders(0.004), file)
    again = contenders(0.004)
    speculative.measure(again, file, 2, 1, 20, lambda text: None, "another head")
    assert [each.calls for each in again] == [12, 12, 12, 12]
    found = speculative.measure(contenders(0.004), file, 2, 1, 20, lambda text: None)
    assert {each["repeat"] for each in found} == {0}
    assert len(found) == 48


def test_what_is_shown_beside_ours_is_no_fixed_setting(tmp_path: Path) -> None:
    given = [*contenders(0.004), Synthetic("dynflow, lookup alone", 0.001)]
    _, missed = judged(given, tmp_path / "lines.jsonl")
    assert missed == []


def test_tables_figures_and_bars_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = speculative.arguments().parse_args(["--quick", "--repeats", "1", "--out", str(tmp_path / "out")])
    said: list[str] = []
    monkeypatch.setattr(speculative, "print", lambda text, file=None: said.append(text), raising=False)
    verdicts = speculative.run("x", contenders(0.006), BARS, given, "no head")
    told = json.loads((tmp_path / "out" / "speculative_x.json").read_text("utf-8"))
    assert told["conditions"]["made of"] == "no head"
    assert told["figures"]["copy"]["dynflow"]["value"] == pytest.approx(1.67, rel=0.05)
    assert told["figures"]["copy"]["dynflow"]["high"] is None
    assert [each["held"] for each in told["bars"]] == [each.held for each in verdicts]
    page = (tmp_path / "out" / "speculative_x.md").read_text("utf-8")
    assert "- MISSED: copy, of plain at least 2.4: 1.6" in page
    assert "- held: copy, prompts whose whole interval is below plain: none" in page
    assert said[0] == "repeat 1 of 1, copy 1; about 0 minutes to go"
    assert said[-1] == page


def test_ratios() -> None:
    found = speculative.ratio([0.0, 0.1, -0.1])
    assert found.value == pytest.approx(1.0)
    assert found.low < 0.8 < 1.25 < found.high
    assert speculative.ratio([0.5]).high == float("inf")


def test_the_best_fixed_setting_is_chosen_on_other_repeats() -> None:
    logs = {
        "a": {("copy", 0, 0): 9.0, ("copy", 0, 1): 0.1, ("copy", 0, 2): 0.1},
        "b": {("copy", 0, 0): 0.2, ("copy", 0, 1): 0.2, ("copy", 0, 2): 0.2},
    }
    assert speculative.best_fixed(logs, "copy") == [(0, "b"), (1, "a"), (2, "a")]


def test_every_task_has_eight_prompts_of_its_own() -> None:
    prompts = speculative.PROMPTS
    assert {len(each) for each in prompts.values()} == {8}
    assert len({prompt for each in prompts.values() for prompt in each}) == 48
