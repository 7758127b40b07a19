"""Answers with drafts equal answers without, on fixed logits and on llama.cpp's."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import tiny_models
from engine_runs import Eager, Run
from fixed_logits import FixedLogits
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, Failed
from offgrid.engine.protocol.requests import GenerationRequest, Grammar, ReasoningBudget
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.forced import Forced
from offgrid.engine.worker.drafts.lookup import Lookup
from offgrid.engine.worker.drafts.source import Draft, Drafted
from offgrid.engine.worker.drafts.tokens import remembering
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Masks, Matcher
from offgrid.engine.worker.sequence import Sequence as EngineSequence
from offgrid.engine.worker.sequence import Status
from offgrid.grammar.checked import CheckedSchema
from offgrid.sampling import SamplingParams

SLOTS, CONTEXT = 3, 256


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tiny_models.make("llama", tmp_path_factory.mktemp("models"))
    model = Model(Load(str(path), ctx_size=CONTEXT, parallel=SLOTS, batch_size=24, threads=1))
    yield model
    model.close()


class Guesser:
    """Proposes the tokens of a known answer, some of them changed.

    Args:
        answer: the whole of the answer.
        rng: decides how many tokens are proposed, and which are wrong.
        n_vocab: size of the vocabulary.
    """

    costly = False

    def __init__(self, answer: list[int], rng: random.Random, n_vocab: int) -> None:
        self._answer = answer
        self._rng = rng
        self._n_vocab = n_vocab

    def propose(self, sequence: Drafted, most: int) -> Draft:
        done = len(sequence) - sequence.n_prompt
        tokens = self._answer[done : done + self._rng.randint(0, most)]
        tokens += [self._rng.randrange(self._n_vocab)] * self._rng.choice([0, 0, 1, 3])
        for place in range(len(tokens)):
            if self._rng.random() < 0.1:
                tokens[place] = self._rng.randrange(self._n_vocab)
        return Draft(tokens[:most], self._rng.choice(["one", "other"]))

    def rewound(self) -> None:
        """Do nothing: the answer is known."""

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        assert 0 <= accepted <= proposed


@dataclass
class Case:
    """Requests, and what happens while they run."""

    requests: list[GenerationRequest]
    seed: int
    room: int | None
    """Cells of all slots together; if they do not suffice, a sequence is preempted. None stands for
    llama.cpp in place of fixed logits."""
    late: bool = False
    """Whether the masks of grammars are late at random."""


class LateMasks(Masks):
    """Computes masks some time after they are needed.

    Args:
        rng: decides how long.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self._waiting: list[tuple[Matcher, int]] = []

    def start(self, drawn: list[tuple[Matcher, int]]) -> None:
        for matcher, _ in drawn:
            matcher.ready = False
        self._waiting += drawn

    def wait(self, matchers: Iterable[Matcher], seconds: float) -> None:
        waiting, self._waiting = self._waiting, []
        for matcher, token in waiting:
            if self._rng.random() < 0.5:
                self._waiting.append((matcher, token))
            else:
                matcher.advance(token)
                matcher.ready = True


@dataclass
class Result:
    """What came of a case: the deltas of each choice, the errors, and the tokens of each answer."""

    deltas: dict[tuple[int, int], list[Any]]
    errors: dict[int, str]
    tokens: dict[tuple[int, int], list[int]]
    accepted: int
    decodes: int


def compute(
    model: Any, case: Case, answers: dict[tuple[int, int], list[int]] | None = None,
    *, orders: Sequence[tuple[int, int, bool]] = (),
) -> Result:  # fmt: skip
    """Run a case; with drafts, if the answers are given for the sources that guess.

    Each of the ``orders`` has a step, the number of a request, and whether that is cancelled before
    the step, or else its first choice is ended.
    """
    rng = random.Random(case.seed)
    fixed = model if case.room is None else FixedLogits(model, case.room)
    run = Run(fixed, masks=LateMasks(random.Random(case.seed)) if case.late else None)
    run.engine._planner.pace = Eager(1000)
    sequences: list[EngineSequence] = []
    for id, request in enumerate(case.requests, 1):
        prepared = run.engine.prepare(id, request)
        for sequence in prepared.sequences:
            sequences.append(sequence)
            known = (answers or {}).get((id, sequence.choice), [])
            guesser = Guesser(known, rng, model.n_vocab)
            forced = Forced(remembering(model), model.piece)
            drafter = Drafter([forced, guesser, Lookup()])
            sequence.drafter = None if answers is None else drafter
        run.engine.submit(prepared)
    step = 0
    while True:
        for when, id, cancels in orders:
            if when == step and cancels:
                run.engine.cancel(id)
            elif when == step:
                run.engine.end(id, 0)
        step += 1
        if not run.engine.step():
            break
        if isinstance(fixed, FixedLogits):
            assert_slots_hold_what_was_computed(run, fixed)
    return Result(
        {(s.request_id, s.choice): deltas_of(run, s) for s in sequences},
        {event.id: event.message for event in run.events if isinstance(event, Failed)},
        {(s.request_id, s.choice): s.tokens[s.n_prompt : len(s)].tolist() for s in sequences},
        sum(event.draft_accepted for event in run.events if isinstance(event, Delta)),
        len(fixed.rows) if isinstance(fixed, FixedLogits) else 0,
    )


