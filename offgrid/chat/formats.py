"""How models write function calls and thoughts, recognised from their chat templates.

The forms were learned in training, so the template that a model file carries tells them apart. A
model whose template knows no functions, or writes calls in a form that is not listed here, gets
:data:`HERMES` explained in its system message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ToolFormat:
    """How one family of models writes function calls.

    A call is a JSON object with ``name`` and the arguments; with ``head_end`` the name stands in
    front of it and the object holds the arguments alone.

    Attributes:
        begin: what stands in front of each call (of the list of calls with ``array``).
        begin_optional: whether an object that begins the answer is a call without it, too.
        end: what stands behind each call, or nothing.
        array: whether calls are items of a JSON list.
        head_end: what separates the name from the arguments, or nothing.
        arguments: the key of the arguments that the template uses.
        separator: what may stand between two calls.
        one_by_one: whether the template takes only one call in a message.
        short_ids: whether the template wants call ids of nine letters and digits.
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
        """Texts that are control tokens in some vocabularies and have to be seen."""
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
"""Mistral since 2025: ``[TOOL_CALLS]name[ARGS]{...}``, in some with ``[CALL_ID]id`` between."""
PHI = ToolFormat("phi", begin="<|tool_call|>", end="<|/tool_call|>", array=True)
"""Phi-4-mini: ``<|tool_call|>[{...}]<|/tool_call|>``; Granite 3 has no end marker."""

HEAD = re.compile(r"([A-Za-z0-9_-]{1,64})(?:\[CALL_ID\][A-Za-z0-9_-]{1,64})?")
"""Name and id in front of ``head_end``."""
MAX_HEAD = 160
"""Characters of it with ``head_end``, more than enough."""


@dataclass(frozen=True)
class ThoughtFormat:
    """The texts around what a model thinks before it answers."""

    begin: str
    end: str


THOUGHTS = (ThoughtFormat("<think>", "</think>"), ThoughtFormat("[THINK]", "[/THINK]"))


def recognise_tools(template: str | None) -> ToolFormat | None:
    """Return the form in which this template writes calls; None where it does not say."""
    if template is None or not re.search(r"\btools\b", template):
        return None
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    # Others use the same marker around XML.
    if "<tool_call>" in template and not re.search("<function=|<arg_key>", template):
        return HERMES
    if "<|tool_call|>" in template:
        return PHI
    if "<|start_header_id|>" in template and '"parameters"' in template:
        return LLAMA
    return None


def recognise_thoughts(template: str | None) -> ThoughtFormat | None:
    """Return how this template marks thoughts; None where it knows none."""
    return next((t for t in THOUGHTS if template is not None and t.end in template), None)
