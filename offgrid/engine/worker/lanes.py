"""The two threads that prepare requests for the loop: the tokeniser and the compiler.

The tokeniser prepares requests without a grammar, so that slow tokenising delays neither the loop
nor a cancel. It also answers queries. The compiler prepares requests with a grammar.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from offgrid.engine.protocol.commands import Embed, LookUp, Submit
from offgrid.engine.protocol.events import Accepted, Failed, Tokenising
from offgrid.engine.worker.embedder import EmbeddingJob
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.grammars import UnusableVocabulary
from offgrid.engine.worker.prepare import Prepared
from offgrid.engine.worker.turns import TurnQueue
from offgrid.engine.worker.writer import Writer
from offgrid.errors import EngineFault, RequestError

log = logging.getLogger(__name__)

_STACK = 64 * 1024 * 1024
"""Bytes. Tokenisers with regular expressions recurse; 8 MiB is not enough for 30,000 letters."""

_TOKENISER, _COMPILER = 0, 1
"""The threads, for :class:`Tokenising`."""

_QUIET = 0.25
"""Seconds without a request after which a worker that has just loaded prepares for grammars."""
_TURN = 0.02
"""Seconds of tokenising after which an embedding request lets other requests go first."""


@dataclass(frozen=True, slots=True)
class _Inputs:
    """An embedding request that is being tokenised."""

    id: int
    job: EmbeddingJob
    rest: Iterator[None]


class Lanes:
    """Prepares requests, and submits them to the engine.

    Args:
        writer: writes to the server.
        engine: an engine for a model that is loaded already; otherwise :meth:`start` brings one.
    """

    def __init__(self, writer: Writer, engine: Engine | None = None) -> None:
        self._writer = writer
        self._engine = engine
        self._to_tokenise: TurnQueue[Submit | LookUp | _Inputs] = TurnQueue()
        self._to_compile: TurnQueue[Submit] = TurnQueue()
        """Requests with a grammar. Compiling a hard grammar takes time; others need not wait."""
        # Ids of requests that are not yet submitted to the engine. A cancel removes its id here, so
        # that no cancel is lost between the reader and the threads that prepare requests.
        self._pending: set[int] = set()
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether there are requests that are not yet submitted to the engine."""
        return bool(self._pending)

    def start(self, engine: Engine) -> None:
        """Start the threads."""
        self._engine = engine
        threading.stack_size(_STACK)
        threading.Thread(target=self._tokenise, name="tokeniser", daemon=True).start()
        threading.Thread(target=self._compile, name="compiler", daemon=True).start()

    def enqueue(self, command: Submit | Embed | LookUp) -> None:
        """Queue a request for the thread that prepares it."""
        with self._lock:
            self._pending.add(command.id)
        owner = command.query.owner if isinstance(command, LookUp) else command.request.owner
        if isinstance(command, Submit) and command.request.grammar is not None:
            self._to_compile.put(owner, command)
        elif isinstance(command, Embed):
            self._to_tokenise.put(owner, self._inputs(command))
        else:
            self._to_tokenise.put(owner, command)

    def drop(self, id: int) -> bool:
        """Prepare a request no further; return False if it is submitted already, or unknown."""
        with self._lock:
            if id not in self._pending:
                return False
            self._pending.discard(id)
            return True

    def _begin(self, id: int, lane: int) -> bool:
        """Tell the server which request a thread tokenises now, in case that ends the process;
        return False if the request was cancelled."""
        wanted = id in self._pending
        self._writer.events((Tokenising(id if wanted else 0, lane),))
        return wanted

    # --- the tokeniser ------------------------------------------------------------------------

    def _tokenise(self) -> None:
        while True:
            self.tokenise_next()

    def tokenise_next(self) -> None:
        """Tokenise the next request of the queue, or some of its inputs; wait for one if there is
        none."""
        item = self._to_tokenise.get()
        if not self._begin(item.id, _TOKENISER):
            return
        try:
            if isinstance(item, Submit):
                self._prepare(item, _TOKENISER)
            elif isinstance(item, LookUp):
                self._answer(item)
            else:
                self._prepare_some(item)
        except BaseException as ex:  # a Rust panic is not an Exception
            self._refuse(item.id, ex, _label(item))

    def _answer(self, command: LookUp) -> None:
        assert self._engine is not None
        tokens = self._engine.look_up(command.id, command.query)
        with self._lock:
            self._pending.discard(command.id)
        self._writer.events((tokens,))

    def _inputs(self, command: Embed) -> _Inputs:
        assert self._engine is not None
        job = EmbeddingJob(command.id, command.request)
        return _Inputs(command.id, job, self._engine.embedder.prepare(job))

    def _prepare_some(self, inputs: _Inputs) -> None:
        """Tokenise inputs for a moment; if some are left, requeue the request after all others."""
        until = time.monotonic() + _TURN
        for _ in inputs.rest:
            if time.monotonic() > until:
                self._to_tokenise.put(inputs.job.request.owner, inputs)
                return
        accepted = Accepted(inputs.id, inputs.job.prompt_tokens, 0)
        self._accept(accepted, inputs.job, _TOKENISER)

    # --- the compiler -------------------------------------------------------------------------

    def _compile(self) -> None:
        command = self._ready_when_idle()
        while True:
            self._compile_for(command if command is not None else self._to_compile.get())
            command = None

    def _ready_when_idle(self) -> Submit | None:
        """Prepare for grammars at the first moment in which nothing else is to do.

        The model is ready before that, and a request for which it was loaded is answered first. If
        a request with a grammar comes first, it is returned, and prepares what it needs.
        """
        assert self._engine is not None
        while True:
            try:
                return self._to_compile.get(timeout=_QUIET)
            except queue.Empty:
                if self._engine.is_idle and not self._pending:
                    break
        try:
            with contextlib.suppress(UnusableVocabulary):  # the log says why
                self._engine.ready_grammars()
        except BaseException:
            log.exception("the vocabulary cannot be prepared for grammars")
        return None

    def _compile_for(self, command: Submit) -> None:
        if not self._begin(command.id, _COMPILER):
            return
        try:
            self._prepare(command, _COMPILER)
        except BaseException as ex:  # a Rust panic is not an Exception
            self._refuse(command.id, ex, command.request.label)

    # --- either -------------------------------------------------------------------------------

    def _prepare(self, command: Submit, lane: int) -> None:
        assert self._engine is not None
        prepared = self._engine.prepare(command.id, command.request)
        accepted = Accepted(
            command.id, prepared.prompt_tokens, prepared.seed, prepared.prompt_text, prepared.cut
        )
        self._accept(accepted, prepared, lane)

    def _accept(self, accepted: Accepted, prepared: Prepared | EmbeddingJob, lane: int) -> None:
        assert self._engine is not None
        with self._lock:
            if accepted.id not in self._pending:
                # The request was cancelled. Tell the server that tokenising it did no harm: no
                # other event does.
                self._writer.events((Tokenising(0, lane),))
                return
            # Send this before the engine gets the request, so that no delta overtakes it.
            self._writer.events((accepted,))
            self._engine.submit(prepared)
            self._pending.discard(accepted.id)
        self._engine.nudge()

    def _refuse(self, id: int, ex: BaseException, label: str = "") -> None:
        named = f"{id} ({label})" if label else str(id)
        if isinstance(ex, RequestError):
            error = ex
        else:
            log.error("request %s could not be prepared", named, exc_info=ex)
            error = EngineFault("The prompt could not be tokenised.")
        with self._lock:
            self._pending.discard(id)
        self._writer.events((Failed.of(id, error),))


def _label(item: Submit | LookUp | _Inputs) -> str:
    """Return the id of a request that its client knows; empty if it is not known here."""
    if isinstance(item, Submit):
        return item.request.label
    return item.job.request.label if isinstance(item, _Inputs) else ""
