"""When the server is ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from offgrid.engine.client.pool import EnginePool
from offgrid.stats.ready import Readiness


@dataclass
class Client:
    name: str
    ready: bool = True
    without_progress: float = 0.0
    load_failure: object = None


@dataclass
class Pool:
    clients: list[Client] = field(default_factory=list)
    draining: bool = False
    failures: Mapping[str, object] = field(default_factory=dict)

    def snapshot(self) -> list[Client]:
        return self.clients

    def has_failed(self, model: str) -> bool:
        return model in self.failures


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (Pool(), None),
        (Pool([Client("start")]), None),
        (Pool([Client("start", ready=False)]), "loading"),
        (Pool([Client("start", ready=False, load_failure="broken")]), "failed"),
        (Pool(failures={"start": "broken"}), "failed"),
        (Pool(failures={"other": "broken"}), None),
        (Pool([Client("start"), Client("other", ready=False)]), None),
        (Pool([Client("start"), Client("other", ready=False, load_failure="broken")]), None),
        (Pool([Client("start", without_progress=30.0)]), None),
        (Pool([Client("start", without_progress=30.1)]), "stalled"),
        (Pool([Client("start"), Client("other", without_progress=31)]), "stalled"),
        # While it loads, it makes no step.
        (Pool([Client("start"), Client("other", ready=False, without_progress=99)]), None),
        (Pool([Client("start", ready=False), Client("other", without_progress=31)]), "stalled"),
        (Pool([Client("start", without_progress=31)], draining=True), "draining"),
    ],
)
def test_the_reason(pool: Pool, reason: str | None) -> None:
    readiness = Readiness(cast(EnginePool, cast(Any, pool)), ["start"], 30.0)
    assert readiness.obstacle() == reason
