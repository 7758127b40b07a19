"""``/v1/models`` for clients of Anthropic's API: pages, and one model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models
from documented import Documented
from support import Json, Response, request
from tiny_vision import make_seeing

from offgrid.config import load_settings
from offgrid.server import Server

VERSION = {"anthropic-version": "2023-06-01"}
IDS = ["a", "b", "c", "seeing"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    for name in IDS[:3]:
        tiny_models.make("llama", folder).rename(folder / f"{name}.gguf")
    make_seeing(folder)
    (folder / "empty.gguf").write_bytes(b"")
    settings: Any = {
        "port": 0, "models_dir": folder, "default_model": "a", "drain_timeout": 0, "threads": 1,
        "responses_file": folder / "responses.sqlite3",
    }  # fmt: skip
    server = Server(load_settings(settings, environ={}))
    server.start()
    yield server.url
    server.stop()


def ask(url: str, query: str = "") -> Response:
    return request(url, "GET", f"/v1/models{query}", headers=VERSION)


def ids(url: str, query: str = "") -> list[str]:
    page: Json = ask(url, query).json
    found = [model["id"] for model in page["data"]]
    ends = (found[0], found[-1]) if found else (None, None)
    assert (page["first_id"], page["last_id"]) == ends
    return found


def test_pages(url: str) -> None:
    assert ids(url) == IDS
    assert not ask(url).json["has_more"]
    assert ids(url, "?limit=2") == ["a", "b"]
    assert ask(url, "?limit=2").json["has_more"]
    assert ids(url, "?limit=2&after_id=b") == ["c", "seeing"]
    assert not ask(url, "?limit=2&after_id=b").json["has_more"]
    assert ids(url, "?limit=2&before_id=seeing") == ["b", "c"]
    assert ids(url, "?lifecycle=retired") == []
    assert ids(url, "?lifecycle[]=active&lifecycle[]=retired") == IDS


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=1001", "?limit=x", "?after_id=none", "?lifecycle=new"]
)
def test_wrong_parameters(url: str, query: str) -> None:
    answer = ask(url, query)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert query[1:].partition("=")[0] in answer.json["error"]["message"]


def test_one_model(url: str) -> None:
    documented = Documented.of(url)
    for answer, path in (
        (ask(url), "/v1/models"), (ask(url, "/seeing"), "/v1/models/{model}"),
    ):  # fmt: skip
        documented.check(answer, "get", path)
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
    model = ask(url, "/seeing").json
    assert (model["type"], model["id"], model["lifecycle"]) == ("model", "seeing", "active")
    assert model["capabilities"]["image_input"] == {"supported": True}
    assert ask(url, "/a").json["capabilities"]["image_input"] == {"supported": False}
    missing = ask(url, "/none")
    assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")
    # Other clients get the other form.
    assert request(url, "GET", "/v1/models").json["object"] == "list"
