"""``/v1/keys``: keys are created, changed, rotated and revoked over HTTP, at once and safely."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from keyed import bearer, new_key
from support import STARTER, Json, Response, request, together

from offgrid.caller import SCOPES
from offgrid.cli import main
from offgrid.config import load_settings
from offgrid.server import Server
from offgrid.store.database import Database
from offgrid.store.keys import KeyFile

KEYS = "/v1/keys"
SHORT = {"model": STARTER, "prompt": "Once", "max_tokens": 2}
Serve = Callable[..., Server]


class Keyed(NamedTuple):
    """A server with one key, which has all scopes."""

    url: str
    file: Path
    admin: str
    id: str

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> Response:
        return request(self.url, method, path, body, bearer(key or self.admin))

    def made(self, **body: Any) -> Json:
        answer = self.ask("POST", KEYS, body)
        assert answer.status == 201, answer.body
        return answer.json  # type: ignore[no-any-return]

    def error(self, method: str, path: str, body: Any = None) -> tuple[int, str, str, str]:
        answer = self.ask(method, path, body)
        error = answer.json["error"]
        return answer.status, error["code"], error["param"] or "", error["message"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite3"


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server for tests that change no key."""
    folder = tmp_path_factory.mktemp("keys")
    key, secret = new_key(folder / "keys.sqlite3", "boss", "admin")
    settings = load_settings(
        {
            "port": 0, "models_dir": folder, "default_model": STARTER, "threads": 1,
            "import_roots": "none", "responses_file": folder / "responses.sqlite3",
            "keys_file": folder / "keys.sqlite3", "drain_timeout": 0,
        },
        environ={},
    )  # fmt: skip
    server = Server(settings)
    server.start()
    yield Keyed(server.url, folder / "keys.sqlite3", secret, key.id)
    server.stop()


@pytest.fixture
def keyed(unchanged: Keyed) -> Iterator[Keyed]:
    """The same for tests that change keys: afterwards the file is as it was."""
    with closing(sqlite3.connect(":memory:")) as before:
        with closing(sqlite3.connect(unchanged.file)) as file:
            file.backup(before)
        yield unchanged
        with closing(sqlite3.connect(unchanged.file)) as file:
            before.backup(file)


def status(url: str, secret: str, path: str = "/v1/models") -> int:
    return request(url, "GET", path, headers=bearer(secret)).status


