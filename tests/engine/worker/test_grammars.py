"""Compiling grammars with the starter's vocabulary: refusals, limits of time, and the cache."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from llguidance import LLTokenizer
from matchers import allowed, make
from schemas import composed_schema
from support import TIMEOUT
from work import lines_run

from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker import grammars as module
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Matcher
from offgrid.errors import InvalidParameter, Overloaded

LOAD = {"ctx_size": 64, "parallel": 1}


@pytest.fixture(scope="module")
def grammars(loaded: Model) -> Grammars:
    return Grammars(loaded)


def test_closing_objects_makes_no_schema_unusable(loaded: Model, grammars: Grammars) -> None:
    compared = compare_with_open_objects(Grammars(loaded, open_objects=True), grammars, range(60))
    assert compared > 30


@pytest.mark.slow
def test_closing_objects_makes_none_of_many_schemas_unusable(
    loaded: Model, grammars: Grammars
) -> None:
    """The default run covers 60 of them."""
    compared = compare_with_open_objects(
        Grammars(loaded, open_objects=True), grammars, range(60, 3000)
    )
    assert compared > 1500


def compare_with_open_objects(opened: Grammars, closed: Grammars, seeds: range) -> int:
    """Compile schemas with closed objects that compile with open ones; return their number."""
    compared = 0
    for seed in seeds:
        schema = composed_schema(seed)
        try:
            make(opened, "json_schema", schema)
        except InvalidParameter:
            continue
        make(closed, "json_schema", schema)
        compared += 1
    return compared


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("json_schema", {"type": "object", "properties": {"a/b": {"items": {"uniqueItems": True}}}},
         "at /properties/a~1b/items: unsupported keywords"),
        ("json_schema", {"anyOf": [{}, {"type": "string", "format": "regex"}]},
         "at /anyOf/1: Unknown format: regex"),
        ("json_schema", {"$defs": {"x": {"type": "foo"}}, "$ref": "#/$defs/x"}, "at /$defs/x: Inv"),
        ("json_schema", {"type": "string", "pattern": "a(?<=b)"}, "look-around"),
        ("json_schema", {"type": "string", "pattern": "(a(?!b))*"}, "a pattern repeats a group"),
        ("regex", "a(?!b)", "look-around"),
        ("json_schema", {"items": {"pattern": "^(?!\\b)"}}, "at /items: a pattern has a look"),
        ("regex", "(?!a$b)c", "it has an anchor in the middle"),
        ("json_schema", {"type": "string", "pattern": "(["}, "unclosed character class"),
        ("json_schema", {"oneOf": [{"type": "number"}, {"type": "integer"}]}, "use anyOf"),
        ("json_schema", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
         "at /$defs/a: it refers only to itself"),
        ("json_schema", {"$ref": "#/$defs/a"}, "points to nothing"),
        ("json_schema", {"$ref": "http://example.com/schema"}, "points outside the schema"),
        ("json_schema", {"type": "integer", "minimum": 5, "maximum": 2}, "nsatisfiable"),
        ("json_schema", {"enum": []}, "nsatisfiable"),
        ("json_schema", {"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
        ("json_schema", '{"a":', "not valid JSON"),
        ("json_schema", "[1]", "must be an object"),
        *(("json_schema", {word: value}, "unsupported keywords") for word, value in {
            "not": {"type": "null"}, "dependentRequired": {"a": ["b"]}, "uniqueItems": True,
            "contains": {"type": "null"}, "propertyNames": {"format": "uuid"}, "$dynamicRef": "#a",
            "dependencies": {"a": ["b"]}}.items()),
        ("regex", "([", "unclosed character class"),
        ("regex", r"\bword", "ookaround"),
        ("regex", "a" * 20_000, "the maximum is 16384"),
        ("lark", "start: foo", "unknown name"),
        ("lark", "start: <|nope|>", "unknown special token"),
        ("lark", 'start: %json {"type":"integer","multipleOf":99999999}', "%json"),
        ("gbnf", "root ::= x", "uses x, which is not defined"),
        ("gbnf", 'rot ::= "a"', "no rule named root"),
        ("gbnf", 'root ::= "a\n', "line 1: a text or class is not closed"),
        ("gbnf", 'root ::= "a"\nx = "b"', "line 2: expected ::="),
        ("gbnf", "root ::= <[12]>", "line 1: expected"),
        ("gbnf", 'root ::= "a"\nroot ::= "b"', "line 2: rule root is defined twice"),
        ("gbnf", "root ::= [z-a]", "descending order"),
        ("gbnf", 'root ::= "a"{3,1}', "descending order"),
        ("gbnf", 'root ::= "\\q"', "unknown escape"),
        ("choice", [], "1 to 10000"),
        ("prose", "x", "Unknown kind"),
    ],
)  # fmt: skip
def test_grammars_that_are_refused(
    grammars: Grammars, kind: str, source: Any, message: str
) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(message)) as error:
        make(grammars, kind, source)
    assert error.value.param == "field"


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("gbnf", 'root ::= "a" root | "b"'),
        ("gbnf", 'root ::= "a"\nunused ::= "a" unused'),
        ("gbnf", 'root ::= x*\nx ::= "a" root "b"'),
        ("lark", 'start: a (" " a)*\na: /x/ | "[" start "]" -> foo\n  | B\nB: "b".."d" & /[a-c]/'),
        ("lark", 'start: x~2..3\nx[capture]: "b" | x "c"'),
        ("lark", '%llguidance {"no_forcing": true}\nstart: x{2,3} y?\n?x: "a" [x]\ny: "b"+ x'),
    ],
)
def test_rules_that_end(grammars: Grammars, kind: str, source: str) -> None:
    make(grammars, kind, source)


def chain(n: int, link: Callable[[int], Any]) -> dict[str, Any]:
    return {"$ref": "#/$defs/0", "$defs": {str(i): link(i + 1) for i in range(n)}}


def waiting_rules(first: str, count: int) -> str:
    """One rule needs all others; they end one after another, in the order that it needs."""
    needed = " ".join(f"c{i}" for i in range(count - 1, -1, -1))
    chain = "".join(f'c{i}: c{i + 1} "x" | "y"\n' for i in range(count - 1))
    return f'{first}: c0\n{chain}c{count - 1}: r "x" | "y"\nr: {needed}\n'


HOSTILE: dict[str, tuple[str, Any]] = {
    "waiting rules": ("lark", waiting_rules("start", 1_000)),
    "gbnf waiting rules": ("gbnf", waiting_rules("root", 1_000).replace(":", " ::=")),
    "groups": ("lark", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "gbnf groups": ("gbnf", "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "suffixes": ("lark", "start: x" + "*" * 20_000 + '\nx: "a"'),
    "gbnf suffixes": ("gbnf", "root ::= x" + "?" * 20_000 + '\nx ::= "a"'),
    "regex groups": ("regex", "(" * 8_000 + "a" + ")" * 8_000),
    "regex power": ("regex", "((((a{100}){100}){100}){100}){100}"),
    "pattern power": ("json_schema", {"type": "string", "pattern": "(((a{1000}){1000}){9}){9}"}),
    "gbnf power": ("gbnf", 'root ::= ((("a"{1000}){1000}){1000}){1000}'),
    "gbnf power of rules": ("gbnf", "".join(f"r{i} ::= r{i + 1}{{99}}\n" for i in range(9))
                            + 'r9 ::= "a"\nroot ::= r0\n'),
    "optional": ("gbnf", 'root ::= (' + '"a"? ' * 10 + "){0,10}"),
    "optional classes": ("gbnf", "root ::= (" + "[a-z]? " * 10 + "){0,10}"),
    "subset": ("regex", "(a|b)*a(a|b){200}c"),
    "subset pattern": ("json_schema", {"type": "string", "pattern": "^(a|b)*a(a|b){200}c$"}),
    "intersection": ("lark", "start: A\nA: /(a|b)*a(a|b){20}/ & /(a|b)*a(a|b){23}/ & ~/b{29}/"),
    "ambiguous": ("lark", 'start: e\ne: e e | e e e | "" | /[a-z]/ | /[a-z][a-z]/'),
    "left recursion": ("lark", "start: start"),
    "many rules": ("lark", 'start: x{1000000}\nx: y{1000}\ny: "a" | z\nz: "b" z'),
    "remainders": ("json_schema", {"type": "integer", "multipleOf": 99_999_999}),
    "many multiples": ("json_schema", {"properties": {f"p{i}": {"multipleOf": 9_973, "minimum": i}
                                                      for i in range(600)},
                                       "required": [f"p{i}" for i in range(600)]}),
    "patterns": ("json_schema", {"allOf": [{"type": "string", "pattern": f"a{i}"}
                                           for i in range(40)]}),
    "patterns of a property": ("json_schema", {"allOf": [
        {"properties": {"p": {"$ref": f"#/$defs/{i}"}}} for i in range(40)],
        "$defs": {str(i): {"pattern": f"a{i}"} for i in range(40)}}),
    "some patterns": ("json_schema", {"allOf": [{"type": "string", "pattern": f"a{i}"}
                                                for i in range(10)]}),
    "patterns of names": ("json_schema", {"patternProperties": {f"^a{i}[a-z]*x{i}$": {}
                                                                for i in range(300)}}),
    "common multiple": ("json_schema", {"allOf": [{"multipleOf": p} for p in (97, 89, 83, 79)]}),
    "nested": ("json_schema", '{"items":' * 5_000 + "{}" + "}" * 5_000),
    "references": ("json_schema", chain(20_000, lambda i: {"items": {"$ref": f"#/$defs/{i}"}})),
    "deep references": ("json_schema", chain(2_000, lambda i: {"items": {"$ref": f"#/$defs/{i}"}})),
    "doubling": ("json_schema", chain(30, lambda i: {"allOf": [{"$ref": f"#/$defs/{i}"}] * 2})),
    "either": ("json_schema", {"allOf": [{"anyOf": [{"required": [f"{i}"]}, {"type": "string"}]}
                                         for i in range(30)]}),
    "wide": ("json_schema", {"properties": {f"p{i}": {} for i in range(5_000)}}),
    "large": ("json_schema", {"enum": list(range(60_000))}),
    "many choices": ("choice", [f"option {i * 7919}" for i in range(5_000)]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_cost_little(
    grammars: Grammars, model: Model, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Limits that count work refuse them or make following them cheap.

    Time limits are for grammars not foreseen here, so this test sets them high.
    """
    monkeypatch.setattr(module, "COMPILE_SECONDS", 60)
    monkeypatch.setattr("offgrid.engine.worker.matcher.STEP_SECONDS", 60)
    kind, source = HOSTILE[name]
    text = source if isinstance(source, str) else json.dumps(source)
    found: list[Matcher] = []
    refused: list[InvalidParameter] = []

    def compile() -> None:
        try:
            found.append(make(grammars, kind, text))
        except InvalidParameter as ex:
            refused.append(ex)

    assert lines_run(compile) < 60 * len(text) + 20_000
    for error in refused:
        assert "the compiler failed" not in error.message
        assert error.code != "grammar_too_complex"
    rng = random.Random(1)
    for matcher in found:
        for _ in range(40):
            choices = sorted(allowed(matcher, model.n_vocab) - model.eog_ids)
            if not choices or matcher.error is not None:
                break
            matcher.advance(rng.choice(choices))
        assert matcher.error != "a step takes too long"


