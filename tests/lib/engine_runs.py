"""An engine in this process whose events are collected, and models that fail or count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from offgrid.chat.dialect import Dialect, Prompt
from offgrid.engine.protocol.events import Delta, EngineEvent
from offgrid.engine.protocol.requests import GenerationRequest, Grammar, PromptPart
from offgrid.engine.worker.drafts.pace import DraftPace, Wish
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.llama.errors import DecodeError
from offgrid.engine.worker.llama.model import Model
from offgrid.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0.0)


class Run:
    """An engine whose events are collected."""

    def __init__(self, model: Any, **collaborators: Any) -> None:
        self.events: list[EngineEvent] = []
        self.engine = Engine(model, self.events.extend, **collaborators)
        self._id = 0

    def submit(self, text: str, **fields: Any) -> int:
        """Give the engine a text to continue; return the request's id."""
        request = GenerationRequest(
            parts=(PromptPart(text, True),), **{"sampling": GREEDY, "max_tokens": 20, **fields}
        )
        return self.send(request)

    def send(self, request: GenerationRequest) -> int:
        """Give the engine a request; return its id."""
        self._id += 1
        self.engine.submit(self.engine.prepare(self._id, request))
        return self._id

    def finish(self) -> None:
        while self.engine.step():
            pass

    def text(self, id: int, choice: int = 0) -> str:
        return "".join(
            event.text
            for event in self.events
            if isinstance(event, Delta) and (event.id, event.choice) == (id, choice)
        )

    def last(self, id: int) -> EngineEvent:
        return [event for event in self.events if event.id == id][-1]


def greedy_text(model: Model, dialect: Dialect, prompt: Prompt, grammar: Grammar | None) -> str:
    """The text of the likeliest answer to a chat."""
    run = Run(model)
    id = run.send(
        GenerationRequest(
            parts=prompt.parts, sampling=GREEDY, max_tokens=400, visible=dialect.visible,
            grammar=grammar,
        )
    )  # fmt: skip
    run.finish()
    return run.text(id)


class Eager(DraftPace):
    """Has every proposal decoded that fits, whatever the steps take."""

    def choose(self, streams: int, wishes: list[Wish]) -> list[int]:
        return [wish.most for wish in wishes]

    def drafted(self, *step: Any) -> float:
        return 0.0


class Failing:
    """A model whose decode fails when told to."""

    def __init__(self, model: Model, codes: Callable[[], int | None]) -> None:
        self._model = model
        self._codes = codes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode(self) -> None:
        code = self._codes()
        if code is not None:
            raise DecodeError(code)
        self._model.decode()


class Counting:
    """A model that counts the tokens of every decode."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.decoded: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode(self) -> None:
        self.decoded.append(len(self._model.batch))
        self._model.decode()
