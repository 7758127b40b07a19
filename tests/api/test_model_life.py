"""Models over HTTP: loaded and unloaded by request, their state, and settings of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from support import Json, Response, Stream, eventually, request
from tiny_lora import make_lora

from offgrid.api.engines import WAIT
from offgrid.config import load_settings
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MODELS = "/v1/models"
HELLO: Json = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
GREEDY: Json = {"prompt": [300, 301, 302], "max_tokens": 8, "temperature": 0, "ignore_eos": True}
TABLES = """
[models."deep/tiny"]
aliases = ["small"]
keep_alive = "2h"

[models.kept]
base = "chat"
pin = true

[models.pirate]
base = "deep/tiny"
lora = ["lora.gguf"]

[models.misfit]
base = "deep/tiny"
lora = [{ path = "wide.gguf", scale = 0.5 }]

[models.cold]
base = "chat"
ctx_size = 384
parallel = 2
system_prompt = "Answer like a ship's cook."
sampling = { temperature = 0, top_p = 0.5 }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, starter_path: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "deep").mkdir()
    (folder / "chat.gguf").symlink_to(starter_path)
    tiny_models.make("llama", folder / "deep").rename(folder / "deep" / "tiny.gguf")
    make_lora(folder)
    make_lora(folder, "wide", width=2 * tiny_models.models.RECIPES["small-llama"].shape.width)
    file = folder / "offgrid.toml"
    file.write_text(TABLES, encoding="utf-8")
    flags: dict[str, Any] = {
        "models_dir": folder, "responses_file": folder / "responses.sqlite3", "port": 0,
        "threads": 1, "drain_timeout": 0, "ctx_size": 256, "parallel": 1, "max_models": 8,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}, config_file=file))
    server.start()
    yield server
    server.stop()


def ask(server: Server, path: str, body: Json, **headers: str) -> Response:
    return request(server.url, "POST", path, body, headers)


def model(server: Server, name: str) -> Json:
    answer = request(server.url, "GET", f"{MODELS}/{name}")
    assert answer.status == 200, answer.body
    return dict(answer.json)


def act(server: Server, name: str, action: str, body: Json | None = None) -> Response:
    return request(server.url, "POST", f"{MODELS}/{name}/{action}", body)


def unload(server: Server, name: str) -> None:
    answer = act(server, name, "unload")
    assert (answer.status, answer.json["status"]) == (200, "unloaded"), answer.body


# --- loading and unloading ------------------------------------------------------------------------


def test_a_model_is_loaded_and_unloaded(server: Server) -> None:
    """Its id contains a slash; an alias names it too."""
    unload(server, "deep/tiny")
    loaded = act(server, "deep/tiny", "load")
    assert loaded.status == 200
    assert loaded.json == model(server, "deep/tiny")
    assert (loaded.json["id"], loaded.json["object"]) == ("deep/tiny", "model")
    assert (loaded.json["status"], loaded.json["progress"]) == ("loaded", 1.0)
    listed = request(server.url, "GET", MODELS).json["data"]
    assert [m["status"] for m in listed if m["id"] == "deep/tiny"] == ["loaded"]
    unload(server, "small")
    assert (model(server, "deep/tiny")["status"], model(server, "small")["progress"]) == (
        "unloaded", 0.0,
    )  # fmt: skip


def test_a_client_need_not_wait(server: Server) -> None:
    unload(server, "deep/tiny")
    answer = act(server, "deep/tiny", "load", {"wait": False})
    assert (answer.status, answer.json["status"] in ("loading", "loaded")) == (202, True)
    eventually(lambda: model(server, "small")["status"] == "loaded", "it is loaded")
    answer = act(server, "deep/tiny", "unload", {"wait": False})
    assert answer.status == 202
    eventually(lambda: model(server, "small")["status"] == "unloaded", "it is unloaded")


@pytest.mark.slow
def test_unloading_lets_a_running_answer_finish(server: Server) -> None:
    body = {"model": "deep/tiny", "prompt": [300], "ignore_eos": True, "stream": True}
    with Stream(server.url, TEXT, {**body, "max_tokens": 200}) as stream:
        events = stream.events()
        next(events)
        assert act(server, "deep/tiny", "unload", {"wait": False}).status == 202
        assert [*events][-1] == "[DONE]"
    eventually(lambda: model(server, "small")["status"] == "unloaded", "it is unloaded")


