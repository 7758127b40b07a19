"""Error messages name the wrong value and the allowed ones, in the API's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.api.chat.request import ChatRequest, parse_chat
from offgrid.api.completions.request import CompletionRequest, parse_completion
from offgrid.api.decisions.request import DecisionsRequest, parse_decisions
from offgrid.api.embeddings import EmbeddingsRequest, parse_embeddings
from offgrid.api.fields.messages import invalid, nearest
from offgrid.api.fields.sampling import NAMES
from offgrid.api.lab.request import LabRequest, parse_lab
from offgrid.api.moderations import ModerationsRequest, parse_moderations
from offgrid.api.rerank import RerankRequest, parse_rerank
from offgrid.api.responses.request import ResponsesRequest, parse_responses
from offgrid.api.tokens import parse_detokenize, parse_tokenize
from offgrid.errors import InvalidParameter

EXAMPLE = 'Example: [{"role": "user", "content": "Hello!"}].'
PART = "messages[0].content[0]"


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def refused(parse: Callable[[Any], Any], body: Any) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        parse(body)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 3}, "temperature must be between 0 and 2, not 3."),
        ({"temperature": -0.1}, "temperature must be between 0 and 2, not -0.1."),
        ({"temperature": "hot"}, "temperature must be a number, not a string."),
        ({"temperature": True}, "temperature must be a number, not a boolean."),
        ({"n": 0}, "n must be between 1 and 16, not 0."),
        ({"n": 1.5}, "n must be an integer, not 1.5."),
        ({"n": 10**60}, f"n must be between 1 and 16, not 1{'0' * 39}...."),
        ({"p_less": 1}, "p_less must be true or false, not an integer."),
        ({"stop": 5}, "stop must be a string or a list, not an integer."),
        ({"stop": ["a", 5]}, "stop[1] must be a string, not an integer."),
        ({"stop": ["a"] * 65}, "stop takes at most 64 strings, not 65."),
        ({"model": 5}, "model must be a string, not an integer."),
        ({"verbosity": "loud"}, 'verbosity must be one of "high", "low", "medium", not "loud".'),
        ({"verbosity": 5}, 'verbosity must be one of "high", "low", "medium", not an integer.'),
        ({"metadata": {"a": 5}}, "metadata.a must be a string, not an integer."),
        ({"metadata": {"a": "x" * 513}}, "metadata.a must have at most 512 characters, not 513."),
        ({"metadata": {"x" * 65: "a"}}, "a name in metadata must have at most 64 characters."),
        ({"metadata": {str(n): "" for n in range(17)}},
         "metadata must have at most 16 entries, not 17."),
        ({"messages": None}, f"Missing required field: messages. {EXAMPLE}"),
        ({"messages": "Hi"}, f"messages must be a list, not a string. {EXAMPLE}"),
        ({"messages": []}, f"messages must have at least 1 item, not 0. {EXAMPLE}"),
        ({"messages": ["Hi"]}, f"messages[0] must be an object, not a string. {EXAMPLE}"),
        ({"messages": [{"content": "x"}]},
         'Missing required field: messages[0].role. It must be one of "assistant", "developer", '
         '"system", "tool", "user".'),
        ({"messages": [{"role": "boss", "content": "x"}]},
         'messages[0].role must be one of "assistant", "developer", "system", "tool", "user", not '
         '"boss".'),
        ({"messages": [{"role": "user", "content": 5}]},
         "messages[0].content must be a string or a list, not an integer."),
        ({"messages": user("Hi")}, f"{PART} must be an object, not a string."),
        ({"messages": user({"type": "image_url", "image_url": {}})},
         f"Missing required field: {PART}.image_url.url."),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
         "messages[0].function_call is not supported by this server; use tool_calls."),
        ({"tool_choice": "always"},
         'tool_choice must be one of "auto", "none", "required" or an object, not "always".'),
        ({"tool_choice": {"type": "mcp"}},
         'tool_choice.type must be one of "function", "allowed_tools", not "mcp".'),
        ({"tools": [{"type": "mcp"}]}, 'tools[0].type must be "function", not "mcp".'),
        ({"response_format": {"type": "xml"}},
         'response_format.type must be one of "text", "json_object", "json_schema", not "xml".'),
        ({"temprature": 1}, "Unknown field: temprature. Did you mean temperature?"),
        ({"maxTokens": 1}, "Unknown field: maxTokens. Did you mean max_tokens?"),
        ({"stream_options": {"includeUsage": True}},
         "Unknown field: stream_options.includeUsage. Did you mean stream_options.include_usage?"),
        ({"response_format": {"type": "text", "shcema": {}}},
         "Unknown field: response_format.shcema. Did you mean response_format.schema?"),
        ({"zzz": 1}, "Unknown field: zzz."),
        ({"y" * 200: 1}, f"Unknown field: {'y' * 80}...."),
    ],
    ids=str,
)  # fmt: skip
def test_messages_of_a_chat_request(fields: dict[str, Any], message: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields
    assert refused(parse_chat, body).message == message


def test_messages_of_other_requests() -> None:
    for parse, body, message in (
        (parse_responses, {"input": "x", "truncation": "middle"},
         'truncation must be one of "auto", "disabled", not "middle".'),
        (parse_responses, {"input": "x", "tempratur": 1},
         "Unknown field: tempratur. Did you mean temperature?"),
        (parse_responses, {"input": "x", "response_format": {"type": "text"}},
         "Unknown field: response_format. Did you mean text?"),
        (parse_responses, {"messages": []}, "Unknown field: messages. Did you mean input?"),
        (parse_chat, {"prompt": "x"}, "Unknown field: prompt. Did you mean messages?"),
        (parse_embeddings, {"prompt": "x"}, "Unknown field: prompt. Did you mean input?"),
        (parse_embeddings, {"input": "x", "dimension": 5},
         "Unknown field: dimension. Did you mean dimensions?"),
        (parse_rerank, {"query": "x", "documents": []},
         "documents must have 1 to 2048 items, not 0."),
        (parse_tokenize, {"content": 5}, "content must be a string, not an integer."),
        (parse_detokenize, {"tokens": [-1]},
         "tokens[0] must be at least 0, not -1."),
    ):  # fmt: skip
        assert refused(parse, {"model": "m", **body}).message == message


def test_the_types_of_parts_are_listed() -> None:
    body: dict[str, Any] = {"model": "m"}
    chat = body | {"messages": user({"type": "video"})}
    items = body | {"input": [{"role": "user", "content": [{"type": "video"}]}]}
    for parse, wrong, place, types in (
        (parse_chat, chat, PART, ("text", "image_url")),
        (parse_responses, items, "input[0].content[0]", ("input_text", "input_image")),
    ):
        error = refused(parse, wrong)
        start = f'{place}.type: parts of the type "video" are not supported by this server; '
        assert error.message.startswith(f"{start}the supported types are ")
        assert set(types) <= set(re.findall(r"\w+", error.message))
        assert (error.param, error.code) == (f"{place}.type", "unsupported_parameter")
    error = refused(parse_chat, body | {"messages": user({"text": "x"})})
    assert error.message.startswith(
        f'Missing required field: {PART}.type. It must be one of "text", '
    )


BODIES: list[tuple[Callable[[Any], Any], dict[str, Any], set[str]]] = [
    (parse_chat, {"messages": user({"type": "text", "text": "x"})},
     {*ChatRequest.__struct_fields__, *NAMES}),
    (parse_completion, {"prompt": "x"}, {*CompletionRequest.__struct_fields__, *NAMES}),
    (parse_responses, {"input": "x"}, {*ResponsesRequest.__struct_fields__}),
    (parse_embeddings, {"input": "x"}, {*EmbeddingsRequest.__struct_fields__}),
    (parse_rerank, {"query": "x", "documents": ["x"]}, {*RerankRequest.__struct_fields__}),
    (parse_decisions, {"input": "x", "questions": [{"type": "predicate", "instructions": "x"}]},
     {*DecisionsRequest.__struct_fields__}),
    (parse_lab, {"prompt": "x"}, {*LabRequest.__struct_fields__, *NAMES}),
    (parse_moderations, {"input": "x"}, {*ModerationsRequest.__struct_fields__}),
]  # fmt: skip
LIBRARY = re.compile(r"Expected `|Invalid enum|Invalid value|Object (?:miss|con)|- at `")
KEYS = ["type", "role", "content", "function", "name", "x", "format", "effort", "mode", "model"]
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "text", "function", "user", "image_url", "json_schema", "`", "zz"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("parse", "body", "names"), BODIES, ids=lambda v: getattr(v, "__name__", "")
)
def test_no_message_is_that_of_the_library(
    parse: Callable[[Any], Any], body: dict[str, Any], names: set[str]
) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.sampled_from(sorted(names)), VALUES)
    def check(name: str, value: Any) -> None:
        message = "."
        try:
            parse({"model": "m", **body, name: value})
        except InvalidParameter as ex:
            message = ex.message
        assert not LIBRARY.search(message)
        assert message.endswith((".", "?"))

    check()


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """Types of all kinds, to compare the words with the library's verdict."""

    a: int | None = None
    b: dict[str, int] | None = None


