"""Hostile and faulty templates: each ends soon, with an error, and uses little memory."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from jinja2 import TemplateError
from support import together
from work import lines_run

from offgrid.chat import budget, sandbox
from offgrid.chat.budget import Budget, TemplateLimit
from offgrid.chat.dialect import Dialect
from offgrid.chat.sandbox import Sandbox
from offgrid.chat.template import ChatTemplate
from offgrid.errors import InvalidParameter

resource = pytest.importorskip("resource", reason="peak memory is asked of Unix")
MESSAGES = [{"role": "user", "content": "Hello!", "list": [1]}]


def render(source: str, **variables: Any) -> str:
    box = Sandbox(interruptible=False)
    return box.render_bounded(box.from_string(source), {"messages": MESSAGES, **variables})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ joiner.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ raise_exception.__code__.co_consts }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '{x.__class__.__mro__}'.format_map({'x': ''}) }}",
        "{{ (messages | map(attribute='__class__') | first).__mro__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set x = range.__globals__ %}{{ x.os }}",
        "{{ (messages | map('length')).gi_frame.f_globals }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ messages[0].list.pop() }}",
        "{{ messages.sort() }}",
        "{{ (messages | attr('clear'))() }}",
        "{% set messages[0].role = 'system' %}",
    ],
)
def test_python_is_out_of_reach(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)
    assert MESSAGES == [{"role": "user", "content": "Hello!", "list": [1]}]


def test_a_template_may_change_its_own_lists_only() -> None:
    assert (
        render("{% set own = [0] %}{% set _ = own.append(1) %}{{ own.pop(0) }}{{ own }}") == "0[1]"
    )
    for source in (
        "{{ tools.append(1) }}",
        "{{ messages[0].list.append(2) }}",
        "{{ tools.pop() }}",
    ):
        with pytest.raises(TemplateError, match="unsafe"):
            render(source, tools=[1])
    with pytest.raises(TemplateError):
        render(
            "{% set own = [] %}{% for i in range(9**9) %}{% set _ = own.append(i) %}{% endfor %}"
        )


MILLION = "{% set big = 'a' * 1000000 %}"
GROW = "{% set ns = namespace(x='ab', y=[1]) %}{% for i in range(1000) %}"
NEST = (
    "{% set a = ['x', 'x'] %}{% set b = ['x', 'x'] %}"
    + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60
)

TUPLES = "{% set t = ('x', 'x') %}" + "{% set t = (t, t) %}" * 60


@pytest.mark.parametrize(
    "source",
    [
        # Loops without end.
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(90000) recursive %}{{ loop(range(90000)) }}{% endfor %}",
        "{% for i in [1] recursive %}{% if loop.depth < 4 %}{{ loop(range(90000)) }}{% endif %}"
        "{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
        "{{ m(40) }}",
        "{% block x %}{{ self.x() }}{% endblock %}",
        # Large results from small inputs.
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ [1] * 10**9 }}",
        "{{ [1] * 10**7 * 10**7 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000) }}",
        "{{ '{0:{w}}'.format_map({'w': 1000000000}) }}",
        "{% set f = '{:1000000000}'.format %}{{ f(1) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.zfill(width=1000000000) }}",
        "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ 'a\nb' | indent(1000000000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        MILLION + "{{ big | replace('a', big) }}",
        MILLION + "{{ big.replace('a', big) }}",
        MILLION + "{{ big.join(big) }}",
        MILLION + "{{ big | join(big) }}",
        MILLION + "{{ ([big] * 1000000) | join }}",
        MILLION + "{{ ([big] * 1000000) | select | join }}",
        MILLION + "{{ ''.join([big] * 1000000) }}",
        MILLION + "{{ ''.join([big] * 1000000 | select) }}",
        MILLION + "{{ [big] * 1000000 }}",
        MILLION + "{{ ([big] * 1000000) | string }}",
        MILLION + "{{ ([big] * 1000000) | tojson }}",
        MILLION + "{{ ('\n' * 1000000) | indent(big) }}",
        MILLION + "{{ ('%s' * 100000) % ((big,) * 100000) }}",
        MILLION + "{{ ('{0}' * 100000).format(big) }}",
        MILLION + "{{ ('%(x)s' * 100000) % {'x': big} }}",
        MILLION + "{% for i in range(90000) %}{{ big }}{% endfor %}",
        MILLION + "{% set x %}{% for i in range(90000) %}{{ big }}{% endfor %}{% endset %}",
        MILLION + "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}"
        "{% set ns.x = ns.x + [big[1:]] %}{% endfor %}",
        "{% macro m() %}{% for i in range(90000) %}" + "data" * 9999 + "{% endfor %}{% endmacro %}"
        "{% set x = m() %}",
        MILLION + "{{ (('<' * 100000000) | e).join([big]) }}",
        MILLION + "{{ ('a' | safe).join(['<' * 1000000] * 1000) }}",
        # Doubling.
        GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        GROW + "{% set ns.x = ns.x * 2 %}{% endfor %}",
        GROW + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
        GROW + "{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
        GROW + "{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
        GROW + "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
        GROW + "{% set ns.x = ns.x | list | string %}{% endfor %}",
        GROW + "{% set ns.y = ns.y + ns.y %}{% endfor %}",
        NEST + "{{ a }}",
        NEST + "{{ a ~ 'x' }}",
        NEST + "{{ a == b }}",
        NEST + "{{ [a] | select('equalto', b) | list }}",
        NEST + "{{ [a].index(b) }}",
        NEST + "{{ a | tojson }}",
        NEST + "{{ {1: a}.values() }}",
        NEST + "{{ '%s' % [a] }}",
        NEST + "{{ '{}'.format(a) }}",
        NEST + "{{ [b, a] | sort }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        # Numbers.
        "{{ 2 ** (10**9) }}",
        "{{ (10**6) ** (10**6) }}",
        "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}"
        "{% endfor %}",
        "{{ 0x" + "f" * 100_000 + " // 0x" + "e" * 50_000 + " }}",
        "{{ ('f' * 1000000) | int(0, 16) % 7 }}",
        "{{ ([[1]] * 100000) | sum(start=[]) }}",
        "{{ 1 | round(1000000, 'floor') }}",
        # Searches that compare everything with everything, and hashes of nested tuples.
        *(
            MILLION + "{% set x = 'ab' + big %}{{ (big * 4)" + call + " | length }}"
            for call in (
                ".rfind(x)",
                ".rindex(x)",
                ".rsplit(x)",
                ".rpartition(x)",
                ".strip('b' * 1000000)",
                ".lstrip('b' * 1000000)",
                ".rstrip('b' * 1000000)",
                " | trim('b' * 1000000)",
                ".encode().rfind(x.encode())",
            )
        ),
        MILLION + "{{ ([big] * 200000).index('b' + big) }}",
        MILLION + "{{ ([big] * 200000).count('b' + big) }}",
        TUPLES + "{{ {}[t] }}",
        TUPLES + "{{ {}.get(t) }}",
        TUPLES + "{{ {t: 1} }}",
        TUPLES + "{{ dict([(t, 1)]) }}",
    ],
    ids=lambda source: source.replace(MILLION, "")[-60:],
)
def test_no_hang_and_no_gigabytes(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted limits end them, so the clock is disabled: a slow machine gives the same result."""
    monkeypatch.setattr(budget, "MAX_SECONDS", math.inf)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidParameter) as caught:
        ChatTemplate(source, "", "", ["<s>"]).render(MESSAGES)
    assert caught.value.param == "messages"
    assert len(caught.value.message) < 1200
    # In kilobytes; without a working limit it would be at least 1,000,000.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000


