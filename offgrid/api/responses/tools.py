"""The tools of a Responses request: which of them the model may call, and how calls are reported.

The model calls functions. A ``custom`` tool is a function of one text, the tools of a ``namespace``
are functions with a longer name, and a tool search that the client executes is a function with the
client's parameters. Tools that only a hosted service can run are left out; the header
``x-offgrid-ignored`` names them.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from offgrid.api.chat.tools import MAX_TOOLS
from offgrid.api.fields.messages import invalid
from offgrid.api.responses.lark import lark_pattern
from offgrid.api.responses.lenient import without_nulls
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, RequestError
from offgrid.grammar.checked import CheckedSchema

INPUT = "input"
"""The only parameter of the function that stands for a custom tool."""
_MAX_NAME = 64
_HASH = 8
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_PRINTABLE = re.compile(r"[a-z0-9_.-]{1,40}", re.IGNORECASE)
_SHOWN_TYPE = 80

Kind = Literal["function", "custom", "tool_search"]


class FunctionTool(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A function. Further fields of the client's type have no effect."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None
    allowed_callers: list[str] | None = None


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Any text."""


class GrammarFormat(msgspec.Struct, frozen=True, tag_field="type", tag="grammar"):
    """The text follows a grammar."""

    syntax: Literal["lark", "regex"]
    definition: str


class CustomTool(msgspec.Struct, frozen=True, tag_field="type", tag="custom"):
    """A tool whose input is a text."""

    name: str
    description: str | None = None
    format: TextFormat | GrammarFormat | None = None
    allowed_callers: list[str] | None = None


class NamespaceTool(msgspec.Struct, frozen=True, tag_field="type", tag="namespace"):
    """Functions and custom tools under a common name."""

    name: str
    tools: list[Any]
    description: str | None = None


class ToolSearchTool(msgspec.Struct, frozen=True, tag_field="type", tag="tool_search"):
    """A search for further tools, which the client executes."""

    execution: str = "server"
    description: str | None = None
    parameters: Json | None = None


_TYPES: dict[str, type[msgspec.Struct]] = {
    "function": FunctionTool,
    "custom": CustomTool,
    "namespace": NamespaceTool,
    "tool_search": ToolSearchTool,
}


@dataclass(frozen=True)
class Offered:
    """A tool that the model may call.

    Attributes:
        called: the name by which the model calls it.
        kind: how its calls are reported.
        name: its name in the request.
        namespace: the namespace that it belongs to.
        place: the request field that holds it.
        function: the tool in the form of a chat request.
    """

    called: str
    kind: Kind
    name: str
    namespace: str | None
    place: str
    function: Json


@dataclass
class Tools:
    """The tools of one request.

    Attributes:
        offered: the tools that the model may call, by the name by which it calls them.
        shown: those of the field ``tools``, in the form in which the response repeats them.
        ignored: names of the parts that were left out, for the header ``x-offgrid-ignored``.
    """

    offered: dict[str, Offered] = field(default_factory=dict)
    shown: list[Json] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    _patterns: dict[str, str | None] = field(default_factory=dict)
    """Grammar in Lark -> what it was converted into."""

    def pattern(self, definition: str) -> str | None:
        """Return a grammar in Lark as a regular expression; None if it is not converted.

        Raises:
            InvalidParameter: there are too many: to convert one takes time, and items may replace
                a tool again and again.
        """
        if definition not in self._patterns:
            if len(self._patterns) == MAX_TOOLS:
                raise InvalidParameter(
                    f"tools: at most {MAX_TOOLS} different grammars can be read.", "tools"
                )
            self._patterns[definition] = _lark_as_pattern(definition)
        return self._patterns[definition]

    def for_chat(self) -> list[Json]:
        """Return the tools in the form of a chat request."""
        return [{"type": "function", "function": tool.function} for tool in self.offered.values()]

    def find(self, kind: str, name: str, namespace: str | None = None) -> Offered | None:
        """Return the tool that a ``tool_choice`` names; without a namespace, one in any."""
        exact = self.offered.get(called_name(namespace, name))
        if exact is not None and exact.kind == kind:
            return exact
        if namespace is not None:
            return None
        named = [tool for tool in self.offered.values() if (tool.kind, tool.name) == (kind, name)]
        return named[0] if len(named) == 1 else None

    def renamed(self, error: RequestError) -> RequestError:
        """Return an error about a chat request's tool with the field of the original request."""
        match = _CHAT_TOOL.match(error.param or "")
        places = list(self.offered.values())
        if match is None or int(match[1]) >= len(places):
            return error
        tool = places[int(match[1])]
        rest = match[2]
        if tool.kind == "custom" and rest.startswith(".parameters"):
            rest = ".format.definition"
        old, new = match[0], tool.place + rest
        return type(error)(error.message.replace(old, new), new, code=error.code)


