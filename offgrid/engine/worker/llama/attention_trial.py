"""Decides by measurement whether a loaded model is computed with flash attention."""

from __future__ import annotations

import logging
import time

import llama_cpp.llama_cpp as lc

from offgrid.engine.attention import Choice
from offgrid.engine.memory import MIB
from offgrid.engine.worker.attention_choice import STREAMS, Case, cases_of, choose, needs_flash
from offgrid.engine.worker.llama.attention import (
    WEIGHTS,
    Shape,
    measure_attention,
    measure_rest,
)
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.ggml import GgmlMissing
from offgrid.engine.worker.llama.kv_types import GGML_TYPES, Metadata
from offgrid.engine.worker.llama.weights import Weights, set_attention

log = logging.getLogger(__name__)

_SMALL = 64 * MIB
"""A model with fewer bytes of weights computes a step in a millisecond or two; it is not measured,
and has no flash attention, which is slow for its small heads."""
_LARGE = 512 * MIB
"""A model with more bytes of weights would take long to measure. A step of it takes as long as
reading its weights once."""
_BANDWIDTH = 10e9
"""Bytes of weights that a thread multiplies with in a second."""
_MORE_ROWS = 1.5
"""A step of four rows takes so many times as long as a step of one."""
_REST_CELLS = 256


def measured_attention(weights: Weights) -> Choice:
    """Return the better way for a model, for which :func:`fixed_choice` leaves both open."""
    if int(lc.llama_model_size(weights.pointer)) < _SMALL:
        return Choice(False, "the model is small")
    shape = shape_of(weights)
    if shape is None:
        return Choice(True, "attention of this kind is not measured")
    contexts = sorted(case for case in WEIGHTS if case[0] <= weights.n_ctx)
    if not contexts:
        return Choice(True, "the context is short")
    began = time.monotonic()
    try:
        rest = measured_rest(weights)
        # If the shortest context needs flash attention, the others change nothing.
        cases = measured_cases(weights, shape, rest, contexts[:1])
        if not needs_flash(cases):
            cases = measured_cases(weights, shape, rest, contexts)
        choice = choose(cases)
    except (GgmlMissing, MemoryError, LoadError) as ex:
        log.debug("attention cannot be measured: %s", ex)
        return Choice(True, "the measurement failed")
    log.debug("attention was measured in %.2f s", time.monotonic() - began)
    return choice


def measured_cases(
    weights: Weights, shape: Shape, rest: dict[int, float], contexts: list[tuple[int, int]]
) -> list[Case]:
    """Return the times of steps with flash attention and without.

    Args:
        weights: the model.
        shape: of its attention.
        rest: times of everything else (:func:`measured_rest`); if it is empty, so is the result.
        contexts: contexts and rows of the cases.

    Raises:
        GgmlMissing, MemoryError: nothing can be measured.
    """
    if not rest:
        return []
    return cases_of(
        measure_attention(shape, contexts), rest, WEIGHTS,
        layers=shape.layers, threads=weights.n_threads, streams=weights.n_parallel,
    )  # fmt: skip


def shape_of(weights: Weights) -> Shape | None:
    """Return the shape of a model's attention; None if it is not the same in all layers, or has
    parts that :mod:`~offgrid.engine.worker.llama.attention` does not compute."""
    model, metadata = weights.pointer, Metadata(weights.pointer)
    heads, kv_heads = int(lc.llama_model_n_head(model)), int(lc.llama_model_n_head_kv(model))
    keys, values = metadata.head_sizes("key_length"), metadata.head_sizes("value_length")
    if weights.recurrent or metadata.has_one_cache or not heads or not kv_heads:
        return None
    if heads % kv_heads:  # ggml would end the process
        return None
    return Shape(
        layers=int(lc.llama_model_n_layer(model)),
        heads=heads,
        kv_heads=kv_heads,
        key=keys[0],
        value=values[0],
        type_k=GGML_TYPES[weights.load.kv_type_k],
        type_v=GGML_TYPES[weights.load.kv_type_v],
    )


def measured_rest(weights: Weights) -> dict[int, float]:
    """Return the seconds of one thread for a step without attention: number of rows -> seconds.

    Raises:
        LoadError: no context can be created.
    """
    size = int(lc.llama_model_size(weights.pointer))
    if size > _LARGE:
        seconds = size / _BANDWIDTH
        return {1: seconds, STREAMS: _MORE_ROWS * seconds}
    params = lc.llama_context_default_params()
    params.n_ctx = _REST_CELLS
    params.n_batch = params.n_ubatch = STREAMS
    params.n_seq_max = 1
    set_attention(params, Choice(True, ""))
    context = weights.new_context(params)
    try:
        return measure_rest(context, weights.n_vocab)
    finally:
        lc.llama_free(context)
