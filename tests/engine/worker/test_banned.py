"""Banned strings never appear, however they are split into tokens, and change nothing else.

``reference_banned.py`` is the definition. The models have fixed logits, so that no rounding hides a
difference, unless a test needs llama.cpp's memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import reference_banned
import tiny_models
from engine_runs import GREEDY, Counting, Run
from fixed_logits import FixedLogits, row_after
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_banned import Answer, Definition

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import (
    GenerationRequest,
    Grammar,
    PromptPart,
    ReasoningBudget,
)
from offgrid.engine.worker import banned, drawing
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.reasoning import ReasoningLimit
from offgrid.engine.worker.sequence import Sequence, Status
from offgrid.errors import InvalidParameter
from offgrid.filters.program import compile_terms
from offgrid.filters.source import parse_line
from offgrid.sampling import SamplingParams

SLOTS, CONTEXT = 2, 192
PIECES = [
    b"a", b"b", b"c", b"ab", b"ba", b"aa", b"bc", b"abc", b"cab", b"aab", b" ", b"a b", b"",
    "é".encode(), b"\xc3", b"\xa9", "é".encode() + b"a", b"b\xc3", b"c ", b"", b"\xff",
]  # fmt: skip
"""Pieces of a small vocabulary, in which every text can be written in many ways."""
END = 19
PROMPT = [3, 1, 4, 1, 5]
NARROW = {token: -math.inf for token in range(len(PIECES)) if token not in (0, 1, 3, 4)}
"""Leaves so few tokens that banned strings may leave none."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tiny_models.make("llama", tmp_path_factory.mktemp("models"))
    model = Model(Load(str(path), ctx_size=CONTEXT, parallel=SLOTS, batch_size=24, threads=1))
    yield model
    model.close()


class Small(FixedLogits):
    """A model with fixed logits and the small vocabulary."""

    n_vocab = len(PIECES)
    eog_ids = frozenset({END})
    pieces: ClassVar[list[bytes]] = PIECES

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.scale = 1.0

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    piece_with_special = piece

    def decode(self) -> None:
        super().decode()
        for index, row in self._logits.items():
            self._logits[index] = row[: self.n_vocab].copy()


class Lines(Small):
    """The same with line ends."""

    pieces: ClassVar[list[bytes]] = [piece.replace(b"c", b"\n") for piece in PIECES]


def small_row(model: Model, tokens: list[int]) -> Any:
    return row_after(tokens, model.n_vocab)[: len(PIECES)].copy()


def computed(model: Any, request: GenerationRequest) -> list[tuple[list[Delta], list[int]]]:
    """Compute a request; return the deltas and tokens of each choice."""
    run = Run(model)
    prepared = run.engine.prepare(1, request)
    for sequence in prepared.sequences:
        sequence.drafter = None
    run.engine.submit(prepared)
    while run.engine.step():
        for sequence in run.engine.scheduler.running:
            if isinstance(model, FixedLogits) and sequence.status is not Status.PARKED:
                held = sequence.tokens[: sequence.computed].tolist()
                assert model.held(sequence.slot) == held
    assert all(isinstance(e, Delta) or type(e).__name__ == "Started" for e in run.events)
    return [(_deltas(run, sequence), _tokens(sequence)) for sequence in prepared.sequences]


def _deltas(run: Run, sequence: Sequence) -> list[Delta]:
    return [e for e in run.events if isinstance(e, Delta) and e.choice == sequence.choice]


def _tokens(sequence: Sequence) -> list[int]:
    tokens: list[int] = sequence.tokens[sequence.n_prompt : len(sequence)].tolist()
    return tokens


def assert_as_defined(
    deltas: list[Delta], tokens: list[int], expected: Answer, ends: frozenset[int]
) -> None:
    assert tokens == [token for token in expected.tokens if token not in ends]
    assert "".join(delta.text for delta in deltas) == expected.text
    assert deltas[-1].finish_reason == expected.finish_reason
    assert deltas[-1].completion_tokens == len(expected.steps)
    counts = [delta.completion_tokens for delta in deltas]
    assert counts == sorted(counts)
    if any(delta.logprobs for delta in deltas):
        sent = [token for delta in deltas for token in delta.logprobs]
        steps = [step for step in expected.steps if step.token not in ends]
        assert [(one.token, one.logprob) for one in sent] == [
            (step.token, pytest.approx(step.logprob)) for step in steps
        ]