@pytest.mark.parametrize(
    ("name", "action", "body", "status", "param"),
    [
        ("nobody", "load", None, 404, "model"),
        ("deep/nobody", "unload", None, 404, "model"),
        ("chat", "load", {"wait": 5}, 400, "wait"),
        ("chat", "load", {"keep_alive": "soon"}, 400, "keep_alive"),
        ("chat", "load", {"keep_alive": ""}, 400, "keep_alive"),
        ("chat", "load", {"keep_alive": True}, 400, "keep_alive"),
        ("chat", "unload", {"keep_alive": 5}, 400, "keep_alive"),
        ("chat", "load", {"wiat": False}, 400, "wiat"),
        ("chat", "reload", None, 405, None),
    ],
)
def test_refusals(
    server: Server, name: str, action: str, body: Json | None, status: int, param: str | None
) -> None:
    answer = act(server, name, action, body)
    assert (answer.status, answer.json["error"]["param"]) == (status, param), answer.body
    if body and isinstance(body.get("keep_alive"), str):
        assert "such as 5m" in answer.json["error"]["message"]
    if status == 405:
        assert "GET" in answer.headers["allow"]


@pytest.mark.slow
def test_a_load_that_fails(server: Server) -> None:
    """The adapter is for a wider model. llama.cpp says so, and nothing crashes."""
    answer = act(server, "misfit", "load")
    assert (answer.status, answer.json["error"]["code"]) == (500, "model_load_failed")
    message = answer.json["error"]["message"]
    assert "its adapter wide.gguf does not fit this model" in message
    assert "has incorrect shape" in message
    described = model(server, "misfit")
    assert (described["status"], described["problem"]) == ("failed", message)
    again = ask(server, TEXT, {**GREEDY, "model": "misfit"})
    assert (again.status, again.json["error"]["message"]) == (500, message)
    assert ask(server, TEXT, {**GREEDY, "model": "small"}).status == 200


# --- clients that do not wait ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_request_that_does_not_wait(server: Server) -> None:
    unload(server, "cold")
    body = {**HELLO, "model": "cold"}
    answer = ask(server, CHAT, body, **{WAIT: "0"})
    assert (answer.status, answer.json["error"]["code"]) == (503, "model_loading")
    assert answer.json["error"]["message"].startswith("The model cold is loading, ")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    eventually(lambda: model(server, "cold")["status"] == "loaded", "it is loaded nevertheless")
    assert ask(server, CHAT, body, **{WAIT: "0"}).status == 200


@pytest.mark.parametrize("value", ["-1", "soon", "", "nan", "1e9"])
def test_a_wrong_time_to_wait(server: Server, value: str) -> None:
    answer = ask(server, CHAT, {**HELLO, "model": "chat"}, **{WAIT: value})
    assert (answer.status, answer.json["error"]["param"]) == (400, WAIT)


# --- keep_alive -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_reading_keeps_no_model_loaded(server: Server) -> None:
    """Only requests to the model count, and this one says how long it stays."""
    ahead, before = 0.0, time.time()
    server.pool.roster._clock = lambda: time.monotonic() + ahead
    try:
        unload(server, "small")
        assert ask(server, TEXT, {**GREEDY, "model": "small", "keep_alive": "1h"}).status == 200
        assert model(server, "small")["settings"]["keep_alive"] == 3600
        loaded = request(server.url, "GET", "/v1/loaded").json["data"]
        until = {one["id"]: one["until"] for one in loaded}
        assert (until["kept"], until["deep/tiny"] > before) == (None, True)
        while model(server, "small")["status"] == "loaded":
            ahead += 60.0
            for path in ("/", "/health", MODELS, f"{MODELS}/small", "/v1/loaded"):
                assert request(server.url, "GET", path).status == 200
        eventually(lambda: model(server, "small")["status"] == "unloaded", "it is unloaded")
        assert model(server, "small")["settings"]["keep_alive"] == 7200
        assert model(server, "kept")["status"] == "loaded"
    finally:
        server.pool.roster._clock = time.monotonic


@pytest.mark.parametrize("name", ["keep_alive", "ttl"])
def test_a_request_unloads_its_model(server: Server, name: str) -> None:
    assert ask(server, TEXT, {**GREEDY, "model": "small", name: 0}).status == 200
    eventually(lambda: model(server, "small")["status"] == "unloaded", "it is unloaded")


def test_a_pinned_model_stays(server: Server) -> None:
    """It was loaded at start, and the answer says that the field has no effect."""
    eventually(lambda: model(server, "kept")["status"] == "loaded", "it is loaded at start")
    answer = ask(server, CHAT, {**HELLO, "model": "kept", "keep_alive": 0})
    assert (answer.status, answer.headers["x-offgrid-ignored"]) == (200, "keep_alive")
    assert "x-offgrid-ignored" not in ask(server, CHAT, {**HELLO, "model": "cold"}).headers
    assert model(server, "kept")["settings"]["pin"] is True


