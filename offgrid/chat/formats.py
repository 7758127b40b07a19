"""How families of models write tool calls and reasoning: one table, :data:`FAMILIES`.

A model learned its format in training. What its chat template writes for a call or for reasoning in
a conversation's history is what the model writes in an answer, so :mod:`offgrid.chat.probe` renders
a known conversation and looks for the family that reads it. Parser, grammar and history all work
from the data here. To add a family, add one entry and its samples in ``tests/chat/samples.py``.

In texts of calls, ``{name}`` stands for the function's name, ``{id}`` for an identifier and ``{n}``
for a number. White space between the parts of a call is free when an answer is read, and as given
here when a call is written or enforced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Body = Literal["object", "keyed", "json", "parameters", "python", "gemma"]


@dataclass(frozen=True)
class Parameters:
    """Arguments written one by one, each between texts.

    Attributes:
        before: text before a key.
        between: text between key and value. With ``kinds``, it contains ``{kind}``.
        after: text after a value; ``{key}`` stands for the key.
        kinds: names of the value's type, for text and for JSON; empty if the format names none. An
            empty second name stands for the JSON type.
        nested: prefix of the tags that wrap the members of objects and the items of lists; empty
            where these are JSON.
        quotes: texts that may stand around a string; between them, ``after`` is part of the string.
    """

    before: str
    between: str
    after: str
    kinds: tuple[str, str] | tuple[()] = ()
    nested: str = ""
    quotes: tuple[str, str] | tuple[()] = ()


@dataclass(frozen=True)
class CallFormat:
    """How calls are written: ``begin`` call ``separator`` call ... ``end``.

    A call is ``call_begin head name_end`` body ``call_end``.

    Attributes:
        body: the form of a call. ``object``: a JSON object with the name and the arguments.
            ``keyed``: a JSON object whose only key is the name. The others follow the head:
            ``json``, the arguments as a JSON object; ``parameters``, the arguments one by one;
            ``python``, ``name(key=value)``; ``gemma``, ``{key:value}`` with strings in
            ``<|"|>``.
        begin: marker before the first call, or nothing.
        end: marker after the last call, or nothing.
        call_begin: text before each call, or nothing.
        call_end: text after each call, or nothing.
        separator: text between two calls.
        array: whether the calls are items of a list in square brackets.
        bare: whether a call needs no marker at the beginning of an answer or of a line.
        head: the name, with what stands around it.
        heads: further forms of the head that are read.
        name_end: text between the head and the body.
        object_begin: with ``object``, the beginning up to the arguments.
        short_begin: text that begins a call if the model omits the beginning of ``call_begin``.
        parameters: with ``parameters``, how arguments are written.
        one_by_one: whether the template accepts only one call in a message.
        short_ids: whether the template requires call ids of nine letters and digits.
    """

    body: Body
    begin: str = ""
    end: str = ""
    call_begin: str = ""
    call_end: str = ""
    separator: str = ""
    array: bool = False
    bare: bool = False
    head: str = "{name}"
    heads: tuple[str, ...] = ()
    name_end: str = ""
    object_begin: str = '{"name": "{name}", "arguments": '
    short_begin: str = ""
    parameters: Parameters | None = None
    one_by_one: bool = False
    short_ids: bool = False

    @property
    def space_before(self) -> str:
        """The white space that the format has between content and a call."""
        begin = self.begin or self.call_begin
        return begin[: len(begin) - len(begin.lstrip())] or (
            self.separator if self.separator.isspace() else ""
        )

    @property
    def space_after(self) -> str:
        """The white space that the format has after the last call."""
        end = self.end or self.call_end
        return end[len(end.rstrip()) :]

    @property
    def texts(self) -> tuple[str, ...]:
        """All fixed texts, some of which may contain control tokens."""
        own = (self.begin, self.end, self.call_begin, self.call_end, self.separator)
        heads = (self.head, *self.heads, self.name_end, self.short_begin)
        inner = self.parameters
        args = () if inner is None else (inner.before, inner.between, inner.after, inner.nested)
        quote = (GEMMA_QUOTE,) if self.body == "gemma" else ()
        return tuple(text for text in (*own, *heads, *args, *quote) if text)


GEMMA_QUOTE = '<|"|>'


@dataclass(frozen=True)
class ReasoningFormat:
    """The markers around a model's reasoning.

    Attributes:
        begin: marker before reasoning.
        end: marker after it.
        repeated: whether reasoning may also follow content or calls.
        after: what the model writes after ``end`` and before the answer.
    """

    begin: str
    end: str
    repeated: bool = False
    after: str = ""


@dataclass(frozen=True)
class Channels:
    """Answers that consist of messages, each with a header that names its channel or recipient.

    Attributes:
        begin: text before a header; the prompt may end with it.
        header_end: text between a header and its message.
        ends: texts after a message.
        header: texts with which a header without ``begin`` may start.
        reasoning: regular expression of the headers of reasoning.
        call: regular expression of the headers of calls whose message is the arguments; the group
            ``name`` is the function. None if calls are written in the message.
        reasoning_begin: the header that reasoning has in an answer, with ``header_end``.
        reasoning_end: text after reasoning, up to the next header.
        content_begin: the header of content, with ``header_end``.
        preamble_begin: another header of content, which comes before calls.
        call_begins: headers of a call, with ``{name}`` and ``header_end``.
        call_end: text after the arguments.
    """

    begin: str
    header_end: str
    ends: tuple[str, ...]
    header: tuple[str, ...]
    reasoning: str
    call: str | None = None
    reasoning_begin: str = ""
    reasoning_end: str = ""
    content_begin: str = ""
    preamble_begin: str = ""
    call_begins: tuple[str, ...] = ()
    call_end: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """All fixed texts, some of which may contain control tokens."""
        contents = (self.content_begin, self.preamble_begin)
        written = (self.reasoning_begin, self.reasoning_end, *contents, self.call_end)
        own = (self.begin, self.header_end, *self.ends, *self.header, *written, *self.call_begins)
        return tuple(text for text in own if text)


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        name: shown by ``GET /v1/models/{id}``.
        calls: how the family writes calls; None for a family without its own form.
        also: other forms of calls that models of this family write.
        reasoning: the markers of reasoning, the family's usual ones first. A family without an
            entry here may still reason: :data:`REASONING` is tried for every template.
        wrappers: markers around content that are not part of it.
        content_begin: what the model writes before content.
        no_content: what the model may write in place of content, before calls.
        channels: for answers in channels.
    """

    name: str
    calls: CallFormat | None = None
    also: tuple[CallFormat, ...] = ()
    reasoning: tuple[ReasoningFormat, ...] = ()
    wrappers: tuple[str, ...] = ()
    content_begin: str = ""
    no_content: str = ""
    channels: Channels | None = None


