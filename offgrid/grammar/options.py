"""How grammars are compiled with llguidance. Each option is stated here and nowhere else.

https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md lists those of JSON
schemas, https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md those of Lark.
"""

from __future__ import annotations

ESCAPES = 'nrbtf\\"'
"""What may follow a backslash in an answer's strings. Not ``u``: the compiler takes ``"\\\\u0061"``
for another name than ``"a"``, and would let its value be anything."""

_JSON_OPTIONS = {"lenient": False, "coerce_one_of": False, "json_allowed_escapes": ESCAPES}

ANSWER_OPTIONS = {
    **_JSON_OPTIONS, "whitespace_flexible": True,
    "whitespace_pattern": r"(?: {1,2}|\n[ \t]{0,32})",
}  # fmt: skip
"""``x-guidance`` of a schema that an answer follows. Its reader may like line ends and indents, but
no endless run of blanks between two tokens of JSON: that is valid, and a small model falls into it.
"""

ARGUMENT_OPTIONS = {
    **_JSON_OPTIONS, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ",
}  # fmt: skip
"""``x-guidance`` of the arguments of a call: spaces as chat templates and training texts have
them."""

NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
"""Follows each grammar in Lark. Otherwise the compiler allows one way only to write a text in
tokens wherever there is one text only."""

_IN_STRING = r'[^"\\\x00-\x1F\x7F]'
SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    "[a-z]{1,4}",
    "[a-z]+",
    *(f"{_IN_STRING}{{1,{most}}}" for most in (1, 2, 4, 8, 16, 32)),
    f"{_IN_STRING}+",
]
"""Sets of tokens for which one look tells whether all of them may come next; only the rest of the
vocabulary is walked through. The compiler's own list has texts of 10 characters and more, so that
the end of each string of limited length is walked through whole, and none for words."""
