"""``offgrid stats``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import api_key_option, config_options, fail
from offgrid.cli.output import print_table, short_number
from offgrid.cli.talk.options import ca_option, server_of
from offgrid.cli.talk.remote import Remote, ServerError
from offgrid.terminal import shown

if TYPE_CHECKING:
    from offgrid.api.shapes import Json

_HEAD = (
    "MODEL", "STATE", "RUNNING", "WAITING", "CELLS", "MEMORY", "IN/S", "OUT/S", "FIRST", "TOKEN",
    "CACHED", "DRAFTS",
)  # fmt: skip
_NUMBERS = tuple(range(2, len(_HEAD)))
"""Columns of the table with numbers."""
_EVERY = 2.0
"""Seconds between two looks with ``--watch``."""


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the server as JSON.")
@click.option("--watch", is_flag=True, help="Repeat every 2 seconds until Ctrl-C is pressed.")
@click.option("--url", metavar="URL", help="The server's address, instead of the configured one.")
@ca_option
@api_key_option
@config_options
def stats(
    as_json: bool,
    watch: bool,
    url: str | None,
    ca: str | None,
    api_key: str | None,
    **flags: Any,
) -> None:
    """Show requests, tokens, times and memory of the server.

    The exit status is 0, and 1 if no server answers.
    """
    try:
        remote = server_of(url, flags, api_key, ca)
        try:
            _show(remote, as_json=as_json, watch=watch)
        finally:
            remote.close()
    except ServerError as ex:
        fail(str(ex), 1)


def _show(remote: Remote, *, as_json: bool, watch: bool) -> None:
    while True:
        answer = remote.own("/v1/stats", lambda answer: answer.get("object") == "stats")
        if watch:
            click.clear()  # does nothing unless the output is a terminal
        if as_json:
            click.echo(json.dumps(answer, indent=None if watch else 2))
        else:
            _print(remote.url, answer)
        if not watch:
            return
        time.sleep(_EVERY)


def _print(url: str, answer: Json) -> None:
    total, rates = answer["total"], answer["throughput"]
    tokens = total["tokens"]
    rows = [
        ("server", f"{url}, version {shown(answer['version'])}, {shown(answer['status'])}, "
         f"up for {_time(answer['uptime'])}"),
        ("requests", f"{total['requests']:,} ({_classes(total['endpoints'])}) since "
         f"{time.strftime('%Y-%m-%d', time.localtime(total['since']))}"),
        ("tokens", f"{short_number(tokens['prompt'])} in, {short_number(tokens['cached'])} of them "
         f"cached; {short_number(tokens['completion'])} out"),
        ("speed", f"{rates['prompt']:.1f} tokens/s in, {rates['completion']:.1f} out, in the last "
         "minute"),
        ("places", f"{answer['places']['taken']} of {answer['places']['total']} taken"),
        *_of_machine(answer),
        *_of_keys(total["keys"]),
    ]  # fmt: skip
    for name, text in rows:
        click.echo(f"{name:<9} {text}")
    if answer["models"]:
        click.echo()
        print_table([_HEAD, *map(_row, answer["models"])], _NUMBERS)


def _classes(endpoints: list[Json]) -> str:
    classes: dict[str, int] = {}
    for one in endpoints:
        classes[one["status"]] = classes.get(one["status"], 0) + one["count"]
    return ", ".join(f"{name}: {count:,}" for name, count in sorted(classes.items())) or "none"


def _of_machine(answer: Json) -> list[tuple[str, str]]:
    rows = []
    process, machine = answer["server"], answer["machine"]
    if process is not None:
        rows.append((
            "process",
            f"{_size(process)}, {process['cpus']:.2f} processors, {process['threads']} threads",
        ))  # fmt: skip
    if machine is not None:
        rows.append((
            "machine",
            f"{_bytes(machine['available'])} of {_bytes(machine['memory'])} memory available, "
            f"{machine['cpus']} processors",
        ))  # fmt: skip
        rows += [
            ("disk", f"{shown(disk['place'])}: {_bytes(disk['free'])} free")
            for disk in machine["disks"]
        ]
        rows += [
            ("gpu", f"{shown(gpu['name'])}: {_bytes(gpu['free'])} of {_bytes(gpu['total'])} free")
            for gpu in machine["gpus"]
        ]
    return rows


def _of_keys(keys: list[Json]) -> list[tuple[str, str]]:
    return [
        ("key", f"{shown(key['name'] or key['id'])}: {key['requests']:,} requests, "
         f"{short_number(key['prompt'])} tokens in, {short_number(key['completion'])} out")
        for key in keys
    ]  # fmt: skip


def _row(model: Json) -> tuple[str, ...]:
    tokens, drafts, latency = model["tokens"], model["drafts"], model["latency"]
    process = model["process"]
    return (
        shown(model["id"]),
        shown(model["state"]),
        f"{model['running']}/{model['slots']}",
        f"{model['waiting']}/{model['queue']}",
        _percent(model["cells"]["used"], model["cells"]["total"]),
        "" if process is None else _size(process),
        f"{model['throughput']['prompt']:.1f}",
        f"{model['throughput']['completion']:.1f}",
        _milliseconds(latency["first_token"]),
        _milliseconds(latency["per_token"]),
        _percent(tokens["cached"], tokens["prompt"]),
        _percent(drafts["accepted"], drafts["proposed"]),
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def _milliseconds(percentiles: Json | None) -> str:
    """Return the median and the 99th percentile."""
    if percentiles is None:
        return ""
    return f"{1000 * percentiles['p50']:.0f}..{1000 * percentiles['p99']:.0f} ms"


def _size(process: Json) -> str:
    return _bytes(process["rss"] if process["pss"] is None else process["pss"])


def _bytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"
