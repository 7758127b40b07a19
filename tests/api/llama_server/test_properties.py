"""``/props``, ``/slots`` and ``/apply-template`` through a real server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from keyed import bearer, new_key
from lasting import CONTEXT, SETTINGS, Running, lasting, write_lasting
from support import STARTER, Json, chat_body, eventually, request
from tiny_vision import make_seeing, pixels, png

from offgrid.server import Server

CHAT, COMPLETION = "/v1/chat/completions", "/completion"
SECRET = "The password is swordfish."


def get(base_url: str, path: str, status: int = 200) -> Json:
    response = request(base_url, "GET", path)
    assert response.status == status, response.body
    body: Json = response.json
    return body


def test_props(base_url: str, starter_path: Path) -> None:
    """What SillyTavern and llama-server's own page read."""
    props = get(base_url, "/props")
    assert props == get(base_url, f"/props?model={STARTER}")
    info = get(base_url, "/tokenizer_info")
    assert props["chat_template"] == info["chat_template"]
    assert props["eos_token"] == info["eos_token"]
    assert props["default_generation_settings"]["n_ctx"] == info["model_max_length"]
    assert props["total_slots"] == 4
    assert props["model_alias"] == STARTER
    assert props["model_path"] == starter_path.name  # no folder of this machine
    assert props["modalities"] == {"vision": False, "audio": False}
    assert (props["endpoint_slots"], props["endpoint_props"]) == (True, False)
    # A request without fields has these settings, except for the seed that it draws.
    body = {"prompt": "Once", "n_predict": 1}
    used = request(base_url, "POST", COMPLETION, body).json["generation_settings"]
    told = props["default_generation_settings"]["params"]
    assert used.keys() == told.keys()
    differ = {name for name in used if used[name] != told[name]}
    assert differ == {"n_predict", "max_tokens", "seed"}


def test_props_of_an_unknown_model(base_url: str) -> None:
    error = get(base_url, "/props?model=none", 404)["error"]
    assert (error["code"], error["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/props", "cannot be changed by a request"),
        ("/slots/0?action=save", "saves and restores prefixes by itself"),
        ("/slots/0?action=erase", "saves and restores prefixes by itself"),
    ],
)
def test_what_is_not_offered(base_url: str, path: str, words: str) -> None:
    response = request(base_url, "POST", path, {})
    error = response.json["error"]
    assert (response.status, error["code"]) == (501, 501)
    assert error["type"] == "not_supported_error"
    assert words in error["message"]
    assert response.headers["x-should-retry"] == "false"


def test_slots(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    """What the worker said last may be older than a request if the machine is busy."""
    write_lasting(tmp_path)
    url = make_server(parallel=2, **SETTINGS).url
    assert get(url, "/health")
    assert request(url, "POST", COMPLETION, {"prompt": "Once", "n_predict": 1}).status == 200

    def slots() -> list[Json]:
        found = request(url, "GET", "/slots").json
        assert isinstance(found, list)
        return found

    def busy() -> list[Json]:
        return [slot for slot in slots() if slot["is_processing"]]

    eventually(lambda: len(slots()) == 2, "the worker has described its slots")
    eventually(lambda: not busy(), "the slots are idle")
    idle = slots()
    assert [slot["id"] for slot in idle] == [0, 1]
    assert {slot["n_ctx"] for slot in idle} == {CONTEXT}
    body = lasting(SECRET, max_tokens=100_000)
    with Running(url, "/v1/completions", body) as stream:
        stream.read_some()
        eventually(lambda: len(busy()) == 1, "a slot is busy")
        (slot,) = busy()
        assert slot["n_prompt_tokens"] > 3
        assert slot["next_token"]["has_next_token"] is True
        assert slot["next_token"]["n_decoded"] + slot["next_token"]["n_remain"] == 100_000
        assert b"swordfish" not in request(url, "GET", "/slots").body
        with Running(url, "/v1/completions", body) as other:
            other.read_some()
            eventually(lambda: len(busy()) == 2, "both slots are busy")
            full = request(url, "GET", "/slots?fail_on_no_slot=1")
            assert full.status == 503
            assert full.json["error"]["type"] == "unavailable_error"
            assert "retry-after" in full.headers
    eventually(lambda: not busy(), "the slots are known to be idle again")
    assert request(url, "GET", "/slots?fail_on_no_slot=1").status == 200
    assert get(url, "/slots?model=none", 404)["error"]["code"] == 404


def test_slots_of_a_model_that_is_not_loaded(
    tmp_path: Path, starter_path: Path, make_server: Callable[..., Server]
) -> None:
    """Asking loads no model. One that only embeds has no slots."""
    (tmp_path / "other.gguf").symlink_to(starter_path)
    bert = tiny_models.make_bert(tmp_path)
    url = make_server(default_model="other", max_models=2).url
    assert get(url, f"/slots?model={bert.stem}") == []
    loaded = {model["id"] for model in get(url, "/v1/loaded")["data"]}
    assert loaded == {"other"}
    assert get(url, f"/slots?model={bert.stem}&fail_on_no_slot=1", 503)["error"]["code"] == 503


def test_apply_template(base_url: str) -> None:
    """The prompt, sent to /completion, gets the answer that chat gives."""
    body = chat_body("Hello <|im_end|>!", temperature=0, max_tokens=8)
    prompt = request(base_url, "POST", "/apply-template", body).json["prompt"]
    assert prompt.startswith("<|im_start|>")
    assert prompt.endswith("<|im_start|>assistant\n")
    body = chat_body("Hello!", temperature=0, max_tokens=8)
    prompt = request(base_url, "POST", "/apply-template", body).json["prompt"]
    native = {"prompt": prompt, "n_predict": 8, "temperature": 0}
    said = request(base_url, "POST", COMPLETION, native).json["content"]
    chat = request(base_url, "POST", CHAT, body).json["choices"][0]["message"]["content"]
    assert said == chat
    without = request(base_url, "POST", "/apply-template",
                      {**body, "add_generation_prompt": False}).json["prompt"]  # fmt: skip
    assert prompt == f"{without}<|im_start|>assistant\n"
    error = request(base_url, "POST", "/apply-template", {"messages": []}).json["error"]
    assert (error["code"], error["param"]) == (400, "messages")


def test_apply_template_with_an_image(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    make_seeing(tmp_path, "seeing")
    url = make_server().url
    data = base64.b64encode(png(pixels(1))).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    content = [{"type": "text", "text": "Look:"}, image]
    body = {"messages": [{"role": "user", "content": content}]}
    prompt = request(url, "POST", "/apply-template", body).json["prompt"]
    assert prompt.count(get(url, "/props")["media_marker"]) == 1


def test_keys(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """Slots need a scope for operators. A key for another model learns nothing of this one."""
    file = tmp_path / "keys.sqlite3"
    _, usual = new_key(file, "usual")
    _, stats = new_key(file, "stats", "stats")
    _, other = new_key(file, "other", "inference", "stats", models=frozenset({"other"}))
    url = make_server(keys_file=file).url
    for method, path in (("POST", COMPLETION), ("GET", "/props"), ("GET", "/slots")):
        response = request(url, method, path, {} if method == "POST" else None)
        error = response.json["error"]
        assert (response.status, error["code"]) == (401, 401)
        assert error["type"] == "authentication_error"

    def status(path: str, secret: str) -> int:
        return request(url, "GET", path, headers=bearer(secret)).status

    assert (status("/slots", usual), status("/slots", stats)) == (403, 200)
    assert (status("/props", usual), status("/props", stats)) == (200, 200)
    assert (status("/slots", other), status("/props", other)) == (403, 403)
