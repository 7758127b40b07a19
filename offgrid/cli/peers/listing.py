"""``offgrid peers list``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from offgrid.cli.help import Command
from offgrid.cli.output import echo_wrapped, print_table
from offgrid.cli.peers.asking import server_options
from offgrid.terminal import shown

if TYPE_CHECKING:
    from offgrid.api.shapes import Json
    from offgrid.cli.talk.remote import Remote

_HEAD = (
    "NAME",
    "ID",
    "STATE",
    "VERSION",
    "MODELS",
    "SLOTS",
    "QUEUE",
    "TOKENS/S",
    "SEEN",
    "ADDRESS",
)
_NUMBERS = (4, 5, 6, 7)
"""Columns of the table with numbers."""
_FOUND_HEAD = ("NAME", "ID", "VERSION", "SEEN", "ADDRESS")
_USUAL_PORT = 11612


@click.command("list", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the server as JSON.")
@server_options
def list_(as_json: bool, remote: Callable[[], AbstractContextManager[Remote]]) -> None:
    """List the peers, and machines that were found and are not paired.

    SLOTS shows how many slots are free and how many there are. The exit status is 0, also if there
    are none, and 1 if no server answers or its peers are off.
    """
    with remote() as server:
        answer = server.own("/v1/peers", lambda answer: "self" in answer)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    own = answer["self"]
    click.echo(
        f"This machine: {shown(own['name'])} ({own['id']}), version {own['version']}, "
        f"port {own['port']}"
    )
    _print_peers([one for one in answer["data"] if one["paired"]], own["version"])
    _print_found([one for one in answer["data"] if not one["paired"]])


def _print_peers(peers: list[Json], version: str) -> None:
    if not peers:
        click.echo("It has no peers yet; offgrid peers pair makes some.")
        return
    click.echo()
    print_table([_HEAD, *(_row(one, version) for one in peers)], _NUMBERS)
    for peer in peers:
        if peer["problem"] is not None:
            echo_wrapped(f"{shown(peer['name'])}: ", peer["problem"])
        if peer["models_left_out"]:
            echo_wrapped(
                f"{shown(peer['name'])}: ", f"{peer['models_left_out']:,} models are not listed."
            )


def _print_found(found: list[Json]) -> None:
    if not found:
        return
    click.echo("\nFound, and not paired (anybody on the network can claim these names):")
    rows = [
        (
            shown(one["name"]) or "?", one["id"] or "?", shown(one["version"] or "?"),
            _seen(one["last_seen"]), _address(one),
        )
        for one in found
    ]  # fmt: skip
    print_table([_FOUND_HEAD, *rows])


def _row(peer: Json, version: str) -> tuple[str, ...]:
    is_here = peer["state"] == "connected"
    slots = peer["slots"]
    return (
        shown(peer["name"]),
        peer["id"],
        peer["state"],
        _version(peer["version"], version),
        str(len(peer["models"])) if peer["version"] is not None else "?",
        f"{slots['free']}/{slots['total']}" if is_here else "",
        str(peer["queue"]) if is_here else "",
        f"{peer['tokens_per_second']:.1f}" if is_here else "",
        _seen(peer["last_seen"]),
        _address(peer),
    )


def _version(version: str | None, own: str) -> str:
    """Return the version of a peer, with a note if it is not that of this machine."""
    if version is None:
        return "?"
    return shown(version) if version == own else f"{shown(version)} (differs)"


def _address(machine: Json) -> str:
    """Return where a machine was found last, and its port if it is unusual."""
    if not machine["addresses"]:
        return "?"
    host, port = machine["addresses"][0], machine["port"]
    if port == _USUAL_PORT:
        return shown(host)
    return shown(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _seen(moment: int | None) -> str:
    """Return how long ago a machine was seen."""
    if moment is None:
        return "never"
    seconds = max(0, int(time.time()) - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
