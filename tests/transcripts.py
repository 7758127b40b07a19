"""Event streams to the byte: what is asked, and what of the answer is the same each time."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

from support import STARTER, Stream, chat_body, endless, request

from offgrid.server import Server

FOLDER = Path(__file__).parent / "golden"
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
RESPONSES = "/v1/responses"
# Greedy and short, so that no rounding of any processor changes a word; and nothing that an earlier
# request has computed is counted.
GREEDY: dict[str, Any] = {"temperature": 0, "stream": True, "cache_prompt": False}
USAGE = {"stream_options": {"include_usage": True}}
STORY = "Once upon a time"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, chat_body(**GREEDY)),
    "chat-usage": (CHAT, chat_body(**GREEDY, **USAGE, max_completion_tokens=4)),
    "chat-logprobs": (CHAT, chat_body(**GREEDY, logprobs=True, top_logprobs=1, max_tokens=3)),
    "chat-tool-call": (
        CHAT,
        chat_body("What is the weather in Oslo?", **GREEDY, **USAGE, tools=[WEATHER]),
    ),
    "chat-choices": (CHAT, chat_body(**GREEDY, n=2, max_tokens=2)),
    "chat-forced-call": (
        CHAT,
        chat_body(
            "What is the weather in Oslo?",
            **GREEDY,
            **USAGE,
            tools=[WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
        ),
    ),
    "chat-choice": (CHAT, chat_body(**GREEDY, choice=["yes", "no"])),
    "text-prompts": (
        TEXT,
        {"model": STARTER, "prompt": [STORY, "In a"], **GREEDY, "max_tokens": 1},
    ),
    "text-scored": (
        TEXT,
        {
            "model": STARTER,
            "prompt": "Once upon",
            **GREEDY,
            "logprobs": 0,
            "echo": True,
            "max_tokens": 0,
        },
    ),
    "responses": (
        RESPONSES,
        {"model": STARTER, "input": "Hello!", **GREEDY, "store": False},
    ),
    "responses-incomplete": (
        RESPONSES,
        {
            "model": STARTER,
            "input": "Tell me a story.",
            **GREEDY,
            "store": False,
            "max_output_tokens": 3,
        },
    ),
    "responses-call": (
        RESPONSES,
        {
            "model": STARTER,
            "input": "What is the weather in Oslo?",
            **GREEDY,
            "store": False,
            "tools": [{"type": "function", "strict": False, **WEATHER["function"]}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    ),
    "text": (TEXT, {"model": STARTER, "prompt": STORY, **GREEDY, "max_tokens": 4}),
    "text-usage": (
        TEXT,
        {"model": STARTER, "prompt": STORY, **GREEDY, **USAGE, "echo": True, "max_tokens": 3},
    ),
    "text-logprobs": (
        TEXT,
        {"model": STARTER, "prompt": STORY, **GREEDY, "logprobs": 1, "max_tokens": 3},
    ),
}
BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-error": (CHAT, chat_body(**GREEDY, ignore_eos=True)),
    "text-error": (TEXT, endless(STORY, **GREEDY)),
}
"""Streams whose worker is killed as soon as they have begun."""

_MASKS = (
    (re.compile(r'("id":"(?:chatcmpl-|cmpl-|call_))[0-9a-f]+"'), r'\1<hex>"'),
    (
        re.compile(
            r'("(?:id|item_id|response_id|call_id)":"(?:resp_|msg_|fc_|rs_|call_))[0-9a-f]+"'
        ),
        r'\1<hex>"',
    ),
    (re.compile(r'("(?:created|created_at|completed_at)":)\d+(?:\.\d+)?'), r"\1<time>"),
    (re.compile(r'("system_fingerprint":")[^"]+'), r"\1<text>"),
    (re.compile(r"-?\d+\.\d+(e-?\d+)?"), "<float>"),
)


def transcript(server: Server, name: str) -> str:
    """Return what a server streams, with the names of times and numbers in their places."""
    if name in CASES:
        path, body = CASES[name]
        return mask(request(server.url, "POST", path, body).body)
    path, body = BROKEN[name]
    with Stream(server.url, path, body) as stream:
        begin = stream.response.readline() + stream.response.readline()
        pid = server.pool.engine(STARTER).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        rest = stream.response.read()
    # How far it came by then is different each time.
    *_, last, end = rest.split(b"\n\n")
    assert end == b""
    return mask(begin) + "...\n\n" + mask(last + b"\n\n")


def mask(data: bytes) -> str:
    """Bytes of a stream as text, without what is different each time."""
    text = data.decode()
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text
