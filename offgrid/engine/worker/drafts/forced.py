"""A source of drafts: text that the grammar of the answer forces, such as the keys of a schema."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from llguidance import LLMatcher

from offgrid.engine.worker.drafts.source import Draft, Drafted
from offgrid.engine.worker.matcher import HARD_SECONDS

log = logging.getLogger(__name__)

KIND = "forced"
_NARROW = 256
"""Tokens. Where the mask allows more of them, nothing is forced: most positions are inside a text
that the model chooses."""
_BYTES = 8
"""Most bytes of forced text for each token that may be proposed. A grammar may force a text of any
length, and tokenising it would take as long."""
_STEPS = 8
"""Most texts, forced or guessed, in one draft."""
_ANY_TEXT = b"~x#"
"""Where a grammar allows this, it allows any text."""
_GAP = re.compile(rb"([:,]\s*)(?=[^\s:,])")
_SLOW = 4
"""Slow proposals after which a sequence gets no more of them."""
_SEEN = 48
"""Tokens at the end of the answer that are searched for the usual gaps."""


class Forced:
    """Asks a copy of the matcher which bytes must come next.

    Grammars of JSON leave the blanks between names and values free, so the source guesses them: it
    tries the gaps that the answer has had after a colon and a comma, and goes on with what is
    forced after them.

    Args:
        tokenize: returns the token ids of a text.
        piece: returns the bytes of a token.
    """

    costly = True

    def __init__(
        self, tokenize: Callable[[bytes], tuple[int, ...]], piece: Callable[[int], bytes]
    ) -> None:
        self._tokenize = tokenize
        self._piece = piece
        self._slow = 0
        self._stopped = False
        """Whether a proposal has failed, or several were slow; then there are no more."""

    def propose(self, sequence: Drafted, most: int) -> Draft:
        """Return the tokens of what is forced, and of the gaps between forced texts."""
        matcher = sequence.matcher
        if self._stopped or matcher is None or not matcher.ready:
            return Draft([], KIND)
        if matcher.hard or matcher.error is not None or matcher.allows_more_than(_NARROW):
            return Draft([], KIND)
        began = time.thread_time()
        try:
            text = self._text(matcher.trial(), sequence, most)
        except BaseException:  # a Rust panic is not an Exception
            log.exception("a grammar failed to propose tokens")
            self._stopped = True
            return Draft([], KIND)
        if time.thread_time() - began > HARD_SECONDS:
            self._slow += 1  # the first proposals fill caches
            self._stopped = self._slow >= _SLOW
        return Draft([*self._tokenize(text)][:most] if text else [], KIND)

    def _text(self, trial: LLMatcher, sequence: Drafted, most: int) -> bytes:
        """Return the bytes that are expected next, as far as they are forced."""
        text = b""
        rest: list[bytes] = []
        gaps: list[bytes] | None = None
        for _ in range(_STEPS):
            forced = trial.compute_ff_bytes()[: _BYTES * most]
            if forced and self._follow(trial, forced):
                text += forced
                if len(text) >= _BYTES * most:
                    break
                continue
            if self._allows(trial, _ANY_TEXT):
                break  # inside a string, which the model chooses
            if gaps is None:
                rest, gaps = self._gaps(sequence)
            tried = gaps if text else [*rest, *gaps]
            gap = next((gap for gap in tried if self._follow(trial, gap)), None)
            if gap is None:
                break
            text += gap
        # A blank at the end usually belongs to the token after it.
        return text.rstrip(b" ") if text.strip() else b""

    def _allows(self, trial: LLMatcher, text: bytes) -> bool:
        tokens = [*self._tokenize(text)]
        return bool(tokens) and trial.validate_tokens(tokens) == len(tokens)

    def _follow(self, trial: LLMatcher, text: bytes) -> bool:
        """Let a matcher follow a text; return whether all of it is allowed."""
        tokens = [*self._tokenize(text)]
        return self._allows(trial, text) and trial.consume_tokens(tokens)

    def _gaps(self, sequence: Drafted) -> tuple[list[bytes], list[bytes]]:
        """Return what the answer writes after a key and after a value: a quote follows if it may,
        although the grammar would allow another blank.

        If the answer ends within such a gap, or before a key, the rest of it is returned first.
        """
        first = max(sequence.n_prompt, len(sequence) - _SEEN)
        text = b"".join(map(self._piece, sequence.tokens[first : len(sequence)].tolist()))
        seen = {gap[:1]: gap for gap in _GAP.findall(text)}
        colon = seen.get(b":", b": ")
        comma = seen.get(b",", b"," + colon[1:])
        gaps = [colon + b'"', comma + b'"', colon, comma]
        rest = [gap[1:] for gap in gaps if len(gap) > 1 and gap[:1] == text[-1:]]
        return [*rest, *([b'"'] if text[-1:] in (b"{", b"[") else ())], gaps

    def rewound(self) -> None:
        """Do nothing: the matcher tells all."""

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Do nothing: the matcher tells all."""
