"""``offgrid peers pair`` and ``offgrid peers forget``."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from offgrid.cli.help import Command
from offgrid.cli.options import fail
from offgrid.cli.peers.asking import server_options
from offgrid.terminal import shown

if TYPE_CHECKING:
    from offgrid.api.shapes import Json
    from offgrid.cli.talk.remote import Remote

Asked = Callable[[], "AbstractContextManager[Remote]"]
PAIR = "/v1/peers/pair"
PAIR_SECONDS = 40.0
"""How long the server may take to pair with another machine."""
POLL_SECONDS = 1.0
"""How often the server is asked whether the machines are paired."""
_ENDED = {
    "expired": "the code has expired; no machine was paired",
    "closed": "the code was closed; no machine was paired",
    "locked": "five wrong codes were typed, so the code was closed; pairing is locked for ten "
    "minutes",
}


@click.command("pair", cls=Command)
@click.argument("address", required=False, default="")
@click.argument("code", required=False, default="")
@server_options
def pair(address: str, code: str, remote: Asked) -> None:
    """Pair with another machine.

    Run it without arguments on one machine: it prints a code, which is valid for five minutes and
    once. Then type the ADDRESS of that machine and the CODE on the other one. ADDRESS may end with
    a colon and the peers port.

    The exit status is 0 if the machines are paired, and 1 if not.
    """
    if bool(address) != bool(code):
        raise click.UsageError(
            "to pair with a machine that shows a code, give its address and the code; to show a "
            "code here, give neither"
        )
    with remote() as server:
        if address:
            peer = server.send("POST", PAIR, {"address": address, "code": code}, PAIR_SECONDS)
            _tell(peer)
            return
        with _code(server) as opened:
            _tell(_paired(server, opened))


@click.command("forget", cls=Command)
@click.argument("peer")
@server_options
def forget(peer: str, remote: Asked) -> None:
    """Forget a machine: it can do nothing here from now on.

    PEER is an id or a name of 'offgrid peers list'. The other machine is refused when it connects,
    and keeps this one in its list until it is forgotten there too.

    The exit status is 0, and 1 if there is no such peer.
    """
    with remote() as server:
        gone = server.send("DELETE", f"/v1/peers/{quote(peer, safe='')}")
    click.echo(f"forgot {shown(gone['name'])} ({gone['id']})")


class _code:
    """Shows a code while the context lasts, and closes it at its end."""

    def __init__(self, server: Remote) -> None:
        self._server = server

    def __enter__(self) -> Json:
        opened: Json = self._server.send("POST", PAIR, {})
        _show(opened)
        return opened

    def __exit__(self, *error: object) -> None:
        # Also after Ctrl-C. The server may have ended meanwhile, and the code with it.
        with contextlib.suppress(Exception):
            self._server.send("DELETE", PAIR)


def _show(opened: Json) -> None:
    minutes = math.ceil((opened["expires_at"] - time.time()) / 60)
    click.echo(opened["code"])
    click.echo(f"Within {minutes} minutes, type on the other machine one of:", err=True)
    for address in opened["addresses"] or ["ADDRESS"]:
        click.echo(f"  offgrid peers pair {address} {opened['code']}", err=True)
    click.echo("Ctrl-C closes the code.", err=True)


def _paired(server: Remote, opened: Json) -> Json:
    """Wait until a machine is paired; return it. End the command if none can be any more."""
    while True:
        now: Json = server.get(PAIR)
        if now["id"] != opened["id"]:
            fail("another command has opened a newer code; no machine was paired with this one", 1)
        if now["state"] == "paired":
            peer: Json = now["peer"]
            return peer
        if now["state"] != "open":
            fail(_ENDED[now["state"]], 1)
        time.sleep(POLL_SECONDS)


def _tell(peer: Json) -> None:
    click.echo(f"paired with {shown(peer['name'])} ({peer['id']})")
