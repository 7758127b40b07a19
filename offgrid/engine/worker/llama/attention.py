"""Measures a model's attention with and without flash attention, without filling a context.

The two ways differ in the operations on keys and values only, so these are timed alone, on tensors
of the model's shape. That takes a tenth of a second for any model, while filling a context would
take as long as the prompt. What both ways have in common, :func:`measure_rest` times once.

Each operation is computed by one thread, and its processor time counts: on a busy machine, threads
that wait for each other would measure the neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import llama_cpp.llama_cpp as lc
import numpy as np

from offgrid.engine.worker.attention_choice import STREAMS
from offgrid.engine.worker.llama.batch import Batch
from offgrid.engine.worker.llama.ggml import F16, F32, I64, Graph

PREFILL_ROWS = 64
"""Tokens of the chunk of a prompt that is measured: more would take longer, and as long each."""
WEIGHTS = {
    (64, 1): 3.0, (256, 1): 3.0, (1024, 1): 3.0, (4096, 1): 1.0,
    (512, PREFILL_ROWS): 1.0, (1536, PREFILL_ROWS): 1.0,
}  # fmt: skip
"""What is measured: tokens of context and rows, and how often steps are about like that."""
_PAD = 256
"""llama.cpp computes scores for a multiple of this (``llama_kv_cache::get_n_kv``)."""
_ROUNDS, _PREFILL_ROUNDS, _REST_ROUNDS = 4, 2, 2
_MAX_BYTES = 24 << 20
"""Most bytes of keys and values of a graph. The graphs together do not fit into the caches of usual
processors."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the time of a model's attention.

    Attributes:
        layers, heads, kv_heads: numbers of layers, of heads, and of heads of keys and values.
        key, value: sizes of a head's key and value.
        type_k, type_v: their types (``enum ggml_type``).
    """

    layers: int
    heads: int
    kv_heads: int
    key: int
    value: int
    type_k: int = F16
    type_v: int = F16


class Attention:
    """The attention of several layers over ``context`` tokens, for the last ``rows`` of them.

    Attributes:
        graph: computes all layers.
        query, keys, values, result: tensors of the last layer.
    """

    def __init__(
        self, shape: Shape, context: int, rows: int, cells: int, *, flash: bool, layers: int
    ) -> None:
        self._shape, self._rows, self._cells = shape, rows, cells
        self.layers = layers
        padded = min(cells, -(-context // _PAD) * _PAD)
        kind = F16 if flash else F32
        heads = shape.kv_heads
        # Room for keys, values, queries, scores and results, and for what is converted.
        size = layers * (
            4 * heads * (shape.key + shape.value) * (cells + 4 * rows)
            + 4
            * shape.heads
            * rows
            * (6 * (shape.key + shape.value) + (0 if flash else 4 * padded))
        )
        self.graph = graph = Graph(size + 16 * padded * rows + (8 << 20))
        mask = graph.tensor(kind, padded, rows)
        hidden = graph.data(mask).view(np.float16 if flash else np.float32).reshape(rows, padded)
        for row in range(rows):
            hidden[row, max(1, context - rows + row + 1) :] = -np.inf
        for _ in range(layers):
            self.query = graph.tensor(F32, shape.key, rows, shape.heads)
            self.keys, keys = self._heads_of(shape.type_k, shape.key, padded)
            attend = self._flash if flash else self._scores
            self.result = attend(self.query, keys, mask, padded)
            graph.compute_for(self.result)

    def _heads_of(self, kind: int, size: int, padded: int) -> tuple[int, int]:
        """Return cells, and a view of those that are filled, as llama.cpp lays out keys."""
        graph, heads = self.graph, self._shape.kv_heads
        cells = graph.tensor(kind, size * heads, self._cells)
        graph.data(cells)[: graph.row_size(kind, size * heads) * padded] = 0  # so that it is there
        row, head = graph.row_size(kind, size * heads), graph.row_size(kind, size)
        view = graph.op(
            "view_4d", cells, size, heads, padded, 1, head, row, row * self._cells, 0
        )  # fmt: skip
        return cells, graph.op("permute", view, 0, 2, 1, 3)

    def _flash(self, query: int, keys: int, mask: int, padded: int) -> int:
        graph, shape = self.graph, self._shape
        self.values, values = self._heads_of(shape.type_v, shape.value, padded)
        width = shape.value * shape.kv_heads
        new, at = graph.tensor(F32, width, self._rows), graph.tensor(I64, self._rows)
        graph.data(at).view(np.int64)[:] = np.arange(self._rows)
        # llama.cpp converts whole caches of single precision in every step.
        if shape.type_k == F32:
            keys = graph.op("cast", keys, F16)
        if shape.type_v == F32:
            values = graph.op("cast", values, F16)
        store = graph.tensor(shape.type_v, width, self._rows)
        graph.compute_for(graph.op("set_rows", store, new, at))
        return graph.op(
            "flash_attn_ext", query, keys, values, mask, shape.key**-0.5, 0.0, 0.0
        )  # fmt: skip

    def _scores(self, query: int, keys: int, mask: int, padded: int) -> int:
        """Without flash attention, the values of one element of all cells are neighbours."""
        graph, shape = self.graph, self._shape
        heads, rows, cells = shape.kv_heads, self._rows, self._cells
        self.values = whole = graph.tensor(shape.type_v, cells, shape.value * heads)
        filled = graph.data(whole).reshape(shape.value * heads, -1)
        filled[:, : graph.row_size(shape.type_v, padded)] = 0
        width = shape.value * heads
        at = graph.tensor(I64, rows * width)
        places = np.arange(width) * cells + np.arange(rows)[:, None]
        graph.data(at).view(np.int64)[:] = places.ravel()
        single = graph.op("reshape_2d", whole, 1, cells * width)
        graph.compute_for(
            graph.op("set_rows", single, graph.tensor(F32, 1, rows * width), at)
        )  # fmt: skip
        line = graph.row_size(shape.type_v, cells)
        values = graph.op(
            "view_4d", whole, padded, shape.value, heads, 1, line, line * shape.value,
            line * width, 0,
        )  # fmt: skip
        scores = graph.op("mul_mat", keys, query)
        scores = graph.op("soft_max_ext", scores, mask, shape.key**-0.5, 0.0)
        result = graph.op("permute", graph.op("mul_mat", values, scores), 0, 2, 1, 3)
        return graph.op("cont_2d", result, shape.value * shape.heads, rows)

    def seconds(self, clock: Callable[[], float]) -> float:
        """Return the time of one layer, in seconds."""
        began = clock()
        self.graph.compute(1)
        return (clock() - began) / self.layers


def measure_attention(
    shape: Shape, cases: Iterable[tuple[int, int]], clock: Callable[[], float] = time.thread_time
) -> dict[tuple[int, int], tuple[float, float]]:
    """Return the seconds of one thread for all layers: (context, rows) -> (on, off).

    Args:
        shape: of the model's attention.
        cases: the contexts and rows.
        clock: counts seconds of this thread's processor time.

    Raises:
        GgmlMissing: nothing can be measured on this system.
    """
    cases = [*cases]
    streams = [case for case in cases if case[1] == 1]
    prompts = [case for case in cases if case[1] > 1]
    return _measure(shape, streams, _ROUNDS, clock) | _measure(
        shape, prompts, _PREFILL_ROUNDS, clock
    )


def measure_rest(context: lc.llama_context_p, n_vocab: int) -> dict[int, float]:
    """Return the seconds of one thread for a step with hardly any context: number of rows ->
    seconds; empty if the model cannot be computed.

    Args:
        context: an empty context of one slot, with room for a few dozen tokens.
        n_vocab: size of the vocabulary.
    """
    batch = Batch(STREAMS, 1, n_vocab)
    found: dict[int, float] = {}
    position = 0
    lc.llama_set_n_threads(context, 1, 1)
    for _ in range(_REST_ROUNDS):
        for rows in (1, STREAMS):
            batch.clear()
            batch.add(0, position, np.zeros(rows, dtype=np.int32), rows)
            began = time.thread_time()
            if lc.llama_decode(context, batch.struct()) != 0:
                return {}
            lc.llama_synchronize(context)
            seconds = time.thread_time() - began
            found[rows] = min(seconds, found.get(rows, seconds))
            position += rows
    return found


def _measure(
    shape: Shape, cases: list[tuple[int, int]], rounds: int, clock: Callable[[], float]
) -> dict[tuple[int, int], tuple[float, float]]:
    """The ways and cases take turns, so that each finds its keys and values in memory, not in the
    processor's cache, as after the weights of a step."""
    graphs: dict[tuple[int, int, bool], Attention] = {}
    cells = -(-max(context for context, _ in cases) // _PAD) * _PAD if cases else 0
    try:
        for context, rows in cases:
            size = 2 * shape.kv_heads * (shape.key + shape.value) * cells
            layers = 1 if rows > 1 else max(1, min(shape.layers, _MAX_BYTES // size))
            for flash in (True, False):
                graphs[context, rows, flash] = Attention(
                    shape, context, rows, cells, flash=flash, layers=layers
                )
        times: dict[tuple[int, int, bool], float] = {}
        for _ in range(rounds):
            for key, graph in graphs.items():
                seconds = graph.seconds(clock)
                times[key] = min(seconds, times.get(key, seconds))
    finally:
        for graph in graphs.values():
            graph.graph.close()
    return {
        (context, rows): (
            shape.layers * times[context, rows, True], shape.layers * times[context, rows, False],
        )
        for context, rows in cases
    }  # fmt: skip