texts = st.lists(st.sampled_from("abcé "), min_size=1, max_size=4).map("".join)
samplers = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    top_p=st.sampled_from([0.6, 1.0]),
    top_k=st.sampled_from([0, 0, 2]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    repeat_last_n=st.sampled_from([3, 64]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    dry_penalty_last_n=st.sampled_from([-1, 4]),
    mirostat=st.sampled_from([0, 0, 1, 2]),
    xtc_probability=st.sampled_from([0.0, 0.5]),
    adaptive_target=st.sampled_from([-1.0, 0.4]),
    min_tokens=st.sampled_from([0, 0, 5]),
    logit_bias=st.sampled_from([None, {0: 2.0, END: 1.0}, NARROW]),
    seed=st.integers(0, 1000),
)
requests = st.builds(
    GenerationRequest,
    tokens=st.just(tuple(PROMPT)),
    sampling=samplers,
    max_tokens=st.sampled_from([1, 5, 30]),
    banned_strings=st.lists(texts, min_size=1, max_size=4).map(tuple),
    stop=st.sampled_from([(), (), ("ab",), ("bc", " a"), ("aabca", "cc"), ("a", "bb")]),
    n=st.sampled_from([1, 1, 2]),
    ignore_eos=st.booleans(),
    top_logprobs=st.sampled_from([None, 0]),
)


def definition(model: Model, request: GenerationRequest, choice: int = 0) -> Definition:
    assert request.max_tokens is not None
    return Definition(
        row=lambda tokens: small_row(model, tokens),
        piece=PIECES.__getitem__,
        ends=frozenset({END}),
        prompt=PROMPT,
        params=request.sampling,
        strings=[text.encode() for text in request.banned_strings],
        stops=[text.encode() for text in request.stop],
        limit=request.max_tokens,
        choice=choice,
        ignore_ends=request.ignore_eos,
    )


@settings(max_examples=100, deadline=None)
@given(request=requests)
def test_answers_are_those_of_the_definition(loaded: Model, request: GenerationRequest) -> None:
    assert_defined(loaded, request)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(request=requests)
def test_thousands_of_answers_are_those_of_the_definition(
    loaded: Model, request: GenerationRequest
) -> None:
    """The default run covers 60 of them."""
    assert_defined(loaded, request)


def assert_defined(model: Model, request: GenerationRequest) -> None:
    for choice, (deltas, tokens) in enumerate(computed(Small(model), request)):
        expected = definition(model, request, choice).answer()
        assert_as_defined(deltas, tokens, expected, frozenset({END}))
        text = ""
        for delta in deltas:  # what is sent is never taken back, so no beginning has one either
            text += delta.text
            assert not any(string in text for string in request.banned_strings)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(request=requests)
def test_an_answer_without_the_strings_is_unchanged(
    loaded: Model, request: GenerationRequest
) -> None:
    """Token by token, and in its logprobs."""
    plain = computed(Small(loaded), _with(request, banned_strings=()))
    kept = computed(Small(loaded), request)
    same = 0
    for (before, tokens), (deltas, now) in zip(plain, kept, strict=True):
        text = "".join(delta.text for delta in before)
        if any(string in text for string in request.banned_strings):
            continue
        same += 1
        assert now == tokens
        assert "".join(delta.text for delta in deltas) == text
        for name in ("logprobs",):
            wanted = [one for delta in before for one in getattr(delta, name)]
            assert [one for delta in deltas for one in getattr(delta, name)] == wanted
        last, then = deltas[-1], before[-1]
        assert (last.finish_reason, last.completion_tokens, last.stopped_by) == (
            then.finish_reason, then.completion_tokens, then.stopped_by,
        )  # fmt: skip
    assume(same)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    request=requests.filter(lambda request: request.max_tokens == 30),
    indent=st.integers(0, 2),
    phrase=st.sampled_from(["", "b a", "ab", " \n"]),
)
def test_limits_for_lines_and_filters_act_on_what_is_sent(
    loaded: Model, request: GenerationRequest, indent: int, phrase: str
) -> None:
    """An answer in which nothing is banned ends as without the field; any other one is the
    beginning of the answer without these limits."""
    program = compile_terms([parse_line(phrase)], ()) if phrase else None
    strings = tuple(text.replace("c", "\n") for text in request.banned_strings)
    stop = tuple(text.replace("c", "\n") for text in request.stop)
    free = _with(request, banned_strings=strings, stop=stop, n=1)
    limited = _with(free, n_indent=indent, filter=program)
    found = {}
    for name, one in {
        "free": free, "limited": limited, "plain": _with(limited, banned_strings=()),
        "whole": _with(free, banned_strings=()),
    }.items():  # fmt: skip
        run = Run(Lines(loaded))
        if program is not None:
            run.engine.filters.keep(program)
        run.send(one)
        run.finish()
        found[name] = [event for event in run.events if isinstance(event, Delta)]
    texts = {name: "".join(delta.text for delta in deltas) for name, deltas in found.items()}
    ends = {name: deltas[-1] for name, deltas in found.items()}
    assert not any(string in texts["limited"] for string in strings)
    assert texts["free"].startswith(texts["limited"])
    assert ends["limited"].completion_tokens <= ends["free"].completion_tokens
    if texts["limited"] == texts["free"]:
        assert ends["limited"].stopped_by in (ends["free"].stopped_by, "")
    if not any(string in texts["whole"] for string in strings) and not stop:
        assert texts["limited"] == texts["plain"]
        for name in ("finish_reason", "completion_tokens"):
            assert getattr(ends["limited"], name) == getattr(ends["plain"], name)
        sent = [[one for delta in found[name] for one in delta.logprobs]
                for name in ("limited", "plain")]  # fmt: skip
        assert sent[0] == sent[1]


