"""``/v1/history``: lists, changes, exports, imports, limits."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import socket
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documented import Documented
from keyed import bearer, new_key
from support import TIMEOUT, Json, Response, request

from offgrid.api.history import exports, resource
from offgrid.api.history.shapes import MAX_SETTINGS
from offgrid.caller import Limits
from offgrid.server import Server

PATH = "/v1/history"
ONE = f"{PATH}/{{id}}"
MARKDOWN = {"Content-Type": "text/markdown; charset=utf-8"}


def said(id: str, parent: str | None = None, **fields: Any) -> Json:
    return {"id": id, "parent": parent, "role": "user", "content": id, **fields}


def chain(count: int, **fields: Any) -> list[Json]:
    return [said(f"m{n}", f"m{n - 1}" if n else None, **fields) for n in range(count)]


def error(answer: Response) -> tuple[int, str, str | None]:
    return answer.status, answer.json["error"]["code"], answer.json["error"]["param"]


class Client:
    """A client of one server."""

    def __init__(self, url: str, secret: str = "") -> None:
        self.url = url
        self.headers = bearer(secret) if secret else {}

    def ask(self, method: str, tail: str = "", body: Any = None, **headers: str) -> Response:
        return request(self.url, method, PATH + tail, body, {**self.headers, **headers})

    def make(self, *messages: Json, **fields: Any) -> str:
        made = self.ask("POST", "", {"messages": [*messages], **fields})
        assert made.status == 200, made.body
        return str(made.json["id"])

    def listed(self, query: str = "") -> list[str]:
        page = self.ask("GET", f"?{urllib.parse.urlencode({'query': query, 'limit': 100})}")
        return [one["id"] for one in page.json["data"]]


@pytest.fixture(scope="module")
def client(base_url: str) -> Client:
    return Client(base_url)


@pytest.fixture
def empty(make_server: Callable[..., Server]) -> Client:
    return Client(make_server(keep_alive=0).url)


def test_answers_match_the_document(client: Client) -> None:
    documented = Documented.of(client.url)
    id = client.make(said("a"), said("b", "a", status="running", data={"x": None}), title="T")
    export = client.ask("GET", f"/{id}/export").json
    for method, path, tail, body in (
        ("get", ONE, f"/{id}", None),
        ("get", ONE, f"/{id}?since=1", None),
        ("post", f"{ONE}/messages", f"/{id}/messages", {"messages": [said("c", "b")]}),
        ("post", ONE, f"/{id}", {"pinned": True}),
        ("get", PATH, "?query=t", None),
        ("get", f"{ONE}/export", f"/{id}/export", None),
        ("get", f"{ONE}/export", f"/{id}/export?format=json", None),
        ("get", f"{ONE}/export", f"/{id}/export?format=html", None),
        ("post", f"{PATH}/import", "/import", export),
        ("post", f"{PATH}/import", "/import", {**export, "version": 2}),
        ("post", f"{ONE}/messages", f"/{id}/messages", {"messages": [said("a", content="x")]}),
        ("delete", ONE, f"/{id}", None),
        ("delete", ONE, f"/{id}", None),
    ):
        documented.check(client.ask(method.upper(), tail, body), method, path)
    for method in ("get", "post", "delete"):
        documented.check(client.ask(method.upper(), f"/{id}", {}), method, ONE)


def test_a_conversation_as_a_page_writes_it(client: Client) -> None:
    id = client.make(said("q"), title="Otters", settings={"model": "m", "seed": None})
    running = said("r", "q", role="assistant", content="Ot", status="running")
    for content in ("Ot", "Otters", "Otters sw"):
        told = client.ask(
            "POST", f"/{id}/messages", {"messages": [{**running, "content": content}]}
        )
        assert told.status == 200
    done = {**running, "content": "Otters swim.", "status": "done", "data": {"usage": {"n": 3}}}
    for _ in range(2):
        told = client.ask("POST", f"/{id}/messages", {"messages": [done], "head": "r"})
        assert (told.json["revision"], told.json["head"]) == (5, "r")
    late = client.ask("POST", f"/{id}/messages", {"messages": [running]})
    assert (late.status, late.json["revision"]) == (200, 5)
    opened = client.ask("GET", f"/{id}").json
    assert opened["settings"] == {"model": "m", "seed": None}
    assert [(one["id"], one["revision"]) for one in opened["messages"]] == [("q", 1), ("r", 5)]
    assert opened["messages"][1]["data"] == {"usage": {"n": 3}}
    assert opened["preview"] == "Otters swim."
    assert opened["messages_count"] == 2
    assert client.ask("GET", f"/{id}?since=4").json["messages"] == opened["messages"][1:]
    assert client.ask("GET", f"/{id}?since=5").json["messages"] == []
    other = client.ask("POST", f"/{id}/messages", {"messages": [{**done, "content": "No."}]})
    assert error(other) == (409, "message_conflict", "messages[0].id")
    renamed = client.ask("POST", f"/{id}", {"title": "Swimming", "pinned": True, "head": "q"}).json
    assert (renamed["title"], renamed["pinned"], renamed["head"]) == ("Swimming", True, "q")
    assert client.listed("otters swim") == [id]
    assert client.ask("DELETE", f"/{id}").json["deleted"] is True
    assert client.listed("otters swim") == []
    for method, tail, body in (
        ("GET", "", None), ("POST", "", {"title": "T"}), ("DELETE", "", None),
        ("POST", "/messages", {"messages": [done]}), ("GET", "/export", None),
    ):  # fmt: skip
        assert error(client.ask(method, f"/{id}{tail}", body)) == (404, "not_found", "id")


def test_a_search_ends_when_its_client_leaves(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    began = threading.Event()
    logged: queue.Queue[logging.LogRecord] = queue.Queue()

    def endless(*_: object) -> tuple[str, list[str]]:
        began.set()
        counting = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
        return f"EXISTS ({counting} SELECT 1 FROM n WHERE x < 0)", []

    monkeypatch.setattr("offgrid.store.history.store.condition", endless)
    client.make(said("a"))
    listener = logging.handlers.QueueHandler(logged)
    log = logging.getLogger("offgrid.requests")
    caplog.set_level(logging.INFO, log.name)
    log.addHandler(listener)
    try:
        host, port = client.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as sock:
            head = f"GET {PATH}?query=a HTTP/1.1\r\nHost: {host}\r\nX-Request-ID: left-1\r\n\r\n"
            sock.sendall(head.encode())
            assert began.wait(TIMEOUT)
        # The line of an earlier test's request may come first.
        while not (line := logged.get(timeout=TIMEOUT).getMessage()).endswith("id=left-1"):
            pass
    finally:
        log.removeHandler(listener)
    assert line.startswith(f"GET {PATH} 499 ")


def test_pages(empty: Client) -> None:
    ids = [empty.make(title=f"T{number}") for number in range(5)]
    first = empty.ask("GET", "?limit=3").json
    assert [one["id"] for one in first["data"]] == ids[:1:-1]
    assert first["has_more"] is True
    second = empty.ask("GET", f"?limit=3&after={first['last_id']}").json
    assert [one["id"] for one in second["data"]] == ids[1::-1]
    assert second["has_more"] is False
    for query, field in (
        ("limit=101", "limit"), ("limit=x", "limit"), ("after=none", "after"),
        (f"query={'x' * 501}", "query"),
    ):  # fmt: skip
        assert error(empty.ask("GET", f"?{query}"))[::2] == (400, field)
    for since in ("-1", "1e3", "9" * 5000):
        answer = empty.ask("GET", f"/{ids[0]}?since={since}")
        assert error(answer)[::2] == (400, "since")


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"id": "a b"}, "id", "1 to 64 characters"),
        ({"id": "a\n"}, "id", "1 to 64 characters"),
        ({"id": "x" * 65}, "id", "1 to 64 characters"),
        ({"id": "import"}, "id", "endpoint"),
        ({"title": "a\nb"}, "title", "one line"),
        ({"title": "x" * 501}, "title", "500"),
        ({"settings": {"a": "x" * MAX_SETTINGS}}, "settings", str(MAX_SETTINGS)),
        ({"head": "none"}, "head", "no message none"),
        ({"unknown": 1}, "unknown", "unknown"),
        ({"messages": [said("a", role="robot")]}, "messages[0].role", "robot"),
        ({"messages": [said("a", content=[{"text": "x"}])]}, "messages[0].content[0].type", "type"),
        ({"messages": [said("a", more=1)]}, "messages[0].more", "nknown"),
        ({"messages": [{"role": "user"}]}, "messages[0].id", "Missing"),
        ({"messages": 1}, "messages", 'Example: [{"id": "msg_1", "role": "user"'),
        ({"messages": [said("a", "b"), said("b", "a")]}, "messages[0].parent", "before its"),
        ({"messages": [said("a", created_at=-1)]}, "messages[0].created_at", "0"),
    ],
)  # fmt: skip
def test_errors_name_the_field(client: Client, body: Json, field: str, words: str) -> None:
    refused = client.ask("POST", "", body)
    assert refused.status == 400
    assert refused.json["error"]["param"] == field
    assert words in refused.json["error"]["message"]


def test_a_body_has_a_largest_size(client: Client) -> None:
    id = client.make()
    large = {"messages": [said("a", content="x" * (8 << 20))]}
    for tail in ("", f"/{id}", f"/{id}/messages", "/import"):
        assert error(client.ask("POST", tail, large))[:2] == (413, "request_too_large")
    text = b"## User\n" + b"x" * (8 << 20)
    assert client.ask("POST", "/import", text, **MARKDOWN).status == 413


def test_deep_json_is_kept_as_it_is(client: Client) -> None:
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    id = client.make(said("a", data={"deep": deep, "large": 10**300}))
    assert client.ask("GET", f"/{id}").json["messages"][0]["data"] == {
        "deep": deep, "large": 10**300,
    }  # fmt: skip
    markdown = client.ask("GET", f"/{id}/export?format=markdown").body
    client.ask("DELETE", f"/{id}")
    assert client.ask("POST", "/import", markdown, **MARKDOWN).status == 200
    assert client.ask("GET", f"/{id}").json["messages"][0]["data"]["deep"] == deep
    too_deep = f'## User\n\n<!-- {{"data":{{"a":{"[" * 600}{"]" * 600}}}}} -->\n\nx\n'.encode()
    assert client.ask("POST", "/import", too_deep, **MARKDOWN).status == 400
    too_many = b'## User\n\n<!-- {"data":{"a":[' + b"[]," * 50_000 + b"1]}} -->\n\nx\n"
    assert error(client.ask("POST", "/import", too_many, **MARKDOWN))[1] == "too_many_values"


def test_a_long_conversation_is_read_and_exported_in_parts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "_MOST_AT_ONCE", 2_000)
    monkeypatch.setattr(exports, "_AT_ONCE", 2_000)
    messages = chain(40, content="text " * 20)
    id = client.make(*messages[:10])
    for start in range(10, 40, 10):
        client.ask("POST", f"/{id}/messages", {"messages": messages[start : start + 10]})
    read: list[str] = []
    since, more, parts = 0, True, 0
    while more:
        part = client.ask("GET", f"/{id}?since={since}").json
        read += [one["id"] for one in part["messages"]]
        since = max(one["revision"] for one in part["messages"])
        more, parts = part["has_more"], parts + 1
    assert read == [one["id"] for one in messages]
    assert parts == 4
    (exported,) = client.ask("GET", f"/{id}/export").json["conversations"]
    assert [one["id"] for one in exported["messages"]] == read
    assert client.ask("GET", f"/{id}/export?format=markdown").body.count(b"## User") == 40


def everything(client: Client) -> list[Json]:
    conversations: list[Json] = client.ask("GET", "/export").json["conversations"]
    return conversations


def test_an_export_is_imported_again_exactly(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    first = Client(make_server(keep_alive=0).url)
    branches = [said("a"), said("b", "a", role="assistant", reasoning="Hm."), said("c", "a")]
    first.make(*branches, title="Ütters", pinned=True, head="b", settings={"x": [1, None]})
    first.make(said("a", content=[{"type": "text", "text": "x"}]), said("b", "a", status="running"))
    first.make()
    exported = first.ask("GET", "/export")
    assert exported.headers["content-disposition"] == 'attachment; filename="history.json"'
    second = Client(make_server(keep_alive=0, history_file=tmp_path / "other.sqlite3").url)
    done = second.ask("POST", "/import", exported.body).json
    assert (done["created"], done["messages"]) == (3, 5)
    assert everything(second) == everything(first) == exported.json["conversations"]
    assert second.listed() == first.listed()
    again = second.ask("POST", "/import", exported.body).json
    assert (again["created"], again["changed"], again["unchanged"]) == (0, 0, 3)
    assert everything(second) == everything(first)


def test_markdown_has_the_branch_of_the_head_and_is_imported_again(client: Client) -> None:
    branches = [said("a"), said("b", "a", role="assistant"), said("c", "a"), said("d", "b")]
    id = client.make(*branches, title="Ütters / 1", head="b")
    exported = client.ask("GET", f"/{id}/export?format=markdown")
    assert exported.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "filename*=UTF-8''%C3%9Ctters-1.md" in exported.headers["content-disposition"]
    before = client.ask("GET", f"/{id}").json
    unchanged = client.ask("POST", "/import", exported.body, **MARKDOWN)
    assert unchanged.json["unchanged"] == 1
    client.ask("DELETE", f"/{id}")
    assert client.ask("POST", "/import", exported.body, **MARKDOWN).json["ids"] == [id]
    after = client.ask("GET", f"/{id}").json
    assert after["messages"] == [{**one, "revision": 1} for one in before["messages"][:2]]
    assert (after["title"], after["head"]) == ("Ütters / 1", "b")


def test_markdown_by_hand(client: Client) -> None:
    text = b"# By hand\r\n\r\n## User\r\n\r\nHello!\r\n\r\n## Assistant\r\n\r\nHi.\r\n"
    (id,) = client.ask("POST", "/import", text, **MARKDOWN).json["ids"]
    opened = client.ask("GET", f"/{id}").json
    assert [one["content"] for one in opened["messages"]] == ["Hello!", "Hi."]
    for wrong, words in (
        (b"hello", "line 1: the text has no heading"),
        (b"## User\n\n<!-- {\"id\":7} -->\n", "line 1: Expected `str`"),
        (b"<!-- offgrid {\"id\":\"export\"} -->\n## User\n", "id: export is the name"),
        (b"\xff## User\n", "not UTF-8"),
    ):  # fmt: skip
        refused = client.ask("POST", "/import", wrong, **MARKDOWN)
        assert refused.status == 400
        assert words in refused.json["error"]["message"]


def test_an_import_is_all_or_nothing_and_names_the_place(client: Client) -> None:
    id = client.make(said("a"))
    export = client.ask("GET", f"/{id}/export").json
    new = {**export["conversations"][0], "id": "never-made"}
    for messages, place in (
        ([said("a"), said("b", "z")], "conversations[1].messages[1].parent"),
        ([said("a", content="other")], "conversations[1].messages[0].id"),
        ([said("a", role="robot")], "conversations[1].messages[0].role"),
        ([said("b", content=[{}])], "conversations[1].messages[0].content[0].type"),
    ):
        wrong = {"id": id, "messages": messages}
        refused = client.ask("POST", "/import", {**export, "conversations": [new, wrong]})
        assert refused.status in (400, 409)
        assert refused.json["error"]["param"] == place
        assert place in refused.json["error"]["message"]
    assert client.ask("GET", "/never-made").status == 404
    later = client.ask("POST", "/import", {**export, "version": 2})
    assert error(later) == (400, "invalid_value", "version")


def test_a_server_without_history(make_server: Callable[..., Server], tmp_path: Path) -> None:
    off = Client(make_server(keep_alive=0, history=False).url)
    for method, tail, body in (
        ("GET", "", None), ("POST", "", {}), ("GET", "/x", None), ("POST", "/x", {}),
        ("DELETE", "/x", None), ("POST", "/x/messages", {"messages": []}),
        ("GET", "/x/export", None), ("GET", "/export", None), ("POST", "/import", {}),
    ):  # fmt: skip
        answer = off.ask(method, tail, body)
        assert error(answer) == (404, "history_off", None)
        assert "OFFGRID_HISTORY" in answer.json["error"]["message"]
    assert [path for path in tmp_path.iterdir() if "history" in path.name] == []


def test_a_full_history_refuses_and_deletes_nothing(make_server: Callable[..., Server]) -> None:
    client = Client(make_server(keep_alive=0, max_history_mb=1).url)
    id = client.make(said("a", content="x" * 900_000))
    before = client.ask("GET", f"/{id}").json
    for tail, body in (
        (f"/{id}/messages", {"messages": [said("b", "a", content="x" * 200_000)]}),
        ("", {"messages": [said("b", content="x" * 200_000)]}),
    ):
        assert error(client.ask("POST", tail, body)) == (507, "history_full", None)
    assert client.listed() == [id]
    assert client.ask("GET", f"/{id}").json == before
    assert client.ask("POST", f"/{id}", {"pinned": True}).status == 200
    client.ask("DELETE", f"/{id}")
    client.make(said("b", content="x" * 200_000))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    file = tmp_path_factory.mktemp("keys") / "keys.sqlite3"
    secrets = {name: new_key(file, name)[1] for name in ("anna", "bert")}
    secrets["slow"] = new_key(file, "slow", limits=Limits(requests_per_minute=1))[1]
    secrets["boss"] = new_key(file, "boss", "admin")[1]
    secrets["plain"] = new_key(file, "plain", "inference")[1]
    return file, secrets


def test_a_key_sees_only_its_own_history(
    make_server: Callable[..., Server], keys: tuple[Path, dict[str, str]]
) -> None:
    shared = Client(make_server(keep_alive=0).url)
    old = shared.make(said("a"), title="From the time without keys")
    url = make_server(keep_alive=0, keys_file=keys[0]).url
    anna, bert, slow, boss, plain = (
        Client(url, keys[1][name]) for name in ("anna", "bert", "slow", "boss", "plain")
    )
    id = anna.make(said("a", content="secret"), title="Mine")
    theirs = bert.ask("POST", "", {"id": id, "messages": [said("z")]}).json
    assert (theirs["id"], theirs["title"]) == (id, "")  # the same id is another conversation
    bert.ask("DELETE", f"/{id}")
    unknown = bert.ask("GET", "/none")
    for other in (bert, boss):
        for method, tail, body in (
            ("GET", "", None), ("POST", "", {"title": "T"}), ("DELETE", "", None),
            ("POST", "/messages", {"messages": [said("b")]}), ("GET", "/export", None),
        ):  # fmt: skip
            answer = other.ask(method, f"/{id}{tail}", body)
            assert answer.status == 404
            assert answer.body.decode().replace(id, "none") == unknown.body.decode()
        assert id not in other.listed()
        assert other.listed("secret") == []
        assert b"secret" not in other.ask("GET", "/export").body
    assert anna.listed() == [id]
    assert boss.listed() == [old]
    assert anna.ask("GET", f"/{old}").status == 404
    assert error(plain.ask("GET", ""))[:2] == (403, "missing_scope")
    assert error(Client(url).ask("GET", ""))[0] == 401
    for _ in range(5):  # an open page asks all the time
        assert slow.ask("GET", "").status == 200


def test_the_endpoints_are_in_the_metrics(client: Client) -> None:
    id = client.make()
    client.ask("GET", f"/{id}")
    metrics = request(client.url, "GET", "/metrics").body.decode()
    assert 'endpoint="/v1/history/{id}"' in metrics
    assert id not in metrics


def test_head_requests(client: Client) -> None:
    id = client.make(said("a"))
    for tail in ("", f"/{id}", f"/{id}/export", "/export"):
        answer = client.ask("HEAD", tail)
        assert (answer.status, answer.body) == (200, b"")
