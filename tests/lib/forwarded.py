"""A machine with a model, and one that forwards requests for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from machines import Machine
from support import eventually

from offgrid.peers.book import Peer
from offgrid.peers.status import ReportedModel, StatusReport
from offgrid.store.catalogue import STARTER_PATH

MODEL = "lighthouse"
"""Id of the model that only the far machine has: the starter under another name."""


class Pair(NamedTuple):
    """A machine that forwards, and the one that computes."""

    near: Machine
    far: Machine


def give_model(folder: Path, name: str = MODEL) -> None:
    """Put the starter into a folder under a name."""
    shutil.copyfile(STARTER_PATH, folder / f"{name}.gguf")


def introduce(near: Machine, *others: Machine) -> None:
    """Let a machine know others, and wait until it has their reports."""
    for other in others:
        other.know(near)  # in this order, the first question is not refused
        wait_for(near, other.as_peer())


def wait_for(near: Machine, *peers: Peer) -> None:
    """Wait until a machine has reports of peers."""
    names = {peer.name for peer in peers}

    def has_reports() -> bool:
        known = near.peers.table.known()
        return names <= {one.peer.name for one in known if one.state == "connected"}

    eventually(has_reports, "reports of peers")


def report_of(
    *ids: str, free: int = 1, queue: int = 0, aliases: Mapping[str, tuple[str, ...]] | None = None
) -> StatusReport:
    """The report of a peer that exists only in a test. ``aliases`` has those of some ids."""
    given = aliases or {}
    return StatusReport(
        id="0" * 16, name="fake", version="1",
        models=tuple(
            ReportedModel(id=id, size=1, kind="chat", status="loaded", aliases=given.get(id, ()))
            for id in ids
        ),
        slots_total=1000, slots_free=free, queue=queue, tokens_per_second=0.0, time=1.0,
    )  # fmt: skip
