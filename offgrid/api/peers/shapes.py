"""Bodies and answers of ``/v1/peers``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from offgrid.api.keys.shapes import MAX_MODELS, GivenLimits, KeyLimits
from offgrid.api.shapes import Answer, Count
from offgrid.engine.client.use import Status
from offgrid.peers.status import State
from offgrid.store.description import Kind

Port = Annotated[int, Meta(ge=1, le=65535)]


class PairRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Opens a code, without fields; or pairs with the machine at an address, which shows a code."""

    address: Annotated[str, Meta(
        min_length=1, max_length=300,
        description="Name or address of the other machine, and its peers port if that is not "
        "11612: `192.168.1.7`, `ship-2:11700`, `[fe80::1%eth0]:11612`.",
    )] | None = None  # fmt: skip
    code: Annotated[str, Meta(
        min_length=1, max_length=32, description="As the other machine shows it: `1234-5678`."
    )] | None = None  # fmt: skip


class PairedPeer(Answer):
    """A machine that was paired with this one."""

    object: Literal["peer"]
    id: str
    name: str
    fingerprint: Annotated[str, Meta(description="SHA-256 of its certificate.")]
    addresses: list[str]
    port: int
    paired_at: Annotated[int, Meta(ge=0, description="Seconds since 1970.")]


class PairingState(Answer):
    """What became of the latest pairing code."""

    object: Literal["peers.pairing"]
    id: Annotated[
        str, Meta(description="Of the code, but not its digits; empty if there was none.")
    ]
    state: Annotated[
        Literal["none", "open", "paired", "expired", "closed", "locked"],
        Meta(description="`locked` after five wrong codes."),
    ]
    open: bool
    expires_at: Annotated[
        int | None, Meta(description="Until when the code is valid, seconds since 1970.")
    ]
    locked_for: Annotated[Count, Meta(description="Seconds in which no code can be opened.")]
    peer: PairedPeer | None


class OpenedCode(PairingState):
    """A code that was opened; it is told this once."""

    code: str
    addresses: Annotated[
        list[str],
        Meta(description="Addresses of this machine, as a person types them on the other one."),
    ]


class ForgottenPeer(Answer):
    """The peer was forgotten here. The other machine is not told; it is refused from now on."""

    object: Literal["peer"]
    id: str
    name: str
    deleted: Literal[True]


class PeerUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a peer may do here; what is absent stays as it is."""

    models: Annotated[list[Annotated[str, Meta(min_length=1, max_length=512)]], Meta(
        max_length=MAX_MODELS,
        description="Ids and aliases of the models that it may use and copy; empty for all models.",
    )] | None = None  # fmt: skip
    limits: GivenLimits | None = None
    """Replaces all limits."""


class PeerModel(Answer):
    """A model of a peer, as the peer says; the fields are those of `/v1/models`."""

    id: str
    size: Count
    created: Count
    kind: Kind | None
    sha256: Annotated[
        str | None,
        Meta(description="Of its file; null if it is not known yet, or for several files."),
    ]
    context_length: int | None
    architecture: str | None
    parameters: int | None
    quantization: str | None
    vision: bool
    tools: bool
    reasoning: bool
    aliases: list[str]
    status: Status


class PeerSlots(Answer):
    """Slots of all loaded models of a peer."""

    total: Count
    free: Count


class LentMemory(Answer):
    """What a machine lends for models that are larger than one machine."""

    port: Annotated[Port, Meta(description="Where its RPC worker listens.")]
    version: str
    build: Annotated[str, Meta(description="Of llama.cpp.")]
    memory_free: Annotated[Count | None, Meta(description="Bytes.")]


class PeerMachine(Answer):
    """A peer, or a machine that was found and is not paired. Times are seconds since 1970."""

    object: Literal["peer"]
    id: Annotated[
        str | None,
        Meta(description="Null for an address of the settings at which no machine has answered."),
    ]
    name: str
    fingerprint: Annotated[
        str | None, Meta(description="SHA-256 of its certificate; null if it is not paired.")
    ]
    addresses: Annotated[
        list[str], Meta(description="Where it may be found; the latest address first.")
    ]
    port: Annotated[Port | None, Meta(description="Its peers port.")]
    version: Annotated[str | None, Meta(description="Of OffGrid, as the machine says.")]
    state: Annotated[
        State,
        Meta(
            description="`connected`: it has answered the last question. `unreachable`: it does "
            "not answer, or not as expected. `refused`: it does not know this machine, or no "
            "longer. `unknown`: it was not asked; machines that are not paired never are."
        ),
    ]
    problem: Annotated[str | None, Meta(description="Why it is not connected.")]
    last_seen: Annotated[
        Count | None,
        Meta(description="When it last answered, or was announced, since the server was started."),
    ]
    paired: bool
    paired_at: Count | None
    models: Annotated[
        list[PeerModel],
        Meta(description="Its models that this machine may use, as of its last answer."),
    ]
    models_left_out: Annotated[
        int, Meta(ge=0, description="Models that were not valid, or more than 1,000.")
    ]
    slots: PeerSlots | None
    queue: Annotated[Count | None, Meta(description="Sequences that wait for a slot.")]
    tokens_per_second: Annotated[float | None, Meta(description="Of answers, in the last minute.")]
    rpc: LentMemory | None
    models_allowed: Annotated[
        list[str] | None, Meta(description="What it may use here; null for all models.")
    ]
    limits: Annotated[
        KeyLimits | None, Meta(description="Its limits here; null if it is not paired.")
    ]


class ThisMachine(Answer):
    """This machine, as its peers know it."""

    id: str
    name: str
    version: str
    addresses: list[str]
    port: Count
    fingerprint: str


class PairingNow(Answer):
    """Whether this machine shows a pairing code."""

    open: bool
    expires_at: int | None


class PeerList(Answer):
    """The peers in the order of their pairing; after them, machines that were found."""

    object: Literal["list"]
    self: ThisMachine
    data: list[PeerMachine]
    pairing: PairingNow
