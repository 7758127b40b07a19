"""Answers in the form of every family, written by hand, with what they say.

The texts follow what the templates of the families write for calls and reasoning, and small
deviations from it that models make. No text here is made from the table of formats.
"""

# ruff: noqa: E501 - some characters of markers are as wide as two others.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Call = tuple[str, dict[str, Any]]

FUNCTIONS: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "metric": {"type": "boolean"},
            "factor": {"type": "number"},
            "place": {"type": "object"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
    "get_time": {"type": "object", "properties": {"zone": {"type": "string"}}},
    "now": {"type": "object", "properties": {}},
    "write": {"properties": {"path": {"type": "string"}, "text": {"$ref": "#/$defs/text"}},
              "$defs": {"text": {"type": "string"}}},
}  # fmt: skip
"""The functions that are offered: name -> schema of the arguments."""

OSLO: Call = ("get_weather", {"city": "Oslo"})
TIME: Call = ("get_time", {"zone": "CET"})
NOW: Call = ("now", {})
TEXT = "<p class=\"x\">\n  Blåbær & 'svart' 日本 {1}\n</p>"
PAGE: Call = ("write", {"path": "a/b.html", "text": TEXT})
MIXED: Call = (
    "get_weather",
    {"city": "1040", "days": 3, "metric": True, "factor": -0.5, "place": {"at": [1, None]},
     "tags": ["7", "b"], "note": None},
)  # fmt: skip

