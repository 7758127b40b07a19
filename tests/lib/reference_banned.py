"""The readable definition of banned strings: an answer is sampled again from its beginning whenever
anything is wanted of its past.

Nothing here is fast or keeps a state, except for the list of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from reference_text import first_stop

from offgrid.errors import SamplingError
from offgrid.sampling import Sampler, SamplingParams

MAX_DISCARDED = 256


@dataclass
class Step:
    """A token of the answer, what was banned at its place, and how many rewinds came before it."""

    token: int
    banned: frozenset[int]
    rewinds: int
    logprob: float = 0.0


@dataclass
class Answer:
    steps: list[Step] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    rewinds: int = 0

    @property
    def tokens(self) -> list[int]:
        return [step.token for step in self.steps]


@dataclass
class Definition:
    """What an answer depends on.

    Attributes:
        row: returns the logits after the tokens of prompt and answer.
        piece: returns the bytes of a token.
        ends: the end tokens.
        allowed: returns the tokens that a grammar allows after those of the answer; None for all.
    """

    row: Callable[[list[int]], NDArray[np.float32]]
    piece: Callable[[int], bytes]
    ends: frozenset[int]
    prompt: list[int]
    params: SamplingParams
    strings: Sequence[bytes]
    stops: Sequence[bytes] = ()
    limit: int = 20
    choice: int = 0
    ignore_ends: bool = False
    allowed: Callable[[list[int]], set[int] | None] = lambda tokens: None

    def answer(self) -> Answer:
        answer = Answer()
        steps = answer.steps
        sent, discarded = 0, 0
        banned: frozenset[int] = frozenset()
        while True:
            step = self.sample(steps, banned, answer.rewinds)
            finish_reason = None
            if step is None:  # all tokens are banned here: go back further
                text, found = self.bytes_of(steps), (len(steps), len(steps))
            else:
                steps.append(step)
                banned = frozenset()
                text, finish_reason = self.certain(steps)
                found = self.string_in(text, steps, sent)
            if found is not None:
                begin, end = found
                places = [*range(begin, end), *reversed(range(sent, begin))]
                free = [place for place in places if self.is_free(steps, place)]
                if not free or discarded >= MAX_DISCARDED:
                    del steps[begin:]
                    while (more := self.string_in(self.bytes_of(steps), steps, sent)) is not None:
                        del steps[more[0] :]
                    answer.text = self.bytes_of(steps).decode("utf-8", "replace")
                    answer.finish_reason = "content_filter"
                    return answer
                place = free[0]
                banned = steps[place].banned | {steps[place].token}
                discarded += len(steps) - place
                answer.rewinds += 1
                del steps[place:]
                continue
            if finish_reason is not None:
                answer.text = text.decode("utf-8", "replace")
                answer.finish_reason = finish_reason
                return answer
            now = self.sent(steps, text)
            if now > sent:
                sent, discarded = now, 0

    def sample(self, steps: list[Step], banned: frozenset[int], rewinds: int) -> Step | None:
        """Sample all tokens of the answer again, and the next one; None if none is left."""
        n_vocab = len(self.row(self.prompt))
        sampler = Sampler(
            n_vocab,
            self.params,
            self.prompt,
            choice=self.choice,
            banned=self.ends if self.ignore_ends else (),
            end_tokens=self.ends,
        )
        past: list[int] = []
        rewound = 0
        for step in [*steps, Step(-1, banned, rewinds)]:
            for _ in range(rewound, step.rewinds):
                sampler.rewind(sampler.state, self.prompt, past)
            rewound = step.rewinds
            allowed = self.allowed(past)
            bits = np.ones((n_vocab + 31) // 32 * 32, dtype=np.uint8)
            bits[n_vocab:] = 0
            if allowed is not None:
                bits[[token for token in range(n_vocab) if token not in allowed]] = 0
            bits[list(step.banned)] = 0
            mask = np.packbits(bits, bitorder="little").view(np.uint32)
            try:
                result = sampler.sample(self.row(self.prompt + past), 0, mask)
            except SamplingError:
                assert step.token < 0
                return None
            if step.token < 0:
                return Step(result.token, banned, rewinds, result.logprob)
            assert result.token == step.token
            sampler.accept(step.token)
            past.append(step.token)
        raise AssertionError

    def bytes_of(self, steps: list[Step]) -> bytes:
        return b"".join(self.piece(s.token) for s in steps if s.token not in self.ends)

    def certain(self, steps: list[Step]) -> tuple[bytes, str | None]:
        """Return the text that no stop string can take away any more, and why it ends."""
        data = self.bytes_of(steps)
        stop = first_stop(data, self.stops)
        if stop is not None:
            return data[: stop[0]], "stop"
        if steps[-1].token in self.ends:
            return data, "stop"
        if len(steps) >= self.limit:
            return data, "length"
        return data[: len(data) - longest_beginning(data, self.stops)], None

    def string_in(self, text: bytes, steps: list[Step], sent: int) -> tuple[int, int] | None:
        """Return the tokens of the first banned string in a text, without those that are sent."""
        match = first_stop(text, self.strings)
        if match is None:
            return None
        begin, end = match[0], match[0] + len(self.strings[match[1]])
        places, at = [], 0
        for place, step in enumerate(steps):
            size = 0 if step.token in self.ends else len(self.piece(step.token))
            if place >= sent and size and at < end and at + size > begin:
                places.append(place)
            at += size
        return places[0], places[-1] + 1

    def is_free(self, steps: list[Step], place: int) -> bool:
        """Whether another token may take the place of one."""
        allowed = self.allowed([step.token for step in steps[:place]])
        if allowed is None:
            return True
        return bool(allowed - steps[place].banned - {steps[place].token})

    def sent(self, steps: list[Step], text: bytes) -> int:
        """Return how many tokens can be sent: those before what may become a banned string, up to
        a place where no stop string has begun."""
        limit = len(text) - longest_beginning(text, self.strings)
        count = 0
        for place in range(1, len(steps) + 1):
            data = self.bytes_of(steps[:place])
            if len(data) <= limit and longest_beginning(data, self.stops) == 0:
                count = place
        return count


def longest_beginning(data: bytes, strings: Sequence[bytes]) -> int:
    """Return how many bytes at the end of the data are the beginning of one of some strings."""
    return max(
        (size for string in strings for size in range(len(string)) if data.endswith(string[:size])),
        default=0,
    )