def _xml(begin: str, end: str, after: str, tail: str = "</function>\n") -> CallFormat:
    return CallFormat(
        "parameters", call_begin=f"{begin}<function=", name_end=">\n", call_end=f"{tail}{end}",
        separator="\n", short_begin="<function=",
        parameters=Parameters("<parameter=", ">\n" if after[0] == "\n" else ">", after),
    )  # fmt: skip


def _invoke(prefix: str, section: str, kinds: bool = False) -> CallFormat:
    attribute = '" string="{kind}">' if kinds else '">'
    return CallFormat(
        "parameters", begin=f"<{section}>\n", end=f"</{section}>",
        call_begin=f'<{prefix}invoke name="', name_end='">\n', call_end=f"</{prefix}invoke>\n",
        parameters=Parameters(
            f'<{prefix}parameter name="', attribute, f"</{prefix}parameter>\n",
            ("true", "false") if kinds else (),
        ),
    )  # fmt: skip


def _keyed(suffix: str, name_end: str, line: str, begin: str = "", end: str = "") -> CallFormat:
    return CallFormat(
        "parameters", begin=begin, end=end, call_begin=f"<tool_call{suffix}>", name_end=name_end,
        call_end=f"</tool_call{suffix}>", separator="\n" if line else "",
        parameters=Parameters(
            f"<arg_key{suffix}>", f"</arg_key{suffix}>{line}<arg_value{suffix}>",
            f"</arg_value{suffix}>{line}",
        ),
    )  # fmt: skip


THINK = ReasoningFormat("<think>", "</think>")
HERMES = CallFormat("object", call_begin="<tool_call>\n", call_end="\n</tool_call>", separator="\n")
"""Hermes, Qwen, OffGrid's starter. Models without a form of their own are told to use it."""
GENERIC = CallFormat("object", call_begin="<tool_call>", call_end="</tool_call>", separator="\n")
"""The same as OffGrid writes it, for these models."""
LLAMA = CallFormat(
    "object", begin="<|python_tag|>", separator="; ", bare=True, one_by_one=True,
    object_begin='{"name": "{name}", "parameters": ',
)  # fmt: skip
PYTHON_LIST = CallFormat("python", array=True, bare=True, separator=", ")
MISTRAL = CallFormat("object", begin="[TOOL_CALLS]", array=True, separator=", ", short_ids=True)
MISTRAL_NAMED = CallFormat(
    "json", call_begin="[TOOL_CALLS]", name_end="[ARGS]", heads=("{name}[CALL_ID]{id}",),
    short_ids=True,
)  # fmt: skip
PHI = CallFormat("object", begin="<|tool_call|>", end="<|/tool_call|>", array=True, separator=", ")

