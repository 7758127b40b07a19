"""Who sends a request: the holder of a key, or an address if the server has no keys.

Every request belongs to one caller. Stored objects belong to the caller that created them; slots,
queue places and limits are shared by callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["inference", "history", "models", "import", "stats", "peers", "admin"]
"""What a key allows. ``history``: one's own responses and conversations. ``models``: load and
unload. ``admin`` includes all others."""
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may use; None means no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Tokens of prompts and of answers together."""
    concurrent_requests: int | None = None
    max_tokens: int | None = None
    """Most tokens of one answer."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of one request.

    Attributes:
        id: the key's id, or the address (IPv6: its first 64 bits) if the server has no keys.
            Stored objects carry it.
        name: the key's name, for logs and statistics; empty without a key.
        address: the IP address of the connection, or ``unix`` for a Unix socket.
        has_key: whether a key proved it.
        scopes: what it may do.
        models: ids and aliases of models that it may use; None means all.
        limits: its own limits; those of the settings apply in addition.
        filter_file: its own content filter, a path; empty if it has none.
        is_machine: whether it is a paired machine, proved by its certificate.
    """

    id: str
    name: str = ""
    address: str = ""
    has_key: bool = False
    scopes: frozenset[Scope] = SCOPES
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    filter_file: str = ""
    is_machine: bool = False

    def may(self, scope: Scope) -> bool:
        """Return whether it has a scope."""
        return scope in self.scopes or "admin" in self.scopes


LOCAL = Caller("local")
"""The caller of code that runs outside a request, such as the library and the command line."""
