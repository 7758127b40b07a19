"""Items that tools of hosted services write: their calls, their results, their notes.

This server runs none of these tools, but a history may contain their items, for example after a
client has changed the service. Those with text that matters to the model become calls and results.
The others, such as encrypted notes that only their service can read, are stored and listed, and the
model does not see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from offgrid.api.shapes import Json


class Call(NamedTuple):
    """A call of an assistant: its id, the function, its arguments as JSON."""

    id: str
    name: str
    arguments: str


class Result(NamedTuple):
    """The result of a call.

    Attributes:
        id: the call's id, None for the latest call.
        content: text, or parts of a chat message.
        optional: whether it is left out if there is no such call.
    """

    id: str | None
    content: str | list[Json]
    optional: bool = True


Meaning = list[Json | Call | Result]
"""The meaning of an item to the model: messages and reasoning (as they are), calls, results."""


class Hosted(NamedTuple):
    """A type of items.

    Attributes:
        prefix: of new ids.
        meaning: returns the calls and results of an item; an item with odd fields has none.
    """

    prefix: str
    meaning: Callable[[Json], Meaning]


def refused(kind: str) -> str:
    """Return why an item of this type cannot be left out; an empty string if it can."""
    if kind != "compaction_trigger":
        return ""
    return (
        "this server does not compact conversations; leave the item out and send a shorter history."
    )


def _text(value: Any) -> str:
    """Return a field that should be text."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _call(item: Json, name: str, arguments: Any) -> Meaning:
    id = item.get("call_id", item["id"])
    return [Call(id, name, _text(arguments))] if isinstance(id, str) else []


def _result(item: Json, content: str | list[Json]) -> Meaning:
    id = item.get("call_id", item["id"])
    return [Result(id, content)] if isinstance(id, str) else []


def _both(item: Json, name: str, arguments: Any, content: str) -> Meaning:
    return [*_call(item, name, arguments), *_result(item, content)]


def _action(item: Json) -> Json:
    action = item.get("action")
    return action if isinstance(action, dict) else {}


def _local_shell_call(item: Json) -> Meaning:
    action = {key: value for key, value in _action(item).items() if key != "type"}
    return _call(item, "local_shell", action)


def _shell_call_output(item: Json) -> Meaning:
    output = item.get("output")
    if not isinstance(output, list):
        return _result(item, _text(output))
    return _result(item, "\n".join(filter(None, map(_chunk, output))))


def _chunk(chunk: Any) -> str:
    """Return standard output, standard error and how the command ended."""
    if not isinstance(chunk, dict):
        return _text(chunk)
    outcome = chunk.get("outcome")
    end = ""
    if isinstance(outcome, dict) and outcome.get("type") == "timeout":
        end = "(timed out)"
    elif isinstance(outcome, dict) and outcome.get("exit_code"):
        end = f"(exit code {outcome['exit_code']})"
    return "\n".join(filter(None, (_text(chunk.get("stdout")), _text(chunk.get("stderr")), end)))


def _patch_output(item: Json) -> Meaning:
    return _result(item, _text(item.get("output")) or _text(item.get("status")))


def _file_search_call(item: Json) -> Meaning:
    texts = [*filter(None, map(_found, _list(item.get("results"))))]
    if not texts:
        return []
    return _both(item, "file_search", {"queries": item.get("queries", [])}, "\n\n".join(texts))


def _found(result: Any) -> str:
    if not isinstance(result, dict) or not result.get("text"):
        return ""
    return f"{_text(result.get('filename'))}\n{_text(result['text'])}".strip()


def _code_call(item: Json) -> Meaning:
    logs = [
        _text(output.get("logs"))
        for output in _list(item.get("outputs"))
        if isinstance(output, dict)
    ]
    if not item.get("code"):
        return []
    return _both(item, "code_interpreter", {"code": item["code"]}, "\n".join(filter(None, logs)))


def _mcp_call(item: Json) -> Meaning:
    if not isinstance(item.get("name"), str):
        return []
    result = _text(item.get("output")) or _text(item.get("error"))
    return _both(item, item["name"], item.get("arguments", "{}"), result)


def _computer_call(item: Json) -> Meaning:
    actions = item.get("actions") or [item.get("action", {})]
    return _call(item, "computer", {"actions": actions})


def _computer_output(item: Json) -> Meaning:
    output = item.get("output")
    url = output.get("image_url") if isinstance(output, dict) else None
    if not isinstance(url, str):
        return _result(item, "(a screenshot that is not available)")
    return _result(item, [{"type": "image_url", "image_url": {"url": url}}])


def _search_output(item: Json) -> Meaning:
    names = ", ".join(_names(item.get("tools")))
    return _result(item, f"Found tools: {names}." if names else "Found no tools.")


def _names(tools: Any) -> Iterable[str]:
    for tool in _list(tools):
        if isinstance(tool, dict) and isinstance(tool.get("name"), str):
            yield tool["name"]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _nothing(item: Json) -> Meaning:
    return []


HOSTED: dict[str, Hosted] = {
    "additional_tools": Hosted("at", _nothing),
    "apply_patch_call": Hosted(
        "apc", lambda item: _call(item, "apply_patch", item.get("operation", {}))
    ),
    "apply_patch_call_output": Hosted("apco", _patch_output),
    "code_interpreter_call": Hosted("ci", _code_call),
    "compaction": Hosted("cmp", _nothing),
    "compaction_trigger": Hosted("cmpt", _nothing),
    "computer_call": Hosted("cu", _computer_call),
    "computer_call_output": Hosted("cuo", _computer_output),
    "configuration_update": Hosted("cfg", _nothing),
    "file_search_call": Hosted("fs", _file_search_call),
    "image_generation_call": Hosted("ig", _nothing),
    "local_shell_call": Hosted("lsh", _local_shell_call),
    "local_shell_call_output": Hosted(
        "lsho", lambda item: _result(item, _text(item.get("output")))
    ),
    "mcp_approval_request": Hosted("mcpr", _nothing),
    "mcp_approval_response": Hosted("mcpa", _nothing),
    "mcp_call": Hosted("mcp", _mcp_call),
    "mcp_list_tools": Hosted("mcpl", _nothing),
    "program": Hosted("prog", lambda item: _call(item, "program", {"code": item.get("code", "")})),
    "program_output": Hosted("po", lambda item: _result(item, _text(item.get("result")))),
    "shell_call": Hosted("sh", lambda item: _call(item, "shell", _action(item))),
    "shell_call_output": Hosted("sho", _shell_call_output),
    "tool_search_call": Hosted(
        "ts", lambda item: _call(item, "tool_search", item.get("arguments", {}))
    ),
    "tool_search_output": Hosted("tso", _search_output),
    "web_search_call": Hosted("ws", _nothing),
}  # fmt: skip
"""The types, each with its meaning to the model.

``web_search_call`` holds only the query; the answer after it contains the findings.
"""
UNSEEN = frozenset(
    {"compaction", "image_generation_call", "mcp_approval_request", "mcp_approval_response",
     "mcp_list_tools", "web_search_call"}
)  # fmt: skip
"""Types that the model does not see, and that change nothing else."""
