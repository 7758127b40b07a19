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

from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.llama.untouched import trim_heap
from offgrid.engine.worker.matcher import Matcher
from offgrid.errors import ErrorCode, InvalidParameter, Overloaded
from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.compilable import (
    MAX_SOURCE,
    GrammarError,
    check_size,
    compilable,
    compilable_part,
)
from offgrid.grammar.document import Json
from offgrid.grammar.messages import first_line, plain, unusable
from offgrid.grammar.options import FEW_SLICES, LARGE_VOCABULARY, SLICES
from offgrid.grammar.schema import locate

log = logging.getLogger(__name__)

COMPILE_SECONDS = 3.0
"""Most processor time of one compilation: hostile sources that pass the checks may compile for
long. A wall-clock limit would refuse grammars on a busy machine that compile elsewhere."""
COMPILE_WAIT = 60.0
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

    Args:
        vocabulary: the model.
        open_objects: as for :func:`~offgrid.grammar.compilable.compilable`.

    Attributes:
        compiled: a matcher for each of the latest grammars, at the beginning of an answer.
        refused: the errors of the latest grammars that cannot be used.
        abandoned: compilations for which no request waits, because they took too long.
    """

    def __init__(self, vocabulary: HasVocabulary, open_objects: bool = False) -> None:
        self._vocabulary = vocabulary
        self._open_objects = open_objects
        self._tokenizer: LLTokenizer | None = None
        self._is_usable = True
        self.compiled: OrderedDict[tuple[str, ...], Matcher] = OrderedDict()
        self.refused: OrderedDict[Grammar, InvalidParameter] = OrderedDict()
        self.abandoned: dict[Grammar, _Compilation] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Build what all grammars need: the vocabulary in llguidance's form. Without this call, the
        first grammar builds it. A vocabulary of 262,144 tokens takes seconds.

        Raises:
            UnusableVocabulary: llguidance cannot use it.
        """
        with self._lock:
            self._ready_tokenizer()

    def matchers(self, grammar: Grammar, n: int) -> list[Matcher]:
        """Return ``n`` matchers at the beginning of an answer.

        Raises:
            InvalidParameter: the grammar is malformed, not supported, allows no answer, or exceeds
                a limit.
            Overloaded: this grammar or others did not get the processor time to be compiled.
        """
        key = (grammar.kind, grammar.source, *(schema.text for schema in grammar.schemas))
        with self._lock:
            first = self.compiled.get(key)
            if first is None:
                first = self.first(grammar)
                self.compiled[key] = first
                if len(self.compiled) > _CACHED:
                    self.compiled.popitem(last=False)
            self.compiled.move_to_end(key)
            copies = [first.copy() for _ in range(n)]
        for matcher in copies:
            matcher.param = grammar.param
        return copies

    def first(self, grammar: Grammar) -> Matcher:
        """Compile a grammar on a thread of its own, unless it was refused before.

        Call it with the lock held.
        """
        self._check_size(grammar)
        refused = self.refused.get(grammar)
        if refused is None:
            try:
                return self._in_time(grammar, lambda: self.compile(grammar))
            except _TooSlow:
                # Not cached: how much time a compilation takes depends on the machine as well.
                raise _invalid(
                    grammar, "it takes too long to compile", "grammar_too_complex"
                ) from None
            except InvalidParameter as ex:
                self.refused[grammar] = refused = ex
                if len(self.refused) > _CACHED:
                    self.refused.popitem(last=False)
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
        """Compile on a thread with a large stack, and wait only for a limited time.

        A compilation that takes too long goes on, because nothing can end its thread. A request for
        the same grammar then waits for that one.
        """
        try:
            self._ready_tokenizer()  # its time does not count
        except UnusableVocabulary as ex:
            raise _invalid(grammar, str(ex)) from None
        compilation = self.abandoned.pop(grammar, None)
        if compilation is None:
            self.abandoned = {g: c for g, c in self.abandoned.items() if c.runs}
            if len(self.abandoned) >= _MAX_ABANDONED:
                raise Overloaded(
                    "Other grammars are still being compiled; try again later.", code="server_busy"
                )
            compilation = _Compilation(compile)
        until = time.monotonic() + COMPILE_WAIT
        left = COMPILE_SECONDS - compilation.seconds()
        while left > 0 and compilation.runs and time.monotonic() < until:
            compilation.wait(max(left, _LEAST_WAIT))  # it cannot use up the rest sooner
            left = COMPILE_SECONDS - compilation.seconds()
        if compilation.runs:
            self.abandoned[grammar] = compilation
        if left <= 0:
            log.error("a grammar of %d bytes takes too long to compile", len(grammar.source))
            raise _TooSlow
        if compilation.runs:
            log.error("a grammar of %d bytes got %.1f s of processor time in %.0f s",
                      len(grammar.source), COMPILE_SECONDS - left, COMPILE_WAIT)  # fmt: skip
            raise Overloaded(
                "This machine is too busy to compile the grammar; try again later.",
                code="server_busy",
            )
        result = compilation.result
        if isinstance(result, InvalidParameter):
            raise result
        if isinstance(result, BaseException):
            log.error("a grammar could not be compiled", exc_info=result)
            raise _invalid(grammar, "the compiler failed")
        assert result is not None
        return result

    def _ready_tokenizer(self) -> LLTokenizer:
        if self._tokenizer is None:
            if not self._is_usable:  # another attempt may take seconds too
                raise UnusableVocabulary
            try:
                self._tokenizer = self._new_tokenizer()
            except BaseException:  # a Rust panic is not an Exception: a token of over 1,024 bytes
                self._is_usable = False
                log.exception("the vocabulary cannot be used for grammars")
                raise UnusableVocabulary from None
            trim_heap()
        return self._tokenizer

    def _new_tokenizer(self) -> LLTokenizer:
        return LLTokenizer(
            _Tokens(self._vocabulary),  # type: ignore[arg-type]
            n_vocab=self._vocabulary.n_vocab,
            eos_token=sorted(self._vocabulary.eog_ids),
            slices=FEW_SLICES if self._vocabulary.n_vocab > LARGE_VOCABULARY else SLICES,
        )

    def compile(self, grammar: Grammar) -> Matcher:
        """Compile a grammar on this thread, for as long as it takes."""
        tokenizer = self._ready_tokenizer()
        try:
            inner = LLMatcher(tokenizer, self._source(grammar), log_level=0, limits=_LIMITS)
            if inner.is_error():
                raise _Unusable(first_line(inner.get_error()))
            words = (self._vocabulary.n_vocab + 31) // 32
            matcher = Matcher(inner, np.zeros(words, dtype=np.uint32), grammar.param)
            matcher.check_start()
            if matcher.error is not None:
                raise _Unusable(f"at the start of an answer: {matcher.error}")
        except _Unusable as ex:
            if grammar.kind == "json_schema":
                located = _located(grammar.schemas[0], tokenizer, str(ex))
                raise _invalid(grammar, located) from None
            for alone in grammar.schemas:
                self.compile(Grammar.of_schema(alone))  # raises for the schema at fault
            raise _invalid(grammar, plain(str(ex))) from None
        return matcher

    def _source(self, grammar: Grammar) -> str:
        """Return the source that llguidance compiles for a grammar."""
        try:
            return compilable(grammar.kind, grammar.source, grammar.schemas, self._open_objects)
        except GrammarError as ex:
            raise _invalid(grammar, str(ex)) from None


