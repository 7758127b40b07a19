"""Compiles grammars with llguidance for one model's vocabulary, and caches recent ones.

No grammar is trusted. Sources are limited in size, depth and repetition, compiling is limited in
time and stack, and every step of a matcher in work (``LLParserLimits``) and processor time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from offgrid.engine.protocol import Grammar
from offgrid.engine.worker.matcher import Matcher
from offgrid.errors import ErrorCode, InvalidParameter, Overloaded
from offgrid.grammar.compilable import (
    MAX_SOURCE,
    GrammarError,
    check_size,
    compilable,
    compilable_part,
)
from offgrid.grammar.document import Json, place
from offgrid.grammar.messages import first_line, plain, unusable
from offgrid.grammar.options import SLICES
from offgrid.grammar.schema import locate

log = logging.getLogger(__name__)

COMPILE_SECONDS = 3.0
"""Most processor time of one compilation: hostile sources that pass the checks may compile for
long. A wall-clock limit would refuse grammars on a busy machine that compile elsewhere."""
_COMPILE_WAIT = 60.0
"""Most seconds of wall-clock time to wait, however little processor time the thread has got."""
_LEAST_WAIT = 0.01
_MAX_ABANDONED = 2
"""While this many abandoned compilations still run, no further one is started."""
_COMPILE_STACK = 64 * 1024 * 1024
"""Bytes. The compiler recurses into schemas."""
_CACHED = 32

_LIMITS = LLParserLimits(
    max_items_in_row=1_200,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


class HasVocabulary(Protocol):
    """The part of :class:`~offgrid.engine.worker.llama.model.Model` that is used here."""

    n_vocab: int
    eog_ids: frozenset[int]
    control_ids: tuple[int, ...]

    def vocab_pieces(self) -> list[bytes]:
        """Return the bytes of every token; for control tokens, their names."""


class _Tokens:
    """The vocabulary in the form that ``LLTokenizer`` takes (its ``TokenizerWrapper``)."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: HasVocabulary) -> None:
        self.tokens = vocabulary.vocab_pieces()
        self.special_token_ids = list(vocabulary.control_ids)
        self.eos_token_id = min(vocabulary.eog_ids)
        self._bytes = {self.tokens[id]: id for id in range(len(self.tokens) - 1, -1, -1)}

    def __call__(self, text: str) -> list[int]:
        """Tokenise byte by byte: with ``no_forcing``, the model's tokenisation is not needed."""
        data = text.encode("utf-8")
        ids = (self._bytes.get(data[i : i + 1]) for i in range(len(data)))
        return [id for id in ids if id is not None]


