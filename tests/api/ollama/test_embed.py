"""``/api/embed`` and ``/api/embeddings``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ollama_calls import refused
from support import request
from tiny_models import BERT_CONTEXT, make_bert

from offgrid.api.ollama.embed import CUT
from offgrid.config import load_settings
from offgrid.server import Server

EMBED, OLDER, BERT = "/api/embed", "/api/embeddings", "bert-mean"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    make_bert(folder, "MEAN")
    flags = {"port": 0, "models_dir": folder, "threads": 1, "drain_timeout": 0}
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server.url
    server.stop()


def is_same(some: Any, others: Any) -> bool:
    """Whether vectors are the same apart from rounding: llama.cpp rounds by the shape of a batch,
    and the texts of a request may come into one batch or two."""
    return bool(np.allclose(some, others, atol=1e-4))


def test_vectors_equal_those_of_openais_endpoint(url: str) -> None:
    body = {"model": f"{BERT}:latest", "input": ["otter", "fox"]}
    answer = request(url, "POST", EMBED, body).json
    data = request(url, "POST", "/v1/embeddings", {**body, "model": BERT}).json
    assert is_same(answer["embeddings"], [item["embedding"] for item in data["data"]])
    assert answer["prompt_eval_count"] == data["usage"]["prompt_tokens"]
    assert answer["model"] == f"{BERT}:latest"
    assert answer["total_duration"] >= answer["load_duration"] >= 0
    assert np.allclose(np.linalg.norm(answer["embeddings"], axis=1), 1)
    single = request(url, "POST", EMBED, {"model": BERT, "input": "otter"}).json
    assert is_same(single["embeddings"], answer["embeddings"][:1])
    older = request(url, "POST", OLDER, {"model": BERT, "prompt": "otter"}).json
    assert older.keys() == {"embedding"}
    assert is_same(older["embedding"], answer["embeddings"][0])


def test_shorter_vectors(url: str) -> None:
    whole = request(url, "POST", EMBED, {"model": BERT, "input": "otter"}).json["embeddings"][0]
    body = {"model": BERT, "input": "otter", "dimensions": 4}
    (short,) = request(url, "POST", EMBED, body).json["embeddings"]
    assert np.allclose(short, np.array(whole[:4]) / np.linalg.norm(whole[:4]), atol=1e-6)
    assert "dimensions" in refused(url, EMBED, {**body, "dimensions": 4096})


def test_without_texts_the_model_is_loaded(url: str) -> None:
    for given in ({}, {"input": ""}, {"input": []}):
        answer = request(url, "POST", EMBED, {"model": BERT, **given}).json
        assert (answer["embeddings"], answer["prompt_eval_count"]) == ([], 0)
    assert request(url, "POST", OLDER, {"model": BERT}).json == {"embedding": []}


def test_a_text_that_is_too_long_is_cut_only_if_the_request_asks(url: str) -> None:
    long = " ".join(["otter", "fox", "river"] * BERT_CONTEXT)
    body = {"model": BERT, "input": ["fox", long]}
    assert "input[1]" in refused(url, EMBED, body)
    answer = request(url, "POST", EMBED, {**body, "truncate": True})
    assert answer.status == 200, answer.body
    assert answer.headers["x-offgrid-warning"] == CUT
    first, second = answer.json["embeddings"]
    # The longest beginning that fits has the same vector.
    tokens = answer.json["prompt_eval_count"]
    assert BERT_CONTEXT <= tokens <= BERT_CONTEXT + 8
    assert len(first) == len(second)
    fits = request(url, "POST", EMBED, {"model": BERT, "input": "fox", "truncate": True})
    assert is_same(fits.json["embeddings"], [first])
    assert "x-offgrid-warning" not in fits.headers


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"input": 5}, "input must be a text or a list of texts."),
        ({"input": ["a", 5]}, "input[1] must be a text that is not empty."),
        ({"input": ["a", ""]}, "input[1] must be a text that is not empty."),
        ({"input": ["a"] * 2049}, "input takes at most 2048 texts, not 2049."),
        ({"inputs": "a"}, "Unknown field: inputs. Did you mean input?"),
        ({"input": "a", "options": {"x": 1}}, "Unknown field: options.x."),
        ({"input": "a", "dimensions": -1}, "dimensions must be"),
    ],
)
def test_errors(url: str, field: dict[str, object], words: str) -> None:
    assert refused(url, EMBED, {"model": BERT, **field}).startswith(words)


def test_options_of_answers_have_no_effect(url: str) -> None:
    body = {"model": BERT, "input": "otter", "options": {"temperature": 1, "num_ctx": 5}}
    answer = request(url, "POST", EMBED, body)
    assert answer.status == 200
    assert set(answer.headers["x-offgrid-ignored"].split(", ")) == {
        "options.temperature", "options.num_ctx"
    }  # fmt: skip


def test_a_model_that_only_embeds_answers_nothing(url: str, tmp_path: Path) -> None:
    for path, field in (("/api/chat", {"messages": [{"role": "user", "content": "x"}]}),
                        ("/api/generate", {"prompt": "x"})):  # fmt: skip
        message = refused(url, path, {"model": BERT, **field})
        assert message.startswith(f"The model {BERT} does not generate text")
