"""LoRA adapters: the tokens are llama.cpp's own, and an adapter that does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_runs import GREEDY, Run
from reference_logits import ReferenceModel
from tiny_lora import make_lora
from tiny_models import make, make_last_pooling, models

from offgrid.engine.protocol.commands import Adapter, Load
from offgrid.engine.protocol.events import Delta, Embedded
from offgrid.engine.protocol.requests import EmbeddingRequest, GenerationRequest
from offgrid.engine.worker.embedder import EmbeddingJob
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.model import Model

PROMPT = (300, 301, 302, 303)
ANSWER = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    make("llama", path).rename(path / "base.gguf")
    make_lora(path, "lora")
    make_lora(path, "other", seed=6)
    return path


def load(folder: Path, *adapters: tuple[str, float], model: str = "base") -> Model:
    files = tuple(Adapter(str(folder / f"{name}.gguf"), scale) for name, scale in adapters)
    path = str(folder / f"{model}.gguf")
    return Model(Load(path, ctx_size=128, parallel=2, batch_size=64, threads=1, adapters=files))


def answer(model: Model) -> tuple[int, ...]:
    run = Run(model)
    id = run.send(
        GenerationRequest(
            tokens=PROMPT, max_tokens=ANSWER, sampling=GREEDY, ignore_eos=True, top_logprobs=0
        )
    )
    run.finish()
    deltas = [event for event in run.events if isinstance(event, Delta) and event.id == id]
    return tuple(entry.token for delta in deltas for entry in delta.logprobs)


def reference(folder: Path, lora: tuple[Path, float] | None = None) -> tuple[int, ...]:
    model = ReferenceModel(folder / "base.gguf", n_ctx=128, lora=lora)
    try:
        return tuple(model.greedy([*PROMPT], ANSWER)[0])
    finally:
        model.close()


def answers(folder: Path, *adapters: tuple[str, float]) -> tuple[tuple[int, ...], str]:
    """The greedy tokens with some adapters, and the fingerprint."""
    model = load(folder, *adapters)
    try:
        return answer(model), model.info.fingerprint
    finally:
        model.close()


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_tokens_are_those_of_llama_cpp_with_the_adapter(folder: Path, scale: float) -> None:
    plain, fingerprint = answers(folder)
    assert plain == reference(folder)
    changed, other_fingerprint = answers(folder, ("lora", scale))
    assert changed == reference(folder, (folder / "lora.gguf", scale))
    assert changed != plain
    assert fingerprint != other_fingerprint


def test_several_adapters_and_scales(folder: Path) -> None:
    """A scale of 0 changes nothing, and adapters add up in any order."""
    plain, _ = answers(folder)
    assert answers(folder, ("lora", 0.0))[0] == plain
    both, _ = answers(folder, ("lora", 0.5), ("other", 0.5))
    assert both == answers(folder, ("other", 0.5), ("lora", 0.5))[0]
    assert both != plain
    assert both != answers(folder, ("lora", 0.5))[0]


def vector(folder: Path, *adapters: tuple[str, float]) -> bytes:
    """The embedding of the prompt."""
    model = load(folder, *adapters, model="llama-last")
    try:
        run = Run(model)
        job = EmbeddingJob(1, EmbeddingRequest((PROMPT,), params=("input",)))
        for _ in run.engine.embedder.prepare(job):
            pass
        run.engine.submit(job)
        run.finish()
        [embedded] = [event for event in run.events if isinstance(event, Embedded)]
        return embedded.vector
    finally:
        model.close()


def test_embeddings_are_changed_too(folder: Path) -> None:
    make_last_pooling(folder)
    assert vector(folder) != vector(folder, ("lora", 1.0))


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("wide", {"width": 2 * models.RECIPES["small-llama"].shape.width}, "does not fit"),
        ("deep", {"block": 9}, "does not fit"),
        ("foreign", {"architecture": "qwen2"}, "does not fit"),
        ("no-adapter", {"kind": "model"}, "does not fit"),
        ("activated", {"invocation": [300]}, "is an activated LoRA"),
    ],
)
def test_an_adapter_that_cannot_be_used(
    folder: Path, name: str, fields: dict[str, Any], reason: str
) -> None:
    make_lora(folder, name, **fields)
    with pytest.raises(LoadError, match=rf"its adapter {name}\.gguf {reason}") as caught:
        load(folder, (name, 1.0))
    assert caught.value.lasting


def test_an_adapter_that_is_gone_may_come_back(folder: Path) -> None:
    with pytest.raises(LoadError, match="is not there any more") as caught:
        load(folder, ("gone", 1.0))
    assert not caught.value.lasting
