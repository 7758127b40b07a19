"""Other machines."""

from __future__ import annotations

from full_requests.full import Full


def peer_requests(address: str, code: str, id: str, model: str) -> list[Full]:
    """The endpoints about other machines. They need a server with peers.

    Args:
        address: where a machine shows a code.
        code: the code.
        id: of a peer.
        model: a model of this machine.
    """
    limits = {
        "requests_per_minute": 100, "tokens_per_minute": 100_000, "concurrent_requests": 4,
        "max_tokens": 500,
    }  # fmt: skip
    grant = {"models": [model], "limits": limits}
    return [
        Full("/v1/peers/pair", {}, {"address": address, "code": code}),
        Full("/v1/peers/{id}", {}, grant, values={"id": id}),
    ]
