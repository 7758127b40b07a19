"""``offgrid keys``: create, list, change, rotate and revoke keys."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from offgrid.caller import SCOPES, Limits, Scope
from offgrid.cli.help import Command, Group
from offgrid.cli.options import chosen_options, fail, settings_from
from offgrid.cli.output import print_table
from offgrid.config import Settings, did_you_mean, shown_lifetime
from offgrid.errors import ConfigError, OffgridError
from offgrid.filters.source import read_filter
from offgrid.store.catalogue import Catalogue
from offgrid.store.grants import (
    MOST,
    USUAL,
    GrantRefused,
    day,
    described,
    known_models,
    limits_of,
    moment,
    seconds,
    summary,
)
from offgrid.store.keys import Grant, Key, KeyFile, KeyRefused
from offgrid.terminal import shown

T = TypeVar("T")

_HEAD = ("NAME", "ID", "KEY", "SCOPES", "MODELS", "LIMITS", "EXPIRES", "LAST USED")
_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "max_tokens")


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the limits to a command."""
    for option, meaning in reversed((
        ("--requests-per-minute", "Most requests per minute."),
        ("--tokens-per-minute", "Most tokens per minute, of prompts and answers."),
        ("--concurrent-requests", "Most requests at once."),
        ("--max-tokens", "Most tokens of an answer."),
    )):  # fmt: skip
        command = click.option(option, type=int, metavar="N", help=meaning)(command)
    return command


@click.group(cls=Group, short_help="Create, list, change, rotate and revoke keys.")
def keys() -> None:
    """Create, list, change, rotate and revoke the keys with which clients use the server.

    As soon as there is a key, every request needs one. A running server notices each change.
    """


@keys.command("create", cls=Command)
@click.argument("name")
@click.option("--scope", "-s", "scopes", multiple=True, metavar="SCOPE",
              help="What the key allows; repeatable. One of " + ", ".join(sorted(SCOPES))
              + ". Without it: inference and history.")  # fmt: skip
@click.option(
    "--model", "models", multiple=True, metavar="MODEL",
    help="A model that the key is for: an id or an alias; repeatable. Without it: all.",
)  # fmt: skip
@click.option("--expires", default="never", metavar="WHEN",
              help="A time such as 12h or 30d from now, a date such as 2027-01-31 (its first "
              "moment in local time), or never.")  # fmt: skip
