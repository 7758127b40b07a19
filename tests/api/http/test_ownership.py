"""What a key stores belongs to it, and a key for some models learns of no others."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from keyed import bearer, new_key
from support import STARTER, Response, eventually, request

from offgrid.config import load_settings
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_PATH
from offgrid.store.file import Item, Owner, _prepare
from offgrid.store.keys import KeyFile
from offgrid.store.responses import ResponseStore, StoredResponse

RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
OTHER = "secret-model"
KEYS: dict[str, dict[str, Any]] = {
    "anna": {}, "bert": {}, "boss": {"scopes": ("admin",)}, "plain": {"scopes": ("inference",)},
    "limited": {"models": frozenset({"pet"}), "scopes": ("inference", "history", "models")},
    "by-id": {"models": frozenset({STARTER})},
}  # fmt: skip


class Keyed(NamedTuple):
    url: str
    secrets: dict[str, str]

    def ask(self, key: str, method: str, path: str, body: Any = None) -> Response:
        return request(self.url, method, path, body, bearer(self.secrets[key]))

    def respond(self, key: str, **fields: Any) -> Response:
        body = {"model": STARTER, "input": "Hello!", "max_output_tokens": 2, **fields}
        return self.ask(key, "POST", RESPONSES, body)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server with two models, and with what was stored before there were keys."""
    folder = tmp_path_factory.mktemp("keyed")
    models = folder / "models"
    models.mkdir()
    for name in (STARTER, OTHER):
        shutil.copy(STARTER_PATH, models / f"{name}.gguf")
    store = ResponseStore(folder / "responses.sqlite3", 100, 1 << 30)
    said = [{"type": "input_text", "text": "old"}]
    message = {"type": "message", "role": "user", "content": said, "id": "msg_old"}
    item = Item("msg_old", json.dumps(message).encode())
    body = json.dumps({"id": "resp_old", "status": "completed", "background": False}).encode()
    store.put(StoredResponse("resp_old", None, body, (item,), ()))
    store.conversations.create("conv_old", b'{"id":"conv_old"}', [])
    store.close()
    secrets = {}
    for name, given in KEYS.items():
        grant = dict(given)
        scopes = grant.pop("scopes", ())
        secrets[name] = new_key(folder / "keys.sqlite3", name, *scopes, **grant)[1]
    settings = load_settings(
        {
            "port": 0, "models_dir": models, "default_model": STARTER, "threads": 1,
            "import_roots": "none", "responses_file": folder / "responses.sqlite3",
            "keys_file": folder / "keys.sqlite3", "drain_timeout": 0,
            "model_aliases": f"pet={STARTER},hidden={OTHER}",
        },
        environ={},
    )  # fmt: skip
    server = Server(settings)
    server.start()
    yield Keyed(server.url, secrets)
    server.stop()


# --- responses ------------------------------------------------------------------------------------


def test_another_key_finds_no_stored_response(keyed: Keyed) -> None:
    made = keyed.respond("anna")
    assert made.status == 200
    assert made.json["store"] is True
    path = f"{RESPONSES}/{made.json['id']}"
    unknown = keyed.ask("bert", "GET", f"{RESPONSES}/resp_unknown")
    for key in ("bert", "boss"):
        for method, of in (
            ("GET", path), ("GET", f"{path}?stream=true"), ("GET", f"{path}/input_items"),
            ("DELETE", path), ("POST", f"{path}/cancel"),
        ):  # fmt: skip
            answer = keyed.ask(key, method, of)
            assert answer.status == 404, (key, method, of)
            told = answer.body.decode().replace(made.json["id"], "resp_unknown")
            assert json.loads(told) == unknown.json
        refused = keyed.respond(key, previous_response_id=made.json["id"])
        assert refused.status == 400
        assert refused.json["error"]["code"] == "previous_response_not_found"
        (item,) = made.json["output"]
        referred = keyed.respond(key, input=[{"type": "item_reference", "id": item["id"]}])
        assert referred.status == 400
    assert keyed.ask("anna", "GET", path).status == 200
    assert keyed.respond("anna", previous_response_id=made.json["id"]).status == 200
    assert keyed.ask("anna", "DELETE", path).status == 200
    assert keyed.ask("anna", "GET", path).status == 404


