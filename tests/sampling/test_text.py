"""TextStream: stop strings and UTF-8, for every way to split the bytes."""

from __future__ import annotations

import pytest
import reference_text as reference
from hypothesis import example, given
from hypothesis import strategies as st

from offgrid.sampling import InvalidParameter, StringScanner, TextStream

# Few letters, so that stops overlap themselves and each other; bytes of characters of 2 to 4 bytes,
# overlong forms, surrogates and bytes that never occur in UTF-8.
NASTY = st.lists(
    st.sampled_from([b"a", b"b", "é".encode(), "€".encode(), "😀".encode(), b"\xe2", b"\xf0\x9f",
                     b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xff", b"\xf4\x90", b"\0"]),
    max_size=12,
).map(b"".join)  # fmt: skip
STOPS = st.lists(
    st.one_of(
        st.text("ab", min_size=1, max_size=5).map(str.encode), NASTY.filter(bool), st.just(b"\x9f")
    ),
    max_size=4,
)


def run(pieces: list[bytes], stops: list[bytes]) -> tuple[str, bytes | None]:
    stream = TextStream(stops)
    text = "".join([stream.feed(piece) for piece in pieces])
    return text + stream.flush(), stream.stop_reason


@given(NASTY, STOPS, st.data())
@example(b"aab", [b"ab", b"aab"], None)
def test_any_split_gives_the_same_text_and_holds_nothing_too_long(data, stops, draw):
    count = draw.draw(st.integers(0, len(data))) if draw else 1
    cuts = sorted(draw.draw(st.integers(0, len(data))) for _ in range(count)) if draw else [1]
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    stream, shown, fed = TextStream(stops), "", b""
    for piece in pieces:
        shown += stream.feed(piece)
        fed += piece
        assert shown == reference.shown_text(fed, stops)
    match = reference.first_stop(data, stops)
    assert stream.finished == (match is not None)
    assert stream.stop_reason == (None if match is None else stops[match[1]])
    assert shown + stream.flush() == reference.whole_text(data, stops)


@pytest.mark.parametrize(
    ("data", "stops"),
    [
        (b"say END now", [b"END"]),
        ("né 😀!".encode(), ["😀"]),
        (b"aabaabaaab", [b"aabaaa", b"aaab"]),
        (b"abcdefghij", [b"cdefghX", b"efg", b"fgh"]),
        (b"\xf0\x9f\x98\xe2\x82a\xff", [b"a\xfe"]),
        (b"abababac", ["ababac"]),
    ],
)
def test_every_split(data, stops):
    as_bytes = [stop.encode() if isinstance(stop, str) else stop for stop in stops]
    expected = reference.whole_text(data, as_bytes)
    for pieces in reference.splits(data):
        assert run(pieces, stops)[0] == expected, pieces


def test_earliest_end_wins_then_the_longest():
    assert run([b"xabcdy"], ["abcd", "bc"]) == ("xa", "bc")
    assert run([b"xabcy"], ["bc", "abc"]) == ("x", "abc")
    assert run([b"xabcy"], ["c", "c"]) == ("xab", "c")


def test_stop_at_the_first_byte_leaves_nothing():
    assert run([b"\n\nmore"], ["\n"]) == ("", "\n")


def test_only_bytes_that_may_become_a_stop_are_held_back():
    stream = TextStream(["</answer>"])
    assert stream.feed(b"a < b") == "a < b"
    assert stream.feed(b" </ans") == " "
    assert stream.feed(b"we") == ""
    assert stream.feed(b"!") == "</answe!"
    assert not stream.finished


def test_character_split_over_tokens_is_shown_once_whole():
    stream = TextStream()
    assert [stream.feed(bytes([byte])) for byte in "😀".encode()] == ["", "", "", "😀"]


def test_unfinished_character_at_the_end_is_a_replacement_character():
    assert run([b"ok \xf0\x9f"], []) == ("ok �", None)
    assert run([b"ok \xe2\x82END"], ["END"]) == ("ok �", "END")


def test_nothing_comes_after_the_end():
    stream = TextStream(["stop"])
    assert stream.feed(b"a stop b") == "a "
    assert (stream.finished, stream.stop_reason) == (True, "stop")
    assert stream.feed(b"more") == stream.flush() == ""

    stream = TextStream(["stop"])
    assert stream.feed(b"a sto") + stream.flush() == "a sto"
    assert (stream.finished, stream.stop_reason) == (True, None)
    assert stream.feed(b"p") == ""


def test_many_long_stops_in_a_long_stream():
    stops = [b"a" * length + b"b" for length in range(1, 200)] + [b"a" * 50_000]
    stream = TextStream(stops)
    assert stream.feed(b"a" * 49_999) == ""
    assert stream.feed(b"c") == "a" * 49_999 + "c"
    assert stream.feed(b"a" * 300 + b"b") == "a" * 101
    assert stream.stop_reason == stops[198]


def test_buffers_of_all_kinds():
    for data in (b"hi", bytearray(b"hi"), memoryview(b"hi")):
        assert TextStream().feed(data) == "hi"
    assert TextStream().feed(b"") == ""
    with pytest.raises(TypeError):
        TextStream().feed("text")
    with pytest.raises(TypeError):
        TextStream().feed(None)


@pytest.mark.parametrize("stop", ["", b"", 5, None, "\ud800", "x" * (1 << 20) + "y"])
def test_bad_stop_names_the_field(stop):
    with pytest.raises(InvalidParameter) as error:
        TextStream([stop])
    assert error.value.param == "stop"


def test_initialised_once():
    stream = TextStream(["a"])
    with pytest.raises(RuntimeError):
        stream.__init__(["b"])


@given(NASTY, STOPS, st.data())
def test_a_scanner_finds_what_ends_first_and_can_go_back(data, strings, draw):
    cuts = sorted(draw.draw(st.integers(0, len(data))) for _ in range(3))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    scanner, read, states = StringScanner(strings), 0, []
    for piece in pieces:
        states.append((read, scanner.state, scanner.held))
        read += scanner.feed(piece)
        if scanner.matched:
            break
    match = reference.first_stop(data, strings)
    if match is None:
        assert (read, scanner.matched) == (len(data), 0)
        assert scanner.held == max(
            (k for string in strings for k in range(len(string)) if data.endswith(string[:k])),
            default=0,
        )
    else:
        start, index = match
        assert scanner.matched == len(strings[index])
        assert read == start + scanner.matched
        assert scanner.feed(b"ab") == 0  # nothing is read after a match
    place, state, held = draw.draw(st.sampled_from(states))
    scanner.restore(state)
    assert (scanner.held, scanner.matched) == (held, 0)
    assert place + scanner.feed(data[place:]) == read


def test_a_scanner_names_what_is_wrong():
    with pytest.raises(InvalidParameter, match="A banned string must be text") as caught:
        StringScanner([""], what="banned string", param="banned_strings")
    assert caught.value.param == "banned_strings"
    with pytest.raises(ValueError, match="not the state"):
        StringScanner(["a"]).restore(b"")
    with pytest.raises(RuntimeError, match="once"):
        StringScanner(["a"]).__init__(["b"])
    with pytest.raises(RuntimeError, match="not initialised"):
        TextStream.__new__(TextStream).feed(b"a")
