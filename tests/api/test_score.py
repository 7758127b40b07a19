"""``/v1/score`` and ``/score``: pairs of texts, with models that rank and models that embed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models
from support import Json, request

from offgrid.config import load_settings
from offgrid.server import Server

SCORE = "/v1/score"
RANKER, BERT = "bert-rank", "bert-mean"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.make_bert(folder, "RANK")
    tiny_models.make_bert(folder, "MEAN")
    files = {"models_dir": folder, "responses_file": folder / "responses.sqlite3"}
    flags = {"default_model": RANKER, "max_models": 2, "threads": 1, "drain_timeout": 0}
    server = Server(load_settings({"port": 0, **files, **flags}, environ={}))
    server.start()
    yield server.url
    server.stop()


def score(url: str, path: str = SCORE, status: int = 200, **fields: Any) -> Json:
    response = request(url, "POST", path, fields)
    assert response.status == status, response.body
    body: Json = response.json
    return body


def scores(url: str, **fields: Any) -> list[float]:
    data = score(url, **fields)["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    assert {entry["object"] for entry in data} == {"score"}
    return [entry["score"] for entry in data]


@pytest.mark.parametrize("path", [SCORE, "/score"])
def test_vllms_answer(url: str, path: str) -> None:
    body = score(url, path, model=RANKER, text_1="the river", text_2="a fox")
    assert body["object"] == "list"
    assert body["model"] == RANKER
    assert body["id"].startswith("score-")
    assert len(body["data"]) == 1
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 0


def test_scores_are_those_of_rerank(url: str) -> None:
    """As probabilities, or with use_activation false as they are."""
    documents = ["the fox", "the river", "a wide river"]
    body = {"model": RANKER, "query": "the river", "documents": documents}
    ranked = request(url, "POST", "/v1/rerank", body).json["results"]
    logits = [entry["relevance_score"] for entry in sorted(ranked, key=lambda e: e["index"])]
    raw = scores(url, text_1="the river", text_2=documents, use_activation=False)
    assert raw == pytest.approx(logits, abs=1e-5)
    mapped = scores(url, text_1="the river", text_2=documents)
    assert mapped == pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits], abs=1e-5)


def test_the_shapes_of_the_texts(url: str) -> None:
    """One and one, one and many, many and many; and the names of vLLM's versions."""
    one, two, three = "the river", "the fox", "a wide river"
    ((first,), (second,)) = (
        scores(url, text_1=one, text_2=two),
        scores(url, text_1=three, text_2=one),
    )
    assert scores(url, text_1=[one], text_2=[two]) == pytest.approx([first], abs=1e-5)
    assert scores(url, text_1=[one, three], text_2=[two, one]) == pytest.approx(
        [first, second], abs=1e-5
    )
    many = scores(url, text_1=[one], text_2=[two, two])
    assert many == pytest.approx([first, first], abs=1e-5)
    parts = {"content": [{"type": "text", "text": one}]}
    for names in (("data_1", "data_2"), ("queries", "documents")):
        fields = dict(zip(names, (parts, [two]), strict=True))
        assert scores(url, **fields) == pytest.approx([first], abs=1e-5)


def test_a_model_that_embeds_gives_the_cosine(url: str) -> None:
    texts = ["the river", "the fox"]
    found = scores(url, model=BERT, text_1=texts[0], text_2=texts)
    data = request(url, "POST", "/v1/embeddings", {"model": BERT, "input": texts}).json["data"]
    one, two = (entry["embedding"] for entry in data)
    cosine = sum(a * b for a, b in zip(one, two, strict=True))
    assert found == pytest.approx([1.0, cosine], abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "text_1", "Two fields with texts are required"),
        ({"text_1": "a"}, "text_2", "Two fields"),
        ({"text_1": "a", "data_2": "b"}, "text_2", "Two fields"),
        ({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1", "2 texts"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "text_1", "2 texts"),
        ({"text_1": "", "text_2": "b"}, "text_1", "at least 1"),
        ({"text_1": "a", "text_2": ["b", ""]}, "text_2[1]", "empty"),
        ({"text_1": "a", "text_2": []}, "text_2", "1 to 2048"),
        ({"text_1": "a", "text_2": 1}, "text_2", "must be"),
        ({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens", ""),
        ({"text_1": "a", "text_2": ["b", "the " * 200]}, "text_2[1]", "128 tokens"),
        ({"text_1": "a", "text_2": "the " * 200}, "text_2", "128 tokens"),
        ({"text_1": "the " * 200, "text_2": "b", "model": BERT}, "text_1", "128 tokens"),
        ({"text_1": ["the " * 200], "text_2": "b", "model": BERT}, "text_1[0]", "128 tokens"),
        ({"queries": "a", "documents": "the " * 200, "model": BERT}, "documents", "128 tokens"),
        ({"text_1": "a", "text_2": "b", "model": "none"}, "model", "not found"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals_name_the_field(url: str, fields: Json, param: str, words: str) -> None:
    response = request(url, "POST", SCORE, fields)
    assert response.status in (400, 404)
    error = response.json["error"]
    assert error["param"] == param
    assert words in error["message"]
