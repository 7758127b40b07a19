"""Answers that follow a grammar, on the real loop."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from engine_runs import Failing, Run
from jsonschema import Draft202012Validator
from schemas import random_schema

from offgrid.engine.protocol.events import Delta, Failed
from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Masks, Matcher
from offgrid.grammar.checked import CheckedSchema
from offgrid.sampling import SamplingParams

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
WARM = SamplingParams(temperature=1.0, seed=5)


def schema(value: Any) -> Grammar:
    return Grammar.of_schema(CheckedSchema(value, "response_format.json_schema.schema"))


def regex(source: str) -> Grammar:
    return Grammar("regex", source, "regex")


def answers(run: Run, seeds: range) -> None:
    """Check that answers at temperature 1 are JSON that satisfies random schemas."""
    ids = {
        run.submit(
            "Here is the JSON: ", grammar=schema(random_schema(seed)), max_tokens=None,
            sampling=SamplingParams(temperature=1.0, seed=seed),
        ): seed
        for seed in seeds
    }  # fmt: skip
    run.finish()
    texts = dict.fromkeys(ids, "")
    reasons: dict[int, str | None] = {}
    for event in run.events:
        assert not isinstance(event, Failed), (event, random_schema(ids[event.id]))
        if isinstance(event, Delta):
            texts[event.id] += event.text
            reasons[event.id] = event.finish_reason
    for id, seed in ids.items():
        wanted = random_schema(seed)
        assert reasons[id] == "stop", (seed, wanted, texts[id])
        value = json.loads(texts[id])
        validator = Draft202012Validator(wanted, format_checker=Draft202012Validator.FORMAT_CHECKER)
        assert validator.is_valid(value), (seed, wanted, texts[id])


@pytest.mark.slow
def test_random_schemas_give_valid_json(run: Run) -> None:
    answers(run, range(40))


@pytest.mark.slow
def test_a_thousand_random_schemas(run: Run) -> None:
    """The default run covers 40 schemas, from other seeds."""
    for first in range(1000, 2000, 100):
        run.events.clear()
        answers(run, range(first, first + 100))


def test_every_token_was_allowed(run: Run, model: Model) -> None:
    """Check every sampled token with a matcher that computed no mask."""
    source = "(the|a) [a-z]{2,9}( (and|or) [a-z]{2,9}){1,3}[.!]"
    for seed in range(8):
        sampling = SamplingParams(temperature=1.5, seed=seed)
        id = run.submit("Once", grammar=regex(source), sampling=sampling, top_logprobs=0,
                        max_tokens=200)  # fmt: skip
        run.finish()
        text = b""
        for event in run.events:
            if isinstance(event, Delta) and event.id == id:
                for token in event.logprobs:
                    assert token.piece == model.piece(token.token)
                    text += token.piece
        assert re.fullmatch(source, text.decode())
        assert run.text(id) == text.decode()


def other_token(run: Run, piece: bytes) -> int:
    model = run.engine.model
    return next(token for token in range(model.n_vocab) if model.piece(token) == piece)


def test_a_grammar_does_not_change_logprobs(run: Run) -> None:
    """The first token of a free answer has the same logprob when a grammar forces it."""
    free = run.submit("Once upon a time", max_tokens=1, top_logprobs=20)
    run.finish()
    (delta,) = [e for e in run.events if isinstance(e, Delta) and e.id == free]
    other = next(top for top in delta.logprobs[0].top[1:] if top[0].decode().strip().isalpha())
    choice = Grammar("choice", json.dumps([other[0].decode()]), "choice")
    forced = run.submit(
        "Once upon a time", max_tokens=1, top_logprobs=20, grammar=choice,
        sampling=SamplingParams(logit_bias={other_token(run, other[0]): 50.0}),
    )  # fmt: skip
    run.finish()
    (again,) = [e for e in run.events if isinstance(e, Delta) and e.id == forced]
    assert again.logprobs[0].piece == other[0]
    assert again.logprobs[0].logprob == pytest.approx(other[1], abs=1e-4)
    assert again.logprobs[0].top == delta.logprobs[0].top


def test_simultaneous_requests_do_not_change_the_answer(run: Run) -> None:
    alone = run.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    run.finish()
    beside = run.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    others = [run.submit("In a house", max_tokens=60, ignore_eos=True) for _ in range(2)]
    run.finish()
    assert run.text(beside) == run.text(alone)
    assert json.loads(run.text(alone)).keys() == {"name", "age", "tags"}
    assert run.text(others[0]) == run.text(others[1])


def test_each_choice_follows_the_grammar_independently(run: Run) -> None:
    id = run.submit("Once", grammar=schema(PERSON), sampling=WARM, n=3, max_tokens=300)
    run.finish()
    texts = [run.text(id, choice) for choice in range(3)]
    assert len(set(texts)) == 3
    for text in texts:
        Draft202012Validator(PERSON).validate(json.loads(text))


@pytest.mark.parametrize(
    "more",
    [
        {"ignore_eos": True},
        {"sampling": SamplingParams(temperature=1.0, min_tokens=200, seed=1)},
        {"sampling": SamplingParams(temperature=1.0, seed=1, logit_bias={2041: -float("inf"),
                                                                   2043: -float("inf")})},
    ],
)  # fmt: skip
def test_a_complete_answer_ends_even_if_its_end_token_is_banned(
    run: Run, more: dict[str, Any]
) -> None:
    fields = {"grammar": schema(PERSON), "max_tokens": 300, **more}
    id = run.submit("Once", **fields)
    run.finish()
    end = run.last(id)
    assert isinstance(end, Delta)
    assert end.finish_reason == "stop"
    assert json.loads(run.text(id)).keys() == {"name", "age", "tags"}


def test_ignore_eos_continues_as_long_as_the_grammar_allows(run: Run) -> None:
    id = run.submit("Once", grammar=regex("[a-z ]*"), ignore_eos=True, max_tokens=30)
    run.finish()
    end = run.last(id)
    assert isinstance(end, Delta)
    assert (end.finish_reason, end.completion_tokens) == ("length", 30)


def test_stop_strings_end_a_structured_answer(run: Run) -> None:
    id = run.submit("Once", grammar=schema(PERSON), stop=('"age"',), max_tokens=300)
    run.finish()
    end = run.last(id)
    assert isinstance(end, Delta)
    assert end.finish_reason == "stop"
    assert run.text(id).rstrip().endswith(",")


def test_bans_that_leave_no_token_are_an_error_of_the_request(run: Run, model: Model) -> None:
    (a,) = [t for t in range(model.n_vocab) if model.piece(t) == b"a"]
    sampling = SamplingParams(logit_bias={a: -float("inf")})
    other = run.submit("Once", max_tokens=5)
    id = run.submit("Once", grammar=regex("a"), sampling=sampling)
    run.finish()
    end = run.last(id)
    assert isinstance(end, Failed)
    assert (end.error, end.param) == ("InvalidParameter", "regex")
    assert "logit_bias" in end.message
    assert isinstance(run.last(other), Delta)


def test_a_matcher_that_fails_ends_only_its_request(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = run.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    run.finish()
    expected = run.text(good)
    bad = run.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300, n=2)
    good = run.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    run.engine.step()
    broken = next(s for s in run.engine.scheduler.running if s.request_id == bad)

    class Broken:
        """The library's matcher, as it is when it fails after the first token."""

        def is_accepting(self) -> bool:
            return False

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("panic in the library")

    assert broken.matcher is not None
    if broken.matcher.future is not None:
        broken.matcher.future.result(60)
    inner: Any = Broken()
    broken.matcher = Matcher(inner, broken.matcher.mask, broken.matcher.param)
    run.finish()
    end = run.last(bad)
    assert isinstance(end, Failed)
    assert end.code == "grammar_too_complex"
    assert run.text(good) == expected


