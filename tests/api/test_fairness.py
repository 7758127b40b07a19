"""Clients are kept apart: their prefixes, the classes of their requests, and whose requests are
whose."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon
import falcon.testing
import pytest
from keyed import bearer, new_key
from support import STARTER, Json, chat_body, request

from offgrid.api.http import owner
from offgrid.api.http.caller import _served
from offgrid.caller import LOCAL, Caller
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
LONG = "Once upon a time there was a little girl who lived in a house near the sea. " * 6


def cached(url: str, key: str, **fields: Any) -> int:
    """Send a long prompt; return how many of its tokens were cached."""
    body = {"model": STARTER, "prompt": LONG, "max_tokens": 1, **fields}
    response = request(url, "POST", TEXT, body, bearer(key) if key else None)
    assert response.status == 200, response.body
    return int(response.json["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str, str]:
    file = tmp_path / "keys.sqlite3"
    return file, new_key(file, "a", "inference")[1], new_key(file, "b", "inference")[1]


def test_prefixes_of_a_key_are_unknown_to_another(
    make_server: Callable[..., Server], keys: tuple[Path, str, str]
) -> None:
    """B16: key B re-sending A's prompt finds nothing cached."""
    file, a, b = keys
    url = make_server(keys_file=file, parallel=3).url
    assert cached(url, a) == 0
    assert cached(url, b) == 0
    assert cached(url, a) > 50
    assert cached(url, b) > 50
    assert cached(url, a, cache_salt="pepper") == 0
    assert cached(url, a, cache_salt="pepper") > 50


@pytest.mark.slow
def test_prefixes_in_memory_and_on_disk_are_kept_apart_too(
    make_server: Callable[..., Server], keys: tuple[Path, str, str], tmp_path: Path
) -> None:
    """B16, where the only slot holds something else, and after a restart."""
    file, a, b = keys
    folder = tmp_path / "prefixes"
    settings = {"keys_file": file, "parallel": 1, "cache_dir": folder, "drain_timeout": 10}
    server = make_server(**settings)
    assert cached(server.url, a) == 0
    assert cached(server.url, b) == 0, "and it evicts what the slot holds"
    server.stop()
    assert len(list(folder.rglob("*.prefix"))) == 2
    names = b"".join(path.read_bytes()[:256] for path in folder.rglob("*.prefix"))
    server = make_server(**settings)
    assert cached(server.url, b) > 50
    assert cached(server.url, a) > 50
    assert cached(server.url, new_key(file, "c", "inference")[1]) == 0
    for key in (a, b):
        assert key.encode() not in names


def test_an_operator_may_let_all_keys_share(
    make_server: Callable[..., Server], keys: tuple[Path, str, str]
) -> None:
    file, a, b = keys
    url = make_server(keys_file=file, share_prefixes="all").url
    assert cached(url, a) == 0
    assert cached(url, b) > 50
    assert cached(url, b, cache_salt="own") == 0


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, "default"), ({"service_tier": "auto"}, "default"),
        ({"service_tier": "scale"}, "default"),
        ({"service_tier": "flex"}, "flex"), ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "ultrafast"}, "priority"), ({"priority": -5}, "priority"),
        ({"priority": 0}, "default"), ({"priority": 3}, "flex"),
        ({"service_tier": "default", "priority": 3}, "flex"),
        ({"service_tier": "priority", "priority": 3}, "priority"),
    ],
)  # fmt: skip
def test_responses_say_which_class_was_used(base_url: str, fields: Json, tier: str) -> None:
    answer = request(base_url, "POST", CHAT, chat_body(max_tokens=1, **fields)).json
    assert answer["service_tier"] == tier
    body = {"model": STARTER, "input": "Hi", "max_output_tokens": 16, "store": False, **fields}
    answer = request(base_url, "POST", "/v1/responses", body).json
    assert answer["service_tier"] == tier


@pytest.mark.parametrize(
    ("field", "value"),
    [("priority", 1 << 40), ("priority", "high"), ("cache_salt", 5), ("cache_salt", "x" * 1025),
     ("service_tier", "gold")],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(base_url: str, field: str, value: Any) -> None:
    for path, body in ((CHAT, chat_body()), ("/v1/responses", {"model": STARTER, "input": "x"})):
        response = request(base_url, "POST", path, {**body, field: value})
        assert (response.status, response.json["error"]["param"]) == (400, field)


# --- whose request it is --------------------------------------------------------------------------


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Return the owner of a request."""

    def whose(who: Caller, port: int | None = None, **headers: str) -> str:
        _served.caller = who
        env = falcon.testing.create_environ(headers=headers or None)
        env["REMOTE_PORT"] = "" if port is None else str(port)
        found = owner.begin(falcon.Request(env))
        assert owner.owner() == found
        return found

    yield whose
    _served.caller = LOCAL
    owner._served.owner = ""


def test_a_key_is_the_owner_wherever_it_is_used(served: Callable[..., str]) -> None:
    for address in ("127.0.0.1", "192.168.1.5"):
        assert served(Caller("key_1", address=address, has_key=True)) == "key_1"


def test_without_keys_other_machines_cannot_multiply(served: Callable[..., str]) -> None:
    who = Caller("192.168.1.5", address="192.168.1.5")
    assert served(who, authorization="Bearer one") == served(who, authorization="Bearer two")


def test_programs_of_this_machine_may_differ_by_the_keys_that_they_send(
    served: Callable[..., str],
) -> None:
    """If the system does not tell which process connects: here there is no connection."""
    who = Caller("127.0.0.1", address="127.0.0.1")
    one = served(who, authorization="Bearer one")
    assert "one" not in one
    assert len({served(who), one, served(who, **{"x-api-key": "two"})}) == 3


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="only Linux tells")
@pytest.mark.parametrize(("family", "host"), [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")])
def test_the_process_at_the_other_end_is_the_owner(
    served: Callable[..., str], family: str, host: str
) -> None:
    with socket.socket(getattr(socket, family)) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client:
            port = client.getsockname()[1]
            who = Caller(host, address=host)
            found = {served(who, port, authorization=f"Bearer {key}") for key in "ab"}
            assert found == {f"{host} process {os.getpid()}"}


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="only Linux tells")
def test_a_connection_is_found_while_others_come_and_go(
    served: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line may be missing from what is read, and a file that is listed may be closed already:
    the program still counts as one."""
    read_text, readlink = Path.read_text, os.readlink
    texts, closed = iter([""]), iter([True])

    def follow(path: str, *rest: Any, **more: Any) -> str:
        if next(closed, False):
            raise FileNotFoundError(path)
        return readlink(path, *rest, **more)

    def missing(path: Path, *rest: Any, **more: Any) -> str:
        return next(texts, read_text(path, *rest, **more))

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        monkeypatch.setattr(Path, "read_text", missing)
        monkeypatch.setattr(os, "readlink", follow)
        found = served(Caller("127.0.0.1", address="127.0.0.1"), client.getsockname()[1])
    assert found == f"127.0.0.1 process {os.getpid()}"
    assert next(texts, None) is None
    assert next(closed, None) is None
