"""One worker process as the server sees it: its pipes, what it logs, and its end.

The kernel ends a worker when the thread that started it ends (``PR_SET_PDEATHSIG``), so that a
worker never outlives its server, not even a stopped one. Whoever makes a :class:`WorkerProcess`
therefore stays until it has ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from offgrid.engine.protocol import Command, Load, Report, encode_frame, read_reports
from offgrid.errors import EngineFault, Overloaded

log = logging.getLogger(__name__)
llama_log = logging.getLogger("offgrid.llama")

_LOG_LINES = 200
"""Lines of a worker that are kept for the moment of its death."""
_TRACE_LINES = 60
_TRACE_BEGINS = "Fatal Python error"
_TELLING = ("error", "assert", "terminate called")
"""What lines contain that say why llama.cpp gives up."""


class WorkerProcess:
    """A process that serves, or looks at, one model file. To be read by the thread that makes it.

    Args:
        load: the first command, which says which file.

    Raises:
        OSError, RuntimeError: the system starts no process, or no thread, now. Nothing is left of
            what was started.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._write_lock = threading.Lock()
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        # The worker must find the very modules that this process runs: "-m" would look into the
        # current folder first, where an uncompiled source tree may lie.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from offgrid.engine.worker.main import main; main({os.getpid()})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._stderr = self._process.stderr
        self._logger = threading.Thread(target=self._drain_log, name="worker-log", daemon=True)
        try:
            self._begin(load)
        except BaseException:
            self.end()
            raise

    def _begin(self, load: Load) -> None:
        # What to load is the first thing that a worker reads. It is written before anybody else
        # knows of the process: a ping that came before it would end it.
        with contextlib.suppress(OSError):  # it ended at once: reading will tell
            self._stdin.write(encode_frame(load))
            self._stdin.flush()
        self._logger.start()

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def send(self, command: Command, *, wait: bool = True) -> None:
        """Write a command.

        Args:
            command: what the worker is to do.
            wait: whether to wait while another thread writes, and for the worker to read. If not,
                the command is left out when it would take time.

        Raises:
            FrameTooLarge: nothing was written.
            EngineFault: the process has ended.
        """
        frame = encode_frame(command)
        if not self._write_lock.acquire(blocking=wait):
            return
        try:
            if not wait and not _has_room(self._stdin):
                return
            self._stdin.write(frame)
            self._stdin.flush()
        except (OSError, ValueError):
            raise EngineFault(
                "The worker process of this model is not running; try again."
            ) from None
        finally:
            self._write_lock.release()

    def reports(self) -> Iterator[list[Report]]:
        """Yield what it says until it ends.

        Raises:
            ValueError, msgspec.DecodeError, OSError: the pipe is out of step.
        """
        return read_reports(self._stdout)

    def kill(self) -> None:
        """End it at once. Harmless after its end."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return its status.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        return self._process.wait(timeout)

    def close(self) -> None:
        """After its end: read its log to the end and close the pipes."""
        if self._logger.ident is not None:  # it was started
            self._logger.join(timeout=2.0)
        for pipe in (self._stdin, self._stdout, self._stderr):
            try:
                pipe.close()
            except OSError:  # what was still buffered has no reader any more
                log.debug("pipe already broken")

    def end(self) -> None:
        """Kill it, wait for its end, and close the pipes: nothing is left of it."""
        self.kill()
        self.wait()
        self.close()

    def _drain_log(self) -> None:
        """Keep the pipe empty, whatever it says: a full pipe would stop the worker."""
        for line in self._stderr:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._log.append(text)
                llama_log.debug("%s", text)

    # --- what to tell of its end --------------------------------------------------------------

    def trace(self) -> str:
        """For the log: the trace of a crash, else the last line that says why it ended."""
        lines = [*self._log]
        begin = next((i for i, line in enumerate(lines) if _TRACE_BEGINS in line), None)
        if begin is None:
            return self._last_words()
        # What llama.cpp said before it gave up stands above the trace.
        said = [line for line in lines[:begin] if _tells(line)][-1:]
        return "\n".join(["its last words:", *said, *lines[begin : begin + _TRACE_LINES]])

    def reason(self) -> str:
        """For clients: the last line that says why it ended, without any path of this machine."""
        return public(self._last_words(), self._load)

    def _last_words(self) -> str:
        words = [line for line in self._log if _tells(line)]
        return f"Last error: {words[-1]}" if words else ""


def not_started(ex: Exception) -> str:
    """Return what to say of a file for which :class:`WorkerProcess` raised an error."""
    reason = ex.strerror if isinstance(ex, OSError) else None
    return f"the system cannot start a process for it ({reason or ex})."


def start_thread(thread: threading.Thread) -> None:
    """Start a thread that a request needs.

    Raises:
        Overloaded: the system starts none now.
    """
    try:
        thread.start()
    except RuntimeError as ex:
        message = f"The system cannot start a thread for this request now ({ex}); try again."
        raise Overloaded(message, retry_after=5) from None


def public(text: str, load: Load) -> str:
    """Return a message about a model without the folders that its files lie in."""
    for name in (load.path, load.projector):
        if name is None:
            continue
        for path in (Path(name), Path(os.path.realpath(name))):
            text = text.replace(str(path), path.name)
            if path.parent != path.parent.parent:
                text = text.replace(f"{path.parent}{os.sep}", "")
                text = text.replace(str(path.parent), "the models' folder")
    return text


def _tells(line: str) -> bool:
    lowered = line.lower()
    return any(word in lowered for word in _TELLING)


def _environment() -> dict[str, str]:
    environ = dict(os.environ, GGML_NO_BACKTRACE="1")
    if "OMP_WAIT_POLICY" not in environ:
        # Threads of llama.cpp wait for each other after every operation. To sleep at once makes
        # a step ten times as long; to wait in a busy loop for as long as is usual takes the
        # processor from the one waited for as soon as anything else runs on the machine.
        environ.setdefault("GOMP_SPINCOUNT", "10000")
    return environ


def _has_room(pipe: IO[bytes]) -> bool:
    """Whether a short frame can be written without waiting for whoever reads."""
    if not hasattr(select, "poll"):  # Windows, where no process can be stopped either
        return True
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    # A pipe that nobody reads from is for the writer to find out.
    return any(events for _, events in poll.poll(0))
