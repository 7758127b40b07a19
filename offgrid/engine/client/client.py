"""The server's side of one model: what the API and the pool ask for.

Nothing in this package imports llama.cpp.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
    Tokens,
)

__all__ = ["ClientGone", "EngineClient", "Generation", "LoadFailure"]


class EngineClient:
    """A model that is served by a worker process of its own.

    Args:
        load: what the worker is told to serve.
        name: what messages call the model.
        queue_size: sequences that may wait beside the ``load.parallel`` running ones.
        load_timeout: seconds that loading may take.
        stall_timeout: seconds that one step of the loop may take.
        queue_timeout: seconds that a request may wait for its first slot, 0 for any time.
        clock: seconds, never going back: how long ago a worker died or spoke.

    Attributes:
        capacity: sequences that may run and wait.
        supervisor: starts the worker, watches it, and starts the next one.
        requests: those that are under way.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.load = load
        self.name = name
        self.queue_timeout = queue_timeout
        self.capacity = load.parallel + queue_size
        self._readiness = Readiness(load_timeout, self.capacity)
        self._places = Places(load.parallel, queue_size, self._readiness)
        self.requests = Requests(self._readiness, self._places, Blame(clock), name=name)
        self.supervisor = Supervisor(
            load,
            self._readiness,
            self.requests,
            load_timeout=load_timeout,
            stall_timeout=stall_timeout,
            name=name,
            clock=clock,
        )

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker in the background; :meth:`wait_ready` says when it serves.

        Raises:
            Overloaded: the system starts no thread for it now. Nothing is left of it.
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
        """The worker's process id while there is one."""
        process = self._readiness.process
        return None if process is None else process.pid

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and its worker serves."""
        return self._readiness.ready

    @property
    def load_failure(self) -> LoadFailure | None:
        """Why the file was not loaded, if that is over; only a new client tries again."""
        return self._readiness.load_failure

    @property
    def in_flight(self) -> int:
        """Sequences admitted and not finished: running or waiting."""
        return self._places.taken

    @property
    def pending_count(self) -> int:
        """Requests that are not over."""
        return len(self.requests.pending())

    def wait_ready(self, alive: Callable[[], bool] = lambda: True) -> ModelInfo:
        """Wait until the model is loaded.

        Raises:
            ModelLoadFailed: llama.cpp does not load it.
            Overloaded: it takes longer than ``load_timeout``, or the server is stopping.
            ClientGone: ``alive`` said no.
        """
        return self._readiness.wait(alive)

    def kill(self) -> None:
        """Kill the worker, as a crash would end it; the next one is started."""
        self.supervisor.kill()

    def drain(self) -> None:
        """Refuse new requests from now on; running ones go on. The server is stopping."""
        self._readiness.draining = True

    def close(self, timeout: float = 0.0) -> None:
        """Let running requests finish for ``timeout`` seconds, end the rest, stop the worker.

        Without :meth:`drain` before, the model is unloaded by a server that goes on.
        """
        deadline = time.monotonic() + timeout
        changed = self._readiness.changed
        with changed:
            while self._places.taken and time.monotonic() < deadline:
                changed.wait(POLL)
            # Still with the lock held: no request comes between the last look and this.
            self._readiness.close()
        self.supervisor.stop()
        self.requests.fail_all(self._readiness.farewell())
        self.supervisor.end_worker()

    # --- requests -----------------------------------------------------------------------------

    def hold(self, n: int, times: int, *, more: bool = False) -> int:
        """Take places in the queue for several requests to come, as far as there are any.

        All but the first leave as many places as there are slots to others, if the queue has so
        many.

        Args:
            n: sequences of each request.
            times: how many requests.
            more: whether these come after others, so that none of them is the first.

        Returns:
            For how many of them there are places: at least for the first. :meth:`release` gives
            ``n`` back for each.

        Raises:
            InvalidParameter: there could never be so many places.
            Overloaded: not even for the first, or the server is stopping.
        """
        return self._places.hold(n, times, more=more)

    def release(self, n: int) -> None:
        """Give places in the queue back."""
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
            alive: asked now and then while waiting whether the client is still there.
            held: whether it gets places that :meth:`hold` took; they stay taken when it is over.
            ended: called on the supervisor's thread after the last event.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the request's fault.
            Overloaded: the queue is full, the model is loading for too long, or stopping.
            EngineFault: the worker died meanwhile.
            ClientGone: ``alive`` said no.
        """
        self._places.check(request.n)
        info = self._readiness.info
        if request.tokens is not None and info is not None:
            # The worker does so, too; but to send it a million of them takes this process time.
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

    def look_up(self, query: TokenQuery, alive: Callable[[], bool] = lambda: True) -> Tokens:
        """Ask the worker's tokenizer. Takes no place in the queue.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the question's fault.
            Overloaded: the model is loading for too long, or stopping.
            EngineFault: the worker died meanwhile.
            ClientGone: ``alive`` said no.
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
            request: at least one input.
            alive: asked now and then while waiting whether the client is still there.

        Raises:
            InvalidParameter, ContextLengthExceeded, RequestRefused: the request's fault.
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
