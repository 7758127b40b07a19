"""Pools of engines in the test's process, with small models that are copies of one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offgrid.config import load_settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.turnover import Turnover
from offgrid.store.catalogue import Catalogue

MakePool = Callable[..., EnginePool]


class Clock:
    """A running clock that a test can move forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@contextmanager
def pools(folder: Path, model: Path, clock: Clock) -> Iterator[MakePool]:
    """Make pools with the models a to d. They stay loaded unless a test says otherwise."""
    for name in "abcd":
        (folder / f"{name}.gguf").symlink_to(model)
    made: list[EnginePool] = []

    def make_one(config_file: Path | None = None, **flags: Any) -> EnginePool:
        given = {
            "models_dir": folder, "ctx_size": 512, "parallel": 1, "threads": 1, "keep_alive": -1,
            **flags,
        }  # fmt: skip
        settings = load_settings(given, environ={}, config_file=config_file)
        made.append(EnginePool(settings, Catalogue(settings), clock))
        return made[-1]

    yield make_one
    for pool in made:
        pool.shutdown(0.0)


def hold(client: EngineClient) -> Callable[[], None]:
    """Take a place in a model's queue, as a stream does; return the function that frees it."""
    client.hold(1, 1)
    return lambda: client.release(1)


def slow(client: EngineClient, seconds: float) -> None:
    """Let a model know that its sequences have held their slots for so long."""
    now = 0.0
    client.turnover = Turnover(client.load.parallel, lambda: now)
    client.turnover.began(1)
    now = seconds
    client.turnover.ended(1)


def names(pool: EnginePool) -> list[str]:
    """Return the ids of the models that are loaded or loading, the least recently used first."""
    return [client.name for client in pool.loaded()]


def status(pool: EnginePool, model: str) -> str:
    """Return the status of a model."""
    return pool.status(pool._catalogue.get(model)).status
