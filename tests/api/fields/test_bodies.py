"""Request bodies: refusals before parsing, and JSON that is ambiguous."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from offgrid.api.chat.request import parse_chat
from offgrid.api.fields import body
from offgrid.api.fields.body import are_tokens, parse_object
from offgrid.api.fields.structured import take_grammar
from offgrid.api.http import memory, request
from offgrid.errors import InvalidParameter
from offgrid.sampling import JsonCounts, count_json

# --- the readable definition ----------------------------------------------------------------------


class Pairs(list[tuple[str, Any]]):
    """An object with all its keys, including repeated ones."""


def naive_counts(text: str) -> JsonCounts:
    numbers: list[str] = []

    def number(text: str) -> float:
        numbers.append(text)
        return 0

    value = json.loads(
        text, object_pairs_hook=Pairs, parse_int=number, parse_float=number, parse_constant=number
    )
    names = ("scalars", "strings", "keys", "fields", "lists", "objects", "depth")
    seen = dict.fromkeys(names, 0)

    def walk(value: Any, depth: int) -> None:
        if isinstance(value, (list, Pairs)):
            seen["depth"] = max(seen["depth"], depth)
        if isinstance(value, Pairs):
            seen["objects"] += 1
            seen["keys"] += len(value)
            seen["fields"] += len(value) if depth == 1 else 0
            seen["strings"] += len(value)
            for _, inner in value:
                walk(inner, depth + 1)
        elif isinstance(value, list):
            seen["lists"] += 1
            for inner in value:
                walk(inner, depth + 1)
        else:
            seen["strings" if isinstance(value, str) else "scalars"] += 1

    walk(value, 1)
    words = [n for n in ("true", "false", "null") if n in _outside_of_strings(text)]
    constants = [n for n in ("NaN", "-Infinity", "Infinity") if n in numbers]
    outside = _outside_of_strings(text)
    digits = [n.lstrip("-") for n in numbers]
    return JsonCounts(
        **seen,
        long_integers=sum(n.isdigit() and len(n) > 19 for n in digits),
        longest_number=max(map(len, [*numbers, *words]), default=0),
        constant=min((outside.find(n) for n in constants), default=-1),
    )


def _outside_of_strings(text: str) -> str:
    """The text with a blank in place of every byte of a string."""
    result, within, escaped = [], False, False
    for char in text:
        quote = char == '"' and not escaped
        escaped = within and char == "\\" and not escaped
        result.append(" " * len(char.encode()) if within or quote else char)
        within ^= quote
    return "".join(result)


TEXTS = st.text(st.sampled_from('a"\\/[]{}:,N\u00e9\U0001f600\n 1-'), max_size=6)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**25), 10**25), TEXTS,
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
SPACES = st.sampled_from([None, 0, 2])


@settings(deadline=None)
@given(VALUES | st.just(float("nan")) | st.just([1, float("-inf")]), st.booleans(), SPACES)
@example({"a": [], "b": {"c": [[{}]]}}, True, None)
def test_counts_equal_the_naive_counts(value: Any, escaped: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    assert count_json(text.encode()) == naive_counts(text)


def test_an_empty_text_has_zero_counts() -> None:
    assert count_json(b"") == JsonCounts(0, 0, 0, 0, 0, 0, 0, 0, 0, -1)


@settings(deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4), st.booleans(), SPACES)
@example({"a": 16.0, "b": -0.0, "c": 1e300, "d": 2.0**53, "e": 1.5}, True, None)
def test_a_parsed_object_equals_its_source(value: Any, escaped: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    parsed = parse_object(text.encode())
    assert parsed == value
    assert parse_object(b"\xef\xbb\xbf" + text.encode()) == value

    def types(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: types(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [types(inner) for inner in value]
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
        return int if whole else type(value)

    assert json.dumps(types(parsed), default=str) == json.dumps(types(value), default=str)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(TEXTS, VALUES | st.lists(SCALARS, max_size=30), max_size=4), SPACES)
@example({"a": [1, [2, "x" * 40, [3, [4, [5] * 20]]], "y"], "b": []}, None)
def test_a_large_object_in_pieces_is_the_same(
    monkeypatch: pytest.MonkeyPatch, value: Any, indent: int | None
) -> None:
    """With a piece size of a few bytes, every object is large."""
    monkeypatch.setattr(body, "_PIECE", 16)
    assert parse_object(json.dumps(value, indent=indent).encode()) == value
    spaced = json.dumps(value).replace("[", "[" + " " * 40).replace("]", " " * 40 + "]")
    assert parse_object(spaced.encode()) == json.loads(spaced)


def test_errors_of_large_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_PIECE", 16)
    for raw, words in (
        (b'{"a":[1,2,3,4,5,6,7,8,9,10,11,12],"b":[1,2,}', "invalid character"),
        (b'{"a":[1,2,3,4,5,6,7,8,9,10,11,"\\ud800x",12,13]}', "an unpaired surrogate"),
        (b'{"a":[1,2,3,4,5,6,7,8,9,10,11,1e999,12,13,14]}', "1e999 is too large"),
        (b'{"a":[1,2,3,4,5,6,7,8,9,{"b":1,"b":2}]}', "the key 'b' comes twice"),
        (b'{"a":[1,2,3,4,5,6,7,8,9],"a":2}', "the key 'a' comes twice"),
        (b'[1,2,3,4,5,6,7,8,9,10,11,12,13,14]', "must be an object"),
    ):  # fmt: skip
        error = refused(raw)
        assert error.code == "invalid_json"
        assert words in error.message


def test_only_lists_may_contain_very_many_values() -> None:
    """A list is parsed in pieces; any other value in one call, which must be short."""
    many = b",".join([b"1"] * 300_000)
    assert len(parse_object(b'{"a":[[[' + many + b"]]]}")["a"][0][0]) == 300_000
    for raw in (b'{"a":{"b":[' + many + b"]}}", b'{"a":[[[[' + many + b"]]]]}"):
        error = refused(raw)
        assert refused(b" \n" * 50_000 + raw).message == error.message
        assert error.code == "too_many_values"
        assert "in one field that is not a list; the maximum there is 200000" in error.message


def test_a_large_body_that_is_no_object_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "DECODER", None)
    error = refused(b" [" + b",".join([b"1"] * 300_000) + b"]")
    assert error.message.endswith("the top level must be an object.")


def test_unpaired_surrogates_are_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call over the whole body would make other requests wait."""
    searched: list[int] = []
    pattern = body.LONE_SURROGATE

    class Counting:
        def search(self, raw: bytes, begin: int, end: int) -> object:
            searched.append(end - begin)
            return pattern.search(raw, begin, end)

    monkeypatch.setattr(body, "LONE_SURROGATE", Counting())
    filling = b"\\ud83d\\ude00" * 40_000
    for end in (b'\\ud83d"]}', b'\\ud83dx","b"]}'):
        for shift in range(14):  # move the text across the borders of the pieces
            raw = b'{"a":["' + b"x" * shift + filling + end
            assert "an unpaired surrogate" in refused(raw).message
    assert max(searched) < 70_000


