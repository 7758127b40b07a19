"""Embeddings on real contexts: values, batches, chunks, simultaneous streams, and failures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_runs import GREEDY, Run
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_embedding import Vector, embedding_of
from tiny_models import BERT_CONTEXT, WORDS, make, make_bert, make_last_pooling

from offgrid.engine.protocol.commands import Embed, Load, Submit
from offgrid.engine.protocol.events import Accepted, Delta, Embedded, EngineEvent, Failed
from offgrid.engine.protocol.requests import EmbeddingRequest, GenerationRequest, PromptPart
from offgrid.engine.worker import embedder, lanes
from offgrid.engine.worker.embedder import Embedder, EmbeddingJob
from offgrid.engine.worker.failures import EngineBroken
from offgrid.engine.worker.llama.errors import DecodeError
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.tensors import has_tensor, parts_of
from offgrid.engine.worker.writer import Writer
from offgrid.errors import ContextLengthExceeded, InvalidParameter

TEXTS = [
    "The otter swims in the river.",
    "the old fox",
    "a",
    " ".join(WORDS) + " and so on to the small tree",
    "[CLS] is text, and so is <|im_end|>",
]
KINDS = (
    "bert-mean", "bert-cls", "bert-none", "bert-rank", "llama-last", "llama", "mamba", "jamba",
    "gemma3",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def load(kind: str, folder: Path) -> Model:
    family, _, pooling = kind.partition("-")
    if family == "bert":
        path = make_bert(folder, pooling.upper())
    else:
        path = make_last_pooling(folder) if pooling else make(family, folder)
    return Model(Load(str(path), ctx_size=512, parallel=3, batch_size=64, threads=1))


@pytest.fixture(scope="module", params=KINDS)
def any_model(request: pytest.FixtureRequest, folder: Path) -> Iterator[Model]:
    model = load(request.param, folder)
    yield model
    model.close()


@pytest.fixture(scope="module")
def llama(folder: Path) -> Iterator[Model]:
    model = load("llama", folder)
    yield model
    model.close()


@pytest.fixture(scope="module")
def bert(folder: Path) -> Iterator[Model]:
    model = load("bert-mean", folder)
    yield model
    model.close()


class EmbedRun(Run):
    """An engine that also embeds."""

    def embed(
        self,
        inputs: Any,
        query: str | None = None,
        dimensions: int | None = None,
        owner: str = "",
    ) -> int:
        self._id += 1
        params = tuple(f"input[{index}]" for index in range(len(inputs)))
        request = EmbeddingRequest(tuple(inputs), query, dimensions, params, owner=owner)
        job = EmbeddingJob(self._id, request)
        for _ in self.engine.embedder.prepare(job):
            pass
        self.engine.submit(job)
        return self._id

    def vectors(self, id: int) -> list[Vector]:
        answers = [e for e in self.events if isinstance(e, Embedded) and e.id == id]
        assert [e.left for e in answers] == list(range(len(answers) - 1, -1, -1))
        by_index = {e.index: np.frombuffer(e.vector, "<f4").astype(np.float64) for e in answers}
        return [by_index[index] for index in range(len(answers))]


def embed(model: Model, inputs: Any, **fields: Any) -> list[Vector]:
    run = EmbedRun(model)
    id = run.embed(inputs, **fields)
    run.finish()
    return run.vectors(id)


def reference(model: Model, tokens: list[int]) -> Vector:
    return embedding_of(model.info.path, tokens, model.pooling)


def ids_of(model: Model, text: str) -> list[int]:
    return [int(token) for token in model.tokenize_input(text)]


ALONE = 1e-5
BATCHED = 1e-4
"""llama.cpp has keys, values and a table of GELU values in half precision: the last bit can differ
in another batch."""


def assert_close(found: list[Vector], expected: list[Vector], within: float = BATCHED) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=within)


def test_values_are_those_of_the_definition(any_model: Model) -> None:
    ids = [ids_of(any_model, text) for text in TEXTS]
    if any_model.pooling == "rank":
        found = embed(any_model, TEXTS, query="which")
        pairs = [[2, *ids_of(any_model, "which")[1:-1], 3, *given[1:-1], 3] for given in ids]
        assert_close(found, [reference(any_model, pair) for pair in pairs])
        assert len({round(float(score[0]), 4) for score in found}) == len(TEXTS)
        return
    expected = [reference(any_model, given) for given in ids]
    assert_close([embed(any_model, [text])[0] for text in TEXTS], expected, ALONE)
    found = embed(any_model, TEXTS)
    assert_close(found, expected)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    assert_close(embed(any_model, [tuple(given) for given in ids]), expected)
    # Different texts must have different directions, or these comparisons would prove nothing.
    assert np.abs(np.array(found) @ np.array(found).T - np.eye(len(TEXTS))).max() < 0.999


def test_the_purpose_of_the_model(any_model: Model) -> None:
    kind = any_model.info.pooling, any_model.info.generates
    family = any_model.metadata["general.architecture"]
    if family == "bert":
        named = any_model.metadata.get("bert.pooling_type", "1")
        assert kind == ({"1": "mean", "2": "cls", "4": "rank"}[named], False)
    else:
        assert kind == (("last", False) if "llama.pooling_type" in any_model.metadata
                        else ("mean", True))  # fmt: skip


def test_many_inputs_are_as_they_are_alone(any_model: Model) -> None:
    words = [WORDS[i % len(WORDS)] for i in range(200)]
    texts = [" ".join(words[i : i + 1 + i * 7 % 29]) for i in range(100)]
    query = "the fox" if any_model.pooling == "rank" else None
    alone = [embed(any_model, [text], query=query)[0] for text in texts[::9]]
    together = embed(any_model, texts, query=query)
    assert_close(together[::9], alone)


def test_a_text_that_has_more_tokens_than_bytes(tmp_path: Path) -> None:
    """XLM-RoBERTa writes a single ligature of Arabic as eighteen letters."""
    path = make_bert(tmp_path, replaced="abcdefghijklmnopqrst")
    model = Model(Load(str(path), ctx_size=512, parallel=1, batch_size=64, threads=1))
    try:
        one, three = model.tokenize_plain("~").tolist(), model.tokenize_plain("~~~").tolist()
        assert len(one) >= 20
        assert len(three) >= 60
        assert one == model.tokenize_plain("abcdefghijklmnopqrst").tolist()
    finally:
        model.close()


def test_inputs_share_batches(bert: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    context = bert.embedding_context()
    sizes: list[int] = []
    decode = context.decode
    monkeypatch.setattr(
        context, "decode", lambda: (sizes.append(context.batch.struct().n_tokens), decode())
    )
    embed(bert, ["the otter"] * 64)
    assert sum(sizes) == 64 * 4
    assert max(sizes) == context.capacity == BERT_CONTEXT
    assert len(sizes) == 2


def test_callers_take_turns_at_embedding(bert: Model) -> None:
    """Twenty requests of one caller with many inputs do not delay the one of another."""
    run = EmbedRun(bert)
    for _ in range(20):
        run.embed(["the otter lives in the house by the river"] * 20, owner="greedy")
    id = run.embed(["the fox"] * 2, owner="other")
    run.engine.step()
    left = [event.left for event in run.events if isinstance(event, Embedded) and event.id == id]
    assert left == [1, 0]
    run.finish()


def test_an_input_in_chunks_up_to_the_whole_context(llama: Model) -> None:
    """An input longer than a batch: its states are added up over several batches."""
    rng = np.random.default_rng(3)
    long = [int(token) for token in rng.integers(5, 500, llama.n_ctx)]
    assert len(long) > 4 * llama.embedding_context().capacity
    assert_close(embed(llama, [tuple(long), (7, 8)]), [reference(llama, p) for p in (long, [7, 8])])


def test_dimensions_cut_and_keep_the_length(bert: Model) -> None:
    (whole,) = embed(bert, ["the otter"])
    (short,) = embed(bert, ["the otter"], dimensions=5)
    assert_close([short], [whole[:5] / np.linalg.norm(whole[:5])])
    assert_close(embed(bert, ["the otter"], dimensions=bert.n_embd), [whole])
    with pytest.raises(InvalidParameter, match="at most 32") as caught:
        embed(bert, ["the otter"], dimensions=33)
    assert caught.value.param == "dimensions"


def test_simultaneous_streams_continue_unchanged(llama: Model) -> None:
    alone = Run(llama)
    expected = alone.submit("The otter", max_tokens=400, ignore_eos=True)
    alone.finish()
    run = EmbedRun(llama)
    stream = run.submit("The otter", max_tokens=400, ignore_eos=True)
    run.engine.step()
    texts = ["the fox lives in the house by the river " * 3] * 12
    id = run.embed(texts)
    while not any(isinstance(e, Embedded) and e.left == 0 for e in run.events):
        before = sum(isinstance(e, Delta) for e in run.events)
        run.engine.step()
        # More than one if a draft was right.
        assert sum(isinstance(e, Delta) for e in run.events) > before
    assert llama.embedding_context().batch.struct().n_tokens <= llama.batch.capacity // 2
    run.finish()
    assert run.text(stream) == alone.text(expected)
    assert_close(run.vectors(id), [reference(llama, ids_of(llama, texts[0]))] * 12)


def test_a_small_request_does_not_wait_for_a_large_one(bert: Model) -> None:
    run = EmbedRun(bert)
    large = run.embed(["the otter swims in the river by the old house"] * 500)
    run.engine.step()
    small = run.embed(["the fox"])
    for _ in range(2):
        run.engine.step()
    assert run.vectors(small)
    run.engine.cancel(large)
    run.finish()
    done = sum(isinstance(e, Embedded) and e.id == large for e in run.events)
    assert 0 < done < 100


def test_a_long_input_does_not_wait_for_ever(llama: Model) -> None:
    """It needs the whole memory; short inputs that arrive later wait until it is done."""
    run = EmbedRun(llama)
    run.embed(["the fox"] * 5)
    long = run.embed([tuple([7] * llama.n_ctx)])
    later = run.embed(["the otter"] * 100)
    while not run.vectors(long):
        run.engine.step()
    assert sum(isinstance(e, Embedded) and e.id == later for e in run.events) < 100
    run.finish()
    assert len(run.vectors(later)) == 100


def test_cancel_frees_the_memory_of_begun_inputs(llama: Model) -> None:
    run = EmbedRun(llama)
    id = run.embed([tuple([7] * llama.n_ctx), "the fox"])
    run.engine.step()
    run.engine.cancel(id)
    assert not run.engine.step()
    assert not run.vectors(id)
    assert_close(embed(llama, ["the fox"]), [reference(llama, ids_of(llama, "the fox"))])


def test_a_failed_decode_ends_its_requests_only(
    llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = llama.embedding_context()
    run = EmbedRun(llama)
    stream = run.submit("The otter", max_tokens=10, ignore_eos=True)
    decode = context.decode
    fails = True

    def failing() -> None:
        if fails:
            raise DecodeError(-3)
        decode()

    monkeypatch.setattr(context, "decode", failing)
    first = run.embed(["the fox"] * 3)
    run.engine.step()
    assert isinstance(run.last(first), Failed)
    fails = False
    second = run.embed(["the fox"])
    run.finish()
    assert_close(run.vectors(second), [reference(llama, ids_of(llama, "the fox"))])
    assert isinstance(run.last(stream), Delta)
    fails = True
    run.embed(["the fox"])
    run.engine.step()
    run.embed(["the fox"])
    with pytest.raises(EngineBroken):
        run.engine.step()


def test_inputs_that_are_refused(
    llama: Model, bert: Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: Model, inputs: Any, error: type[Exception], words: str, **more: Any) -> None:
        with pytest.raises(error, match=words):
            embed(model, inputs, **more)

    too_long = "the " * BERT_CONTEXT
    refused(bert, ["ok", too_long], ContextLengthExceeded, r"128 tokens and input\[1\] has 130")
    refused(bert, ["A" * 100_000], ContextLengthExceeded, r"100000 bytes.* at most 2048")
    refused(llama, [tuple([5] * 513)], ContextLengthExceeded, r"512 tokens and input\[0\] has 513")
    refused(llama, [(5, 512)], InvalidParameter, "check_embedding_ctx_length=False")
    refused(bert, ["the"], InvalidParameter, "does not rank", query="fox")
    ranker = load("bert-rank", folder)
    refused(ranker, ["the"], InvalidParameter, "has no embeddings")
    refused(ranker, ["the " * 70], ContextLengthExceeded, "with the query", query="the " * 60)
    ranker.close()
    with pytest.raises(InvalidParameter, match="does not generate"):
        Run(bert).submit("the")
    monkeypatch.setattr(embedder, "MAX_INPUT_TOKENS", 100)
    refused(bert, ["the fox"] * 30, ContextLengthExceeded, r"at most 100 tokens.*input\[25\]")


@pytest.mark.parametrize("labels", [["LABEL_0"], None])
def test_rerankers_as_llama_cpp_s_converter_writes_them(
    folder: Path, labels: list[str] | None
) -> None:
    """Their files do not name the pooling: the tensors of the head tell what they are for."""
    model = Model(Load(str(make_bert(folder, "RANK", name="unnamed", named=False, labels=labels))))
    assert "bert.pooling_type" not in model.metadata
    assert (model.info.pooling, model.info.generates) == ("rank", False)
    named = load("bert-rank", folder)
    assert_close(embed(model, TEXTS, query="fox"), embed(named, TEXTS, query="fox"), ALONE)
    with pytest.raises(InvalidParameter, match="use /v1/rerank"):
        embed(model, TEXTS)
    named.close()
    model.close()


def test_a_model_that_sorts_texts_into_classes_is_no_reranker(folder: Path) -> None:
    labels = ["agrees", "contradicts", "neither"]
    model = Model(Load(str(make_bert(folder, "RANK", name="classes", named=False, labels=labels))))
    assert (model.info.pooling, model.info.generates) == ("mean", False)
    assert len(embed(model, ["the fox"])[0]) == model.n_embd
    with pytest.raises(InvalidParameter, match="does not rank"):
        embed(model, TEXTS, query="fox")
    model.close()


def test_tensors_of_a_file(folder: Path, tmp_path: Path) -> None:
    path = make_bert(folder, "RANK")
    assert has_tensor(path, ["blk.9.attn_q.weight", "cls.output.weight"])
    assert not has_tensor(path, ["cls.output", "output.weight"])
    assert not has_tensor(tmp_path / "missing.gguf", ["cls.output.weight"])
    assert parts_of(path) == [path]
    first = tmp_path / "model-F16-00001-of-00003.gguf"
    assert [part.name for part in parts_of(first)] == [
        first.name, "model-F16-00002-of-00003.gguf", "model-F16-00003-of-00003.gguf"
    ]  # fmt: skip


def test_a_template_of_the_file_puts_query_and_document_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("bert-rank", folder)
    monkeypatch.setitem(model.metadata, embedder.RANK_TEMPLATE, "{query}[SEP]old {document}[SEP]")
    (score,) = embed(model, ["the otter [SEP]"], query="{document}")
    plain = [ids_of(model, text)[1:-1] for text in ("{document}", "old", "the otter [SEP]")]
    tokens = [2, *plain[0], 3, *plain[1], *plain[2], 3]
    assert_close([score], [reference(model, tokens)])
    model.close()


def test_a_prompt_is_tokenised_between_two_of_many_inputs(
    llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokeniser's thread takes requests in turns: the later prompt is finished first."""
    monkeypatch.setattr(lanes, "_TURN", -1.0)  # a turn is one input
    accepted: list[Accepted] = []

    def collect(events: tuple[EngineEvent, ...]) -> None:
        assert not any(isinstance(event, Failed) for event in events)
        accepted.extend(event for event in events if isinstance(event, Accepted))

    writer = Writer(io.BytesIO())
    monkeypatch.setattr(writer, "events", collect)
    tokeniser = lanes.Lanes(writer, EmbedRun(llama).engine)
    inputs = ("the otter", "the fox", "a river")
    params = ("input[0]", "input[1]", "input[2]")
    tokeniser.enqueue(Embed(1, EmbeddingRequest(inputs, params=params)))
    prompt = GenerationRequest(parts=(PromptPart("the otter", True),), sampling=GREEDY)
    tokeniser.enqueue(Submit(2, prompt))
    while len(accepted) < 2:
        tokeniser.tokenise_next()
    assert [event.id for event in accepted] == [2, 1]
    assert accepted[1].prompt_tokens == sum(len(ids_of(llama, text)) for text in inputs)


