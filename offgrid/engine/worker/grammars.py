"""What an answer must look like: grammars, compiled with llguidance for one model's vocabulary.

A :class:`Matcher` follows one answer and says for every position which tokens may come next, as a
bit mask that the sampler applies in its own pass. :class:`Masks` computes the masks between two
decodes where that is quick, and beside the decode of the next step where it is not.

No grammar is trusted: sources are limited in size, depth and repetition, compiling in time and
stack, and every step of a matcher in work (``LLParserLimits``) and processor time.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from offgrid.engine.protocol import Grammar
from offgrid.errors import ErrorCode, InvalidParameter, Overloaded
from offgrid.grammar.document import Json, SchemaError, place
from offgrid.grammar.gbnf import GbnfError, gbnf_to_lark
from offgrid.grammar.lark import lark_rules
from offgrid.grammar.pattern import MAX_REPETITION, repetition
from offgrid.grammar.rules import TooTangled, endless_rule
from offgrid.grammar.schema import ESCAPES, locate, parse_schema

log = logging.getLogger(__name__)

MAX_SOURCE = {
    "json_schema": 256 * 1024, "lark": 64 * 1024, "gbnf": 64 * 1024, "regex": 16 * 1024,
    "choice": 128 * 1024, "answer": 512 * 1024,
}  # fmt: skip
"""Bytes of UTF-8 by kind; also the list of kinds."""
MAX_CHOICES = 10_000
COMPILE_SECONDS = 3.0
"""Hostile sources that get past the checks may compile for long; they get this much processor time.
Seconds on the clock would be fewer on a busy machine, and refuse there what compiles elsewhere."""
_COMPILE_WAIT = 60.0
"""Seconds on the clock after which nobody waits any more, whatever the thread has got."""
STEP_SECONDS = 0.1
"""Processor time of one step of a matcher beyond which the grammar is given up."""
HARD_SECONDS = 0.001
"""Processor time of a step from which on a matcher's steps are computed beside the decode. To hand
an easy one to another thread takes longer than to compute it."""
_LEAST_WAIT = 0.01
_MAX_ABANDONED = 2
"""Compilations that nobody waits for any more; with so many no further one is begun."""
_COMPILE_STACK = 64 * 1024 * 1024
"""Bytes. The compiler recurses into schemas."""
_CACHED = 32
_THREADS = 4
"""For hard matchers, so that one of them does not hold up the next."""

_LIMITS = LLParserLimits(
    max_items_in_row=1_200,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
# Sets of tokens for which one look tells whether all of them may come next; only the rest of the
# vocabulary is walked through. llguidance's own list has texts of 10 characters and more, so that
# the end of each string of limited length is walked through whole, and none for words.
_IN_STRING = r'[^"\\\x00-\x1F\x7F]'
_SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    "[a-z]{1,4}",
    "[a-z]+",
    *(f"{_IN_STRING}{{1,{most}}}" for most in (1, 2, 4, 8, 16, 32)),
    f"{_IN_STRING}+",
]
# Answers need no more: an endless run of blanks between two tokens of JSON is valid, and a small
# model falls into it.
_WHITESPACE = r"(?: {1,2}|\n[ \t]{0,32})"
_OWN_PLACE = re.compile(r"at \d+\(\d+\): (?:failed to compile JSON schema: |(?=invalid regex))")
"""Places in what is made here of a schema or a regular expression."""
_NO_WAY_ON = ("NoExtension", "NoExtensionBias")
"""Names of llguidance's for a state that nothing can follow."""
DEAD_ENDS = frozenset({"no token may come next", "no token of the vocabulary continues it"})
"""The errors of a :class:`Matcher` that no limit is to blame for."""
_JSON_OPTIONS = {
    "lenient": False, "coerce_one_of": False, "whitespace_flexible": True,
    "whitespace_pattern": _WHITESPACE, "json_allowed_escapes": ESCAPES,
}  # fmt: skip
# Else only one way to write a text in tokens would be allowed where there is only one text.
_ALL_TOKENS = '\n%llguidance {"no_forcing": true}\n'


