"""The choice of flash attention, kept from one load of a model to the next.

It is kept beside the saved prefixes, because these fit only a context with the same choice: where
both ways are nearly as fast, another measurement might end otherwise, and all prefixes would be
lost. It also saves the time of the measurement.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path

import msgspec

from offgrid.engine.attention import Choice
from offgrid.engine.saved_prefixes import CHOICE_SUFFIX, KEY_CHARACTERS
from offgrid.engine.worker.llama.attention_trial import measured_attention
from offgrid.engine.worker.llama.build import identity
from offgrid.engine.worker.llama.weights import Weights

log = logging.getLogger(__name__)


def remembered_attention(weights: Weights) -> Choice:
    """Return the choice of an earlier load of the same file in the same way; measure it if there
    was none, or if nothing may be kept on disk."""
    path = _path(weights)
    if path is None:
        return measured_attention(weights)
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=Choice)
    choice = measured_attention(weights)
    try:
        _write(path, choice)
    except OSError as ex:
        log.debug("the choice of flash attention is not kept: %s", ex)
    return choice


def _path(weights: Weights) -> Path | None:
    load = weights.load
    if not load.cache_dir or load.cache_disk == 0:
        return None
    try:
        status = Path(load.path).stat()
    except OSError:
        return None
    parts = (
        *identity(), os.path.abspath(load.path), status.st_size, status.st_mtime_ns,
        weights.n_ctx, weights.n_parallel, weights.n_threads, load.kv_type_k, load.kv_type_v,
        load.batch_size, load.gpu_layers,
    )  # fmt: skip
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=KEY_CHARACTERS // 2).hexdigest()
    return Path(load.cache_dir) / f"{digest}{CHOICE_SUFFIX}"


def _write(path: Path, choice: Choice) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.touch(mode=0o600)
        partial.write_bytes(msgspec.json.encode(choice))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
