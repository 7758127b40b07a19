"""The starter model in this process, for the tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_runs import Counting, Run

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.model import Model


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest, starter_path: Path) -> Iterator[Model]:
    """The starter, loaded once for a module.

    A module that needs another size defines a constant ``LOAD``: a dictionary of fields of
    :class:`Load`. A module that needs another model overrides this fixture.
    """
    fields = {"ctx_size": 1024, "parallel": 4, "batch_size": 64, "threads": 1}
    fields.update(getattr(request.module, "LOAD", {}))
    model = Model(Load(str(starter_path), **fields))
    yield model
    model.close()


@pytest.fixture
def model(loaded: Model) -> Iterator[Counting]:
    """The loaded model, counting the tokens of each decode; its slots are cleared afterwards."""
    yield Counting(loaded)
    for slot in range(loaded.n_parallel):
        loaded.forget(slot)


@pytest.fixture
def run(model: Counting) -> Run:
    """A new engine with that model."""
    return Run(model)
