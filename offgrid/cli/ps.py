"""``offgrid ps``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import api_key_option, config_options, fail
from offgrid.cli.output import print_table
from offgrid.cli.talk.options import ca_option, server_of
from offgrid.cli.talk.remote import Remote, ServerError
from offgrid.terminal import shown

if TYPE_CHECKING:
    from offgrid.api.shapes import Json

_HEAD = ("MODEL", "STATUS", "MEMORY", "SLOTS", "CONTEXT", "FLASH", "THREADS", "SEQUENCES", "UNTIL")
_NUMBERS = (2, 3, 4, 6, 7)
"""Columns of the table with numbers."""
_DAY = 86400


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the server as JSON.")
@click.option("--url", metavar="URL", help="The server's address, instead of the configured one.")
@ca_option
@api_key_option
@config_options
def ps(as_json: bool, url: str | None, ca: str | None, api_key: str | None, **flags: Any) -> None:
    """Show which models the running server has loaded.

    The exit status is 0, also if no model is loaded, and 1 if no server answers.
    """
    try:
        remote = server_of(url, flags, api_key, ca)
        loaded = _loaded(remote)
    except ServerError as ex:
        fail(str(ex), 1)
    if as_json:
        click.echo(json.dumps({"url": remote.url, "models": loaded}, indent=2))
    elif not loaded:
        click.echo(f"The server at {remote.url} has loaded no model.")
    else:
        print_table([_HEAD, *map(_row, loaded)], _NUMBERS)


def _loaded(remote: Remote) -> list[Json]:
    try:
        answer = remote.own("/v1/loaded", lambda answer: isinstance(answer.get("data"), list))
    finally:
        remote.close()
    loaded: list[Json] = answer["data"]
    return loaded


def _row(model: Json) -> tuple[str, ...]:
    context = model.get("ctx_size")
    return (
        _named(model),
        str(model["status"]),
        _size(model.get("memory")),
        str(model["slots"]),
        "" if context is None else f"{context:,}",
        _switch(model.get("flash_attention")),
        _threads(model.get("threads")),
        str(model["sequences"]),
        _until(model),
    )


def _named(model: Json) -> str:
    """Return a model's id, with the file of its draft model."""
    draft = model.get("draft_model")
    return shown(model["id"] if draft is None else f"{model['id']} (drafts: {draft})")


def _until(model: Json) -> str:
    until = model.get("until")
    if model["status"] == "unloading":
        return "answered"
    return "no limit" if until is None else _clock(until)


def _switch(on: bool | None) -> str:
    return "" if on is None else "on" if on else "off"


def _threads(threads: dict[str, int] | None) -> str:
    """Return the number of threads, or both numbers if decode and prefill use different ones."""
    return "" if threads is None else "/".join(map(str, dict.fromkeys(threads.values())))


def _size(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _clock(until: float) -> str:
    """Return a time of day and how far it is; the date if that is more than a day."""
    left = max(0.0, until - time.time())
    if left > _DAY:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(until))
    return f"{time.strftime('%H:%M', time.localtime(until))} (in {round(left / 60)} min)"
