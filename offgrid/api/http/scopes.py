"""What the methods of a resource need: each resource says it as ``scopes``.

A resource that does not say it needs ``admin``, and so does a method that it leaves out. GET
stands for HEAD too.
"""

from __future__ import annotations

from collections.abc import Mapping

from offgrid.caller import Scope

Needs = tuple[Scope, ...]
"""Scopes of which a key needs one; empty if every key will do."""
Scopes = Mapping[str, Needs]
"""HTTP method -> what it needs."""
ADMIN: Needs = ("admin",)
ANY_KEY: Scopes = {"GET": ()}
INFERENCE: Scopes = {"GET": ("inference",), "POST": ("inference",)}
HISTORY: Scopes = {method: ("history",) for method in ("GET", "POST", "DELETE")}
IMPORT: Scopes = {method: ("import",) for method in ("GET", "POST", "DELETE")}
MODELS: Scopes = {"GET": ("inference", "models", "stats"), "POST": ("models",)}
"""Clients ask which models there are before they use one; only some may load and unload."""
LOADED: Scopes = {"GET": ("models", "stats")}
STATS: Scopes = {"GET": ("stats",)}
KEYS: Scopes = dict.fromkeys(("GET", "POST", "DELETE"), ADMIN)
PEERS: Scopes = {method: ("peers",) for method in ("GET", "POST", "DELETE")}
