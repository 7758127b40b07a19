"""How much memory a model will take, from the headers of its files and the settings.

Nothing is loaded. The rules are those by which llama.cpp lays out weights, caches and graphs on a
processor; ``benchmarks/memory.py`` compares the result with the memory of real workers. Layers on a
GPU are counted as if they were in main memory.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from msgspec import structs

from offgrid.engine.attention import fixed_choice
from offgrid.engine.client.processor import Repacked
from offgrid.engine.kv_types import PLAIN, bytes_of
from offgrid.engine.memory import MIB
from offgrid.engine.protocol.commands import Load
from offgrid.grammar.options import FEW_SLICES, LARGE_VOCABULARY, SLICES
from offgrid.store.sizes import ModelSizes

_UBATCH = 512
"""Most tokens that the worker lets llama.cpp compute at once."""
_CELLS = 256
"""llama.cpp rounds a context up to a multiple of this."""
_INTERVAL = 512
"""Tokens between two checkpoints."""
_MAX_CONTEXT = 1 << 22
"""The largest context that the settings allow."""
_HALF, _FLOAT = 2, 4
"""Bytes of an element of masks and of the keys and values of embeddings, and of everything that is
computed."""
_LEAST_BATCH, _MAX_LOGITS = 32, 64 * MIB
"""The worker computes embeddings of at least so many tokens at once, and of no more than have so
many bytes of logits."""
_PROCESS = 62 * MIB
"""A worker without a model: Python, its libraries, the code of llama.cpp."""
_TOKEN_IN_LLAMA, _TOKEN, _TOKEN_IN_SET = 200, 240, 56
"""Bytes for each token of the vocabulary: in llama.cpp; in addition as a piece, and in the form
that grammars need; in each set of tokens that is kept for grammars (``grammar.options``)."""
_MERGE = 60
"""Bytes for each merge of a byte-level vocabulary."""
_PROJECTOR = 1.15
"""Memory of a projector over the size of its file: it also computes."""
_MOST = 1 << 53
"""Sizes from hostile headers end here: JSON represents them exactly."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of memory that a model takes once the contexts of all slots have been full.

    After it is loaded it takes less: the cache takes memory as slots fill, and the memory for
    computing grows with the longest context so far. Neither is given back.

    Attributes:
        weights: the weights as they are in the file.
        copies: weights that are stored a second time, in the layout that the kernels read.
        cache: keys and values of all slots, and the states of recurrent layers.
        checkpoints: copies of states and sliding windows.
        compute: what a step computes, and the rows of logits.
        vocabulary: tables of the tokens.
        projector: the projector for images, once an image has come.
        process: the worker without a model.
        prefixes: saved prefixes, once so many have been evicted from slots.
        draft: all parts of the draft model.
        dropped: the part of ``weights`` that the system can drop for good, because only their
            copies are used.
    """

    weights: int
    copies: int
    cache: int
    checkpoints: int
    compute: int
    vocabulary: int
    projector: int
    process: int
    prefixes: int = 0
    draft: int = 0
    dropped: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts."""
        parts: list[int] = [getattr(self, name) for name in PARTS]
        return min(sum(parts), _MOST)


PARTS = tuple(part.name for part in fields(Estimate) if part.name != "dropped")
"""The parts that add up to the total."""


def estimate(
    sizes: ModelSizes,
    load: Load,
    repacked: Repacked,
    projector: int = 0,
    adapters: int = 0,
    draft: ModelSizes | None = None,
    flash: bool | None = None,
) -> Estimate:
    """Return how much memory a model will take.

    Args:
        sizes: what decides it.
        load: how it is loaded.
        repacked: which types of tensors get copies on this processor.
        projector: bytes of the projector's file.
        adapters: bytes of the adapters' files.
        draft: what decides how much the draft model takes; None without one.
        flash: whether sequences are computed with flash attention, as a worker has chosen. None
            before that: scores are then counted, unless it is certain that none are kept. The
            draft model, whose choice is not known here, is always counted like that.
    """
    copied, moved = _copies(sizes, repacked)
    mapped = load.use_mmap
    cells = context_of(sizes, load)
    cells += -cells % _CELLS
    cache, compute = (
        _generating(sizes, load, cells, flash)
        if sizes.generates
        else _embedding(sizes, load, cells)
    )
    parts = (
        (sizes.data if mapped else sizes.data - moved) + adapters,
        copied,
        cache,
        _checkpoints(sizes, load, cells) if sizes.generates else 0,
        compute,
        _TOKEN_IN_LLAMA * sizes.vocabulary
        + _MERGE * sizes.merges
        + (_texts(sizes) if sizes.generates else 0),
        int(_PROJECTOR * projector),
        _PROCESS,
        max(0, load.cache_ram) * MIB if sizes.generates else 0,
        0 if draft is None else _draft(draft, load, repacked, context_of(sizes, load)),
        moved if mapped and not load.use_mlock else 0,
    )
    found = Estimate(*(min(max(0, part), _MOST) for part in parts))
    return _without_remote(found, sizes, load) if load.rpc else found


def _without_remote(found: Estimate, sizes: ModelSizes, load: Load) -> Estimate:
    """Return what remains on this machine if others compute the last layers."""
    count = min(load.remote_layers, len(sizes.layers))
    gone, layers = sum(sizes.layers[len(sizes.layers) - count :]), max(1, sum(sizes.layers))
    kept = 1.0 - gone / layers
    return replace(
        found,
        weights=max(0, found.weights - gone),
        copies=int(found.copies * kept),
        cache=int(found.cache * (1 - count / max(1, len(sizes.layers)))),
        dropped=int(found.dropped * kept),
    )


