"""The thread that looks at the machine and saves the totals."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from support import TIMEOUT

from offgrid.engine.client.pool import EnginePool
from offgrid.record import Record
from offgrid.stats import keeper as module
from offgrid.stats.collected import Stats
from offgrid.stats.keeper import StatsKeeper
from offgrid.stats.totals import Totals, TotalsFile


class NoModels:
    """A pool without models."""

    def snapshot(self) -> list[Any]:
        return []


class StuckFile(TotalsFile):
    """A file on a disk that does not answer."""

    def __init__(self) -> None:
        super().__init__(None)
        self.used = threading.Event()
        self.answers = threading.Event()

    def save(self, totals: Totals) -> bool:
        self.used.set()
        return not self.answers.wait(TIMEOUT)


def test_a_disk_that_does_not_answer_does_not_delay_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(module, "_JOIN_SECONDS", 0.0)
    file = StuckFile()
    stats = Stats(file)
    stats.ended(Record("id", status=200, seconds=1.0))
    keeper = StatsKeeper(stats, cast(EnginePool, NoModels()), {})
    keeper.start()
    try:
        assert file.used.wait(TIMEOUT)
        closing = threading.Thread(target=keeper.close, daemon=True)
        closing.start()
        closing.join(TIMEOUT / 10)
        assert not closing.is_alive()
    finally:
        file.answers.set()