def deltas_of(run: Run, sequence: EngineSequence) -> list[Any]:
    """Return the logprobs of the prompt, and the deltas of a choice without the counts of drafts.

    How a prompt is divided into chunks, and what of it is cached, depends on the time of steps, as
    do the times themselves.
    """
    key = (sequence.request_id, sequence.choice)
    deltas = [e for e in run.events if isinstance(e, Delta) and (e.id, e.choice) == key]
    plain = {"drafted": 0, "draft_accepted": 0, "cached_tokens": 0, "times": None}
    return [
        [token for delta in deltas for token in delta.prompt],
        *(msgspec.structs.replace(delta, **plain) for delta in deltas if not delta.prompt),
    ]


def assert_slots_hold_what_was_computed(run: Run, fixed: FixedLogits) -> None:
    for sequence in run.engine.scheduler.running:
        if sequence.status is Status.PARKED:  # its slot still holds what was there before
            continue
        assert fixed.held(sequence.slot) == sequence.tokens[: sequence.computed].tolist()


samplers = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.5]),
    top_p=st.sampled_from([0.5, 0.95, 1.0]),
    top_k=st.sampled_from([0, 5]),
    min_p=st.sampled_from([0.0, 0.1]),
    frequency_penalty=st.sampled_from([0.0, 0.7, -0.5]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    mirostat=st.sampled_from([0, 0, 1, 2]),
    xtc_probability=st.sampled_from([0.0, 0.5]),
    adaptive_target=st.sampled_from([-1.0, 0.4]),
    min_tokens=st.sampled_from([0, 5]),
    seed=st.integers(0, 1000),
)
grammars = st.sampled_from([
    None,
    None,
    Grammar("regex", "([a-e]+ ){1,8}(yes|no)", "regex"),
    Grammar("choice", '["a long text that is known", "a long text that is not"]', "choice"),
    Grammar("gbnf", 'root ::= "{" ("ab" | "c")* "}" "!!!" [x-z]+', "grammar"),
    Grammar.of_schema(CheckedSchema(
        '{"type": "object", "properties": {"name": {"type": "string"}, "years": {"type": "array",'
        ' "items": {"type": "integer"}}}, "required": ["name", "years"]}', "response_format",
    )),
])  # fmt: skip
budgets = st.builds(
    ReasoningBudget,
    tokens=st.integers(0, 12),
    opened=st.booleans(),
    first=st.just("[a-z]"),
    ends=st.sampled_from([("th",), ("zz", "e ")]),
    close=st.sampled_from(["over", "e th"]),
    later=st.sampled_from(["", "[mn]"]),
    insist=st.sampled_from(["", "so"]),
)


def _bans_an_end(request: GenerationRequest) -> bool:
    """Whether a request is refused because it bans the text that ends reasoning."""
    budget = request.reasoning_budget
    texts = () if budget is None else (budget.close, budget.insist)
    return any(string in text for string in request.banned_strings for text in texts)


requests = st.builds(
    GenerationRequest,
    tokens=st.lists(st.integers(10, 60), min_size=1, max_size=40).map(tuple),
    sampling=samplers,
    max_tokens=st.sampled_from([0, 1, 2, 20, 40, None]),
    stop=st.sampled_from([(), (), ("e",), ("th", " a"), ("\n", "zz")]),
    banned_strings=st.sampled_from([(), (), ("a",), ("e", "no"), ("s ", " t", "th", "\n")]),
    n_indent=st.sampled_from([0, 0, 1]),
    n=st.sampled_from([1, 1, 2]),
    ignore_eos=st.booleans(),
    cache_prompt=st.booleans(),
    top_logprobs=st.sampled_from([None, 0, 3]),
    post_sampling=st.booleans(),
    prompt_logprobs=st.sampled_from([None, None, 1]),
    grammar=grammars,
    reasoning_budget=st.one_of(st.none(), budgets),
).filter(lambda request: not _bans_an_end(request))
cases = st.builds(
    Case,
    requests=st.lists(requests, min_size=1, max_size=4),
    seed=st.integers(0, 1 << 30),
    room=st.sampled_from([CONTEXT, CONTEXT + 50, SLOTS * CONTEXT]),
    late=st.booleans(),
)


@settings(max_examples=30, deadline=None)
@given(case=cases)
def test_answers_with_drafts_equal_answers_without(loaded: Model, case: Case) -> None:
    assert_equal_answers(loaded, case)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(case=cases)
def test_thousands_of_answers_with_drafts(loaded: Model, case: Case) -> None:
    """The default run covers 30 of them."""
    assert_equal_answers(loaded, case)