def test_without_a_value_the_words_come_from_the_library_s_message() -> None:
    """Callers that have no value at hand still get plain words."""
    for message, words in (
        ("Expected `int | null`, got `str` - at `$.a`", "a must be an integer."),
        ("Expected `int` >= 1 - at `$.a[0].b`", "a[0].b must be at least 1."),
        ("Expected `float` <= 2.0 - at `$.a`", "a must be at most 2."),
        ("Expected `str` of length <= 64 - at `key` in `$.a`",
         "a name in a must have at most 64 characters."),
        ("Expected `array` of length >= 1 - at `$.a`", "a must have at least 1 item."),
        ("Expected `object` of length <= 16 - at `$.a`", "a must have at most 16 entries."),
        ("Invalid enum value 'x' - at `$.a`", "a is not one of the valid values."),
        ("Object missing required field `b` - at `$.a`", "Missing required field: a.b."),
        ("Object contains unknown field `b`", "Unknown field: b."),
        ("Expected `int`, got `str` - at `$.a[...]`", "an entry of a must be an integer."),
        ("Invalid value 'x' - at `$.content[0].type`",
         "content[0].type: parts of this type are not supported by this server."),
    ):  # fmt: skip
        assert invalid(message).message == words
    for value in ({"a": "x"}, {"b": {"k": "x"}}, {"c": 1}, {"b": 5}):
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.convert(value, Inner)
        error = invalid(str(caught.value), value, Inner, "input[3]")
        assert error.param is not None
        assert error.param.startswith("input[3].")


def test_the_nearest_name() -> None:
    known = {"temperature", "top_p", "max_tokens", "stop"}
    for name, guess in (
        ("temprature", "temperature"), ("Temperature", "temperature"), ("topP", "top_p"),
        ("top-p", "top_p"), ("maxTokens", "max_tokens"), ("stops", "stop"), ("user", ""), ("", ""),
        ("temperature" * 7, ""), ("x" * 1_000_000, ""),
    ):  # fmt: skip
        assert nearest(name, known) == guess
