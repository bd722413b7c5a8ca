"""The benchmark of speculation: whole rounds, taken up again where they broke off; bars kept, and bars missed."""

from __future__ import annotations

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
    page, missed = speculative.report(found, [each.name for each in given], BARS)
    return page, missed


def test_bars_that_are_kept(tmp_path: Path) -> None:
    page, missed = judged(contenders(0.004), tmp_path / "lines.jsonl")
    assert missed == []
    assert "Every bar is kept." in page
    assert "| copy | 99 | 2.00 (" in page
    assert "Answers that differ from plain decoding's: 0 of 144." in page


def test_bars_that_are_missed(tmp_path: Path) -> None:
    _, missed = judged(contenders(0.006), tmp_path / "lines.jsonl")
    assert any(each.startswith("copy: 1.67") and "2.4 is wanted" in each for each in missed)
    assert any(each.startswith("write: 0.83") and "best fixed setting" in each for each in missed)
    _, missed = judged(contenders(0.012), tmp_path / "slower.jsonl")
    assert any(each.startswith("write: 0.83") and "0.97 is wanted" in each for each in missed)
    assert any(each.startswith("write, prompt 2: 0.8") and "below plain" in each for each in missed)


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