class _Compilation:
    """A compilation on a thread of its own, which has a large stack.

    Attributes:
        result: what was compiled, or the error; None while the compilation runs.
    """

    def __init__(self, compile: Callable[[], Matcher]) -> None:
        self.result: Matcher | BaseException | None = None
        self._clock = ThreadClock()
        self._compile = compile
        before = threading.stack_size(_COMPILE_STACK)
        try:
            self._thread = threading.Thread(target=self._run, name="grammar", daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(before)

    def _run(self) -> None:
        self._clock.start()
        try:
            result: Matcher | BaseException = self._compile()
        except BaseException as ex:
            result = ex
        self._clock.stop()
        self.result = result

    @property
    def runs(self) -> bool:
        """Whether it is still to end."""
        return self.result is None

    def wait(self, seconds: float) -> None:
        """Wait until it ends, but at most ``seconds``."""
        self._thread.join(seconds)

    def seconds(self) -> float:
        """Return the processor time that it has taken."""
        return self._clock.seconds()


class ThreadClock:
    """The processor time of a thread, read by another one."""

    def __init__(self) -> None:
        self._clock: int | None = None
        self._total: float | None = None
        self._began = time.monotonic()

    def start(self) -> None:
        """Start the clock. Call it on the thread that is measured."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def stop(self) -> None:
        """Stop the clock. Call it on the thread that is measured, before it ends."""
        self._total = self.seconds()

    def seconds(self) -> float:
        """Return the processor time that the thread has used; on systems that cannot tell, the
        wall-clock time."""
        if self._total is not None:
            return self._total
        if self._clock is None:
            return time.monotonic() - self._began
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # the thread has ended since
            return self._total or 0.0


class UnusableVocabulary(Exception):
    """llguidance cannot use the vocabulary."""

    def __init__(self) -> None:
        super().__init__("this model's vocabulary does not allow it")


class _TooSlow(Exception):
    """A compilation takes more than :data:`COMPILE_SECONDS` of processor time."""


class _Unusable(Exception):
    """llguidance refuses a grammar; the message is its own."""


def _located(checked: CheckedSchema, tokenizer: LLTokenizer, message: str) -> str:
    """Return the message about a schema with the place of the fault."""

    def fault(part: Json) -> str | None:
        inner = LLMatcher(tokenizer, compilable_part(part), log_level=0, limits=_LIMITS)
        return first_line(inner.get_error()) if inner.is_error() else None

    path, message = locate(checked.schema, message, fault)
    return checked.place(path) + plain(message)


def _invalid(grammar: Grammar, reason: str, code: ErrorCode | None = None) -> InvalidParameter:
    return unusable(grammar.kind, grammar.param, reason, code)
