"""Conversations that strict templates refuse, and what templates read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.chat.conventions import Message
from offgrid.chat.template import ChatTemplate
from offgrid.errors import InvalidParameter

from .rendering import assistant, system, user

ALTERNATING = """\
{%- if messages[0].role == 'system' %}
    {{- '<sys>' + messages[0].content + '</sys>' }}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- if tools %}{{ '<tools>' + tools | tojson + '</tools>' }}{% endif %}
{%- set ns = namespace(turn=0) %}
{%- for m in rest %}
    {%- if m.role == 'system' %}{{ raise_exception('only one system message') }}{% endif %}
    {%- if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
        {%- if (m.role == 'user') != (ns.turn % 2 == 0) %}
            {{- raise_exception('users and assistants must alternate') }}
        {%- endif %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- endif %}
    {%- if m.role == 'user' %}{{ '<u>' + m.content + '</u>' }}
    {%- elif m.role == 'tool' %}{{ '<r>' + m.content + '</r>' }}
    {%- elif m.tool_calls %}
        {{- m.content }}
        {%- for call in m.tool_calls %}{{ '<c>' + call.function.name + '</c>' }}{% endfor %}
    {%- else %}{{ '<a>' + m.content + '</a>' }}{% endif %}
{%- endfor %}
"""
"""Users and assistants alternate, apart from calls and results; one system message, in front."""

NO_BLANKS = ALTERNATING.replace(
    "{%- if m.role == 'user' or",
    "{%- if m.role == 'assistant' and not m.content and not m.tool_calls %}"
    "{{ raise_exception('an assistant must say something') }}{% endif %}{%- if m.role == 'user' or",
)
"""Refuses empty assistant messages, too."""

STRICT = """\
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) or m.role not in ['user', 'assistant'] %}
        {{- raise_exception('users and assistants must alternate') }}
    {%- endif %}
    {{- '<' + m.role[0] + '>' + m.content + '</' + m.role[0] + '>' }}
{%- endfor %}
"""
"""Neither system messages nor calls."""

RESULTS_FIRST = """\
{%- set ns = namespace(called=false) %}
{%- for m in messages %}
    {%- if m.role == 'tool' and not ns.called %}
        {{- raise_exception('a result without a call') }}
    {%- endif %}
    {%- set ns.called = m.tool_calls or (m.role == 'tool') %}
    {{- '<' + m.role[0] + '>' + (m.content or '') }}
{%- endfor %}
"""

FORGETFUL = """\
{%- if messages[0].role == 'system' %}{{ '<s>' + messages[0].content }}{% endif %}
{%- for m in messages if m.role != 'system' %}{{ '<' + m.role[0] + '>' + m.content }}{% endfor %}
"""
"""Writes only the first system message."""


def calls(*names: str, content: str = "", **fields: Any) -> Message:
    made = [
        {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": {}}}
        for name in names
    ]
    return {"role": "assistant", "content": content, "tool_calls": made, **fields}


def result(content: str, name: str = "f") -> Message:
    return {"role": "tool", "content": content, "tool_call_id": f"call_{name}"}


def render(source: str, *messages: Message, **more: Any) -> str:
    parts = ChatTemplate(source, "<bos>", "<eos>", ()).render(messages, **more)
    return "".join(part.text for part in parts)


# --- turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        # Accepted as it is: nothing changes.
        (
            [system("S"), user("1"), calls("f"), result("R"), assistant("2"), user("3")],
            "<sys>S</sys><u>1</u><c>f</c><r>R</r><a>2</a><u>3</u>",
        ),
        # A user after a result, or after a call that has none.
        (
            [user("1"), calls("f"), result("R"), user("2")],
            "<u>1</u><c>f</c><r>R</r><a></a><u>2</u>",
        ),
        (
            [user("1"), calls("f"), user("2")],
            "<u>1</u><c>f</c><r>No result.</r><a></a><u>2</u>",
        ),
        (
            [user("1"), calls("f", "g"), result("R", "g"), user("2")],
            "<u>1</u><c>f</c><c>g</c><r>R</r><r>No result.</r><a></a><u>2</u>",
        ),
        # An assistant, a call or a result in front.
        ([assistant("1"), user("2")], "<u></u><a>1</a><u>2</u>"),
        ([system("S"), assistant("1"), user("2")], "<sys>S</sys><u></u><a>1</a><u>2</u>"),
        ([calls("f"), result("R"), assistant("2")], "<u></u><c>f</c><r>R</r><a>2</a>"),
        # Neighbours of one role.
        ([user("1"), user("2"), assistant("3"), assistant("4")], "<u>1\n\n2</u><a>3\n\n4</a>"),
        (
            [user("1"), assistant("2"), calls("f"), result("R"), assistant("3")],
            "<u>1</u>2<c>f</c><r>R</r><a>3</a>",
        ),
        ([user("1"), assistant(""), user("2")], "<u>1</u><a></a><u>2</u>"),
    ],
)  # fmt: skip
def test_turns_for_a_template_that_wants_them_to_alternate(
    messages: list[Message], expected: str
) -> None:
    assert render(ALTERNATING, *messages) == expected


def test_no_message_is_empty_for_a_template_that_refuses_it() -> None:
    assert render(NO_BLANKS, user("1"), assistant(""), user("2")) == "<u>1</u><a> </a><u>2</u>"
    assert render(NO_BLANKS, user("1"), calls("f", "g"), result("R"), user("2")) == (
        "<u>1</u><c>f</c><c>g</c><r>R</r><r>No result.</r><a> </a><u>2</u>"
    )
    assert render(NO_BLANKS, user("1"), assistant("", reasoning_content="Hm."), user("2")) == (
        "<u>1</u><a> </a><u>2</u>"
    )


ANSWERED = """\
{%- for m in messages %}
    {%- if m.tool_calls and (loop.last or loop.nextitem.role != 'tool') %}
        {{- raise_exception('a call without a result') }}
    {%- endif %}
    {{- '<' + m.role[0] + '>' + (m.content or '') }}
{%- endfor %}
"""
NO_RESULTS = """\
{%- for m in messages %}
    {%- if m.role == 'tool' %}{{ raise_exception('what is a tool') }}{% endif %}
    {%- if not loop.first and m.role == 'user' and loop.previtem.role == 'user' %}
        {{- raise_exception('users and assistants must alternate') }}
    {%- endif %}
    {{- '<' + m.role[0] + '>' + m.content }}
    {%- for c in m.tool_calls or [] %}{{ '<c>' + c.function.name }}{% endfor %}
{%- endfor %}
"""


def test_a_call_that_was_cancelled() -> None:
    """Only a template that refuses it gets a result for it, and nothing else is changed."""
    cancelled = [user("1"), calls("f"), user("2")]
    assert render(ANSWERED, *cancelled) == "<u>1<a><t>No result.<u>2"
    assert render(ANSWERED, *cancelled[:2]) == "<u>1<a><t>No result."
    assert render(RESULTS_FIRST, *cancelled) == "<u>1<a><u>2"
    # The call is kept where a result is refused, and written as text where calls are refused.
    assert render(NO_RESULTS, user("0"), *cancelled) == "<u>0\n\n1<a><c>f<a><u>2"


SWALLOWS_FIRST = """\
{%- if tools %}{{ '<u>' + tools[0].function.name + ' ' + messages[0].content }}
    {%- set messages = messages[1:] %}{% endif %}
{%- for m in messages %}{{ '<' + m.role[0] + '>' + m.content }}
    {%- for c in m.tool_calls or [] %}{{ '<c>' + c.function.arguments | tojson }}{% endfor %}
{%- endfor %}
"""
"""Takes the first message for a user's, as Llama 3.1 does when there are tools."""
SWALLOWS_LAST = """\
{%- for m in messages %}{{ '<' + m.role[0] + '>' + m.content }}
    {%- if not loop.last %}{% for c in m.tool_calls or [] %}{{ '<c>' + c.function.name
        + c.function.arguments | tojson }}{% endfor %}{% endif %}
{%- endfor %}
"""