def test_another_key_finds_no_background_response(keyed: Keyed) -> None:
    made = keyed.respond("anna", background=True)
    assert made.status == 200
    path = f"{RESPONSES}/{made.json['id']}"
    for method, of in (
        ("GET", path), ("GET", f"{path}?stream=true"), ("POST", f"{path}/cancel"), ("DELETE", path),
        ("GET", f"{path}/input_items"),
    ):  # fmt: skip
        assert keyed.ask("bert", method, of).status == 404, (method, of)
    eventually(
        lambda: keyed.ask("anna", "GET", path).json["status"] == "incomplete", "it is answered"
    )
    # Also when it has ended, and is read from the file and from memory.
    assert keyed.ask("bert", "GET", path).status == 404
    assert keyed.ask("bert", "GET", f"{path}?stream=true").status == 404
    events = keyed.ask("anna", "GET", f"{path}?stream=true").body
    assert b"response.incomplete" in events
    assert keyed.ask("anna", "POST", f"{path}/cancel").status == 200


def test_another_key_finds_no_conversation(keyed: Keyed) -> None:
    hello = {"type": "message", "role": "user", "content": "Hello!"}
    made = keyed.ask("anna", "POST", CONVERSATIONS, {"items": [hello]}).json
    path = f"{CONVERSATIONS}/{made['id']}"
    items = keyed.ask("anna", "GET", f"{path}/items").json["data"]
    one = f"{path}/items/{items[0]['id']}"
    for key in ("bert", "boss"):
        for method, of, body in (
            ("GET", path, None), ("POST", path, {"metadata": {}}), ("DELETE", path, None),
            ("GET", f"{path}/items", None), ("POST", f"{path}/items", {"items": [hello]}),
            ("GET", one, None), ("DELETE", one, None),
        ):  # fmt: skip
            assert keyed.ask(key, method, of, body).status == 404, (key, method, of)
        assert keyed.respond(key, conversation=made["id"]).status == 404
    assert keyed.respond("anna", conversation=made["id"]).status == 200
    assert len(keyed.ask("anna", "GET", f"{path}/items").json["data"]) == 3
    assert keyed.ask("anna", "DELETE", one).status == 200
    assert keyed.ask("anna", "DELETE", path).status == 200


def test_what_was_stored_without_keys_is_visible_to_admin_only(keyed: Keyed) -> None:
    for path in (f"{RESPONSES}/resp_old", f"{CONVERSATIONS}/conv_old"):
        assert keyed.ask("anna", "GET", path).status == 404
        assert keyed.ask("boss", "GET", path).status == 200
    continued = keyed.respond("boss", previous_response_id="resp_old")
    assert continued.status == 200
    assert keyed.ask("anna", "GET", f"{RESPONSES}/{continued.json['id']}").status == 404


def test_a_key_without_history_is_answered_and_stores_nothing(keyed: Keyed) -> None:
    made = keyed.respond("plain")
    assert made.status == 200
    assert made.json["store"] is False
    assert keyed.ask("boss", "GET", f"{RESPONSES}/{made.json['id']}").status == 404
    for fields in (
        {"previous_response_id": "resp_old"}, {"conversation": "conv_old"}, {"background": True},
        {"input": [{"type": "item_reference", "id": "msg_old"}]},
    ):  # fmt: skip
        refused = keyed.respond("plain", **fields)
        assert refused.status == 403, fields
        assert refused.json["error"]["code"] == "missing_scope"
        assert "history" in refused.json["error"]["message"]


BRIEF = {"model": STARTER, "input": "Hello!", "max_output_tokens": 1}


def stored_with_a_key(make_server: Callable[..., Server], file: Path) -> tuple[str, str, str]:
    """Start a server with a key and store a response; return its address, the secret, the id."""
    _, secret = new_key(file, "anna")
    url = make_server(keys_file=file).url
    return url, secret, request(url, "POST", RESPONSES, BRIEF, bearer(secret)).json["id"]


