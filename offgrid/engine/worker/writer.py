"""Writes reports and events to the server, from any thread."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import BinaryIO

from offgrid.engine.protocol.events import EngineEvent, Failed
from offgrid.engine.protocol.frames import FrameTooLarge, encode_frame
from offgrid.engine.protocol.reports import Report, Step
from offgrid.errors import EngineFault

log = logging.getLogger(__name__)


class Writer:
    """Writes whole frames to the server, one thread at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.give_up: Callable[[int], None] = lambda id: None
        """Called with the id of a request whose event does not fit into a frame."""

    def send(self, report: Report) -> None:
        """Write one report. If the server has ended, this process ends too.

        Raises:
            FrameTooLarge: nothing was written.
        """
        frame = encode_frame(report)
        with self._lock:
            try:
                self._stream.write(frame)
                self._stream.flush()
            except OSError:
                os._exit(0)

    def events(self, events: tuple[EngineEvent, ...]) -> None:
        """Write events in one frame, or in several if one would be too large. An event that alone
        is too large for a frame ends its request, and no other."""
        try:
            self.send(Step(events))
        except FrameTooLarge as ex:
            if len(events) > 1:
                half = len(events) // 2
                self.events(events[:half])
                self.events(events[half:])
                return
            id = events[0].id
            log.error("the answer to request %d: %s", id, ex)
            self.give_up(id)
            error = EngineFault("The answer is too large to be sent to the server.")
            self.events((Failed.of(id, error),))
