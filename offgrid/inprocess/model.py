"""The model of an LLM: calls from any thread, batches, and its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Protocol, TypeVar

from offgrid.api.generation import GenerationGroup
from offgrid.api.shapes import Json
from offgrid.engine.client.client import ClientGone, EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter, Overloaded, RequestError
from offgrid.inprocess.stream import Running, told_if_closed

T = TypeVar("T")
R = TypeVar("R")
Alive = Callable[[], bool]

_PAUSE = 0.02
"""Seconds after which a call asks again for a place in the queue."""


class Call(Protocol):
    """A request that is being answered."""

    group: GenerationGroup

    def whole(self) -> Json:
        """Return the answer when it is complete."""


C = TypeVar("C", bound=Call)


class OwnModel:
    """The model of an LLM, in a worker process of its own.

    Args:
        pool: its default model is the model, and is loaded.

    Attributes:
        abandoned: takes the streams that are no longer read, and None at the end. Anything may
            put into it, also a destructor.
    """

    def __init__(self, pool: EnginePool) -> None:
        self.abandoned: SimpleQueue[Running | None] = SimpleQueue()
        self._pool = pool
        self._closed = threading.Event()
        # It has no reference to this object, whose end may be what it waits for.
        self._keeper = threading.Thread(
            target=_keep, name="llm-keeper", args=(pool, self.abandoned), daemon=True
        )
        self._keeper.start()

    def close(self) -> None:
        """End the running calls and the worker process. Idempotent."""
        self._closed.set()
        self.abandoned.put(None)
        self._keeper.join()

    @contextlib.contextmanager
    def engine(self) -> Iterator[EngineClient]:
        """Provide the engine client; the model is not unloaded inside.

        Raises:
            RuntimeError: the model is closed.
            RequestError: the model cannot be loaded again after its file was replaced.
        """
        self._check_open()
        self._pool.begin_visit()
        try:
            with told_if_closed():
                yield self._pool.engine("", self.alive)
        except ClientGone:
            self._check_open()
            raise
        finally:
            self._pool.end_visit()

    def alive(self) -> bool:
        """Whether the model is not closed."""
        return not self._closed.is_set()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise RuntimeError("This LLM is closed.")

    def start(self, make: Callable[[EngineClient, Alive], C], alive: Alive) -> C:
        """Submit a request, as soon as there are places in the queue for it.

        Raises:
            RequestError: the model does not accept the request.
        """
        with self.engine() as engine:
            if not engine.info.generates:
                use = "rerank()" if engine.info.pooling == "rank" else "embed()"
                raise InvalidParameter(f"{engine.name} does not generate text; use {use}.", "model")
            while True:
                try:
                    return make(engine, alive)
                except Overloaded as ex:
                    # Other threads of the program have the places, and give them back.
                    if ex.code != "server_busy" or not engine.in_flight:
                        raise
                if self._closed.wait(_PAUSE) or not alive():
                    raise ClientGone

    def answer(self, make: Callable[[EngineClient, Alive], C], alive: Alive) -> tuple[Json, int]:
        """Return the whole answer to a request, and the seed in force."""
        call = self.start(make, alive)
        try:
            with told_if_closed():
                return call.whole(), call.group.seed
        except ClientGone:
            self._check_open()
            raise
        finally:
            call.group.cancel()  # after Ctrl-C

    def each(self, work: Callable[[T, Alive], R], items: Sequence[T]) -> list[R]:
        """Return the results of ``work`` for all items, which share the slots; the first error ends
        the others."""
        with self.engine() as engine:
            slots = engine.load.parallel
        ended = threading.Event()

        def run(index: int, item: T) -> R:
            try:
                return work(item, lambda: not ended.is_set())
            except RequestError as ex:
                ex.message = f"Conversation {index}: {ex.message}"
                ex.args = (ex.message,)
                raise

        # Twice as many as slots: no slot waits for the next conversation.
        threads = ThreadPoolExecutor(min(len(items), 2 * slots), thread_name_prefix="llm-batch")
        with threads:
            results = [threads.submit(run, *pair) for pair in enumerate(items)]
            try:
                wait(results, return_when=FIRST_EXCEPTION)
            finally:
                ended.set()
                for result in results:
                    result.cancel()
        for result in results:
            error = None if result.cancelled() else result.exception()
            if error is not None and not isinstance(error, (ClientGone, CancelledError)):
                raise error
        return [result.result() for result in results]


def _keep(pool: EnginePool, abandoned: SimpleQueue[Running | None]) -> None:
    """End abandoned streams, and at last the model."""
    while (running := abandoned.get()) is not None:
        running.close()
        del running
    pool.shutdown(0.0)
