"""A source of drafts: a second, smaller model with the same vocabulary.

The draft model has a context with as many slots as the main model. What a slot of it holds follows
the sequence that runs in the slot of the same number: tokens that the answer does not contain are
cut, and those that are missing are computed, at most :data:`CHUNK` of them in a step, so that a
long prompt does not delay the other streams. A sequence gets drafts as soon as its slot holds all
of its tokens. All sequences together are one batch for each token of the drafts.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.worker.llama.batch import Batch
from offgrid.engine.worker.prefix import MIN_COPY, TokenIds, common_prefix

log = logging.getLogger(__name__)

KIND = "model"
CHUNK = 64
"""Most tokens of prompts that one step computes with the draft model."""
FLOOR = 0.3
"""A draft ends where the probability that all of its tokens are right, in the draft model's own
opinion, falls below this."""

_COPY_SHARE = 128


class DraftContext(Protocol):
    """The part of a loaded model that drafts need; see
    :class:`~offgrid.engine.worker.llama.model.Model`."""

    n_ctx: int
    n_vocab: int
    n_parallel: int
    batch: Batch

    def use_threads(self, number: int) -> None: ...

    def decode(self) -> None: ...

    def logits(self, index: int) -> int: ...

    def forget(self, slot: int) -> None: ...

    def cut(self, slot: int, keep: int) -> bool: ...

    def copy(self, source: int, target: int) -> None: ...


class Wish(NamedTuple):
    """A sequence that shall get a draft.

    Attributes:
        slot: where it runs.
        tokens: ids of its prompt and answer so far, int32.
        most: most tokens of the draft.
    """

    slot: int
    tokens: TokenIds
    most: int


class Effort(NamedTuple):
    """What the last call of :meth:`DraftModel.draft` has computed, and in which time.

    Attributes:
        tokens: missing tokens of the sequences, the last ones included.
        catching_up: seconds for these.
        more: calls that computed one token of each draft after that.
        drafting: seconds for these.
    """

    tokens: int = 0
    catching_up: float = 0.0
    more: int = 0
    drafting: float = 0.0


class DraftModel:
    """Drafts for all sequences of a model. It never raises: after a failure it drafts no more.

    Args:
        model: the draft model.
        n_vocab: number of tokens of the main model's vocabulary. One of the two may have more,
            which are unused.
        floor: see :data:`FLOOR`.

    Attributes:
        works: whether it can still draft.
        effort: of the last call of :meth:`draft`.
    """

    def __init__(self, model: DraftContext, n_vocab: int, floor: float = FLOOR) -> None:
        self._model = model
        self._floor = floor
        self._common = min(model.n_vocab, n_vocab)
        self._chunk = min(CHUNK, model.batch.capacity)
        # The time of a copy depends on the size of the context, as in the scheduler.
        self._least_copy = max(MIN_COPY, model.n_ctx // _COPY_SHARE)
        empty = np.empty(0, dtype=np.int32)
        self._held: list[TokenIds] = [empty] * model.n_parallel
        """The tokens that each slot holds."""
        self.works = True
        self.effort = Effort()

    def use_threads(self, number: int) -> None:
        """Set the number of threads that compute the next drafts: that of the main model's steps.
        With more, it would wait for other programs; with another number, OpenMP would end and start
        threads between the two models."""
        self._model.use_threads(number)

    def draft(self, wishes: Iterable[Wish]) -> dict[int, list[int]]:
        """Return a draft for each slot, as far as there is one.

        Args:
            wishes: at most one for each slot.
        """
        self.effort = Effort()
        try:
            drafts = self._draft(wishes) if self.works else {}
        except Exception as ex:  # drafts only save time: no failure may end an answer
            self.works = False
            log.warning("the draft model has failed and is not used any more: %s", ex)
            drafts = {}
        return {slot: tokens for slot, tokens in drafts.items() if tokens}

    def missing(self, wish: Wish) -> int:
        """Return how many tokens would have to be computed before the sequence gets a draft; 0 if
        it never gets one."""
        possible = self._possible(wish)
        return 0 if possible is None else len(wish.tokens) - self._kept(possible)[1]

    def _draft(self, wishes: Iterable[Wish]) -> dict[int, list[int]]:
        began = time.monotonic()
        possible = (self._possible(wish) for wish in wishes)
        ready = self._catch_up([wish for wish in possible if wish is not None])
        tokens, caught_up, more = len(self._model.batch), time.monotonic(), 0
        drafts: dict[int, list[int]] = {wish.slot: [] for wish, _ in ready}
        likely = dict.fromkeys(drafts, 1.0)
        while ready:
            going: list[Wish] = []
            for wish, index in ready:
                token, probability = self._best(index)
                likely[wish.slot] *= probability
                if likely[wish.slot] < self._floor:
                    continue
                drafts[wish.slot].append(token)
                if len(drafts[wish.slot]) < wish.most:
                    going.append(wish)
            ready = self._decode_last(going, drafts)
            more += bool(going)
        self.effort = Effort(tokens, caught_up - began, more, time.monotonic() - caught_up)
        return drafts

    def _possible(self, wish: Wish) -> Wish | None:
        """Return a wish as far as the draft model's context can fulfil it.

        It knows neither images, whose positions have negative ids, nor the unused tokens that only
        the main model has.
        """
        most = min(wish.most, self._model.n_ctx - len(wish.tokens))
        if most < 1 or len(wish.tokens) == 0:
            return None
        if int(wish.tokens.min()) < 0 or int(wish.tokens.max()) >= self._common:
            return None
        return wish._replace(most=most)

    def _catch_up(self, wishes: list[Wish]) -> list[tuple[Wish, int]]:
        """Compute missing tokens of the sequences, those first of which fewest are missing.

        Returns:
            The sequences of which no token is missing any more, each with the batch index of the
            logits of its last token.
        """
        left = self._chunk
        parts: list[tuple[int, Wish]] = []
        # What a slot holds is not touched before its turn: it may be what another one copies.
        for wish in sorted(wishes, key=lambda wish: len(wish.tokens) - self._kept(wish)[1]):
            if not left:
                break
            count = min(left, len(wish.tokens) - self._keep(wish))
            parts.append((count, wish))
            left -= count
        self._model.batch.clear()
        ready = []
        for count, wish in sorted(parts, key=lambda part: part[1].slot):
            held = len(self._held[wish.slot])
            end = held + count
            whole = end == len(wish.tokens)
            index = self._model.batch.add(wish.slot, held, wish.tokens[held:end], int(whole))
            if whole:
                ready.append((wish, index))
        if parts:
            self._model.decode()
        for count, wish in parts:
            self._held[wish.slot] = wish.tokens[: len(self._held[wish.slot]) + count].copy()
        return ready

    def _kept(self, wish: Wish) -> tuple[int, int]:
        """Return the slot after whose tokens a sequence goes on, and how many of them it keeps.

        If another slot holds a much longer beginning than its own, it is copied: several choices of
        a request, or conversations with the same system prompt, cost a single prefill. The last
        token is always computed, because its logits are needed.
        """
        before = wish.tokens[:-1]
        shared = [common_prefix(held, before) for held in self._held]
        best = int(np.argmax(shared))
        slot = best if shared[best] >= shared[wish.slot] + self._least_copy else wish.slot
        return slot, shared[slot]

    def _keep(self, wish: Wish) -> int:
        """Let the slot of a sequence hold nothing but a beginning of it; return its length."""
        model, slot = self._model, wish.slot
        source, keep = self._kept(wish)
        held = len(self._held[source])
        if source != slot:
            model.forget(slot)
            model.copy(source, slot)
        if keep < held and not model.cut(slot, keep):
            raise RuntimeError("its memory cannot remove the end of a sequence")
        self._held[slot] = wish.tokens[:keep].copy()
        return keep

    def _decode_last(
        self, wishes: Sequence[Wish], drafts: dict[int, list[int]]
    ) -> list[tuple[Wish, int]]:
        """Compute the last drafted token of each of these sequences; return them with the batch
        indices of the logits."""
        if not wishes:
            return []
        batch = self._model.batch
        batch.clear()
        slots = [wish.slot for wish in wishes]
        tokens = [drafts[slot][-1] for slot in slots]
        positions = [len(self._held[slot]) for slot in slots]
        indices = batch.add_each(slots, positions, tokens, [True] * len(slots))
        self._model.decode()
        for slot, token in zip(slots, tokens, strict=True):
            self._held[slot] = np.append(self._held[slot], np.int32(token))
        return [*zip(wishes, indices, strict=True)]

    def _best(self, index: int) -> tuple[int, float]:
        """Return the most likely token of a row, and its probability; 0 if the row is unusable."""
        row = self._row(index)
        token = int(row.argmax())
        total = float(np.exp(row - row[token]).sum())
        return token, 1.0 / total if total >= 1.0 else 0.0

    def _row(self, index: int) -> NDArray[np.float32]:
        address = self._model.logits(index)
        row = (ctypes.c_float * self._model.n_vocab).from_address(address)
        return np.ctypeslib.as_array(row)[: self._common]
