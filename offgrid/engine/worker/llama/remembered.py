"""What was measured of a model, kept from one load to the next.

- The choice of flash attention. Saved prefixes fit only a context with the same choice: where both
  ways are nearly as fast, another measurement might end otherwise, and all prefixes would be lost.
  It also saves the time of the measurement.
- The costs of decode calls by their number of rows, so that the first answer already has drafts of
  the right length.

Both are kept beside the saved prefixes, and measured again if nothing may be kept on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from offgrid.engine.attention import Choice
from offgrid.engine.saved_prefixes import CHOICE_SUFFIX, COSTS_SUFFIX, KEY_CHARACTERS
from offgrid.engine.worker.llama.attention_trial import measured_attention
from offgrid.engine.worker.llama.build import identity
from offgrid.engine.worker.llama.weights import Weights

log = logging.getLogger(__name__)

_MOST_ROWS = 4096
_MOST_COST = 4.0
"""Times the number of rows. A higher cost in a file is no measurement."""


def remembered_attention(weights: Weights) -> Choice:
    """Return the choice of an earlier load of the same file in the same way; measure it if there
    was none, or if nothing may be kept on disk."""
    path = _path(weights, CHOICE_SUFFIX)
    if path is None:
        return measured_attention(weights)
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=Choice)
    choice = measured_attention(weights)
    _keep(path, choice)
    return choice


def remembered_costs(weights: Weights) -> dict[int, float]:
    """Return the costs that an earlier load of the same file in the same way has measured: number
    of rows -> time relative to one row. Empty if there are none."""
    path = _path(weights, COSTS_SUFFIX)
    if path is None:
        return {}
    try:
        costs = msgspec.json.decode(path.read_bytes(), type=dict[int, float])
    except (OSError, msgspec.DecodeError):
        return {}
    sound = costs.get(1) == 1.0 and all(
        0 < rows <= _MOST_ROWS and 0.0 < cost <= _MOST_COST * rows for rows, cost in costs.items()
    )
    return costs if sound else {}


def remember_costs(weights: Weights, costs: Mapping[int, float]) -> None:
    """Keep costs for :func:`remembered_costs`, if there are some besides that of one row."""
    path = _path(weights, COSTS_SUFFIX)
    one = costs.get(1)
    if path is not None and one and len(costs) > 1:
        _keep(path, {rows: round(cost / one, 3) for rows, cost in sorted(costs.items())})


def _path(weights: Weights, suffix: str) -> Path | None:
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
        load.batch_size, load.gpu_layers, load.remote_layers,
    )  # fmt: skip
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=KEY_CHARACTERS // 2).hexdigest()
    return Path(load.cache_dir) / f"{digest}{suffix}"


def _keep(path: Path, value: Choice | dict[int, float]) -> None:
    try:
        _write(path, msgspec.json.encode(value))
    except OSError as ex:
        log.debug("%s is not kept: %s", path.name, ex)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.touch(mode=0o600)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