def test_calls_that_a_template_would_omit() -> None:
    tools = [{"type": "function", "function": {"name": "T", "parameters": {}}}]
    history = [calls("f"), result("R"), user("2")]
    assert render(SWALLOWS_FIRST, *history, tools=tools) == "<u>T <a><c>{}<t>R<u>2"
    assert render(SWALLOWS_FIRST, user("1"), *history, tools=tools) == "<u>T 1<a><c>{}<t>R<u>2"
    assert render(SWALLOWS_LAST, user("1"), calls("f")) == "<u>1<a><c>f{}<t>No result."
    assert render(SWALLOWS_LAST, user("1"), *history[:2]) == "<u>1<a><c>f{}<t>R"


def test_calls_and_results_become_text_for_a_template_that_knows_neither() -> None:
    assert render(STRICT, system("S"), user("1"), calls("f"), result("R"), user("2")) == (
        '<u>S\n\n1</u><a><tool_call>{"name": "f", "arguments": {}}</tool_call></a>'
        "<u><tool_response>R</tool_response>\n\n2</u>"
    )


def test_content_beside_a_call_that_hides_it() -> None:
    """DeepSeek R1's template writes either the content of a message or its calls."""
    either = (
        "{% for m in messages %}<{{ m.role[0] }}>{% if m.content %}{{ m.content }}{% else %}"
        "{% for c in m.tool_calls or [] %}<c>{{ c.function.name }}{{ c.function.arguments }}"
        "{% endfor %}{% endif %}{% endfor %}"
    )
    assert (
        render(either, user("1"), calls("f", content="2"), result("R")) == "<u>1<a>2<a><c>f{}<t>R"
    )
    assert render(either, user("1"), calls("f"), result("R")) == "<u>1<a><c>f{}<t>R"