@_limit_options
@click.option("--filter-file", metavar="FILE", help="The key's own content filter.")
@click.option("--json", "as_json", is_flag=True, help="Print the key and its properties as JSON.")
@chosen_options("keys_file", "models_dir")
def create(
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    expires: str,
    filter_file: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Create a key. Standard output gets the key, which is shown only this once.

    NAME is for people: it is in lists, logs and statistics.

    The exit status is 0, 1 if the keys file cannot be used, and 2 for wrong arguments.
    """
    limits = _limits(flags)
    settings = settings_from(flags)
    grant = Grant(
        _scopes(scopes) or frozenset(USUAL),
        _models(models, settings) if models else None,
        Limits(**limits),
        _filter_file(filter_file),
        _checked("--expires", lambda: moment(expires)),
    )
    file = _file(settings)
    first = not os.path.lexists(settings.keys_file)
    key, secret = _asked(lambda: file.create(name, grant))
    if as_json:
        click.echo(json.dumps({"key": secret, **described(key)}, indent=2))
        return
    click.echo(f"created {summary(key)}", err=True)
    if first:
        click.echo(
            "From now on every request needs a key, also on this machine and at a running server.",
            err=True,
        )
    click.echo("This is the only time that the key is shown:", err=True)
    click.echo(secret)


@keys.command("list", cls=Command)
@click.option("--all", "everything", is_flag=True, help="List revoked keys, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@chosen_options("keys_file")
def list_(everything: bool, as_json: bool, **flags: Any) -> None:
    """List the keys, without their secrets.

    The exit status is 0, 1 if the keys file cannot be used, and 2 for wrong arguments.
    """
    settings = settings_from(flags)
    path = settings.keys_file
    found = _asked(_file(settings).all) if os.path.lexists(path) else []
    listed = [key for key in found if everything or key.revoked is None]
    if as_json:
        found_keys = [described(key) for key in listed]
        click.echo(json.dumps({"file": str(path), "keys": found_keys}, indent=2))
    elif listed:
        print_table([_HEAD, *map(_row, listed)])
    else:
        more = " --all shows those that were revoked." if found else ""
        click.echo(f"There are no keys in {shown(path)}.{more}")


@keys.command("change", cls=Command)
@click.argument("name")
@click.option("--scope", "-s", "scopes", multiple=True, metavar="SCOPE",
              help="What the key allows from now on, instead of its present scopes; repeatable. "
              "One of " + ", ".join(sorted(SCOPES)) + ".")  # fmt: skip
@click.option(
    "--model", "models", multiple=True, metavar="MODEL",
    help="A model that the key is for, instead of its present ones: an id or an alias; repeatable.",
)  # fmt: skip
@click.option("--all-models", is_flag=True, help="Let the key use all models.")
@click.option("--expires", metavar="WHEN",
              help="A time such as 12h or 30d from now, a date such as 2027-01-31 (its first "
              "moment in local time), or never.")  # fmt: skip
@_limit_options
@click.option("--no-limits", is_flag=True, help="Remove the limits that no other option sets.")
@click.option("--json", "as_json", is_flag=True, help="Print the key's properties as JSON.")
@chosen_options("keys_file", "models_dir")
def change(
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    all_models: bool,
    expires: str | None,
    no_limits: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Change what a key allows. Its secret stays, and so does everything that no option names.

    NAME is a name or an id of 'offgrid keys list'. A running server follows at the next request.

    The exit status is 0, 1 if the keys file cannot be used, and 2 for wrong arguments.
    """
    limits = _limits(flags)
    settings = settings_from(flags)
    changes: dict[str, Any] = {}
    if wanted := _scopes(scopes):
        changes["scopes"] = wanted
    if models and all_models:
        raise click.UsageError("--model and --all-models contradict each other; give one of them")
    if models or all_models:
        changes["models"] = _models(models, settings) if models else None
    if expires is not None:
        changes["expires"] = _checked("--expires", lambda: moment(expires))
    if not (changes or limits or no_limits):
        raise click.UsageError("nothing is to be changed; give --scope, --model, --expires or a "
                               "limit such as --requests-per-minute")  # fmt: skip

    def changed(grant: Grant) -> Grant:
        before = Limits() if no_limits else grant.limits
        return dataclasses.replace(grant, **changes, limits=dataclasses.replace(before, **limits))

    file = _file(settings)
    key = _asked(lambda: file.change(name, changed))
    if as_json:
        click.echo(json.dumps(described(key), indent=2))
    else:
        click.echo(f"changed {summary(key)}")


@keys.command("revoke", cls=Command)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the key's properties as JSON.")
@chosen_options("keys_file")
def revoke(name: str, as_json: bool, **flags: Any) -> None:
    """End a key at once. Running answers to its requests are finished.

    NAME is a name or an id of 'offgrid keys list'. What the key has stored stays on the disk, and
    nobody can read it through the API.

    The exit status is 0, 1 if the keys file cannot be used, and 2 if there is no such key.
    """
    file = _file(settings_from(flags))
    key = _asked(lambda: file.revoke(name))
    left = _asked(file.all)
    if as_json:
        (key,) = (each for each in left if each.id == key.id)
        click.echo(json.dumps(described(key), indent=2))
    else:
        click.echo(f"revoked {shown(key.name)} ({key.id})")
    if not any(each.valid(time.time()) for each in left):
        click.echo(
            "No valid key is left, so the server refuses every request. Create one with 'offgrid "
            "keys create', or stop the server and remove the keys file to serve without keys.",
            err=True,
        )


@keys.command("rotate", cls=Command)
@click.argument("name")
@click.option(
    "--grace", default="0", metavar="TIME",
    help="How long the present secret stays valid, such as 1h. Without it: not at all.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the key and its properties as JSON.")
@chosen_options("keys_file")
def rotate(name: str, grace: str, as_json: bool, **flags: Any) -> None:
    """Replace the secret of a key. Its name, settings and stored responses stay.

    NAME is a name or an id of 'offgrid keys list'. Standard output gets the new key, which is shown
    only this once.

    The exit status is 0, 1 if the keys file cannot be used, and 2 for wrong arguments.
    """
    length = _checked("--grace", lambda: seconds(grace, "such as 1h"))
    file = _file(settings_from(flags))
    key, secret = _asked(lambda: file.rotate(name, length))
    if as_json:
        click.echo(json.dumps({"key": secret, **described(key)}, indent=2))
        return
    old = f"stays valid for {shown_lifetime(length)}" if length else "is not valid any more"
    click.echo(f"rotated {summary(key)}; its former secret {old}", err=True)
    click.echo("This is the only time that the key is shown:", err=True)
    click.echo(secret)


def _file(settings: Settings) -> KeyFile:
    return KeyFile(settings.keys_file)


def _asked(work: Callable[[], T]) -> T:
    """Do work with the keys file; on an error, exit with a message."""
    try:
        return work()
    except KeyRefused as ex:
        fail(str(ex), 2)
    except OffgridError as ex:
        fail(f"{ex} (--keys-file)", 1)


def _scopes(given: Sequence[str]) -> frozenset[Scope]:
    words = [word.strip().lower() for text in given for word in text.split(",")]
    for word in words:
        if word not in SCOPES:
            hint = did_you_mean(word, SCOPES) or "; they are " + ", ".join(sorted(SCOPES))
            raise click.UsageError(f"--scope: there is no scope {word!r}{hint}")
    return frozenset(cast("list[Scope]", words))


def _models(given: Sequence[str], settings: Settings) -> frozenset[str]:
    try:
        return known_models(given, Catalogue(settings), "'offgrid list' shows")
    except GrantRefused as ex:
        # Only the running server knows the models of its peers.
        has_peers = settings.peers_dir.exists()
        others = "; for a model of a peer, use POST /v1/keys" if has_peers else ""
        raise click.UsageError(f"--model: {ex}{others}") from None
    except OffgridError as ex:
        fail(f"--model: the models are not known: {ex}", 2)


def _checked(option: str, check: Callable[[], T]) -> T:
    """Check the value of an option; on an error, exit with a message that names it."""
    try:
        return check()
    except GrantRefused as ex:
        raise click.UsageError(f"{option}: {ex}") from None


def _limits(flags: dict[str, Any]) -> dict[str, int]:
    """Take the limits that are given out of the values of options, checked."""
    given = {field: flags.pop(field) for field in _LIMITS}
    given = {field: number for field, number in given.items() if number is not None}
    for field, number in given.items():
        if not 1 <= number <= MOST:
            option = f"--{field.replace('_', '-')}"
            raise click.UsageError(f"{option}: {number} is not from 1 to {MOST}; leave it out for "
                                   "no limit")  # fmt: skip
    return given


def _filter_file(given: str | None) -> str:
    if given is None:
        return ""
    path = Path(given).expanduser().absolute()
    if not path.is_file():
        raise click.UsageError(f"--filter-file: {path} is not a file; give the path of one")
    try:
        read_filter(path)  # a fault in it would end every request of the key
    except ConfigError as ex:
        raise click.UsageError(f"--filter-file: {ex}") from None
    return str(path)


def _row(key: Key) -> tuple[str, ...]:
    grant = key.grant
    expires = day(grant.expires) or "never"
    if key.revoked is not None:
        expires = f"revoked {day(key.revoked)}"
    elif not key.valid(time.time()):
        expires = f"expired {expires}"
    return (
        shown(key.name),
        key.id,
        f"{key.prefix}...",
        ",".join(sorted(grant.scopes)),
        "all" if grant.models is None else shown(",".join(sorted(grant.models))),
        limits_of(grant.limits) or "none",
        expires,
        day(key.last_used) or "never",
    )
