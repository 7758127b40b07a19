"""How models write tool calls and reasoning, recognised from their chat templates.

A model learned its format in training, and the template in its file shows which one. If the
template does not support tools, or writes calls in a format that is not listed here, the system
message explains :data:`HERMES` to the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ToolFormat:
    """How one family of models writes tool calls.

    A call is a JSON object with the name and the arguments. With ``head_end`` the name precedes the
    object, and the object holds only the arguments.

    Attributes:
        begin: marker before each call (with ``array``, before the list of calls).
        begin_optional: whether an object at the beginning of the answer is a call even without it.
        end: marker after each call, or nothing.
        array: whether calls are items of a JSON list.
        head_end: marker between the name and the arguments, or nothing.
        arguments: the key that the template uses for the arguments.
        separator: text that may stand between two calls.
        one_by_one: whether the template accepts only one call in a message.
        short_ids: whether the template requires call ids of nine letters and digits.
    """

    name: str
    begin: str
    begin_optional: bool = False
    end: str = ""
    array: bool = False
    head_end: str = ""
    arguments: str = "arguments"
    separator: str = ""
    one_by_one: bool = False
    short_ids: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """Markers that some vocabularies have as control tokens, and that the parser must see."""
        inner = (_CALL_ID,) if self.head_end else ()
        return tuple(text for text in (self.begin, self.end, self.head_end, *inner) if text)


_CALL_ID = "[CALL_ID]"

HERMES = ToolFormat("hermes", begin="<tool_call>", end="</tool_call>")
"""Hermes, Qwen, OffGrid's starter: ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``."""
LLAMA = ToolFormat(
    "llama", begin="<|python_tag|>", begin_optional=True, arguments="parameters", separator=";",
    one_by_one=True,
)  # fmt: skip
"""Llama 3: the answer is ``{"name": ..., "parameters": ...}``."""
MISTRAL = ToolFormat("mistral", begin="[TOOL_CALLS]", array=True, short_ids=True)
"""Mistral until 2024: ``[TOOL_CALLS] [{"name": ..., "arguments": ...}, ...]``."""
MISTRAL_NAMED = ToolFormat("mistral-named", "[TOOL_CALLS]", head_end="[ARGS]", short_ids=True)
"""Mistral since 2025: ``[TOOL_CALLS]name[ARGS]{...}``, sometimes with ``[CALL_ID]id`` between."""
PHI = ToolFormat("phi", begin="<|tool_call|>", end="<|/tool_call|>", array=True)
"""Phi-4-mini: ``<|tool_call|>[{...}]<|/tool_call|>``; Granite 3 has no end marker."""

HEAD = re.compile(r"([A-Za-z0-9_-]{1,64})(?:\[CALL_ID\][A-Za-z0-9_-]{1,64})?")
"""Name and id before ``head_end``."""
MAX_HEAD = 160
"""Most characters of the head with ``head_end``, more than any valid one has."""


@dataclass(frozen=True)
class ThoughtFormat:
    """The markers around a model's reasoning."""

    begin: str
    end: str


THOUGHTS = (ThoughtFormat("<think>", "</think>"), ThoughtFormat("[THINK]", "[/THINK]"))


def recognise_tools(template: str | None) -> ToolFormat | None:
    """Return the format in which this template writes calls; None if it cannot be recognised."""
    if template is None or not re.search(r"\btools\b", template):
        return None
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    # Other models use the same marker around XML.
    if "<tool_call>" in template and not re.search("<function=|<arg_key>", template):
        return HERMES
    if "<|tool_call|>" in template:
        return PHI
    if "<|start_header_id|>" in template and '"parameters"' in template:
        return LLAMA
    return None


def recognise_thoughts(template: str | None) -> ThoughtFormat | None:
    """Return the reasoning markers of this template; None if it has none."""
    return next((t for t in THOUGHTS if template is not None and t.end in template), None)