PICKY = """\
{%- macro kind(p) %}{% if p.type in ['string', 'integer', 'object'] %}{{ p.type }}
    {%- elif p.type is iterable %}
        {%- for t in p.type %}{{ kind({'type': t}) }}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- for t in tools or [] %}{{ t.function.name + ': ' + t.function.description }}
    {%- for k, p in t.function.parameters.properties.items() %}
        {{- ' ' + k + '=' + kind(p) + '.' + p.description }}{% endfor %}
{%- endfor %}
{%- for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}
"""
"""Fails without descriptions and parameters, and never ends with a type that it does not know."""


NULLABLE = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
LISTED = {"enum": ["x"], "description": "E"}


@pytest.mark.parametrize(
    ("function", "written"),
    [
        ({}, "f: "),
        ({"description": "D"}, "f: D"),
        ({"parameters": {"type": "object"}}, "f: "),
        ({"parameters": {"properties": {"a": {"type": "string"}}}}, "f:  a=string."),
        ({"parameters": {"properties": {"a": {"type": ["string", "null"]}}}}, "f:  a=string."),
        ({"parameters": {"properties": {"a": NULLABLE}}}, "f:  a=integer."),
        (
            {"parameters": {"properties": {"a": {"$ref": "#/$defs/b"}, "c": True},
                            "$defs": {"b": {"type": "object"}}}},
            "f:  a=object. c=string.",
        ),
        ({"parameters": {"properties": {"a": LISTED}}}, "f:  a=string.E"),
    ],
)  # fmt: skip
def test_functions_with_missing_parts(function: dict[str, Any], written: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", **function}}]
    before = json.dumps(tools)
    assert render(PICKY, user("1"), tools=tools) == f"{written}<u>1"
    assert json.dumps(tools) == before
    # A template that needs nothing gets them as they are.
    plain = "{{ tools | tojson if tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert render(plain, user(""), tools=tools) == before


def test_text_before_a_call_stays_where_the_template_writes_it() -> None:
    silent = ALTERNATING.replace("{{- m.content }}\n        {%- for", "{%- for")
    history = [user("1"), assistant("2"), calls("f"), result("R"), assistant("3")]
    written = "<u>1</u><a>2</a><u></u><c>f</c><r>R</r><a>3</a>"
    assert render(silent, *history) == written
    assert render(silent, user("1"), calls("f", content="2"), *history[3:]) == written
    assert render(ALTERNATING, user("1"), calls("f", content="2"), result("R")) == (
        "<u>1</u>2<c>f</c><r>R</r>"
    )


def test_content_that_a_template_omits_beside_a_call() -> None:
    """Such templates (Llama 3, Hermes) write the calls of a message and not its content."""
    omitting = (
        "{% for m in messages %}<{{ m.role[0] }}>{% if m.tool_calls %}{% for c in m.tool_calls %}"
        "<c>{{ c.function.name }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    history = [user("1"), calls("f", content="2"), result("R")]
    assert render(omitting, *history) == "<u>1<a>2<a><c>f<t>R"


def test_a_result_without_a_call_is_a_users_text() -> None:
    orphan = [user("1"), result("R"), user("2")]
    assert render(RESULTS_FIRST, *orphan) == ("<u>1<u><tool_response>R</tool_response><u>2")
    assert render(RESULTS_FIRST, user("1"), calls("f"), result("R")) == "<u>1<a><t>R"
    omitting = (
        "{% for m in messages if m.role != 'tool' %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}"
    )
    assert render(omitting, *orphan).count("R</tool_response>") == 1
    # Where the template writes it, it stays a result.
    assert "<tool_response>" not in render(ALTERNATING, user("1"), result("R"), assistant("2"))


def test_reasoning_and_content_beside_a_call_that_may_have_only_one() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls and m.thinking and m.content %}"
        "{{ raise_exception('either thinking or content') }}{% endif %}"
        "[{{ m.thinking }}|{{ m.content }}]{% endfor %}"
    )
    history = [user("1"), calls("f", content="Wait.", reasoning_content="Hm.")]
    assert render(source, *history) == "[|1][Hm.\n\nWait.|]"
    assert render(source, *history[:1], assistant("B", reasoning_content="A")) == "[|1][A|B]"