class Gated(Masks):
    """Masks that are held back until a gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def start(self, drawn: list[tuple[Matcher, int]]) -> None:
        for matcher, token in drawn:
            matcher.ready = False
            held = _Held(matcher, self.gate)
            super().start([(held, token)])  # type: ignore[list-item]
            matcher.future = held.future


class _Held:
    """A hard matcher whose steps wait for the gate."""

    hard = True

    def __init__(self, matcher: Matcher, gate: threading.Event) -> None:
        self._matcher = matcher
        self._gate = gate
        self.future: Any = None
        self.ready = False

    def advance(self, token: int) -> None:
        assert self._gate.wait(60)
        self._matcher.advance(token)
        self._matcher.ready = True


def test_a_slow_mask_does_not_delay_other_requests(run: Run, model: Model) -> None:
    alone = run.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    run.finish()
    expected = run.text(alone)
    gated = Gated()
    run = Run(model, masks=gated)
    slow = run.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    stream = run.submit("In a house", max_tokens=400, ignore_eos=True)

    def tokens(id: int) -> int:
        return len([e for e in run.events if isinstance(e, Delta) and e.id == id])

    run.engine.step()
    run.engine.step()
    assert tokens(slow) == 1  # the first mask was ready
    before = tokens(stream)
    for _ in range(20):
        run.engine.step()
    assert tokens(slow) == 1
    assert tokens(stream) == before + 20
    gated.gate.set()
    run.finish()
    assert run.text(slow) == expected


def test_hard_matchers_give_the_same_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps except the first of each choice are computed in threads."""
    easy = run.submit("Once", grammar=schema(PERSON), sampling=WARM, n=3, max_tokens=300)
    run.finish()
    monkeypatch.setattr("offgrid.engine.worker.matcher.HARD_SECONDS", -1.0)
    hard = run.submit("Once", grammar=schema(PERSON), sampling=WARM, n=3, max_tokens=300)
    run.finish()
    assert [run.text(hard, i) for i in range(3)] == [run.text(easy, i) for i in range(3)]


