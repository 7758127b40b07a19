"""Model files with several chat templates, and what the whole server makes of histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from changed_models import BEGINS, with_metadata
from support import Json, request

from offgrid.api.chat.dialects import Dialects
from offgrid.config import load_settings
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.engine.worker.llama.model import Model
from offgrid.server import Server

KEY = "tokenizer.chat_template"
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
FOR_TOOLS = (
    "TOOLS{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>"
    "{% endfor %}{% endfor %}"
)
FOR_DOCUMENTS = "DOCUMENTS{{ documents | tojson }}" + PLAIN
STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "Hi"}
SEVERAL = {
    KEY: PLAIN,
    f"{KEY}.broken": "{% if",
    f"{KEY}.rag": FOR_DOCUMENTS,
    f"{KEY}.rerank": "{{ tools }}{{ documents }}",
    f"{KEY}.tool_use": FOR_TOOLS,
}


@pytest.fixture(scope="module")
def info_of(
    starter_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, Any]], ModelInfo]:
    folder = tmp_path_factory.mktemp("templates")

    def info(changes: dict[str, Any]) -> ModelInfo:
        path = folder / "changed.gguf"
        with_metadata(starter_path, path, changes)
        model = Model(Load(str(path), ctx_size=64, parallel=1, threads=1))
        model.close()
        return model.info

    return info


def prompt(info: ModelInfo, tools: Any = None, documents: Any = None) -> str:
    dialect = Dialects().of(info, tools=bool(tools), documents=bool(documents))
    variables = {"documents": documents} if documents else None
    parts = dialect.prompt([USER], tools, variables=variables).parts
    return "".join(part.text for part in parts)


def test_the_template_that_writes_tools_or_documents(
    info_of: Callable[[dict[str, Any]], ModelInfo],
) -> None:
    info = info_of(SEVERAL)
    assert info.chat_template == PLAIN
    assert info.chat_templates.keys() == {"broken", "rag", "rerank", "tool_use"}
    assert not any(key.startswith(KEY) for key in info.metadata)
    document = {"title": "A", "text": "B"}
    assert prompt(info) == "<user>Hi"
    assert prompt(info, [TOOL]).startswith("TOOLS[{")
    assert prompt(info, None, [document]).startswith('DOCUMENTS[{"title": "A"')
    both = prompt(info, [TOOL], [document])
    assert both.startswith("TOOLS[{")
    assert '<documents>\n{"title": "A", "text": "B"}\n</documents>' in both


def test_the_default_template_comes_first(
    info_of: Callable[[dict[str, Any]], ModelInfo],
) -> None:
    own = "OWN{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}" + PLAIN
    info = info_of({**SEVERAL, KEY: own})
    assert prompt(info, [TOOL]).startswith("OWN[{")
    others = {key: text for key, text in SEVERAL.items() if key != KEY}
    assert prompt(info_of({**others, KEY: "", f"{KEY}.default": PLAIN})) == "<user>Hi"
    assert prompt(info_of({**others, KEY: "chatml"})).startswith("TOOLS")
    chatml = prompt(info_of({KEY: ""}))
    assert chatml == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_faulty_template_beside_a_good_one(
    info_of: Callable[[dict[str, Any]], ModelInfo],
) -> None:
    info = info_of({KEY: PLAIN, f"{KEY}.tool_use": "{% if"})
    text = prompt(info, [TOOL])
    assert text.startswith("<system># Tools")
    assert text.endswith("<user>Hi")


def test_a_model_without_bos_has_no_bos_text(
    info_of: Callable[[dict[str, Any]], ModelInfo],
) -> None:
    """llama.cpp answers with a token of GPT-2 that is a comma in the starter's vocabulary."""
    info = info_of({KEY: STRICT})
    assert (info.bos_text, info.add_bos) == ("", False)
    assert prompt(info) == "<user>Hi"
    begins = info_of({KEY: STRICT, **BEGINS})
    assert begins.bos_text
    assert begins.add_bos
    assert prompt(begins) == f"{begins.bos_text}<user>Hi"


@pytest.fixture(scope="module")
def strict(starter_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("strict")
    with_metadata(starter_path, folder / "strict.gguf", {KEY: STRICT, f"{KEY}.tool_use": FOR_TOOLS})
    settings = load_settings(
        {"port": 0, "models_dir": folder, "drain_timeout": 0, "ctx_size": 512, "threads": 1},
        environ={},
    )
    server = Server(settings)
    server.start()
    yield server.url
    server.stop()


def post(url: str, path: str, **body: Any) -> Json:
    response = request(url, "POST", path, {"model": "strict", **body})
    assert response.status == 200, response.body
    return response.json


def tokenised(url: str, messages: list[Json], **fields: Any) -> str:
    tokens = post(url, "/tokenize", messages=messages, **fields)["tokens"]
    return str(post(url, "/detokenize", tokens=tokens)["prompt"])


@pytest.mark.slow
def test_an_agents_history_over_http(strict: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    history: list[Json] = [
        {"role": "system", "content": "A."},
        {"role": "system", "content": [{"type": "text", "text": "B."}]},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "An otter.", "tool_call_id": "a"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Go on."},
    ]
    written = tokenised(strict, history)
    assert written == (
        "<user>A.\n\nB.\n\nHi<assistant>"
        '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
        "<user><tool_response>An otter.</tool_response>\n\nAnd?<assistant><user>Go on."
    )
    answer = post(strict, "/v1/chat/completions", messages=history, max_tokens=2)
    assert answer["usage"]["prompt_tokens"] > 20


def test_tools_over_http(strict: str) -> None:
    assert tokenised(strict, [USER], tools=[TOOL]).startswith('TOOLS[{"type": "function"')
    body = {"messages": [USER], "tools": [TOOL], "tool_choice": "required", "max_tokens": 60}
    answer = post(strict, "/v1/chat/completions", **body)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"


def test_documents_over_http(strict: str) -> None:
    plain = {"messages": [USER]}
    told = {**plain, "documents": [{"text": "Otters swim in rivers."}]}
    count = "/v1/chat/completions/input_tokens"
    assert (
        post(strict, count, **told)["input_tokens"]
        > 10 + post(strict, count, **plain)["input_tokens"]
    )
