"""The server of ``offgrid serve``: its socket, its signals and an orderly shutdown."""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from offgrid.addresses import url, urls
from offgrid.api.http.machines import check_address
from offgrid.api.http.waitress.peers import PeersPort
from offgrid.api.http.waitress.server import HttpServer
from offgrid.api.http.waitress.tls import Certificate
from offgrid.app import CLOSE_SECONDS, build_app
from offgrid.collaborators import make_collaborators
from offgrid.config import Commit, Settings
from offgrid.errors import ConfigError, OffgridError
from offgrid.listening import ListeningSocket, listen, listen_for_ollama
from offgrid.service.notify import Heartbeat, ready, reloading, stopping, watchdog_interval
from offgrid.terminal import JsonFormatter

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 5.0
"""How long the server waits at its end until the last bytes of the answers are sent."""


_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Address that stands for all addresses -> one of them."""


class Server:
    """The HTTP server of ``offgrid serve``.

    Args:
        settings: checked settings.
        read_settings: reads the settings again, from where ``settings`` came from; raises
            ConfigError. Without it, SIGHUP only reads files again.

    Attributes:
        loading: ids of the models that it began to load when it was started.
        listening: the socket that it listens on.
        reloads: the objects that take new settings at SIGHUP.

    Raises:
        ConfigError: the default model does not exist, the keys file cannot be read, the certificate
            cannot be used, or other machines could use the server without a key.
        PortTaken: the server cannot listen on the address.
    """

    def __init__(
        self, settings: Settings, read_settings: Callable[[], Settings] | None = None
    ) -> None:
        if not settings.socket:
            check_address(settings, settings.host)
        made = make_collaborators(settings)
        self.settings, self.catalogue, self.pool, self.responses = made[:4]
        self.background, self.imports, self.exports = made.background, made.imports, made.exports
        self.access, self.reloads, self.peers = made.access, made.reloads, made.peers
        self.observation = made.observation
        self._read_settings = read_settings
        self._certificate = Certificate.of(settings)
        self.listening = ListeningSocket(settings)
        try:
            # A socket that systemd passes on may have any address.
            if self.listening.path is None:
                check_address(settings, self.listening.host)
            if settings.ollama:  # it listens on host even beside a Unix socket
                check_address(settings, settings.host)
            self._ollama = listen_for_ollama(settings)
            self._peers_port = self._listen_for_peers()
        except BaseException:
            self.listening.close()
            raise
        self.port = self.listening.port
        """Its TCP port; 0 on a Unix socket."""
        self._ollama_port = 0 if self._ollama is None else int(self._ollama.getsockname()[1])
        self.http = HttpServer(
            build_app(*made), self.listening.socket, settings, made.access,
            self.observation.observer.refused, self._certificate,
            [] if self._ollama is None else [self._ollama], self._peers_port,
        )  # fmt: skip
        if self.peers is not None:
            self.peers.book.on_change(self._end_forgotten)
        # The registry keeps the value; it is read there when the server ends.
        self.reloads.add(("drain_timeout",), lambda settings: lambda: None)
        self.reloads.add(("cors_origins",), self.http.prepare)
        self.reloads.add(("tls_cert", "tls_key"), self._prepare_certificate)
        self._loop = threading.Thread(target=self.http.run, name="http", daemon=True)
        self.loading: list[str] = []
        self._draining = False
        self._drained = False

    @property
    def url(self) -> str:
        """The URL of the server; ``unix:`` and a path if it listens on a Unix socket."""
        if self.listening.path is not None:
            return f"unix:{self.listening.path}"
        host = _REACHABLE.get(self.listening.host, self.listening.host)
        return url(self.scheme, host, self.port)

    @property
    def ollama_url(self) -> str | None:
        """The URL of the server on Ollama's port; None if it does not listen there."""
        if self._ollama is None:
            return None
        host = _REACHABLE.get(self.settings.host, self.settings.host)
        return url(self.scheme, host, self._ollama_port)

    def other_urls(self) -> list[str]:
        """Return the URLs that other devices can use; none if only this machine is served."""
        if not self.settings.serves_others or self.listening.path is not None:
            return []
        return urls(self.scheme, self.listening.host, self.port)

    def page_urls(self) -> list[str]:
        """Return the URLs of the web page, also for other devices; none if it is turned off, or if
        the server listens on a Unix socket, which no browser can reach."""
        if not self.settings.ui or self.listening.path is not None:
            return []
        return [f"{address}/ui" for address in (self.url, *self.other_urls())]

    @property
    def scheme(self) -> str:
        """``https`` if it has a certificate, otherwise ``http``."""
        return "http" if self._certificate is None else "https"

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
        self.observation.keeper.start()
        self.loading = self.pool.start()
        self._start_peers()
        self._handle_signals()
        announce()
        ready()
        every = watchdog_interval()
        if every is not None:
            Heartbeat(self.http.in_loop, every).start()
        try:
            self.http.run()
        finally:
            self.listening.remove()

    def start(self) -> None:
        """Serve in a thread of this process, without handling signals; :meth:`stop` ends it."""
        self._loop.start()
        self.observation.keeper.start()
        self.loading = self.pool.start()
        self._start_peers()

    def stop(self) -> None:
        """Refuse new requests, let running ones finish, end. After :meth:`start`. Idempotent."""
        if self._drained:
            return
        self.http.stop_listening()
        self._drain()
        self.http.close()
        self._loop.join(_FLUSH_SECONDS)
        self.listening.remove()

    def _listen_for_peers(self) -> PeersPort | None:
        if self.peers is None:
            return None
        settings = self.settings
        fix = "stop the other program, or choose another port with --peers-port"
        sock = listen(settings.peers_host, settings.peers_port, fix)
        return PeersPort(sock, self.peers.contexts)

    def _end_forgotten(self) -> None:
        """End what runs for machines that were forgotten."""
        assert self.peers is not None
        book = self.peers.book
        self.http.end_requests(lambda fingerprint: book.by_fingerprint(fingerprint) is not None)

    def _start_peers(self) -> None:
        if self.peers is not None and self._peers_port is not None:
            self.peers.start(int(self._peers_port.socket.getsockname()[1]))

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
            self._tell("stopped immediately; running requests were cut off")
            os._exit(130)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        # Work in another thread: the signal may have interrupted this one anywhere.
        threading.Thread(target=self.reload, name="reload", daemon=True).start()

    def _prepare_certificate(self, settings: Settings) -> Commit:
        if (self._certificate is None) != (settings.tls_cert is None):
            raise ConfigError("tls_cert: HTTPS can be turned on or off only by a restart")
        if self._certificate is None:
            return lambda: None
        return self._certificate.prepare(settings)

    def reload(self) -> None:
        """Read settings and files again, and log what has changed. After an error, all of them stay
        as they were."""
        if self._draining:
            return
        reloading()
        try:
            self._reload()
        finally:
            ready()

    def _reload(self) -> None:
        read = self._read_settings or (lambda: self.reloads.settings)
        try:
            done = self.reloads.reload(read())
        except OffgridError as ex:
            log.error("SIGHUP: the settings stay as they were: %s", ex)
            return
        except Exception:
            log.exception("SIGHUP: the settings stay as they were")
            return
        log.info("SIGHUP: read the settings again; %s", done)
        log.info(
            "SIGHUP: %s holds %d models",
            ", ".join(map(str, self.catalogue.places)),
            len(self.catalogue.entries()),
        )

    def _on_unused(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        threading.Thread(
            target=log.info, name="signal-log", args=("%s has no effect", name), daemon=True
        ).start()

    def _drain_and_exit(self) -> None:
        """End the server. Whatever fails meanwhile, it ends."""
        _each(stopping, self.pool.drain, self.http.stop_listening, self._tell_of_the_end)
        self._drain()
        # The loop needs both: the signal, and an event that ends its wait for sockets.
        _thread.interrupt_main()
        self.http.wake()

    def _tell_of_the_end(self) -> None:
        if self._busy():
            self._tell("finishing running requests; press Ctrl-C again to stop immediately")
        else:
            self._tell("stopping")

    def _tell(self, message: str) -> None:
        """Write a line to standard error, even while the main thread writes there.

        Ctrl-C ends every program of a pipeline. In ``offgrid serve 2>&1 | tee log`` the reader has
        ended by now, and running answers must still finish.
        """
        if self.reloads.settings.log_format == "json":
            record = logging.LogRecord(log.name, logging.INFO, __file__, 0, message, None, None)
            message = JsonFormatter().format(record)
        with contextlib.suppress(OSError):
            os.write(2, f"{message}\n".encode())

    def _busy(self) -> bool:
        """Whether a request is unanswered, or an answer is generated in the background."""
        return self.http.unsent or any(client.in_flight for client in self.pool.loaded())

    def _drain(self) -> None:
        """Stop the pool and wait until the sockets have sent the last answers. Errors are logged,
        and keep nothing else from ending."""
        seconds = self.reloads.settings.drain_timeout
        peers = self.peers
        # The next import or export continues where this one stops.
        _each(
            partial(self.imports.close, CLOSE_SECONDS), partial(self.exports.close, CLOSE_SECONDS)
        )
        ends = time.monotonic() + seconds
        _each(partial(self.pool.shutdown, seconds))
        if peers is not None:
            _each(partial(peers.forwarding.drain, ends - time.monotonic()))
        _each(partial(self.background.close, CLOSE_SECONDS), self._flush)
        if peers is not None:
            _each(peers.close)
        _each(self.observation.keeper.close)
        self._drained = True

    def _flush(self) -> None:
        """Wait until the sockets have sent the last answers."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        pause = threading.Event()
        while self.http.unsent and time.monotonic() < deadline:
            pause.wait(0.02)


def _each(*parts: Callable[[], object]) -> None:
    """Do one part of the end after the other; log the error of one that fails."""
    for part in parts:
        try:
            part()
        except Exception:
            log.exception("a part of the end failed; the server ends nevertheless")


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
