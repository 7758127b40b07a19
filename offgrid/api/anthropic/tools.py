"""The tools of a request, as functions of a chat request."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from offgrid.api.anthropic.blocks import CacheControl
from offgrid.api.fields import notices
from offgrid.api.fields.messages import missing
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter

_STRING: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}


def _one_of(*values: str) -> Json:
    return {"type": "string", "enum": [*values]}


def _object(required: Sequence[str], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": [*required]}


_BASH = _object((), command=_STRING, restart={"type": "boolean"})
_RANGE: Json = {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}


def _editor(*more: str) -> Json:
    return _object(
        ("command", "path"),
        command=_one_of("view", "create", "str_replace", "insert", *more),
        path=_STRING,
        file_text=_STRING,
        old_str=_STRING,
        new_str=_STRING,
        insert_line=_INTEGER,
        insert_text=_STRING,
        view_range=_RANGE,
    )


_MEMORY = _object(
    ("command",),
    command=_one_of("view", "create", "str_replace", "insert", "delete", "rename"),
    path=_STRING,
    view_range=_RANGE,
    file_text=_STRING,
    old_str=_STRING,
    new_str=_STRING,
    insert_line=_INTEGER,
    insert_text=_STRING,
    old_path=_STRING,
    new_path=_STRING,
)
_EDITS = "Views and edits text files."
CLIENT_TOOLS: dict[str, tuple[str, Json]] = {
    "bash_20241022": ("Runs a command in a shell that stays open.", _BASH),
    "bash_20250124": ("Runs a command in a shell that stays open.", _BASH),
    "text_editor_20241022": (_EDITS, _editor("undo_edit")),
    "text_editor_20250124": (_EDITS, _editor("undo_edit")),
    "text_editor_20250429": (_EDITS, _editor()),
    "text_editor_20250728": (_EDITS, _editor()),
    "memory_20250818": ("Reads and writes files in the folder /memories.", _MEMORY),
}
"""Types of tools that the client executes and whose input the API defines -> their description and
the schema of their input."""


class ToolDefinition(msgspec.Struct, frozen=True):
    """A tool that the client executes. ``input_schema`` is required unless the type defines it."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None
    input_examples: list[Json | None] = []
    allowed_callers: list[str] | None = None
    cache_control: CacheControl | None = None
    defer_loading: bool = False
    eager_input_streaming: bool | None = None


class _Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class AutoChoice(_Choice, frozen=True, tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool = False


class AnyChoice(_Choice, frozen=True, tag="any"):
    """The model must call a tool."""

    disable_parallel_tool_use: bool = False


class NamedChoice(_Choice, frozen=True, tag="tool"):
    """The model must call this tool."""

    name: str
    disable_parallel_tool_use: bool = False


class NoChoice(_Choice, frozen=True, tag="none"):
    """The model calls no tool."""


ToolChoice = AutoChoice | AnyChoice | NamedChoice | NoChoice


def for_chat(tools: Sequence[ToolDefinition], choice: ToolChoice | None) -> Json:
    """Return the fields of a chat request that offer these tools.

    Raises:
        InvalidParameter: a tool is none that a client executes.
    """
    fields: Json = {}
    if tools:
        fields["tools"] = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    if isinstance(choice, NamedChoice):
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif isinstance(choice, AnyChoice):
        fields["tool_choice"] = "required"
    elif isinstance(choice, NoChoice):
        fields["tool_choice"] = "none"
    if choice is not None and getattr(choice, "disable_parallel_tool_use", False):
        fields["parallel_tool_calls"] = False
    return fields


def _function(tool: ToolDefinition, param: str) -> Json:
    description, schema = tool.description, tool.input_schema
    if tool.type in CLIENT_TOOLS:
        description, schema = CLIENT_TOOLS[tool.type]
    elif tool.type not in (None, "custom"):
        field = f"{param}.type"
        raise InvalidParameter(
            f"{field}: tools of the type {tool.type[:80]!r} are executed by Anthropic's servers "
            "or need their models; use tools with an input_schema that your program executes.",
            field,
            code="unsupported_parameter",
        )
    elif schema is None:
        raise missing(f"{param}.input_schema")
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        field = f"{param}.allowed_callers"
        raise InvalidParameter(
            f"{field} must contain direct: this server executes no code that could call tools.",
            field,
            code="unsupported_parameter",
        )
    if tool.defer_loading:
        notices.ignore(f"{param}.defer_loading")
    given = [example for example in tool.input_examples if example is not None]
    if given:
        examples = [msgspec.json.encode(example).decode() for example in given]
        description = "\n".join(filter(None, [description, "Examples of its input:", *examples]))
    function: Json = {"name": tool.name, "parameters": schema}
    if description is not None:
        function["description"] = description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
