"""Copies of models: from and to sticks, and from peers."""

from __future__ import annotations

from full_requests.full import Full


def transfer_requests(starter: str, stick: str) -> list[Full]:
    """The endpoints that copy models from and to a stick."""
    return [
        Full(
            "/v1/import",
            {"paths": [stick]},
            {"ids": ["none"], "replace": True, "stream": False, "background": False},
        ),
        Full(
            "/v1/export",
            {"path": stick},
            {"ids": [starter], "replace": True, "stream": False, "background": False},
        ),
    ]


def copy_requests(peer: str, model: str) -> list[Full]:
    """The endpoints that copy models from a peer.

    Args:
        peer: its name.
        model: the id of a model that it has.
    """
    rest = {"replace": True, "stream": False, "background": False}
    return [Full("/v1/import", {"peer": peer, "ids": [model]}, rest)]