class Vocabulary(Protocol):
    """What is needed of :class:`~offgrid.engine.worker.llama.model.Model`."""

    n_vocab: int
    eog_ids: frozenset[int]
    control_ids: tuple[int, ...]

    def vocab_pieces(self) -> list[bytes]:
        """Bytes of every token; of control tokens their names."""


class _Tokens:
    """The vocabulary in the form that ``LLTokenizer`` takes (its ``TokenizerWrapper``)."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.vocab_pieces()
        self.special_token_ids = list(vocabulary.control_ids)
        self.eos_token_id = min(vocabulary.eog_ids)
        self._bytes = {self.tokens[id]: id for id in range(len(self.tokens) - 1, -1, -1)}

    def __call__(self, text: str) -> list[int]:
        """Byte by byte: with ``no_forcing`` it does not matter how the model would write a text."""
        data = text.encode("utf-8")
        ids = (self._bytes.get(data[i : i + 1]) for i in range(len(data)))
        return [id for id in ids if id is not None]


class Matcher:
    """Follows one answer through a grammar. Made by :meth:`Grammars.matchers`.

    Attributes:
        address: of the mask's ``(n_vocab + 31) // 32`` uint32 words, a bit for every token that
            may come next.
        ready: whether the mask is that of the current position.
        accepting: whether the answer is complete as it stands.
        error: why it cannot go on, or None. Whoever has one must draw no more.
        hard: whether one of its steps took long.
        param: the request field that the grammar came in.
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
        """Return one at the same position that goes its own way."""
        return Matcher(self._inner.deep_copy(), self._mask.copy(), self.param)

    def advance(self, token: int) -> None:
        """Take in a drawn token and compute the next mask. Failures go to :attr:`error`."""
        began = time.thread_time()
        try:
            if not self._inner.consume_token(token):
                self.error = _first_line(self._inner.get_error())
            else:
                self._compute()
        except BaseException as ex:  # a Rust panic is no Exception
            log.exception("a grammar failed")
            self.error = type(ex).__name__
        seconds = time.thread_time() - began
        self.hard = self.hard or seconds > HARD_SECONDS
        if seconds > STEP_SECONDS:
            self.error = "a step takes too long"

    def _compute(self) -> None:
        self._inner.unsafe_compute_mask_ptr(self.address, self._mask.nbytes)
        if self._inner.is_error():
            self.error = _first_line(self._inner.get_error())
            return
        self.accepting = bool(self._inner.is_accepting())
        if not self.accepting and (self._inner.is_stopped() or not self._mask.any()):
            self.error = "no token of the vocabulary continues it"

    def check_start(self) -> None:
        """Compute the first mask."""
        self._compute()


def _first_line(message: str) -> str:
    """An error message of the library without states, backtraces and excerpts."""
    text = message.partition("\n<state>")[0].partition("\n<backtrace>")[0]
    text = _OWN_PLACE.sub("", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0].startswith("panic"):
        return "it cannot be compiled"
    if lines[0] in _NO_WAY_ON:
        return "no token may come next"
    if lines[0].endswith("regex parse error:"):
        lines[0] += "".join(line.removeprefix("error:") for line in lines if line[:6] == "error:")
    return lines[0][:300]


