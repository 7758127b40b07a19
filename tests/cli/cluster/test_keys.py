"""What HAProxy takes for the beginning of a conversation, in requests of all kinds.

The configuration is the one that users get, but HAProxy answers with the key by which it would
choose a machine."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from front_proxies import free_port
from replicas import haproxy
from support import TIMEOUT, eventually, request

from offgrid.cli.cluster.haproxy import (
    BUFFER,
    CHATS,
    INPUTS,
    SINGLES,
    TEXTS,
    Options,
    configuration,
)
from offgrid.cli.cluster.machines import parsed

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You are helpful. " * 200}
LONG = "a long text " * 12_000
assert len(LONG) > BUFFER
Key = Callable[..., str]
TELL = """
    http-request set-var-fmt(txn.key) "first" if !is_found
    http-request return status 200 content-type text/plain lf-string "%[var(txn.key)]"
    use_backend"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Key]:
    """Returns the key of a request; ``first`` if it is for one machine."""
    port = free_port()
    text = configuration([parsed("127.0.0.1:1")], Options(f"127.0.0.1:{port}"))
    assert text.count("\n    use_backend") == 1
    file = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    file.write_text(text.replace("\n    use_backend", TELL))
    process = subprocess.Popen([haproxy(), "-db", "-f", str(file)], stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", port)) == 0

    def ask(path: str, body: Any, method: str = "POST", **headers: str) -> str:
        answer = request(f"http://127.0.0.1:{port}", method, path, body, headers)
        assert answer.status == 200
        return answer.body.decode()

    eventually(listens, "HAProxy listens")
    yield ask
    process.kill()
    process.wait(TIMEOUT)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


BEGINNINGS: dict[str, list[dict[str, Any]]] = {
    "a system prompt": [SYSTEM, user("one")],
    "no system prompt": [user("one")],
    "two system prompts": [SYSTEM, {"role": "developer", "content": "Be short."}, user("one")],
    "parts": [user(parts("the same for all", "one"))],
    "an image first": [
        user([{"type": "image_url", "image_url": {"url": "data:,x"}}, *parts("one")])
    ],
    "other scripts": [SYSTEM, user("one \u4e2d\u6587 \U0001f600 / \\u \\\\ \" \n")],
    "a long question": [SYSTEM, user(f"one{LONG}")],
    "a long system prompt": [{"role": "system", "content": f"one {LONG}"}, user("two")],
    "a large image first": [
        user([{"type": "image_url", "image_url": {"url": f"data:,one{LONG}"}}, *parts("two")])
    ],
    "empty": [user("")],
}  # fmt: skip


def php(body: Any) -> bytes:
    """JSON as PHP writes it for people."""
    return json.dumps(body, indent=1).replace("/", "\\/").encode()


def javascript(body: Any) -> bytes:
    """JSON as browsers write it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize("name", BEGINNINGS)
@pytest.mark.parametrize("field", ["messages", "input"])
@pytest.mark.parametrize("writer", [json.dumps, javascript, php])
def test_all_turns_of_a_conversation_have_one_key(
    key: Key, name: str, field: str, writer: Callable[[Any], Any]
) -> None:
    """Also when the body has outgrown the buffer."""
    path, begin = CHAT if field == "messages" else INPUTS[0], BEGINNINGS[name]
    turns = [*begin, assistant("an answer"), user("more"), assistant("another"), user("and more")]
    bodies = [{"model": "x", field: turns[:n]} for n in range(len(begin), len(turns) + 1)]
    bodies += [{"model": "x", field: [*turns, assistant(LONG), user(LONG)], "stream": True}]
    written = [writer(body) for body in bodies]
    sent = [text.encode() if isinstance(text, str) else text for text in written]
    keys = {key(path, body) for body in sent} | {key(f"{path}/", sent[0])}
    assert len(keys) == 1
    assert keys & {"", "first"} == set()


@pytest.mark.parametrize("name", [name for name in BEGINNINGS if name != "empty"])
def test_other_conversations_have_other_keys(key: Key, name: str) -> None:
    """Also with the same system prompt."""
    begin = BEGINNINGS[name]
    other = json.loads(json.dumps(begin).replace("one", "two!", 1))
    assert other != begin
    assert key(CHAT, {"messages": begin}) != key(CHAT, {"messages": other})


def test_what_follows_the_messages_makes_no_difference(key: Key) -> None:
    """Coding agents send a hundred kilobytes of tools, some of them before the messages."""
    begin, tools = [user("one")], [{"name": "tool", "description": LONG}]
    turns = [*begin, assistant("an answer"), user("more")]
    keys = {
        key("/v1/messages", {"messages": messages, "system": "x", "tools": tools})
        for messages in (begin, turns)
    }
    assert keys == {key(CHAT, {"messages": begin})}


@pytest.mark.parametrize("path", CHATS)
def test_endpoints_of_chats(key: Key, path: str) -> None:
    assert key(path, {"messages": [user("a")]}) == key(CHAT, {"messages": [user("a")]})


@pytest.mark.parametrize("path", TEXTS)
def test_a_prompt_without_messages_grows_at_its_end(key: Key, path: str) -> None:
    text = "Once upon a time. " * 60
    first = key(path, {"model": "x", "prompt": text})
    assert key(path, {"prompt": f"{text} more", "stream": True}) == first
    assert key(path, {"prompt": f"{text}{LONG}"}) == first
    assert key(path, {"prompt": f"Twice {text}"}) != first


def test_requests_without_a_conversation_go_anywhere(key: Key) -> None:
    for path in SINGLES:
        body = {"input": "a", "query": "a"}
        assert len({key(path, body) for _ in range(3)} - {"first"}) == 3
    # So do bodies that make no sense: a machine says what is wrong with them.
    for body in (b"", b"{", b"[]", b'{"messages": 1}', b'{"messages": [{}]}', b"\0\xff"):
        assert key(CHAT, body) not in ("", "first")


def test_an_editor_has_one_key(key: Key) -> None:
    one = key("/infill", {"input_prefix": "a"}, Authorization="Bearer 1")
    assert key("/infill", {"input_prefix": "b"}, Authorization="Bearer 1") == one
    assert key("/infill", {"input_prefix": "b"}, Authorization="Bearer 2") != one


def test_what_one_machine_stores(key: Key) -> None:
    body = {"input": [user("a")]}
    assert key("/v1/responses", body) == "first"
    assert key("/v1/responses", {**body, "store": True}) == "first"
    assert key("/v1/responses", {**body, "store": False}) == key(INPUTS[0], body)
    text = {"input": "a", "store": False}
    assert key("/v1/responses", text) == key("/v1/responses", {**text, "stream": True})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT), ("GET", "/v1/models"), ("POST", "/v1/models/x/load"), ("GET", "/ui/"),
        ("DELETE", "/v1/responses/x"), ("POST", "/v1/conversations"), ("POST", "/"),
    ],
)  # fmt: skip
def test_everything_else_is_for_one_machine(key: Key, method: str, path: str) -> None:
    assert key(path, None if method == "GET" else {"messages": [user("a")]}, method) == "first"
