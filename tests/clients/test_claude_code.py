"""Claude Code against a scripted model: it reads two files, edits both, and reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scripted_model
from support import TIMEOUT, Json

from offgrid.server import Server

NODE = Path(__file__).parent / "node"
PROGRAM = NODE / "node_modules" / "@anthropic-ai" / "claude-code" / "cli-wrapper.cjs"
# A long prompt takes long, and the script does not depend on it, so long texts are cut. After its
# calls, the model goes on after <|edit|>, and then after <|end|>.
TEMPLATE = """\
{%- for tool in tools or [] %}<|im_start|>tool {{ (tool | tojson)[:200] }}<|im_end|>
{% endfor %}
{%- set turns = namespace(called=0) %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content[:400] }}
{%- if message.tool_calls %}{% set turns.called = turns.called + 1 %}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
{%- if turns.called == 1 %}<|edit|>{% elif turns.called > 1 %}<|end|>{% else %}<|im_start|>assistant
{% endif %}
{%- endif %}"""
CONTROL = ["<|im_start|>", "<|im_end|>", "<|edit|>", "<|end|>"]
REPORT = "Both files are changed."


def call(name: str, **arguments: Any) -> str:
    """A call as the model writes it."""
    text = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{text}\n</tool_call>"


def script(first: Path, second: Path) -> str:
    """What the model says: it reads two files, then edits them, then reports."""
    reads = [call("Read", file_path=str(path)) for path in (first, second)]
    edits = [
        call("Edit", file_path=str(first), old_string="rain", new_string="snow"),
        call("Edit", file_path=str(second), old_string="warm", new_string="cold"),
    ]
    turns = ["\n".join(reads), "<|edit|>" + "\n".join(edits), f"<|end|>{REPORT}"]
    return "<|im_end|>".join([*turns, ""])


def claude(server: Server, folder: Path, model: str = "scripted") -> Json:
    """Run ``claude -p`` in a folder; return its result."""
    node = shutil.which("node")
    assert node is not None, "Node.js 18 or newer is not installed"
    assert PROGRAM.exists(), f"first: npm ci --prefix {NODE}"
    home = folder / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if "ANTHROPIC" not in name}
    done = subprocess.run(
        [
            node, str(PROGRAM), "-p", "Make the weather colder.", "--output-format", "json",
            "--permission-mode", "acceptEdits",
        ],
        cwd=folder / "project",
        env={
            **environment,
            "HOME": str(home), "USERPROFILE": str(home), "CLAUDE_CONFIG_DIR": str(home / "claude"),
            "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_AUTH_TOKEN": "any",
            "ANTHROPIC_MODEL": model, "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )  # fmt: skip
    assert done.stdout, done.stderr
    result: Json = json.loads(done.stdout)
    return result


def test_two_files_that_are_edited(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    models, project = tmp_path / "models", tmp_path / "project"
    models.mkdir()
    project.mkdir()
    first, second = project / "sky.txt", project / "sea.txt"
    first.write_text("rain\n", encoding="utf-8")
    second.write_text("warm\n", encoding="utf-8")
    scripted_model.write(
        models / "scripted.gguf", TEMPLATE, CONTROL, script(first, second), context=65536
    )
    server = make_server(models_dir=models, ctx_size=65536, parallel=1)
    result = claude(server, tmp_path)
    assert not result["is_error"], result
    assert result["result"] == REPORT
    assert first.read_text(encoding="utf-8") == "snow\n"
    assert second.read_text(encoding="utf-8") == "cold\n"
    # Later requests continue the prompt of the first one, whose first system block changes.
    usage = result["usage"]
    assert usage["cache_read_input_tokens"] > usage["input_tokens"]
    (tmp_path / "home").rename(tmp_path / "earlier")
    lost = claude(server, tmp_path, "nothing")
    assert lost["is_error"]
    assert "nothing" in lost["result"]