class Grammars:
    """Compiles grammars for one vocabulary; the last ones are kept.

    May be used from several threads, which take turns.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[str, str], Matcher] = OrderedDict()
        self._refused: OrderedDict[tuple[str, str, str], InvalidParameter] = OrderedDict()
        self._abandoned: list[threading.Thread] = []
        self._lock = threading.Lock()

    def matchers(self, grammar: Grammar, n: int) -> list[Matcher]:
        """Return ``n`` matchers at the beginning of an answer.

        Raises:
            InvalidParameter: the grammar is malformed, says what cannot be honoured, allows
                nothing, or is beyond a limit.
        """
        key = (grammar.kind, grammar.source)
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
        """Compile a grammar, unless that has failed before."""
        self._check_size(grammar)
        key = (grammar.kind, grammar.source, grammar.param)
        refused = self._refused.get(key)
        if refused is None:
            try:
                return self._in_time(grammar, lambda: self._compile(grammar))
            except InvalidParameter as ex:
                self._refused[key] = refused = ex
                if len(self._refused) > _CACHED:
                    self._refused.popitem(last=False)
        raise InvalidParameter(refused.message, refused.param, code=refused.code)

    def _check_size(self, grammar: Grammar) -> None:
        limit = MAX_SOURCE.get(grammar.kind)
        if limit is None:
            raise InvalidParameter(f"Unknown kind of grammar: {grammar.kind}.", grammar.param)
        size = len(grammar.source.encode("utf-8"))
        if size > limit:
            raise _invalid(grammar, f"it has {size} bytes, at most {limit} are taken")
        if not self._vocabulary.eog_ids:
            raise _invalid(grammar, "this model has no token that ends an answer")

    def _in_time(self, grammar: Grammar, compile: Callable[[], Matcher]) -> Matcher:
        """Compile in a thread with a stack of its own, and do not wait for ever."""
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        if len(self._abandoned) >= _MAX_ABANDONED:
            raise Overloaded("Other grammars are still being compiled.", code="server_busy")
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
            thread.join(max(left, _LEAST_WAIT))  # it cannot have spent the rest before
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

    def _compile(self, grammar: Grammar, schema: Json | None = None) -> Matcher:
        """Compile a grammar; a schema that has been checked comes with it."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            ends = sorted(self._vocabulary.eog_ids)
            tokenizer = LLTokenizer(
                _Tokens(self._vocabulary),  # type: ignore[arg-type]
                n_vocab=self._vocabulary.n_vocab,
                eos_token=ends,
                slices=_SLICES,
            )
            self._tokenizer = tokenizer
        inner_schemas = [Grammar("json_schema", source, param) for param, source in grammar.schemas]
        checked = [_checked(inner) for inner in inner_schemas]
        if schema is None and grammar.kind == "json_schema":
            schema = _checked(grammar)
        try:
            source = _compilable(grammar) if schema is None else _schema(schema)
            inner = LLMatcher(tokenizer, source, log_level=0, limits=_LIMITS)
            if inner.is_error():
                raise _Unusable(_first_line(inner.get_error()))
            words = (self._vocabulary.n_vocab + 31) // 32
            matcher = Matcher(inner, np.zeros(words, dtype=np.uint32), grammar.param)
            matcher.check_start()
            if matcher.error is not None:
                raise _Unusable(f"at the start of an answer: {matcher.error}")
        except _Unusable as ex:
            for alone, its_schema in zip(inner_schemas, checked, strict=True):
                self._compile(alone, its_schema)  # to find which one it is
            raise _invalid(grammar, _located(schema, tokenizer, str(ex))) from None
        except GbnfError as ex:
            raise _invalid(grammar, str(ex)) from None
        return matcher


class _ThreadClock:
    """The processor time of a thread, read by another one."""

    def __init__(self) -> None:
        self._clock: int | None = None
        self._began = time.monotonic()

    def start(self) -> None:
        """Called in the thread that is measured."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())

    def seconds(self) -> float:
        """What the thread has spent; on systems that do not say, what has gone by on the clock."""
        if self._clock is None:
            return time.monotonic() - self._began
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # the thread has ended
            return 0.0


class _Unusable(Exception):
    """The library's own words about a grammar."""


def _located(schema: Json | None, tokenizer: LLTokenizer, message: str) -> str:
    """What is at fault, in a schema with the place."""
    if schema is None:
        return _plain(message)

    def fault(part: Json) -> str | None:
        inner = LLMatcher(tokenizer, _schema(part), log_level=0, limits=_LIMITS)
        return _first_line(inner.get_error()) if inner.is_error() else None

    path, message = locate(schema, message, fault)
    return place(path) + _plain(message)


