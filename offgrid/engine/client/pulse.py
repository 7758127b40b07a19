"""What a worker has last said about itself. Every question about it is answered from here, so that
no caller waits for a worker, or for a lock that requests hold."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from offgrid.engine.protocol.reports import Figures, Pong

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Beat:
    """An answer to a ping.

    Attributes:
        at: when it came, in seconds of the supervisor's clock.
        running: sequences with a slot.
        waiting: sequences without one.
        busy_for: seconds that the loop had been in its step.
        figures: what the worker has counted.
    """

    at: float
    running: int
    waiting: int
    busy_for: float
    figures: Figures


class Pulse:
    """The answers of one worker in the last minute. One thread writes, any thread reads."""

    def __init__(self) -> None:
        self._beats: deque[Beat] = deque(maxlen=int(MINUTE) + 1)
        self._latest: Beat | None = None
        self._number = -1
        """Of the ping that was answered last."""
        self._began = 0.0

    def begin(self, now: float) -> None:
        """Note that a worker was started."""
        self.end()
        self._began = now

    def end(self) -> None:
        """Note that the worker has ended: what it said holds no longer."""
        self._beats = deque(maxlen=self._beats.maxlen)
        self._latest, self._number = None, -1

    def heard(self, now: float, pong: Pong) -> None:
        """Note an answer. Only the first one to each of the regular pings counts for the minute."""
        beat = Beat(now, pong.running, pong.waiting, pong.busy_for, pong.figures)
        if pong.number != self._number:
            self._number = pong.number
            self._beats.append(beat)
        self._latest = beat

    @property
    def latest(self) -> Beat | None:
        """The latest answer; None before the first."""
        return self._latest

    def without_progress(self, now: float) -> float:
        """Return for how many seconds the worker has neither ended a step nor been idle, as far
        as is known. One that does not answer makes no progress."""
        beat = self.latest
        return now - self._began if beat is None else now - beat.at + beat.busy_for

    def throughput(self, now: float) -> tuple[float, float]:
        """Return the tokens of prompts and of answers that the worker has computed per second, in
        the last minute."""
        beats = [beat for beat in tuple(self._beats) if now - beat.at <= MINUTE]
        if len(beats) < 2:
            return 0.0, 0.0
        first, last = beats[0], beats[-1]
        seconds = max(last.at - first.at, 1e-9)
        prefilled = last.figures.prefilled - first.figures.prefilled
        return prefilled / seconds, (last.figures.generated - first.figures.generated) / seconds
