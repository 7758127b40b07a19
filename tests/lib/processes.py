"""Programs that tests start as a user does, and their output."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import psutil
from support import TIMEOUT, eventually

ONE_THREAD = {"OFFGRID_NUM_THREADS": "1"}
"""See ``conftest.py``."""


def program(name: str) -> str:
    """The path of a console script that was installed beside this Python."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert path is not None, f"{name} is not installed"
    return path


def run_offgrid(
    *arguments: str, environ: Mapping[str, str] | None = None, command: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``offgrid`` to its end."""
    return subprocess.run(
        [*(command or (program("offgrid"),)), *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **(environ or {})},
        timeout=TIMEOUT,
    )


class Lines:
    """The output that has been read from a pipe so far."""

    def __init__(self, pipe: IO[str] | None) -> None:
        self._lines: list[str] = []
        self._pipe = io.StringIO() if pipe is None else pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            self._lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self._lines)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def find(self, pattern: str) -> re.Match[str]:
        """Wait for a line that matches and return the match."""
        found = None

        def look() -> bool:
            nonlocal found
            ended = self.ended  # read first, so that the last output is searched too
            found = re.search(pattern, self.text)
            assert found or not ended, f"no {pattern!r} in {self.text!r}"
            return found is not None

        eventually(look, f"a line like {pattern!r}")
        assert found is not None
        return found

    def close(self) -> None:
        """Read to the end."""
        self._thread.join(TIMEOUT)
        assert self.ended, "somebody keeps the pipe open"
        self._pipe.close()


def heed_signals() -> None:
    """For ``preexec_fn``: take signals as a program in a terminal does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _is_renderer(process: psutil.Process) -> bool:
    """Whether a process renders templates. One that has ended does not."""
    with contextlib.suppress(psutil.Error):
        return any("offgrid.chat.renderer" in word for word in process.cmdline())
    return False


class Child:
    """A program in a new process group, as a terminal starts it."""

    def __init__(
        self, *command: str, cwd: Path, stderr: int = subprocess.PIPE, **environ: str
    ) -> None:
        # With this set, a program that wrongly buffers its output would pass.
        inherited = {name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**inherited, **ONE_THREAD, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            start_new_session=True,
            # Tests in the background of a shell ignore Ctrl-C, and with nohup SIGHUP too; the
            # program would inherit that.
            preexec_fn=heed_signals,
        )
        self.out = Lines(self.process.stdout)
        self.err = Lines(self.process.stderr)
        self._workers: set[psutil.Process] = set()

    @property
    def url(self) -> str:
        """The URL that the banner prints."""
        return self.out.find(r"OffGrid LLM \S+ at (https?://\S+|unix:.+)\n")[1]

    def wait_ready(self) -> str:
        """Wait until the model is loaded; return the URL."""
        self.out.find("ready")
        return self.url

    def other_port(self) -> int:
        """The port on which a server listens beside that of its URL, such as the peers port."""
        own = urlsplit(self.url).port
        listening = [
            one.laddr.port for one in psutil.Process(self.process.pid).net_connections("inet")
            if one.status == psutil.CONN_LISTEN
        ]  # fmt: skip
        (port,) = [port for port in listening if port != own]
        return int(port)

    def workers(self) -> list[psutil.Process]:
        """The processes that it has started, without the renderer of templates. Each one seen here
        once is also ended by ``end``."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self._workers.update(started)
        return [process for process in started if not _is_renderer(process)]

    def worker(self) -> psutil.Process:
        """Wait for its one worker process and return it. The renderer of templates is none."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = self.workers()
            return len(found) == 1

        eventually(look, "it has one worker")
        return found[0]

    def interrupt(self) -> None:
        """Press Ctrl-C: a terminal sends SIGINT to every process of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        status = self.process.wait(TIMEOUT)
        self.out.close()
        self.err.close()
        return status

    def end(self) -> None:
        """Kill it and its workers, whatever it is doing."""
        # Its workers belong to the group too, which exists while one of its processes does.
        if self.process.poll() is None or any(alive(worker) for worker in self._workers):
            with contextlib.suppress(ProcessLookupError):  # they have just ended
                os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()


Serve = Callable[..., Child]
"""Starts a server with flags and variables."""


def models_flags(folder: Path) -> tuple[str, ...]:
    """The flags that serve a folder; with the starter by name if the folder is empty."""
    empty = not any(folder.rglob("*.[gG][gG][uU][fF]"))
    starter = ("--model", "offgrid-starter") if empty else ()
    return ("--models-dir", str(folder), *starter)


@contextlib.contextmanager
def starting(models: Path, folder: Path) -> Iterator[Serve]:
    """Start ``offgrid serve`` in a folder, on a free port, with the given flags and variables. All
    servers are ended at the end."""
    children: list[Child] = []
    responses = ("--responses-file", str(folder / "responses.sqlite3"))

    def start(*flags: str, **environ: str) -> Child:
        command = (program("offgrid"), "serve", "--port", "0", *models_flags(models), *responses)
        children.append(Child(*command, *flags, cwd=folder, **environ))
        return children[-1]

    try:
        yield start
    finally:
        for child in children:
            child.end()


@contextlib.contextmanager
def serving(folder: Path, *flags: str, **environ: str) -> Iterator[Child]:
    """``offgrid serve`` on a free port, with the starter unless there is a ``models`` folder."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    with starting(models, folder) as start:
        yield start(*flags, **environ)


def comments_arrive(stream: HTTPResponse) -> None:
    """Check that the comments of a waiting stream arrive while the newest worker of this process is
    stopped."""
    workers = [one for one in psutil.Process().children() if is_worker(one)]
    worker = max(workers, key=psutil.Process.create_time)  # numbers of processes begin anew
    worker.suspend()
    try:
        for _ in range(5):
            while not (line := stream.readline()).startswith(b":"):
                assert line
    finally:
        worker.resume()


def is_worker(process: psutil.Process) -> bool:
    """Whether a process has the program of a worker; just after its fork it has the server's, and
    when it has ended, none."""
    with contextlib.suppress(psutil.Error):
        return any("offgrid.engine.worker" in word for word in process.cmdline())
    return False


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(workers: list[psutil.Process]) -> None:
    """Wait until all workers have ended."""
    assert workers
    eventually(lambda: not any(map(alive, workers)), "no worker is left behind")


def all_stopped(pid: int) -> bool:
    """Whether SIGSTOP has stopped every thread of a process."""
    threads = psutil.Process(pid).threads()
    return all(psutil.Process(thread.id).status() == psutil.STATUS_STOPPED for thread in threads)
