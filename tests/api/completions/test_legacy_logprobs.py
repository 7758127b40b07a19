"""The legacy logprobs object: one key for each token, also for parts of characters."""

from __future__ import annotations

from offgrid.api.completions.logprobs import LegacyLogprobs
from offgrid.engine.protocol.events import PromptToken, TokenLogprob

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