def refused(raw: bytes) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        parse_object(raw)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":[-Infinity]}', "-Infinity is not a JSON number"),
        (b'\xef\xbb\xbf{"a":Infinity}', "Infinity is not a JSON number"),
        (b'{"a":1e999}', "the number 1e999 is too large"),
        (b'{"a":1,"b":[{"c":1,"\\u0063":2}]}', "the key 'c' comes twice"),
        (b'{"a":[[{"x":[{}]},{"b":1,"b":1}]],"c":{}}', "the key 'b' comes twice"),
        (b'{"a":"\\ud83d"}', "an unpaired surrogate"),
        (b'{"a":"\\ud83dx"}', "an unpaired surrogate"),
        (b'{"a":"\\udc00\\ud83d"}', "an unpaired surrogate"),
        (b'{"\\ud83d":1}', "an unpaired surrogate"),
        (b'{"abc":"x\xff"}', "not UTF-8 (byte 9)"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8 (byte 6)"),
        (b'{"a":"\x01"}', "invalid character (byte 6)"),
        (b'{"a":[1,]}', "trailing comma in array (byte 8)"),
        (b'{"a":1', "truncated"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"[1]", "the top level must be an object"),
        (b'{"a":' + b"1" * 401 + b"}", "a number in a has more than 400 characters"),
        (b"[" + b"1" * 401 + b"]", "a number has more than 400 characters"),
        (b'{"a":' + b"1" * 401, "a number has more than 400 characters"),
        (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "more than 500 levels"),
        (b'{"a":' * 100_000, "more than 500 levels"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_invalid_and_ambiguous_json(raw: bytes, words: str) -> None:
    error = refused(raw)
    assert error.code == "invalid_json"
    assert words in error.message
    assert error.message.startswith("The request body is not valid JSON: ")


@pytest.mark.parametrize("number", [b"9" * 5000, b"-" + b"9" * 5000, b"1." + b"0" * 5000])
def test_the_field_of_a_long_number_is_named(number: bytes) -> None:
    for value in (number, b'{"1":%b}' % number, b"[1,[%b]]" % number):
        error = refused(b'{"model":"m","top_k":%b,"n":1}' % value)
        assert error.param == "top_k"
        assert "a number in top_k has more than 400 characters" in error.message
    assert refused(b'{"%b":%b}' % (b"x" * 1000, number)).param == "x" * 80


LIMITS = [
    (body.MAX_CONTAINERS - 2, b"[]", "lists and objects", body.MAX_CONTAINERS),
    (body.MAX_CONTAINERS - 2, b"{}", "lists and objects", body.MAX_CONTAINERS),
    (body.MAX_STRINGS - 1, b'"x"', "texts and keys", body.MAX_STRINGS),
    (body.MAX_LONG_INTEGERS, b"1" * 20, "numbers of more than 19 digits", body.MAX_LONG_INTEGERS),
    (body.MAX_VALUES - 3, b"7", "values", body.MAX_VALUES),
    (body.MAX_VALUES - 3, b"null", "values", body.MAX_VALUES),
]


@pytest.mark.parametrize(
    ("n", "item", "what", "limit"), LIMITS, ids=[f"{case[1][:5]!r}" for case in LIMITS]
)
def test_the_number_of_values_is_limited(n: int, item: bytes, what: str, limit: int) -> None:
    raw = b'{"a":[' + b",".join([item] * n) + b"]}"
    assert len(parse_object(raw)["a"]) == n
    error = refused(raw[:-2] + b"," + item + b"]}")
    assert error.code == "too_many_values"
    assert error.message == (
        f"The request body contains {limit + 1} {what}; the maximum is {limit}."
    )


def test_no_endpoint_has_so_many_fields() -> None:
    fields = [b'"%d":1' % n for n in range(body.MAX_FIELDS)]
    assert len(parse_object(b"{" + b",".join(fields) + b"}")) == body.MAX_FIELDS
    error = refused(b"{" + b",".join([*fields, b'"x":{"a":1}']) + b"}")
    assert error.code == "too_many_values"
    assert error.message == "The request body contains 1001 fields; the maximum is 1000."


def test_values_are_counted_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def decode(self, _: object) -> None:
            raise AssertionError("parsed before it was counted")

    monkeypatch.setattr(body, "DECODER", Nobody())
    for raw in (b'{"a":[' + b"[]," * 2_700_000 + b"[]]}", b"[" * 8_000_000, b"1" * 8_000_000):
        refused(raw)


def test_json_inside_a_string_has_the_same_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_CONTAINERS", 10)

    def arguments(text: str) -> Any:
        call = {"function": {"name": "f", "arguments": text}}
        messages = [{"role": "assistant", "tool_calls": [call]}]
        request = parse_chat({"model": "m", "messages": messages})
        (message,) = [m.for_template(iter(())) for m in request.messages]
        return message["tool_calls"][0]["function"]["arguments"]

    assert arguments('{"a": [[], []]}') == {"a": [[], []]}
    crowd = '{"a": [' + ", ".join(["[]"] * 9) + "]}"
    assert arguments(crowd) == crowd
    assert arguments('{"a": ' + "1" * 5000 + "}") == '{"a": ' + "1" * 5000 + "}"


def test_a_grammar_of_empty_lines_is_scanned_once() -> None:
    """A pattern that scans from every line to the end of all lines would take hours."""
    lines = "\n" * 2_000_000
    grammar = take_grammar({"grammar": lines + 'root ::= "a"'})
    assert grammar is not None
    assert grammar.kind == "gbnf"
    grammar = take_grammar({"grammar": lines + ' \tstart: "a"'})
    assert grammar is not None
    assert grammar.kind == "lark"


def test_a_bias_for_a_number_of_thousands_of_digits() -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(InvalidParameter, match="a token id must be between 0 and"):
        parse_chat({"model": "m", "messages": messages, "logit_bias": {"9" * 5000: 1}})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([0, 5, (1 << 31) - 1], True), ([1 << 31], False), ([-1], False), ([True, 1], False),
        ([1, 1.5], False), ([1, "a"], False), ([], False), ("12", False), ([[1]], False),
        ([10**30], False), (None, False),
    ],
)  # fmt: skip
def test_values_that_can_be_token_ids(value: Any, expected: bool) -> None:
    assert are_tokens(value) is expected


