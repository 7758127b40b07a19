"""What ``GET /peer/models`` says, and the lines of ``GET /peer/models/{id}/hashes``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_FILES = 1000
"""Most files of one model."""
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class OfferedFile(msgspec.Struct, frozen=True):
    """A file of a model. Its place in the list is its number in URLs.

    Attributes:
        name: its name below a models directory.
        size: bytes.
        sha256: None if it is not known yet; ``/hashes`` computes it.
        problem: why it cannot be copied; None if it can be.
    """

    name: str
    size: Bytes
    sha256: Sha256 | None = None
    problem: str | None = None


class OfferedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the machine which asks may copy.

    Attributes:
        kind: what it is made for, such as ``chat``.
        size: bytes of all files.
        context_length: tokens of the context with which it was trained; None if unknown.
        draft_model: the id of its draft model, if that may be copied too.
        files: its file, or all parts in order; then its projector.
    """

    id: str
    kind: str = ""
    size: Bytes = 0
    context_length: int | None = None
    draft_model: str | None = None
    files: Annotated[tuple[OfferedFile, ...], Meta(min_length=1, max_length=MAX_FILES)]


class OfferedModels(msgspec.Struct, frozen=True):
    """The models that the machine which asks may copy."""

    data: tuple[OfferedModel, ...]


class HashLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the hash of a file is, or the hash.

    Attributes:
        file: the number of the file.
        done: bytes that were hashed.
        sha256: None until the file was read to its end.
    """

    file: Annotated[int, Meta(ge=0, lt=MAX_FILES)]
    done: Bytes = 0
    sha256: Sha256 | None = None
