"""How a request uses a model, and the state of a model as clients see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["unloaded", "waiting", "loading", "loaded", "unloading", "failed"]


@dataclass(frozen=True, slots=True)
class Use:
    """How a request uses a model.

    Attributes:
        keep_alive: seconds that the model stays loaded after this request; None leaves that as it
            is.
        wait: most seconds that the request waits until the model is loaded; None waits as long as
            the settings allow.
        unload: whether another model may be unloaded for it. Such a request also counts as no use:
            the model is unloaded as if it had not come.
        owner: the caller.
    """

    keep_alive: float | None = None
    wait: float | None = None
    unload: bool = True
    owner: str = ""


USUAL = Use()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The state of a model.

    Attributes:
        status: ``waiting`` means that no other model has made room yet.
        progress: the part of the weights that is loaded, 0 to 1.
        error: why it is ``failed``.
    """

    status: Status
    progress: float = 0.0
    error: str | None = None


UNLOADED = ModelStatus("unloaded")
