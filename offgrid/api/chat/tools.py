"""The fields of a chat request that offer functions: ``tools`` and related fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offgrid.api.fields.bounds import check_schema
from offgrid.chat.grammars import Function
from offgrid.errors import InvalidParameter
from offgrid.grammar.checked import CheckedSchema

MAX_TOOLS = 128
MAX_DESCRIPTION = 100_000
"""Maximum length of a function's description, in characters."""
MAX_DEPTH = 64
_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FunctionSpec(msgspec.Struct, frozen=True):
    """A function that the model may call. Without ``parameters`` it takes no arguments."""

    name: str
    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool. Tools of other types than functions are refused."""

    type: Literal["function"]
    function: FunctionSpec


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class FunctionChoice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    """The model must call this function."""

    function: FunctionName


class AllowedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedTool], Meta(min_length=1)]


class AllowedChoice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    """The model may call only these functions."""

    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice | AllowedChoice


@dataclass(frozen=True)
class Offer:
    """The functions that a request offers to the model.

    Attributes:
        tools: the functions that may be called, as passed to the template; may be empty.
        functions: the same functions, for grammar and parser.
        required: whether the answer must be a call.
        parallel: whether the answer may contain several calls. A named function is called once.
    """

    tools: tuple[dict[str, Any], ...] = ()
    functions: tuple[Function, ...] = ()
    required: bool = False
    parallel: bool = True

    @property
    def constrained(self) -> bool:
        """Whether a grammar makes calls follow their schemas."""
        return self.required or any(function.strict for function in self.functions)

    @property
    def schemas(self) -> dict[str, Mapping[str, Any] | None]:
        """The schemas of the functions' arguments, by which a model's text is read."""
        return {function.name: function.schema for function in self.functions}


def make_offer(tools: list[Tool], choice: ToolChoice | None, parallel: bool) -> Offer:
    """Check the fields together and return the functions that they offer.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    _check_tools(tools)
    names = [tool.function.name for tool in tools]
    required = choice == "required" or isinstance(choice, FunctionChoice)
    allowed = set(names)
    if isinstance(choice, FunctionChoice):
        allowed = {choice.function.name}
        _check_known(choice.function.name, names, "tool_choice.function.name")
    elif isinstance(choice, AllowedChoice):
        required = choice.allowed_tools.mode == "required"
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        for index, tool in enumerate(choice.allowed_tools.tools):
            param = f"tool_choice.allowed_tools.tools[{index}].function.name"
            _check_known(tool.function.name, names, param)
    elif choice == "none":
        return Offer()
    if required and not tools:
        raise InvalidParameter("This tool_choice needs tools.", "tool_choice")
    offered = [
        (index, tool.function) for index, tool in enumerate(tools) if tool.function.name in allowed
    ]
    return Offer(
        tuple(_for_template(function) for _, function in offered),
        tuple(_for_grammar(function, index, required) for index, function in offered),
        required,
        parallel and not isinstance(choice, FunctionChoice),
    )


def _check_tools(tools: list[Tool]) -> None:
    if len(tools) > MAX_TOOLS:
        raise InvalidParameter(f"tools takes at most {MAX_TOOLS}, not {len(tools)}.", "tools")
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        function, param = tool.function, f"tools[{index}].function"
        if not _NAME.fullmatch(function.name):
            raise InvalidParameter(
                f"{param}.name: {function.name[:80]!r} is not a valid function name; use 1 to 64 "
                "letters, digits, underscores and dashes.",
                f"{param}.name",
            )
        if function.name in seen:
            raise InvalidParameter(
                f"{param}.name: two functions are named {function.name}.", f"{param}.name"
            )
        seen.add(function.name)
        if function.parameters is not None:
            _check_schema(function.parameters, f"{param}.parameters")


def _check_schema(schema: dict[str, Any], param: str) -> None:
    """Require an object schema of bounded depth; later stages recurse into it."""
    if schema.get("type", "object") != "object":
        raise InvalidParameter(f'{param} must be a JSON schema of type "object".', param)
    if too_deep(schema):
        raise InvalidParameter(f"{param} is nested deeper than {MAX_DEPTH} levels.", param)
    check_schema(schema, param)


def too_deep(value: Any) -> bool:
    """Whether JSON is nested deeper than :data:`MAX_DEPTH`; checks it without recursion."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return False
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return True


def _for_grammar(function: FunctionSpec, index: int, required: bool) -> Function:
    strict = bool(function.strict)
    if not (required or strict):
        return Function(function.name, schema=function.parameters)
    schema = _NO_ARGUMENTS if function.parameters is None else function.parameters
    param = f"tools[{index}].function.parameters"
    checked = CheckedSchema(schema, param, arguments=True)
    return Function(function.name, checked, strict, function.parameters)


def _check_known(name: str, names: list[str], param: str) -> None:
    if name not in names:
        raise InvalidParameter(f"{param}: {name[:80]!r} is not one of the tools.", param)


def _for_template(function: FunctionSpec) -> dict[str, Any]:
    """Return the tool as templates expect it: in the form that clients usually send."""
    description: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        description["description"] = function.description
    # Some templates read the parameters without checking that there are any.
    description["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": description}
