"""The server's side of one model, as the API and the pool use it.

Nothing in this package imports llama.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from offgrid.engine.client.blame import Blame
from offgrid.engine.client.pending import (
    POLL,
    ClientGone,
    Embedding,
    Generation,
    Lookup,
    Vectors,
)
from offgrid.engine.client.places import Places
from offgrid.engine.client.pulse import Beat
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.client.requests import Requests
from offgrid.engine.client.supervisor import Supervisor
from offgrid.engine.client.turnover import Turnover
from offgrid.engine.client.watchdog import PING_EVERY
from offgrid.engine.context_length import check_prompt_tokens
from offgrid.engine.protocol.commands import Embed, Load, LookUp, Submit
from offgrid.engine.protocol.events import TokenResult
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.engine.protocol.requests import EmbeddingRequest, GenerationRequest, TokenQuery
from offgrid.record import label

__all__ = ["ClientGone", "EngineClient", "Generation", "LoadFailure"]


_LOOK = 0.002
"""Seconds between two looks for a worker's answer."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the settings of a model give to requests that do not set it.

    Attributes:
        system_prompt: put first into conversations without a system message.
        sampling: sampling parameters by name, with the values of the library.
        reasoning_budget: most tokens of reasoning in an answer; -1 for no limit.
    """

    system_prompt: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    reasoning_budget: int = -1


NO_DEFAULTS = Defaults()


class EngineClient:
    """A model that is served by one worker process.

    Args:
        load: the first command for the worker.
        name: the model's id, in messages and in answers.
        chat_template: replaces the templates of the model's file.
        defaults: what requests do not set themselves.
        pinned: whether the model stays loaded; it may change.
        needs: bytes of memory that it needs with full contexts, for the log; 0 if that is unknown.
        queue_size: sequences that may wait in addition to the ``load.parallel`` running ones.
        load_timeout: most seconds that loading may take.
        stall_timeout: most seconds that one step of the loop may take.
        queue_timeout: most seconds that a request may wait for its first slot; 0 for no limit.
        clock: monotonic seconds, to tell how long ago a worker died or last spoke.

    Attributes:
        capacity: most sequences that may run and wait.
        supervisor: starts the worker, watches it, and starts the next one.
        requests: the requests that have not ended.
        turnover: estimates how soon slots become free.
    """

    def __init__(
        self,
        load: Load,
        *,
        queue_size: int,
        load_timeout: float,
        stall_timeout: float,
        queue_timeout: float = 0.0,
        name: str = "",
        chat_template: str | None = None,
        defaults: Defaults = NO_DEFAULTS,
        pinned: bool = False,
        needs: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.load = load
        self.name = name
        self.defaults = defaults
        self.pinned = pinned
        self.queue_timeout = queue_timeout
        self.capacity = load.parallel + queue_size
        self._clock = clock
        self._readiness = Readiness(load_timeout, self.capacity, chat_template, name)
        self.turnover = Turnover(load.parallel, clock)
        self._places = Places(load.parallel, queue_size, self._readiness, self.turnover)
        self.requests = Requests(
            self._readiness, self._places, Blame(clock), self.turnover, name=name
        )
        self.supervisor = Supervisor(
            load,
            self._readiness,
            self.requests,
            load_timeout=load_timeout,
            stall_timeout=stall_timeout,
            name=name,
            needs=needs,
            clock=clock,
        )

    # --- start and end ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker in the background; :meth:`wait_ready` waits until it serves.

        Raises:
            Overloaded: the system cannot start a thread now. Nothing was started.
        """
        self.supervisor.start()

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Raises RuntimeError before the first :meth:`wait_ready`."""
        info = self._readiness.info
        if info is None:
            raise RuntimeError("the model is not loaded yet")
        return info

    @property
    def pid(self) -> int | None:
        """The worker's process id; None if there is no worker."""
        process = self._readiness.process
        return None if process is None else process.pid

    @property
    def threads(self) -> tuple[int, ...]:
        """Numbers of threads that compute decode and prefill now; empty if no worker serves."""
        return self._readiness.threads if self._readiness.ready else ()

    @property
    def latest(self) -> Beat | None:
        """What its worker has last said about itself; None if that has said nothing yet."""
        return self._readiness.pulse.latest

    def ask(self, seconds: float) -> Beat | None:
        """Ask the worker what it does now; return the latest that it has said.

        A worker that has not answered the regular pings either is not waited for, so that many who
        ask a stuck one do not fill the threads that also answer others.

        Args:
            seconds: how long to wait for the answer, at most.
        """
        before, deadline = self.latest, time.monotonic() + seconds
        if before is not None and self._clock() - before.at > PING_EVERY + seconds:
            return before
        self.supervisor.watchdog.ping(self.supervisor.watchdog.pings)
        while self.latest is before and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return self.latest

    @property
    def without_progress(self) -> float:
        """Seconds for which the worker has neither ended a step nor been idle, as far as known."""
        return self._readiness.pulse.without_progress(self._clock())

    @property
    def throughput(self) -> tuple[float, float]:
        """Tokens of prompts and of answers per second that the worker has computed in the last
        minute."""
        return self._readiness.pulse.throughput(self._clock())

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and its worker serves."""
        return self._readiness.ready

    @property
    def ready_since(self) -> float | None:
        """When the model was loaded, in monotonic seconds; None while it is not ready."""
        return self._readiness.ready_since

    @property
    def progress(self) -> float:
        """The part of the weights that is loaded, 0 to 1."""
        return self._readiness.progress

    @property
    def load_failure(self) -> LoadFailure | None:
        """Why the model could not be loaded, once that is final; only a new client tries again."""
        return self._readiness.load_failure

    @property
    def in_flight(self) -> int:
        """Places in the queue that are taken: by sequences that run, wait, or are about to come."""
        return self._places.taken

    @property
    def seconds_to_idle(self) -> float | None:
        """In about how many seconds all requests have ended that run and wait now; None if that
        is unknown, as while the model is loading."""
        return self.turnover.seconds(self.in_flight) if self.ready and self.in_flight else None

    @property
    def seconds_to_ready(self) -> float | None:
        """In about how many seconds the model is loaded; None if that is unknown, or it is."""
        return None if self.ready else self._readiness.seconds_left

    @property
    def pending_count(self) -> int:
        """Number of requests that have not ended."""
        return len(self.requests.pending())

    def wait_ready(
        self,
        alive: Callable[[], bool] = lambda: True,
        timeout: float | None = None,
        owner: str = "",
    ) -> ModelInfo:
        """Wait until the model is loaded; see :meth:`Readiness.wait
        <offgrid.engine.client.readiness.Readiness.wait>`."""
        return self._readiness.wait(alive, timeout, owner)

    def kill(self) -> None:
        """Kill the worker, as a crash would end it; the next one is started."""
        self.supervisor.kill()

    def drain(self) -> None:
        """Refuse new requests from now on; running ones continue. The server is stopping."""
        self._readiness.draining = True

    def close(self, timeout: float = 0.0) -> None:
        """Let running requests finish for ``timeout`` seconds, end the rest, stop the worker.

        Without an earlier :meth:`drain`, the server continues and only unloads this model.
        """
        deadline = time.monotonic() + timeout
        changed = self._readiness.changed
        with changed:
            while self._places.taken and time.monotonic() < deadline:
                changed.wait(POLL)
            # The lock is still held, so no request can come between the last check and this.
            self._readiness.close()
        self.supervisor.stop()
        self.requests.fail_all(self._readiness.farewell())
        self.supervisor.end_worker()

    # --- requests -----------------------------------------------------------------------------

    def hold(self, n: int, times: int, *, more: bool = False, owner: str = "") -> int:
        """Take places in the queue for several future requests, as far as places are free.

        All requests but the first leave as many places to other clients as there are slots, or the
        whole ``queue_size`` if that is smaller.

        Args:
            n: sequences of each request.
            times: how many requests.
            more: whether earlier requests of the same kind have places, so that none of these is
                the first.
            owner: the caller.

        Returns:
            How many of the requests got places: at least the first. :meth:`release` ``n`` places
            for each.

        Raises:
            InvalidParameter: ``n`` is more than all places of this model.
            Overloaded: there are no places even for the first, or the server is stopping.
        """
        return self._places.hold(n, times, more=more, owner=owner)

    def release(self, n: int, owner: str = "") -> None:
        """Release places of a caller in the queue."""
        self._places.release(n, owner)

    def submit(
        self,
        request: GenerationRequest,
        alive: Callable[[], bool] = lambda: True,
        *,
        held: bool = False,
        ended: Callable[[], None] = lambda: None,
    ) -> Generation:
        """Hand a request to the worker and wait until its prompt is accepted.

        Args:
            request: what to generate.
            alive: called regularly while waiting; returns whether the client is still connected.
            held: whether the request uses places that :meth:`hold` took; they stay taken when it
                ends.
            ended: called on the thread that pushed the last event, usually the supervisor's.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the request is at fault.
            Overloaded: the queue is full, loading takes too long, or the model is being unloaded.
            EngineFault: the worker died meanwhile.
            ClientGone: ``alive`` returned False.
        """
        self._places.check(request.n)
        info = self._readiness.info
        if request.tokens is not None and info is not None:
            # The worker checks this too, but sending it a million ids would cost time here.
            check_prompt_tokens(len(request.tokens), info.n_ctx, request.prompt_param)
        requests = self.requests
        prompt = (
            request.parts, request.tokens, request.images, request.grammar, request.infill,
        )  # fmt: skip
        key = requests.key_of(prompt, request.prompt_param)
        places = 0 if held else request.n
        request = structs.replace(request, label=label())
        generation = requests.register(
            lambda id: Generation(
                key, Submit(id, request), places, requests.hooks, ended, self.queue_timeout
            ),
            places,
            alive,
            request.owner,
        )
        try:
            requests.hand_over(generation)
            generation.wait_accepted(alive)
        except BaseException:
            generation.cancel()
            raise
        return generation

    def look_up(self, query: TokenQuery, alive: Callable[[], bool] = lambda: True) -> TokenResult:
        """Ask the worker's tokeniser. Takes no place in the queue.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the query is at fault.
            Overloaded: loading takes too long, or the model is being unloaded.
            EngineFault: the worker died meanwhile.
            ClientGone: ``alive`` returned False.
        """
        requests = self.requests
        key = requests.key_of((query.parts, query.tokens, query.images, None), query.param)
        self._readiness.check_open()
        lookup = requests.register(
            lambda id: Lookup(key, LookUp(id, query), requests.hooks), 0, alive, query.owner
        )
        try:
            requests.hand_over(lookup)
            return lookup.wait(alive)
        finally:
            lookup.cancel()

    def embed(
        self,
        request: EmbeddingRequest,
        alive: Callable[[], bool],
        accepted: Callable[[int], None] = lambda tokens: None,
    ) -> Vectors:
        """Return the vectors of a request's inputs, or their scores if it has a query.

        Args:
            request: has at least one input.
            alive: called regularly while waiting; returns whether the client is still connected.
            accepted: called with the tokens of all inputs once they are tokenised. If it raises,
                the request is cancelled.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the request is at fault.
            Overloaded, EngineFault, ClientGone: see :meth:`submit`.
        """
        requests = self.requests
        key = requests.key_of((request.inputs, request.query), None)
        request = structs.replace(request, label=label())
        embedding = requests.register(
            lambda id: Embedding(key, Embed(id, request), requests.hooks),
            Embedding.PLACES,
            alive,
            request.owner,
        )
        try:
            requests.hand_over(embedding)
            return embedding.wait(alive, accepted)
        finally:
            embedding.cancel()