_CHAT_TOOL = re.compile(r"tools\[(\d+)\](?:\.function)?(.*)")


def called_name(namespace: str | None, name: str) -> str:
    """Return the name by which the model calls a tool: that of a function, so at most 64 letters.

    It depends on nothing else, so that calls in the history have the same name.
    """
    if namespace is None:
        return name
    joined = namespace + ("" if namespace.endswith("__") else "__") + name
    plain = _NOT_IN_NAMES.sub("_", joined)
    if plain == joined and len(plain) <= _MAX_NAME:
        return plain
    digest = hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
    return f"{plain[: _MAX_NAME - _HASH - 1]}_{digest}"


def gather(given: Sequence[Json | None], added: Iterable[tuple[str, Sequence[Json]]] = ()) -> Tools:
    """Return the tools of a request.

    Args:
        given: the field ``tools``.
        added: lists of tools that items of the conversation add, each with the field that holds
            it. A tool replaces an earlier one of the same name.

    Raises:
        InvalidParameter: ``param`` names the tool and the field.
    """
    tools = Tools()
    for index, tool in enumerate(given):
        if tool is not None:
            _add(tools, tool, f"tools[{index}]", again=False)
    for place, more in added:
        for index, tool in enumerate(more):
            _add(tools, tool, f"{place}.tools[{index}]", again=True)
    return tools


def _add(tools: Tools, tool: Any, place: str, *, again: bool) -> None:
    kept = []
    for offered in _read(tools, without_nulls(tool), place, None):
        if offered.called in tools.offered and not again:
            raise InvalidParameter(
                f"{place}.name: two tools are named {offered.called[:80]!r}.", f"{place}.name"
            )
        tools.offered[offered.called] = offered
        kept.append(offered)
    if kept and not again:
        tools.shown.append(_shown(tool, kept))


