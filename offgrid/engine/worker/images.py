"""Images of running sequences: encoded while streams continue, then decoded into their slots."""

from __future__ import annotations

import logging

from offgrid.engine.worker.encoder import Encoder
from offgrid.engine.worker.failures import Failures
from offgrid.engine.worker.image import ImageSpan
from offgrid.engine.worker.llama.errors import DecodeError
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.progress import report_prefill
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Sequence, Status
from offgrid.errors import EngineFault

log = logging.getLogger(__name__)


class Images:
    """Computes at most one image per step, because each needs a separate decode."""

    def __init__(
        self, model: Model, scheduler: Scheduler[Sequence], failures: Failures, outbox: Outbox
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._failures = failures
        self._outbox = outbox
        self._encoder = Encoder(model.encode)

    def step(self, seconds: float) -> None:
        """Decode an image that is encoded, or have the next one encoded.

        Args:
            seconds: how long to wait for the encoder.

        Raises:
            EngineBroken: see :meth:`Failures.count`.
        """
        waiting = [
            (sequence, span)
            for sequence in self._scheduler.running
            if sequence.images and sequence.status is Status.PREFILL
            if (span := sequence.next_image) is not None
        ]
        if not waiting:
            return
        started = self._encoder.tile
        sequence, span = next((w for w in waiting if w[1].tile is started), waiting[0])
        try:
            embeddings = self._encoder.take(span.tile, seconds)
        except Exception as ex:  # encoding does not touch the model's memory
            self._fail(sequence, ex)
            return
        if embeddings is None:
            return
        start = sequence.position(span.start)
        self._outbox.push()  # what is held may not wait so long
        try:
            self._model.decode_image(span.tile, embeddings, sequence.slot, start)
        except DecodeError as ex:
            self._after_decode(sequence, span, ex)
            return
        self._failures.reset()
        self._scheduler.record_image(sequence, span.end)
        report_prefill(sequence, self._outbox)

    def _after_decode(self, sequence: Sequence, span: ImageSpan, error: DecodeError) -> None:
        """Let another step try the image again if that may help, else end its request."""
        slot = sequence.slot
        start = sequence.position(span.start)
        can_retry = error.no_room and self._scheduler.can_cut
        if can_retry and self._model.cut(slot, start) and self._failures.make_room():
            log.error("an image of request %s is tried again: %s", sequence.name, error)
            return
        self._fail(sequence, error)
        self._model.forget(slot)
        self._scheduler.forget(slot)
        self._failures.count(error)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        log.error("an image of request %s failed: %s", sequence.name, error)
        fault = EngineFault("The model failed to compute an image.")
        self._failures.fail(sequence.request_id, fault)
        self._outbox.push()  # at once, because there may be no further step
