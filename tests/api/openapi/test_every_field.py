"""Requests with every optional field of the document; their responses match the document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from changed_models import FILL_IN, with_metadata
from documented import Documented
from full_requests import (
    CONVERSATIONS,
    HISTORY,
    HISTORY_ID,
    RESPONSES,
    SAID,
    Full,
    copy_requests,
    full_requests,
    key_requests,
    peer_requests,
)
from keyed import bearer, new_key
from sticks import content, put
from support import STARTER, request
from tiny_vision import make_seeing
from variants import few

from offgrid.api.openapi.document import document
from offgrid.config import load_settings
from offgrid.server import Server

KEYS = key_requests("key_none", STARTER)
PEERS = [
    *peer_requests("192.168.1.7", "1234-5678", "none", STARTER),
    *copy_requests("far", STARTER),
]
"""Their responses are in ``tests/peers``."""
SEEING, RANKING, SPARE = "seeing", "bert-rank", "spare"
PLAIN = full_requests(STARTER, SEEING, RANKING, "resp_none", "conv_none", "/media/stick", SPARE)
SCHEMAS = Documented(document())


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("stick"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, starter_path: Path, stick: str) -> Iterator[str]:
    """A server with a fill-in-the-middle starter, a vision model and a ranking model."""
    folder = tmp_path_factory.mktemp("models")
    with_metadata(starter_path, folder / starter_path.name, FILL_IN)
    make_seeing(folder, SEEING)
    put(folder / f"{SPARE}.gguf", content(1, 1000))
    assert tiny_models.make_bert(folder, "RANK").stem == RANKING
    files = {
        "models_dir": folder,
        "responses_file": folder / "responses.sqlite3",
        "import_roots": stick,
    }
    settings = load_settings(
        {**files, "port": 0, "drain_timeout": 0, "threads": 1, "max_models": 3}, environ={}
    )
    server = Server(settings)
    server.start()
    made = request(server.url, "POST", HISTORY, {"id": HISTORY_ID, "messages": SAID})
    assert made.status == 200
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def previous(url: str) -> str:
    made = request(url, "POST", RESPONSES, {"model": STARTER, "input": "Hello!"})
    return str(made.json["id"])


@pytest.fixture(scope="module")
def conversation(url: str) -> str:
    return str(request(url, "POST", CONVERSATIONS, {}).json["id"])


@pytest.mark.parametrize("index", few(8, range(len(PLAIN))), ids=[full.path for full in PLAIN])
def test_responses_to_all_fields_match_the_document(
    url: str, previous: str, conversation: str, stick: str, index: int
) -> None:
    documented = Documented.of(url)
    full = full_requests(STARTER, SEEING, RANKING, previous, conversation, stick, SPARE)[index]
    for body in full.bodies():
        documented.body("post", full.path).validate(body)
        answer = request(url, "POST", full.url, body)
        assert answer.status == 200, answer.body
        documented.check(answer, "post", full.path)


@pytest.mark.slow
def test_responses_about_keys_match_the_document(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    """These have a server to themselves, because keys close it."""
    file = tmp_path / "keys.sqlite3"
    admin, ward = new_key(file, "admin", "admin")[1], new_key(file, "ward")[0]
    url = make_server(keys_file=file).url
    documented = Documented(request(url, "GET", "/openapi.json", headers=bearer(admin)).json)
    for full in key_requests(ward.id, STARTER):
        for body in full.bodies():
            documented.body("post", full.path).validate(body)
            answer = request(url, "POST", full.url, body, bearer(admin))
            assert answer.status == (201 if full.path == "/v1/keys" else 200), answer.body
            documented.check(answer, "post", full.path)
    for method, path in (
        ("get", "/v1/keys"), ("get", "/v1/keys/self"), ("get", "/v1/keys/{id}"),
        ("delete", "/v1/keys/{id}"),
    ):  # fmt: skip
        answer = request(url, method.upper(), path.format(id=ward.id), None, bearer(admin))
        assert answer.status == 200
        documented.check(answer, method, path)


def test_every_field_has_a_sample() -> None:
    """This includes the fields of nested objects. Anyone who adds a field must add a sample."""
    for path, methods in SCHEMAS.document["paths"].items():
        if "requestBody" in methods.get("post", {}):
            all_requests = [*PLAIN, *KEYS, *PEERS]
            bodies = [body for full in all_requests if full.path == path for body in full.bodies()]
            missing = SCHEMAS.not_given("post", path, bodies)
            if path == "/tokenize":  # it refuses images
                missing = {name for name in missing if not name.startswith("Image")}
            assert not missing, f"write samples of {path} in full_requests: {sorted(missing)}"


def test_a_field_without_a_sample_is_found() -> None:
    (full,) = [full for full in PLAIN if full.path == "/v1/embeddings"]
    less: Any = {name: value for name, value in full.samples.items() if name != "dimensions"}
    less["prompt_cache_options"] = {"mode": "implicit"}
    bodies = Full(full.path, full.required, less).bodies()
    missing = SCHEMAS.not_given("post", full.path, bodies)
    assert {"EmbeddingsRequest.dimensions", "PromptCacheOptions.ttl"} <= missing
    assert "PromptCacheOptions.mode" not in missing