def _read(tools: Tools, tool: Any, place: str, space: NamespaceTool | None) -> Iterator[Offered]:
    """Yield the functions that a tool offers to the model."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        raise InvalidParameter(
            f'{place}.type is required: a string such as "function".',
            f"{place}.type",
            code="missing_required_parameter",
        )
    if kind not in _TYPES or (space is not None and kind not in ("function", "custom")):
        tools.ignored.append(_label(f"tools.{kind}", place))
        return
    try:
        read: Any = msgspec.convert(tool, _TYPES[kind])
    except msgspec.ValidationError as ex:
        raise invalid(moved(str(ex), place)) from None
    if isinstance(read, NamespaceTool):
        for index, inner in enumerate(read.tools):
            yield from _read(tools, inner, f"{place}.tools[{index}]", read)
        return
    if isinstance(read, ToolSearchTool):
        if read.execution == "client":
            yield _search(read, place)
        else:
            tools.ignored.append("tools.tool_search")
        return
    if read.allowed_callers and "direct" not in read.allowed_callers:
        tools.ignored.append(_label(f"tools.{read.name}", place))
        return
    namespace = None if space is None else space.name
    called = called_name(namespace, read.name)
    if isinstance(read, FunctionTool):
        function: Json = {
            "name": called, "description": _described(read.description, space),
            "parameters": read.parameters, "strict": read.strict,
        }  # fmt: skip
        yield Offered(called, "function", read.name, namespace, place, function)
        return
    pattern = _pattern(read, tools)
    if isinstance(read.format, GrammarFormat) and pattern is None:
        tools.ignored.append(_label(f"tools.{read.name}.format", place))
    function = _custom(read, called, space, pattern)
    yield Offered(called, "custom", read.name, namespace, place, function)


def _described(description: str | None, space: NamespaceTool | None) -> str | None:
    """Return a description that begins with that of the namespace."""
    texts = (None if space is None else space.description, description)
    return "\n\n".join(text for text in texts if text) or None


def _pattern(tool: CustomTool, tools: Tools) -> str | None:
    """Return the regular expression that a custom tool's input must match; None for any text.

    The model writes the text as a JSON string. A regular expression can be enforced inside it, so a
    Lark grammar is converted into one if it has no recursion.
    """
    if not isinstance(tool.format, GrammarFormat):
        return None
    definition = tool.format.definition
    if tool.format.syntax == "regex":
        return f"^(?:{definition})$"
    return tools.pattern(definition)


@functools.lru_cache(maxsize=32)
def _lark_as_pattern(definition: str) -> str | None:
    found = lark_pattern(definition)
    if found is None:
        return None
    pattern = f"^(?:{found})$"
    try:
        CheckedSchema(_parameters(pattern), "tools", arguments=True)
    except InvalidParameter:  # it is too large, or its expressions have other syntax
        return None
    return pattern


def _parameters(pattern: str | None) -> Json:
    """Return the schema of the one parameter of a custom tool."""
    text = {"type": "string", **({} if pattern is None else {"pattern": pattern})}
    return {
        "type": "object", "properties": {INPUT: text}, "required": [INPUT],
        "additionalProperties": False,
    }  # fmt: skip


def _custom(
    tool: CustomTool, called: str, space: NamespaceTool | None, pattern: str | None
) -> Json:
    """Return the function of one text that stands for a custom tool."""
    description = _described(tool.description, space)
    if isinstance(tool.format, GrammarFormat):
        what = "regular expression" if tool.format.syntax == "regex" else "Lark grammar"
        rule = f"The text in {INPUT} must follow this {what}:\n{tool.format.definition}"
        description = f"{description}\n\n{rule}" if description else rule
    return {
        "name": called, "description": description, "parameters": _parameters(pattern),
        "strict": None if pattern is None else True,
    }  # fmt: skip


def _search(tool: ToolSearchTool, place: str) -> Offered:
    function: Json = {
        "name": "tool_search",
        "description": tool.description or "Searches for further tools.",
        "parameters": tool.parameters,
        "strict": None,
    }
    return Offered("tool_search", "tool_search", "tool_search", None, place, function)


def _shown(tool: Json, offered: list[Offered]) -> Json:
    """Return a tool as the response repeats it."""
    fields: Json = without_nulls(tool)
    if fields["type"] == "namespace":
        names = {one.place.rpartition("[")[2].rstrip("]") for one in offered}
        inner = [_one(t) for i, t in enumerate(fields["tools"]) if str(i) in names]
        return {
            "type": "namespace", "name": fields["name"],
            "description": fields.get("description", ""), "tools": inner,
        }  # fmt: skip
    return _one(fields)


def _one(tool: Json) -> Json:
    if tool["type"] == "function":
        return {
            "type": "function", "name": tool["name"], "description": tool.get("description"),
            "parameters": tool.get("parameters"), "strict": bool(tool.get("strict")),
        }  # fmt: skip
    keys = {
        "custom": ("type", "name", "description", "format"),
        "tool_search": ("type", "execution", "description", "parameters"),
    }[tool["type"]]
    return {key: tool[key] for key in keys if key in tool}


def _label(name: str, place: str) -> str:
    """Return a name for a header: the place if the name holds odd characters."""
    return name if all(map(_PRINTABLE.fullmatch, name.split("."))) else place


def moved(message: str, where: str) -> str:
    """Return msgspec's message with a path that begins at the request."""
    if " - at `$" in message:
        return message.replace(" - at `$", f" - at `$.{where}")
    return f"{message} - at `$.{where}`"


