"""Many conversations at once: each reuses its prefix, and none loses it to another."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from processes import Child
from support import STARTER, request, together

pytestmark = pytest.mark.usefixtures("access")
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
        """For every turn: the number of cached tokens, and the length of the previous prompt."""

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
    """Return the later turns that reused less than the whole previous prompt.

    Answers are not counted: their text may give other tokens in the next prompt.
    """
    return [turn for one in conversations for turn in one.cached[1:] if turn[0] < turn[1]]


def play(url: str, rounds: int) -> None:
    """Continue eight conversations at the same moment, ``rounds`` times, in random order."""
    chance = random.Random(1)
    conversations = [Conversation(url, number) for number in range(8)]
    for _ in range(rounds):
        order = chance.sample(conversations, len(conversations))
        together([one.turn for one in order])
        assert lost(conversations) == []


@pytest.mark.slow
def test_eight_conversations_on_eight_slots_keep_their_prefixes(serve: Serve) -> None:
    """All next turns arrive together; moving one next to the others once evicted a third."""
    play(serve("--parallel", "8").wait_ready(), rounds=5)


@pytest.mark.slow
def test_eight_conversations_keep_their_prefixes_for_fifty_rounds(serve: Serve) -> None:
    """The default run covers five rounds, and fifty with a scheduler alone (tests/engine)."""
    play(serve("--parallel", "8").wait_ready(), rounds=50)


@pytest.mark.slow
def test_some_conversations_of_eight_at_a_time(serve: Serve) -> None:
    """Three of eight continue together, in any slots; the prefixes of the others stay cached.

    The default run covers this with an engine alone (tests/engine/worker/test_architectures.py).
    """
    chance = random.Random(2)
    url = serve("--parallel", "8").wait_ready()
    conversations = [Conversation(url, number) for number in range(8)]
    together([one.turn for one in conversations])
    for _ in range(6):
        together([one.turn for one in chance.sample(conversations, 3)])
    assert lost(conversations) == []
