"""The server of ``offgrid serve``: its socket, its signals and an orderly shutdown."""

from __future__ import annotations

import _thread
import contextlib
import errno
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import psutil

from offgrid.api.http.waitress.server import BACKLOG, HttpServer
from offgrid.app import CLOSE_SECONDS, build_app, make_collaborators
from offgrid.config import Settings
from offgrid.errors import OffgridError
from offgrid.terminal import shown

log = logging.getLogger(__name__)

_SEND_BUFFER = 1 << 17
"""Size of a connection's send buffer in bytes; Linux doubles it. By default the buffer grows to
megabytes, and a hundred clients that read nothing keep the processor busy filling theirs."""
_FLUSH_SECONDS = 5.0
"""How long the server waits at its end until the last bytes of the answers are sent."""


class PortTaken(OffgridError):
    """The server cannot listen on the address. ``reason`` says why, ``fix`` what to do."""

    def __init__(self, host: str, port: int, why: object, fix: str = "") -> None:
        self.reason = f"cannot listen on {host}:{port}: {why}"
        self.fix = fix
        super().__init__(f"{self.reason}; {fix}" if fix else self.reason)


def port_holder(port: int) -> str:
    """Return the end of a sentence that names the process which listens on a TCP port; empty if
    this user may not know it."""
    # The system may hide the connections of other users, or all of them.
    with contextlib.suppress(psutil.Error, OSError, RuntimeError):
        for connection in psutil.net_connections("tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN
            if is_listening and connection.laddr.port == port and connection.pid:
                words = psutil.Process(connection.pid).cmdline()[:3]
                return f" by process {connection.pid} ({shown(' '.join(words))})"
    return ""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. TCP keep-alive detects clients that vanish without closing.

    Raises:
        PortTaken: the address is in use, or it does not belong to this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as ex:
        raise PortTaken(host, port, ex.strerror or ex) from ex
    except UnicodeError as ex:  # the text cannot be a host name
        raise PortTaken(host, port, ex) from ex
    try:
        if os.name != "nt":  # on Windows this would let a second server take over the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        for name, value in (
            ("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 20_000),
        ):  # fmt: skip
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as ex:
        sock.close()
        raise _taken(host, port, ex) from ex
    return sock


def _taken(host: str, port: int, ex: OSError) -> PortTaken:
    why = ex.strerror or ex
    if ex.errno == errno.EADDRINUSE:
        fix = "stop the other program, or choose another port: --port 0 picks a free one"
        return PortTaken(host, port, f"{why}{port_holder(port)}", fix)
    if ex.errno == errno.EACCES:
        return PortTaken(host, port, why, "choose a port above 1023, such as --port 11611")
    return PortTaken(host, port, why)


class Server:
    """The HTTP server of ``offgrid serve``.

    Args:
        settings: checked settings.

    Attributes:
        loading: ids of the models that it began to load when it was started.

    Raises:
        ConfigError: the default model does not exist.
        PortTaken: the server cannot listen on the address.
    """

    def __init__(self, settings: Settings) -> None:
        made = make_collaborators(settings)
        self.settings, self.catalogue, self.pool, self.responses = made[:4]
        self.background, self.imports = made.background, made.imports
        sock = listen(settings.host, settings.port)
        self.port: int = sock.getsockname()[1]
        self.http = HttpServer(build_app(*made), sock, settings)
        self._loop = threading.Thread(target=self.http.run, name="http", daemon=True)
        self.loading: list[str] = []
        self._draining = False
        self._drained = False

    @property
    def url(self) -> str:
        """The URL of the server."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}"

    @property
    def stopping(self) -> bool:
        """Whether a signal has told :meth:`run` to end."""
        return self._draining

    def run(self, announce: Callable[[], None] = lambda: None) -> None:
        """Serve until Ctrl-C or another signal, then let running answers finish.

        Call it in the main thread only. ``docs/CONFIGURATION.md`` describes each signal.

        Args:
            announce: called when clients can connect and signals are handled: a program that reads
                its output may send a signal at once.
        """
        self.loading = self.pool.start()
        self._handle_signals()
        announce()
        self.http.run()

    def start(self) -> None:
        """Serve in a thread of this process, without handling signals; :meth:`stop` ends it."""
        self._loop.start()
        self.loading = self.pool.start()

    def stop(self) -> None:
        """Refuse new requests, let running ones finish, end. After :meth:`start`. Idempotent."""
        if self._drained:
            return
        self._drain()
        self.http.close()
        self._loop.join(_FLUSH_SECONDS)

    def _handle_signals(self) -> None:
        """Handle each signal that people send to servers: the default would end the process."""
        hangup = self._on_signal if _has_terminal() else self._on_hangup
        for name, handler in (
            ("SIGINT", self._on_signal), ("SIGTERM", self._on_signal), ("SIGQUIT", self._on_signal),
            ("SIGHUP", hangup), ("SIGUSR2", self._on_unused),
        ):  # fmt: skip
            number = getattr(signal, name, None)
            # nohup makes a program ignore SIGHUP, so that it outlives its terminal: keep that.
            if number is not None and not (name == "SIGHUP" and _is_ignored(number)):
                signal.signal(number, handler)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._on_unused)
            # The C handler writes the stacks itself, so it works even when all threads are stuck.
            # Standard error may have no file descriptor; then there is nowhere to write to.
            with contextlib.suppress(Exception):
                faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._drained:
            # On this exception waitress ends its loop and its threads.
            raise SystemExit(0)
        if not self._draining:
            self._draining = True
            threading.Thread(target=self._drain_and_exit, name="drain", daemon=True).start()
        # When a terminal closes, both the system and the shell may send SIGHUP: ignore the second.
        elif number != getattr(signal, "SIGHUP", None):
            _tell("stopped immediately; running requests were cut off")
            os._exit(130)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        # Log in another thread: the signal may have interrupted this one in a log line.
        threading.Thread(target=self._look_anew, name="signal-log", daemon=True).start()

    def _look_anew(self) -> None:
        log.info(
            "SIGHUP: %s holds %d models; models are read at each request, settings at start",
            ", ".join(map(str, self.catalogue.places)),
            len(self.catalogue.entries()),
        )

    def _on_unused(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        threading.Thread(
            target=log.info, name="signal-log", args=("%s has no effect", name), daemon=True
        ).start()

    def _drain_and_exit(self) -> None:
        self.pool.drain()
        if self._busy():
            _tell("finishing running requests; press Ctrl-C again to stop immediately")
        else:
            _tell("stopping")
        self._drain()
        # The loop needs both: the signal, and an event that ends its wait for sockets.
        _thread.interrupt_main()
        self.http.wake()

    def _busy(self) -> bool:
        """Whether a request is unanswered, or an answer is generated in the background."""
        return self.http.unsent or any(client.in_flight for client in self.pool.loaded())

    def _drain(self) -> None:
        """Stop the pool and wait until the sockets have sent the last answers."""
        # The next import continues where this one stops.
        self.imports.close(CLOSE_SECONDS)
        self.pool.shutdown(self.settings.drain_timeout)
        self.background.close(CLOSE_SECONDS)
        deadline = time.monotonic() + _FLUSH_SECONDS
        pause = threading.Event()
        while self.http.unsent and time.monotonic() < deadline:
            pause.wait(0.02)
        self._drained = True


def _has_terminal() -> bool:
    """Whether the process was started from a terminal, even if its streams are redirected."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):
                return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _tell(message: str) -> None:
    """Write a line to standard error, even while the main thread writes there.

    Ctrl-C ends every program of a pipeline. In ``offgrid serve 2>&1 | tee log`` the reader has
    ended by now, and running answers must still finish.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"{message}\n".encode())
