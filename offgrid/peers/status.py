"""What a machine says about itself to its peers, and how it is read.

A peer is trusted to be the machine that was paired, and not to be free of faults: whatever it
sends, the report that is kept is small, and its texts disturb no list and no terminal.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from offgrid.engine.client.use import Status
from offgrid.peers.identity import clean_name
from offgrid.store.description import Kind

MAX_REPORT = 1 << 20
"""Bytes of the longest report that is read."""
MAX_MODELS = 1000
"""Models of a report that are kept."""
_LARGEST = 2**53
"""No number of a report is larger: JSON in browsers keeps none exactly."""
LATEST = 253_402_300_799
"""The last second of the year 9999: lists of models write times as dates."""
_SHORT = 32
Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
Id = Annotated[str, Meta(min_length=1, max_length=512)]
Word = Annotated[str, Meta(max_length=64)]


class ReportedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a machine; the fields are those of ``GET /v1/models``.

    Attributes:
        sha256: of its file, 64 hexadecimal digits; None if that is not known yet, or if it has
            several files.
    """

    id: Id
    size: Count
    created: Annotated[int, Meta(ge=0, le=LATEST)] = 0
    kind: Kind | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    context_length: Count | None = None
    architecture: Word | None = None
    parameters: Count | None = None
    quantization: Word | None = None
    vision: bool = False
    tools: bool = False
    reasoning: bool = False
    aliases: Annotated[tuple[Id, ...], Meta(max_length=32)] = ()
    status: Status = "unloaded"


class Lent(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine lends for models that are larger than one machine.

    Attributes:
        port: where its RPC worker listens for peers.
        version: of OffGrid, of the RPC worker.
        build: of llama.cpp.
        memory_free: bytes.
    """

    port: Annotated[int, Meta(ge=1, le=65535)]
    version: Word
    build: Word
    memory_free: Count | None = None


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine says about itself.

    Attributes:
        id: of the machine; only its certificate proves it.
        name: for people.
        version: of OffGrid.
        models: its own models that the peer may use, at most :data:`MAX_MODELS`.
        models_left_out: how many more there are, or were not valid.
        slots_total: slots of all loaded models.
        slots_free: those of them without a sequence.
        queue: sequences that wait for a slot.
        tokens_per_second: tokens of answers, in the last minute.
        rpc: what it lends; None for nothing.
        time: when it was made, in seconds since 1970 by the clock of that machine.
    """

    id: Word
    name: str
    version: str
    models: tuple[ReportedModel, ...]
    models_left_out: Count = 0
    slots_total: Count
    slots_free: Count
    queue: Count
    tokens_per_second: Annotated[float, Meta(ge=0, le=1e9)]
    rpc: Lent | None = None
    time: Annotated[float, Meta(ge=0, le=1e12)]


class _Unread(StatusReport, frozen=True, kw_only=True):
    models: tuple[msgspec.Raw, ...]  # type: ignore[assignment]


_decoder = msgspec.json.Decoder(_Unread)
_model_decoder = msgspec.json.Decoder(ReportedModel)
State = Literal["unknown", "connected", "unreachable", "refused"]
"""What is known about the connection to a peer: it was not asked yet; it has answered; it cannot be
reached, or did not answer as expected; it does not know this machine, or no longer."""


def read_report(data: bytes) -> StatusReport:
    """Return a report as it is kept.

    Models beyond :data:`MAX_MODELS`, and those that are not valid, are left out and counted.

    Raises:
        ValueError: it is no report; the message says why.
    """
    try:
        read = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as ex:
        raise ValueError(str(ex)[:200]) from None
    models: dict[str, ReportedModel] = {}
    for raw in read.models[:MAX_MODELS]:
        try:
            model = _model_decoder.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
        if all(name.isprintable() for name in (model.id, *model.aliases)):
            models[model.id] = model
    values = {name: getattr(read, name) for name in StatusReport.__struct_fields__}
    values |= {
        "name": clean_name(read.name),
        "version": clean_name(read.version[:_SHORT]),
        "models": tuple(models.values()),
        "models_left_out": read.models_left_out + len(read.models) - len(models),
    }
    return StatusReport(**values)
