"""A process that computes for one session, as the lender sees it.

It is started when a session begins and killed when that ends, so that all its memory is free again
and nothing of one session is left for the next. It serves exactly one connection of llama.cpp, and
then closes its port.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from queue import Empty, Queue

import msgspec
import psutil

from offgrid.errors import RpcError
from offgrid.rpc.messages import ALIVE, BEAT, BEATS_MISSED, STOPPED, Device
from offgrid.rpc.probe import probe

START_SECONDS = 60.0
"""Time for importing llama.cpp from a slow disk."""
_ANSWER_SECONDS = 10.0
_LOG_LINES = 20
LOOPBACK = "127.0.0.1"


class Started(msgspec.Struct, frozen=True):
    """The first line of the process: its port, its build of llama.cpp, and its devices; or why it
    cannot serve."""

    port: int = 0
    build: str = ""
    devices: tuple[Device, ...] = ()
    error: str = ""


class Child:
    """A process that computes. The thread that creates it must outlive it: the kernel kills a
    process of this kind when that thread ends.

    Args:
        program: what to start.
        log: called with each line that it writes to standard error.
        working: called now and then until it serves. It may raise an error, which ends the process.

    Attributes:
        started: what it says of itself.

    Raises:
        RpcError: it cannot serve; the message says why.
    """

    def __init__(
        self,
        program: Sequence[str],
        log: Callable[[str], None],
        working: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._last: list[str] = []
        self._lines: Queue[bytes] = Queue()
        try:
            self._process = subprocess.Popen(
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as ex:
            raise RpcError(f"the system cannot start a process ({ex.strerror or ex})") from None
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for run, name in ((self._read, "rpc-child"), (self._drain, "rpc-child-log"))
        ]
        try:
            self._start_threads()
            self.started = msgspec.json.decode(self._line(START_SECONDS, working), type=Started)
            if self.started.error:
                raise RpcError(self.started.error)
            # What llama.cpp meets here must not be the first that speaks to this process.
            probe(LOOPBACK, self.started.port, _ANSWER_SECONDS)
        except BaseException:
            self.end()
            raise

    def _start_threads(self) -> None:
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as ex:
            raise RpcError(f"the system cannot start a thread ({ex})") from None

    @property
    def state(self) -> str:
        """What a borrower is told: alive, stopped, or how it has ended."""
        status = self._process.poll()
        if status is not None:
            last = f": {self._last[-1]}" if self._last else ""
            return f"its process ended with status {status}{last}"
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED:
                return STOPPED
        return ALIVE

    def connect(self) -> socket.socket:
        """Return the only connection for ggml. The process closes its port then.

        Raises:
            RpcError: it does not accept it.
        """
        try:
            connection = socket.create_connection((LOOPBACK, self.started.port), _ANSWER_SECONDS)
        except OSError as ex:
            raise RpcError(f"its process accepts no connection ({ex.strerror or ex})") from None
        try:
            self._write(f"{connection.getsockname()[1]}\n")
            answer = self._line(_ANSWER_SECONDS).strip()
            if answer != b"taken":
                raise RpcError("another program was connected to its process first")
        except BaseException:
            connection.close()
            raise
        return connection

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        pipes = self._process.stdout, self._process.stderr
        for thread, pipe in zip(self._threads, pipes, strict=True):
            if thread.ident is not None:  # it was started, and closes its pipe
                thread.join(_ANSWER_SECONDS)
            elif pipe is not None:
                pipe.close()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except OSError:
            raise RpcError(self.state) from None

    def _line(self, seconds: float, working: Callable[[], None] = lambda: None) -> bytes:
        """Return the next line of the process.

        Raises:
            RpcError: it has ended or was stopped, or the line has not come in time.
        """
        stopped = 0
        for _ in range(int(seconds / BEAT)):
            try:
                line = self._lines.get(timeout=BEAT)
            except Empty:
                working()
                stopped = stopped + 1 if self.state == STOPPED else 0
                if stopped >= BEATS_MISSED:
                    raise RpcError("its process was stopped") from None
                continue
            if not line:
                self._process.wait()
                raise RpcError(self.state)
            return line
        raise RpcError(f"its process has not answered within {seconds:g} s")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(b"")

    def _drain(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self._last = [*self._last[-_LOG_LINES:], text]
                    self._log(text)


def program_of(parent: int, job: str) -> list[str]:
    """Return the command that starts such a process.

    Args:
        parent: the process id of the caller.
        job: what it is told, as JSON: see ``offgrid.engine.worker.lend``.
    """
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from offgrid.engine.worker.birth import depend_on; depend_on({parent}); "
        f"from offgrid.engine.worker.lend import main; main({job!r})"
    )
    return [sys.executable, "-c", code]