def _invalid(grammar: Grammar, reason: str, code: ErrorCode | None = None) -> InvalidParameter:
    names = {
        "json_schema": "JSON schema", "lark": "Lark grammar", "gbnf": "GBNF grammar",
        "regex": "regular expression", "choice": "list of choices",
    }  # fmt: skip
    name = names.get(grammar.kind, "grammar")
    return InvalidParameter(f"The {name} cannot be used: {reason}.", grammar.param, code=code)


def _plain(message: str) -> str:
    """The library's words where they speak of options that nobody has here."""
    if message.startswith("Unimplemented keys"):
        return message.replace("Unimplemented keys", "unsupported keywords")
    if message.startswith("oneOf constraints are not supported"):
        return "oneOf with alternatives that may overlap is not supported; use anyOf"
    if message.startswith("Failed to generate regex for"):
        return "minimum or maximum is too large"
    if message.startswith("Unsatisfiable schema: Regex is empty"):
        return "unsatisfiable: no text has its pattern, format and length"
    return message.rstrip(".")


def _schema(checked: Json) -> str:
    """A checked schema as a Lark grammar, whose options apply to it."""
    schema = {**checked, "x-guidance": _JSON_OPTIONS}
    return f"start: %json {json.dumps(schema)}{_ALL_TOKENS}"


def _compilable(grammar: Grammar) -> str:
    """A grammar that is no schema in the library's dialect of Lark."""
    kind, source = grammar.kind, grammar.source
    if kind == "gbnf":
        return gbnf_to_lark(source) + _ALL_TOKENS
    if kind == "regex":
        if repetition(source) > MAX_REPETITION:
            raise _Unusable("it repeats too much")
        (compiled,) = json.loads(LLMatcher.grammar_from_regex(source))["grammars"]
        return str(compiled["lark_grammar"]) + _ALL_TOKENS
    if kind == "choice":
        return _choice(json.loads(source)) + _ALL_TOKENS
    if kind == "lark" and "%json" in source:
        # Schemas in Lark would get around the checks that schemas need.
        raise _Unusable("%json is not supported, send the schema as one")
    try:
        endless = endless_rule(lark_rules(source) or {}, "start") if kind == "lark" else None
    except TooTangled as ex:
        raise _Unusable(str(ex)) from None
    if endless is not None:
        raise _Unusable(f"rule {endless} never ends, as it needs itself")
    return source + _ALL_TOKENS


def _checked(grammar: Grammar) -> Json:
    """The schema of a grammar of that kind, as it is compiled."""
    try:
        return parse_schema(grammar.source)
    except SchemaError as ex:
        raise _invalid(grammar, ex.place + str(ex)) from None


def _choice(texts: list[str]) -> str:
    """One lexeme of all texts: the work of a step does not grow with their number."""
    if not texts or len(texts) > MAX_CHOICES:
        raise _Unusable(f"it takes 1 to {MAX_CHOICES} texts")
    alternatives = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return f"start: CHOICE\nCHOICE: {alternatives}\n"


class Masks:
    """Lets matchers follow the drawn tokens; hard ones in threads, while llama.cpp computes."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def start(self, drawn: list[tuple[Matcher, int]]) -> None:
        """Compute the masks after the given tokens, or begin to."""
        for matcher, token in drawn:
            if matcher.hard:
                self._start(matcher, token)
            else:
                matcher.advance(token)

    def _start(self, matcher: Matcher, token: int) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="masks")
        matcher.ready = False
        matcher.future = self._threads.submit(_advance, matcher, token)

    def wait(self, matchers: Iterable[Matcher], seconds: float) -> None:
        """Wait until all are ready, but not longer than that."""
        pending = {m.future for m in matchers if not m.ready and m.future is not None}
        if pending:
            wait(pending, seconds)


def _advance(matcher: Matcher, token: int) -> None:
    matcher.advance(token)
    matcher.ready = True
