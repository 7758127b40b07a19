"""Bodies and answers of ``/v1/peers``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from offgrid.api.shapes import Answer, Count


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
