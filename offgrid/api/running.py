"""The generations of one HTTP request, as one stream of deltas."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from offgrid.engine.client import ClientGone, EngineClient, Generation
from offgrid.engine.protocol import Delta, GenerationRequest
from offgrid.errors import InvalidParameter, Overloaded

POLL = 0.1
"""Seconds between two looks at whether the client is still there."""


class Running:
    """Several generations (one for each prompt) that live and end together.

    Args:
        engine: the model.
        requests: one for each prompt, all with the same ``n``.
        alive: whether the client is still connected.

    The prompts are accepted when the constructor returns; its errors leave nothing running.
    """

    def __init__(
        self,
        engine: EngineClient,
        requests: Sequence[GenerationRequest],
        alive: Callable[[], bool],
    ) -> None:
        self.alive = alive
        self._patience: float = POLL
        self._generations: list[Generation] = []
        self.rest: object = None
        """Deltas that nobody wants: to drop an unfinished :meth:`deltas` is to :meth:`cancel`, and
        whoever drops it may be a thread that must not write to the worker."""
        self.n = requests[0].n
        total = self.n * len(requests)
        if total > engine.capacity:
            raise InvalidParameter(
                f"{len(requests)} prompts with n = {self.n} make {total} sequences; this server "
                f"takes {engine.capacity} at once.",
                "prompt" if len(requests) > 1 else "n",
            )
        try:
            for request in requests:
                self._generations.append(engine.submit(request, alive))
        except BaseException:
            self.cancel()
            raise

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(generation.prompt_tokens for generation in self._generations)

    def prompt_text(self, prompt: int) -> str:
        """Text of a prompt that was given as token ids, where its request asks for it."""
        return self._generations[prompt].prompt_text

    def prompt_length(self, prompt: int) -> int:
        """Tokens of one prompt."""
        return self._generations[prompt].prompt_tokens

    @property
    def seed(self) -> int:
        """The seed in force for the first prompt."""
        return self._generations[0].seed

    def deltas(self) -> Iterator[tuple[int, Delta] | None]:
        """Yield ``(choice index, delta)`` until every choice has finished, None when it is silent.

        The index counts over all prompts: prompt number times ``n`` plus choice.

        Raises:
            RequestError: a generation failed or waited too long; the others are cancelled.
            ClientGone: the client left; everything is cancelled.
        """
        try:
            waiting = list(enumerate(self._generations))
            while waiting:
                idle = True
                for prompt, generation in waiting:
                    # One generation can be waited for; several are looked at in turn.
                    deltas = generation.next(self._patience / len(waiting))
                    for delta in deltas or ():
                        idle = False
                        yield prompt * self.n + delta.choice, delta
                waiting = [(p, g) for p, g in waiting if not g.finished]
                # Asked in every round: whoever wants a whole answer is never written to before it.
                if waiting and self._patience:
                    self._check()
                if idle:
                    yield None
        finally:
            self.cancel()

    def wait(self) -> None:
        """Wait until :meth:`deltas` has everything, without being woken for every token.

        Raises:
            Overloaded: a generation waited too long; everything is cancelled.
            ClientGone: the client left; everything is cancelled.
        """
        try:
            for generation in self._generations:
                while not (generation.over.wait(POLL) or self.failed):
                    self._check()
        except BaseException:
            self.cancel()
            raise

    @property
    def lost(self) -> bool:
        """Whether there is no sense in going on, which :meth:`deltas` will say in its turn."""
        return not self.alive() or any(generation.overdue for generation in self._generations)

    def _check(self) -> None:
        if not self.alive():
            raise ClientGone
        if any(generation.overdue for generation in self._generations):
            raise Overloaded("No slot became free in time.", code="server_busy")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, :meth:`deltas` takes what is there and never waits, nor asks for the client."""
        self._patience = 0.0
        try:
            yield
        finally:
            self._patience = POLL

    @property
    def failed(self) -> bool:
        """Whether a generation has failed, which :meth:`deltas` will say in its turn."""
        return any(generation.failed for generation in self._generations)

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Have a function called, by the thread that brings them, when new deltas are there."""
        for generation in self._generations:
            generation.listener = listener

    def cancel(self) -> None:
        """End what still runs. Idempotent."""
        for generation in self._generations:
            generation.cancel()


class Total:
    """Counts completion tokens of all choices."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}
        self._cached = 0

    def add(self, index: int, delta: Delta) -> None:
        """Take in a delta."""
        # A prompt counts once, and so does what of it was there: the first choice tells.
        if index not in self._tokens and delta.choice == 0:
            self._cached += delta.cached_tokens
        self._tokens[index] = delta.completion_tokens

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
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


class Once:
    """Runs a function once, whoever asks first: the end of a stream comes from several sides."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            function, self._function = self._function, None
        if function is not None:
            function()