STEP = budget.MAX_STEP


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("{{ x ~ '' }}", STEP + 1),
        ("{{ x | trim | length }}", STEP + 1),
        ("{{ x.upper() | length }}", STEP // 3 + 1),
        ("{{ x | title | length }}", STEP // 16 + 1),
        ("{{ x | wordcount }}", STEP // 16 + 1),
        ("{{ x | tojson | length }}", STEP // 2 + 1),
        ("{{ x.replace('a', 'bb') | length }}", STEP // 3 + 1),
        ("{{ x.split('a') | length }}", STEP // 33 + 1),
        ("{{ x.split() | length }}", STEP // 17 + 1),
        ("{{ lines.splitlines() | length }}", STEP // 33 + 1),
        ("{{ x.maketrans(x, x) | length }}", STEP // 2 + 1),
    ],
)
def test_no_single_step_is_long(source: str, n: int) -> None:
    """A call into C makes all other threads wait until it ends."""
    box = Sandbox(interruptible=False)
    template = box.from_string(source)
    with pytest.raises(TemplateLimit, match="one step of the chat template"):
        box.render_bounded(template, {"x": "a" * n, "lines": "\v" * n})
    shorter = {"x": "a" * (n * 9 // 10), "lines": "\v" * (n * 9 // 10)}
    assert box.render_bounded(template, shorter)


def test_a_text_split_into_few_parts_may_be_long() -> None:
    """Templates split off long reasoning."""
    box = Sandbox(interruptible=False)
    text = "word " * 500_000 + "</think>\n" + "more " * 500_000
    source = "{{ x.split('</think>')[-1].lstrip('\n').splitlines() | length }}"
    assert box.render_bounded(box.from_string(source), {"x": text}) == "1"


@pytest.mark.parametrize(
    "call", ["encode('punycode')", "encode(encoding='idna')", "encode('utf-8').decode('utf-7')"]
)
def test_slow_encodings_are_not_available(call: str) -> None:
    box = Sandbox(interruptible=False)
    with pytest.raises(TemplateError, match="only UTF-8"):
        box.render_bounded(box.from_string("{{ 'a'." + call + " }}"), {})
    assert box.render_bounded(box.from_string("{{ 'a'.encode('UTF-8') }}"), {}) == "b'a'"


def test_the_search_for_wide_formats_tries_nothing_twice() -> None:
    """Otherwise it would take hours."""
    box = Sandbox(interruptible=False)

    def is_wide(source: str, text: str) -> bool:
        """Whether a format is refused for its width; most of them fail for another reason."""
        with pytest.raises(Exception) as caught:  # noqa: PT011 - Python's errors are of any type
            box.render_bounded(box.from_string(source), {"x": text})
        return "a width or precision of a format is too large" in str(caught.value)

    braces = ("{{ x.format(1) }}", "{{ x.format_map({}) }}")
    percents = ("{{ x % 1 }}", "{{ x | format(1) }}")
    n = 1_000_000
    for text in ("{" + ":" * n, "%(" + "(" * n, "%" * n, "%-" * n, "{" * n):
        for source in braces if "{" in text else percents:
            assert not is_wide(source, text)
    for text in ("%9999d", "%*d", "%(a)-9999d", "%(a%b)9999d", "%(" * n):
        assert all(is_wide(source, text) for source in percents)
    for text in ("{:9999}", "{a:{b}}", "{a.b[c]:>9999d}", "{a:::9999}"):
        assert all(is_wide(source, text) for source in braces)


def test_a_limit_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = Sandbox.render_bounded

    def count(self: Sandbox, *args: Any) -> str:
        calls.append(1)
        return real(self, *args)

    large = ChatTemplate("{{ ('a' * 9000) | replace('a', 'b' * 9000) }}", "", "", [])
    refusing = ChatTemplate("{{ raise_exception('no') }}", "", "", [])
    monkeypatch.setattr(Sandbox, "render_bounded", count)
    messages = [{"role": "system", "content": "x"}, *MESSAGES]
    with pytest.raises(InvalidParameter):
        large.render(messages)
    assert len(calls) == 1
    with pytest.raises(InvalidParameter):
        refusing.render(messages)
    assert len(calls) == 3


# Hostile templates that accept every conversation, refuse every one, or write it first.
ENDLESS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
HARD = [
    ENDLESS,
    "{% for m in messages %}{{ m.content }}{% endfor %}" + ENDLESS,
    "{% for i in range(9000) %}{% endfor %}{{ raise_exception('no') }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ 'a' * 4000000 }}",
]


@pytest.mark.parametrize("source", HARD)
def test_the_first_chat_takes_a_bounded_number_of_steps(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding out what a template reads takes dozens of renderings, which share one budget."""
    steps, sizes = count(), []
    real = Budget.take

    def counted(self: Budget, size: int = 0, speed: int = 1) -> None:
        next(steps)
        sizes.append(size)
        real(self, size, speed)

    monkeypatch.setattr(budget.time, "thread_time", lambda: 0.0)
    monkeypatch.setattr(Budget, "take", counted)
    messages = [{"role": role, "content": "x"} for role in ("system", "user", "user", "system")]
    dialect = Dialect(source, "<s>", "</s>", {"<s>": 1})
    assert next(steps) < 61_000
    assert sum(sizes) < 26_000_000
    with suppress(InvalidParameter):
        dialect.prompt(messages)
    assert next(steps) < 90_000
    assert sum(sizes) < 50_000_000


@pytest.mark.parametrize("written", ["{", "\n[", "<tool_call>{", "<function=f>", '{"name": "'])
@pytest.mark.parametrize("number", [3_000, 400_000])
def test_what_a_probe_writes_is_read_in_bounded_work(written: str, number: int) -> None:
    source = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{{ " + repr(written) + " * " + str(number) + " }}"
        "{{ c.function.arguments }}{% endfor %}{% endfor %}"
    )
    assert lines_run(lambda: Dialect(source, "", "", {})) < 1_000_000


def test_the_budget_grows_with_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that looks at all messages for each message is no hostile one."""
    source = "{% for m in messages %}{% for n in messages %}{% endfor %}{{ m.content }}{% endfor %}"
    monkeypatch.setattr(budget, "MAX_STEPS", 100_000)
    for number in (1, 10, 100, 300):
        messages = [{"role": "user", "content": "x"}] * number
        assert render(source, messages=messages) == "x" * number
    with pytest.raises(TemplateLimit, match="takes more than 100000 steps"):
        render(source, messages=[{"role": "user", "content": "x"}] * 2000)


def test_attempts_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{{ raise_exception('no') }}", "", "", [])
    calls = []
    now = [0.0]

    def slow(*args: Any) -> str:
        calls.append(1)
        now[0] += 0.6 * budget.MAX_SECONDS
        raise TemplateError("no")

    monkeypatch.setattr(Sandbox, "_joined", slow)
    monkeypatch.setattr(budget.time, "thread_time", lambda: now[0])
    messages = [{"role": role, "content": "x"} for role in ("system", "user", "user", "system")]
    with pytest.raises(InvalidParameter):
        template.render(messages)
    assert len(calls) == 2


def test_probes_of_a_slow_template_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a template reads is found by rendering; all probes together take bounded time."""
    calls = []
    now = [0.0]
    real = Sandbox._joined

    def slow(self: Sandbox, written: Any) -> str:
        calls.append(1)
        now[0] += 0.9
        return real(self, written)

    monkeypatch.setattr(budget.time, "thread_time", lambda: now[0])
    monkeypatch.setattr(Sandbox, "_joined", slow)
    ChatTemplate("{{ messages[0].content }}", "", "", [])
    assert len(calls) == 3


# Each calls a method of a text beside variables that hold the same text.
BESIDE_VARIABLES = [
    "{% for m in messages %}{% set c = m.content %}{{ c.replace('a', 'b') }}{% endfor %}",
    "{% for m in messages %}{% set c = m.content %}{{ ', '.join([c]) }}{% endfor %}",
    "{% for m in messages %}{% set c = m.content %}{% for x in [1] %}{% set d = c %}"
    "{{ d.expandtabs(4) }}{% endfor %}{% endfor %}",
    "{% block b %}{% set c = messages[0].content %}{{ c.replace('a', 'b') }}{% endblock %}",
]


@pytest.mark.parametrize("source", BESIDE_VARIABLES)
def test_variables_of_a_loop_cost_a_call_nothing(source: str) -> None:
    text = "u" * 200_000
    assert render(source, messages=[{"role": "user", "content": text}]) == text


def test_the_arguments_of_a_call_in_a_loop_are_charged() -> None:
    source = "{% for m in messages %}{% set c = m.content %}{{ c.replace('u', c) }}{% endfor %}"
    with pytest.raises(TemplateLimit):
        render(source, messages=[{"role": "user", "content": "u" * 20_000}])
    with pytest.raises(TemplateError):
        render("{% for i in [1] %}{{ 'a'.center(width=10**7) }}{% endfor %}")


def test_nothing_is_computed_while_compiling() -> None:
    box = Sandbox(interruptible=False)
    calls = []
    box.filters["center"] = calls.append
    template = box.from_string("{{ 'a' | center }}{% if 'a' | center %}{% endif %}")
    assert calls == []
    box.render_bounded(template, {})
    assert calls == ["a", "a"]


def test_processor_time_is_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = count()
    monkeypatch.setattr(budget.time, "thread_time", lambda: float(next(now)))
    with pytest.raises(TemplateLimit, match="5 seconds"):
        render("{% for i in range(1000) %}{{ i }}{% endfor %}")


def test_output_is_bounded() -> None:
    long = "x" * (sandbox.MAX_OUTPUT // 2)
    assert len(render("{{ long }}{{ long }}", long=long)) == sandbox.MAX_OUTPUT
    with pytest.raises(TemplateLimit, match="writes more"):
        render("{{ long }}{{ long }}!", long=long)


def test_the_length_of_a_template_is_bounded() -> None:
    source = "a" * sandbox.MAX_SOURCE
    box = Sandbox(interruptible=False)
    assert box.render_bounded(box.from_string(source), {}) == source
    with pytest.raises(TemplateLimit, match=f"more than {sandbox.MAX_SOURCE} characters"):
        box.from_string(source + "a")


@pytest.mark.parametrize(
    ("unit", "number"),
    [("{{a}}", 2_500), ("{{a" + "+a" * 90 + "}}", 30), ("{% set a=b %}", 2_000)],
)
def test_the_program_of_a_template_is_bounded(unit: str, number: int) -> None:
    """Python's compiler makes all other threads wait until it ends."""
    box = Sandbox(interruptible=False)
    with pytest.raises(TemplateLimit, match=f"exceeds {sandbox.MAX_PYTHON} characters"):
        box.from_string(unit * number)
    box.from_string(unit * (number // 3))


@pytest.mark.slow
def test_long_chats_are_within_the_limits() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' and loop.index0 < messages | length %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>\\n' }}"
        "{% endif %}{% endfor %}"
    )
    many = [{"role": "user", "content": "Hello! " * 20}] * 20_000
    assert render(source, messages=many).count("<|im_start|>") == len(many)
    large = [{"role": "user", "content": "é\n" * 1_000_000}]
    assert len(render(source, messages=large)) > 1_999_000
    assert len(render("{{ messages | tojson(indent=2) }}", messages=large)) > 3_000_000
    assert len(render("{{ messages[0].content.replace('\\n', '\\n  ') }}", messages=large)) > 3e6


def test_each_rendering_has_its_own_budget() -> None:
    box = Sandbox(interruptible=False)
    template = box.from_string("{% for i in range(15000) %}{% endfor %}{{ x }}")
    for number in range(8):
        assert box.render_bounded(template, {"x": number}) == str(number)


def test_each_thread_has_its_own_budget() -> None:
    box = Sandbox(interruptible=False)
    template = box.from_string(
        "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{{ i }},{% endfor %}"
    )

    def good() -> str:
        return box.render_bounded(template, {"n": 100})

    def bad() -> str:
        with pytest.raises(TemplateLimit):
            box.render_bounded(template, {"n": 3000})
        return ""

    expected = "".join(f"{i}," for i in range(100))
    assert together([good, bad, good, bad]) == [expected, "", expected, ""]
