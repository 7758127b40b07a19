"""One worker process as the server sees it: its pipes, its log, and its end.

The kernel kills a worker when the thread that started it ends (``PR_SET_PDEATHSIG``), so that a
worker never outlives its server, even if the worker is stopped (SIGSTOP). The thread that creates a
:class:`WorkerProcess` must therefore outlive it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import select
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from offgrid.engine.memory import oom_kills
from offgrid.engine.protocol.commands import MAX_FILTERS, Command, Load, Submit, UseFilter
from offgrid.engine.protocol.frames import FrameTooLarge, encode_frame, read_reports
from offgrid.engine.protocol.reports import UNEXPECTED, Report
from offgrid.errors import EngineFault, Overloaded
from offgrid.terminal import TRACE

log = logging.getLogger(__name__)
llama_log = logging.getLogger("offgrid.llama")

_LOG_LINES = 200
"""Most recent log lines of a worker that are kept to explain its death."""
_TRACE_LINES = 60
_TRACE_BEGINS = ("Fatal Python error", UNEXPECTED)
_SIGKILL = -9
_SPINS, _SPINS_ELSEWHERE = "2000", "10000"
"""Rounds in which a thread of llama.cpp waits for others before it sleeps. A round takes many times
longer on x86 than elsewhere. ``docs/engine.md`` has the measurements."""
_TRIALS = "set_n_threads:"
"""Beginning of the lines that llama.cpp logs when the number of threads changes, also for a trial:
many per minute."""
_TELLING = ("error", "assert", "terminate called", "failed to apply lora")
"""Words that mark the log lines in which llama.cpp says why it aborts."""


class WorkerProcess:
    """A process that serves or examines one model file. The thread that creates it reads from it.

    Args:
        load: the first command, which names the file.

    Raises:
        OSError, RuntimeError: the system cannot start a process or a thread now. No process is
            left.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._killed_here = False
        self._oom_kills = oom_kills()
        self._file = _stamp(load.path)
        self._write_lock = threading.Lock()
        self._soon: deque[bytes] = deque()
        """Frames of :meth:`send_soon` that are not written yet."""
        self._filters: deque[str] = deque(maxlen=MAX_FILTERS)
        """Digests of the content filters that the worker keeps."""
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        # The worker must import the same modules as this process. "-m" would search the current
        # folder first, which may contain an uncompiled source tree.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from offgrid.engine.worker.birth import depend_on; depend_on({os.getpid()}); "
            "from offgrid.engine.worker.main import main; main()"
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
        # A worker reads this command first. It is written before other threads know of the process:
        # a ping that came first would end the worker.
        with contextlib.suppress(OSError):  # it ended at once: the reader will notice
            self._stdin.write(encode_frame(load))
            self._stdin.flush()
        self._logger.start()

    @property
    def pid(self) -> int:
        """The process id, also after the end of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def send(self, command: Command, *, wait: bool = True) -> None:
        """Write a command.

        Args:
            command: the command.
            wait: whether to wait while another thread writes, and while the pipe is full. If not,
                the command is dropped in these cases.

        Raises:
            FrameTooLarge: nothing was written.
            EngineFault: the process has ended.
        """
        program = command.request.filter if isinstance(command, Submit) else None
        if isinstance(command, Submit) and program is not None:
            request = msgspec.structs.replace(command.request, filter=program.reference)
            command = Submit(command.id, request)
        frame = encode_frame(command)
        if not self._write_lock.acquire(blocking=wait):
            return
        try:
            if not wait and not _has_room(self._stdin):
                return
            if program is not None and program.digest not in self._filters:
                self._stdin.write(encode_frame(UseFilter(program)))
                self._filters.append(program.digest)
            self._stdin.write(frame)
            self._stdin.flush()
        except FrameTooLarge:
            raise
        except (OSError, ValueError):
            raise EngineFault(
                "The worker process of this model is not running; try again."
            ) from None
        finally:
            self._write_lock.release()
            self._write_soon()

    def send_soon(self, command: Command) -> None:
        """Write a short command as soon as no thread writes and the pipe has room: now, or after
        the next command that is sent. It is dropped if the process has ended.

        Never waits, so any thread may call it at any line, also the collector of garbage, which may
        interrupt a thread that writes.
        """
        self._soon.append(encode_frame(command))
        self._write_soon()

    def _write_soon(self) -> None:
        # Look again afterwards: meanwhile others may have found the lock taken.
        while self._soon and self._write_lock.acquire(blocking=False):
            try:
                while self._soon:
                    if not _has_room(self._stdin):
                        return
                    self._stdin.write(self._soon.popleft())
                    self._stdin.flush()
            except (OSError, ValueError):  # it has ended
                self._soon.clear()
            finally:
                self._write_lock.release()

    def reports(self) -> Iterator[list[Report]]:
        """Yield the worker's reports until it ends.

        Raises:
            ValueError, msgspec.DecodeError, OSError: the pipe is out of step.
        """
        return read_reports(self._stdout)

    def kill(self) -> None:
        """Kill the process. Harmless after its end."""
        self._killed_here = self._killed_here or self._process.poll() is None
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process; return its exit status.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        return self._process.wait(timeout)

    def close(self) -> None:
        """Read the log to its end and close the pipes. Call it after the end of the process."""
        if self._logger.ident is not None:  # it was started
            self._logger.join(timeout=2.0)
        for pipe in (self._stdin, self._stdout, self._stderr):
            try:
                pipe.close()
            except OSError:  # buffered data has no reader any more
                log.debug("pipe already broken")

    def end(self) -> None:
        """Kill the process, wait for its end, and close the pipes."""
        self.kill()
        self.wait()
        self.close()

    def _drain_log(self) -> None:
        """Read the log until it ends: a full pipe would block the worker."""
        for line in self._stderr:
            text = line.decode("utf-8", "replace").rstrip()
            if text and not text.startswith(_TRIALS):
                self._log.append(text)
                llama_log.log(TRACE, "%s", text)

    # --- explaining its end -------------------------------------------------------------------

    @property
    def killed(self) -> bool:
        """Whether the system or another program has killed it, and not :meth:`kill`."""
        return self._process.poll() == _SIGKILL and not self._killed_here

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has killed it because memory ran out: it was killed, and the kernel
        has counted such a kill since it was started."""
        counts = zip(self._oom_kills, oom_kills(), strict=False)
        return self.killed and any(now > before for before, now in counts)

    @property
    def overwritten(self) -> bool:
        """Whether its file was written to since it was started. The worker reads the weights from
        the file and may die of that. A file that was replaced by another one of the same name
        does no harm."""
        before, now = self._file, _stamp(self._load.path)
        same = before is not None and now is not None and before[:2] == now[:2]
        return same and before != now

    def trace(self) -> str:
        """Return the trace of a crash for the log, else the last line that says why it ended."""
        lines = [*self._log]
        begin = next((i for i, line in enumerate(lines) if _begins_trace(line)), None)
        if begin is None:
            return self._last_words()
        # The last message of llama.cpp before it aborted is above the trace.
        said = [line for line in lines[:begin] if _tells(line)][-1:]
        return "\n".join(["its last words:", *said, *lines[begin : begin + _TRACE_LINES]])

    def reason(self) -> str:
        """Return the last line that says why it ended, without local paths, for clients."""
        return public(self._last_words(), self._load)

    def _last_words(self) -> str:
        # A copy: the thread of the log may still be adding lines.
        words = [line for line in [*self._log] if _tells(line)]
        return f"Last error: {words[-1]}" if words else ""


