"""Simulated requests for ``placement.py`` and the tests of the scheduler: no model, no sampler."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from offgrid.engine.protocol.requests import NORMAL
from offgrid.engine.worker.sequence import Status

T = TypeVar("T")


class Turn(Generic[T]):
    """One request of a conversation, as the scheduler sees it.

    The caller writes the tokens of the answer: ``tokens`` has room for all of them, and
    ``n_tokens`` says how many of prompt and answer are there.

    Args:
        number: its request id.
        talk: the conversation.
        prompt: the token ids of the prompt.
        answer: how many tokens the answer can have.
    """

    def __init__(self, number: int, talk: T, prompt: list[int], answer: int) -> None:
        self.request_id = number
        self.talk = talk
        self.slot = -1
        self.status = Status.WAITING
        self.computed = self.cached = 0
        self.reuse = True
        self.owner, self.priority, self.partition = "", NORMAL, ""
        self.tokens = np.array(prompt + [0] * answer, dtype=np.int32)
        self.n_tokens = self.n_prompt = len(prompt)

    def __len__(self) -> int:
        return self.n_tokens

    @property
    def readable(self) -> int:
        """All tokens: there are no images."""
        return self.n_tokens

    @property
    def wanted_from(self) -> int:
        """The last token: the prompt gets no logprobs."""
        return self.n_tokens - 1

    @property
    def lasting(self) -> int:
        """All tokens stay in the slot: there are no branches."""
        return self.n_tokens

    @property
    def dispensable(self) -> bool:
        """No other turn does its work."""
        return False

    def stop(self) -> None:
        """Fail: only what is dispensable is stopped, so a call shows a fault of the scheduler."""
        raise AssertionError("a turn that is not dispensable was stopped")

    def before_image(self, length: int) -> int:
        """Return ``length``: there are no images."""
        return length
