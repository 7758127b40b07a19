"""Logprobs of prompts: in chunks, beside other requests, and compared with llama.cpp's logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_runs import Counting, Failing, Run
from reference_logits import ReferenceModel

from offgrid.engine.protocol.events import Delta, Failed, PromptToken
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.engine.worker.llama.errors import NO_ROOM
from offgrid.errors import ContextLengthExceeded

STORY = "Once upon a time there was a small otter who lived beside a wide river. " * 4
N_CTX = 256
LOAD = {"ctx_size": N_CTX, "parallel": 3, "drafts": False}


@pytest.fixture(scope="module")
def reference(starter_path: Path) -> Iterator[ReferenceModel]:
    model = ReferenceModel(starter_path)
    yield model
    model.close()


def ids(model: Counting, text: str) -> list[int]:
    return model.tokenize((PromptPart(text, True),)).tolist()


def prompt(run: Run, id: int) -> list[PromptToken]:
    return [
        token
        for event in run.events
        if isinstance(event, Delta) and event.id == id
        for token in event.prompt
    ]


def check(run: Run, id: int, tokens: list[int], reference: ReferenceModel,
          tolerance: float = 1e-4) -> None:  # fmt: skip
    entries = prompt(run, id)
    assert [entry.token for entry in entries] == tokens
    assert (entries[0].logprob, entries[0].rank, entries[0].top) == (None, None, ())
    rows = reference.log_probabilities(tokens)
    for row, entry in zip(rows, entries[1:], strict=False):
        assert entry.logprob == pytest.approx(row[entry.token], abs=tolerance)
        for token, _, logprob in entry.top:
            assert logprob == pytest.approx(row[token], abs=tolerance)
        near = np.abs(row - row[entry.token]) < 2 * tolerance  # ties may have either order
        above = int((row > row[entry.token]).sum())
        assert abs((entry.rank or 0) - 1 - above) <= near.sum()


# llama.cpp rounds differently when it computes a single token.
@pytest.mark.parametrize(("rows", "tolerance"), [(2, 1e-4), (7, 1e-4), (64, 1e-4)])
def test_any_chunking_gives_the_same(
    run: Run, model: Counting, reference: ReferenceModel, rows: int, tolerance: float
) -> None:
    run.engine.scheduler.scored_tokens = rows
    id = run.submit(STORY, prompt_logprobs=3, max_tokens=2)
    run.finish()
    check(run, id, ids(model, STORY), reference, tolerance)
    assert max(model.decoded) <= rows
    assert all(len(entry.top) == 3 for entry in prompt(run, id)[1:])


def test_the_answer_is_the_same_as_without_prompt_logprobs(run: Run) -> None:
    scored = run.submit(STORY, prompt_logprobs=0)
    run.finish()
    plain = run.submit(STORY)
    run.finish()
    assert run.text(scored) == run.text(plain) != ""


def test_several_prompts_at_once_share_the_rows(
    run: Run, model: Counting, reference: ReferenceModel
) -> None:
    run.engine.scheduler.scored_tokens = 10
    stream = run.submit("In a house", max_tokens=30, ignore_eos=True)
    run.engine.step()
    texts = [STORY, "The lantern " + STORY]
    scoring = [run.submit(text, prompt_logprobs=0, max_tokens=0) for text in texts]
    model.decoded.clear()
    run.finish()
    assert max(model.decoded) <= 10 + 3
    for id, text in zip(scoring, texts, strict=True):
        # Single tokens of several sequences are computed together, and so rounded differently.
        check(run, id, ids(model, text), reference, tolerance=0.05)
    alone = run.submit("In a house", max_tokens=30, ignore_eos=True, cache_prompt=False)
    run.finish()
    assert run.text(alone) == run.text(stream)


def test_a_scored_prompt_reuses_no_prefix_but_provides_one(run: Run, model: Counting) -> None:
    run.submit(STORY)
    run.finish()
    model.decoded.clear()
    id = run.submit(STORY, prompt_logprobs=0, n=3, max_tokens=1)
    run.finish()
    n_tokens = len(ids(model, STORY))
    assert len(prompt(run, id)) == n_tokens
    # One choice computes the whole prompt, the others only its last token.
    assert sum(model.decoded) == n_tokens + 2
    cached = [e.cached_tokens for e in run.events if isinstance(e, Delta) and e.id == id
              and e.finish_reason]  # fmt: skip
    assert sorted(cached) == [0, n_tokens - 1, n_tokens - 1]


def test_a_prompt_of_one_token(run: Run, model: Counting) -> None:
    for max_tokens in (0, 1):
        id = run.submit("Once", prompt_logprobs=2, max_tokens=max_tokens)
        run.finish()
        (entry,) = prompt(run, id)
        assert (entry.piece, entry.logprob) == (b"Once", None)
        end = run.last(id)
        assert isinstance(end, Delta)
        assert (end.finish_reason, end.completion_tokens) == ("length", max_tokens)


def test_a_prompt_that_fills_the_context(
    run: Run, model: Counting, reference: ReferenceModel
) -> None:
    tokens = (ids(model, STORY) * 5)[:N_CTX]
    request = GenerationRequest(tokens=tuple(tokens), prompt_logprobs=0, max_tokens=0)
    run.engine.submit(run.engine.prepare(99, request))
    run.finish()
    check(run, 99, tokens, reference)
    for max_tokens, extra in (None, 0), (1, 0), (0, 1):
        longer = GenerationRequest(tokens=tuple(tokens + [5] * extra), max_tokens=max_tokens)
        with pytest.raises(ContextLengthExceeded):
            run.engine.prepare(100, longer)


def test_a_preempted_prompt_is_not_scored_twice(model: Counting, reference: ReferenceModel) -> None:
    """The youngest sequence is preempted in mid-prompt and computed again."""
    codes: list[int | None] = [None, None, None, NO_ROOM]
    run = Run(Failing(model, lambda: codes.pop(0) if codes else None))  # type: ignore[arg-type]
    run.engine.scheduler.scored_tokens = 8
    run.submit("In a house", max_tokens=40, ignore_eos=True)
    run.engine.step()
    id = run.submit(STORY, prompt_logprobs=1, max_tokens=2)
    run.finish()
    assert codes == []
    check(run, id, ids(model, STORY), reference)


def test_a_failed_decode_ends_the_request(model: Counting) -> None:
    codes: list[int | None] = [None, -3]
    run = Run(Failing(model, lambda: codes.pop(0) if codes else None))  # type: ignore[arg-type]
    run.engine.scheduler.scored_tokens = 8
    id = run.submit(STORY, prompt_logprobs=1)
    run.finish()
    assert isinstance(run.last(id), Failed)


class Useless:
    """A model whose logits are NaN."""

    def __init__(self, model: Counting) -> None:
        self._model = model
        self.row = np.full(model.n_vocab, np.nan, dtype=np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, index: int) -> int:
        return int(self.row.ctypes.data)


@pytest.mark.parametrize("fields", [{"prompt_logprobs": 1}, {}, {"n": 2}])
def test_logits_that_are_nan_end_the_request(model: Counting, fields: dict[str, int]) -> None:
    run = Run(Useless(model))
    id = run.submit(STORY, **fields)
    run.finish()
    end = run.last(id)
    assert isinstance(end, Failed)
    assert end.error == "EngineFault"
    assert not prompt(run, id)
    # What the slot holds may be the reason: no other request begins after it, and it is not saved.
    assert [len(tokens) for _, tokens in run.engine.scheduler.idle] == [0] * model.n_parallel


def test_cancelled_in_mid_prompt(run: Run) -> None:
    run.engine.scheduler.scored_tokens = 8
    id = run.submit(STORY, prompt_logprobs=1)
    run.engine.step()
    run.engine.step()
    run.engine.cancel(id)
    assert not run.engine.step()
    assert 8 <= len(prompt(run, id)) < 24
