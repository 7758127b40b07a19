"""How models share the memory of a machine that lends: a real RPC worker, and real workers here.

What the machine has free is simulated: it has room for one model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rpc_library import rpc_library
from rpc_workers import MakeWorker, RpcWorker, rpc_workers

from offgrid.config import Settings, load_settings
from offgrid.engine.client import lenders
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.spread import Lent
from offgrid.engine.memory import GIB, MIB
from offgrid.errors import ModelLoadFailed
from offgrid.peers.rpc import rpc_servers
from offgrid.rpc.endpoint import RpcServer
from offgrid.store.catalogue import Catalogue


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[MakeWorker]:
    """Machines that lend to the one with the folder of peers ``here/peers``."""
    with rpc_workers(tmp_path, tmp_path / "here" / "peers") as make:
        yield make


class Machine:
    """A machine that lends, with memory for one model.

    Attributes:
        worker: its RPC worker.
        room: bytes that it has free while it computes for none.
        taken: bytes that a model takes there.
        late: number of answers in which memory that was given back is not free yet.
    """

    def __init__(self, worker: RpcWorker) -> None:
        self.room, self.taken, self.late = GIB, 0, 0
        self.worker = worker
        self._was_idle = True
        self._ask = lenders.ask_lender

    def ask(self, server: RpcServer) -> Lent:
        """Ask what it lends."""
        lent = self._ask(server)
        assert not lent.problem
        idle = self.worker.is_idle()
        if idle and not self._was_idle and self.late:
            self.late -= 1
            return replace(lent, free=self.room - self.taken)
        self._was_idle = idle
        return replace(lent, free=self.room if idle else self.room - self.taken)


class Borrower:
    """The machine that serves the models a and b, for which it has not enough memory."""

    def __init__(self, folder: Path, model: Path, worker: RpcWorker) -> None:
        models = folder / "models"
        models.mkdir()
        for name in "ab":
            (models / f"{name}.gguf").symlink_to(model)
        self._flags: dict[str, Any] = {
            "models_dir": models, "peers_dir": folder / "here" / "peers", "peers_name": "here",
            "responses_file": folder / "here" / "responses.sqlite3", "parallel": 1, "threads": 1,
            "rpc_library": rpc_library(), "keep_alive": -1, "memory_budget": 80,
        }  # fmt: skip
        settings = self.settings(worker.server)
        self.pool = EnginePool(settings, Catalogue(settings), servers=rpc_servers)

    def settings(self, servers: str) -> Settings:
        given = {**self._flags, "rpc_servers": servers}
        return load_settings(given, environ={}, config_file="")

    def layers(self, name: str) -> int:
        """How many layers of a model the other machine gets, or would get now."""
        return self.pool.fit(self.pool.find(name)).load.remote_layers


@pytest.fixture
def machine(workers: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(workers("far"))
    monkeypatch.setattr(lenders, "ask_lender", made.ask)
    return made


@pytest.fixture
def borrower(tmp_path: Path, starter_path: Path, machine: Machine) -> Iterator[Borrower]:
    made = Borrower(tmp_path, starter_path, machine.worker)
    made.pool.lenders.refresh()
    [part] = made.pool.fit(made.pool.find("a")).borrowed
    machine.taken = part.size
    machine.room = part.size + 65 * MIB
    made.pool.lenders.forget()
    try:
        yield made
    finally:
        made.pool.shutdown(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 3])
def test_a_model_makes_room_for_another_one_on_the_machine_that_lends(
    machine: Machine, borrower: Borrower, late: int
) -> None:
    """Also if it takes that machine some time to free the memory."""
    machine.late = late
    for name in "aba":
        borrower.pool.engine(name)
        assert [client.name for client in borrower.pool.loaded()] == [name]
        assert borrower.layers(name) > 0


@pytest.mark.slow
def test_a_machine_that_is_taken_out_of_the_settings_is_not_used(
    machine: Machine, borrower: Borrower
) -> None:
    pool = borrower.pool
    pool.lenders.refresh()
    assert borrower.layers("a") > 0
    pool.prepare(borrower.settings("stranger"))()
    with pytest.raises(ModelLoadFailed, match="'stranger' is not a peer"):
        pool.engine("a")
    pool.prepare(borrower.settings(machine.worker.server))()
    pool.lenders.refresh()
    assert borrower.layers("a") > 0
    pool.prepare(borrower.settings(""))()
    assert borrower.layers("a") == 0
    with pytest.raises(ModelLoadFailed, match="of memory is free") as caught:
        pool.engine("a")
    assert "RPC" not in str(caught.value)
