"""Files that people write, with random contents: each is used, or refused with a reason."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.chat.template import ChatTemplate
from offgrid.config import load_settings
from offgrid.errors import ConfigError, InvalidParameter, OffgridError
from offgrid.filters.pattern import PatternError, parse_pattern
from offgrid.filters.program import compile_terms
from offgrid.filters.source import parse_line, read_filter
from offgrid.sampling import TextStream

TOML = b"""port = 11611
keep_alive = "5m"
model_aliases = { a = "b" }
cors_origins = ["http://a.example"]
[models."x"]
ctx_size = 8192
temperature = 0.5
"""
FILTER = b"# words\nbad word\n/\\bugly\\s{1,5}words?\\b/i\n[answers]\n/[a-z]{2,5}|\\d/\n"
PIECES = (
    "{{ ", " }}", "{% ", " %}", "for m in messages", "endfor", "if m", "endif", "else", "set a = ",
    "m.content", "messages[0]", "a", "| tojson", "| length", "| join", "| batch(2)", " ~ ", " + ",
    " * ", " ** ", "'x'", "9", "1000000", "(", ")", "[", "]", "{", "}", ".", ",", "'", "\"",
    "range", "namespace()", "raise_exception", "macro f(x)", "endmacro", "f(f)", "-", "not ", "{#",
    "#}", "\n", ".format", ".split", ".__class__", "loop", "cycler", "joiner()", "strftime_now",
    "\ud800", "\0",
)  # fmt: skip
SIGNS = st.text("ab()[]{}|?*+.\\^$-,0129wdsbBxu/i#\n é", max_size=30)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return data with a few parts changed, removed or repeated."""
    made = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(made) + 1)
        end = min(len(made), at + rng.randrange(6))
        made[at:end] = rng.choice(
            [b"", rng.randbytes(rng.randrange(4)), bytes(made[at:end]) * 3, b'"""', b"[[", b"= {"]
        )
    return bytes(made)


def read_configurations(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    path = folder / "config.toml"
    for _ in range(count):
        path.write_bytes(mutated(TOML, rng))
        with contextlib.suppress(ConfigError):
            load_settings({}, environ={"OFFGRID_CONFIG": str(path)})


@pytest.mark.slow
def test_random_configurations(tmp_path: Path) -> None:
    read_configurations(tmp_path, 300, seed=1)


@pytest.mark.slow
def test_many_random_configurations(tmp_path: Path) -> None:
    """The default run covers 300 of them."""
    read_configurations(tmp_path, 20_000, seed=2)


def read_filters(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    path = folder / "filter.txt"
    for _ in range(count):
        path.write_bytes(mutated(FILTER, rng))
        with contextlib.suppress(ConfigError):
            terms = read_filter(path)
            found = compile_terms(terms.answers, terms.prompts).answers.filter()
            assert found is None or found.found("x ugly words") in (True, False)


def test_random_filter_files(tmp_path: Path) -> None:
    read_filters(tmp_path, 300, seed=1)


@pytest.mark.slow
def test_many_random_filter_files(tmp_path: Path) -> None:
    """The default run covers 300 of them."""
    read_filters(tmp_path, 20_000, seed=2)


@given(SIGNS)
def test_random_patterns(source: str) -> None:
    """C10: each is compiled, or refused as a pattern."""
    with contextlib.suppress(PatternError):
        parse_pattern(source, any_case=True)
        line = f"/{source}/".split("\n")[0]
        term = parse_line(line)
        compile_terms([term], [])


def render_templates(count: int, seed: int) -> None:
    rng = random.Random(seed)
    messages = [{"role": "user", "content": "a"}]
    for _ in range(count):
        source = "".join(rng.choices(PIECES, k=rng.randrange(1, 24)))
        with contextlib.suppress(InvalidParameter):
            ChatTemplate(source, "<s>", "</s>", ["<s>"]).render(messages)


def test_random_templates() -> None:
    """C23, D1: each is rendered, or refused with InvalidParameter."""
    render_templates(200, seed=1)


@pytest.mark.slow
def test_many_random_templates() -> None:
    """The default run covers 200 of them."""
    render_templates(20_000, seed=2)


@given(st.lists(st.text(min_size=1, max_size=5), max_size=5), st.lists(st.binary(max_size=6)))
@settings(max_examples=200)
def test_random_stop_strings(stops: list[str], pieces: list[bytes]) -> None:
    """B2: any bytes become text; an unpaired surrogate in a stop string is refused."""
    with contextlib.suppress(OffgridError):
        stream = TextStream(stops)
        said = "".join([stream.feed(piece) for piece in pieces] + [stream.flush()])
        said.encode()
