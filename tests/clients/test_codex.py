"""Codex CLI against a scripted model: it runs a command, reports its output, and ends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import scripted_model
from support import TIMEOUT, Json

from offgrid.server import Server

CODEX = Path(__file__).parent / "node" / "node_modules" / ".bin" / "codex"
CONFIG = """
model = "{model}"
model_provider = "offgrid"

[model_providers.offgrid]
name = "OffGrid"
base_url = "{base}/v1"
wire_api = "responses"
stream_max_retries = 0
request_max_retries = 0
"""
# After the result of a tool, the model goes on after <|after|>.
TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
{%- if messages[-1].role == "tool" %}<|after|>{% else %}<|im_start|>assistant
{% endif %}
{%- endif %}"""
SCRIPT = """\
<tool_call>
{"name": "exec_command", "arguments": {"cmd": "echo rain > weather.txt"}}
</tool_call><|im_end|><|after|>The file has been written."""

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, make_server: Start) -> Start:
    models = tmp_path / "models"
    models.mkdir()
    scripted_model.write(
        models / "scripted.gguf", TEMPLATE, ["<|im_start|>", "<|im_end|>", "<|after|>"], SCRIPT,
        context=65536,
    )  # fmt: skip

    def make(ctx_size: int = 65536) -> Server:
        return make_server(models_dir=models, ctx_size=ctx_size, parallel=1)

    return make


def codex(server: Server, folder: Path, model: str = "scripted") -> tuple[int, list[Json]]:
    """Run ``codex exec`` in a folder; return its exit status and its events."""
    assert CODEX.exists(), f"first: npm ci --prefix {CODEX.parents[2]}"
    home, project = folder / "home", folder / "project"
    home.mkdir()
    project.mkdir()
    config = CONFIG.format(model=model, base=server.url)
    (home / "config.toml").write_text(config, encoding="utf-8")
    done = subprocess.run(
        [
            str(CODEX), "exec", "--json", "--skip-git-repo-check",
            # The command of the script is harmless, and not every machine can run a sandbox.
            "--sandbox", "danger-full-access", "Write down the weather.",
        ],
        cwd=project,
        env={**os.environ, "CODEX_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_command_that_is_run_and_answered(start: Start, tmp_path: Path) -> None:
    status, events = codex(start(), tmp_path)
    assert status == 0, events
    assert (tmp_path / "project" / "weather.txt").read_text(encoding="utf-8") == "rain\n"
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    (command,) = [item for item in items if item["type"] == "command_execution"]
    assert command["exit_code"] == 0
    assert items[-1]["type"] == "agent_message"
    assert items[-1]["text"] == "The file has been written."
    assert events[-1]["type"] == "turn.completed"
    # The second request continues the first one's prompt.
    assert events[-1]["usage"]["cached_input_tokens"] > 1000


def test_errors(start: Start, tmp_path: Path) -> None:
    server = start(ctx_size=4096)
    (tmp_path / "small").mkdir()
    status, events = codex(server, tmp_path / "small")
    assert status == 1
    assert "context window" in events[-1]["error"]["message"]
    (tmp_path / "none").mkdir()
    status, events = codex(server, tmp_path / "none", "nothing")
    assert status == 1
    assert "Model not found: nothing" in events[-1]["error"]["message"]
