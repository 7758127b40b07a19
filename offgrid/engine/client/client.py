"""The server's side of one model, as the API and the pool use it.

Nothing in this package imports llama.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
from offgrid.engine.client.readiness import LoadFailure, Readiness
from offgrid.engine.client.requests import Requests
from offgrid.engine.client.supervisor import Supervisor
from offgrid.engine.limits import check_prompt_tokens
from offgrid.engine.protocol import (
    Embed,
    EmbeddingRequest,
    GenerationRequest,
    Load,
    LookUp,
    ModelInfo,
    Submit,
    TokenQuery,
    TokenResult,
)

__all__ = ["ClientGone", "EngineClient", "Generation", "LoadFailure"]


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
        pinned: whether the settings keep the model loaded.
        needs: bytes of memory that it needs, for the log; 0 if that is unknown.
        queue_size: sequences that may wait in addition to the ``load.parallel`` running ones.
        load_timeout: most seconds that loading may take.
        stall_timeout: most seconds that one step of the loop may take.
        queue_timeout: most seconds that a request may wait for its first slot; 0 for no limit.
        clock: monotonic seconds, to tell how long ago a worker died or last spoke.

    Attributes:
        capacity: most sequences that may run and wait.
        supervisor: starts the worker, watches it, and starts the next one.
        requests: the requests that have not ended.
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
        self._readiness = Readiness(load_timeout, self.capacity, chat_template, name)
        self._places = Places(load.parallel, queue_size, self._readiness)
        self.requests = Requests(self._readiness, self._places, Blame(clock), name=name)
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
    def ready(self) -> bool:
        """Whether the model is loaded and its worker serves."""
        return self._readiness.ready

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
    def pending_count(self) -> int:
        """Number of requests that have not ended."""
        return len(self.requests.pending())

    def wait_ready(
        self, alive: Callable[[], bool] = lambda: True, timeout: float | None = None
    ) -> ModelInfo:
        """Wait until the model is loaded; see :meth:`Readiness.wait
        <offgrid.engine.client.readiness.Readiness.wait>`."""
        return self._readiness.wait(alive, timeout)

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

    def hold(self, n: int, times: int, *, more: bool = False) -> int:
        """Take places in the queue for several future requests, as far as places are free.

        All requests but the first leave as many places to other clients as there are slots, or the
        whole ``queue_size`` if that is smaller.

        Args:
            n: sequences of each request.
            times: how many requests.
            more: whether earlier requests of the same kind have places, so that none of these is
                the first.

        Returns:
            How many of the requests got places: at least the first. :meth:`release` ``n`` places
            for each.

        Raises:
            InvalidParameter: ``n`` is more than all places of this model.
            Overloaded: there are no places even for the first, or the server is stopping.
        """
        return self._places.hold(n, times, more=more)

    def release(self, n: int) -> None:
        """Release places in the queue."""
        self._places.release(n)

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
        prompt = (request.parts, request.tokens, request.images, request.grammar)
        key = requests.key_of(prompt, request.prompt_param)
        places = 0 if held else request.n
        generation = requests.register(
            lambda id: Generation(
                key, Submit(id, request), places, requests.hooks, ended, self.queue_timeout
            ),
            places,
            alive,
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
            lambda id: Lookup(key, LookUp(id, query), requests.hooks), 0, alive
        )
        try:
            requests.hand_over(lookup)
            return lookup.wait(alive)
        finally:
            lookup.cancel()

    def embed(self, request: EmbeddingRequest, alive: Callable[[], bool]) -> Vectors:
        """Return the vectors of a request's inputs, or their scores if it has a query.

        Args:
            request: has at least one input.
            alive: called regularly while waiting; returns whether the client is still connected.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the request is at fault.
            Overloaded, EngineFault, ClientGone: see :meth:`submit`.
        """
        requests = self.requests
        key = requests.key_of((request.inputs, request.query), None)
        embedding = requests.register(
            lambda id: Embedding(key, Embed(id, request), requests.hooks), Embedding.PLACES, alive
        )
        try:
            requests.hand_over(embedding)
            return embedding.wait(alive)
        finally:
            embedding.cancel()
