"""Many conversations at once: each goes on where it was, and none is computed anew for another."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from processes import Child
from support import STARTER, request, together

CHAT = "/v1/chat/completions"
Serve = Callable[..., Child]


class Conversation:
    """One client's conversation through the API."""

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.messages: list[dict[str, Any]] = [
            {"role": "system", "content": f"You are helper number {number}. Answer in one word."}
        ]
        self.prompt_tokens = 0
        self.cached: list[tuple[int, int]] = []
        """Of every turn: tokens that were cached, and the length of the prompt before."""

    def turn(self) -> None:
        text = f"Question {len(self.messages)}: is the river wide, and is the boat red?"
        self.messages.append({"role": "user", "content": text})
        body = {"model": STARTER, "messages": self.messages, "max_tokens": 4, "ignore_eos": True}
        response = request(self.url, "POST", CHAT, body)
        assert response.status == 200, response.body
        usage = response.json["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        self.cached.append((cached, self.prompt_tokens))
        self.prompt_tokens = usage["prompt_tokens"]
        self.messages.append(response.json["choices"][0]["message"])


def lost(conversations: list[Conversation]) -> list[tuple[int, int]]:
    """Of all turns but the first: those that began with less than the whole prompt before. The
    tokens of an answer may be others in the next prompt, and are not counted."""
    return [turn for one in conversations for turn in one.cached[1:] if turn[0] < turn[1]]


def play(url: str, rounds: int) -> None:
    """Eight conversations go on at the same moment, ``rounds`` times, in any order."""
    chance = random.Random(1)
    conversations = [Conversation(url, number) for number in range(8)]
    for _ in range(rounds):
        order = chance.sample(conversations, len(conversations))
        together([one.turn for one in order])
        assert lost(conversations) == []


def test_eight_conversations_on_eight_slots_keep_their_prefixes(serve: Serve) -> None:
    """The next turns of all arrive together; bringing one beside the others gave up a third."""
    play(serve("--parallel", "8").wait_ready(), rounds=5)


@pytest.mark.slow
def test_eight_conversations_keep_their_prefixes_for_fifty_rounds(serve: Serve) -> None:
    """The default run has five rounds, and fifty with a scheduler alone (tests/engine)."""
    play(serve("--parallel", "8").wait_ready(), rounds=50)


@pytest.mark.slow
def test_some_conversations_of_eight_at_a_time(serve: Serve) -> None:
    """Three of eight go on together, whichever slots they are in; the others' stay computed.

    The default run has it with an engine alone (tests/engine/worker/test_architectures.py).
    """
    chance = random.Random(2)
    url = serve("--parallel", "8").wait_ready()
    conversations = [Conversation(url, number) for number in range(8)]
    together([one.turn for one in conversations])
    for _ in range(6):
        together([one.turn for one in chance.sample(conversations, 3)])
    assert lost(conversations) == []
