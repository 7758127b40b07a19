"""The check of the port."""

from __future__ import annotations

import contextlib
import http.client
import json

from offgrid.api.http.machines import check_address
from offgrid.cli.doctor.check import Check
from offgrid.config import Settings
from offgrid.errors import ConfigError
from offgrid.listening import PortTaken, listen, port_holder

_SECONDS = 2.0


def check_port(settings: Settings) -> Check:
    """Try to listen on the port; if that fails, say who does."""
    host, port = settings.host, settings.port
    try:
        if not settings.socket:
            check_address(settings, host)
    except ConfigError as ex:
        return Check("port", "problem", f"offgrid serve will not start: {ex}")
    if settings.socket:
        return Check("port", "ok", f"none; the server listens on {settings.socket}")
    if port == 0:
        return Check("port", "ok", "a free one is chosen at start (port 0)")
    try:
        listen(host, port).close()
    except PortTaken as ex:
        version = _offgrid_at(host, port)
        if version is not None:
            text = f"OffGrid LLM {version} already serves at {host}:{port}"
            return Check("port", "ok", f"{text}{port_holder(port)}")
        return Check("port", "problem", ex.reason, ex.fix)
    return Check("port", "ok", f"{host}:{port} is free")


def _offgrid_at(host: str, port: int) -> str | None:
    """Return the version of the OffGrid server that answers at an address; None if none does."""
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            answer = json.loads(connection.getresponse().read(1 << 16))
        if isinstance(answer, dict) and answer.get("name") == "OffGrid LLM":
            return str(answer.get("version"))
    return None
