"""Checks of the settings about the network that need more than one value at a time."""

from __future__ import annotations

import re

from offgrid.config.network import networks
from offgrid.config.setting import Setting
from offgrid.config.table import BY_NAME, Settings
from offgrid.errors import ConfigError

_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s*]+/?")


def check_network(settings: Settings) -> None:
    """Check the values that would otherwise silently have no effect, or too much of one.

    Whether other machines may be served depends on the keys too, which are not a setting:
    see :mod:`offgrid.api.http.machines`.

    Raises:
        ConfigError: the message names the setting.
    """
    for origin in settings.cors_origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"{_row('cors_origins').source_names}: {origin!r} is not an origin such as "
                "https://app.example or http://localhost:3000; list each origin whose pages may "
                "use this server"
            )
    for name in settings.trusted_proxies:
        _check_proxy(name)
    if settings.tls_key is not None and settings.tls_cert is None:
        raise ConfigError(
            f"{_row('tls_key').source_names} has no effect without a certificate; set "
            f"{_row('tls_cert').source_names} too"
        )
    if settings.tls_cert is not None and settings.socket and not settings.by_address:
        raise ConfigError(
            f"{_row('tls_cert').source_names} and {_row('socket').source_names} exclude each "
            "other: a proxy in front of the socket speaks TLS"
        )


def _check_proxy(name: str) -> None:
    try:
        found = networks([name])
    except ValueError:
        found = ()
        wrong = True
    else:
        wrong = any(network.prefixlen == 0 for network in found)
    if wrong:
        raise ConfigError(
            f"{_row('trusted_proxies').source_names}: {name!r} is neither the address nor the "
            "network of a proxy, such as 127.0.0.1 or 10.0.0.0/24, nor unix. Trusting everybody "
            "would let each client choose the address that it seems to have"
        )


def _row(name: str) -> Setting:
    return BY_NAME[name]