def test_an_answer_is_continued_in_a_changed_conversation() -> None:
    history = [assistant("1"), user("2"), user("3"), assistant("4"), assistant("5")]
    assert render(ALTERNATING, *history, resume=True) == "<u></u><a>1</a><u>2\n\n3</u><a>4\n\n5"


def test_thousands_of_messages_are_merged_in_one_pass() -> None:
    many = [user(str(i)) for i in range(3000)]
    assert render(ALTERNATING, *many, assistant("x")).endswith("2998\n\n2999</u><a>x</a>")


KINDS = ("system", "developer", "user", "assistant", "empty", "thought", "call", "calls", "result")


def conversation(kinds: list[str]) -> tuple[list[Message], list[str]]:
    """Messages of these kinds, and the texts in them, all different."""
    messages, texts = [], []
    for place, kind in enumerate(kinds):
        said = f"text {place}."
        if kind in ("system", "developer", "user", "assistant"):
            messages.append({"role": kind, "content": said})
        elif kind == "empty":
            messages.append(assistant(""))
            continue
        elif kind == "thought":
            messages.append(assistant("", reasoning_content="Hm."))
            continue
        elif kind == "result":
            messages.append(result(said, "one"))
        else:
            messages.append(calls("one", "two") if kind == "calls" else calls("one"))
            continue
        texts.append(said)
    return messages, texts


TEMPLATES = [
    ChatTemplate(source, "", "", ("<u>", "</u>", "<a>", "<r>", "<tool_call>"))
    for source in (ALTERNATING, NO_BLANKS, STRICT, RESULTS_FIRST, FORGETFUL)
]


@settings(deadline=None, max_examples=50)
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=9))
def test_any_order_is_answered_and_no_text_is_lost(kinds: list[str]) -> None:
    messages, texts = conversation(kinds)
    before = json.dumps(messages)
    for template in TEMPLATES:
        parts = template.render(messages)
        written = "".join(part.text for part in parts)
        assert [said for said in texts if written.count(said) != 1] == []
        assert "<tool_call>" not in [part.text for part in parts if part.special]
    assert json.dumps(messages) == before


# --- system messages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([system("A"), system("B"), user("1")], "<sys>A\n\nB</sys><u>1</u>"),
        (
            [system("A"), user("1"), assistant("2"), system("B"), user("3")],
            "<sys>A</sys><u>1</u><a>2</a><u>B\n\n3</u>",
        ),
        (
            [system("A"), system("B"), user("1"), system("C"), assistant("2")],
            "<sys>A\n\nB</sys><u>1\n\nC</u><a>2</a>",
        ),
        ([user("1"), assistant("2"), system("A")], "<u>1</u><a>2</a><u>A</u>"),
        (
            [system("A"), system("B"), user("1"), calls("f"), result("R"), user("2")],
            "<sys>A\n\nB</sys><u>1</u><c>f</c><r>R</r><a></a><u>2</u>",
        ),
        (
            [user("1"), calls("f"), result("R"), system("A")],
            "<u>1</u><c>f</c><r>R</r><a></a><u>A</u>",
        ),
    ],
)
def test_the_system_message_stays_in_front(messages: list[Message], expected: str) -> None:
    assert render(ALTERNATING, *messages) == expected


