"""What the sensors of a machine say, and how much its processors do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from offgrid.stats import machine
from offgrid.stats.machine import Battery, Temperature, Ticks, load, look


class Sensor(NamedTuple):
    label: str
    current: float | None
    high: float | None = None
    critical: float | None = None


class Charge(NamedTuple):
    percent: float
    secsleft: int | None
    power_plugged: bool | None


def of(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> Any:
    """What a look says if psutil answers so; raised if it is an exception."""

    def read() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(psutil, f"sensors_{name}", read, raising=False)
    return getattr(look({}, {}, None), "temperature" if name == "temperatures" else name)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, None),
        ({"nvme": [Sensor("Composite", 71.0, 80.0)],
          "coretemp": [Sensor("Core 0", 50.0, 90.0, 100.0), Sensor("Core 1", 52.5, None, 100.0)]},
         Temperature("Core 1", 52.5, 100.0)),
        ({"cpu_thermal": [Sensor("", 48.0)]}, Temperature("cpu_thermal", 48.0, None)),
        ({"acpitz": [Sensor("", 30.0), Sensor("", 41.0)]}, Temperature("acpitz", 41.0, None)),
        ({"k10temp": [Sensor("Tctl", None)], "x": [Sensor("", -273.0), Sensor("", 4000.0)]}, None),
        (OSError("no such device"), None),
        (RuntimeError("odd"), None),
    ],
)  # fmt: skip
def test_the_temperature_is_that_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, found: Any, expected: Temperature | None
) -> None:
    assert of(monkeypatch, "temperatures", found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        (Charge(80.0, 3600, False), Battery(80.0, False, 3600.0)),
        (Charge(100.0, psutil.POWER_TIME_UNLIMITED, True), Battery(100.0, True, None)),
        (Charge(55.5, psutil.POWER_TIME_UNKNOWN, None), Battery(55.5, None, None)),
        (OSError("no such file"), None),
    ],
)
def test_the_battery(monkeypatch: pytest.MonkeyPatch, found: Any, expected: Battery | None) -> None:
    assert of(monkeypatch, "battery", found) == expected


def test_a_system_without_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sensors_temperatures", "sensors_battery"):
        monkeypatch.delattr(psutil, name, raising=False)
    seen = look({}, {}, None)
    assert seen.temperature is seen.battery is None


def test_the_load_counts_busy_processors() -> None:
    assert load(Ticks(100.0, 10.0), Ticks(108.0, 14.0), 4) == 2.0
    assert load(Ticks(100.0, 10.0), Ticks(104.0, 15.0), 4) == 4.0  # never more than there are
    assert load(Ticks(100.0, 10.0), Ticks(104.0, 9.0), 4) == 0.0
    assert load(Ticks(100.0, 10.0), Ticks(100.0, 10.0), 4) is None


def test_two_looks_at_this_machine(tmp_path: Path) -> None:
    first = look({}, {"models": tmp_path / "absent"}, None)
    assert first.load is None
    while machine._ticks().total == first.ticks.total:
        sum(range(10_000))
    second = look({}, {"models": tmp_path}, first)
    assert second.load is not None
    assert 0 <= second.load <= second.cpus
    assert second.disks["models"].total == first.disks["models"].total > 0
