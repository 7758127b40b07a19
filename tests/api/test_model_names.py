"""Which model answers: absent and shortened names, aliases, base models; and what is listed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from changed_models import with_metadata
from support import Json, Response, Stream, eventually, request

from offgrid.config import load_settings
from offgrid.server import Server

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello!"}]
TEMPLATE = "tokenizer.chat_template"
BODIES: dict[str, Json] = {
    CHAT: {"messages": MESSAGES, "max_tokens": 1},
    f"{CHAT}/input_tokens": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Once", "max_tokens": 1},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hello!"}]},
    "/v1/responses": {"input": "Hello!", "max_output_tokens": 16},
    "/v1/responses/input_tokens": {"input": "Hello!"},
    "/v1/embeddings": {"input": "Hello!"},
    "/tokenize": {"content": "Hello!"},
    "/detokenize": {"tokens": [1, 2]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, starter_path: Path) -> Path:
    path = tmp_path_factory.mktemp("models")
    (path / "Own-Starter-Q8_0.gguf").symlink_to(starter_path)
    with_metadata(starter_path, path / "base.gguf", {TEMPLATE: ""})
    (path / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])
    (path / "empty.gguf").write_bytes(b"")
    tiny_models.make_bert(path, "RANK").rename(path / "ranker.gguf")
    return path


@pytest.fixture(scope="module")
def own(folder: Path) -> Iterator[Server]:
    """A server whose default model is the first that generates text."""
    flags: dict[str, Any] = {
        "models_dir": folder, "responses_file": folder / "responses.sqlite3", "port": 0,
        "threads": 1, "drain_timeout": 0, "ctx_size": 256, "parallel": 1,
        "model_aliases": {"gpt-4o": "own-starter", "gone": "no-model"},
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server
    server.stop()


def ask(server: Server, path: str, **fields: Any) -> Response:
    return request(server.url, "POST", path, {**BODIES[path], **fields})


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_requests_that_name_no_model(own: Server, path: str) -> None:
    for fields in ({}, {"model": None}, {"model": ""}):
        answer = ask(own, path, **fields)
        assert answer.status == 200, answer.body
        assert answer.json.get("model", "Own-Starter-Q8_0") == "Own-Starter-Q8_0"


@pytest.mark.parametrize("path", [path for path in BODIES if not path.endswith("tokens")])
def test_other_names_of_a_model(own: Server, path: str) -> None:
    """The answer has the id of the model that answered."""
    for name in ("gpt-4o", "own-starter-q8_0.gguf", "OWN"):
        answer = ask(own, path, model=name)
        assert answer.status == 200, answer.body
        assert answer.json.get("model", "Own-Starter-Q8_0") == "Own-Starter-Q8_0"
    for name in ("gpt-4", "gone", "starter", 5):
        answer = ask(own, path, model=name)
        assert answer.status == (400 if name == 5 else 404)
        error = answer.json["error"]
        assert error.get("param", "model") == "model"
        assert "model" in error["message"].lower()


def test_streams_have_the_id_too(own: Server) -> None:
    with Stream(own.url, CHAT, {**BODIES[CHAT], "model": "gpt-4o", "stream": True}) as stream:
        assert '"model":"Own-Starter-Q8_0"' in next(stream.events()).replace(": ", ":")
    answer = request(own.url, "GET", "/tokenizer_info?model=gpt-4o")
    assert answer.status == 200


def test_the_error_says_what_there_is(own: Server) -> None:
    message = ask(own, CHAT, model="bases").json["error"]["message"]
    assert message == (
        "Model not found: bases. The models are base, Own-Starter-Q8_0, cut, ranker."
    )
    message = ask(own, CHAT, model="gone").json["error"]["message"]
    assert message.startswith("Model not found: gone, which stands for no-model. The models are ")
    message = ask(own, CHAT, model="empty").json["error"]["message"]
    assert message == "Model not found: empty. Its file cannot be used: the file is empty."
    # It repeats no more than the beginning of a long name.
    assert len(ask(own, CHAT, model="x" * 100_000).json["error"]["message"]) < 400


def test_models_are_described(own: Server, folder: Path, starter_path: Path) -> None:
    listed = request(own.url, "GET", "/v1/models").json
    assert [model["id"] for model in listed["data"]] == ["Own-Starter-Q8_0", "base", "ranker"]
    first, base, ranker = listed["data"]
    del first["created"]
    assert first == {
        "id": "Own-Starter-Q8_0", "object": "model", "owned_by": "offgrid-llm",
        "size": starter_path.stat().st_size, "kind": "chat", "architecture": "llama",
        "parameters": 2_755_008, "quantization": "Q8_0", "context_length": 2048, "vision": False,
        "tools": True, "reasoning": False, "aliases": ["gpt-4o"], "base": None, "status": "loaded",
        "progress": 1.0, "default": True, "pinned": False, "fixed": [], "peer": None,
    }  # fmt: skip
    assert (base["kind"], base["tools"], ranker["kind"]) == ("base", False, "rerank")
    # No message to a client contains a path of this machine.
    unusable = {file["file"]: file["reason"] for file in listed["unusable"]}
    assert unusable == {
        "empty.gguf": "the file is empty",
        "cut.gguf": f"the file is cut off: it has 1,000,000 of "
        f"{starter_path.stat().st_size:,} bytes",
    }
    one = request(own.url, "GET", "/v1/models/gpt-4o").json
    assert (one["id"], one["problem"]) == ("Own-Starter-Q8_0", None)
    cut = request(own.url, "GET", "/v1/models/cut").json
    assert (cut["kind"], cut["parameters"]) == (None, None)
    assert cut["problem"].startswith("the file is cut off")


def test_a_base_model_is_marked(
    own: Server, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "offgrid"):
        for path in (CHAT, "/v1/responses"):
            answer = ask(own, path, model="base")
            assert answer.status == 200
            assert answer.headers["x-offgrid-warning"].startswith("base model: it has no chat temp")
            assert "x-offgrid-warning" not in ask(own, path).headers
        body = {**BODIES[CHAT], "model": "base", "stream": True}
        with Stream(own.url, CHAT, body) as stream:
            assert stream.response.getheader("x-offgrid-warning")
            for _ in stream.events():
                pass
        assert "x-offgrid-warning" not in ask(own, "/v1/completions", model="base").headers
        said = "base has no chat template, so it is a base model"
        eventually(lambda: said in caplog.text, "the log names it")


@pytest.mark.slow
def test_a_template_for_a_base_model(
    folder: Path, tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}", encoding="utf-8")
    flags = {"models_dir": folder, "ctx_size": 256, "parallel": 1}
    server = make_server(default_model="base", chat_template=str(file), **flags)
    answer = ask(server, CHAT)
    assert (answer.status, answer.json["model"]) == (200, "base")
    assert "x-offgrid-warning" not in answer.headers
    assert request(server.url, "GET", "/v1/models/base").json["kind"] == "chat"
    info = request(server.url, "GET", "/tokenizer_info").json
    assert info["chat_template"] == file.read_text(encoding="utf-8")
    asked = request(server.url, "POST", "/tokenize", {"messages": MESSAGES}).json
    plain = request(server.url, "POST", "/tokenize", {"prompt": "<Hello!>"}).json
    assert asked["tokens"] == plain["tokens"]
    # Other models keep theirs.
    other = request(server.url, "GET", "/tokenizer_info?model=own").json
    assert "chat_template" in other
    assert other["chat_template"] != info["chat_template"]