def test_system_messages_anywhere_if_the_template_writes_them() -> None:
    source = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}"
    messages = [system("A"), system("B"), user("1"), system("C"), user("2")]
    assert render(source, *messages) == "<s>A<s>B<u>1<s>C<u>2"


def test_no_system_message_is_omitted() -> None:
    assert render(FORGETFUL, system("A"), system("B"), user("1")) == "<s>A\n\nB<u>1"
    assert render(FORGETFUL, system("A"), user("1"), system("B"), user("2")) == "<s>A<u>1<u>B\n\n2"
    assert render(FORGETFUL, system("A"), {"role": "developer", "content": "B"}) == "<s>A\n\nB"
    last_only = (
        "{% set ns = namespace(s='') %}{% for m in messages if m.role == 'system' %}"
        "{% set ns.s = m.content %}{% endfor %}<s>{{ ns.s }}"
        "{% for m in messages if m.role == 'user' %}<u>{{ m.content }}{% endfor %}"
    )
    assert render(last_only, system("A"), system("B"), user("1")) == "<s>A\n\nB<u>1"
    assert render(last_only, system("A"), user("1"), system("B"), user("2")) == "<s>A<u>1<u>B\n\n2"


@pytest.mark.parametrize("end", [[assistant("2")], [calls("f"), result("2")]], ids=str)
def test_a_system_message_that_is_written_with_the_last_users_message(end: list[Message]) -> None:
    """The templates of Mistral write it if the conversation ends there, and else omit it."""
    source = (
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}<{{ m.role[0] }}>"
        "{% if m.role == 'user' and loop.last %}<s>{{ s }}<u>{% endif %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<c>{{ c.function.name }}{{ c.function.arguments }}"
        "{% endfor %}{% endfor %}"
    )
    assert render(source, system("A"), user("1")) == "<u><s>A<u>1"
    assert render(source, system("A"), user("1"), *end).startswith("<u>A\n\n1<a>")


def test_a_template_that_writes_no_system_message() -> None:
    only_users = "{% for m in messages if m.role == 'user' %}<u>{{ m.content }}{% endfor %}"
    assert render(only_users, system("A"), user("1")) == "<u>A\n\n1"
    assert render(only_users, system("A"), system("B"), user("1")) == "<u>A\n\nB\n\n1"
    assert render(only_users, system("A"), assistant("1"), user("2")) == "<u>A<u>2"
    assert render(only_users, system("A")) == "<u>A"
    assert render(only_users, system("A"), system("B")) == "<u>A\n\nB"
    assert render(FORGETFUL, system("A")) == "<s>A"


# --- what templates read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        "{{ m.reasoning_content }}",
        "{{ m['reasoning'] }}",
        "{{ m.thinking if m.tool_calls }}",
        "{{ m.thought if loop.last }}",
        "{{ m.get('reason' ~ 'ing') if loop.last or m.tool_calls }}",
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
        "{{ p.thinking or p.text }}{% endfor %}{% endif %}",
    ],
)
def test_reasoning_goes_where_the_template_reads_it(read: str) -> None:
    source = "{% for m in messages %}{{ m.content if m.role == 'user' }}" + read + "{% endfor %}"
    thoughtful = calls("f", content="Well.", reasoning_content="Hm <x>.")
    parts = ChatTemplate(source, "", "", ("<x>",)).render([user("?"), thoughtful])
    assert "Hm <x>." in "".join(part.text for part in parts)
    assert not any(part.special for part in parts)


def test_reasoning_that_no_name_reaches() -> None:
    for source in ("{{ messages[0].content }}", "{{ messages | map(attribute='content') | list }}"):
        template = ChatTemplate(source, "", "", ())
        assert template.conventions.reasoning == "reasoning_content"
        assert template.render([user("1"), assistant("2", reasoning_content="Hm.")])