@pytest.mark.slow
def test_a_server_without_keys_does_not_show_what_belongs_to_one(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    url, secret, id = stored_with_a_key(make_server, tmp_path / "keys.sqlite3")
    without = make_server(keys_file=tmp_path / "none.sqlite3").url
    assert request(without, "GET", f"{RESPONSES}/{id}").status == 404
    own = request(without, "POST", RESPONSES, BRIEF).json["id"]
    assert request(without, "GET", f"{RESPONSES}/{own}").status == 200
    assert request(url, "GET", f"{RESPONSES}/{own}", headers=bearer(secret)).status == 404
    assert request(url, "GET", f"{RESPONSES}/{id}", headers=bearer(secret)).status == 200


@pytest.mark.slow
def test_a_rotated_key_keeps_what_it_stored(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "keys.sqlite3"
    url, _, id = stored_with_a_key(make_server, file)
    _, newer = KeyFile(file).rotate("anna")
    assert request(url, "GET", f"{RESPONSES}/{id}", headers=bearer(newer)).status == 200


def test_a_file_of_version_2_gets_owners(tmp_path: Path) -> None:
    """Its rows belong to nobody, also if two processes open it at the same moment."""
    path = tmp_path / "r.sqlite3"
    store = ResponseStore(path, 100, 1 << 30)
    store.put(StoredResponse("resp_1", None, b"{}", (), ()))
    store.close()
    connection = sqlite3.connect(path)
    for table in ("responses", "conversations"):
        connection.execute(f"DROP INDEX {table}_by_caller")
        connection.execute(f"ALTER TABLE {table} DROP caller")
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()
    first, second = (sqlite3.connect(path, isolation_level=None) for _ in range(2))
    _prepare(first)
    _prepare(second)
    first.close()
    second.close()
    stored = ResponseStore(path, 100, 1 << 30)
    assert stored.get("resp_1") is not None
    assert stored.of(Owner("key_1", shared=False)).get("resp_1") is None
    assert stored.of(Owner("key_1", shared=True)).get("resp_1") is not None
    stored.close()


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["limited", "by-id"])
def test_a_key_for_some_models_sees_only_these(keyed: Keyed, key: str) -> None:
    listed = keyed.ask(key, "GET", "/v1/models").json
    assert [model["id"] for model in listed["data"]] == [STARTER]
    assert listed["unusable"] == []
    assert OTHER not in json.dumps(listed)
    assert len(keyed.ask("anna", "GET", "/v1/models").json["data"]) == 2
    for name in (STARTER, "pet", "PET", f"{STARTER}.gguf", STARTER[:7]):
        answer = keyed.ask(key, "POST", "/tokenize", {"model": name, "content": "a"})
        assert answer.status == 200, name


@pytest.mark.parametrize("name", [OTHER, "hidden", "HIDDEN", f"{OTHER}.gguf", OTHER[:6]])
def test_requests_for_other_models_are_refused(keyed: Keyed, name: str) -> None:
    hello = [{"role": "user", "content": "Hello!"}]
    for method, path, body in (
        ("POST", "/v1/chat/completions", {"messages": hello}),
        ("POST", "/v1/chat/completions/input_tokens", {"messages": hello}),
        ("POST", "/v1/completions", {"prompt": "a"}),
        ("POST", "/v1/embeddings", {"input": "a"}),
        ("POST", "/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("POST", "/v1/decisions", {
            "input": "a", "questions": [{"type": "predicate", "instructions": "b"}]}),
        ("POST", "/v1/moderations", {"input": "a"}),
        ("POST", "/v1/lab/distribution", {"prompt": "a"}),
        ("POST", RESPONSES, {"input": "a"}),
        ("POST", f"{RESPONSES}/input_tokens", {"input": "a"}),
        ("POST", "/tokenize", {"content": "a"}),
        ("POST", "/detokenize", {"tokens": [1]}),
        ("GET", f"/tokenizer_info?model={name}", None),
        ("GET", f"/v1/models/{name}", None),
        ("POST", f"/v1/models/{name}/load", {}),
        ("POST", f"/v1/models/{name}/unload", {}),
    ):  # fmt: skip
        named = body if body is None or "models" in path else {**body, "model": name}
        answer = keyed.ask("limited", method, path, named)
        assert answer.status == 403, (path, answer.body)
        error = answer.json["error"]
        assert (error["type"], error["code"], error["param"]) == (
            "permission_error", "model_not_allowed", "model"
        )  # fmt: skip
        expected = f"The key limited is not for the model {name}. Its models are: pet."
        assert error["message"] == expected


def test_an_unknown_model_tells_nothing_of_others(keyed: Keyed) -> None:
    answer = keyed.ask("limited", "POST", "/v1/completions", {"model": "zzz", "prompt": "a"})
    assert answer.status == 404
    expected = "Model not found: zzz. The models of this key are: pet."
    assert answer.json["error"]["message"] == expected


def test_loaded_models_of_others_are_not_listed(keyed: Keyed) -> None:
    assert keyed.ask("boss", "POST", f"/v1/models/{OTHER}/load", {}).status == 200
    loaded = keyed.ask("boss", "GET", "/v1/loaded").json["data"]
    assert OTHER in [model["id"] for model in loaded]
    assert OTHER not in keyed.ask("limited", "GET", "/v1/loaded").body.decode()


def test_a_default_model_that_is_not_allowed(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "keys.sqlite3"
    _, secret = new_key(file, "anna", models=frozenset({"another"}))
    url = make_server(keys_file=file).url
    answer = request(url, "POST", "/v1/completions", {"prompt": "a"}, bearer(secret))
    assert answer.status == 403
    expected = "The key anna is not for the default model. Its models are: another."
    assert answer.json["error"]["message"] == expected