PAGE_JSON = (
    r'{"path": "a/b.html", "text": "<p class=\"x\">\n  Blåbær & ' r"'svart' 日本 {1}\n</p>" r'"}'
)
MIXED_JSON = (
    '{"city": "1040", "days": 3, "metric": true, "factor": -0.5, "place": {"at": [1, null]}, '
    '"tags": ["7", "b"], "note": null}'
)


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
        text: what the model writes.
        calls: names and arguments of the calls in it.
        content: its content.
        reasoning: its reasoning.
        thinking: whether the prompt has opened reasoning.
    """

    text: str
    calls: Sequence[Call] = ()
    content: str = ""
    reasoning: str = ""
    thinking: bool = False


SAMPLES: dict[str, list[Sample]] = {
    "hermes": [
        Sample('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
               [OSLO]),
        Sample('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
               '\n<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n</tool_call>',
               [OSLO, TIME]),
        Sample('I look it up.\n\n<tool_call>{"name": "now", "arguments": {}}</tool_call>',
               [NOW], "I look it up."),
        Sample('<think>\nWhich <tool_call>?\n</think>\n\nWait.\n<tool_call>\n{"name": "now"}\n'
               '</tool_call>\nDone.', [NOW], "Wait.\nDone.", "Which <tool_call>?"),
        Sample(f'<tool_call>\n{{"name": "write", "arguments": {PAGE_JSON}}}\n</tool_call>', [PAGE]),
        Sample(f'<tool_call>\n{{"arguments": {MIXED_JSON}, "name": "get_weather"}}\n</tool_call>',
               [MIXED]),
        # Deviations: no end, a raw line end, arguments as text, null or "", a list.
        Sample('<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}', [TIME]),
        Sample('<tool_call>{"name": "write", "arguments": {"text": "a\n\tb\\n"}}</tool_call>',
               [("write", {"text": "a\n\tb\n"})]),
        Sample('<tool_call>{"name": "get_time", "arguments": "{\\"zone\\": \\"CET\\"}"}'
               "</tool_call>", [TIME]),
        Sample('<tool_call>{"name": "now", "arguments": null}</tool_call>', [NOW]),
        Sample('<tool_call>{"name": "now", "arguments": ""}</tool_call>', [NOW]),
        Sample('<tool_call>\n[{"name": "now", "arguments": {}}, {"name": "get_time", '
               '"arguments": {"zone": "CET"}},]\n</tool_call>', [NOW, TIME]),
        Sample('<tool_call>{"name": "now", "parameters": {}}</tool_call><tool_call>'
               '{"name": "now", "arguments": {}}</tool_call>', [NOW, NOW]),
        # No calls.
        Sample('<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>', [],
               '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>'),
        Sample("Write <tool_call> before a call.", [], "Write <tool_call> before a call."),
    ],
    "mistral": [
        Sample('[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}, '
               '"id": "abcdefghi"}]', [OSLO]),
        Sample('[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}, '
               '{"name": "get_time", "arguments": {"zone": "CET"}}]', [OSLO, TIME]),
        Sample('Let me see.[TOOL_CALLS][{"name": "now", "arguments": {}}]', [NOW], "Let me see."),
        Sample(f'[TOOL_CALLS][{{"name": "write", "arguments": {PAGE_JSON}}}]', [PAGE]),
        Sample(f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {MIXED_JSON}}}]', [MIXED]),
        # Deviations: no list, no end of the list, separated by white space, a comma too many.
        Sample('[TOOL_CALLS]{"name": "now", "arguments": {}}', [NOW]),
        Sample('[TOOL_CALLS][{"name": "now", "arguments": {}}', [NOW]),
        Sample('[TOOL_CALLS]{"name": "now", "arguments": {}}\n{"name": "get_time", "arguments": '
               '{"zone": "CET"}}', [NOW, TIME]),
        Sample('[TOOL_CALLS][{"name": "now", "arguments": {}},]', [NOW]),
        Sample("[TOOL_CALLS] is a marker.", [], "[TOOL_CALLS] is a marker."),
    ],
    "mistral-named": [
        Sample('[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}', [OSLO]),
        Sample('[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Oslo"}'
               '[TOOL_CALLS]get_time[CALL_ID]jklmnopqr[ARGS]{"zone": "CET"}', [OSLO, TIME]),
        Sample("[THINK]It wants\nthe time.[/THINK]Now:[TOOL_CALLS]now[ARGS]{}", [NOW], "Now:",
               "It wants\nthe time."),
        Sample(f"[TOOL_CALLS]write[ARGS]{PAGE_JSON}", [PAGE]),
        Sample(f"[TOOL_CALLS]get_weather[ARGS]{MIXED_JSON}", [MIXED]),
        Sample('[TOOL_CALLS] get_time [ARGS] {"zone": "CET"}\n', [TIME]),
        Sample("[TOOL_CALLS]other[ARGS]{}", [], "[TOOL_CALLS]other[ARGS]{}"),
    ],
    "phi": [
        Sample('<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]'
               "<|/tool_call|>", [OSLO]),
        Sample('<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}, '
               '{"name": "get_time", "arguments": {"zone": "CET"}}]<|/tool_call|>', [OSLO, TIME]),
        Sample('Yes.<|tool_call|>[{"name": "now", "arguments": {}}]<|/tool_call|>', [NOW], "Yes."),
        Sample(f'<|tool_call|>[{{"name": "write", "arguments": {PAGE_JSON}}}]<|/tool_call|>',
               [PAGE]),
        Sample(f'<|tool_call|>[{{"name": "get_weather", "arguments": {MIXED_JSON}}}]', [MIXED]),
        Sample('<|tool_call|>{"name": "now", "arguments": {}}<|/tool_call|>', [NOW]),
        Sample('<|tool_call|>{"type": "function", "function": "now"}<|/tool_call|>', [NOW]),
    ],
    "qwen-xml": [
        Sample("<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n"
               "</function>\n</tool_call>", [OSLO]),
        Sample("<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n"
               "</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n<parameter=zone>\nCET"
               "\n</parameter>\n</function>\n</tool_call>", [OSLO, TIME]),
        Sample("<think>\nHm.\n</think>\n\nNow:\n\n<tool_call>\n<function=now>\n</function>\n"
               "</tool_call>", [NOW], "Now:", "Hm."),
        Sample(f"<tool_call>\n<function=write>\n<parameter=path>\na/b.html\n</parameter>\n"
               f"<parameter=text>\n{TEXT}\n</parameter>\n</function>\n</tool_call>", [PAGE]),
        Sample("<tool_call>\n<function=get_weather>\n<parameter=city>\n1040\n</parameter>\n"
               "<parameter=days>\n3\n</parameter>\n<parameter=metric>\nTrue\n</parameter>\n"
               "<parameter=factor>\n-0.5\n</parameter>\n<parameter=place>\n{'at': [1, None]}\n"
               '</parameter>\n<parameter=tags>\n["7", "b"]\n</parameter>\n<parameter=note>\nnull\n'
               "</parameter>\n</function>\n</tool_call>", [MIXED]),
        # Deviations: no beginning, no end, on one line, markers within a value, line ends in it.
        Sample("I call.\n<function=get_time>\n<parameter=zone>\nCET\n</parameter>\n</function>\n"
               "</tool_call>", [TIME], "I call."),
        Sample("<tool_call>\n<function=get_time>\n<parameter=zone>\nCET\n</parameter>\n"
               "</function>", [TIME]),
        Sample("<tool_call>\n<function=get_time>\n<parameter=zone>\nCET\n</parameter>\n"
               "</tool_call>", [TIME]),
        Sample("<tool_call><function=get_time><parameter=zone>CET</parameter></function>"
               "<tool_call><function=now></function></tool_call>", [TIME, NOW]),
        Sample("<tool_call>\n<function=write>\n<parameter=text>\n\n</parameter></parameter> "
               "<parameter>\n</function>\n\n</parameter>\n</function>\n</tool_call>",
               [("write", {"text": "\n</parameter></parameter> <parameter>\n</function>\n"})]),
        Sample("<tool_call>\n<function=other>\n</function>\n</tool_call>", [],
               "<tool_call>\n<function=other>\n</function>\n</tool_call>"),
    ],
    "seed": [
        Sample("<seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo</parameter>\n"
               "</function>\n</seed:tool_call>", [OSLO]),
        Sample("<seed:think>Two.</seed:think>\nBoth:\n<seed:tool_call>\n<function=get_weather>\n"
               "<parameter=city>Oslo</parameter>\n</function>\n</seed:tool_call>\n"
               "<seed:tool_call>\n<function=get_time>\n<parameter=zone>CET</parameter>\n"
               "</function>\n</seed:tool_call>", [OSLO, TIME], "Both:", "Two."),
        Sample("<seed:tool_call><function=now></function></seed:tool_call>", [NOW]),
        Sample(f"<seed:tool_call>\n<function=write>\n<parameter=path>a/b.html</parameter>\n"
               f"<parameter=text>{TEXT}</parameter>\n</function>\n</seed:tool_call>", [PAGE]),
        Sample("<seed:tool_call>\n<function=get_weather>\n<parameter=city>1040</parameter>\n"
               "<parameter=days>3</parameter>\n<parameter=metric>True</parameter>\n"
               "<parameter=factor>-0.5</parameter>\n<parameter=place>{'at': [1, None]}</parameter>"
               "\n<parameter=tags>['7', \"b\"]</parameter>\n<parameter=note>None</parameter>\n"
               "</function>\n</seed:tool_call>", [MIXED]),
        Sample("So.</seed:think>Hi", [], "Hi", "So.", True),
    ],
    "minimax-m2": [
        Sample('<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo'
               "</parameter>\n</invoke>\n</minimax:tool_call>", [OSLO]),
        Sample('<think>\nTwo.\n</think>\n\nBoth:\n<minimax:tool_call>\n<invoke name="get_weather">'
               '\n<parameter name="city">Oslo</parameter>\n</invoke>\n<invoke name="get_time">\n'
               '<parameter name="zone">CET</parameter>\n</invoke>\n</minimax:tool_call>',
               [OSLO, TIME], "Both:", "Two."),
        Sample('<minimax:tool_call>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>', [NOW]),
        Sample(f'<minimax:tool_call>\n<invoke name="write">\n<parameter name="path">a/b.html'
               f'</parameter>\n<parameter name="text">{TEXT}</parameter>\n</invoke>\n'
               f"</minimax:tool_call>", [PAGE]),
        Sample('<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">1040'
               '</parameter>\n<parameter name="days">3</parameter>\n<parameter name="metric">true'
               '</parameter>\n<parameter name="factor">-0.5</parameter>\n<parameter name="place">'
               '{"at": [1, null]}</parameter>\n<parameter name="tags">["7", "b"]</parameter>\n'
               '<parameter name="note">null</parameter>\n</invoke>\n</minimax:tool_call>', [MIXED]),
        # Deviations: no beginning of the section, no end.
        Sample('<invoke name="now"></invoke>\n</minimax:tool_call>', [NOW]),
        Sample('<minimax:tool_call><invoke name="now"></invoke>', [NOW]),
        Sample('<minimax:tool_call>\n<invoke name="other">\n</invoke>', [],
               '<minimax:tool_call>\n<invoke name="other">\n</invoke>'),
    ],
    "minimax-m3": [
        Sample(']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_weather">'
               "]<]minimax[>[<city>Oslo]<]minimax[>[</city>]<]minimax[>[</invoke>\n"
               "]<]minimax[>[</tool_call>", [OSLO]),
        Sample('<mm:think>Two.</mm:think>Both:]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke '
               'name="get_weather">]<]minimax[>[<city>Oslo]<]minimax[>[</city>]<]minimax[>['
               '</invoke>\n]<]minimax[>[<invoke name="get_time">]<]minimax[>[<zone>CET]<]minimax[>['
               "</zone>]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>", [OSLO, TIME], "Both:",
               "Two."),
        Sample(']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="now">]<]minimax[>[</invoke>\n'
               "]<]minimax[>[</tool_call>", [NOW]),
        Sample(f']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="write">]<]minimax[>[<path>'
               f"a/b.html]<]minimax[>[</path>]<]minimax[>[<text>{TEXT}]<]minimax[>[</text>"
               f"]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>", [PAGE]),
        Sample(']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_weather">]<]minimax[>['
               "<city>1040]<]minimax[>[</city>]<]minimax[>[<days>3]<]minimax[>[</days>"
               "]<]minimax[>[<metric>true]<]minimax[>[</metric>]<]minimax[>[<factor>-0.5"
               "]<]minimax[>[</factor>]<]minimax[>[<place>]<]minimax[>[<at>]<]minimax[>[<item>1"
               "]<]minimax[>[</item>]<]minimax[>[<item>null]<]minimax[>[</item>]<]minimax[>[</at>"
               "]<]minimax[>[</place>]<]minimax[>[<tags>]<]minimax[>[<item>7]<]minimax[>[</item>"
               "]<]minimax[>[<item>b]<]minimax[>[</item>]<]minimax[>[</tags>]<]minimax[>[<note>null"
               "]<]minimax[>[</note>]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>", [MIXED]),
        # Deviations: an object as JSON, one within one of the same name, no section.
        Sample(']<]minimax[>[<invoke name="get_weather">]<]minimax[>[<place>{"a": "b"}'
               "]<]minimax[>[</place>]<]minimax[>[</invoke>",
               [("get_weather", {"place": {"a": "b"}})]),
        Sample(']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="get_weather">]<]minimax[>['
               "<place>]<]minimax[>[<place>x]<]minimax[>[</place>]<]minimax[>[<a>y]<]minimax[>[</a>"
               "]<]minimax[>[</place>]<]minimax[>[</invoke>",
               [("get_weather", {"place": {"place": "x", "a": "y"}})]),
    ],
    "apriel": [
        Sample('<tool_calls>[{"name": "get_weather", "arguments": {"city": "Oslo"}, '
               '"id": "0"}]</tool_calls>', [OSLO]),
        Sample('Two.\n[BEGIN FINAL RESPONSE]\nBoth:\n<tool_calls>[{"name": "get_weather", '
               '"arguments": {"city": "Oslo"}}, {"name": "get_time", "arguments": {"zone": "CET"}}]'
               "</tool_calls>\n[END FINAL RESPONSE]", [OSLO, TIME], "Both:", "Two.", True),
        Sample('Here are my reasoning steps:\nSo.\n[BEGIN FINAL RESPONSE]\nHi.\n'
               "[END FINAL RESPONSE]\n", [], "Hi.", "So."),
        Sample('<tool_calls>[{"name": "now", "arguments": {}}]</tool_calls>', [NOW]),
        Sample(f'<tool_calls>[{{"name": "write", "arguments": {PAGE_JSON}}}]</tool_calls>', [PAGE]),
        Sample(f'<tool_calls>[{{"name": "get_weather", "arguments": {MIXED_JSON}}}]', [MIXED]),
    ],
    "minimax-m1": [
        Sample('<tool_calls>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n'
               "</tool_calls>", [OSLO]),
        Sample('<think>Two.</think>Both:\n<tool_calls>\n{"name": "get_weather", "arguments": '
               '{"city": "Oslo"}}\n{"name": "get_time", "arguments": {"zone": "CET"}}\n'
               "</tool_calls>", [OSLO, TIME], "Both:", "Two."),
        Sample('<tool_calls>\n{"name": "now", "arguments": {}}\n</tool_calls>', [NOW]),
        Sample(f'<tool_calls>\n{{"name": "write", "arguments": {PAGE_JSON}}}\n</tool_calls>',
               [PAGE]),
        Sample(f'<tool_calls>\n{{"name": "get_weather", "arguments": {MIXED_JSON}}}', [MIXED]),
        Sample('<tool_calls>\n{"name": "now", "arguments": {}}\n{"name": "other", "arguments": {}}'
               "\n</tool_calls>", [NOW], '{"name": "other", "arguments": {}}\n</tool_calls>'),
    ],
    "deepseek-v3.2": [
        Sample('<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter '
               'name="city" string="true">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
               "</｜DSML｜function_calls>", [OSLO]),
        Sample('Two.</think>Both:\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
               '<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n'
               '</｜DSML｜invoke>\n<｜DSML｜invoke name="get_time">\n<｜DSML｜parameter name="zone" '
               'string="true">CET</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
               [OSLO, TIME], "Both:", "Two.", True),
        Sample('<｜DSML｜function_calls>\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n'
               "</｜DSML｜function_calls>", [NOW]),
        Sample(f'<｜DSML｜function_calls>\n<｜DSML｜invoke name="write">\n<｜DSML｜parameter '
               f'name="path" string="true">a/b.html</｜DSML｜parameter>\n<｜DSML｜parameter '
               f'name="text" string="true">{TEXT}</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
               f"</｜DSML｜function_calls>", [PAGE]),
        Sample('<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter '
               'name="city" string="true">1040</｜DSML｜parameter>\n<｜DSML｜parameter name="days" '
               'string="false">3</｜DSML｜parameter>\n<｜DSML｜parameter name="metric" string="false">'
               'true</｜DSML｜parameter>\n<｜DSML｜parameter name="factor" string="false">-0.5'
               '</｜DSML｜parameter>\n<｜DSML｜parameter name="place" string="false">{"at": [1, null]}'
               '</｜DSML｜parameter>\n<｜DSML｜parameter name="tags" string="false">["7", "b"]'
               '</｜DSML｜parameter>\n<｜DSML｜parameter name="note" string="false">null'
               "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>", [MIXED]),
    ],
    "deepseek-v4": [
        Sample('<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter '
               'name="city" string="true">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
               "</｜DSML｜tool_calls>", [OSLO]),
        Sample('<think>Two.</think>Both:\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke '
               'name="get_weather">\n<｜DSML｜parameter name="city" string="true">Oslo'
               '</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name="get_time">\n'
               '<｜DSML｜parameter name="zone" string="true">CET</｜DSML｜parameter>\n'
               "</｜DSML｜invoke>\n</｜DSML｜tool_calls>", [OSLO, TIME], "Both:", "Two."),
        Sample('<｜DSML｜tool_calls>\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n'
               "</｜DSML｜tool_calls>", [NOW]),
        Sample(f'<｜DSML｜tool_calls>\n<｜DSML｜invoke name="write">\n<｜DSML｜parameter name="path" '
               f'string="true">a/b.html</｜DSML｜parameter>\n<｜DSML｜parameter name="text" '
               f'string="true">{TEXT}</｜DSML｜parameter>\n</｜DSML｜invoke>', [PAGE]),
        Sample('<｜DSML｜invoke name="get_weather"><｜DSML｜parameter name="days" string="false">3'
               "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>",
               [("get_weather", {"days": 3})]),
    ],
    "deepseek-v3.1": [
        Sample('<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}'
               "<｜tool▁call▁end｜><｜tool▁calls▁end｜>", [OSLO]),
        Sample('<think>Two.</think>Both:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather'
               '<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>get_time'
               '<｜tool▁sep｜>{"zone": "CET"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', [OSLO, TIME],
               "Both:", "Two."),
        Sample("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
               "<｜tool▁calls▁end｜>", [NOW]),
        Sample(f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write<｜tool▁sep｜>{PAGE_JSON}"
               f"<｜tool▁call▁end｜><｜tool▁calls▁end｜>", [PAGE]),
        Sample(f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{MIXED_JSON}"
               f"<｜tool▁call▁end｜>", [MIXED]),
        Sample("<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>", [NOW]),
    ],
    "deepseek-r1": [
        Sample("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
               '{"city": "Oslo"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', [OSLO]),
        Sample("<think>\nTwo.\n</think>\n\nBoth:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
               '<｜tool▁sep｜>get_weather\n```json\n{"city": "Oslo"}\n```<｜tool▁call▁end｜>\n'
               '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{"zone": "CET"}\n```'
               "<｜tool▁call▁end｜><｜tool▁calls▁end｜>", [OSLO, TIME], "Both:", "Two."),
        Sample("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n"
               "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", [NOW]),
        Sample(f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>write\n```json\n"
               f"{PAGE_JSON}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", [PAGE]),
        Sample(f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{MIXED_JSON}\n",
               [MIXED]),
    ],
    "glm": [
        Sample("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
               "</tool_call>", [OSLO]),
        Sample("\n<think>Two.</think>\nBoth:\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
               "<arg_value>Oslo</arg_value>\n</tool_call>\n<tool_call>get_time\n<arg_key>zone"
               "</arg_key>\n<arg_value>CET</arg_value>\n</tool_call>", [OSLO, TIME], "Both:",
               "Two."),
        Sample("<tool_call>now\n</tool_call>", [NOW]),
        Sample(f"<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>a/b.html</arg_value>\n"
               f"<arg_key>text</arg_key>\n<arg_value>{TEXT}</arg_value>\n</tool_call>", [PAGE]),
        Sample("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>1040</arg_value>\n"
               "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>metric</arg_key>\n"
               "<arg_value>true</arg_value>\n<arg_key>factor</arg_key>\n<arg_value>-0.5</arg_value>"
               '\n<arg_key>place</arg_key>\n<arg_value>{"at": [1, null]}</arg_value>\n'
               '<arg_key>tags</arg_key><arg_value>["7", "b"]</arg_value>\n<arg_key>note</arg_key>'
               "\n<arg_value>null</arg_value>\n</tool_call>", [MIXED]),
        # Another form that the models write now and then.
        Sample('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', [NOW]),
        Sample("<tool_call>other\n</tool_call>", [], "<tool_call>other\n</tool_call>"),
    ],
    "glm-4.7": [
        Sample("<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value>"
               "</tool_call>", [OSLO]),
        Sample("Two.</think>Both:<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo"
               "</arg_value></tool_call><tool_call>get_time<arg_key>zone</arg_key><arg_value>CET"
               "</arg_value></tool_call>", [OSLO, TIME], "Both:", "Two.", True),
        Sample("<tool_call>now</tool_call>", [NOW]),
        Sample(f"<tool_call>write<arg_key>path</arg_key><arg_value>a/b.html</arg_value><arg_key>"
               f"text</arg_key><arg_value>{TEXT}</arg_value></tool_call>", [PAGE]),
        Sample("<tool_call>get_weather<arg_key>days</arg_key><arg_value> 3 </arg_value><arg_key>"
               "city</arg_key><arg_value> 3 </arg_value></tool_call>",
               [("get_weather", {"days": 3, "city": " 3 "})]),
        Sample('<tool_call>{"name": "now", "arguments": {}}</tool_call>', [NOW]),
    ],
    "hunyuan": [
        Sample("<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n"
               "<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Oslo"
               "</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
               [OSLO]),
        Sample("<think:opensource>Two.</think:opensource>Both:<tool_calls:opensource>\n"
               "<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city"
               "</arg_key:opensource>\n<arg_value:opensource>Oslo</arg_value:opensource>\n"
               "</tool_call:opensource>\n<tool_call:opensource>get_time<tool_sep:opensource>\n"
               "<arg_key:opensource>zone</arg_key:opensource>\n<arg_value:opensource>CET"
               "</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
               [OSLO, TIME], "Both:", "Two."),
        Sample("<tool_calls:opensource>\n<tool_call:opensource>now<tool_sep:opensource>\n"
               "</tool_call:opensource>\n</tool_calls:opensource>", [NOW]),
        Sample(f"<tool_call:opensource>write<tool_sep:opensource>\n<arg_key:opensource>path"
               f"</arg_key:opensource>\n<arg_value:opensource>a/b.html</arg_value:opensource>\n"
               f"<arg_key:opensource>text</arg_key:opensource>\n<arg_value:opensource>{TEXT}"
               f"</arg_value:opensource>\n</tool_call:opensource>", [PAGE]),
        Sample("<tool_calls:opensource><tool_call:opensource>get_weather<tool_sep:opensource>"
               "<arg_key:opensource>place</arg_key:opensource><arg_value:opensource>{'a': True}"
               "</arg_value:opensource></tool_call:opensource>",
               [("get_weather", {"place": {"a": True}})]),
    ],
    "kimi-k2": [
        Sample("<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
               '<|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|>'
               "<|tool_calls_section_end|>", [OSLO]),
        Sample("<think>Two.</think>Both:<|tool_calls_section_begin|><|tool_call_begin|>"
               'functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}'
               "<|tool_call_end|><|tool_call_begin|>functions.get_time:1"
               '<|tool_call_argument_begin|>{"zone": "CET"}<|tool_call_end|>'
               "<|tool_calls_section_end|>", [OSLO, TIME], "Both:", "Two."),
        Sample("<|tool_calls_section_begin|><|tool_call_begin|>functions.now:12"
               "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>", [NOW]),
        Sample(f"<|tool_calls_section_begin|><|tool_call_begin|>functions.write:0"
               f"<|tool_call_argument_begin|>{PAGE_JSON}<|tool_call_end|>"
               f"<|tool_calls_section_end|>", [PAGE]),
        Sample(f"<|tool_calls_section_begin|>\n<|tool_call_begin|> functions.get_weather:0 "
               f"<|tool_call_argument_begin|>\n{MIXED_JSON}\n<|tool_call_end|>\n"
               f"<|tool_calls_section_end|>\n", [MIXED]),
        # Deviations: no section, a bare name, no index, no end.
        Sample("<|tool_call_begin|>now<|tool_call_argument_begin|>{}<|tool_call_end|>", [NOW]),
        Sample("<|tool_call_begin|>functions.now<|tool_call_argument_begin|>{}<|tool_call_end|>"
               "<|tool_calls_section_end|>", [NOW]),
        Sample('<|tool_calls_section_begin|><|tool_call_begin|>get_time:0'
               '<|tool_call_argument_begin|>{"zone": "CET"}', [TIME]),
    ],
    "kimi-k3": [
        Sample('<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>'
               'argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|><|close|>call'
               "<|sep|><|close|>tools<|sep|>", [OSLO]),
        Sample("Two.<|close|>think<|sep|><|open|>response<|sep|>Both:<|close|>response<|sep|>"
               '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>'
               'argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|><|close|>call'
               '<|sep|><|open|>call tool="get_time" index="2"<|sep|><|open|>argument key="zone" '
               'type="string"<|sep|>CET<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools'
               "<|sep|><|close|>message<|sep|><|end_of_msg|>", [OSLO, TIME], "Both:", "Two.", True),
        Sample('<|open|>tools<|sep|><|open|>call tool="now" index="1"<|sep|><|close|>call<|sep|>'
               "<|close|>tools<|sep|>", [NOW]),
        Sample(f'<|open|>tools<|sep|><|open|>call tool="write" index="1"<|sep|><|open|>argument '
               f'key="path" type="string"<|sep|>a/b.html<|close|>argument<|sep|><|open|>argument '
               f'key="text" type="string"<|sep|>{TEXT}<|close|>argument<|sep|><|close|>call<|sep|>'
               f"<|close|>tools<|sep|>", [PAGE]),
        Sample('<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>'
               'argument key="city" type="string"<|sep|>1040<|close|>argument<|sep|><|open|>'
               'argument key="days" type="number"<|sep|>3<|close|>argument<|sep|><|open|>'
               'argument key="metric" type="boolean"<|sep|>true<|close|>argument<|sep|><|open|>'
               'argument key="factor" type="number"<|sep|>-0.5<|close|>argument<|sep|><|open|>'
               'argument key="place" type="object"<|sep|>{"at": [1, null]}<|close|>argument<|sep|>'
               '<|open|>argument key="tags" type="array"<|sep|>["7", "b"]<|close|>argument<|sep|>'
               '<|open|>argument key="note" type="null"<|sep|>null<|close|>argument<|sep|>'
               "<|close|>call<|sep|><|close|>tools<|sep|>", [MIXED]),
        Sample("<|open|>think<|sep|>So.<|close|>think<|sep|><|open|>response<|sep|>Hi."
               "<|close|>response<|sep|><|close|>message<|sep|>", [], "Hi.", "So."),
    ],
    "solar": [
        Sample("<|tool_calls|><|tool_call:begin|>abcde12345<|tool_call:name|>get_weather"
               '<|tool_call:args|>{"city": "Oslo"}<|tool_call:end|><|calls|>', [OSLO]),
        Sample("<|think|>Two.<|end|><|begin|>assistant<|content|>Both:<|end|><|begin|>assistant"
               "<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>get_weather<|tool_call:args|>"
               '{"city": "Oslo"}<|tool_call:end|><|tool_call:begin|>a2<|tool_call:name|>get_time'
               '<|tool_call:args|>{"zone": "CET"}<|tool_call:end|><|calls|>', [OSLO, TIME],
               "Both:", "Two."),
        Sample("<|tool_calls|><|tool_call:begin|><|tool_call:name|>now<|tool_call:args|>{}"
               "<|tool_call:end|><|calls|>", [NOW]),
        Sample(f"<|tool_calls|><|tool_call:begin|>x<|tool_call:name|>write<|tool_call:args|>"
               f"{PAGE_JSON}<|tool_call:end|><|calls|>", [PAGE]),
        Sample(f"<|tool_calls|><|tool_call:begin|>x<|tool_call:name|>get_weather<|tool_call:args|>"
               f"{MIXED_JSON}<|tool_call:end|>", [MIXED]),
        Sample("So.<|end|><|begin|>assistant<|content|>Hi.<|end|>", [], "Hi.", "So.", True),
    ],
    "command": [
        Sample('<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
               '"parameters": {"city": "Oslo"}}\n]<|END_ACTION|>', [OSLO]),
        Sample('<|START_THINKING|>Two.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", '
               '"tool_name": "get_weather", "parameters": {"city": "Oslo"}},\n    {"tool_call_id": '
               '"1", "tool_name": "get_time", "parameters": {"zone": "CET"}}\n]<|END_ACTION|>',
               [OSLO, TIME], "", "Two."),
        Sample('<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "now", "parameters": {}}]'
               "<|END_ACTION|>", [NOW]),
        Sample("<|START_THINKING|>So.<|END_THINKING|><|START_RESPONSE|>Hi!\n<|END_RESPONSE|>", [],
               "Hi!", "So."),
        Sample("So.<|END_THINKING|><|START_TEXT|>Hi!<|END_TEXT|>", [], "Hi!", "So.", True),
        Sample(f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "write", "parameters": '
               f"{PAGE_JSON}}}\n]<|END_ACTION|>", [PAGE]),
        Sample(f'<|START_ACTION|>[{{"tool_name": "get_weather", "parameters": {MIXED_JSON}}}]',
               [MIXED]),
    ],
    "apertus": [
        Sample('<|tools_prefix|>[{"get_weather": {"city": "Oslo"}}]<|tools_suffix|>', [OSLO]),
        Sample('Both:<|tools_prefix|>[{"get_weather": {"city": "Oslo"}}, {"get_time": {"zone": '
               '"CET"}}]<|tools_suffix|>', [OSLO, TIME], "Both:"),
        Sample('<|tools_prefix|>[{"now": {}}]<|tools_suffix|>', [NOW]),
        Sample('<|tools_prefix|>[{"now": null}]', [NOW]),
        Sample(f'<|tools_prefix|>[{{"write": {PAGE_JSON}}}]<|tools_suffix|>', [PAGE]),
        Sample(f'<|tools_prefix|>[{{"get_weather": {MIXED_JSON}}}]<|tools_suffix|>', [MIXED]),
        Sample('<|tools_prefix|>[{"now": {}, "get_time": {}}]<|tools_suffix|>', [],
               '<|tools_prefix|>[{"now": {}, "get_time": {}}]<|tools_suffix|>'),
    ],
    "nemotron-v2": [
        Sample('<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]</TOOLCALL>',
               [OSLO]),
        Sample('<think>\nTwo.\n</think>\n\nBoth:\n<TOOLCALL>[{"name": "get_weather", "arguments": '
               '{"city": "Oslo"}}, {"name": "get_time", "arguments": {"zone": "CET"}}]</TOOLCALL>',
               [OSLO, TIME], "Both:", "Two."),
        Sample('<TOOLCALL>[{"name": "now", "arguments": {}}]</TOOLCALL>', [NOW]),
        Sample(f'<TOOLCALL>[{{"name": "write", "arguments": {PAGE_JSON}}}]</TOOLCALL>', [PAGE]),
        Sample(f'<TOOLCALL>[{{"name": "get_weather", "arguments": {MIXED_JSON}}}]', [MIXED]),
    ],
    "gigachat-3.1": [
        Sample('<|function_call|>{"name": "get_weather", "arguments": {"city": "Oslo"}}', [OSLO]),
        Sample('Both:<|message_sep|>\n\n<|function_call|>{"name": "get_weather", "arguments": '
               '{"city": "Oslo"}}<|function_call|>{"name": "get_time", "arguments": {"zone": '
               '"CET"}}', [OSLO, TIME], "Both:"),
        Sample('<|function_call|>{"name": "now", "arguments": {}}<|message_sep|>\n\n', [NOW]),
        Sample(f'<|function_call|>{{"name": "write", "arguments": {PAGE_JSON}}}', [PAGE]),
        Sample(f'<|function_call|>{{"name": "get_weather", "arguments": {MIXED_JSON}}}', [MIXED]),
    ],
    "gigachat": [
        Sample('<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", '
               '"arguments": {"city": "Oslo"}}', [OSLO]),
        Sample('Both:<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", '
               '"arguments": {"city": "Oslo"}}<|message_sep|>\n\nfunction call<|role_sep|>\n'
               '{"name": "get_time", "arguments": {"zone": "CET"}}', [OSLO, TIME], "Both:"),
        Sample('<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "now", "arguments": {}}',
               [NOW]),
        Sample(f'<|message_sep|>\n\nfunction call<|role_sep|>\n{{"name": "write", "arguments": '
               f"{PAGE_JSON}}}", [PAGE]),
        Sample(f'<|message_sep|>\n\nfunction call<|role_sep|>\n{{"name": "get_weather", '
               f'"arguments": {MIXED_JSON}}}', [MIXED]),
    ],
    "lfm2": [
        Sample('<|tool_call_start|>[get_weather(city="Oslo")]<|tool_call_end|>', [OSLO]),
        Sample("<think>Two.</think>Both:<|tool_call_start|>[get_weather(city='Oslo'), "
               "get_time(zone='CET')]<|tool_call_end|>", [OSLO, TIME], "Both:", "Two."),
        Sample("<|tool_call_start|>[now()]<|tool_call_end|>Wait.", [NOW], "Wait."),
        Sample("<|tool_call_start|>[write(path='a/b.html', text='<p class=\"x\">\\n  Blåbær & "
               "\\'svart\\' 日本 {1}\\n</p>')]<|tool_call_end|>", [PAGE]),
        Sample('<|tool_call_start|>[get_weather(city="1040", days=3, metric=True, factor=-0.5, '
               'place={"at": [1, null]}, tags=["7", \'b\'], note=None)]<|tool_call_end|>',
               [MIXED]),
        # Deviations: JSON's names, a raw line end, an unknown escape, no list, no end.
        Sample('<|tool_call_start|>[get_weather(metric=false, place={"a": true})]',
               [("get_weather", {"metric": False, "place": {"a": True}})]),
        Sample('<|tool_call_start|>[write(text="a\nb \\d",)]<|tool_call_end|>',
               [("write", {"text": "a\nb \\d"})]),
        # Quotes without escapes, as the template of LFM2.5 writes them.
        Sample("<|tool_call_start|>[get_weather(city='L'Aquila' , tags=['it''s', 'o' k'], note='')]"
               "<|tool_call_end|>", [("get_weather", {
                   "city": "L'Aquila", "tags": ["it''s", "o' k"], "note": ""})]),
        Sample('<|tool_call_start|>[get_weather(city="say "hi"\nnow"\n)]<|tool_call_end|>',
               [("get_weather", {"city": 'say "hi"\nnow'})]),
        Sample("<|tool_call_start|>now()<|tool_call_end|>", [NOW]),
        Sample("<|tool_call_start|>[now(1)]<|tool_call_end|>", [],
               "<|tool_call_start|>[now(1)]<|tool_call_end|>"),
    ],
    "gemma4": [
        Sample('<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>}<tool_call|>', [OSLO]),
        Sample('<|channel>thought\nTwo.\n<channel|>Both:<|tool_call>call:get_weather{city:<|"|>'
               'Oslo<|"|>}<tool_call|><|tool_call>call:get_time{zone:<|"|>CET<|"|>}<tool_call|>',
               [OSLO, TIME], "Both:", "Two."),
        Sample("<|tool_call>call:now{}<tool_call|>", [NOW]),
        Sample(f'<|tool_call>call:write{{path:<|"|>a/b.html<|"|>,text:<|"|>{TEXT}<|"|>}}'
               f"<tool_call|>", [PAGE]),
        Sample('<|tool_call>call:get_weather{city:<|"|>1040<|"|>,days:3,metric:true,factor:-0.5,'
               'place:{at:[1,null]},tags:[<|"|>7<|"|>,<|"|>b<|"|>],note:null}<tool_call|>',
               [MIXED]),
        # Deviations: plain quotes, spaces, a text without quotes, no end.
        Sample('<|tool_call>call:get_weather{ "city": "Os, lo", days: 3 }',
               [("get_weather", {"city": "Os, lo", "days": 3})]),
        Sample("<|tool_call>call:get_weather{city:Oslo}<tool_call|>", [OSLO]),
        Sample("<|channel>thought\n<channel|>Hi.", [], "Hi."),
    ],
    "minicpm5": [
        Sample('<function name="get_weather"><param name="city">Oslo</param></function>', [OSLO]),
        Sample('<think>\nTwo.\n</think>\n\nBoth:\n<function name="get_weather"><param '
               'name="city">Oslo</param></function>\n<function name="get_time"><param name="zone">'
               "CET</param></function>", [OSLO, TIME], "Both:", "Two."),
        Sample('<function name="now"></function>', [NOW]),
        Sample(f'<function name="write"><param name="path">a/b.html</param><param name="text">'
               f"<![CDATA[{TEXT}]]></param></function>", [PAGE]),
        Sample(f'<function name="write"><param name="path">a/b.html</param><param name="text">'
               f"{TEXT}</param></function>", [PAGE]),
        Sample('<function name="write"><param name="path"><![CDATA[</param></function>]]></param>'
               '<param name="text"><![CDATA[]]>\n</param></function>',
               [("write", {"path": "</param></function>", "text": ""})]),
        Sample('<function name="get_weather"><param name="city"><![CDATA[a]]]]><![CDATA[>b]]>'
               '</param></function>', [("get_weather", {"city": "a]]>b"})]),
        Sample('<function name="get_weather"><param name="city">1040</param><param name="days">3'
               '</param><param name="metric">True</param><param name="factor">-0.5</param><param '
               'name="place">{\'at\': [1, None]}</param><param name="tags">["7", "b"]</param>'
               '<param name="note">null</param></function>', [MIXED]),
    ],
    "functionary-3.1": [
        Sample('<function=get_weather>{"city": "Oslo"}</function>', [OSLO]),
        Sample('Both:\n<function=get_weather>{"city": "Oslo"}</function><function=get_time>'
               '{"zone": "CET"}</function>', [OSLO, TIME], "Both:"),
        Sample("<function=now>{}</function>", [NOW]),
        Sample(f"<function=write>{PAGE_JSON}</function>", [PAGE]),
        Sample(f"<function=get_weather>{MIXED_JSON}", [MIXED]),
        Sample("<function=other>{}</function>", [], "<function=other>{}</function>"),
    ],
    "command-r-plus": [
        Sample('Action: ```json\n[\n    {\n        "tool_name": "get_weather",\n        '
               '"parameters": {"city": "Oslo"}\n    }\n]```', [OSLO]),
        Sample('Both.\nAction: ```json\n[{"tool_name": "get_weather", "parameters": {"city": '
               '"Oslo"}},\n{"tool_name": "get_time", "parameters": {"zone": "CET"}}]\n```',
               [OSLO, TIME], "Both."),
        Sample('Action: ```json\n[{"tool_name": "now", "parameters": {}}]\n```', [NOW]),
        Sample(f'Action: ```json\n[{{"tool_name": "write", "parameters": {PAGE_JSON}}}]\n```',
               [PAGE]),
        Sample(f'Action:```json\n[{{"tool_name": "get_weather", "parameters": {MIXED_JSON}}}]```',
               [MIXED]),
        Sample("Action: ```python\n1\n```", [], "Action: ```python\n1\n```"),
    ],
    "firefunction": [
        Sample(' functools[{"name": "get_weather", "arguments": {"city": "Oslo"}}]', [OSLO]),
        Sample('Both: functools[{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": '
               '"get_time", "arguments": {"zone": "CET"}}]', [OSLO, TIME], "Both:"),
        Sample(' functools[{"name": "now", "arguments": {}}]', [NOW]),
        Sample(f'functools[{{"name": "write", "arguments": {PAGE_JSON}}}]', [PAGE]),
        Sample(f'functools [{{"name": "get_weather", "arguments": {MIXED_JSON}}}]', [MIXED]),
        Sample("Python has functools[1].", [], "Python has functools[1]."),
    ],
    "llama": [
        Sample('{"name": "get_weather", "parameters": {"city": "Oslo"}}', [OSLO]),
        Sample('{"name": "get_weather", "parameters": {"city": "Oslo"}}; {"name": "get_time", '
               '"parameters": {"zone": "CET"}}', [OSLO, TIME]),
        Sample('I see.\n{"name": "now", "parameters": {}}', [NOW], "I see."),
        Sample('<|python_tag|>{"type": "function", "name": "now", "parameters": {}}', [NOW]),
        Sample(f'{{"name": "write", "parameters": {PAGE_JSON}}}', [PAGE]),
        Sample(f'{{"type": "function", "function": "get_weather", "parameters": {MIXED_JSON}}}',
               [MIXED]),
        # Deviations: a list, lines, arguments, Python.
        Sample('[{"name": "now", "arguments": {}}, {"name": "get_time", "parameters": {"zone": '
               '"CET"}}]', [NOW, TIME]),
        Sample('{"name": "now", "parameters": {}}\n{"name": "now", "parameters": {}}', [NOW, NOW]),
        Sample('[get_weather(city="Oslo"), get_time(zone=\'CET\')]', [OSLO, TIME]),
        Sample('{"type": "function", "function": {"name": "get_time", "arguments": "{\\"zone\\": '
               '\\"CET\\"}"}}', [TIME]),
        Sample('{"type": "function", "function": {"name": "now", "parameters": {}}}', [NOW]),
        # No calls.
        Sample('{"answer": 42}', [], '{"answer": 42}'),
        Sample('{"name": "other", "parameters": {}}', [], '{"name": "other", "parameters": {}}'),
        Sample('In text {"name": "now"} is none.', [], 'In text {"name": "now"} is none.'),
        Sample("[now] is a word\n[1] too", [], "[now] is a word\n[1] too"),
    ],
    "functionary-3.2": [
        Sample('get_weather\n{"city": "Oslo"}', [OSLO]),
        Sample('all\nBoth:>>>get_weather\n{"city": "Oslo"}>>>get_time\n{"zone": "CET"}',
               [OSLO, TIME], "Both:"),
        Sample(">>>now\n{}", [NOW]),
        Sample(f"write\n{PAGE_JSON}", [PAGE]),
        Sample(f"get_weather\n{MIXED_JSON}", [MIXED]),
        Sample("all\nHi there,\nyou >> me.", [], "Hi there,\nyou >> me."),
        Sample("other\n{}", [], "other\n{}"),
        Sample("Hello", [], "Hello"),
    ],
    "harmony": [
        Sample("<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
               '{"city": "Oslo"}<|call|>', [OSLO]),
        Sample("<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>commentary"
               "<|message|>Both:<|end|><|start|>assistant<|channel|>commentary "
               'to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
               "<|start|>assistant to=functions.get_time<|channel|>commentary json<|message|>"
               '{"zone": "CET"}<|call|>', [OSLO, TIME], "Both:", "Two."),
        Sample(" to=functions.now<|channel|>commentary json<|message|>{}<|call|>", [NOW]),
        Sample("<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final"
               "<|message|>Hi.<|return|>", [], "Hi.", "So."),
        Sample(f"<|channel|>commentary to=write<|message|>{PAGE_JSON}<|call|>", [PAGE]),
        Sample(f"<|channel|>analysis to=functions.get_weather code<|message|>{MIXED_JSON}", [MIXED]),
        # Deviations: no channel, two thoughts.
        Sample("Hi.", [], "Hi."),
        Sample("<|start|>assistant<|channel|>analysis<|message|>a<|end|><|start|>assistant"
               "<|channel|>analysis<|message|>b<|end|><|channel|>final<|message|>c", [], "c", "a\n\nb"),
        Sample("<|channel|>commentary to=functions.other json<|message|>{}<|call|>", [],
               "<|channel|>commentary to=functions.other json<|message|>{}"),
    ],
    "muse": [
        Sample(' to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n'
               '<atem:parameter name="city">Oslo</atem:parameter>\n</atem:invoke>\n'
               "</atem:function_calls><|eot|>", [OSLO]),
        Sample(' to=self<|message|>Two.<|eom|><|start|>assistant<|message|>Both:<|eom|><|start|>'
               "assistant to=get_weather<|message|><atem:function_calls>\n<atem:invoke "
               'name="get_weather">\n<atem:parameter name="city">Oslo</atem:parameter>\n'
               '</atem:invoke>\n</atem:function_calls><|eom|><|start|>assistant to=get_time'
               '<|message|><atem:function_calls>\n<atem:invoke name="get_time">\n<atem:parameter '
               'name="zone">CET</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>',
               [OSLO, TIME], "Both:", "Two."),
        Sample('<|message|><atem:invoke name="now"></atem:invoke>', [NOW]),
        Sample(f' to=write<|message|><atem:function_calls>\n<atem:invoke name="write">\n'
               f'<atem:parameter name="path">a/b.html</atem:parameter>\n<atem:parameter '
               f'name="text">{TEXT}</atem:parameter>\n</atem:invoke>\n</atem:function_calls>',
               [PAGE]),
        Sample('<atem:function_calls><atem:invoke name="get_weather"><atem:parameter name="days">3'
               '</atem:parameter><atem:parameter name="place">{"a": 1}</atem:parameter>'
               "</atem:invoke></atem:function_calls>",
               [("get_weather", {"days": 3, "place": {"a": 1}})]),
        Sample("<|message|>Hi.<|eot|>", [], "Hi."),
    ],
}  # fmt: skip
"""Name of the family -> its samples: the first is one call, the second has parallel calls."""