def test_compiling_has_a_time_limit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(model)
    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.05)
    # Disable the check that would refuse this schema.
    monkeypatch.setattr("offgrid.grammar.schema.MAX_MULTIPLE", 1 << 40)
    hard = {"type": "integer", "multipleOf": 99_991}
    with pytest.raises(InvalidParameter, match="too long") as error:
        make(grammars, "json_schema", hard)
    assert error.value.code == "grammar_too_complex"
    assert not grammars.refused  # a faster moment, or a faster machine, may manage it
    monkeypatch.setattr(module, "COMPILE_SECONDS", 60)
    assert make(grammars, "regex", "a").accepting is False  # others are served in the meantime


def test_the_tokeniser_of_grammars_does_not_count(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large vocabulary takes longer than a grammar may, and is built for the first grammar at the
    latest."""
    grammars = Grammars(model)
    built: list[int] = []

    def build(*args: Any, **options: Any) -> LLTokenizer:
        until = time.thread_time() + 2 * module.COMPILE_SECONDS
        while time.thread_time() < until:
            pass
        built.append(1)
        return LLTokenizer(*args, **options)

    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.2)
    monkeypatch.setattr(module, "LLTokenizer", build)
    assert not make(grammars, "choice", ["a"]).accepting
    grammars.prepare()
    assert built == [1]


class Stuck:
    """A compilation that waits for permission to go on, and a clock that shows what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, grammars: Grammars) -> None:
        self.gets_on = threading.Event()
        self.begun = 0
        self.spent = 0.0
        monkeypatch.setattr(grammars, "compile", self._compile)
        monkeypatch.setattr(module.ThreadClock, "seconds", lambda clock: self.spent)

    def _compile(self, grammar: Grammar) -> Any:
        self.begun += 1
        assert self.gets_on.wait(TIMEOUT)
        return grammar.source


