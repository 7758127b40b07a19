"""A compiled content filter: what the server checks prompts with, and sends to the workers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

import msgspec

from offgrid.filters.automaton import Automaton
from offgrid.filters.folding import fold, fold_table
from offgrid.filters.pattern import parse_pattern
from offgrid.sampling import Filter

MAX_PHRASE = 256
"""Bytes of a phrase."""
MAX_PHRASES = 4 << 20
"""Bytes of all phrases together."""


class Term(msgspec.Struct, frozen=True, order=True):
    """A phrase or, with ``is_pattern``, a regular expression; ``any_case`` concerns patterns:
    the case of phrases never matters."""

    text: str
    is_pattern: bool = False
    any_case: bool = False


class Tables(msgspec.Struct, frozen=True, array_like=True):
    """The arguments of :class:`offgrid.sampling.Filter`, without the table of folding."""

    phrases: tuple[str, ...] = ()
    patterns: tuple[bytes, ...] = ()

    def filter(self) -> Filter | None:
        """Return the filter; None if it has no terms."""
        if not self.phrases and not self.patterns:
            return None
        return Filter(self.phrases, fold_table(), self.patterns)


class FilterProgram(msgspec.Struct, frozen=True, omit_defaults=True):
    """A filter for answers and for prompts. ``digest`` names it: the SHA-256 of its terms."""

    digest: str
    answers: Tables = Tables()
    prompts: Tables | None = None
    """None if prompts have the same terms as answers."""

    @property
    def reference(self) -> FilterProgram:
        """The same filter without its tables, for a worker that has got them."""
        return FilterProgram(self.digest)


def compile_terms(answers: Iterable[Term], prompts: Iterable[Term]) -> FilterProgram:
    """Compile the terms for answers and for prompts, which were parsed before.

    Raises:
        PatternError: a pattern is not valid, or there are too many.
    """
    for_answers, for_prompts = tuple(sorted(set(answers))), tuple(sorted(set(prompts)))
    named = msgspec.msgpack.encode((for_answers, for_prompts))
    digest = hashlib.sha256(named).hexdigest()
    same = for_prompts == for_answers
    return FilterProgram(digest, _tables(for_answers), None if same else _tables(for_prompts))


@functools.lru_cache(maxsize=4)
def _tables(terms: tuple[Term, ...]) -> Tables:
    automaton = Automaton()
    for term in terms:
        if term.is_pattern:
            automaton.add(parse_pattern(term.text, any_case=term.any_case))
    phrases = {fold(term.text) for term in terms if not term.is_pattern}
    return Tables(tuple(sorted(phrases)), automaton.tables())
