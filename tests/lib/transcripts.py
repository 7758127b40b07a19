"""Event streams byte by byte: the requests, and the parts of their streams that never change."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from changed_models import FILL_IN, with_metadata, with_template
from support import STARTER, Stream, chat_body, endless, eventually, request

from offgrid.api.anthropic.framing import PING as EVENT_OF_PING
from offgrid.api.http.framing import PING
from offgrid.engine.client.pending import State
from offgrid.server import Server

FOLDER = Path(__file__).parents[1] / "golden"
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
TEXT = "/v1/completions"
RESPONSES = "/v1/responses"
NATIVE = "/completion"
OLLAMA = "/api/chat"
PLAIN: dict[str, Any] = {"temperature": 0, "cache_prompt": False}
# Greedy and short, so that no processor's rounding changes a word. Tokens cached by an earlier
# request are not counted.
GREEDY: dict[str, Any] = {"temperature": 0, "stream": True, "cache_prompt": False}
USAGE = {"stream_options": {"include_usage": True}}
PADDED = {"stream_options": {"include_obfuscation": True}}
STUCK = {"logit_bias": {"!": False}}
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

_SAID = ("H", "m", "</", "th", "in", "k", ">", "\n\n", "Y", "es", "<|im_end|>")
THOUGHT = {
    "logit_bias": {token: 100 - 5 * place for place, token in enumerate(_SAID)},
    "repetition_penalty": 100,
    "repeat_last_n": len(_SAID),
}
"""Makes a greedy model generate these tokens: each is by far the likeliest until generated."""
# The white space keeps the tokens of <think> out of the penalty's window.
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if 1 %}{% else %}</think>{% endif %}<think>" + "\n " * 16 + "{% endif %}"
)


def message_body(text: str = "Hello!", **fields: Any) -> dict[str, Any]:
    """A request in Anthropic's API to the starter model."""
    asked = [{"role": "user", "content": text}]
    return {"model": STARTER, "messages": asked, "max_tokens": 100, **GREEDY, **fields}


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
    "messages": (MESSAGES, message_body()),
    "messages-cut": (MESSAGES, message_body("Tell me a story.", max_tokens=3)),
    "messages-stopped": (
        MESSAGES,
        message_body("Tell me a story.", stop_sequences=["never said", " "]),
    ),
    "messages-call": (
        MESSAGES,
        message_body(
            "What is the weather in Oslo?",
            tools=[
                {
                    "name": WEATHER["function"]["name"],
                    "description": WEATHER["function"]["description"],
                    "input_schema": WEATHER["function"]["parameters"],
                }
            ],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        ),
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
    "text-choices": (
        TEXT,
        {
            "model": STARTER,
            "prompt": "Once upon",
            **GREEDY,
            **USAGE,
            "n": 2,
            "echo": True,
            "logprobs": 0,
            "max_tokens": 1,
        },
    ),
    "chat-obfuscated": (CHAT, chat_body(**GREEDY, **PADDED, max_completion_tokens=2)),
    "text-obfuscated": (
        TEXT,
        {"model": STARTER, "prompt": STORY, **GREEDY, **PADDED, "max_tokens": 2},
    ),
    "responses-obfuscated": (
        RESPONSES,
        {
            "model": STARTER,
            "input": "Hello!",
            **GREEDY,
            **PADDED,
            "store": False,
            "max_output_tokens": 2,
        },
    ),
    "responses-logprobs": (
        RESPONSES,
        {
            "model": STARTER,
            "input": "Hello!",
            **GREEDY,
            "store": False,
            "max_output_tokens": 2,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 1,
        },
    ),
    "native": (NATIVE, {"model": STARTER, "prompt": STORY, **GREEDY, "n_predict": 3, "seed": 7}),
    "native-probabilities": (
        NATIVE,
        {"model": STARTER, "prompt": STORY, **GREEDY, "n_predict": 2, "n_probs": 2, "seed": 7},
    ),
    "native-choices": (
        NATIVE,
        {
            "model": STARTER,
            "prompt": STORY,
            **GREEDY,
            "n_predict": 1,
            "n_cmpl": 2,
            "timings_per_token": True,
            "response_fields": ["index", "stop", "stop_type"],
        },
    ),
    "native-grammar-error": (
        NATIVE,
        {
            "model": STARTER,
            "prompt": STORY,
            **GREEDY,
            **STUCK,
            "json_schema": {"const": "Hello!"},
        },
    ),
    "ollama-chat": (OLLAMA, chat_body(options=PLAIN)),
    "ollama-tool-call": (
        OLLAMA,
        chat_body("What is the weather in Oslo?", options=PLAIN, tools=[WEATHER]),
    ),
    "ollama-logprobs": (
        OLLAMA,
        chat_body(options={**PLAIN, "num_predict": 2}, logprobs=True, top_logprobs=1),
    ),
    "ollama-generate": (
        "/api/generate",
        {"model": STARTER, "prompt": "Hello!", "options": {**PLAIN, "num_predict": 2}},
    ),
    "ollama-raw": (
        "/api/generate",
        {
            "model": STARTER,
            "prompt": STORY,
            "raw": True,
            "options": {**PLAIN, "num_predict": 3},
        },
    ),
    "ollama-grammar-error": (OLLAMA, chat_body(options={**PLAIN, **STUCK, "regex": "Hello!"})),
    # After "Hello" the grammar requires a token that the bias bans.
    "chat-grammar-error": (CHAT, chat_body(**GREEDY, **STUCK, regex="Hello!")),
    "text-grammar-error": (
        TEXT,
        {"model": STARTER, "prompt": STORY, **GREEDY, **STUCK, "regex": "Hello!"},
    ),
    "messages-grammar-error": (MESSAGES, message_body(**STUCK, regex="Hello!")),
    "responses-grammar-error": (
        RESPONSES,
        {
            "model": STARTER,
            "input": "Hello!",
            **GREEDY,
            **STUCK,
            "store": False,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"const": "Hello!"}}},
        },
    ),
}

