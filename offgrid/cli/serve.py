"""``offgrid serve``."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import threading
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

from offgrid import __version__
from offgrid.cli.options import fail, setting_options, settings_from
from offgrid.config import Settings
from offgrid.errors import ConfigError, OffgridError
from offgrid.server import Server
from offgrid.terminal import LogFormatter, log_failed_threads, shown


@click.command()
@setting_options
def serve(**flags: Any) -> None:
    """Serve models over HTTP until Ctrl-C is pressed."""
    settings = settings_from(flags)
    _configure_logging(settings.log_level)
    try:
        server = Server(settings)
    except ConfigError as ex:
        fail(str(ex), 2)
    except OffgridError as ex:
        fail(str(ex), 1)
    # Print file names literally, not as markup.
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

    def announce() -> None:
        _print_banner(console, server, settings)
        threading.Thread(
            target=_announce_model, name="announcer", args=(console, server), daemon=True
        ).start()

    server.run(announce)


def _configure_logging(level: str) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False)
        handler.setFormatter(LogFormatter("%(message)s"))
    else:
        handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log_failed_threads()
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # waitress warns about every request that waits for a thread; our queue has its own limits.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    if level != "debug":  # It reports every client that disconnects before its answer.
        logging.getLogger("waitress").setLevel(logging.WARNING)


def _print_banner(console: Console, server: Server, settings: Settings) -> None:
    entries = server.catalogue.entries()
    names = ", ".join(shown(entry.id) for entry in entries[:8])
    names += " ..." if len(entries) > 8 else ""
    absent = "" if settings.models_dir.is_dir() else " (does not exist)"
    model = server.pool.default_id or "MODEL"
    hello: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    # JSON has its own escapes for characters that cannot be shown.
    body = shlex.quote(json.dumps(hello, ensure_ascii=not model.isprintable()))
    console.print(f"OffGrid LLM {__version__} at {server.url}", style="bold")
    console.print(f"  models   {names or 'none'}")
    console.print(f"  folder   {shown(settings.models_dir)}{absent}")
    slots, queue = settings.parallel, settings.queue_size
    console.print(f"  slots    {slots} per model, plus a queue of {queue}")
    console.print(f"  try      curl {server.url}/v1/chat/completions -d {body}")
    console.print("  stop     Ctrl-C")


def _announce_model(console: Console, server: Server) -> None:
    """Print that the default model is ready, or log why it cannot be loaded."""
    model = server.pool.default_id
    if model is None:
        return
    try:
        info = server.pool.engine(model).info
    except OffgridError as ex:
        # A user who stops the server during loading knows why the model is not ready.
        if not server.stopping:
            logging.getLogger(__name__).error("%s: %s", model, ex)
        return
    console.print(
        f"  ready    {shown(model)}: {info.n_params / 1e6:,.1f} million parameters, "
        f"context of {info.n_ctx} tokens per slot, "
        f"{info.kv_bytes / 2**20:.0f} MiB for all slots"
    )
