"""The generations of one HTTP request, as one stream of deltas."""

from __future__ import annotations

import contextlib
import enum
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from offgrid.api.fields.bounds import bounds
from offgrid.api.http.meter import meter
from offgrid.api.shapes import Json
from offgrid.api.timings import Clock
from offgrid.engine.client.client import ClientGone, EngineClient, Generation
from offgrid.engine.client.pending import POLL
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest
from offgrid.errors import Overloaded

WINDOW = 2
"""Sequences of one request that have places in the queue, as a multiple of the slots: enough that
no slot waits for the next prompt."""


class Signal(enum.Enum):
    """Control values yielded between deltas, or between the chunks made of them; never sent."""

    MAY_BLOCK = enum.auto()
    """The next step may block: only the stream's own thread may resume."""


class GenerationGroup:
    """Several generations, one for each prompt; if one fails, all are cancelled.

    :data:`WINDOW` limits how many have places in the queue at a time: the next prompt takes the
    places of one that has ended. So a long list of prompts leaves places to other requests, and is
    never refused half way.

    Args:
        engine: the model.
        requests: one for each prompt, all with the same ``n``.
        alive: whether the client is still connected.

    The first prompts are accepted when the constructor returns. If it raises, nothing is left
    running.
    """

    def __init__(
        self,
        engine: EngineClient,
        requests: Sequence[GenerationRequest],
        alive: Callable[[], bool],
    ) -> None:
        self.alive = alive
        self.n = requests[0].n
        self.keep_alive: object = None
        """An unfinished :meth:`deltas`, held so that it is not collected: its finalisation calls
        :meth:`cancel`, which writes to the worker, and the collector may run in any thread."""
        self._engine = engine
        self._patience: float = POLL
        self._bell = threading.Event()
        """Set when there may be new deltas."""
        self._ring: Callable[[], None] | None = self._bell.set
        self._listener: Callable[[], None] | None = self._ring
        self._to_come = deque(enumerate(requests))
        self._accepted: list[Generation] = []
        self._active: list[tuple[int, Generation]] = []
        """Replaced and never changed in place: other threads read it."""
        self._lock = threading.Lock()  # a stream may be closed while another thread reads it
        # The request is charged for its tokens, and counts as running until cancel().
        self._meter = meter()
        self._leave = self._meter.hold()
        self._bounds = bounds()
        self._in_time = self._bounds.within(alive)
        self._ended_tokens = 0
        """Tokens of the answers to prompts that have ended."""
        self._charged_tokens = 0
        self._window = max(1, WINDOW * engine.load.parallel // self.n)
        self._owner = requests[0].owner
        self._held = 0
        """Number of prompts that have places in the queue."""
        try:
            self._held = engine.hold(self.n, min(self._window, len(requests)), owner=self._owner)
            self._submit()
        except BaseException:
            self.cancel()
            raise

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all accepted prompts."""
        return sum(generation.prompt_tokens for generation in self._accepted)

    def prompt_text(self, prompt: int) -> str:
        """Text of a prompt that was given as token ids, or of an infill, if its request asks for
        it."""
        return self._accepted[prompt].prompt_text

    def prompt_cut(self, prompt: int) -> bool:
        """Whether a part of a prompt for filling in was left out."""
        return self._accepted[prompt].cut

    def prompt_length(self, prompt: int) -> int:
        """Tokens of one prompt."""
        return self._accepted[prompt].prompt_tokens

    @property
    def seed(self) -> int:
        """The seed in force for the first prompt."""
        return self._accepted[0].seed

    def deltas(self) -> Iterator[tuple[int, Delta] | Signal | None]:
        """Yield ``(choice index, delta)`` until every choice has ended; None if none came lately.

        The index counts over all prompts: prompt number times ``n`` plus choice. A mark says that
        the next prompts are about to be submitted.

        Raises:
            RequestError: a generation failed or waited too long; the others are cancelled.
            ClientGone: the client left; all generations are cancelled.
        """
        try:
            while self._active or self._to_come:
                if self._to_come and len(self._active) < self._held:
                    yield Signal.MAY_BLOCK
                    self._submit()
                self._bell.clear()
                idle = True
                for prompt, generation in self._active:
                    for delta in generation.next(0.0) or ():
                        idle = False
                        yield prompt * self.n + delta.choice, delta
                    self._drop_if_finished(generation)
                self._charge()
                # Check in every round: nothing is written to a client that waits for a whole
                # answer, so no failing write would show that it has left.
                if self._active and self._patience:
                    self._check()
                if idle and not (self._patience and self._bell.wait(self._patience)):
                    yield None
        finally:
            self.cancel()

    def by_prompt(self) -> Iterator[tuple[int, Delta]]:
        """Yield the same pairs as :meth:`deltas`, those of each prompt after its end.

        So this thread does not wake for every token. Raises the same errors as :meth:`deltas`.
        """
        self._ring = None
        self.listen(None)
        try:
            while self._active or self._to_come:
                self._submit()
                self._bell.clear()
                for prompt, generation in self._active:
                    while generation.ended and not generation.finished:
                        for delta in generation.next(0.0) or ():
                            yield prompt * self.n + delta.choice, delta
                    self._drop_if_finished(generation)
                self._charge()
                self._check()
                if self._active and not any(g.ended for _, g in self._active):
                    self._bell.wait(POLL)
        finally:
            self.cancel()

    def _submit(self) -> None:
        """Submit the prompts that have places in the queue, and wait until they are accepted."""
        more = min(self._window, len(self._active) + len(self._to_come)) - self._held
        if more > 0:
            with contextlib.suppress(Overloaded):
                held = self._engine.hold(self.n, more, more=True, owner=self._owner)
                with self._lock:
                    self._held += held
        while self._to_come and len(self._active) < self._held:
            prompt, request = self._to_come.popleft()
            generation = self._engine.submit(
                request, self._in_time, held=True, ended=self._bell.set
            )
            generation.listener = self._listener
            self._accepted.append(generation)
            self._active = [*self._active, (prompt, generation)]
            self._meter.prompt(generation.prompt_tokens)

    def _release(self, prompts: int) -> None:
        with self._lock:
            prompts = min(prompts, self._held)
            self._held -= prompts
        self._engine.release(self.n * prompts, self._owner)

    def _drop_if_finished(self, generation: Generation) -> None:
        if generation.finished:
            with self._lock:
                self._active = [pair for pair in self._active if pair[1] is not generation]
                self._ended_tokens += generation.completion_tokens
            if self._held > len(self._active) + len(self._to_come):
                self._release(1)

    def _charge(self) -> None:
        """Charge the tokens that have been generated since the last call."""
        if not self._meter.counts_tokens:
            return
        with self._lock:
            tokens = self._ended_tokens + sum(g.completion_tokens for _, g in self._active)
            more, self._charged_tokens = tokens - self._charged_tokens, tokens
        if more:
            self._meter.charge(more)

    @property
    def lost(self) -> bool:
        """Whether the client left or the request took too long; :meth:`deltas` will raise it."""
        return not self.alive() or self._overdue or self._bounds.late

    @property
    def _overdue(self) -> bool:
        """Whether the first prompt waits too long for a slot. The later ones may wait longer."""
        return self._accepted[0].overdue

    def _check(self) -> None:
        if not self.alive():
            raise ClientGone
        self._bounds.check_time()
        if self._overdue:
            raise Overloaded(
                "No slot became free in time; try again later.",
                code="server_busy",
                retry_after=self._engine.turnover.retry_after(self._engine.capacity),
            )

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, :meth:`deltas` never waits, and does not check whether the client has left."""
        self._patience = 0.0
        try:
            yield
        finally:
            self._patience = POLL

    @property
    def waits(self) -> str:
        """Why no token has come yet, in words: the place in the queue, or the progress of prefill;
        empty if that is not known, or if tokens have come."""
        generation = self._active[0][1] if self._active else None
        queued = None if generation is None else generation.queued
        if generation is None or queued is None or generation.answering:
            return ""
        if not queued.position:
            return f"prefill {queued.processed} of {generation.prompt_tokens}"
        seconds = self._engine.turnover.seconds(queued.position)
        about = "" if seconds is None else f", about {max(1, round(seconds))} s"
        return f"queued {queued.position} of {queued.waiting}{about}"

    @property
    def failed(self) -> bool:
        """Whether a generation has failed; :meth:`deltas` will raise its error."""
        return any(generation.failed for _, generation in self._active)

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Set the function to call when new deltas arrive, on the thread that brings them."""
        self._listener = listener or self._ring
        for _, generation in self._active:
            generation.listener = self._listener

    def end(self, index: int) -> None:
        """Let the engine end a choice now; the index counts as in :meth:`deltas`. Its last delta
        follows, possibly after others that were on their way. Never waits."""
        prompt, choice = divmod(index, self.n)
        self._accepted[prompt].end(choice)

    def cancel(self) -> None:
        """Cancel running generations and drop prompts not yet submitted. Idempotent."""
        self._to_come.clear()
        for _, generation in self._active:
            generation.cancel()
        self._charge()
        self._release(self._held)
        self._leave()


class Total:
    """Counts completion tokens of all choices, and adds up their times."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}
        self._predicted: dict[int, tuple[int, int]] = {}
        """Choice -> accepted and rejected tokens of the prediction."""
        self._cached = 0
        self._clock = Clock()

    def add(self, index: int, delta: Delta) -> None:
        """Count the tokens of a delta."""
        if delta.progress is not None:
            return
        self._clock.add(index, delta)
        # Count each prompt's cached tokens once, from its first choice.
        if index not in self._tokens and delta.choice == 0:
            self._cached += delta.cached_tokens
        self._tokens[index] = delta.completion_tokens
        if delta.prediction_accepted or delta.prediction_rejected:
            self._predicted[index] = (delta.prediction_accepted, delta.prediction_rejected)

    @property
    def begun(self) -> bool:
        """Whether a token has come."""
        return any(self._tokens.values())

    def timings(self, prompt_tokens: int) -> Json:
        """The ``timings`` object of llama-server."""
        return self._clock.timings(prompt_tokens, self._cached, [*self._tokens.values()])

    def usage(self, prompt_tokens: int) -> dict[str, object]:
        """The ``usage`` object of the API."""
        completion_tokens = sum(self._tokens.values())
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": sum(pair[0] for pair in self._predicted.values()),
                "rejected_prediction_tokens": sum(pair[1] for pair in self._predicted.values()),
            },
        }
