"""Items and tools with values of any type: they are read, or refused by name; nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.api.responses.hosted import HOSTED
from offgrid.api.responses.items import TYPES, check_calls
from offgrid.api.responses.request import parse_responses, to_chat
from offgrid.errors import InvalidParameter

KEYS = [
    "action", "actions", "allowed_callers", "arguments", "call_id", "caller", "code", "commands",
    "content", "definition", "description", "effort", "execution", "file_data", "filename",
    "format", "id", "image_url", "input", "logs", "mode", "name", "namespace", "operation",
    "outcome", "output", "outputs", "parameters", "queries", "reasoning", "refusal", "result",
    "results", "role", "schema", "status", "stdout", "strict", "summary", "syntax", "text",
    "tools", "type",
]  # fmt: skip
TEXTS = st.sampled_from([
    *sorted(TYPES.keys() | HOSTED.keys()), "user", "assistant", "system", "input_text", "f", "a b",
    "input_image", "input_file", "output_text", "refusal", "function", "custom", "namespace",
    "tool_search", "client", "allowed_tools", "auto", "required", "grammar", "lark", "regex",
    "json_schema", 'start: "a"', "a|b", "eA==", "{}", "", "completed", "\0",
])  # fmt: skip
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(-1, 2)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
ITEMS = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(sorted(TYPES.keys() | HOSTED.keys())),
    OBJECTS,
)
TOOLS = st.builds(
    lambda kind, fields: {"name": "f", **fields, "type": kind},
    st.sampled_from(["function", "custom", "namespace", "tool_search", "web_search"]),
    OBJECTS,
)
MEANT_WELL = {"role": "user", "content": "Hello!"}


def read(body: dict[str, Any]) -> str | None:
    """Read a request; return the field that an error names, None if there is no error."""
    try:
        request, given_items = parse_responses(body)
        kept = [item for item in given_items if isinstance(item, dict)]
        check_calls(kept)
        to_chat(request, kept, range(len(kept)))
    except InvalidParameter as ex:
        return ex.param or ""
    return None


@settings(max_examples=100, derandomize=True)
@given(
    st.lists(st.one_of(ITEMS, VALUES), max_size=3),
    st.lists(st.one_of(TOOLS, VALUES), max_size=3),
    st.one_of(st.just("auto"), OBJECTS, VALUES),
)
def test_any_value_is_read_or_refused(items: list[Any], tools: list[Any], choice: Any) -> None:
    body = {
        "model": "m", "input": [MEANT_WELL, *items], "tools": tools, "tool_choice": choice,
    }  # fmt: skip
    param = read(body)
    assert param is None or (param and "messages[" not in param and ".function" not in param)