@pytest.mark.slow
def test_a_compilation_without_processor_time_is_no_refusal(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is at fault, so the client may try again; the same compilation then goes on."""
    grammars = Grammars(model)
    stuck = Stuck(monkeypatch, grammars)
    monkeypatch.setattr(module, "COMPILE_WAIT", 0.02)
    grammar = Grammar("regex", "a", "field")
    for _ in range(4):
        with pytest.raises(Overloaded, match="too busy to compile") as error:
            grammars.first(grammar)
        assert error.value.code == "server_busy"
    stuck.gets_on.set()
    monkeypatch.setattr(module, "COMPILE_WAIT", TIMEOUT)
    assert grammars.first(grammar) == "a"
    assert stuck.begun == 1
    assert not grammars.abandoned


def test_only_some_compilations_run_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(model)
    stuck = Stuck(monkeypatch, grammars)
    stuck.spent = 2 * module.COMPILE_SECONDS
    for source in ("a", "b", "a", "b"):
        with pytest.raises(InvalidParameter, match="takes too long"):
            grammars.first(Grammar("regex", source, "field"))
    with pytest.raises(Overloaded, match="Other grammars"):
        grammars.first(Grammar("regex", "c", "field"))
    assert stuck.begun == 2
    stuck.gets_on.set()
    for compilation in grammars.abandoned.values():
        compilation.wait(TIMEOUT)
    stuck.spent = 0.0
    assert grammars.first(Grammar("regex", "c", "field")) == "c"


def test_a_compilation_that_gets_no_processor_time_is_awaited(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine gives the same answer as an idle one."""
    grammars = Grammars(model)
    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.001)
    gets_on = threading.Event()
    asked = []

    def compile(grammar: Grammar) -> Matcher:
        assert gets_on.wait(TIMEOUT)
        return "compiled"  # type: ignore[return-value]

    def seconds(clock: object) -> float:
        asked.append(clock)
        if len(asked) == 3:
            gets_on.set()
        return 0.0

    monkeypatch.setattr(grammars, "compile", compile)
    monkeypatch.setattr(module.ThreadClock, "seconds", seconds)
    assert grammars.first(Grammar("regex", "a", "field")) == "compiled"
    assert len(asked) >= 3