def command(file: Path, *arguments: str) -> Any:
    """What ``offgrid keys`` prints as JSON."""
    result = CliRunner().invoke(main, ["keys", *arguments, "--keys-file", str(file), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --- the life of a key ----------------------------------------------------------------------------


def test_a_key_is_created_once_with_its_secret(keyed: Keyed) -> None:
    limits = {"requests_per_minute": 5, "tokens_per_minute": None, "concurrent_requests": 2,
              "max_tokens": None}  # fmt: skip
    answer = keyed.ask("POST", KEYS, {
        "name": "ward 3", "scopes": ["stats", "inference"], "models": ["OffGrid-Starter"],
        "limits": {"requests_per_minute": 5, "concurrent_requests": 2}, "expires": "30d",
    })  # fmt: skip
    assert answer.status == 201
    assert answer.headers["cache-control"] == "no-store"
    key = answer.json
    secret = key.pop("key")
    assert secret.startswith(key["prefix"])
    assert key["scopes"] == ["inference", "stats"]
    assert key["models"] == [STARTER]
    assert key["limits"] == limits
    assert abs(key["expires"] - key["created"] - 30 * 86400) <= 1
    assert status(keyed.url, secret) == 200
    listed = keyed.ask("GET", KEYS)
    assert [one["name"] for one in listed.json["data"]] == ["boss", "ward 3"]
    one = keyed.ask("GET", f"{KEYS}/{key['id']}")
    assert one.json["last_used"] >= key["created"]
    assert {**one.json, "last_used": None} == key
    for answer in (listed, one):
        assert secret not in answer.body.decode()
        assert "digest" not in answer.body.decode()


def test_without_properties_a_key_has_the_usual_ones(keyed: Keyed) -> None:
    key = keyed.made(name="ward")
    assert key["scopes"] == ["history", "inference"]
    assert key["models"] is key["expires"] is key["filter_file"] is None
    assert set(key["limits"].values()) == {None}
    listed = command(keyed.file, "list")["keys"][1]
    assert {"object": "key", **listed} == {k: v for k, v in key.items() if k != "key"}


def test_changes_take_effect_at_once_and_leave_the_rest(keyed: Keyed) -> None:
    key = keyed.made(name="ward", limits={"max_tokens": 1}, expires="2099-01-31")
    refused = keyed.ask("POST", "/v1/completions", SHORT, key["key"])
    assert refused.status == 400
    assert "max_tokens" in refused.json["error"]["message"]
    path = f"{KEYS}/{key['id']}"
    changed = keyed.ask("POST", path, {"limits": {"requests_per_minute": 10}}).json
    assert changed["limits"]["max_tokens"] is None
    assert changed["expires"] == key["expires"]
    assert keyed.ask("POST", "/v1/completions", SHORT, key["key"]).status == 200
    keyed.ask("POST", path, {"scopes": ["stats"], "expires": "never"})
    assert keyed.ask("POST", "/v1/completions", SHORT, key["key"]).status == 403
    assert status(keyed.url, key["key"], "/v1/stats") == 200
    told = command(keyed.file, "list")["keys"][1]
    assert (told["scopes"], told["expires"]) == (["stats"], None)
    assert told["limits"]["requests_per_minute"] == 10
    keyed.ask("POST", path, {"scopes": ["inference"], "models": [STARTER]})
    assert keyed.ask("GET", path).json["models"] == [STARTER]
    assert keyed.ask("POST", path, {"models": [], "scopes": None}).json["models"] is None


def test_a_change_keeps_the_content_filter_of_the_command_line(
    keyed: Keyed, tmp_path: Path
) -> None:
    (tmp_path / "filter.txt").write_text("word\n")
    made = command(keyed.file, "create", "ward", "--filter-file", str(tmp_path / "filter.txt"))
    changed = keyed.ask("POST", f"{KEYS}/{made['id']}", {"scopes": ["inference"]}).json
    assert changed["filter_file"] == str(tmp_path / "filter.txt")


def test_a_key_expires_at_a_moment(keyed: Keyed) -> None:
    end = int(time.time()) + 1000
    assert keyed.made(name="ward", expires=end)["expires"] == end


def test_rotate_with_and_without_grace(keyed: Keyed) -> None:
    key = keyed.made(name="ward")
    path = f"{KEYS}/{key['id']}/rotate"
    second = keyed.ask("POST", path, {"grace": "1h"})
    assert (second.status, second.json["id"]) == (200, key["id"])
    assert second.headers["cache-control"] == "no-store"
    assert [status(keyed.url, one) for one in (key["key"], second.json["key"])] == [200, 200]
    third = keyed.ask("POST", path).json
    secrets = (key["key"], second.json["key"], third["key"])
    assert [status(keyed.url, one) for one in secrets] == [401, 401, 200]


def test_revoke_ends_a_key_and_keeps_its_entry(keyed: Keyed) -> None:
    key = keyed.made(name="ward")
    path = f"{KEYS}/{key['id']}"
    revoked = keyed.ask("DELETE", path).json
    assert revoked["revoked"] >= key["created"]
    assert revoked["valid"] is False
    assert status(keyed.url, key["key"]) == 401
    assert [one["name"] for one in keyed.ask("GET", KEYS).json["data"]] == ["boss"]
    assert len(keyed.ask("GET", f"{KEYS}?all=true").json["data"]) == 2
    assert keyed.ask("GET", path).json == revoked
    for method, target in (("DELETE", path), ("POST", path), ("POST", f"{path}/rotate")):
        assert keyed.error(method, target, {})[:2] == (404, "not_found")
    assert keyed.made(name="ward")["id"] != key["id"]


def test_the_command_line_is_followed_at_once(keyed: Keyed) -> None:
    made = command(keyed.file, "create", "terminal")
    assert keyed.ask("GET", f"{KEYS}/{made['id']}").json["name"] == "terminal"
    command(keyed.file, "revoke", "terminal")
    assert keyed.ask("GET", f"{KEYS}/{made['id']}").json["valid"] is False


# --- one's own key --------------------------------------------------------------------------------


def test_a_key_learns_what_it_allows(keyed: Keyed) -> None:
    key = keyed.made(name="ward", scopes=["inference"], models=[STARTER], limits={"max_tokens": 9})
    own = keyed.ask("GET", f"{KEYS}/self", key=key["key"]).json
    assert own == {
        "object": "key.self", "needed": True, "id": key["id"], "name": "ward",
        "scopes": ["inference"], "models": [STARTER], "limits": key["limits"],
    }  # fmt: skip
    assert keyed.ask("GET", f"{KEYS}/self").json["scopes"] == sorted(SCOPES)
    assert request(keyed.url, "GET", f"{KEYS}/self").status == 401


def test_without_keys_everything_is_allowed(make_server: Serve, file: Path) -> None:
    url = make_server(keep_alive=0, keys_file=file).url
    own = request(url, "GET", f"{KEYS}/self").json
    assert (own["needed"], own["name"], own["scopes"]) == (False, None, sorted(SCOPES))
    assert request(url, "GET", KEYS).json == {"object": "list", "data": []}
    assert not file.exists()


# --- the first key --------------------------------------------------------------------------------


def test_the_first_key_closes_the_server_and_has_admin(make_server: Serve, file: Path) -> None:
    url = make_server(keep_alive=0, keys_file=file).url
    refused = request(url, "POST", KEYS, {"name": "ward"})
    assert (refused.status, refused.json["error"]["param"]) == (400, "scopes")
    assert request(url, "GET", "/v1/models").status == 200
    assert not file.exists()
    first = request(url, "POST", KEYS, {"name": "boss", "scopes": ["admin"]})
    assert first.status == 201
    assert request(url, "GET", "/v1/models").status == 401
    assert request(url, "POST", KEYS, {"name": "other", "scopes": ["admin"]}).status == 401
    assert status(url, first.json["key"], KEYS) == 200


def test_the_first_key_expires_only_if_that_is_confirmed(make_server: Serve, file: Path) -> None:
    url = make_server(keep_alive=0, keys_file=file).url
    body = {"name": "boss", "scopes": ["admin"]}
    for end in ("1h", int(time.time()) + 3600):
        refused = request(url, "POST", KEYS, {**body, "expires": end})
        error = refused.json["error"]
        assert (refused.status, error["code"], error["param"]) == (409, "last_admin_key", "expires")
        assert "?confirm=true" in error["message"]
    assert request(url, "POST", f"{KEYS}?confirm=maybe", body).status == 400
    assert not file.exists()
    made = request(url, "POST", f"{KEYS}?confirm=true", {**body, "expires": "1h"})
    assert made.status == 201
    # Later keys may expire: this one can create others.
    more = request(url, "POST", KEYS, {"name": "guest", "expires": "1h"}, bearer(made.json["key"]))
    assert more.status == 201


def test_the_first_key_may_say_that_it_never_expires(make_server: Serve, file: Path) -> None:
    url = make_server(keep_alive=0, keys_file=file).url
    body = {"name": "boss", "scopes": ["admin"], "expires": "never"}
    assert request(url, "POST", KEYS, body).status == 201


def test_of_two_first_keys_only_one_is_created(make_server: Serve, file: Path) -> None:
    """A request that was admitted without a key creates none once there is one."""
    url = make_server(keep_alive=0, keys_file=file).url
    body = {"scopes": ["admin"]}
    made = together([
        lambda name=name: request(url, "POST", KEYS, {"name": name, **body})  # type: ignore[misc]
        for name in ("one", "two", "three", "four")
    ])  # fmt: skip
    assert sorted(answer.status for answer in made) == [201, 401, 401, 401]
    keys = KeyFile(file)
    assert len(keys.all()) == 1
    keys.close()


def test_another_machine_cannot_take_the_server(make_server: Serve, file: Path) -> None:
    """With ``insecure``, others may use a server without keys, and not close it for its owner."""
    url = make_server(
        keep_alive=0,
        keys_file=file,
        insecure=True,
        trusted_proxies=("127.0.0.1",),
        host="127.0.0.1",
    ).url
    there = {"X-Forwarded-For": "192.0.2.7"}
    body = {"name": "mine", "scopes": ["admin"]}
    assert request(url, "GET", "/v1/models", headers=there).status == 200
    refused = request(url, "POST", KEYS, body, there)
    assert (refused.status, refused.json["error"]["code"]) == (403, "remote_not_allowed")
    assert not file.exists()
    first = request(url, "POST", KEYS, body)
    assert first.status == 201
    more = {**there, **bearer(first.json["key"])}
    assert request(url, "POST", KEYS, {"name": "other"}, more).status == 201


# --- no one is locked out by accident -------------------------------------------------------------


def test_the_last_admin_key_stays_unless_confirmed(keyed: Keyed) -> None:
    path = f"{KEYS}/{keyed.id}"
    expired = new_key(keyed.file, "old", "admin", expires=time.time() - 1)[0]
    for method, body in (
        ("DELETE", None), ("POST", {"scopes": ["inference", "stats"]}), ("POST", {"expires": "1h"}),
    ):  # fmt: skip
        refused = keyed.error(method, path, body)
        assert refused[:2] == (409, "last_admin_key")
        assert "?confirm=true" in refused[3]
    assert keyed.ask("DELETE", f"{KEYS}/{expired.id}").status == 200  # it was no valid one
    assert keyed.ask("POST", path, {"limits": {"max_tokens": 5}}).status == 200
    second = keyed.made(name="deputy", scopes=["admin"])
    assert keyed.ask("POST", path, {"expires": "1h"}).status == 200
    assert keyed.ask("DELETE", path, key=second["key"]).status == 200
    path = f"{KEYS}/{second['id']}"
    assert keyed.ask("DELETE", path, key=second["key"]).status == 409
    assert keyed.ask("DELETE", f"{path}?confirm=maybe", key=second["key"]).status == 400
    assert keyed.ask("DELETE", f"{path}?confirm=true", key=second["key"]).status == 200
    assert status(keyed.url, second["key"]) == 401


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "name", "name"),
        ({"name": "a/b"}, "name", "'a/b' cannot be the name of a key; use 1 to 64 letters"),
        ({"name": "BOSS"}, "name", "there is a key named BOSS"),
        ({"name": "key_1"}, "name", "cannot be the name of a key"),
        ({"name": "x" * 65}, "name", "64"),
        ({"name": "sk-offgrid-abc"}, "name", "and not a key; a name is not secret"),
        ({"name": "a", "scopes": []}, "scopes", "scopes"),
        ({"name": "a", "scopes": ["inferense"]}, "scopes[0]", "inference"),
        ({"name": "a", "models": ["ofgrid-starter"]}, "models", "did you mean offgrid-starter"),
        ({"name": "a", "models": ["zzz"]}, "models", "GET /v1/models lists all"),
        ({"name": "a", "limits": {"max_tokens": 0}}, "limits.max_tokens", "1"),
        ({"name": "a", "limits": {"tokens": 5}}, "limits.tokens", "tokens"),
        ({"name": "a", "expires": "soon"}, "expires", "'soon' is not a time; such as 30d"),
        ({"name": "a", "expires": "0"}, "expires", "is over at once"),
        ({"name": "a", "expires": 1000}, "expires", "1000 is over; give a time in the future"),
        ({"name": "a", "expires": 10**12}, "expires", "after the year 9998; give never"),
        ({"name": "a", "expires": "9999-12-31T23:59+00:00"}, "expires", "after the year 9998"),
        ({"name": "a", "filter_file": "/etc/passwd"}, "filter_file", "filter_file"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(unchanged: Keyed, body: Json, param: str, words: str) -> None:
    status, _, field, message = unchanged.error("POST", KEYS, body)
    assert (status, field) == (400, param)
    assert words in message


def test_a_wrong_grace_and_an_unknown_key(unchanged: Keyed) -> None:
    wrong = unchanged.error("POST", f"{KEYS}/{unchanged.id}/rotate", {"grace": "later"})
    assert wrong[:3] == (400, "invalid_value", "grace")
    wrong = unchanged.error("POST", f"{KEYS}/{unchanged.id}/rotate", {"grace": True})
    assert wrong[3] == "grace must be a string or an integer, not a boolean."
    unknown = unchanged.error("GET", f"{KEYS}/sk-offgrid-pasted")
    assert unknown[0] == 404
    assert "pasted" not in unknown[3]
    assert status(unchanged.url, unchanged.admin) == 200


def test_a_form_of_a_web_page_changes_no_key(keyed: Keyed) -> None:
    """Also one of an old browser that sends no Origin; a page of another origin is refused too."""
    targets = (KEYS, f"{KEYS}/{keyed.id}", f"{KEYS}/{keyed.id}/rotate")
    for kind in ("application/x-www-form-urlencoded", "text/plain; charset=utf-8",
                 "multipart/form-data; boundary=x"):  # fmt: skip
        for target in targets:
            headers = {**bearer(keyed.admin), "Content-Type": kind}
            answer = request(keyed.url, "POST", target, {"name": "mine"}, headers)
            assert answer.status == 400
            assert "application/json" in answer.json["error"]["message"]
    json_type = {**bearer(keyed.admin), "Content-Type": "application/json"}
    for target in targets:
        headers = {**json_type, "Origin": "http://evil.example"}
        assert request(keyed.url, "POST", target, {"name": "mine"}, headers).status == 403
    assert request(keyed.url, "POST", KEYS, {"name": "mine"}, json_type).status == 201


def test_a_locked_file_is_told(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Database(keyed.file, lambda connection: None, precious=True)
    monkeypatch.setattr("offgrid.store.database.BUSY_SECONDS", 0.0)

    def ask(connection: Any) -> Response:
        return keyed.ask("POST", KEYS, {"name": "ward"})

    busy = other.run(ask, write=True)
    other.close()
    assert (busy.status, busy.json["error"]["code"]) == (503, "keys_unavailable")
    assert busy.headers["retry-after"]
    assert str(keyed.file) not in busy.body.decode()
    assert keyed.made(name="ward")


def test_every_change_is_in_the_log(keyed: Keyed, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "offgrid.api.keys"):
        key = keyed.made(name="ward", expires="30d", limits={"max_tokens": 7})
        path = f"{KEYS}/{key['id']}"
        keyed.ask("POST", path, {"scopes": ["stats"]})
        secret = keyed.ask("POST", f"{path}/rotate").json["key"]
        keyed.ask("DELETE", path)
    lines = [record.getMessage() for record in caplog.records]
    begins = [line.split(" the key ")[0] for line in lines]
    assert begins == ["created", "changed", "rotated", "revoked"]
    assert f"ward ({key['id']}); scopes: history, inference" in lines[0]
    assert "limits: 7 tokens/answer" in lines[0]
    assert "scopes: stats;" in lines[1]
    assert all(line.endswith(f"by boss ({keyed.id})") for line in lines)
    assert not any(one in line for line in lines for one in (key["key"], secret, keyed.admin))