# --- settings of single models --------------------------------------------------------------------


def test_the_settings_in_force_are_shown(server: Server) -> None:
    assert model(server, "cold")["settings"] == {
        "ctx_size": 384, "parallel": 2, "batch_size": 512, "threads": 1, "gpu_layers": 0,
        "flash_attention": "auto", "kv_type_k": "f16", "kv_type_v": "f16",
        "use_mmap": True, "use_mlock": False, "drafts": True, "chat_template": False,
        "draft_model": None,
        "system_prompt": "Answer like a ship's cook.", "reasoning_budget": -1,
        "sampling": {"temperature": 0, "top_p": 0.5}, "keep_alive": 3600, "pin": False, "lora": [],
    }  # fmt: skip
    assert model(server, "misfit")["settings"]["lora"] == [{"file": "wide.gguf", "scale": 0.5}]
    assert model(server, "small")["aliases"] == ["small"]
    bases = {m["id"]: m["base"] for m in request(server.url, "GET", MODELS).json["data"]}
    assert bases == {
        "chat": None, "cold": "chat", "deep/tiny": None, "kept": "chat", "misfit": "deep/tiny",
        "pirate": "deep/tiny",
    }  # fmt: skip


def test_the_context_and_the_slots_are_its_own(server: Server) -> None:
    refused = ask(server, TEXT, {"model": "cold", "prompt": [300] * 400})
    assert " 384 tokens" in refused.json["error"]["message"]
    refused = ask(server, TEXT, {"model": "chat", "prompt": [300] * 400})
    assert " 256 tokens" in refused.json["error"]["message"]


@pytest.mark.slow
def test_an_adapter_is_a_model_of_its_own(server: Server) -> None:
    plain, changed = (
        ask(server, TEXT, {**GREEDY, "model": name}).json for name in ("deep/tiny", "pirate")
    )
    assert plain["model"] == "deep/tiny"
    assert changed["model"] == "pirate"
    assert plain["choices"][0]["text"] != changed["choices"][0]["text"]
    assert plain["system_fingerprint"] != changed["system_fingerprint"]


def counted(server: Server, name: str, messages: list[Json]) -> int:
    body = {"model": name, "messages": messages}
    return int(ask(server, f"{CHAT}/input_tokens", body).json["input_tokens"])


def test_the_system_prompt_comes_first(server: Server) -> None:
    user = HELLO["messages"]
    system: list[Json] = [{"role": "system", "content": "Answer like a ship's cook."}]
    own: list[Json] = [{"role": "developer", "content": "Be brief."}]
    assert counted(server, "cold", user) == counted(server, "chat", system + user)
    assert counted(server, "cold", own + user) == counted(server, "chat", own + user)
    answers = [
        ask(server, CHAT, {**HELLO, "model": name, "messages": messages, "temperature": 0}).json
        for name, messages in (("cold", user), ("chat", system + user))
    ]
    assert answers[0]["choices"][0]["message"] == answers[1]["choices"][0]["message"]
    assert answers[0]["usage"]["prompt_tokens"] == answers[1]["usage"]["prompt_tokens"]
    tokens = [
        ask(server, "/tokenize", {"model": name, "messages": messages}).json["tokens"]
        for name, messages in (("cold", user), ("chat", system + user))
    ]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_sampling_parameters_that_a_request_does_not_set(server: Server, path: str) -> None:
    body = {"max_tokens": 8, "ignore_eos": True}
    body |= {"prompt": "Once"} if path == TEXT else {"messages": HELLO["messages"]}

    def text(**fields: Any) -> Any:
        choice = ask(server, path, {**body, "model": "cold", **fields}).json["choices"][0]
        return choice.get("text") or choice["message"]["content"]

    greedy = text()
    assert [text(seed=seed) for seed in range(3)] == [greedy] * 3
    assert len({text(seed=seed, temperature=2, top_p=1) for seed in range(3)}) > 1


def test_a_response_names_the_parameters_in_force(server: Server) -> None:
    body: Json = {"model": "cold", "input": "Hello!", "max_output_tokens": 16}
    answer = ask(server, "/v1/responses", body).json
    assert (answer["temperature"], answer["top_p"]) == (0, 0.5)
    answer = ask(server, "/v1/responses", {**body, "temperature": 1.5, "background": True}).json
    assert (answer["temperature"], answer["top_p"]) == (1.5, 0.5)
