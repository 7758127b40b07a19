"""``offgrid cluster haproxy``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import click

from offgrid.cli.cluster.haproxy import Machine, Options, configuration
from offgrid.cli.cluster.machines import NoMachines, given, known
from offgrid.cli.help import Command
from offgrid.cli.options import fail
from offgrid.cli.peers.asking import server_options
from offgrid.cli.talk.remote import Remote
from offgrid.terminal import shown

_BIND = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.*-]*):\d{1,5}")
_UNKNOWN = re.compile(r"could not resolve address '([^']*)'")
_ELSEWHERE = ("/usr/sbin", "/usr/local/sbin")
"""Folders of HAProxy that are not on the PATH of every user."""


@click.command(cls=Command, short_help="Write the configuration of HAProxy for several machines.")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option(
    "--bind", default=Options.bind, metavar="[ADDRESS]:PORT", help="Where clients connect.",
    show_default=True,
)  # fmt: skip
@click.option("--output", "-o", metavar="FILE", help="Write to this file, not to standard output.")
@click.option("--check", is_flag=True, help="Let the haproxy program check the configuration.")
@click.option(
    "--slots",
    type=click.IntRange(1, 256),
    default=Options.slots,
    metavar="N",
    show_default=True,
    help="Requests that a machine answers at the same time, as its --parallel says.",
)
@click.option(
    "--balance",
    type=click.IntRange(101, 1000),
    default=Options.balance,
    metavar="PERCENT",
    help="Most requests of a machine, compared with the mean of all.",
    show_default=True,
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    default="",
    help="PEM file with a certificate and its key, for clients that use HTTPS.",
)
@click.option(
    "--machine-ca",
    metavar="FILE",
    default="",
    help="PEM file with the issuer of the machines' certificates, if they speak HTTPS.",
)
@click.option(
    "--admin-socket",
    metavar="PATH",
    default="",
    help="Unix socket for commands to HAProxy, such as draining a machine.",
)
@click.option(
    "--dns",
    is_flag=True,
    help="Let HAProxy ask DNS for the machines' names again and again, to follow their addresses.",
)
@click.option(
    "--no-stored-responses",
    "spread",
    is_flag=True,
    help="Spread all of /v1/responses; for machines with --max-responses 0.",
)
@click.option(
    "--api-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Port of the peers' API, if it is not that of the running server.",
)
@server_options
def haproxy(
    addresses: tuple[str, ...],
    bind: str,
    output: str | None,
    check: bool,
    slots: int,
    balance: int,
    tls_cert: str,
    machine_ca: str,
    admin_socket: str,
    dns: bool,
    spread: bool,
    api_port: int | None,
    remote: Callable[[], AbstractContextManager[Remote]],
) -> None:
    """Write a configuration of HAProxy 2.6 or newer for machines that serve the same models.

    ADDRESS is where a machine's API listens, such as 10.0.0.1:11611. Without one, the machines are
    the running server and its peers.
    """
    if not _BIND.fullmatch(bind) or not 0 < int(bind.rpartition(":")[2]) < 1 << 16:
        raise click.UsageError(f"--bind: {bind!r} is no address; give one like :11610")
    if addresses and api_port is not None:
        raise click.UsageError("--api-port is for peers; give the port with each ADDRESS")
    socket = _path("--admin-socket", admin_socket)
    if "," in socket:
        raise click.UsageError(
            f"--admin-socket: HAProxy takes no path with a comma: {socket}; choose another path"
        )
    options = Options(
        bind, balance, slots, _path("--tls-cert", tls_cert), _path("--machine-ca", machine_ca),
        socket, stores=not spread, dns=dns,
    )  # fmt: skip
    machines = _machines(addresses, api_port, remote)
    if dns and not any(machine.is_named for machine in machines):
        raise click.UsageError(
            "--dns is for machines with names, and these have addresses only; leave it out, or "
            "give names"
        )
    text = configuration(machines, options)
    if check:
        _check(text)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as ex:
        fail(f"{output}: {ex.strerror or ex}", 1)
    number = "1 machine" if len(machines) == 1 else f"{len(machines)} machines"
    click.echo(f"wrote {shown(output)}: {number}", err=True)


def _machines(
    addresses: tuple[str, ...],
    api_port: int | None,
    remote: Callable[[], AbstractContextManager[Remote]],
) -> list[Machine]:
    try:
        if addresses:
            return given(addresses)
        with remote() as server:
            peers = server.own("/v1/peers", lambda answer: "self" in answer)
            return known(peers, server.url, api_port, _warn)
    except NoMachines as ex:
        fail(str(ex), 2)


def _path(option: str, given: str) -> str:
    """Return a path as HAProxy needs it, which may run in another folder."""
    if any(not character.isprintable() for character in given):
        raise click.UsageError(f"{option}: a path with control characters cannot be used")
    return str(Path(given).expanduser().absolute()) if given else ""


def _warn(message: str) -> None:
    click.echo(f"offgrid: {shown(message)}", err=True)


def _check(text: str) -> None:
    """End with status 1 if HAProxy does not accept a configuration; print what it warns of."""
    folders = os.pathsep.join((os.environ.get("PATH", ""), *_ELSEWHERE))
    program = shutil.which("haproxy", path=folders)
    if program is None:
        fail("--check needs the program haproxy; install it, on Debian: apt install haproxy", 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "haproxy.cfg"
        file.write_text(text, encoding="utf-8")
        ended = subprocess.run([program, "-c", "-f", str(file)], capture_output=True)
    lines = ended.stderr.decode(errors="replace").replace(str(file), "line").splitlines()
    if ended.returncode:
        said = _said(lines, "ALERT")
        why = said[0] if said else f"status {ended.returncode}"
        fail(f"HAProxy does not accept the configuration: {why}", 1)
    for warning in _warnings(_said(lines, "WARNING")):
        _warn(warning)


def _said(lines: Iterable[str], level: str) -> list[str]:
    """Return HAProxy's messages of a level."""
    return [line.partition(" : ")[2] for line in lines if line.startswith(f"[{level}]")]


def _warnings(said: Iterable[str]) -> list[str]:
    """Return HAProxy's warnings, with one for each name that is not known, which it has twice."""
    warnings = []
    for message in said:
        unknown = _UNKNOWN.search(message)
        warnings.append(
            f"HAProxy warns: {message}" if unknown is None
            else f"the name {unknown[1]} is not known on this machine; a HAProxy that cannot find "
            "its address when it starts leaves this machine out"
        )  # fmt: skip
    return list(dict.fromkeys(warnings))
