"""A server with a model that reasons, calls and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import scripted_model

from offgrid.config import load_settings
from offgrid.server import Server

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% for c in m.tool_calls "
    "or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}<tool_call>"
    "{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and "
    "not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CALL = '<tool_call>\n{"name": "look", "arguments": {"city": "Oslo"}}\n</tool_call>'
SCRIPTS = {
    "thinker": f"<think>\nHm, rain.\n</think>\n\nLet me look.{CALL}",
    "cut": '<tool_call>\n{"name": "look", "arguments": {"city": "Os',
}


@pytest.fixture(scope="session")
def scripted_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with models that say the texts of :data:`SCRIPTS`."""
    folder = tmp_path_factory.mktemp("scripted")
    for name, text in SCRIPTS.items():
        control = ("<|im_start|>", "<|im_end|>")
        scripted_model.write(folder / f"{name}.gguf", TEMPLATE, control, text)
    flags: Any = {
        "port": 0, "models_dir": folder, "responses_file": folder / "responses.sqlite3",
        "drain_timeout": 0, "threads": 1, "parallel": 1, "max_models": 2,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server.url
    server.stop()
