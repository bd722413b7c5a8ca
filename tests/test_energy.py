"""Meters: the CPUs' and the GPUs' counters as they are read, over their end, and where there are none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dynflow import energy
from dynflow.energy import Meter


@pytest.fixture(autouse=True)
def nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without meters, and nothing remembered of another."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    energy._library.cache_clear()
    energy._packages.cache_clear()
    yield
    energy._library.cache_clear()
    energy._packages.cache_clear()


def zone(folder: Path, name: str, microjoules: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("1000000\n")
    return folder / "energy_uj"


def test_without_a_meter_there_is_no_figure() -> None:
    meter = Meter()
    ends = time.process_time() + 0.02
    while time.process_time() < ends:
        pass
    found = meter.read()
    assert (found.joules, found.energy_source) == (None, "none")
    assert found.cpu_seconds is not None
    assert found.cpu_seconds >= 0.02
    assert found.seconds > 0


def test_the_packages_counters_are_added_up(tmp_path: Path) -> None:
    first = zone(tmp_path / "intel-rapl:0", "package-0", 100_000)
    second = zone(tmp_path / "intel-rapl:1", "package-1", 900_000)
    for inside, name in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys")):  # inside the packages, and around
        zone(tmp_path / inside, name, 0)
    meter = Meter()
    first.write_text("350000\n")
    second.write_text("150000\n")  # its counter began anew at 1,000,000
    for other in ("intel-rapl:0:0", "intel-rapl:2"):
        (tmp_path / other / "energy_uj").write_text("999\n")
    found = meter.read()
    assert (found.joules, found.energy_source) == (pytest.approx(0.25 + 0.25), "rapl")


def test_a_counter_that_only_root_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path / "intel-rapl:0", "package-0", 100_000)
    real = Path.read_text

    def forbidden(path: Path, *args: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(path)
        return real(path)

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert Meter().read().energy_source == "none"


class Driver(ModuleType):
    """The few functions of NVML that are used, on two GPUs."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken: str = "") -> None:
        super().__init__("pynvml")
        self.millijoules = [1_000, 50_000]
        self.broken = broken

    def _answer(self, name: str) -> None:
        if self.broken == name:
            raise self.NVMLError(name)

    def nvmlInit(self) -> None:  # noqa: N802 - its name
        self._answer("init")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        self._answer("energy")
        return self.millijoules[handle]


def test_the_gpus_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    cpu = zone(tmp_path / "intel-rapl:0", "package-0", 0)
    meter = Meter()
    driver.millijoules = [3_000, 50_500]
    cpu.write_text("500000")
    found = meter.read()
    assert (found.joules, found.energy_source) == (pytest.approx(3.0), "nvml+rapl")


@pytest.mark.parametrize("broken", ["init", "energy"])
def test_a_gpu_that_tells_nothing(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver(broken))
    assert Meter().read().energy_source == "none"
