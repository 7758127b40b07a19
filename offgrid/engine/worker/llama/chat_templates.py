"""The chat templates of a GGUF, from the metadata that llama.cpp has read."""

from __future__ import annotations

from collections.abc import Mapping

CHAT_TEMPLATE = "tokenizer.chat_template"
"""Key of the default chat template, and beginning of the keys of named ones."""
_NO_TEMPLATE = (None, "", "chatml")


def read_chat_templates(metadata: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
    """Return the default chat template and the named ones (``tokenizer.chat_template.<name>``).

    If the default is missing or empty, a template named ``default`` or else, as in llama.cpp,
    ``tool_use`` takes its place.
    """
    prefix = f"{CHAT_TEMPLATE}."
    named = {
        key.removeprefix(prefix): text for key, text in metadata.items() if key.startswith(prefix)
    }
    default = metadata.get(CHAT_TEMPLATE)
    if default in _NO_TEMPLATE:
        default = named.get("default") or named.get("tool_use") or default
    return default, named