def choice_for_chat(choice: Any, tools: Tools) -> tuple[str | Json, str | Json]:
    """Check ``tool_choice``; return it in the form of a chat request and as the response shows it.

    Raises:
        InvalidParameter: it names no tool that the model may call.
    """
    choice = without_nulls(choice)
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidParameter(
                'tool_choice must be "none", "auto", "required", or an object that names a tool.',
                "tool_choice",
            )
        if choice == "required" and not tools.offered and tools.ignored:
            raise _nothing_left("tool_choice")
        return choice, choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(kind, str):
        raise InvalidParameter(
            "tool_choice.type is required in an object that names a tool.", "tool_choice.type"
        )
    if kind == "allowed_tools":
        return _allowed(choice, tools)
    if kind not in ("function", "custom", "tool_search"):
        raise InvalidParameter(
            f"tool_choice.type: this server cannot run tools of the type {kind[:_SHOWN_TYPE]!r}; "
            'choose a function or a custom tool, or "auto".',
            "tool_choice.type",
            code="unsupported_parameter",
        )
    tool = _named(choice, kind, tools, "tool_choice")
    chat = {"type": "function", "function": {"name": tool.called}}
    shown = {"type": kind, **({"name": tool.name} if kind != "tool_search" else {})}
    if tool.namespace is not None:
        shown["namespace"] = tool.namespace
    return chat, shown


def _allowed(choice: Json, tools: Tools) -> tuple[str | Json, Json]:
    mode, given = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise InvalidParameter('tool_choice.mode must be "auto" or "required".', "tool_choice.mode")
    if not isinstance(given, list) or not given:
        raise InvalidParameter(
            "tool_choice.tools must be a list of tools, not empty.", "tool_choice.tools"
        )
    names: list[str] = []
    for index, entry in enumerate(given):
        place = f"tool_choice.tools[{index}]"
        kind = entry.get("type") if isinstance(entry, dict) else None
        if not isinstance(kind, str):
            raise InvalidParameter(f"{place}.type is required.", f"{place}.type")
        if kind == "namespace":
            space = entry.get("name")
            names += [tool.called for tool in tools.offered.values() if tool.namespace == space]
        elif kind in ("function", "custom", "tool_search"):
            names.append(_named(entry, kind, tools, place).called)
    shown = {"type": "allowed_tools", "mode": mode, "tools": given}
    if not names:
        if mode == "required":
            raise _nothing_left("tool_choice.tools")
        return "none", shown
    functions = [{"type": "function", "function": {"name": name}} for name in names]
    return {
        "type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": functions},
    }, shown  # fmt: skip


def _named(choice: Json, kind: str, tools: Tools, place: str) -> Offered:
    name = "tool_search" if kind == "tool_search" else choice.get("name")
    if not isinstance(name, str):
        raise InvalidParameter(
            f"{place}.name is required: the name of a tool.",
            f"{place}.name",
            code="missing_required_parameter",
        )
    namespace = choice.get("namespace")
    tool = tools.find(kind, name, namespace if isinstance(namespace, str) else None)
    if tool is None:
        raise InvalidParameter(
            f"{place}.name: {name[:80]!r} is not one of the tools.", f"{place}.name"
        )
    return tool


def _nothing_left(param: str) -> InvalidParameter:
    return InvalidParameter(
        f"{param}: the model must call a tool, but this server can run none of the named tools; "
        "give it a function or a custom tool.",
        param,
        code="unsupported_parameter",
    )