def not_started(ex: Exception) -> str:
    """Return the message about a model for which :class:`WorkerProcess` raised an error."""
    reason = ex.strerror if isinstance(ex, OSError) else None
    return f"the system cannot start a process for it ({reason or ex})."


def start_thread(thread: threading.Thread) -> None:
    """Start a thread that a request needs.

    Raises:
        Overloaded: the system cannot start a thread now.
    """
    try:
        thread.start()
    except RuntimeError as ex:
        message = f"The system cannot start a thread for this request now ({ex}); try again."
        raise Overloaded(message, retry_after=5) from None


def public(text: str, load: Load) -> str:
    """Return a message about a model without the folders of its files."""
    adapters = (adapter.path for adapter in load.adapters)
    for name in (load.path, load.projector, load.draft_model, *adapters):
        if name is None:
            continue
        for path in (Path(name), Path(os.path.realpath(name))):
            text = text.replace(str(path), path.name)
            if path.parent != path.parent.parent:
                text = text.replace(f"{path.parent}{os.sep}", "")
                text = text.replace(str(path.parent), "the models' folder")
    return text


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return device, inode, size and modification time in nanoseconds; None without a file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _begins_trace(line: str) -> bool:
    return any(words in line for words in _TRACE_BEGINS)


def _tells(line: str) -> bool:
    lowered = line.lower()
    return any(word in lowered for word in _TELLING)


def _environment() -> dict[str, str]:
    environ = dict(os.environ, GGML_NO_BACKTRACE="1")
    if "OMP_WAIT_POLICY" not in environ:
        # Threads of llama.cpp wait for each other after every operation. Sleeping at once makes a
        # step several times as long. Spinning for the default time takes the processor from the
        # thread that is waited for, as soon as anything else runs on the machine.
        environ.setdefault("GOMP_SPINCOUNT", _SPINS if _is_x86() else _SPINS_ELSEWHERE)
    return environ


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "x86", "i686")


def _has_room(pipe: IO[bytes]) -> bool:
    """Whether a short frame can be written without waiting for the reader."""
    if not hasattr(select, "poll"):  # Windows, where no process can be stopped either
        return True
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    # Any event counts, also an error: the write that follows reports a pipe without a reader.
    return any(events for _, events in poll.poll(0))