def test_a_thread_clock_runs_while_its_thread_does() -> None:
    clock = module.ThreadClock()
    clock.start()
    at_first = clock.seconds()
    sum(range(100_000))
    assert clock.seconds() > at_first >= 0


def test_compiled_grammars_are_cached_up_to_a_limit(model: Model) -> None:
    grammars = Grammars(model)
    first = make(grammars, "regex", "a|b")
    first.advance(min(allowed(first, model.n_vocab)))
    # One answer does not change the matcher of the next.
    second = make(grammars, "regex", "a|b")
    assert not second.accepting
    for number in range(100):
        make(grammars, "choice", [str(number)])
    assert len(grammars.compiled) <= 32


def test_a_refused_grammar_is_not_compiled_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = Grammars(model)
    with pytest.raises(InvalidParameter) as first:
        make(grammars, "json_schema", {"not": {}})
    monkeypatch.setattr(grammars, "compile", lambda grammar: pytest.fail("compiled again"))
    with pytest.raises(InvalidParameter) as second:
        make(grammars, "json_schema", {"not": {}})
    assert (first.value.message, first.value.param) == (second.value.message, second.value.param)
    monkeypatch.undo()
    for number in range(40):
        with pytest.raises(InvalidParameter):
            make(grammars, "regex", f"({number}")
    assert len(grammars.refused) <= 32