def _draft(sizes: ModelSizes, load: Load, repacked: Repacked, context: int) -> int:
    """Return the bytes of a draft model, which shares the worker with its main model.

    Args:
        sizes: of the draft model.
        load: how the main model is loaded.
        repacked: which types of tensors get copies on this processor.
        context: tokens of the context of a slot of the main model.
    """
    own = structs.replace(load.of_draft(), ctx_size=context)
    texts = _texts(sizes)  # it reads none
    return max(0, estimate(sizes, own, repacked).total - _PROCESS - texts)


def _texts(sizes: ModelSizes) -> int:
    """Return the bytes of the tables that texts and grammars need. Large vocabularies get fewer
    sets of tokens."""
    sets = FEW_SLICES if sizes.vocabulary > LARGE_VOCABULARY else SLICES
    return (_TOKEN + _TOKEN_IN_SET * len(sets)) * sizes.vocabulary


def context_of(sizes: ModelSizes, load: Load) -> int:
    """Return the tokens of the context that a slot will have."""
    trained = min(sizes.context or load.ctx_size, _MAX_CONTEXT)
    return min(load.ctx_size or trained, trained)


def _copies(sizes: ModelSizes, repacked: Repacked) -> tuple[int, int]:
    """Return the bytes of the copies, and of the weights in the file that only they replace."""
    copied = sum(
        size
        for (kind, rows), size in sizes.matrices.items()
        if kind in repacked and rows % repacked[kind] == 0
    )
    # Single rows of the token embedding are read from the file, also if the output has a copy.
    shared = sizes.embedding if sizes.tied and sizes.embedding_type in repacked else 0
    return copied, max(0, copied - shared)


def _generating(sizes: ModelSizes, load: Load, cells: int, flash: bool | None) -> tuple[int, int]:
    """Return the bytes of the cache and of computing, for a model that generates text. ``flash``
    is as for :func:`estimate`."""
    tokens = min(_UBATCH, max(load.batch_size, load.parallel))
    if flash is None:
        fixed = fixed_choice(load, context_of(sizes, load), tokens, sizes.heads)
        flash = fixed is not None and fixed.on
    slot = cache_of(sizes, load, cells, flash) + _FLOAT * sizes.state
    # llama.cpp reserves memory for the logits of all tokens, but computes only those of tokens
    # that are sampled.
    logits = 2 * _FLOAT * load.parallel * sizes.vocabulary
    narrow_cells = _window_cells(sizes, load, cells) if sizes.window else 0
    step = _step(sizes, min(tokens, cells), cells, narrow_cells, flash)
    return load.parallel * slot, step + logits


def _window_cells(sizes: ModelSizes, load: Load, cells: int) -> int:
    """Return how many of a slot's cells the layers with a sliding window have."""
    if load.swa_full or not sizes.window:
        return cells
    held = sizes.window + min(_UBATCH, max(load.batch_size, load.parallel))
    return min(cells, held + -held % _CELLS)


def _checkpoints(sizes: ModelSizes, load: Load, cells: int) -> int:
    """Return the bytes of all checkpoints when the contexts of all slots are full."""
    state = _FLOAT * sizes.state
    if _window_cells(sizes, load, cells) < cells:
        state += bytes_of(load.kv_type_k, sizes.window_keys * sizes.window)
        state += bytes_of(load.kv_type_v, sizes.window_values * sizes.window)
    most = context_of(sizes, load) // max(_INTERVAL, sizes.window) + 1
    return min(load.checkpoints_mb * MIB, load.parallel * most * state)


def cache_of(sizes: ModelSizes, load: Load, cells: int, flash: bool) -> int:
    """Return the bytes of so many cells. Flash attention needs no padding of the values."""
    values = sizes.values if flash else sizes.padded_values
    narrow = sizes.window_values if flash else sizes.window_padded
    spared = cells - _window_cells(sizes, load, cells)
    return bytes_of(load.kv_type_k, sizes.keys * cells - sizes.window_keys * spared) + bytes_of(
        load.kv_type_v, values * cells - narrow * spared
    )


def _embedding(sizes: ModelSizes, load: Load, cells: int) -> tuple[int, int]:
    """Return the same for a model that computes embeddings or scores. Its inputs share one context,
    and all tokens have results."""
    context = context_of(sizes, load)
    rows = max(_LEAST_BATCH, _MAX_LOGITS // (_FLOAT * max(1, sizes.vocabulary)))
    tokens = context if sizes.whole else min(load.batch_size, _UBATCH, rows, context)
    fixed = fixed_choice(load, context, tokens, sizes.heads, values=PLAIN)
    flash = fixed is not None and fixed.on
    cache = _HALF * (sizes.keys + sizes.values) * cells if sizes.causal else 0
    # llama.cpp keeps room for logits even where there are none.
    results = _FLOAT * tokens * ((2 if sizes.causal else 1) * sizes.vocabulary + sizes.width)
    return cache, _step(sizes, tokens, cells, cells if sizes.window else 0, flash) + results


def _step(sizes: ModelSizes, tokens: int, cells: int, narrow: int, flash: bool) -> int:
    """Return the bytes that computing a full context touches, without the logits. ``narrow``: cells
    of the layers with a sliding window."""
    masks = (_FLOAT + (_HALF if flash else 0)) * (cells + narrow) * tokens
    # Each score is also converted to half precision.
    scores = 0 if flash else (_FLOAT + _HALF) * cells * tokens * sizes.heads
    states = _FLOAT * tokens * (3 * sizes.width + 2 * sizes.queries)
    # The inputs of a matrix are also converted, to 8 bits or half precision.
    layer = tokens * (_FLOAT * (2 * sizes.hidden + 3 * sizes.width) + _HALF * sizes.hidden)
    return masks + max(scores + states, layer)
