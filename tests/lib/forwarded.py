"""A machine with a model, and one that forwards requests for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import scripted_model
from machines import Machine
from support import eventually

from offgrid.peers.book import Peer
from offgrid.peers.status import ReportedModel, StatusReport
from offgrid.store.catalogue import STARTER_PATH

MODEL = "lighthouse"
"""Id of the model that only the far machine has: the starter under another name."""


LASTING: dict[str, Any] = {"ctx_size": 1 << 18, "parallel": 2, "drafts": False}
"""Settings of a machine with a model of :func:`give_lasting_model`. An answer of the starter ends
by itself in seconds, because its context is full."""


class FarModel(NamedTuple):
    """The model of a far machine: what puts it into a folder, and settings for it."""

    give: Callable[[Path], None]
    settings: Mapping[str, Any]


class Pair(NamedTuple):
    """A machine that forwards, and the one that computes."""

    near: Machine
    far: Machine


def give_model(folder: Path, name: str = MODEL) -> None:
    """Put the starter into a folder under a name."""
    shutil.copyfile(STARTER_PATH, folder / f"{name}.gguf")


def give_lasting_model(folder: Path) -> None:
    """Put another model into a folder under that name, of which an answer goes on for minutes."""
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    scripted_model.write(
        folder / f"{MODEL}.gguf", template, (), "on and on", context=LASTING["ctx_size"]
    )


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