THINKING: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-reasoning": (CHAT, chat_body(**GREEDY, **USAGE, **THOUGHT)),
    "ollama-reasoning": (OLLAMA, chat_body(options={**PLAIN, **THOUGHT})),
    "responses-reasoning": (
        RESPONSES,
        {"model": STARTER, "input": "Hello!", **GREEDY, **THOUGHT, "store": False},
    ),
    "messages-thinking": (MESSAGES, message_body(**THOUGHT, thinking={"type": "adaptive"})),
    "messages-omitted": (
        MESSAGES,
        message_body(**THOUGHT, thinking={"type": "adaptive", "display": "omitted"}),
    ),
}
"""Streams of a model that writes reasoning first."""

BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-error": (CHAT, chat_body(**GREEDY, ignore_eos=True)),
    "text-error": (TEXT, endless(STORY, **GREEDY)),
    "messages-failed": (MESSAGES, message_body(ignore_eos=True, max_tokens=10_000)),
    "responses-failed": (
        RESPONSES,
        {"model": STARTER, "input": "Hello!", **GREEDY, "store": False, "ignore_eos": True},
    ),
}
"""Streams whose worker is killed as soon as they have begun."""

WAITING: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-pings": (CHAT, chat_body(**GREEDY, max_tokens=1)),
    "messages-pings": (MESSAGES, message_body(max_tokens=1)),
    "text-pings": (TEXT, {"model": STARTER, "prompt": STORY, **GREEDY, "max_tokens": 1}),
    "responses-pings": (
        RESPONSES,
        {"model": STARTER, "input": "Hello!", **GREEDY, "store": False, "max_output_tokens": 1},
    ),
}
"""Streams that wait for a slot."""

OVERDUE: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-overdue": (CHAT, chat_body(**GREEDY)),
    "messages-overdue": (MESSAGES, message_body()),
    "responses-overdue": (
        RESPONSES,
        {"model": STARTER, "input": "Hello!", **GREEDY, "store": False},
    ),
}
"""Streams that wait for a slot for too long."""

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "text-refused": (
        TEXT,
        {"model": STARTER, "prompt": [STORY, STORY, [1 << 30]], **GREEDY, "max_tokens": 1},
    ),
}
"""Streams whose last prompt is found to be invalid only when its turn comes."""


class Group(NamedTuple):
    """Streams that are recorded in the same way, with a separate server if there are flags."""

    cases: dict[str, tuple[str, dict[str, Any]]]
    record: Callable[[Server, str, dict[str, Any]], bytes]
    flags: dict[str, Any] | None = None
    template: str | None = None
    """Chat template that replaces the model's own, if any."""
    metadata: dict[str, Any] | None = None
    """Metadata that are added to those of the model, if any."""

    def write_model(self, source: Path, folder: Path) -> None:
        """Write the model into a folder, if it is not the unchanged one."""
        if self.template is not None:
            with_template(source, folder / source.name, self.template)
        elif self.metadata is not None:
            with_metadata(source, folder / source.name, self.metadata)


def whole(server: Server, path: str, body: dict[str, Any]) -> bytes:
    """Record the whole stream."""
    return request(server.url, "POST", path, body).body


_EVENTS_BEFORE_TEXT = {RESPONSES: 5, MESSAGES: 2}
"""Path -> events of a stream before its text; the first chunks of other streams have some."""


