"""``/v1/embeddings`` and ``/v1/rerank`` with the openai client and plain HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
from openai import OpenAI
from reference_embedding import embedding_of
from support import TIMEOUT, Json, Stream, eventually, request, together
from tiny_models import BERT_CONTEXT, make, make_bert

from offgrid.api.embeddings import MAX_INPUTS
from offgrid.config import load_settings
from offgrid.engine.client.pending import State
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.model import Model
from offgrid.server import Server

EMBED, RERANK = "/v1/embeddings", "/v1/rerank"
BERT, RANKER, CHAT = "bert-mean", "bert-rank", "small-llama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_bert(folder, "MEAN")
    make_bert(folder, "RANK")
    make("llama", folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    flags = {"port": 0, "models_dir": folder, "max_models": 3, "threads": 1, "drain_timeout": 0}
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    return server.url


@pytest.fixture(scope="module")
def openai_client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="not-needed", max_retries=0) as client:
        yield client


def expected(folder: Path, model: str, text: str) -> np.ndarray[Any, Any]:
    path = folder / f"{model}.gguf"
    loaded = Model(Load(str(path), ctx_size=128, parallel=1, threads=1))
    tokens = [int(token) for token in loaded.tokenize_input(text)]
    loaded.close()
    return embedding_of(path, tokens, "mean")


@pytest.mark.parametrize("model", [BERT, CHAT])
def test_openai_client(openai_client: OpenAI, folder: Path, model: str) -> None:
    texts = ["the otter swims", "the old fox"]
    # Without encoding_format the client requests base64 and decodes it.
    default = openai_client.embeddings.create(model=model, input=texts)
    plain = openai_client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert default.object == "list"
    assert default.model == model
    for response in (default, plain):
        assert [item.index for item in response.data] == [0, 1]
        assert {item.object for item in response.data} == {"embedding"}
        for item, text in zip(response.data, texts, strict=True):
            np.testing.assert_allclose(
                item.embedding, expected(folder, model, text), rtol=0, atol=1e-4
            )
    assert default.usage.prompt_tokens == default.usage.total_tokens > 0
    one = openai_client.embeddings.create(model=model, input=texts[1])
    assert one.usage.prompt_tokens < default.usage.prompt_tokens
    np.testing.assert_allclose(one.data[0].embedding, plain.data[1].embedding, rtol=0, atol=1e-4)
    short = openai_client.embeddings.create(model=model, input=texts[1], dimensions=4)
    head = np.array(plain.data[1].embedding[:4])
    np.testing.assert_allclose(
        short.data[0].embedding, head / np.linalg.norm(head), rtol=0, atol=1e-4
    )


def test_token_ids(url: str) -> None:
    """Token ids are used unchanged; the text is tokenised as [CLS] the otter [SEP]."""
    ids = [2, 5, 6, 3]
    vectors = []
    for given in ("the otter", ids, [ids], ["the otter", ids]):
        body = request(url, "POST", EMBED, {"model": BERT, "input": given}).json
        assert body["usage"]["prompt_tokens"] == 4 * len(body["data"])
        vectors += [item["embedding"] for item in body["data"]]
    np.testing.assert_allclose(vectors, [vectors[0]] * 5, rtol=0, atol=1e-4)


def test_the_wire_format(url: str) -> None:
    body = {"model": BERT, "input": "the otter", "user": "somebody"}
    plain = request(url, "POST", EMBED, body)
    assert plain.headers["content-type"].startswith("application/json")
    assert plain.json.keys() == {"object", "data", "model", "usage"}
    coded = request(url, "POST", EMBED, {**body, "encoding_format": "base64"}).json
    data = base64.b64decode(coded["data"][0]["embedding"])
    np.testing.assert_array_equal(
        np.frombuffer(data, dtype="<f4"), np.float32(plain.json["data"][0]["embedding"])
    )


def test_many_inputs_at_once(url: str) -> None:
    texts = [f"the otter {number} swims" for number in range(MAX_INPUTS)]
    response = request(url, "POST", EMBED, {"model": BERT, "input": texts})
    data = response.json["data"]
    assert [item["index"] for item in data] == list(range(MAX_INPUTS))
    alone = request(url, "POST", EMBED, {"model": BERT, "input": texts[777]}).json["data"][0]
    np.testing.assert_allclose(data[777]["embedding"], alone["embedding"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        (EMBED, {"input": None}, "input", "input"),
        (EMBED, {"input": 5}, "input", "text, token ids"),
        (EMBED, {"input": []}, "input", "text, token ids"),
        (EMBED, {"input": ""}, "input", "empty"),
        (EMBED, {"input": ["the", ""]}, "input[1]", "empty"),
        (EMBED, {"input": [[]]}, "input[0]", "text or token ids"),
        (EMBED, {"input": [1, "the"]}, "input[0]", "text or token ids"),
        (EMBED, {"input": [1, True]}, "input[0]", "text or token ids"),
        (EMBED, {"input": [[5, -1]]}, "input[0]", "text or token ids"),
        (EMBED, {"input": [5, 50256]}, "input", "check_embedding_ctx_length=False"),
        (EMBED, {"input": ["x"] * (MAX_INPUTS + 1)}, "input", "at most 2048"),
        (EMBED, {"encoding_format": "hex"}, "encoding_format", "hex"),
        (EMBED, {"dimensions": 0}, "dimensions", "between 1"),
        (EMBED, {"dimensions": 33}, "dimensions", "at most 32"),
        (EMBED, {"temperature": 1}, "temperature", "Unknown"),
        (EMBED, {"model": RANKER}, "model", "has no embeddings"),
        (RERANK, {"query": ""}, "query", "at least 1 character"),
        (RERANK, {"query": None}, "query", "Missing"),
        (RERANK, {"documents": []}, "documents", "1 to 2048 items"),
        (RERANK, {"documents": "the"}, "documents", "must be a list"),
        (RERANK, {"documents": ["the", ""]}, "documents[1]", "empty"),
        (RERANK, {"documents": [{"title": "x"}]}, "documents[0].title", "Unknown"),
        (RERANK, {"documents": ["fox", "the " * 200]}, "documents[1]", "128 tokens"),
        (RERANK, {"top_n": 0}, "top_n", "between 1"),
        (RERANK, {"return_documents": 1}, "return_documents", "true or false"),
        (RERANK, {"model": BERT}, "model", "does not rank"),
        (RERANK, {"model": CHAT}, "model", "does not rank"),
    ],
)  # fmt: skip
def test_bad_requests(url: str, path: str, fields: Json, param: str, words: str) -> None:
    good: Json = {"model": BERT, "input": "the"}
    if path == RERANK:
        good = {"model": RANKER, "query": "fox", "documents": ["the"]}
    response = request(url, "POST", path, {**good, **fields})
    assert response.status == 400, response.body
    error = response.json["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_an_input_of_the_context_s_length_and_one_more(openai_client: OpenAI) -> None:
    fits = "the " * (BERT_CONTEXT - 2)
    response = openai_client.embeddings.create(model=BERT, input=["fox", fits])
    assert response.usage.prompt_tokens == 3 + BERT_CONTEXT
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.embeddings.create(model=BERT, input=["fox", fits + "the"])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "input[1]"
    assert "128" in str(caught.value)
    assert "129" in str(caught.value)


def test_models_that_cannot_generate_return_an_error(openai_client: OpenAI) -> None:
    for model, use in ((BERT, "/v1/embeddings"), (RANKER, "/v1/rerank")):
        with pytest.raises(openai.BadRequestError, match=use) as caught:
            openai_client.completions.create(model=model, prompt="the")
        assert (caught.value.code, caught.value.param) == ("unsupported_model", "model")
        with pytest.raises(openai.BadRequestError, match=use):
            openai_client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "the"}]
            )
    listed = {model.id for model in openai_client.models.list()}
    assert listed == {BERT, RANKER, CHAT}


def test_tokenize_tells_the_tokens_of_an_input(url: str) -> None:
    text = "the otter swims"
    body = {"model": BERT, "content": text, "add_special": True}
    ids = request(url, "POST", "/tokenize", body).json["tokens"]
    usage = request(url, "POST", EMBED, {"model": BERT, "input": text}).json["usage"]
    assert len(ids) == usage["prompt_tokens"]
    names = request(url, "POST", "/tokenize", {**body, "with_pieces": True}).json["tokens"]
    assert [names[0]["piece"], names[-1]["piece"]] == ["[CLS]", "[SEP]"]
    vllm = {"model": BERT, "prompt": text}
    assert request(url, "POST", "/tokenize", vllm).json["tokens"] == ids
    bare = request(url, "POST", "/tokenize", {**body, "add_special": False}).json["tokens"]
    assert bare == ids[1:-1]
    # The ids are the same input.
    one, two = (
        request(url, "POST", EMBED, {"model": BERT, "input": given}).json["data"][0]["embedding"]
        for given in (text, ids)
    )
    assert one == two


def test_rerank(url: str) -> None:
    documents = ["the otter swims", "old fox", "river", "the small red house", "slow night"]
    body = {"model": RANKER, "query": "the river", "documents": documents}
    whole = request(url, "POST", RERANK, body).json
    assert whole.keys() == {"object", "model", "results", "usage"}
    scores = [entry["relevance_score"] for entry in whole["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5
    assert sorted(entry["index"] for entry in whole["results"]) == list(range(5))
    assert whole["usage"]["prompt_tokens"] == whole["usage"]["total_tokens"] > 5 * 6
    first = whole["results"][0]
    alone = {**body, "documents": [{"text": documents[first["index"]]}], "return_documents": True}
    (entry,) = request(url, "POST", RERANK, alone).json["results"]
    assert entry["document"] == {"text": documents[first["index"]]}
    assert entry["relevance_score"] == pytest.approx(first["relevance_score"], abs=1e-4)
    best = request(url, "POST", RERANK, {**body, "top_n": 2}).json["results"]
    assert [entry["index"] for entry in best] == [r["index"] for r in whole["results"][:2]]
    assert all("document" not in entry for entry in best)


@pytest.mark.slow
def test_a_stream_continues_beside_embeddings(url: str) -> None:
    """In one worker: the stream has text before and after the vectors arrive."""
    text = "the otter swims in the river " * 20
    body = {"model": CHAT, "prompt": "the", "ignore_eos": True, "stream": True}
    with Stream(url, "/v1/completions", body) as stream:
        assert stream.read_some()
        answer = request(url, "POST", EMBED, {"model": CHAT, "input": [text] * 8})
        assert answer.status == 200
        assert stream.read_some()
        stream.leave()


def test_a_client_that_leaves_ends_the_work(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = server.pool.engine(CHAT)
    eventually(lambda: engine.in_flight == 0, "nothing of earlier tests runs")
    cancelled: list[int] = []
    requests = engine.requests
    send_cancel = requests.send_cancel
    monkeypatch.setattr(requests, "send_cancel", lambda id: (cancelled.append(id), send_cancel(id)))
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    body = {"model": CHAT, "input": ["the otter swims in the river " * 40] * 400}
    connection.request("POST", EMBED, json.dumps(body).encode())
    eventually(lambda: engine.in_flight == 1, "the request is there")
    connection.close()
    eventually(lambda: engine.in_flight == 0, "the place in the queue is given back")
    assert len(cancelled) == 1
    assert request(url, "POST", EMBED, {"model": CHAT, "input": "the otter"}).status == 200


@pytest.mark.slow
def test_a_worker_that_dies_causes_an_error_and_is_replaced(server: Server, url: str) -> None:
    engine = server.pool.engine(CHAT)
    body = {"model": CHAT, "input": ["the otter swims in the old river " * 20] * 200}
    # A cancelled request would be a second suspect, and a request is failed only if it is the only
    # one that the worker may have died of. A stream would be taken for this request.
    eventually(
        lambda: not engine.requests.pending() and not engine.requests.computing(),
        "earlier requests are over",
    )

    def kill() -> None:
        eventually(
            lambda: any(p.state >= State.STARTED for p in engine.requests.pending()),
            "it is computed",
        )
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    answer, _ = together([lambda: request(url, "POST", EMBED, body), kill])
    assert answer.status == 500
    assert answer.json["error"]["code"] == "engine_fault"
    small = {"model": CHAT, "input": "the otter"}
    assert request(url, "POST", EMBED, small).status == 200
