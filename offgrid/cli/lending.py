"""What ``offgrid rpc-worker`` does: it listens for peers, and says what it lends."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from offgrid import __version__
from offgrid.cli.lendable import Lendable
from offgrid.cli.options import fail
from offgrid.cli.serving import configure_logging
from offgrid.config import Settings
from offgrid.engine.memory import written
from offgrid.errors import ConfigError, OffgridError
from offgrid.listening import listen
from offgrid.peers.book import Book
from offgrid.peers.contexts import ServerContexts
from offgrid.peers.identity import load_identity, write_private
from offgrid.peers.rpc import STATUS_FILE
from offgrid.peers.rpc_tensors import TensorCache
from offgrid.rpc.child import Child, Started, program_of
from offgrid.rpc.lender import Lender, Terms
from offgrid.startup import prepare_process
from offgrid.store.hashes import Hashes

log = logging.getLogger("offgrid.rpc")
_EVERY = 2.0
"""Seconds between two looks at the book of peers, and two reports of the free memory."""
_TENSORS = "rpc-tensors"
"""Folder of tensors of this machine's models, beside that of saved prefixes."""
_FIX = "stop the other program, or choose another port with --rpc-port"


def lend_memory(settings: Settings) -> None:
    """Lend until a signal comes; exit with a message if that is not possible."""
    configure_logging(settings)
    prepare_process()
    try:
        identity = load_identity(settings.peers_dir, settings.peers_name)
        book = Book(settings.peers_dir)
        contexts = ServerContexts(identity, book)
        started = _try_out(settings)
        listener = listen(settings.rpc_host, settings.rpc_port, _FIX)
    except ConfigError as ex:
        fail(str(ex), 2)
    except OffgridError as ex:
        fail(f"this machine cannot lend memory: {ex}", 1)

    def name_of(fingerprint: str) -> str | None:
        peer = book.by_fingerprint(fingerprint)
        return None if peer is None else peer.name

    cache = TensorCache(
        settings.cache_dir.with_name(_TENSORS),
        settings.rpc_cache_mb,
        Hashes.beside(settings.responses_file),
        lambda folder: _start(settings, str(folder), fills=True),
    )
    lendable = Lendable(started.devices, lambda working: _try_out(settings, working).devices)
    lender = Lender(
        listener,
        Terms(
            context=lambda: contexts.context,
            name_of=name_of,
            tensors=cache.session,
            start=lambda folder: _start(settings, folder),
            devices=lendable.devices,
            free=lendable.of,
            started=started,
        ),
    )
    port = int(listener.getsockname()[1])
    _print_banner(settings, book, started, lendable, port)
    with (
        _status_file(settings.peers_dir, started, lendable, port),
        _reading(book),
    ):
        was_told = _run_until_signal(lender)
    if not was_told:
        fail("this machine lends no memory any more: the log says why", 1)


def _try_out(settings: Settings, working: Callable[[], None] = lambda: None) -> Started:
    """Start a process as for a session, and end it; return what it has said.

    Args:
        settings: the settings.
        working: called now and then until it has said something.

    Raises:
        RpcError: it cannot serve.
    """
    child = _start(settings, working=working)
    child.end()
    return child.started


def _start(
    settings: Settings,
    folder: str = "",
    *,
    fills: bool = False,
    working: Callable[[], None] = lambda: None,
) -> Child:
    """Start a process that computes.

    Args:
        settings: the settings.
        folder: from which it reads large tensors; empty for none.
        fills: whether it may write there.
        working: called now and then until it serves.

    Raises:
        RpcError: it cannot serve.
    """
    job = {
        "rpc_library": "" if settings.rpc_library is None else str(settings.rpc_library),
        "threads": settings.threads,
        "cache_dir": folder,
        "fills": fills,
    }
    return Child(program_of(os.getpid(), json.dumps(job)), log.debug, working)


def _print_banner(
    settings: Settings, book: Book, started: Started, lendable: Lendable, port: int
) -> None:
    names = ", ".join(peer.name for peer in book.all()) or "none yet: run offgrid peers pair"
    click.echo(f"OffGrid RPC worker {__version__} at {settings.rpc_host}:{port}")
    devices = "1 device" if len(started.devices) == 1 else f"{len(started.devices)} devices"
    click.echo(f"  lends    {written(lendable.free)} of memory, {devices}")
    click.echo(f"  build    {started.build}")
    click.echo(f"  peers    {names}")
    click.echo("  stop     Ctrl-C")


def _run_until_signal(lender: Lender) -> bool:
    """Serve on another thread, so that signals are handled at once; return whether one has ended
    it, and not an error."""
    ended, failed = threading.Event(), threading.Event()

    def serve() -> None:
        try:
            lender.run()
        except Exception:
            log.exception("the RPC worker cannot go on")
            failed.set()
            ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=serve, name="rpc-lender", daemon=True).start()
    while not ended.wait(_EVERY):
        pass
    lender.close()
    return not failed.is_set()


@contextlib.contextmanager
def _reading(book: Book) -> Iterator[None]:
    """Read the book again when the server of this machine has paired or forgotten a peer."""
    ended = threading.Event()

    def look() -> None:
        told = ""
        while not ended.wait(_EVERY):
            try:
                book.reload_if_changed()
                told = ""
            except ConfigError as ex:
                if str(ex) != told:
                    told = str(ex)
                    log.warning("a change of the peers is not in force yet: %s", told)

    threading.Thread(target=look, name="rpc-book", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextlib.contextmanager
def _status_file(folder: Path, started: Started, lendable: Lendable, port: int) -> Iterator[None]:
    """Keep a file that tells the server of this machine what is lent."""
    path, ended = folder / STATUS_FILE, threading.Event()

    def write() -> None:
        while True:
            data = {
                "pid": os.getpid(), "port": port, "version": __version__, "build": started.build,
                "memory_free": lendable.free, "time": int(time.time()),
            }  # fmt: skip
            with contextlib.suppress(OSError):  # it only informs
                write_private(path, msgspec.json.encode(data))
            if ended.wait(5 * _EVERY):
                return

    thread = threading.Thread(target=write, name="rpc-status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)
