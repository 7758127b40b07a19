"""Stop strings in chat: they act on content, and neither on reasoning nor on calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from support import STARTER, TIMEOUT, Json, Stream, chat_body, eventually, request
from transcripts import THINKS, WEATHER
from variants import few

from offgrid.api.chat.choice import Choice
from offgrid.chat.answer_parser import AnswerEvent, CallStart, Content, Reasoning
from offgrid.chat.dialect import Dialect
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.server import Server

CHAT = "/v1/chat/completions"
SAID = ("H", "an", "</", "th", "in", "k", ">", "\n\n", "Y", "a", "n", "!", "<|im_end|>")
SAYS: Json = {
    "temperature": 0,
    "logit_bias": {token: 100 - 7 * place for place, token in enumerate(SAID)},
    "repetition_penalty": 100,
    "repeat_last_n": len(SAID),
}
"""Makes a greedy model generate these tokens: each is by far the likeliest until generated."""


def streamed(url: str, body: Json) -> tuple[Json, list[Json]]:
    """The message that the chunks of a stream make, with its finish_reason, and its logprobs."""
    message: Json = {"content": "", "reasoning_content": "", "finish_reason": None}
    logprobs: list[Json] = []
    with Stream(url, CHAT, {**body, "stream": True}) as stream:
        *events, done = stream.events()
    assert done == "[DONE]"
    for event in events:
        for choice in json.loads(event)["choices"]:
            for name in ("content", "reasoning_content"):
                message[name] += choice["delta"].get(name) or ""
            message["finish_reason"] = choice["finish_reason"]
            logprobs += (choice["logprobs"] or {"content": []})["content"]
    return message, logprobs


@pytest.mark.slow
def test_no_stop_string_ends_reasoning(serve_template: Callable[[str], str]) -> None:
    url = serve_template(THINKS)
    cases: list[tuple[Json, str, str, int]] = [
        ({"stop": "an"}, "Y", "stop", 11),  # once in the reasoning, then across two tokens
        ({"stop": ["H", "th", "</think>", "\n"]}, "Yan!", "stop", 13),
        ({"stop": ["n!!", "Yan"]}, "", "stop", 11),
        ({"stop": ["n?"], "max_tokens": 11}, "Yan", "length", 11),  # held back until the end
        ({"stop": ["Y", "an"], "max_tokens": 2}, "", "length", 2),
        ({"stop": ["an"], "max_tokens": 11}, "Y", "stop", 11),
        ({"stop": ["an"], "n": 2}, "Y", "stop", 22),
        ({"stop": ["a"], "ignore_eos": True}, "Y", "stop", 10),
        ({"stop": ["Y"], "tools": [WEATHER]}, "", "stop", 9),
    ]
    for fields, content, reason, tokens in cases:
        body = chat_body(**SAYS, logprobs=True, **fields)
        scored = tokens - (content == "Yan!")  # the end token has no text and no logprob
        answer = request(url, "POST", CHAT, body).json
        for choice in answer["choices"]:
            message = choice["message"]
            assert message["content"] == content, fields
            assert message["reasoning_content"] == "Han", fields
            assert choice["finish_reason"] == reason, fields
            assert len(choice["logprobs"]["content"]) == scored // len(answer["choices"]), fields
        assert answer["usage"]["completion_tokens"] == tokens, fields
        if len(answer["choices"]) == 1:
            whole, logprobs = streamed(url, body)
            assert (whole["content"], whole["finish_reason"]) == (content, reason), fields
            assert len(logprobs) == scored, fields


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_a_generation_without_limit(server: Server, stream: bool) -> None:
    """With functions on offer, the server finds the stop string and the worker must be told."""
    body = chat_body(
        "Tell me a story.", tools=[WEATHER], ignore_eos=True, n=2, stop=[" ", "\n"], temperature=0
    )  # fmt: skip
    if stream:
        message, _ = streamed(server.url, body)
        assert message["finish_reason"] == "stop"
    else:
        for choice in request(server.url, "POST", CHAT, body).json["choices"]:
            assert choice["finish_reason"] == "stop"
            assert " " not in (choice["message"]["content"] or "")
    engine = server.pool.engine(STARTER)
    eventually(lambda: not engine.requests.pending(), "nothing is generated any more")


def test_the_worker_ends_one_choice_of_a_request(server: Server) -> None:
    parts = (PromptPart("Once upon a time", True),)
    wanted = GenerationRequest(parts=parts, n=2, max_tokens=1900, ignore_eos=True)
    generation = server.pool.engine(STARTER).submit(wanted, lambda: True)
    lengths = [0, 0]
    ends: list[str | None] = [None, None]
    while ends[0] is None:
        for delta in generation.next(TIMEOUT) or ():
            lengths[delta.choice] = delta.completion_tokens
            ends[delta.choice] = delta.finish_reason
        generation.end(0)
    assert ends == ["stop", None]
    assert lengths[0] < 1900
    before = lengths[1]
    while lengths[1] <= before:
        for delta in generation.next(TIMEOUT) or ():
            assert delta.choice == 1
            lengths[1] = delta.completion_tokens
    generation.cancel()


TEMPLATE = THINKS + "{% if tools %}<tool_call>{% for t in tools %}{{ t }}{% endfor %}{% endif %}"
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "stop"}}</tool_call>'


def read(text: str, cuts: list[int], stop: str, **parser: Any) -> tuple[list[AnswerEvent], str]:
    """All events and the finish_reason of a text that the engine sends in pieces."""
    dialect = Dialect(TEMPLATE, "", "", {})
    choice = Choice(dialect.parser(["get_weather"], **parser), (stop,))
    events: list[AnswerEvent] = []
    places = [0, *cuts, len(text)]
    for count, (begin, end) in enumerate(pairwise(places), 1):
        reason = "length" if end == len(text) else None
        events += choice.read(Delta(1, 0, text[begin:end], count, reason))
    assert choice.finish_reason is not None
    return events, choice.finish_reason


def joined(events: list[AnswerEvent], kind: type[Content] | type[Reasoning]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls", "reason"),
    few(
        4,
        [
            ("<think>stop it</think>go stop on", "stop it", "go ", 0, "stop"),
            ("<think>a</think>st", "a", "st", 0, "length"),
            ("<think>never stop", "never stop", "", 0, "length"),
            # A call stands between, so there is no stop string.
            (f"<think>stop</think>st{CALL}op", "stop", "st\nop", 1, "length"),
            (f"{CALL}\nand stop {CALL}", "", "and ", 1, "tool_calls"),
            (f"stop {CALL}", "", "", 0, "stop"),
            ("<think>sto</think>p stop", "sto", "p ", 0, "stop"),
            (f"<think>{CALL}", CALL, "", 0, "length"),
        ],
    ),
)
def test_stop_strings_at_every_border(
    text: str, reasoning: str, content: str, calls: int, reason: str
) -> None:
    for cuts in [[], *([cut] for cut in range(1, len(text))), [*range(1, len(text))]]:
        events, ended = read(text, cuts, "stop")
        assert joined(events, Reasoning) == reasoning, cuts
        assert joined(events, Content).rstrip() == content.rstrip(), cuts
        assert sum(isinstance(event, CallStart) for event in events) == calls, cuts
        assert ended == reason, cuts
