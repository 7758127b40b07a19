"""``/api/version``, ``tags``, ``ps``, ``show``, ``pull``, and what is not offered."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from ollama_calls import refused
from support import STARTER, chat_body, request
from tiny_models import make_bert
from tiny_vision import make_seeing

from offgrid import __version__
from offgrid.api.ollama.models import human
from offgrid.config import load_settings
from offgrid.server import Server

Make = Callable[..., Server]


def test_the_version_is_that_of_this_server(base_url: str) -> None:
    assert request(base_url, "GET", "/api/version").json == {"version": __version__}
    assert request(base_url, "HEAD", "/api/version").status == 200


def test_all_models_are_listed(make_server: Make, starter_path: Path, tmp_path: Path) -> None:
    (tmp_path / starter_path.name).write_bytes(starter_path.read_bytes())
    make_bert(tmp_path, "MEAN")
    make_seeing(tmp_path)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no model")
    server = make_server(model_aliases={"gpt": STARTER}, default_model=STARTER)
    models = request(server.url, "GET", "/api/tags").json["models"]
    by_name = {model["name"]: model for model in models}
    assert by_name.keys() == {f"{STARTER}:latest", "bert-mean:latest", "seeing:latest"}
    starter = by_name[f"{STARTER}:latest"]
    assert starter["model"] == starter["name"]
    assert starter["size"] == starter_path.stat().st_size
    assert starter["capabilities"] == ["completion", "tools"]
    assert by_name["bert-mean:latest"]["capabilities"] == ["embedding"]
    assert "vision" in by_name["seeing:latest"]["capabilities"]
    details = starter["details"]
    assert (details["format"], details["family"], details["families"]) == (
        "gguf", "llama", ["llama"]
    )  # fmt: skip
    assert (details["parameter_size"], details["quantization_level"]) == ("2.76M", "Q8_0")
    for model in models:
        assert len(model["digest"]) == 64
        assert datetime.datetime.fromisoformat(model["modified_at"].replace("Z", "+00:00"))
        asked = request(server.url, "POST", "/api/show", {"model": model["name"]})
        assert asked.json["capabilities"] == model["capabilities"]
    times = [model["modified_at"] for model in models]
    assert times == sorted(times, reverse=True)


def test_the_digest_changes_with_the_file(
    make_server: Make, starter_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / starter_path.name
    file.write_bytes(starter_path.read_bytes())
    url = make_server().url

    def digest() -> str:
        (model,) = request(url, "GET", "/api/tags").json["models"]
        return str(model["digest"])

    first = digest()
    assert digest() == first
    copy = tmp_path / "copy"
    copy.write_bytes(starter_path.read_bytes())
    copy.replace(file)
    assert digest() != first


def test_loaded_models(base_url: str) -> None:
    assert request(base_url, "POST", "/api/chat", chat_body(keep_alive="5m")).status == 200
    (model,) = request(base_url, "GET", "/api/ps").json["models"]
    assert model["name"] == model["model"] == f"{STARTER}:latest"
    assert model["context_length"] == 2048
    assert model["size"] > 0
    (listed,) = request(base_url, "GET", "/api/tags").json["models"]
    assert model["digest"] == listed["digest"]
    expires = datetime.datetime.fromisoformat(model["expires_at"].replace("Z", "+00:00"))
    left = expires - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta() < left <= datetime.timedelta(minutes=5)
    request(base_url, "POST", "/api/chat", chat_body(keep_alive="1h"))


@pytest.mark.parametrize("body", [{"model": STARTER}, {"name": f"{STARTER}:latest"}])
def test_a_model_is_described(base_url: str, body: dict[str, str]) -> None:
    shown = request(base_url, "POST", "/api/show", body).json
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 2048
    assert shown["model_info"]["general.parameter_count"] == 2_755_008
    assert shown["details"]["embedding_length"] == shown["model_info"]["llama.embedding_length"]
    assert "<|im_start|>" in shown["template"]
    assert shown["license"] == "MIT"
    assert shown["modelfile"] == f"FROM {STARTER}:latest\n"
    assert (shown["system"], shown["parameters"]) == ("", "")
    assert "tensors" not in shown
    verbose = request(base_url, "POST", "/api/show", {**body, "verbose": True}).json
    assert {"name", "type", "shape"} == verbose["tensors"][0].keys()


def test_the_settings_of_a_model_are_shown(tmp_path: Path) -> None:
    config = tmp_path / "offgrid.toml"
    config.write_text(
        f'[models."{STARTER}"]\nsystem_prompt = "Be brief."\n'
        "sampling = { temperature = 0.3, repetition_penalty = 1.1 }\n"
    )
    flags = {"port": 0, "models_dir": tmp_path, "default_model": STARTER, "threads": 1}
    server = Server(load_settings(flags, environ={}, config_file=config))
    server.start()
    try:
        shown = request(server.url, "POST", "/api/show", {"model": STARTER}).json
    finally:
        server.stop()
    assert shown["system"] == "Be brief."
    assert [line.split() for line in shown["parameters"].splitlines()] == [
        ["temperature", "0.3"], ["repeat_penalty", "1.1"]
    ]  # fmt: skip
    assert 'SYSTEM """Be brief."""' in shown["modelfile"]


def test_a_model_must_be_named(base_url: str) -> None:
    for path in ("/api/show", "/api/pull"):
        assert refused(base_url, path, {}) == "Missing required field: model."


def test_both_names_of_the_field_must_agree(base_url: str) -> None:
    for path in ("/api/show", "/api/pull"):
        same = request(base_url, "POST", path, {"model": STARTER, "name": STARTER})
        assert same.status == 200
        assert refused(base_url, path, {"model": STARTER, "name": "other"}) == (
            "name and model are the same parameter and have different values; give only one."
        )


def test_pulling(base_url: str) -> None:
    for body in ({"model": STARTER}, {"name": f"{STARTER}:latest", "stream": False}):
        answer = request(base_url, "POST", "/api/pull", body)
        assert (answer.status, answer.json) == (200, {"status": "success"})
    body = {"model": STARTER, "username": "anna", "password": "secret", "insecure": True}
    answer = request(base_url, "POST", "/api/pull", body)
    assert answer.headers["x-offgrid-ignored"] == "insecure, username, password"
    message = refused(base_url, "/api/pull", {"model": "qwen3:4b"}, 501)
    assert message.startswith("Model not found: qwen3:4b.")
    assert "This server fetches nothing from a network." in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/create"), ("POST", "/api/copy"), ("POST", "/api/push"),
        ("DELETE", "/api/delete"), ("POST", "/api/delete"), ("POST", "/api/blobs/sha256:00"),
        ("GET", "/api/blobs/sha256:00"),
    ],
)  # fmt: skip
def test_what_is_not_offered(base_url: str, method: str, path: str) -> None:
    answer = request(base_url, method, path, None if method == "GET" else {"model": "x"})
    assert answer.status == 501
    name = "/".join(path.split("/")[:3])
    assert answer.json["error"].startswith(f"This server does not offer {name}. ")
    assert answer.headers["x-should-retry"] == "false"


def test_a_blob_is_never_there(base_url: str) -> None:
    assert request(base_url, "HEAD", "/api/blobs/sha256:00").status == 501


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (2_755_008, "2.76M"), (134_515_008, "134.52M"),
     (8_030_261_248, "8.0B"), (1_000_000_000_000, "1.0T")],
)  # fmt: skip
def test_numbers_of_parameters(number: int, text: str) -> None:
    assert human(number) == text