def assert_equal_answers(model: Model, case: Case) -> None:
    plain = compute(model, case)
    drafted = compute(model, case, plain.tokens)
    assert drafted.errors.keys() == plain.errors.keys()
    for id, message in plain.errors.items():
        # Of several choices, the first one that fails ends the request.
        assert drafted.errors[id] == message or case.requests[id - 1].n > 1
    for key, deltas in plain.deltas.items():
        if key[0] not in plain.errors:
            assert drafted.deltas[key] == deltas


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    case=cases,
    orders=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 4), st.booleans()), min_size=1, max_size=4
    ),
)
def test_what_is_cancelled_or_ended_is_the_beginning_of_its_answer(
    loaded: Model, case: Case, orders: list[tuple[int, int, bool]]
) -> None:
    plain = compute(loaded, case)
    drafted = compute(loaded, case, plain.tokens, orders=orders)
    for key, (prompt, *deltas) in plain.deltas.items():
        scores, *came = drafted.deltas[key]
        if key[0] in plain.errors:
            continue
        if key[0] not in {id for _, id, _ in orders}:
            assert [scores, *came] == [prompt, *deltas]
            continue
        if came and came[-1].finish_reason is not None and came[-1] != deltas[len(came) - 1]:
            last = came.pop()  # the choice was ended
            rest = "".join(delta.text for delta in deltas[len(came) :])
            assert last.finish_reason == "stop"
            request = case.requests[key[0] - 1]
            if request.banned_strings:  # whole tokens were held back, and perhaps not kept later
                assert not any(string in last.text for string in request.banned_strings)
                assert came == deltas[: len(came)]
                continue
            assert last.logprobs == ()
            assert last.text == "" or rest.startswith(last.text) or case_stops(case, key)
        assert came == deltas[: len(came)]
        assert scores == prompt[: len(scores)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_llama_cpp_gives_the_same_answers(loaded: Model, temperature: float) -> None:
    """It rounds differently with other numbers of rows; no two likely tokens are that close."""
    prompts = [tuple(range(first, first + 20)) for first in (20, 60, 100, 140)]
    case = Case(
        [
            GenerationRequest(
                tokens=prompt, sampling=SamplingParams(temperature=temperature, seed=3),
                max_tokens=60, ignore_eos=True,
            )
            for prompt in prompts
        ],
        1,
        None,
    )  # fmt: skip
    plain = compute(loaded, case)
    drafted = compute(loaded, case, plain.tokens)
    assert drafted.tokens == plain.tokens
    assert drafted.accepted > 60


def case_stops(case: Case, key: tuple[int, int]) -> bool:
    """Whether a request has stop strings, so that the end may return text that was held back."""
    return bool(case.requests[key[0] - 1].stop)


def test_the_lookup_drafts_what_repeats(loaded: Model) -> None:
    """Each accepted token saves a decode; nothing else changes."""
    prompt = tuple([*range(20, 50)] * 3)
    bias = {token: 12.0 for token in range(20, 23)}
    sampling = SamplingParams(temperature=0.8, seed=1, logit_bias=bias)
    request = GenerationRequest(tokens=prompt, sampling=sampling, max_tokens=120, ignore_eos=True)
    case = Case([request], 1, SLOTS * CONTEXT)
    plain = compute(loaded, case)
    drafted = compute(loaded, case, {})
    assert drafted.deltas == plain.deltas
    assert drafted.accepted > 20
    assert drafted.decodes == plain.decodes - drafted.accepted


class Known:
    """Proposes the rest of an answer."""

    costly = False

    def __init__(self, answer: list[int]) -> None:
        self._answer = answer

    def propose(self, sequence: Drafted, most: int) -> Draft:
        done = len(sequence) - sequence.n_prompt
        return Draft(self._answer[done:][:most], "known")

    def rewound(self) -> None:
        """Do nothing: the answer is known."""

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Learn nothing."""


@pytest.mark.parametrize("wrong", [False, True])
def test_each_delta_counts_the_draft_of_its_own_step(loaded: Model, wrong: bool) -> None:
    """The answer ends in the draft, and a client that wants times gets the counts so far."""
    request = GenerationRequest(
        tokens=(30, 31, 32), sampling=SamplingParams(temperature=0.0), max_tokens=12,
        ignore_eos=True, timings=True,
    )  # fmt: skip
    answer = compute(loaded, Case([request], 1, SLOTS * CONTEXT)).tokens[1, 0]
    run = Run(FixedLogits(loaded))
    run.engine._planner.pace = Eager(1000)
    prepared = run.engine.prepare(1, request)
    known = [*answer[:6], (answer[6] + 1) % loaded.n_vocab, *answer[7:]] if wrong else answer
    prepared.sequences[0].drafter = Drafter([Known(known)])
    run.engine.submit(prepared)
    run.finish()
    deltas = [event for event in run.events if isinstance(event, Delta)]
    accepted = [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9] if wrong else [*range(11), 10]
    drafted = [0, *[10] * 6, *[14] * 5] if wrong else [0, *[10] * 11]
    assert [delta.draft_accepted for delta in deltas] == accepted
    assert [delta.drafted for delta in deltas] == drafted