def test_arguments_are_text_where_the_template_needs_it() -> None:
    def source(arguments: str) -> str:
        return (
            "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
            "{{ " + arguments + " }}{% endfor %}{% endfor %}"
        )

    call = calls("f")
    call["tool_calls"][0]["function"]["arguments"] = {"tönt": [1, None]}
    for arguments in ("c.function.arguments", "'' + c.function.arguments"):
        assert render(source(arguments), user("1"), call) == '1{"tönt": [1, null]}'
    as_object = "c.function.arguments | tojson"
    assert render(source(as_object), user("1"), call) == '1{"tönt": [1, null]}'
    call["tool_calls"][0]["function"]["arguments"] = "{broken"
    assert render(source("'' + c.function.arguments"), user("1"), call) == "1{broken"


def test_tools_are_undefined_where_none_fails() -> None:
    source = (
        "{% if tools is defined %}{% for tool in tools %}{{ tool.function.name }}{% endfor %}"
        "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert render(source, user("1")) == "1"
    assert render(source, system("A"), user("1")) == "A1"
    tool = {"type": "function", "function": {"name": "f"}}
    assert render(source, user("1"), tools=[tool]) == "f1"
    # Elsewhere there is a value, as in transformers.
    assert render("{{ tools is none }}{{ messages[0].content }}", user("1")) == "True1"


def test_which_templates_write_tools_and_documents() -> None:
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tools = "{{ tools | tojson if tools }}" + plain
    documents = (
        "{% if tools or documents %}{% for t in tools %}{{ t }}{% endfor %}"
        "{% for d in documents %}[{{ d.title }}: {{ d.text }}]{% endfor %}{% endif %}" + plain
    )
    for source, expected in ((plain, (False, False)), (tools, (True, False))):
        forms = ChatTemplate(source, "", "", ()).conventions
        assert (forms.writes_tools, forms.writes_documents) == expected
    assert ChatTemplate(documents, "", "", ()).conventions.writes_documents
    told = {"documents": [{"title": "A", "text": "B <x>"}]}
    parts = ChatTemplate(documents, "", "", ("<x>",)).render([user("1")], variables=told)
    assert "".join(part.text for part in parts) == "[A: B <x>]1"
    assert not any(part.special for part in parts)


def test_documents_count_as_text_of_the_prompt() -> None:
    template = ChatTemplate("{{ messages[0].content }}", "", "", (), n_ctx=10)
    with pytest.raises(InvalidParameter, match="bytes") as caught:
        template.render([user("1")], variables={"documents": [{"text": "x" * 200}]})
    assert caught.value.param == "messages"


def test_lists_and_objects_as_variables() -> None:
    source = "{{ messages[0].content }}{{ names | join('+') }}{{ controls.length | tojson }}"
    variables = {"names": ["a", "b"], "controls": {"length": {"max": 3}}}
    assert render(source, user("1"), variables=variables) == "1a+b" + json.dumps({"max": 3})


# --- images in results ----------------------------------------------------------------------------


def shape(source: str, *messages: Message) -> list[str | int]:
    """Texts joined, and numbers of images."""
    pieces: list[str | int] = []
    for part in ChatTemplate(source, "", "", ()).render(messages):
        if part.image >= 0:
            pieces.append(part.image)
        elif pieces and isinstance(pieces[-1], str):
            pieces[-1] += part.text
        else:
            pieces.append(part.text)
    return pieces


def shot(*content: str | int) -> Message:
    return {"role": "tool", "content": list(content), "tool_call_id": "call_f"}


def test_an_image_in_a_result() -> None:
    assert shape(ALTERNATING, user("1"), calls("f"), shot("Look:", 0), user("2")) == [
        "<u>1</u><c>f</c><r>Look:", 0, "</r><a></a><u>2</u>",
    ]  # fmt: skip


def test_an_image_that_a_template_does_not_write_in_a_result() -> None:
    escaping = ALTERNATING.replace("'<r>' + m.content", "'<r>' + m.content | tojson(true)")
    assert shape(escaping, user("1"), calls("f", "g"), shot("Look:", 0), shot(1), user("2")) == [
        '<u>1</u><c>f</c><c>g</c><r>"Look:\\nThe image is in the next message."</r>'
        '<r>"The image is in the next message."</r><a></a><u>', 0, 1, "\n\n2</u>",
    ]  # fmt: skip
    assert shape(escaping, user("1"), calls("f"), shot(0)) == [
        '<u>1</u><c>f</c><r>"The image is in the next message."</r><a></a><u>', 0, "</u>",
    ]  # fmt: skip
