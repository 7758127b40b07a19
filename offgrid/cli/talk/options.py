"""The options that commands share which talk to a model."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from offgrid.cli.options import api_key_option, chosen_options, fail, settings_from
from offgrid.cli.talk.remote import Remote, known_server
from offgrid.errors import ConfigError, ModelNotFound, OffgridError

F = TypeVar("F", bound=Callable[..., Any])

MODEL_SETTINGS = ("models_dir", "chat_template", "ctx_size", "threads", "gpu_layers")
"""Settings of a model of the command's own."""
_SAMPLING = (
    click.option("--max-tokens", "-n", type=int, metavar="N", help="Tokens of an answer at most."),
    click.option("--temperature", "-t", type=float, metavar="T", help="0 for the likeliest token."),
    click.option("--top-p", type=float, metavar="P", help="Sample from the nucleus of this mass."),
    click.option("--top-k", type=int, metavar="K", help="Sample from the K likeliest tokens."),
    click.option("--min-p", type=float, metavar="P", help="Drop tokens below P of the likeliest."),
    click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable."),
    click.option(
        "--set", "others", multiple=True, metavar="NAME=VALUE",
        help="Any other field of the API, such as frequency_penalty=0.5; VALUE is JSON or a text.",
    ),
)  # fmt: skip
_NAMES = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed")


def source_options(function: F) -> F:
    """Add the options that say who answers."""
    function = chosen_options(*MODEL_SETTINGS)(function)
    function = click.option(
        "--local", is_flag=True, help="Ask no server; load the model in this command."
    )(function)
    return click.option("--url", metavar="URL", help="Ask the server at this address only.")(
        ca_option(api_key_option(function))
    )


def ca_option(function: F) -> F:
    """Add ``--ca``."""
    return click.option(
        "--ca",
        metavar="FILE",
        help="PEM file with certificates to trust, besides those of the system, for https.",
    )(function)


def server_of(
    url: str | None, flags: Mapping[str, Any], api_key: str | None, ca: str | None
) -> Remote:
    """Return the server at an address, or the configured one if none is given.

    Without an address, the command ends with status 2.

    Args:
        flags: the options for settings, by name.
        url, api_key, ca: the options of these names.

    Raises:
        ServerError: as :class:`~offgrid.cli.talk.remote.Remote`.
    """
    if url:
        return Remote(url, api_key, ca)
    remote = known_server(settings_from(dict(flags)), api_key, ca)
    if remote is None:
        fail("the configured port is 0, so the address is not known; give it with --url", 2)
    return remote


def sampling_options(function: F) -> F:
    """Add the options for fields of a request; :func:`request_fields` reads them."""
    for option in reversed(_SAMPLING):
        function = option(function)
    return function


def request_fields(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the options of :func:`sampling_options` out of ``flags``; return them as fields.

    Raises:
        click.UsageError: ``--set`` has no name or no value.
    """
    given = {name: flags.pop(name) for name in _NAMES}
    fields = {name: value for name, value in given.items() if value is not None}
    stop = flags.pop("stop")
    if stop:
        fields["stop"] = [*stop]
    for pair in flags.pop("others"):
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--set needs NAME=VALUE, not {pair!r}")
        fields[name.replace("-", "_")] = value_of(value)
    return fields


def piped_text() -> str | None:
    """Return what a program or a file sends on standard input; None if nothing can come.

    Raises:
        click.UsageError: it is not text.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return None
    with contextlib.suppress(OSError):  # a program that embeds the command may give any stream
        if stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode):  # /dev/null
            return None
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise click.UsageError("standard input is not text in UTF-8") from None


def value_of(text: str) -> Any:
    """Return the value of an option: JSON, or otherwise a text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def status_of(error: OffgridError) -> int:
    """Return the exit status: 2 if the arguments are at fault, 1 otherwise."""
    at_fault = isinstance(error, (ConfigError, ModelNotFound))
    return 2 if at_fault or getattr(error, "code", None) == "model_not_found" else 1
