"""A machine with a model, and one that forwards requests for it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from machines import Machine
from support import request

from offgrid.store.catalogue import STARTER_PATH

MODEL = "lighthouse"
"""Id of the model that only the far machine has: the starter under another name."""


class Pair(NamedTuple):
    """A machine that forwards, and the one that computes."""

    near: Machine
    far: Machine


@dataclass
class Known:
    """What is known of a peer."""

    peer: Any
    state: str
    report: Any


def give_model(folder: Path, name: str = MODEL) -> None:
    """Put the starter into a folder under a name."""
    shutil.copyfile(STARTER_PATH, folder / f"{name}.gguf")


def report_of(machine: Machine) -> Any:
    """What a machine would report now."""
    models = request(machine.server.url, "GET", "/v1/models").json["data"]
    found = [SimpleNamespace(**{"sha256": None, **model}) for model in models]
    return SimpleNamespace(models=found, slots_free=1, queue=0)


def model_report(*ids: str, free: int = 1, queue: int = 0) -> Any:
    """The report of a peer that exists only in a test."""
    models = [
        SimpleNamespace(
            id=id, aliases=[], sha256=None, created=1, size=1, kind="chat", architecture="llama",
            parameters=1, quantization="F16", context_length=64, vision=False, tools=False,
            reasoning=False, status="loaded",
        )
        for id in ids
    ]  # fmt: skip
    return SimpleNamespace(models=models, slots_free=free, queue=queue)


def introduce(near: Machine, *others: Machine, state: str = "connected") -> None:
    """Let a machine know others, and what they report."""
    for other in others:
        near.know(other)
    known = [Known(one.as_peer(), state, report_of(one)) for one in others]
    setattr(near.peers.table, "known", lambda: known)  # noqa: B010
