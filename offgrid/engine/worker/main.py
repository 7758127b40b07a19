"""The worker process: pipes, threads and one :class:`~offgrid.engine.worker.engine.Engine`.

Started by :mod:`offgrid.engine.client.process`, never by hand. The main thread loads the model and
runs the loop; at the end, it writes prefixes to disk. The reader takes commands from standard input
and answers pings. The tokeniser prepares requests, so that slow tokenising delays neither the loop
nor a cancel. The compiler prepares requests with a grammar. ``docs/architecture.md`` lists all
threads. When standard input ends, the server has ended, and the process ends too.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from offgrid.engine.protocol import (
    Accepted,
    Cancel,
    Embed,
    EngineEvent,
    Examined,
    Failed,
    FrameTooLarge,
    Load,
    LoadFailed,
    Loading,
    LookUp,
    Ping,
    Pong,
    Ready,
    Report,
    Step,
    Stop,
    Submit,
    Tokenising,
    encode_frame,
    read_command,
)
from offgrid.engine.signals import FOR_THE_SERVER
from offgrid.engine.worker.cache.opening import open_tiers
from offgrid.engine.worker.drafts.model import DraftModel
from offgrid.engine.worker.embedder import EmbeddingJob
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.failures import EngineBroken
from offgrid.engine.worker.llama.draft import load_draft
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.examine import examine
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prepare import Prepared
from offgrid.errors import EngineFault, RequestError
from offgrid.startup import prepare_process

log = logging.getLogger(__name__)

_TOKENISER_STACK = 64 * 1024 * 1024
"""Bytes. Tokenisers with regular expressions recurse; 8 MiB is not enough for 30,000 letters."""


_PR_SET_PDEATHSIG = 1
"""``linux/prctl.h``: sets the signal that the kernel sends when the parent ends."""
_TOKENISER, _COMPILER = 0, 1
"""Lanes of the threads that tokenise, for :class:`Tokenising`."""

_HOLD = 0.02
"""Most seconds that a token waits for the next ones. Text that changes 50 times in a second seems
to flow, and a step that takes longer than half of this is sent at once."""
_QUIET = 0.25
"""Seconds without a request after which a worker that has just loaded prepares for grammars."""
_TURN = 0.02
"""Seconds of tokenising after which an embedding request lets other requests go first."""


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
            self.events((_failed(id, error),))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """An embedding request that is being tokenised."""

    id: int
    job: EmbeddingJob
    rest: Iterator[None]


class Worker:
    """Connects the pipes with an engine. The module's docstring describes the threads.

    Args:
        commands: the pipe from the server.
        writer: writes to the server.
        engine: an engine for a model that is loaded already; without it, :meth:`run` makes one.
    """

    def __init__(self, commands: BinaryIO, writer: Writer, engine: Engine | None = None) -> None:
        self._commands = commands
        self._writer = writer
        self._engine = engine
        self._to_tokenise: queue.SimpleQueue[Submit | LookUp | _Inputs] = queue.SimpleQueue()
        self._to_compile: queue.SimpleQueue[Submit] = queue.SimpleQueue()
        """Requests with a grammar. Compiling a hard grammar takes time; others need not wait."""
        # Ids of requests that are not yet submitted to the engine. A cancel removes its id here, so
        # that no cancel is lost between the reader and the threads that prepare requests.
        self._pending: set[int] = set()
        self._lock = threading.Lock()
        self._save_until = 0.0
        self._saved = threading.Event()
        """Set when the loop has ended and everything is on disk."""

    def run(self) -> int:
        """Load the model and serve until the engine gives up; return the exit status. The reader
        ends the process on a Stop command or at the end of the pipe."""
        load = read_command(self._commands)
        if not isinstance(load, Load):
            return 2
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        if load.examine:
            return self._examine(load)
        try:
            model = Model(load, lambda part: self._writer.send(Loading(part)))
            draft = load_draft(load, model)
        except LoadError as ex:
            self._writer.send(LoadFailed(str(ex), lasting=ex.lasting or _is_broken(load)))
            return 1
        self._engine = Engine(
            model,
            self._writer.events,
            lambda: bool(self._pending),
            draft_model=None if draft is None else DraftModel(draft, model.n_vocab),
            tiers=open_tiers(model),
            hold=_HOLD,
        )
        self._writer.give_up = self._engine.cancel
        threading.stack_size(_TOKENISER_STACK)
        threading.Thread(target=self._tokenise, name="tokeniser", daemon=True).start()
        threading.Thread(target=self._compile, name="compiler", daemon=True).start()
        try:
            self._writer.send(Ready(model.info))
        except FrameTooLarge:
            self._writer.send(LoadFailed("what it says of itself is too large.", lasting=True))
            return 1
        try:
            self._engine.run()
        except EngineBroken as ex:
            log.error("giving up: %s", ex)
            return 3
        self._engine.save_all(self._save_until)
        self._saved.set()
        return 0

    def _examine(self, load: Load) -> int:
        try:
            examine(load)
        except LoadError as ex:
            self._writer.send(LoadFailed(str(ex), lasting=True))
            return 1
        self._writer.send(Examined())
        return 0

    def _read(self) -> None:
        """Read commands until the pipe ends. The server sends requests only after Ready."""
        while True:
            command = read_command(self._commands)
            if command is None:
                os._exit(0)
            if isinstance(command, Stop):
                # No request is lost: the server has already ended the running ones.
                self._stop(command.seconds)
            if isinstance(command, (Submit, Embed, LookUp)):
                self.enqueue(command)
            elif isinstance(command, Cancel):
                self._cancel(command)
            elif isinstance(command, Ping):
                self._writer.send(self._pong(command.number))

    def _stop(self, seconds: float) -> NoReturn:
        """End the process, after the loop's thread has written prefixes to disk, if it is to. That
        thread may be stuck in a step, so no longer than ``seconds`` are waited for it."""
        if self._engine is not None and self._engine.saves:
            self._save_until = time.monotonic() + seconds
            self._engine.stop()
            self._saved.wait(seconds)
        os._exit(0)

    def enqueue(self, command: Submit | Embed | LookUp) -> None:
        """Queue a request for the thread that prepares it."""
        with self._lock:
            self._pending.add(command.id)
        if isinstance(command, Submit) and command.request.grammar is not None:
            self._to_compile.put(command)
        else:
            self._to_tokenise.put(self._inputs(command) if isinstance(command, Embed) else command)

    def _cancel(self, command: Cancel) -> None:
        with self._lock:
            if command.choice is None and command.id in self._pending:
                self._pending.discard(command.id)
                return
        if self._engine is None:
            return
        if command.choice is None:
            self._engine.cancel(command.id)
        else:
            self._engine.end(command.id, command.choice)

    def _pong(self, number: int) -> Pong:
        engine = self._engine
        if engine is None:
            return Pong(number, 0.0, 0, 0)
        began = engine.step_began
        busy_for = 0.0 if began is None else time.monotonic() - began
        scheduler = engine.scheduler
        return Pong(
            number, busy_for, len(scheduler.running), len(scheduler.waiting), engine.threads.in_use
        )

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
        except Exception as ex:
            self._refuse(item.id, ex)

    def _begin(self, id: int, lane: int) -> bool:
        """Tell the server which request a thread tokenises now, in case that ends the process;
        return False if the request was cancelled."""
        wanted = id in self._pending
        self._writer.events((Tokenising(id if wanted else 0, lane),))
        return wanted

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
            self._engine.ready_grammars()
        except Exception:
            log.exception("the vocabulary cannot be prepared for grammars")
        return None

    def _compile_for(self, command: Submit) -> None:
        if not self._begin(command.id, _COMPILER):
            return
        try:
            self._prepare(command, _COMPILER)
        except Exception as ex:
            self._refuse(command.id, ex)

    def _prepare(self, command: Submit, lane: int) -> None:
        assert self._engine is not None
        prepared = self._engine.prepare(command.id, command.request)
        accepted = Accepted(command.id, len(prepared.prompt), prepared.seed, prepared.prompt_text)
        self._accept(accepted, prepared, lane)

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
                self._to_tokenise.put(inputs)
                return
        accepted = Accepted(inputs.id, inputs.job.prompt_tokens, 0)
        self._accept(accepted, inputs.job, _TOKENISER)

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

    def _refuse(self, id: int, ex: Exception) -> None:
        if isinstance(ex, RequestError):
            error = ex
        else:
            log.error("request %d could not be prepared", id, exc_info=ex)
            error = EngineFault("The prompt could not be tokenised.")
        with self._lock:
            self._pending.discard(id)
        self._writer.events((_failed(id, error),))


def _failed(id: int, error: RequestError) -> Failed:
    return Failed(id, type(error).__name__, error.message, error.param, error.code)


def _is_broken(load: Load) -> bool:
    """Whether the file itself is the reason why it was not loaded, and not, say, lack of memory."""
    try:
        examine(load)
    except LoadError:
        return True
    return False


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its server ends, even if this process is stopped.

    Other systems than Linux rely on the end of standard input. The kernel sends the signal when the
    *thread* that started this process ends: see :mod:`offgrid.engine.client.process`.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        log.warning("prctl: %s", os.strerror(ctypes.get_errno()))
    if os.getppid() != parent:  # the server has already ended, and no signal will come
        os._exit(0)


def main(parent: int) -> NoReturn:
    """Entry point of the process.

    Args:
        parent: process id of the server.
    """
    _end_with(parent)
    # Ctrl-C in a terminal goes to the whole group, and systemd's SIGTERM to the whole unit, but
    # only the server decides when workers end.
    for number in FOR_THE_SERVER:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # the server started this process with them blocked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_THE_SERVER)
    prepare_process()
    logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
    # Reports use a duplicate descriptor, so that text which a library prints to standard output
    # cannot get between two frames.
    reports = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    status = Worker(sys.stdin.buffer, Writer(reports)).run()
    reports.flush()
    # Other threads may be inside C calls: end the process without waiting for them.
    os._exit(status)
