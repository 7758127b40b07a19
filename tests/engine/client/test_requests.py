"""The requests of a model and the moments at which two threads handle the same one, without any
worker."""

from __future__ import annotations

from typing import cast

import pytest

from offgrid.engine.client.blame import Blame
from offgrid.engine.client.pending import Generation, State
from offgrid.engine.client.places import Places
from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.client.readiness import Readiness
from offgrid.engine.client.requests import Requests
from offgrid.engine.client.turnover import Turnover
from offgrid.engine.protocol.commands import Command, Submit
from offgrid.engine.protocol.events import Started, Tokenising
from offgrid.engine.protocol.requests import GenerationRequest


class Process:
    """A worker that only keeps its commands."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def send(self, command: Command, *, wait: bool = True) -> None:
        self.commands.append(command)

    send_soon = send

    @property
    def submitted(self) -> list[int]:
        return [command.id for command in self.commands if isinstance(command, Submit)]


class Leaving(Generation):
    """Its client leaves as soon as it has a slot."""

    def advance(self, state: State) -> None:
        super().advance(state)
        if state is State.STARTED:
            self.cancel()


class Model:
    """The requests of one model with a worker that is ready."""

    def __init__(self) -> None:
        self.now = 100.0
        self.process = Process()
        readiness = Readiness(load_timeout=60, most_waiting=8)
        readiness.process = cast(WorkerProcess, self.process)
        readiness.ready = True
        readiness.info = object()  # type: ignore[assignment]
        self.turnover = Turnover(1, lambda: self.now)
        places = Places(1, 8, readiness, self.turnover)
        self.requests = Requests(readiness, places, Blame(lambda: self.now), self.turnover)

    def register(self, key: str = "key", kind: type[Generation] = Generation) -> Generation:
        hooks, request = self.requests.hooks, GenerationRequest()
        return self.requests.register(
            lambda id: kind(key, Submit(id, request), 1, hooks, lambda: None), 1, lambda: True, ""
        )

    def crash(self, key: str) -> None:
        """Let the worker die of a prompt, or perhaps of another one; another worker is ready."""
        for one in (self.register(key), self.register("another")):
            self.requests.hand_over(one)
            self.requests.take([Tokenising(one.id, one.id)])
        self.requests.died("")
        for one in self.requests.pending():
            one.cancel()
        self.process.commands.clear()


@pytest.fixture
def model() -> Model:
    return Model()


def test_a_suspect_that_was_cancelled_is_not_sent(model: Model) -> None:
    """A thread may send it at the moment in which its client leaves. Otherwise the other suspects
    would wait until it has ended, which it never would."""
    model.crash("key")
    left, other = model.register(), model.register()
    left.cancel()
    model.requests.hand_over(left)
    model.requests.hand_over(other)
    assert model.process.submitted == [other.id]


def test_a_request_that_was_cancelled_is_blamed_for_nothing(model: Model) -> None:
    left = model.register()
    left.cancel()
    model.requests.hand_over(left)
    model.requests.take([Tokenising(left.id, 0)])
    assert model.requests.computing() == set()


def test_a_request_that_ends_while_its_start_is_noted_does_not_run_for_ever(model: Model) -> None:
    """Estimates would take it for one that holds its slot longer and longer."""
    one = model.register(kind=Leaving)
    model.requests.take([Started(one.id)])
    model.now += 3600.0
    assert model.turnover.retry_after(1) == 1
