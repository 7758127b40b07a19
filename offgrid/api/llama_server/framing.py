"""llama-server's events, and its errors."""

from __future__ import annotations

from typing import Any

from offgrid.api.http.error_bodies import llama_server_error
from offgrid.api.http.framing import Framing


class LlamaServerEvents(Framing):
    """Events without names. The last one of a choice has ``stop``; nothing follows the last one."""

    end = b""
    error_shape = staticmethod(llama_server_error)


EVENTS = LlamaServerEvents()


def nested(fields: list[str], answer: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an answer that a request names with ``response_fields``.

    A slash leads into an object; the result has the whole path as its name. What does not exist is
    left out.
    """
    if not fields:
        return answer
    result: dict[str, Any] = {}
    for path in fields:
        value: Any = answer
        for name in path.split("/"):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            result[path] = value
    return result