FAMILIES: tuple[Family, ...] = (
    Family("hermes", HERMES),
    Family("mistral", MISTRAL),
    Family("mistral-named", MISTRAL_NAMED, reasoning=(ReasoningFormat("[THINK]", "[/THINK]"),)),
    Family("phi", PHI),
    Family("qwen-xml", _xml("<tool_call>\n", "</tool_call>", "\n</parameter>\n")),
    Family(
        "seed", _xml("<seed:tool_call>\n", "</seed:tool_call>", "</parameter>\n"),
        reasoning=(ReasoningFormat("<seed:think>", "</seed:think>"),),
    ),
    Family("minimax-m2", _invoke("", "minimax:tool_call")),
    Family(
        "minimax-m3",
        CallFormat(
            "parameters", begin="]<]minimax[>[<tool_call>\n", end="]<]minimax[>[</tool_call>",
            call_begin=']<]minimax[>[<invoke name="', name_end='">',
            call_end="]<]minimax[>[</invoke>\n",
            parameters=Parameters(
                "]<]minimax[>[<", ">", "]<]minimax[>[</{key}>", nested="]<]minimax[>["
            ),
        ),
        reasoning=(ReasoningFormat("<mm:think>", "</mm:think>"),),
    ),
    Family(
        "apriel",
        CallFormat("object", begin="<tool_calls>", end="</tool_calls>", array=True, separator=", "),
        reasoning=(
            ReasoningFormat("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"), THINK,
        ),
        wrappers=("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
    ),
    Family(
        "minimax-m1",
        CallFormat("object", begin="<tool_calls>\n", end="\n</tool_calls>", separator="\n"),
    ),
    Family("deepseek-v3.2", _invoke("｜DSML｜", "｜DSML｜function_calls", kinds=True)),
    Family("deepseek-v4", _invoke("｜DSML｜", "｜DSML｜tool_calls", kinds=True)),
    Family(
        "deepseek-v3.1",
        CallFormat(
            "json", begin="<｜tool▁calls▁begin｜>", end="<｜tool▁calls▁end｜>",
            call_begin="<｜tool▁call▁begin｜>", name_end="<｜tool▁sep｜>",
            call_end="<｜tool▁call▁end｜>",
        ),
    ),
    Family(
        "deepseek-r1",
        CallFormat(
            "json", begin="<｜tool▁calls▁begin｜>", end="<｜tool▁calls▁end｜>",
            call_begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>", name_end="\n```json\n",
            call_end="\n```<｜tool▁call▁end｜>", separator="\n",
        ),
    ),
    Family("glm", _keyed("", "\n", "\n"), also=(HERMES,)),
    Family("glm-4.7", _keyed("", "", ""), also=(HERMES,)),
    Family(
        "hunyuan",
        _keyed(
            ":opensource", "<tool_sep:opensource>\n", "\n", "<tool_calls:opensource>\n",
            "\n</tool_calls:opensource>",
        ),
        reasoning=(ReasoningFormat("<think:opensource>", "</think:opensource>"),),
    ),
    Family(
        "kimi-k2",
        CallFormat(
            "json", begin="<|tool_calls_section_begin|>", end="<|tool_calls_section_end|>",
            call_begin="<|tool_call_begin|>", head="functions.{name}:{n}",
            heads=("functions.{name}", "{name}:{n}", "{name}"),
            name_end="<|tool_call_argument_begin|>", call_end="<|tool_call_end|>",
        ),
    ),
    Family(
        "kimi-k3",
        CallFormat(
            "parameters", begin="<|open|>tools<|sep|>", end="<|close|>tools<|sep|>",
            call_begin='<|open|>call tool="', head='{name}" index="{n}', name_end='"<|sep|>',
            call_end="<|close|>call<|sep|>",
            parameters=Parameters(
                '<|open|>argument key="', '" type="{kind}"<|sep|>', "<|close|>argument<|sep|>",
                ("string", ""),
            ),
        ),
        reasoning=(ReasoningFormat("<|open|>think<|sep|>", "<|close|>think<|sep|>"),),
        wrappers=(
            "<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>",
            "<|end_of_msg|>",
        ),
        content_begin="<|open|>response<|sep|>",
        no_content="<|open|>response<|sep|><|close|>response<|sep|>",
    ),
    Family(
        "solar",
        CallFormat(
            "json", begin="<|tool_calls|>", end="<|calls|>", call_begin="<|tool_call:begin|>",
            head="{id}<|tool_call:name|>{name}", name_end="<|tool_call:args|>",
            call_end="<|tool_call:end|>",
        ),
        reasoning=(ReasoningFormat("<|think|>", "<|end|>", True, "<|begin|>assistant"),),
        wrappers=("<|begin|>assistant", "<|content|>", "<|end|>"), content_begin="<|content|>",
    ),
    Family(
        "command",
        CallFormat(
            "object", begin="<|START_ACTION|>", end="<|END_ACTION|>", array=True, separator=",\n",
            object_begin='{"tool_call_id": "{n}", "tool_name": "{name}", "parameters": ',
        ),
        reasoning=(ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>"),),
        wrappers=(
            "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>",
        ),
        content_begin="<|START_RESPONSE|>",
    ),
    Family(
        "apertus",
        CallFormat(
            "keyed", begin="<|tools_prefix|>", end="<|tools_suffix|>", array=True, separator=", "
        ),
    ),
    Family(
        "nemotron-v2",
        CallFormat("object", begin="<TOOLCALL>", end="</TOOLCALL>", array=True, separator=", "),
    ),
    Family(
        "gigachat-3.1", CallFormat("object", begin="<|function_call|>"),
        wrappers=("<|message_sep|>",),
    ),
    Family(
        "gigachat",
        CallFormat("object", begin="<|message_sep|>\n\nfunction call<|role_sep|>\n"),
    ),
    Family(
        "lfm2",
        CallFormat(
            "python", begin="<|tool_call_start|>", end="<|tool_call_end|>", array=True,
            separator=", ",
        ),
    ),
    Family(
        "gemma4",
        CallFormat("gemma", call_begin="<|tool_call>call:", call_end="<tool_call|>"),
        reasoning=(ReasoningFormat("<|channel>thought\n", "<channel|>", repeated=True),),
    ),
    Family(
        "minicpm5",
        CallFormat(
            "parameters", call_begin='<function name="', name_end='">', call_end="</function>",
            separator="\n",
            parameters=Parameters(
                '<param name="', '">', "</param>", quotes=("<![CDATA[", "]]>"),
            ),
        ),
    ),
    Family(
        "functionary-3.1",
        CallFormat("json", call_begin="<function=", name_end=">", call_end="</function>"),
    ),
    Family(
        "command-r-plus",
        CallFormat(
            "object", begin="Action:\n```json\n", end="\n```", array=True, separator=",\n",
            object_begin='{"tool_name": "{name}", "parameters": ',
        ),
    ),
    Family("firefunction", CallFormat("object", begin=" functools", array=True, separator=", ")),
    Family("llama", LLAMA, also=(PYTHON_LIST,)),
    Family(
        "functionary-3.2",
        channels=Channels(
            begin=">>>", header_end="\n", ends=(), header=(), reasoning=r"(?!)",
            call=r"(?!all$)(?P<name>[\w-]{1,64})", content_begin="all\n", call_begins=("{name}\n",),
        ),
    ),
    Family(
        "harmony",
        channels=Channels(
            begin="<|start|>assistant", header_end="<|message|>",
            ends=("<|end|>", "<|return|>", "<|call|>"), header=("<|channel|>", " to="),
            reasoning=r"<\|channel\|>analysis(?!.*to=)",
            call=r".*?to=(?:functions\.)?(?P<name>[\w-]{1,64}).*",
            reasoning_begin="<|channel|>analysis<|message|>",
            reasoning_end="<|end|><|start|>assistant",
            content_begin="<|channel|>final<|message|>",
            preamble_begin="<|channel|>commentary<|message|>",
            call_begins=(
                " to=functions.{name}<|channel|>commentary json<|message|>",
                "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
            ),
            call_end="<|call|>",
        ),
    ),
    Family(
        "muse", _invoke("atem:", "atem:function_calls"),
        channels=Channels(
            begin="<|start|>assistant", header_end="<|message|>", ends=("<|eom|>", "<|eot|>"),
            header=(" to=",), reasoning=r" ?to=self", reasoning_begin=" to=self<|message|>",
            reasoning_end="<|eom|><|start|>assistant", content_begin="<|message|>",
            call_begins=(" to={name}<|message|>",),
        ),
    ),
)  # fmt: skip

REASONING = tuple(
    dict.fromkeys((THINK, *(form for family in FAMILIES for form in family.reasoning)))
)
"""All markers of reasoning, the most common first."""
WRAPPERS = ("<response>", "</response>")
"""Markers around content of models whose family is recognised by its calls alone (Granite 3.3)."""
