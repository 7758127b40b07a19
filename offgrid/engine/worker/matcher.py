"""Follows answers through compiled grammars with llguidance's matcher.

A :class:`Matcher` follows one answer and computes, for every position, a bit mask of the tokens
that may come next. The sampler applies the mask in its own pass. :class:`Masks` computes easy masks
between two decodes, and hard ones on other threads during the next decode.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from offgrid.grammar.messages import NO_TOKEN_NEXT, first_line

log = logging.getLogger(__name__)

STEP_SECONDS = 0.1
"""Most processor time that one step of a matcher may take; a longer one ends the request."""
HARD_SECONDS = 0.001
"""A matcher is hard once one of its steps took more processor time than this. From then on its
steps run on another thread. For easy matchers, that would take longer than computing the step."""
_THREADS = 4
"""Threads for hard matchers, so that one of them does not delay the next."""
_NOT_WRITABLE = "no token of the vocabulary continues it"
DEAD_ENDS = frozenset({NO_TOKEN_NEXT, _NOT_WRITABLE})
"""The errors of a :class:`Matcher` that the grammar causes, not a limit."""


class Matcher:
    """Follows one answer through a grammar. Created by
    :meth:`offgrid.engine.worker.grammars.Grammars.matchers`.

    Attributes:
        address: address of the mask's ``(n_vocab + 31) // 32`` uint32 words, with one bit for each
            token that may come next.
        ready: whether the mask is that of the current position.
        accepting: whether the answer may end here.
        error: why the answer cannot continue, or None. With an error, no token may be sampled.
        hard: whether one of its steps took longer than :data:`HARD_SECONDS`.
        param: the request field that contains the grammar.
    """

    __slots__ = (
        "_inner",
        "_mask",
        "accepting",
        "address",
        "error",
        "future",
        "hard",
        "param",
        "ready",
    )

    def __init__(self, inner: LLMatcher, mask: NDArray[np.uint32], param: str) -> None:
        self._inner = inner
        self._mask = mask
        self.address = int(mask.ctypes.data)
        self.accepting = bool(inner.is_accepting())
        self.error: str | None = None
        self.hard = False
        self.ready = True
        self.param = param
        self.future: Future[None] | None = None

    @property
    def mask(self) -> NDArray[np.uint32]:
        """The mask itself."""
        return self._mask

    def copy(self) -> Matcher:
        """Return an independent matcher at the same position."""
        return Matcher(self._inner.deep_copy(), self._mask.copy(), self.param)

    def allows_more_than(self, count: int) -> bool:
        """Whether more than ``count`` tokens may come next. Call it while the mask is ready."""
        # Wide masks have many words with bits; the bits are counted only where few words have any.
        words = self._mask[self._mask != 0]
        return len(words) > count or int(np.unpackbits(words.view(np.uint8)).sum()) > count

    def trial(self) -> LLMatcher:
        """Return a matcher at this position that may follow guesses: they leave no trace in this
        one, not even of the work that its limits count."""
        return self._inner.deep_copy()

    def advance(self, token: int) -> None:
        """Follow a sampled token and compute the next mask; store failures in :attr:`error`."""
        self._step(lambda: self._inner.consume_token(token))

    def _step(self, move: Callable[[], bool]) -> None:
        """Move, and compute the mask of the new position."""
        began = time.thread_time()
        try:
            if not move():
                self.error = first_line(self._inner.get_error())
            else:
                self._compute()
        except BaseException as ex:  # a Rust panic is not an Exception
            log.exception("a grammar failed")
            self.error = type(ex).__name__
        seconds = time.thread_time() - began
        self.hard = self.hard or seconds > HARD_SECONDS
        if seconds > STEP_SECONDS:
            self.error = "a step takes too long"

    def rewind(self, count: int) -> None:
        """Go back by a number of followed tokens, and compute the mask of that position again."""
        self._step(lambda: self._inner.rollback(count))

    def _compute(self) -> None:
        self._inner.unsafe_compute_mask_ptr(self.address, self._mask.nbytes)
        if self._inner.is_error():
            self.error = first_line(self._inner.get_error())
            return
        self.accepting = bool(self._inner.is_accepting())
        if not self.accepting and (self._inner.is_stopped() or not self._mask.any()):
            self.error = _NOT_WRITABLE

    def check_start(self) -> None:
        """Compute the first mask."""
        self._compute()


class Masks:
    """Lets matchers follow the sampled tokens; hard ones on threads, while llama.cpp computes."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def start(self, drawn: list[tuple[Matcher, int]]) -> None:
        """Compute the masks after the given tokens, or start to."""
        for matcher, token in drawn:
            self._do(matcher, partial(matcher.advance, token))

    def rewind(self, matcher: Matcher, count: int) -> None:
        """Let a matcher go back by a number of tokens, and compute its mask, or start to."""
        self._do(matcher, partial(matcher.rewind, count))

    def _do(self, matcher: Matcher, step: Callable[[], None]) -> None:
        if not matcher.hard:
            step()
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="masks")
        matcher.ready = False
        matcher.future = self._threads.submit(_then_ready, matcher, step)

    def wait(self, matchers: Iterable[Matcher], seconds: float) -> None:
        """Wait until all matchers are ready, but at most ``seconds``."""
        pending = {m.future for m in matchers if not m.ready and m.future is not None}
        if pending:
            wait(pending, seconds)


def _then_ready(matcher: Matcher, step: Callable[[], None]) -> None:
    step()
    matcher.ready = True
