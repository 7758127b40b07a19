"""How the commands of ``offgrid peers`` ask the running server."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import click

from offgrid.cli.options import api_key_option, config_options, fail
from offgrid.cli.talk.options import ca_option, server_of
from offgrid.cli.talk.remote import Remote, ServerError

F = TypeVar("F", bound=Callable[..., Any])

_OLDER = "unknown_url"
"""Code of the error of a server that does not have an endpoint."""


def server_options(function: F) -> F:
    """Add the options that say which server is asked. The command gets ``remote``, a function that
    returns a context with the :class:`~offgrid.cli.talk.remote.Remote`.

    An error of the server inside the context ends the command with status 1 and its message.
    """

    @functools.wraps(function)
    def wrapped(
        *arguments: Any, url: str | None, ca: str | None, api_key: str | None, config: str | None,
        **flags: Any,
    ) -> Any:  # fmt: skip
        @contextlib.contextmanager
        def remote() -> Iterator[Remote]:
            try:
                found = server_of(url, {"config": config}, api_key, ca)
                with contextlib.closing(found):
                    yield found
            except ServerError as ex:
                older = ex.code == _OLDER
                fail("the server is older and has no peers; update it" if older else str(ex), 1)

        return function(*arguments, remote=remote, **flags)

    # click's decorators keep the type of a function, functools.wraps does not.
    made = ca_option(api_key_option(config_options(cast(F, wrapped))))
    return click.option(
        "--url", metavar="URL", help="The server's address, instead of the configured one."
    )(made)