def test_a_cancel_while_a_mask_is_awaited(model: Model) -> None:
    gated = Gated()
    run = Run(model, masks=gated)
    id = run.submit("Once", grammar=schema(PERSON), max_tokens=300)
    for _ in range(3):
        run.engine.step()
    run.engine.cancel(id)
    assert not run.engine.step()
    gated.gate.set()


def test_a_preempted_answer_continues_within_its_grammar(model: Model) -> None:
    """Without room the youngest sequence is computed again; its matcher keeps its state."""
    reference = Run(model)
    first = reference.submit("Once", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    second = reference.submit("In a", grammar=schema(PERSON), sampling=WARM, max_tokens=300)
    reference.finish()
    codes: list[int | None] = [None, None, None, None, 1]
    failing = Run(Failing(model, lambda: codes.pop(0) if codes else None))
    ids = [
        failing.submit(text, grammar=schema(PERSON), sampling=WARM, max_tokens=300)
        for text in ("Once", "In a")
    ]
    preempted = []
    preempt = failing.engine.scheduler.preempt
    failing.engine.scheduler.preempt = lambda s: (preempted.append(s), preempt(s))[1]  # type: ignore[method-assign,assignment,func-returns-value]
    failing.finish()
    assert preempted
    assert [failing.text(id) for id in ids] == [reference.text(i) for i in (first, second)]
    for slot in range(model.n_parallel):
        model.forget(slot)


def test_a_grammar_that_becomes_too_hard_ends_only_its_request(run: Run) -> None:
    optional = " ".join(f"/[{letter}-z]/?" for letter in "abcdefghij")
    source = f"start: /[0-9]{{8}}/ x{{0,100000}}\nx: {optional}"
    hard = run.submit("Once", grammar=Grammar("lark", source, "grammar"), max_tokens=50,
                      sampling=SamplingParams(temperature=2.0, seed=1))  # fmt: skip
    other = run.submit("Once upon a time", max_tokens=30, ignore_eos=True)
    run.finish()
    end = run.last(hard)
    assert isinstance(end, Failed)
    assert (end.error, end.code, end.param) == (
        "InvalidParameter",
        "grammar_too_complex",
        "grammar",
    )
    assert isinstance(run.last(other), Delta)


def test_a_dead_end_is_not_reported_as_a_limit(run: Run) -> None:
    """No value satisfies both parts of B, which shows only when an answer gets there."""
    source = "start: A B\nA: /[0-9]/\nB: /b/ & /c/"
    id = run.submit("Once", grammar=Grammar("lark", source, "grammar"), max_tokens=50)
    other = run.submit("Once upon a time", max_tokens=30, ignore_eos=True)
    run.finish()
    end = run.last(id)
    assert isinstance(end, Failed)
    assert (end.error, end.code, end.param) == ("InvalidParameter", "grammar_dead_end", "grammar")
    assert "no token" in end.message
    assert isinstance(run.last(other), Delta)
