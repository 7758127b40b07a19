"""Where the rows of logits of a decoded span are."""

from __future__ import annotations

from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.sequence import Sequence
from offgrid.engine.worker.spans import BatchSpan


class SpanRows:
    """The rows of a decoded span that are still needed.

    Args:
        model: has just decoded the span.
        span: the span.
        end: batch index of its last token.
        stop: index of the first token in the sequence whose row is not needed.

    Attributes:
        sequence: the sequence.
        indices: the indices of the tokens in it whose rows are needed.
        addresses: the addresses of these rows, valid until the next decode.
    """

    def __init__(self, model: Model, span: BatchSpan[Sequence], end: int, stop: int) -> None:
        self.sequence = span.sequence
        self._model = model
        last = span.start + span.count
        self.indices = range(max(span.start, span.sequence.wanted_from), min(last, stop))
        self.addresses = [model.logits(end - (last - 1 - index)) for index in self.indices]
