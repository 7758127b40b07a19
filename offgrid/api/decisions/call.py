"""A decisions request that its model has accepted, and its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from offgrid.api.decisions.prompt import Frame, make_frame
from offgrid.api.decisions.request import (
    Choice,
    DecisionsRequest,
    Predicate,
    Question,
    Talk,
    for_chat,
    has_image,
)
from offgrid.api.decisions.wording import Wording, wordings
from offgrid.api.generation import GenerationGroup, Total
from offgrid.api.screening import check_prompt
from offgrid.api.shapes import Json
from offgrid.engine.client.client import EngineClient
from offgrid.engine.protocol.requests import Branch, GenerationRequest
from offgrid.errors import EngineFault, InvalidParameter


class Asked(NamedTuple):
    """A question that was put to the model.

    Attributes:
        prompt: index of its prompt among those of the request.
        branches: the index of the branch of each wording.
        wordings: the wordings.
    """

    prompt: int
    branches: tuple[int, ...]
    wordings: tuple[Wording, ...]


class Probabilities:
    """Computes the probabilities of the options of questions, about one input or several.

    Args:
        engine: the model.

    Attributes:
        group: the generations; the caller that gives up the answer cancels them.
    """

    group: GenerationGroup

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._requests: list[GenerationRequest] = []
        self._asked: list[Asked] = []

    def ask(
        self,
        frame: Frame,
        questions: Iterable[tuple[Question, str]],
        image_params: tuple[str, ...] = (),
        *,
        shown: bool = False,
    ) -> None:
        """Add questions, each with its field, that are put after the same input."""
        branches: list[Branch] = []
        for question, param in questions:
            words = wordings(question, shown=shown)
            places = range(len(branches), len(branches) + len(words))
            branches += [frame.branch(wording, param) for wording in words]
            self._asked.append(Asked(len(self._requests), tuple(places), words))
        self._requests.append(frame.generation(self._engine, branches, image_params))

    def start(self, alive: Callable[[], bool]) -> None:
        """Submit all questions.

        Raises:
            RequestError: the model does not accept the request; nothing is left running.
        """
        self.group = GenerationGroup(self._engine, self._requests, alive)

    def whole(self) -> tuple[list[list[float]], Json]:
        """Return, when all are known, the probabilities of the options of each question, in the
        order in which they were added, and the usage."""
        found: dict[tuple[int, int], tuple[float, ...]] = {}
        total = Total()
        for prompt, delta in self.group.by_prompt():
            total.add(prompt, delta)
            for branch in delta.branches:
                found[prompt, branch.branch] = branch.logprobs
        results = [
            _averaged(
                [
                    (wording, found[asked.prompt, branch])
                    for branch, wording in zip(asked.branches, asked.wordings, strict=True)
                ]
            )
            for asked in self._asked
        ]
        usage = total.usage(self.group.prompt_tokens)
        details = usage["prompt_tokens_details"]
        assert isinstance(details, dict)
        return results, {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": details["cached_tokens"], "cache_write_tokens": 0
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }  # fmt: skip


def _averaged(found: Sequence[tuple[Wording, tuple[float, ...]]]) -> list[float]:
    """Return the mean of the probabilities that an option has in the wordings of its question."""
    sums = [0.0] * len(found[0][1])
    for wording, logprobs in found:
        for place, probability in zip(wording.places, normalised(logprobs), strict=True):
            sums[place] += probability
    total = math.fsum(sums)
    return [each / total for each in sums]


def normalised(logprobs: Sequence[float]) -> list[float]:
    """Return probabilities that add up to 1, given their logarithms up to a common summand.

    Raises:
        EngineFault: all are impossible.
    """
    top = max(logprobs)
    if top == -math.inf:
        raise EngineFault("The model finds every choice impossible, so none can be preferred.")
    weights = [math.exp(logprob - top) for logprob in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def confidence(probabilities: Sequence[float]) -> float:
    """Return how far the most likely option is above an even distribution: 0 if all are equally
    likely, 1 if one is certain."""
    even = 1.0 / len(probabilities)
    return min(1.0, max(0.0, (max(probabilities) - even) / (1.0 - even)))


class DecisionsCall:
    """A request that is being answered.

    Args:
        engine: the model.
        request: a checked request.
        talk: its input.
        alive: whether the client still waits for the answer.

    Raises:
        RequestError: the model does not accept the request; nothing is left running.
    """

    def __init__(
        self,
        engine: EngineClient,
        request: DecisionsRequest,
        talk: Talk,
        alive: Callable[[], bool],
    ) -> None:
        asked = msgspec.to_builtins(request.questions)
        check_prompt([(request.input, "input"), (asked, "questions")])
        self._model = engine.name
        self._questions = request.questions
        self._places: list[int] = []
        """The question of each list of probabilities."""
        self._probabilities = Probabilities(engine)
        named = [*enumerate(request.questions)]
        plain = [(index, question) for index, question in named if not has_image(question)]
        try:
            if plain:
                frame = make_frame(engine, talk.messages, request.for_chat)
                params = tuple(map(talk.param, frame.image_params))
                self._add(frame, plain, params)
        except InvalidParameter as ex:
            raise of_input(ex, talk.param(ex.param)) from None
        for index, question in named:
            if has_image(question):
                self._add_with_images(engine, request, talk, index, question)
        self._probabilities.start(alive)

    def _add(
        self,
        frame: Frame,
        questions: Sequence[tuple[int, Question]],
        image_params: tuple[str, ...],
        *,
        shown: bool = False,
    ) -> None:
        self._places += [index for index, _ in questions]
        asked = [(question, f"questions[{index}]") for index, question in questions]
        self._probabilities.ask(frame, asked, image_params, shown=shown)

    def _add_with_images(
        self,
        engine: EngineClient,
        request: DecisionsRequest,
        talk: Talk,
        index: int,
        question: Question,
    ) -> None:
        """Add a question whose images stand in the prompt, after the input."""
        param = f"questions[{index}].instructions"
        last = talk.messages[-1]
        own = for_chat(question.instructions)
        messages = [*talk.messages, {"role": "user", "content": own}]
        if last["role"] == "user":
            before = last["content"]
            before = [{"type": "text", "text": before}] if isinstance(before, str) else before
            messages = [*talk.messages[:-1], {"role": "user", "content": [*before, *own]}]
        try:
            frame = make_frame(engine, messages, request.for_chat)
        except InvalidParameter as ex:
            raise InvalidParameter(f"{param}: {ex.message}", param, code=ex.code) from None
        self._add(frame, [(index, question)], (param,) * len(frame.images), shown=True)

    @property
    def group(self) -> GenerationGroup:
        """The generations; the caller that gives up the answer cancels them."""
        return self._probabilities.group

    def whole(self) -> Json:
        """Return the answers when they are complete."""
        results, usage = self._probabilities.whole()
        answers: list[Json] = [{}] * len(results)
        for place, probabilities in zip(self._places, results, strict=True):
            answers[place] = _answer(self._questions[place], probabilities)
        return {"answers": answers, "model": self._model, "usage": usage}


def of_input(error: InvalidParameter, param: str) -> InvalidParameter:
    """Return an error about the messages of the chat request as one about the input's field."""
    old = error.param or ""
    if not old.startswith("messages"):
        return error
    return type(error)(error.message.replace(old, param), param, code=error.code)


def _answer(question: Question, probabilities: Sequence[float]) -> Json:
    if isinstance(question, Predicate):
        return {"type": "predicate", "name": question.name, "probability": probabilities[0]}
    head: Json = {"type": "choice" if isinstance(question, Choice) else "score"}
    head |= {"name": question.name, "confidence": confidence(probabilities)}
    if isinstance(question, Choice):
        values = [option.value for option in question.choices]
        # The order in the request does not decide between equals.
        best = max(range(len(values)), key=lambda place: (probabilities[place], str(values[place])))
        return {
            **head,
            "choice": values[best],
            "probabilities": [
                {"value": value, "probability": probability}
                for value, probability in zip(values, probabilities, strict=True)
            ],
        }
    return {
        **head,
        "score": math.fsum(place * probability for place, probability in enumerate(probabilities)),
        "probabilities": [
            {"value": place, "label": level.label, "probability": probability}
            for place, (level, probability) in enumerate(
                zip(question.levels, probabilities, strict=True)
            )
        ],
    }
