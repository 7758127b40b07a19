"""The legacy logprobs object: one key for each token, also for parts of characters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from offgrid.api.completions.logprobs import LegacyLogprobs
from offgrid.engine.protocol.events import PromptToken, TokenLogprob

FEW = bytes(b"a\n\xe9\xe3\x81\x82\xf0\x9f\x98\x80"[n % 10] for n in range(256))
"""Maps bytes to a few that often make characters, and parts of them."""

PARTS = [b"\xe3\x81", b"\xe3", b" \xe3\\", b"\x80", b"\xff\x0a"]
TEXTS = [
    r"bytes:\xe3\x81", r"bytes:\xe3", r"bytes: \xe3\x5c", r"bytes:\x80", r"bytes:\xff\x0a"
]  # fmt: skip


def test_parts_of_characters_do_not_fall_together() -> None:
    top = tuple((piece, -float(rank)) for rank, piece in enumerate([b" a", *PARTS]))
    token = TokenLogprob(5, PARTS[0], -1.0, top)
    answer = LegacyLogprobs("").of_answer([token, TokenLogprob(6, "\u3042".encode(), -0.5, ())])
    assert answer["tokens"] == [TEXTS[0], "\u3042"]
    assert answer["top_logprobs"][0] == {
        " a": 0.0, **{text: -float(rank) for rank, text in enumerate(TEXTS, 1)}
    }  # fmt: skip
    assert answer["top_logprobs"][1] == {"\u3042": -0.5}


def test_parts_of_characters_in_a_prompt() -> None:
    first, second = "\u3042".encode()[:2], "\u3042".encode()[2:]
    top = ((7, second, -0.25), (8, PARTS[0][:1], -2.0))
    tokens = [PromptToken(3, first, None, None, ()), PromptToken(7, second, -0.25, 1, top)]
    told = LegacyLogprobs("\u3042").of_prompt(tokens, 5)
    assert told["tokens"] == ["bytes:\\xe3\\x81", "bytes:\\x82"]
    assert told["top_logprobs"] == [None, {"bytes:\\x82": -0.25, "bytes:\\xe3": -2.0}]
    assert told["text_offset"] == [0, 0]


@given(
    st.lists(st.binary(min_size=1, max_size=3).map(lambda data: data.translate(FEW)), max_size=8)
)
def test_offsets_are_those_of_the_text(pieces: list[bytes]) -> None:
    """A token that begins inside a character has that character's offset; what is no character is
    one of its own."""
    tokens = [TokenLogprob(n, piece, -0.5, ()) for n, piece in enumerate(pieces)]
    told = LegacyLogprobs("ab").of_answer(tokens)["text_offset"]
    text, starts, at = b"".join(pieces), [], 0  # where characters begin, in bytes
    while at < len(text):
        starts.append(at)
        ends = (end for end in range(len(text), at, -1) if end <= at + 4)
        at = next(end for end in ends if len(text[at:end].decode("utf-8", "replace")) == 1)
    places = [sum(map(len, pieces[:n])) for n in range(len(pieces))]
    assert told == [2 + sum(start <= place for start in starts) - 1 for place in places]