def broken(server: Server, path: str, body: dict[str, Any]) -> bytes:
    """Leave out the text before the worker is killed: its length differs each time."""
    with Stream(server.url, path, body) as stream:
        begin = b""
        while begin.count(b"\n\n") < _EVENTS_BEFORE_TEXT.get(path, 1):
            begin += stream.response.readline()
        engine = server.pool.engine(STARTER)
        # A request without any output would be given to the next worker.
        eventually(
            lambda: any(p.state >= State.SCORED for p in engine.requests.pending()), "it has begun"
        )
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        last = _last(stream.response.read())
        last = re.sub(rb'("sequence_number":)\d+', rb"\1<number>", last)
        last = re.sub(rb'("text":")(?:[^"\\]|\\.)*', rb"\1<text>", last)
        return begin + b"...\n\n" + last


def waiting(server: Server, path: str, body: dict[str, Any]) -> bytes:
    """Wait for another stream, which leaves after the first ping; the number of pings varies."""
    with Stream(server.url, TEXT, endless()) as other:
        assert other.read_some()
        with Stream(server.url, path, body) as stream:
            ping = EVENT_OF_PING if path == MESSAGES else PING
            # A comment says how far the request is, if its worker has told it by then.
            any_ping = re.escape(ping) if path == MESSAGES else rb"(?m:^): [^\n]*\n\n"
            begin = b""
            while not (first := re.search(any_ping + rb"\Z", begin)):
                line = stream.response.readline()
                assert line, begin
                begin += line
            other.leave()
            rest = re.sub(any_ping, b"", stream.response.read())
            return begin[: first.start()] + ping + rest


def overdue(server: Server, path: str, body: dict[str, Any]) -> bytes:
    """Wait for another stream, which stays."""
    with Stream(server.url, TEXT, endless()) as other:
        assert other.read_some()
        stream = whole(server, path, body)
        other.leave()
        return stream


def refused(server: Server, path: str, body: dict[str, Any]) -> bytes:
    """Leave out the text of the other prompts: its length by then varies."""
    return b"...\n\n" + _last(whole(server, path, body))


def _last(stream: bytes) -> bytes:
    *_, last, end = stream.split(b"\n\n")
    assert end == b""
    return last + b"\n\n"


_FUNCTION = {"model": STARTER, "input_prefix": "def add(a, b):\n", "input_suffix": "\nprint(add)\n"}
INFILL = {
    "infill": ("/infill", {**_FUNCTION, "prompt": "    ", **GREEDY, "n_predict": 3, "seed": 7}),
    "infill-choices": (
        "/infill",
        {
            **_FUNCTION,
            **GREEDY,
            "n_predict": 1,
            "n_cmpl": 2,
            "response_fields": ["content", "stop"],
        },
    ),
    "infill-grammar-error": (
        "/infill",
        {**_FUNCTION, **GREEDY, **STUCK, "json_schema": {"const": "Hello!"}},
    ),
}

GROUPS = (
    Group(CASES, whole),
    Group(THINKING, whole, {}, THINKS),
    Group(BROKEN, broken, {}),
    Group(WAITING, waiting, {"parallel": 1, "sse_ping_interval": 0.01}),
    Group(OVERDUE, overdue, {"parallel": 1, "queue_timeout": 0.5}),
    Group(REFUSED, refused, {"parallel": 1}),
    Group(INFILL, whole, {}, metadata=FILL_IN),
)

_MASKS = (
    (re.compile(r'("id":"(?:chatcmpl-|cmpl-|call_))[0-9a-f]+"'), r'\1<hex>"'),
    (
        re.compile(
            r'("(?:id|item_id|response_id|call_id|request_id)":'
            r'"(?:resp_|msg_|fc_|rs_|call_|toolu_|req_))[0-9a-f]+"'
        ),
        r'\1<hex>"',
    ),
    (re.compile(r'("(?:created|created_at|completed_at)":)\d+(?:\.\d+)?'), r"\1<time>"),
    (re.compile(r'("created_at":")[^"]+'), r"\1<time>"),
    (re.compile(r'("\w+_duration":)\d+'), r"\1<number>"),
    (re.compile(r'("context":)\[[\d,]+\]'), r"\1<numbers>"),
    (re.compile(r'("system_fingerprint":")[^"]+'), r"\1<text>"),
    (re.compile(r'("obfuscation":")[^"]*'), r"\1<text>"),
    (re.compile(r'("signature":")[^"]+'), r"\1<text>"),
    (re.compile(r"-?\d+\.\d+(e-?\d+)?"), "<float>"),
    (re.compile(r'("id_slot":)\d+'), r"\1<slot>"),
    # Whether tokens are proposed depends on how long the steps of this machine take.
    (re.compile(r',"draft_n":\d+,"draft_n_accepted":\d+'), ""),
)


def transcript(server: Server, group: Group, name: str) -> str:
    """Return a server's stream with times and numbers replaced by their names."""
    return mask(group.record(server, *group.cases[name]))


def mask(data: bytes) -> str:
    """Return the bytes of a stream as text, without the values that differ each time."""
    text = data.decode()
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text
