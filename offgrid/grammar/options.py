"""Options for compiling grammars with llguidance. Each option is stated only here.

https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md lists the options of JSON
schemas, https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md those of Lark.
"""

from __future__ import annotations

ESCAPES = 'nrbtf\\"'
"""Characters that may follow a backslash in an answer's strings. ``u`` is not among them, because
the compiler takes ``"\\\\u0061"`` for another name than ``"a"``, and would allow it any value."""

JSON_OPTIONS = {
    "lenient": False, "coerce_one_of": False, "json_allowed_escapes": ESCAPES,
    "whitespace_flexible": True,
    "whitespace_pattern": r"(?: {1,2}|\n[ \t]{0,32})",
}  # fmt: skip
"""``x-guidance`` of a schema, for an answer or for the arguments of a call. Models write JSON in
one line, without spaces (gpt-oss) or indented (Command R+). All of that is allowed, but not an
endless run of blanks between two JSON tokens: it is valid, and small models fall into it."""

NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
"""Follows each grammar in Lark. Otherwise the compiler forces one tokenisation wherever the text is
determined."""

MAX_ANSWER = 512 * 1024
"""Bytes of a grammar that the server has written, together with its schemas."""

_IN_STRING = r'[^"\\\x00-\x1F\x7F]'
SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    "[a-z]{1,4}",
    "[a-z]+",
    *(f"{_IN_STRING}{{1,{most}}}" for most in (1, 2, 4, 8, 16, 32)),
    f"{_IN_STRING}+",
]
"""Sets of tokens that a single check can allow as a whole; only the rest of the vocabulary is
checked token by token. The compiler's own list has texts of 10 characters and more, so that near
the end of a string of limited length every token is checked, and it has no set for words."""
FEW_SLICES = [SLICES[0], SLICES[2], f"{_IN_STRING}{{1,4}}", f"{_IN_STRING}{{1,16}}", SLICES[-1]]
"""The same for large vocabularies: each set takes 14 MiB with 262,144 tokens."""
LARGE_VOCABULARY = 150_000
"""Tokens. Larger vocabularies get fewer sets."""