class FakeContext:
    """Checks the use of cells and batches as llama.cpp would; the state of a token is its id."""

    def __init__(self, whole: bool, capacity: int, n_cells: int, n_sequences: int) -> None:
        self.needs_whole_input, self.capacity = whole, capacity
        self.n_cells, self.n_sequences = n_cells, n_sequences
        self.batch = self
        self.cells: dict[int, list[int]] = {}
        self.rows: list[int] = []
        self.largest = 0

    def clear(self) -> None:
        self.rows = []

    def add(self, sequence: int, start: int, tokens: Any, want: bool) -> int:
        held = self.cells.setdefault(sequence, [])
        assert start == len(held)
        assert 0 <= sequence < self.n_sequences
        held += tokens.tolist()
        self.rows += tokens.tolist()
        assert len(self.rows) <= self.capacity
        assert sum(map(len, self.cells.values())) <= self.n_cells
        return len(self.rows) - 1

    def decode(self) -> None:
        assert self.rows
        self.largest = max(self.largest, len(self.rows))

    def states(self, first: int, count: int) -> Any:
        return np.array([[token, 1.0] for token in self.rows[first : first + count]])

    def pooled(self, sequence: int) -> Any:
        return np.array([[token, 1.0] for token in self.cells[sequence]]).mean(axis=0)

    def forget(self, sequence: int) -> None:
        del self.cells[sequence]