# --- memory ---------------------------------------------------------------------------------------


def test_memory_is_given_back_once_for_many_and_again_later() -> None:
    trims = threading.Semaphore(0)
    go_on = threading.Semaphore(0)

    def trim() -> None:
        trims.release()
        assert go_on.acquire(timeout=60)

    trimmer = memory.Trimmer(trim, (0.0, 0.0))
    trimmer.tell()
    for _ in range(2):
        assert trims.acquire(timeout=60)
        trimmer.tell()  # three calls during a round cause one more round, not three
        trimmer.tell()
        go_on.release()
    for _ in range(2):
        assert trims.acquire(timeout=60)
        go_on.release()
    assert not trims.acquire(blocking=False)


class _Body:
    """A request whose body signals when it is read, and then waits."""

    def __init__(self, length: int) -> None:
        self.content_length = length
        self.bounded_stream = self
        self.context = SimpleNamespace()
        self.reading = threading.Event()
        self.go_on = threading.Event()

    def read(self, _: int) -> bytes:
        self.reading.set()
        assert self.go_on.wait(60)
        return b"{}"


def test_few_large_bodies_are_read_at_a_time_and_small_ones_do_not_wait() -> None:
    bodies = [_Body(request.LARGE) for _ in range(request.AT_ONCE + 1)]
    threads = [
        threading.Thread(target=request.read_object, args=(body, 8 << 20), daemon=True)
        for body in bodies
    ]
    for thread, large in zip(threads[:-1], bodies, strict=False):
        thread.start()
        assert large.reading.wait(60)
    threads[-1].start()
    small = _Body(request.LARGE - 1)
    small.go_on.set()
    assert request.read_object(small, 8 << 20) == {}  # type: ignore[arg-type]
    assert not bodies[-1].reading.is_set()
    for large in bodies:
        large.go_on.set()
    assert bodies[-1].reading.wait(60)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
