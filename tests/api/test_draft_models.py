"""A model with a draft model, over HTTP: the same answers, what lists say, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from click.testing import CliRunner
from support import Json, request

from offgrid.cli import main
from offgrid.errors import ConfigError
from offgrid.server import Server

TEXT = "/v1/completions"
BODY: Json = {"prompt": [300, 301, 302], "max_tokens": 60, "temperature": 0, "ignore_eos": True}

Serve = Callable[..., Server]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_models.make("llama", tmp_path).rename(tmp_path / "main.gguf")
    shutil.copy(tmp_path / "main.gguf", tmp_path / "twin.gguf")
    tiny_models.make_draft(tmp_path, "strange", vocab=600)
    return tmp_path


def answer(server: Server, **fields: object) -> str:
    response = request(server.url, "POST", TEXT, {**BODY, **fields})
    assert response.status == 200, response.json
    text: str = response.json["choices"][0]["text"]
    return text


@pytest.mark.slow
def test_answers_and_lists(make_server: Serve, folder: Path) -> None:
    plain = make_server(model="main", ctx_size=256)
    drafting = make_server(model="main", ctx_size=256, draft_model="twin")
    for fields in ({}, {"temperature": 0.9, "seed": 4}):
        assert answer(drafting, **fields) == answer(plain, **fields)
    model = request(drafting.url, "GET", "/v1/models/main").json
    assert model["settings"]["draft_model"] == "twin.gguf"
    assert model["memory"]["parts"]["draft"] > 0
    assert request(plain.url, "GET", "/v1/models/main").json["memory"]["parts"]["draft"] == 0
    [loaded] = request(drafting.url, "GET", "/v1/loaded").json["data"]
    assert loaded["draft_model"] == "twin.gguf"
    listed = CliRunner().invoke(main, ["ps", "--url", drafting.url]).output
    assert "main (drafts: twin.gguf)" in listed
    given = {"OFFGRID_MODEL": "main", "OFFGRID_DRAFT_MODEL": "twin"}
    told = CliRunner().invoke(main, ["info", "main", "--models-dir", str(folder)], env=given).output
    assert f"draft model   {folder}/twin.gguf" in told
    assert "; draft model twin.gguf" in told


def test_without_drafts_it_is_not_loaded(make_server: Serve, folder: Path) -> None:
    server = make_server(model="main", ctx_size=256, draft_model="twin", drafts=False)
    assert answer(server)
    assert request(server.url, "GET", "/v1/models/main").json["memory"]["parts"]["draft"] == 0
    [loaded] = request(server.url, "GET", "/v1/loaded").json["data"]
    assert loaded["draft_model"] is None


@pytest.mark.slow
def test_another_vocabulary_is_refused_by_name(make_server: Serve, folder: Path) -> None:
    server = make_server(model="main", draft_model="strange")
    error = request(server.url, "POST", TEXT, BODY).json["error"]
    assert error["code"] == "model_load_failed"
    assert (
        "its draft model strange.gguf has another vocabulary than main.gguf: token 508 is"
        in (error["message"])
    )
    assert str(folder) not in error["message"]
    assert answer(make_server(model="main"))  # the model itself is sound


@pytest.mark.slow
def test_a_file_that_vanishes_while_the_server_runs(make_server: Serve, folder: Path) -> None:
    server = make_server(model="main", draft_model="twin", ctx_size=256)
    before = answer(server)
    (folder / "twin.gguf").unlink()
    response = request(server.url, "POST", TEXT, BODY)
    assert response.status == 500
    assert "its draft model twin" in response.json["error"]["message"]
    shutil.copy(folder / "main.gguf", folder / "twin.gguf")
    assert answer(server) == before


def test_a_draft_model_that_does_not_exist_at_start(make_server: Serve, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"OFFGRID_DRAFT_MODEL .* no model has the id 'gone'"):
        make_server(model="main", draft_model="gone")
