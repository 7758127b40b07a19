"""Requests that exceed a context or a vocabulary, and their error messages."""

from __future__ import annotations

from typing import Any

import pytest

from offgrid.engine.context_length import (
    BYTES_PER_TOKEN,
    check_input_tokens,
    check_message_count,
    check_prompt_tokens,
    check_text_size,
    outside_vocabulary,
    utf8_size,
)
from offgrid.errors import ContextLengthExceeded


@pytest.mark.parametrize(
    ("check", "most", "more", "message"),
    [
        (
            check_text_size,
            10 * BYTES_PER_TOKEN,
            {},
            "prompt has 161 bytes and .* at most 160",
        ),
        (check_text_size, 100, {"most": 100}, "prompt has 101 bytes and .* at most 100"),
        (check_text_size, 160, {"most": 999}, "at most 160"),
        (check_text_size, 160, {"what": "input[1]"}, r"input\[1\] has 161 bytes"),
        (check_message_count, 10, {}, "is 10 tokens and the conversation has 11"),
        (check_prompt_tokens, 10, {}, r"is 10 tokens and the prompt has 11\."),
        (check_prompt_tokens, 9, {"answered": True}, "prompt has 10; at least one token must be"),
        (check_input_tokens, 10, {}, r"is 10 tokens and field has 11\."),
        (check_input_tokens, 10, {"paired": True}, r"field has 11 together with the query\."),
    ],
)
def test_at_the_limit_and_beyond(check: Any, most: int, more: dict[str, Any], message: str) -> None:
    check(most, 10, "field", **more)
    with pytest.raises(ContextLengthExceeded, match=message) as caught:
        check(most + 1, 10, "field", **more)
    assert caught.value.param == "field"
    # Clients search for these words.
    assert "This model's maximum context length is 10 tokens" in caught.value.message


def test_sizes_are_bytes_of_utf8() -> None:
    assert [utf8_size(text) for text in ("abc", "\u00e9", "\ud800")] == [3, 2, 3]


def test_a_token_that_a_model_does_not_have() -> None:
    error = outside_vocabulary(7, 7, "prompt")
    assert error.message == "Token id 7 is outside the model's vocabulary (0 to 6)."
    assert error.param == "prompt"
    assert outside_vocabulary(7, 7, "prompt", "Send text.").message.endswith("(0 to 6). Send text.")
