"""Answers of all forms through a real engine, from models that say a given text.

Three forms go through a real server too: tags and text, parameters, and channels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted_model
from engine_runs import greedy_text
from support import Json, Stream, request

from offgrid.chat.answer_parser import CallArguments, CallStart, Content, Reasoning
from offgrid.chat.dialect import Dialect, Prompt
from offgrid.chat.grammars import Function
from offgrid.config import load_settings
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.llama.model import Model
from offgrid.grammar.checked import CheckedSchema
from offgrid.server import Server

from .templates import EXAMPLES, Example

SERVED = [e for e in EXAMPLES if e.family in ("hermes", "qwen-xml", "harmony")]
CHAT = "/v1/chat/completions"
THOUGHT, CONTENT = "The user wants <rain>.", "Let me look, please…"
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "get",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


SCHEMA = TOOL["function"]["parameters"]
ARGUMENTS = {"city": "Oslo", "days": 13}
END_OF_CONTENT = re.compile(
    r"(<\|START_RESPONSE\|>)?\{content\}(<\|END_RESPONSE\|>)?"
    r"|<\|channel\|>final<\|message\|>\{content\}<\|end\|><\|start\|>assistant"
)


def answer(example: Example, content: bool = True) -> str:
    """What the model says; without content it begins with the call or with reasoning."""
    text = example.answer.replace("{thought}", THOUGHT)
    return (text if content else END_OF_CONTENT.sub("", text).lstrip()).replace(
        "{content}", CONTENT
    )


def grammar_of(dialect: Dialect, prompt: Prompt, how: str) -> Grammar | None:
    """The grammar of an answer that may call the function, strictly or not, or must call it."""
    if how == "auto":
        return None
    checked = CheckedSchema(SCHEMA, "tools", arguments=True)
    source, schemas = dialect.grammar(
        [Function("get", checked, True, SCHEMA)],
        required=how == "required", parallel=False, thinking=prompt.thinking,
    )  # fmt: skip
    return Grammar("answer", source, "tools", schemas)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.family)
@pytest.mark.parametrize("how", ["auto", "strict", "required"])
def test_the_engine_says_it_and_it_is_read(tmp_path: Path, example: Example, how: str) -> None:
    text = answer(example, how != "required")
    path = tmp_path / "scripted.gguf"
    scripted_model.write(path, example.template, example.control, text)
    model = Model(Load(str(path), ctx_size=1024, parallel=1, batch_size=512, threads=1))
    try:
        info = model.info
        dialect = Dialect(example.template, info.bos_text, info.eos_text, info.control_ids)
        assert dialect.family == example.family
        prompt = dialect.prompt([{"role": "user", "content": "Rain?"}], [TOOL])
        grammar = grammar_of(dialect, prompt, how)
        said = greedy_text(model, dialect, prompt, grammar)
    finally:
        model.close()
    parser = dialect.parser(
        {"get": SCHEMA}, thinking=prompt.thinking, constrained=grammar is not None
    )
    events = [*parser.feed(said), *parser.finish()]
    thought = "".join(event.text for event in events if isinstance(event, Reasoning))
    content = "".join(event.text for event in events if isinstance(event, Content))
    arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
    assert [event for event in events if isinstance(event, CallStart)] == [CallStart(0, "get")], (
        said
    )
    assert json.loads(arguments) == ARGUMENTS
    assert thought == (THOUGHT if "{thought}" in example.answer else "")
    assert content == (CONTENT if "{content}" in example.answer and how != "required" else "")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with models of some families."""
    folder = tmp_path_factory.mktemp("scripted")
    for example in SERVED:
        path = folder / f"{example.family}.gguf"
        scripted_model.write(path, example.template, example.control, answer(example))
    flags: dict[str, Any] = {
        "port": 0, "models_dir": folder, "responses_file": folder / "responses.sqlite3",
        "drain_timeout": 0, "threads": 1, "parallel": 1,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server.url
    server.stop()


def body(example: Example, **fields: Any) -> Json:
    messages = [{"role": "user", "content": "Rain?"}]
    return {
        "model": example.family,
        "messages": messages,
        "tools": [TOOL],
        "temperature": 0,
        **fields,
    }


@pytest.mark.slow
@pytest.mark.parametrize("example", SERVED, ids=lambda example: example.family)
def test_an_answer_comes_apart_whole_and_streamed(url: str, example: Example) -> None:
    response = request(url, "POST", CHAT, body(example))
    assert response.status == 200, response.body
    (choice,) = response.json["choices"]
    message = choice["message"]
    thought = THOUGHT if "{thought}" in example.answer else None
    content = CONTENT if "{content}" in example.answer else None
    assert message.get("reasoning_content") == thought
    assert message["content"] == content
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "get"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo", "days": 13}
    assert choice["finish_reason"] == "tool_calls"

    told = {"content": "", "reasoning_content": "", "name": "", "arguments": ""}
    with Stream(url, CHAT, body(example, stream=True)) as stream:
        for event in stream.events():
            if event == "[DONE]":
                break
            for part in json.loads(event)["choices"]:
                delta = part["delta"]
                for key in ("content", "reasoning_content"):
                    told[key] += delta.get(key) or ""
                for piece in delta.get("tool_calls") or ():
                    for key, text in piece["function"].items():
                        told[key] += text or ""
    assert told.pop("arguments") == call["function"]["arguments"]
    assert told == {"content": content or "", "reasoning_content": thought or "", "name": "get"}