class Grammars:
    """Compiles grammars for one vocabulary, and caches recent ones.

    Thread-safe: a lock admits one thread at a time.
    """

    def __init__(self, vocabulary: HasVocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[str, ...], Matcher] = OrderedDict()
        self._refused: OrderedDict[Grammar, InvalidParameter] = OrderedDict()
        self._abandoned: list[threading.Thread] = []
        self._lock = threading.Lock()

    def matchers(self, grammar: Grammar, n: int) -> list[Matcher]:
        """Return ``n`` matchers at the beginning of an answer.

        Raises:
            InvalidParameter: the grammar is malformed, not supported, allows no answer, or exceeds
                a limit.
            Overloaded: other grammars take too long to compile.
        """
        key = (grammar.kind, grammar.source, *(schema.text for schema in grammar.schemas))
        with self._lock:
            first = self._compiled.get(key)
            if first is None:
                first = self._first(grammar)
                self._compiled[key] = first
                if len(self._compiled) > _CACHED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            copies = [first.copy() for _ in range(n)]
        for matcher in copies:
            matcher.param = grammar.param
        return copies

    def _first(self, grammar: Grammar) -> Matcher:
        """Compile a grammar, unless it was refused before."""
        self._check_size(grammar)
        refused = self._refused.get(grammar)
        if refused is None:
            try:
                return self._in_time(grammar, lambda: self._compile(grammar))
            except InvalidParameter as ex:
                self._refused[grammar] = refused = ex
                if len(self._refused) > _CACHED:
                    self._refused.popitem(last=False)
        raise InvalidParameter(refused.message, refused.param, code=refused.code)

    def _check_size(self, grammar: Grammar) -> None:
        if grammar.kind not in MAX_SOURCE:
            raise InvalidParameter(f"Unknown kind of grammar: {grammar.kind}.", grammar.param)
        try:
            check_size(grammar.kind, grammar.source, grammar.schemas)
        except GrammarError as ex:
            raise _invalid(grammar, str(ex)) from None
        if not self._vocabulary.eog_ids:
            raise _invalid(grammar, "this model has no end token")

    def _in_time(self, grammar: Grammar, compile: Callable[[], Matcher]) -> Matcher:
        """Compile on a thread with a large stack, and wait only for a limited time."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        if len(self._abandoned) >= _MAX_ABANDONED:
            raise Overloaded(
                "Other grammars are still being compiled; try again later.", code="server_busy"
            )
        results: list[Matcher | BaseException] = []
        spent = _ThreadClock()

        def run() -> None:
            spent.start()
            try:
                results.append(compile())
            except BaseException as ex:
                results.append(ex)

        before = threading.stack_size(_COMPILE_STACK)
        try:
            thread = threading.Thread(target=run, name="grammar", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
        until = time.monotonic() + _COMPILE_WAIT
        left = COMPILE_SECONDS
        while left > 0 and thread.is_alive() and time.monotonic() < until:
            thread.join(max(left, _LEAST_WAIT))  # it cannot use up the rest sooner
            left = COMPILE_SECONDS - spent.seconds()
        if not results:
            self._abandoned.append(thread)
            log.error("a grammar of %d bytes is not compiled in time", len(grammar.source))
            raise _invalid(grammar, "it takes too long to compile", "grammar_too_complex")
        if isinstance(results[0], InvalidParameter):
            raise results[0]
        if isinstance(results[0], BaseException):
            log.error("a grammar could not be compiled", exc_info=results[0])
            raise _invalid(grammar, "the compiler failed")
        return results[0]

    def _compile(self, grammar: Grammar) -> Matcher:
        tokenizer = self._tokenizer
        if tokenizer is None:
            ends = sorted(self._vocabulary.eog_ids)
            tokenizer = LLTokenizer(
                _Tokens(self._vocabulary),  # type: ignore[arg-type]
                n_vocab=self._vocabulary.n_vocab,
                eos_token=ends,
                slices=SLICES,
            )
            self._tokenizer = tokenizer
        try:
            inner = LLMatcher(tokenizer, _source(grammar), log_level=0, limits=_LIMITS)
            if inner.is_error():
                raise _Unusable(first_line(inner.get_error()))
            words = (self._vocabulary.n_vocab + 31) // 32
            matcher = Matcher(inner, np.zeros(words, dtype=np.uint32), grammar.param)
            matcher.check_start()
            if matcher.error is not None:
                raise _Unusable(f"at the start of an answer: {matcher.error}")
        except _Unusable as ex:
            if grammar.kind == "json_schema":
                schema = grammar.schemas[0].schema
                raise _invalid(grammar, _located(schema, tokenizer, str(ex))) from None
            for alone in grammar.schemas:
                self._compile(Grammar.of_schema(alone))  # raises for the schema at fault
            raise _invalid(grammar, plain(str(ex))) from None
        return matcher


class _ThreadClock:
    """The processor time of a thread, read by another one."""

    def __init__(self) -> None:
        self._clock: int | None = None
        self._began = time.monotonic()

    def start(self) -> None:
        """Start the clock. Call it on the thread that is measured."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def seconds(self) -> float:
        """Return the processor time that the thread has used; on systems that cannot tell, the
        wall-clock time."""
        if self._clock is None:
            return time.monotonic() - self._began
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # the thread has ended
            return 0.0


class _Unusable(Exception):
    """llguidance refuses a grammar; the message is its own."""


def _source(grammar: Grammar) -> str:
    """Return the source that llguidance compiles for a grammar."""
    try:
        return compilable(grammar.kind, grammar.source, grammar.schemas)
    except GrammarError as ex:
        raise _invalid(grammar, str(ex)) from None


def _located(schema: Json, tokenizer: LLTokenizer, message: str) -> str:
    """Return the message about a schema with the place of the fault."""

    def fault(part: Json) -> str | None:
        inner = LLMatcher(tokenizer, compilable_part(part), log_level=0, limits=_LIMITS)
        return first_line(inner.get_error()) if inner.is_error() else None

    path, message = locate(schema, message, fault)
    return place(path) + plain(message)


def _invalid(grammar: Grammar, reason: str, code: ErrorCode | None = None) -> InvalidParameter:
    return unusable(grammar.kind, grammar.param, reason, code)
