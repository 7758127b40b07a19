"""What ``offgrid serve`` does: it starts the server, and prints what is served."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from offgrid import __version__
from offgrid.cli.options import fail
from offgrid.cli.output import short_number
from offgrid.collaborators import log_skipped
from offgrid.config import Settings
from offgrid.engine.attention import Choice
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.errors import ConfigError, OffgridError
from offgrid.peers.peers import Peers
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_PATH
from offgrid.terminal import JsonFormatter, LogFormatter, log_failed_threads, shown


def serve_models(settings: Settings, read_settings: Callable[[], Settings]) -> None:
    """Serve until Ctrl-C is pressed; exit with a message if that is not possible.

    Args:
        settings: the settings at start.
        read_settings: reads the settings again; raises ConfigError.
    """
    configure_logging(settings)
    try:
        server = Server(settings, read_settings)
    except ConfigError as ex:
        fail(str(ex), 2)
    except OffgridError as ex:
        fail(str(ex), 1)
    server.reloads.add(("log_level",), lambda new: lambda: _set_level(new.log_level))
    # Print file names literally, not as markup.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

    def announce() -> None:
        _print_banner(console, server, settings)
        threading.Thread(
            target=_announce_models, name="announcer", args=(console, server), daemon=True
        ).start()

    server.run(announce)
    _forget_unwritten()


def _forget_unwritten() -> None:
    """Drop what a closed terminal has not taken, or Python would exit with status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def configure_logging(settings: Settings) -> None:
    """Let log messages appear as the settings say."""
    level = settings.log_level
    handler: logging.Handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    elif sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.setFormatter(LogFormatter("%(message)s"))
    else:
        handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log_failed_threads()
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # waitress warns about every request that waits for a thread; our queue has its own limits.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    _set_level(level)


def _set_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())
    # waitress reports every client that disconnects before its answer.
    waitress = logging.NOTSET if level in ("debug", "trace") else logging.WARNING
    logging.getLogger("waitress").setLevel(waitress)


def _print_banner(console: Console, server: Server, settings: Settings) -> None:
    entries, skipped = server.catalogue.survey()
    names = ", ".join(shown(entry.id) for entry in entries[:8])
    names += " ..." if len(entries) > 8 else ""
    model = server.pool.default_id or "MODEL"
    hello: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    # JSON has its own escapes for characters that cannot be shown.
    body = shlex.quote(json.dumps(hello, ensure_ascii=not model.isprintable()))
    console.print(f"OffGrid LLM {__version__} at {server.url}", style="bold")
    for address in server.other_urls():
        console.print(f"  network  {address}")
    for address in server.page_urls():
        console.print(f"  page     {address}")
    if server.ollama_url is not None:
        console.print(f"  ollama   {server.ollama_url}")
    console.print(f"  models   {names or 'none'}")
    for place in server.catalogue.places:
        absent = "" if os.path.lexists(place) else " (does not exist)"
        name = "folder" if place.is_dir() or absent else "file"
        console.print(f"  {name:<6}   {shown(place)}{absent}")
    if [entry.path for entry in entries] == [STARTER_PATH]:
        console.print(
            "  note     this is the starter, which only shows that the server works; for a real"
        )
        console.print("           model, run: offgrid get smollm2-135m")
        console.print(f"           or copy a GGUF file into {shown(settings.models_dir)}")
    for file in skipped[:8]:
        console.print(f"  skipped  {shown(file.path)}: {shown(file.reason)}")
    if len(skipped) > 8:
        console.print(f"  skipped  {len(skipped) - 8} more; offgrid list names them")
    if len(entries) > 1 and not server.catalogue.start_ids():
        console.print("  loaded   none at start: there are several models and no default;")
        console.print("           each is loaded at its first request")
    slots, queue = settings.parallel, settings.queue_size
    console.print(f"  slots    {slots} per model, plus a queue of {queue}")
    if server.peers is not None:
        console.print(f"  peers    {_about_peers(server.peers)}")
    needs_key = server.access.ring.needed
    if needs_key:
        console.print("  keys     every request needs one; offgrid keys list shows them")
    elif server.settings.serves_others:
        console.print("  keys     none: everybody who can connect may use this server (insecure)")
    key = ' -H "Authorization: Bearer $OFFGRID_API_KEY"' if needs_key else ""
    console.print(f"  try      curl{key} {_address(server)}/v1/chat/completions -d {body}")
    console.print("  stop     Ctrl-C")


def _about_peers(peers: Peers) -> str:
    """Return how other machines find this one, and which ones it knows."""
    named = ", ".join(shown(peer.name) for peer in peers.book.all()[:8])
    place = f"{shown(peers.identity.name)}, port {peers.port}"
    return f"{place}; paired with {named}" if named else f"{place}; to pair: offgrid peers pair"


def _address(server: Server) -> str:
    """Return what follows ``curl`` in a command: an option and the beginning of the URL."""
    path = server.listening.path
    if path is None:
        return server.url
    return f"--unix-socket {shown(shlex.quote(str(path)))} http://localhost"


def _announce_models(console: Console, server: Server) -> None:
    """Print that each model which is loading is ready, or log why it cannot be loaded.

    Log also what is not served. That reads the header of every file, which takes a while on slow
    media.
    """
    log_skipped(server.catalogue)
    for model in server.loading:
        try:
            fit = server.pool.fit(server.catalogue.get(model))
            if fit.fits and fit.estimate is not None:
                console.print(f"  memory   {shown(model)} {fit}")
            info = _wait_for(console, server, model)
        except OffgridError as ex:
            # A user who stops the server during loading knows why the model is not ready.
            if not server.stopping:
                named = f"The model {model} " in str(ex)
                logging.getLogger(__name__).error("%s", ex if named else f"{model}: {ex}")
            continue
        console.print(
            f"  ready    {shown(model)}: {short_number(info.n_params)} parameters, "
            f"context of {info.n_ctx} tokens per slot"
        )
        if info.generates:
            choice = Choice(info.flash_attention, info.attention_reason)
            console.print(f"  compute  {shown(model)}: {choice}")


def _wait_for(console: Console, server: Server, model: str) -> ModelInfo:
    """Wait until a model is loaded. A terminal shows the progress meanwhile.

    Raises:
        OffgridError: it cannot be loaded.
    """
    if not console.is_terminal:
        return server.pool.engine(model).info
    entry = server.catalogue.get(model)
    name = f"  loading  {shown(model)}"
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(name, total=1.0)

        def look() -> bool:
            done = server.pool.status(entry).progress
            if done != bar.tasks[0].completed:
                bar.update(task, completed=done, refresh=True)
            return True

        return server.pool.engine(model, look).info