def _with(request: GenerationRequest, **fields: Any) -> GenerationRequest:
    return msgspec.structs.replace(request, **fields)


@settings(max_examples=40, deadline=None)
@given(request=requests, redraws=st.integers(0, 2), most=st.integers(0, 12))
def test_small_limits_give_what_is_defined_too(
    loaded: Model, request: GenerationRequest, redraws: int, most: int
) -> None:
    """How many tokens are sampled from one row changes nothing; how many are discarded ends the
    answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_REDRAWS", redraws)
        patch.setattr(banned, "MAX_DISCARDED", most)
        patch.setattr(reference_banned, "MAX_DISCARDED", most)
        assert_defined(loaded, request)


def test_the_answer_ends_where_no_token_is_left(loaded: Model) -> None:
    bias = {token: -math.inf for token in range(len(PIECES)) if token not in (0, 1)}
    request = GenerationRequest(
        tokens=tuple(PROMPT), sampling=SamplingParams(logit_bias=bias, seed=1), max_tokens=40,
        banned_strings=("ab", "aa", "b"), top_logprobs=0,
    )  # fmt: skip
    ((deltas, tokens),) = computed(Small(loaded), request)
    assert tokens == []
    assert [(delta.text, delta.finish_reason) for delta in deltas] == [("", "content_filter")]
    assert (deltas[0].completion_tokens, deltas[0].logprobs) == (0, ())


def test_what_the_grammar_forces_is_not_written_if_it_is_banned(loaded: Model) -> None:
    """The text before it has been sent, so there is no way back."""
    request = GenerationRequest(
        tokens=(20, 21), sampling=SamplingParams(seed=1), max_tokens=40,
        banned_strings=("ab", "ba"), grammar=Grammar("regex", "c+!(ab|ba)", "regex"),
    )  # fmt: skip
    ((deltas, _),) = computed(FixedLogits(loaded), request)
    assert deltas[-1].finish_reason == "content_filter"
    text = "".join(delta.text for delta in deltas)
    assert text.strip("c") == "!"


def test_a_token_that_the_grammar_forces_is_not_banned_but_the_next_one(loaded: Model) -> None:
    request = GenerationRequest(
        tokens=(20, 21), sampling=SamplingParams(seed=1), max_tokens=40,
        banned_strings=(": no",), grammar=Grammar("regex", "answer: (no|yes)", "regex"),
    )  # fmt: skip
    for seed in range(5):
        sampling = SamplingParams(seed=seed)
        ((deltas, _),) = computed(FixedLogits(loaded), _with(request, sampling=sampling))
        assert "".join(delta.text for delta in deltas) == "answer: yes"
        assert deltas[-1].finish_reason == "stop"


def test_what_is_held_back_is_sent_when_the_answer_is_ended(loaded: Model) -> None:
    """The server ends a choice, for example because of a stop string in its content."""
    request = GenerationRequest(
        tokens=tuple(PROMPT), sampling=SamplingParams(temperature=1.0, seed=4), max_tokens=40,
        banned_strings=("abcabcabcé", "cabcabcabé", "bcabcabcaé"), top_logprobs=0, ignore_eos=True,
    )  # fmt: skip
    ((_, tokens),) = computed(Small(loaded), request)
    ended = set()
    for steps in range(1, 30):
        run = Run(Small(loaded))
        prepared = run.engine.prepare(1, request)
        prepared.sequences[0].drafter = None
        run.engine.submit(prepared)
        for _ in range(steps):
            run.engine.step()
        before = len(run.events)
        run.engine.end(1, 0)
        run.finish()
        deltas = _deltas(run, prepared.sequences[0])
        count = deltas[-1].completion_tokens
        ended.add(len(run.events) - before)
        numbers = [delta.completion_tokens for delta in deltas if delta.logprobs]
        assert numbers == [*range(1, count + 1)]  # each token has a delta
        assert count == steps - 1 or count == steps
        assert [one.token for delta in deltas for one in delta.logprobs] == tokens[:count]
        text = b"".join(PIECES[token] for token in tokens[:count]).decode("utf-8", "replace")
        assert "".join(delta.text for delta in deltas) == text
        assert deltas[-1].finish_reason == "stop"
    assert max(ended) > 1


def test_the_content_filter_reads_what_is_sent(loaded: Model) -> None:
    plain = GenerationRequest(
        tokens=tuple(PROMPT), sampling=SamplingParams(temperature=1.0, seed=4), max_tokens=40,
        banned_strings=("ab", "c b"), top_logprobs=0, ignore_eos=True,
    )  # fmt: skip
    ((deltas, tokens),) = computed(Small(loaded), plain)
    text = "".join(delta.text for delta in deltas)
    phrase = text[len(text) // 2 :][:3]
    program = compile_terms([parse_line(phrase)], ())
    run = Run(Small(loaded))
    run.engine.filters.keep(program)
    run.send(_with(plain, filter=program))
    run.finish()
    last = run.last(1)
    assert isinstance(last, Delta)
    assert last.finish_reason == "content_filter"
    assert run.text(1) == text[: text.index(phrase)]
    sent = [one.token for e in run.events if isinstance(e, Delta) for one in e.logprobs]
    assert sent == tokens[: len(sent)]
    assert len(b"".join(PIECES[token] for token in sent)) <= len(run.text(1).encode())


# --- grammars and reasoning budgets -----------------------------------------------------------

grammars = st.sampled_from([
    None,
    Grammar("regex", "([a-c]+ ){1,8}(yes|no)", "regex"),
    Grammar("regex", "(ab|ba|cab)(x|yz)*(a|bc)", "regex"),
    Grammar("choice", '["abcab", "abcba", "abbcc", "cc"]', "choice"),
    Grammar("gbnf", 'root ::= "{" ("ab" | "c")* "}" "!!!" [x-z]+', "grammar"),
])  # fmt: skip
budgets = st.one_of(
    st.none(),
    st.builds(
        ReasoningBudget,
        tokens=st.integers(0, 6),
        opened=st.booleans(),
        first=st.just("[a-z]"),
        ends=st.sampled_from([("th",), ("zz", "e ")]),
        close=st.sampled_from(["over", "e th"]),
        later=st.sampled_from(["", "[mn]"]),
        insist=st.sampled_from(["", "so"]),
    ),
)
within = st.builds(
    GenerationRequest,
    tokens=st.lists(st.integers(10, 60), min_size=1, max_size=6).map(tuple),
    sampling=samplers.map(lambda params: dataclasses.replace(params, logit_bias=None)),
    max_tokens=st.sampled_from([5, 14]),
    banned_strings=st.lists(
        st.text("abceotyz! ", min_size=1, max_size=3), min_size=1, max_size=5
    ).map(tuple),
    stop=st.sampled_from([(), (), ("ab",), ("c", " a")]),
    top_logprobs=st.sampled_from([None, 0]),
    grammar=grammars,
    reasoning_budget=budgets,
).filter(lambda request: request.grammar is None or request.reasoning_budget is None)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(request=within)
def test_grammars_and_reasoning_are_rewound_too(loaded: Model, request: GenerationRequest) -> None:
    assert_defined_within(loaded, request)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(request=within)
def test_thousands_of_grammars_and_reasoning(loaded: Model, request: GenerationRequest) -> None:
    """The default run covers 40 of them."""
    assert_defined_within(loaded, request)


def assert_defined_within(model: Model, request: GenerationRequest) -> None:
    budget = request.reasoning_budget
    forced = () if budget is None else (budget.close, budget.insist)
    assume(not any(string in text for string in request.banned_strings for text in forced))
    request = _with(request, sampling=dataclasses.replace(request.sampling, min_tokens=0))
    compiled = Grammars(model, False)
    assert request.tokens is not None
    assert request.max_tokens is not None

    def allowed(tokens: list[int]) -> set[int] | None:
        bits = None
        if request.grammar is not None:
            matcher = compiled.matchers(request.grammar, 1)[0]
            for token in tokens:
                matcher.advance(token)
            bits = matcher.mask
        if budget is not None:
            reasoning = ReasoningLimit(budget, *closings(model, budget), model.n_vocab)
            for token in tokens:
                reasoning.follow(model.piece(token))
            bits = bits if reasoning.mask is None else reasoning.mask
        if bits is None:
            return None
        places = np.unpackbits(bits.view(np.uint8), bitorder="little")
        return set(np.flatnonzero(places[: model.n_vocab]).tolist())

    expected = Definition(
        row=lambda tokens: row_after(tokens, model.n_vocab),
        piece=model.piece,
        ends=frozenset(model.eog_ids),
        prompt=list(request.tokens),
        params=request.sampling,
        strings=[text.encode() for text in request.banned_strings],
        stops=[text.encode() for text in request.stop],
        limit=request.max_tokens,
        allowed=allowed,
    )
    ((deltas, tokens),) = computed(FixedLogits(model), request)
    assert_as_defined(deltas, tokens, expected.answer(), frozenset(model.eog_ids))


def closings(model: Model, budget: ReasoningBudget) -> list[list[int]]:
    return [
        model.tokenize_bare((PromptPart(text, True),)).tolist()
        for text in (budget.close, budget.insist)
    ]


def test_text_that_ends_reasoning_cannot_be_banned(loaded: Model) -> None:
    budget = ReasoningBudget(
        tokens=3, opened=True, first="", ends=("</think>",), close="\n</think>",
        param="reasoning_budget_tokens",
    )  # fmt: skip
    request = GenerationRequest(
        tokens=(20, 21), banned_strings=("so", "think"), reasoning_budget=budget
    )
    with pytest.raises(InvalidParameter, match="reasoning_budget_tokens needs it") as caught:
        Run(loaded).engine.prepare(1, request)
    assert caught.value.param == "banned_strings"


# --- kinds of memory --------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=["llama", "mamba", pytest.param("jamba", marks=pytest.mark.slow), "gemma3"],
)
def memory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny_models.make(request.param, tmp_path_factory.mktemp("models"))
    model = Model(Load(str(path), ctx_size=1024, parallel=2, batch_size=128, threads=1))
    yield model
    model.close()


@pytest.mark.slow
def test_every_kind_of_memory_goes_back(memory: Model) -> None:
    """Recurrent models go back to a checkpoint, or compute the sequence again."""
    prompt = [20 + place % 40 for place in range(130)]
    answer: list[int] = []
    for _ in range(24):  # without anything that is kept of an earlier token
        answer += greedy(memory, prompt + answer)
    pieces = [memory.piece(token) for token in answer]
    string = b"".join(pieces[9:14]).decode("utf-8", "ignore")
    whole = b"".join(pieces).decode("utf-8", "replace")
    begin = whole.index(string)
    costs = []
    for checkpoints in (True, False):
        model = Counting(memory)
        if not checkpoints:
            model.save_checkpoint = lambda slot: None
        run = Run(model)
        request = GenerationRequest(
            tokens=tuple(prompt), sampling=GREEDY, max_tokens=24, ignore_eos=True,
            cache_prompt=False, banned_strings=(string,),
        )  # fmt: skip
        prepared = run.engine.prepare(1, request)
        prepared.sequences[0].reuse = True  # it has checkpoints, but begins with an empty slot
        run.engine.submit(prepared)
        run.finish()
        text = run.text(1)
        assert string not in text
        assert text[:begin].startswith(whole[: max(0, begin - 8)])
        assert len(text) > begin
        costs.append(sum(model.decoded))
        for slot in range(memory.n_parallel):
            memory.forget(slot)
    if memory.can_cut_tail:
        assert max(costs) < len(prompt) + 40
    else:
        assert len(prompt) + 24 < costs[0] < costs[1]


def greedy(model: Model, tokens: list[int]) -> list[int]:
    run = Run(model)
    request = GenerationRequest(
        tokens=tuple(tokens), sampling=GREEDY, max_tokens=1, ignore_eos=True, cache_prompt=False
    )
    prepared = run.engine.prepare(1, request)
    run.engine.submit(prepared)
    run.finish()
    return _tokens(prepared.sequences[0])
