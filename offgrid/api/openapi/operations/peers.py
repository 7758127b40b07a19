"""The machines that this one is paired with. What machines ask each other is not described."""

from __future__ import annotations

from offgrid.api.openapi.operations.operation import Body, Operation
from offgrid.api.peers import shapes as peers

_PEERS = "/v1/peers"

OPERATIONS = (
    Operation("get", _PEERS, "The peers, and machines that were found", (peers.PeerList,)),
    Operation(
        "get",
        f"{_PEERS}/{{id}}",
        "What is known about a peer",
        (peers.PeerMachine,),
        errors=(404,),
    ),
    Operation(
        "post",
        f"{_PEERS}/{{id}}",
        "Changes what a peer may do here",
        (peers.PeerMachine,),
        body=Body((peers.PeerUpdate,)),
        errors=(404, 413),
    ),
    Operation(
        "get", f"{_PEERS}/pair", "What became of the latest pairing code", (peers.PairingState,)
    ),
    Operation(
        "post",
        f"{_PEERS}/pair",
        "Opens a pairing code; or pairs with the machine at an address, which shows a code",
        (peers.OpenedCode, peers.PairedPeer),
        body=Body((peers.PairRequest,), optional=True),
        errors=(409, 413, 502),
    ),
    Operation("delete", f"{_PEERS}/pair", "Closes the pairing code", (peers.PairingState,)),
    Operation(
        "delete",
        f"{_PEERS}/{{id}}",
        "Forgets a peer; it can do nothing here from now on",
        (peers.ForgottenPeer,),
        errors=(404,),
    ),
)