@settings(max_examples=60, deadline=None)
@given(
    whole=st.booleans(),
    jobs=st.lists(st.lists(st.integers(1, 24), min_size=1, max_size=9), min_size=1, max_size=5),
    budget=st.none() | st.integers(1, 10),
    cancelled=st.none() | st.integers(0, 4),
)
def test_any_mix_of_inputs_is_packed_and_answered(
    whole: bool, jobs: list[list[int]], budget: int | None, cancelled: int | None
) -> None:
    """Inputs of any lengths in several requests all get right answers within the memory."""
    context = FakeContext(whole, 24 if whole else 16, 24, 4)
    model = SimpleNamespace(
        pooling="mean", n_ctx=24, n_embd=2, n_vocab=1000, embedding_context=lambda: context
    )
    packer = Embedder(model)  # type: ignore[arg-type]
    for id, lengths in enumerate(jobs):
        inputs = tuple(tuple(range(id, id + length)) for length in lengths)
        job = EmbeddingJob(id, EmbeddingRequest(inputs, params=("input",) * len(inputs)))
        assert len(list(packer.prepare(job))) == len(inputs)
        packer.submit(job)
    events = packer.step(budget)
    if cancelled is not None:
        packer.cancel(cancelled)
    while packer.has_work:
        events += packer.step(budget)
    assert not context.cells
    if budget is not None and not whole:
        assert context.largest <= budget
    for id, lengths in enumerate(jobs):
        found = {e.index: np.frombuffer(e.vector, "<f4")
                 for e in events if isinstance(e, Embedded) and e.id == id}  # fmt: skip
        if id != cancelled:
            assert sorted(found) == list(range(len(lengths)))
        for index, vector in found.items():
            mean = id + (lengths[index] - 1) / 2
            assert vector == pytest.approx(np.array([mean, 1]) / math.hypot(mean, 1), abs=1e-6)
