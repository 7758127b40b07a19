"""The worker process: pipes, threads and one :class:`~offgrid.engine.worker.engine.Engine`.

Started by :mod:`offgrid.engine.client.process`, never by hand. The main thread loads the model and
runs the loop; at the end, it writes prefixes to disk. The reader takes commands from standard input
and answers pings. Two threads prepare requests (:mod:`offgrid.engine.worker.lanes`).
``docs/architecture.md`` lists all threads. When standard input ends, the server has ended, and the
process ends too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from offgrid.engine.protocol.commands import (
    Cancel,
    Embed,
    Load,
    LookUp,
    Ping,
    Stop,
    Submit,
    UseFilter,
)
from offgrid.engine.protocol.frames import FrameTooLarge, read_command
from offgrid.engine.protocol.reports import (
    UNEXPECTED,
    Examined,
    LoadFailed,
    Loading,
    Lost,
    Pong,
    Ready,
)
from offgrid.engine.signals import FOR_THE_SERVER
from offgrid.engine.worker.cache.opening import open_tiers
from offgrid.engine.worker.drafts.model import DraftModel
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.failures import EngineBroken
from offgrid.engine.worker.figures import figures_of
from offgrid.engine.worker.lanes import Lanes
from offgrid.engine.worker.llama.build import gpus
from offgrid.engine.worker.llama.draft import load_draft
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.examine import examine
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.remembered import remember_costs, remembered_costs
from offgrid.engine.worker.writer import Writer
from offgrid.startup import forbid_core_dumps, prepare_process

log = logging.getLogger(__name__)

_HOLD = 0.02
"""Most seconds that a token waits for the next ones. Text that changes 50 times in a second seems
to flow, and a step that takes longer than half of this is sent at once."""
_FAILED = 5
"""Exit status after an unexpected exception."""


class Worker:
    """Connects the pipes with an engine. The module's docstring describes the threads.

    Args:
        commands: the pipe from the server.
        writer: writes to the server.
    """

    def __init__(self, commands: BinaryIO, writer: Writer) -> None:
        self._commands = commands
        self._writer = writer
        self._lanes = Lanes(writer)
        self._engine: Engine | None = None
        self._idle_since: float | None = None
        """When the reader first saw work for which no step had begun; None if there was none."""
        self._save_until = 0.0
        self._saved = threading.Event()
        """Set when the loop has ended and everything is on disk."""

    def run(self) -> int:
        """Load the model and serve until the engine gives up; return the exit status. The reader
        ends the process on a Stop command or at the end of the pipe."""
        load = read_command(self._commands)
        if not isinstance(load, Load):
            return 2
        if not load.core_dumps:
            forbid_core_dumps()
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        if load.examine:
            return self._examine(load)
        try:
            model = Model(load, lambda part: self._writer.send(Loading(part)), self._lose)
            draft = load_draft(load, model)
        except LoadError as ex:
            self._writer.send(LoadFailed(str(ex), lasting=ex.lasting or _is_broken(load)))
            return 1
        self._engine = Engine(
            model,
            self._writer.events,
            lambda: self._lanes.busy,
            draft_model=None if draft is None else DraftModel(draft, model.n_vocab),
            tiers=open_tiers(model),
            hold=_HOLD,
            row_costs=remembered_costs(model),
        )
        self._writer.give_up = self._engine.cancel
        self._lanes.start(self._engine)
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
        remember_costs(model, self._engine.row_costs)
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
        """Read commands until the pipe ends. Without this thread, the worker would hear nothing."""
        with _ending_with_a_trace():
            self._read_all()

    def _read_all(self) -> NoReturn:
        """Do the same. The server sends requests only after Ready."""
        while True:
            command = read_command(self._commands)
            if command is None:
                os._exit(0)
            if isinstance(command, Stop):
                # No request is lost: the server has already ended the running ones.
                self._stop(command.seconds)
            if isinstance(command, (Submit, Embed, LookUp)):
                self._lanes.enqueue(command)
            elif isinstance(command, UseFilter):
                assert self._engine is not None
                self._engine.filters.keep(command.program)
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

    def _lose(self, message: str) -> NoReturn:
        """End the process, because another machine that computes a part of the model is gone:
        llama.cpp would wait for it without end, or abort. Called by the threads that watch it."""
        log.error("%s", message)
        self._writer.send(Lost(f"{message[:1].upper()}{message[1:]}."))
        os._exit(4)

    def _cancel(self, command: Cancel) -> None:
        if command.choice is None and self._lanes.drop(command.id):
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
        busy_for = self._busy_for(engine)
        scheduler = engine.scheduler
        return Pong(
            number,
            busy_for,
            len(scheduler.running),
            len(scheduler.waiting),
            engine.threads.in_use,
            figures_of(engine, gpus()),
        )

    def _busy_for(self, engine: Engine) -> float:
        """Return for how many seconds the loop has been in its step, or has not begun the step for
        which there is work, for example because a disk does not react."""
        now = time.monotonic()
        began = engine.step_began
        if began is None and not engine.is_idle:
            began = self._idle_since = self._idle_since or now
        else:
            self._idle_since = None
        return 0.0 if began is None else now - began


def _is_broken(load: Load) -> bool:
    """Whether the file itself is the reason why it was not loaded, and not, say, lack of memory."""
    try:
        examine(load)
    except LoadError:
        return True
    return False


@contextlib.contextmanager
def _ending_with_a_trace() -> Iterator[None]:
    """End the process after an exception inside, with its trace in the log.

    Otherwise Python would end the thread alone or, at the end of the main thread, abort after a
    second because of the thread that reads commands, which would be all that the log says.
    """
    try:
        yield
    except BaseException:
        log.critical(UNEXPECTED, exc_info=True)
        os._exit(_FAILED)


def main() -> NoReturn:
    """Entry point of the process, after :func:`offgrid.engine.worker.birth.depend_on`."""
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
    with _ending_with_a_trace():
        status = Worker(sys.stdin.buffer, Writer(reports)).run()
        reports.flush()
    # Other threads may be inside C calls: end the process without waiting for them.
    os._exit(status)
