"""The rows of branches, read in float64."""

from __future__ import annotations

import ctypes
import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.worker.branching import END
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.sequence import Sequence
from offgrid.engine.worker.span_rows import SpanRows
from offgrid.engine.worker.spans import BatchSpan
from offgrid.errors import SamplingError


class BranchRows(SpanRows):
    """The rows of a decoded span of a sequence with branches."""

    def __init__(self, model: Model, span: BatchSpan[Sequence], end: int) -> None:
        super().__init__(model, span, end, len(span.sequence))

    def read(self) -> None:
        """Read them. Call it before the next decode.

        Raises:
            SamplingError: a row of logits is unusable.
        """
        branching = self.sequence.branching
        assert branching is not None
        for index, address in zip(self.indices, self.addresses, strict=True):
            branching.read(index - self.sequence.n_prompt, partial(self._logprobs, address))

    def _logprobs(self, address: int, tokens: list[int]) -> list[float]:
        n_vocab = self._model.n_vocab
        row = np.ctypeslib.as_array((ctypes.c_float * n_vocab).from_address(address))
        return logprobs(row, tokens, self._model.eog_ids)


def logprobs(row: NDArray[np.float32], tokens: list[int], ends: frozenset[int]) -> list[float]:
    """Return the log-softmax of a row at some tokens, in float64. The probability of
    :data:`~offgrid.engine.worker.branching.END` is that of all end tokens together.

    Raises:
        SamplingError: the row holds NaN or +infinity, or nothing but -infinity.
    """
    top = float(row.max())
    if not math.isfinite(top):
        raise SamplingError("the logits are not finite", code="bad_logits")
    exact = row.astype(np.float64)
    exact -= top
    weights = np.exp(exact)
    total = math.log(float(weights.sum()))
    found = []
    for token in tokens:
        if token == END:
            weight = math.fsum(float(weights[end]) for end in ends)
            found.append(math.log(weight) - total if weight > 0 else -math.inf)
        else:
            found.append(float(exact[token]) - total)
    return found
