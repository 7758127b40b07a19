"""How much memory a machine offers, and how layers are divided among its devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rpc_library import rpc_library
from rpc_workers import lender_here
from support import TIMEOUT

from offgrid.cli import lendable
from offgrid.cli.lendable import Lendable
from offgrid.engine.memory import GIB
from offgrid.engine.worker.llama.rpc import Rpc, divided
from offgrid.rpc.connection import status
from offgrid.rpc.messages import Device

PROCESSOR = Device("a processor", 64 * GIB, 64 * GIB)
LARGE = Device("a large card", 24 * GIB, 24 * GIB, own=True)
SMALL = Device("a small card", 8 * GIB, 10 * GIB, own=True)
INTEGRATED = Device("an integrated GPU", 40 * GIB, 40 * GIB)
MAIN = 30 * GIB
RESERVE = GIB
"""Of a card with 20 GiB or more."""


class Machine:
    """A machine with devices that a test replaces."""

    def __init__(self, *devices: Device) -> None:
        self.devices = devices
        self.looks = 0
        self.now = 1000.0
        self.lendable = Lendable(devices, self.measure, lambda: MAIN, lambda: self.now)

    def measure(self, working: Callable[[], None]) -> tuple[Device, ...]:
        self.looks += 1
        working()
        return self.devices


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([PROCESSOR], MAIN),
        ([INTEGRATED], MAIN),
        ([Device("a small integrated GPU", GIB, GIB)], GIB),
        ([LARGE], 24 * GIB - RESERVE),
        ([LARGE, SMALL], 32 * GIB - RESERVE - GIB // 2),
        ([Device("a full card", 0, 24 * GIB, own=True)], 0),
    ],
    ids=["processor", "integrated", "less than that", "card", "two cards", "full"],
)
def test_the_memory_of_the_devices_is_offered(
    tmp_path: Path, devices: list[Device], expected: int
) -> None:
    machine = Machine(*devices)
    with lender_here(tmp_path, devices, machine.lendable.devices, machine.lendable.of) as (_, far):
        assert status(far, TIMEOUT).free == expected
        assert machine.lendable.free == expected


def test_cards_are_measured_anew(tmp_path: Path) -> None:
    """A game has begun since the program was started; the borrower waits for the measurement."""
    machine = Machine(LARGE)
    with lender_here(tmp_path, machine.devices, machine.lendable.devices, machine.lendable.of) as (
        _,
        far,
    ):
        machine.devices = (Device("a large card", 4 * GIB, 24 * GIB, own=True),)
        machine.now += 60
        offer = status(far, TIMEOUT)
        assert (offer.free, offer.devices) == (3 * GIB, machine.devices)
        status(far, TIMEOUT)
        assert machine.looks == 1  # the second one came in the same moment


def test_a_processor_needs_no_measurement(tmp_path: Path) -> None:
    machine = Machine(PROCESSOR)
    machine.now += 60
    machine.lendable.devices(lambda: None)
    assert machine.looks == 0


def test_a_measurement_that_another_borrower_waits_for_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lendable, "BEAT", 0.01)
    machine = Machine(LARGE)
    machine.now += 60
    measures, told = threading.Event(), threading.Event()

    def working() -> None:
        measures.set()
        assert told.wait(TIMEOUT)

    thread = threading.Thread(target=machine.lendable.devices, args=(working,))
    thread.start()
    assert measures.wait(TIMEOUT)
    assert machine.lendable.devices(told.set) == (LARGE,)
    thread.join()
    assert machine.looks == 1


@pytest.mark.parametrize(
    ("layers", "free", "expected"),
    [
        (32, (24, 8), [24, 8]),
        (5, (24, 8), [4, 1]),
        (3, (8, 8), [2, 1]),
        (7, (0, 8), [0, 7]),
        (7, (0, 0), [3, 4]),
        (9, (16,), [9]),
        (9, (), []),
    ],
)
def test_devices_get_layers_in_proportion_to_their_memory(
    layers: int, free: tuple[int, ...], expected: list[int]
) -> None:
    assert divided(layers, free) == expected


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [([0, 1, 2], [1]), ([2, 1, 1], [1, 2]), ([0, 2], [1]), ([0, 3], [])],
    ids=["card first", "two cards", "integrated only", "none"],
)
def test_an_integrated_gpu_beside_a_card_is_left_out(
    monkeypatch: pytest.MonkeyPatch, kinds: list[int], expected: list[int]
) -> None:
    rpc = Rpc(rpc_library())
    fake = SimpleNamespace(
        ggml_backend_dev_count=lambda: len(kinds),
        ggml_backend_dev_get=lambda index: index,
        ggml_backend_dev_type=lambda device: kinds[device],
    )
    monkeypatch.setattr(rpc, "_ggml", fake)
    assert rpc.gpus() == expected
