"""``offgrid ps`` and ``offgrid launch``: commands about the server that runs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result
from processes import heed_signals, program
from support import STARTER, TIMEOUT

from offgrid.cli import main
from offgrid.cli.launch import PROGRAMS
from offgrid.server import Server

Serve = Callable[..., Server]


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, [*arguments], env={"OFFGRID_PORT": "0", **environ})


# --- ps -------------------------------------------------------------------------------------------


def test_loaded_models(make_server: Serve, tmp_path: Path, starter_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.gguf").symlink_to(starter_path)
    server = make_server(parallel=2, ctx_size=512, default_model="one", keep_alive=-1)
    engine = server.pool.engine("one")
    engine.hold(1, 1)  # as a request does
    answer = json.loads(call("ps", "--json", "--url", server.url).stdout)
    table = call("ps", "--url", server.url).stdout.splitlines()
    server.pool._keep(server.pool.roster.get("one"), 10.0**9)
    later = call("ps", "--url", server.url).stdout.splitlines()[1]
    server.pool.unload("one", wait=False)
    last = call("ps", "--url", server.url).stdout.splitlines()[1]
    engine.release(1)
    assert re.search(r"  20\d\d-\d\d-\d\d \d\d:\d\d$", later)
    assert (last.split()[1], last.split()[-1]) == ("unloading", "answered")
    assert answer["url"] == server.url
    (model,) = answer["models"]
    memory = model.pop("memory")
    threads = server.settings.threads
    assert model == {
        "id": "one", "object": "model.loaded", "status": "ready", "slots": 2, "ctx_size": 512,
        "flash_attention": False, "attention_reason": "the model is small",
        "threads": {"decode": threads, "prefill": threads}, "sequences": 1, "draft_model": None,
        "until": None, "pinned": False, "progress": 1.0,
    }  # fmt: skip
    assert engine.pid is not None
    assert memory == pytest.approx(psutil.Process(engine.pid).memory_info().rss, rel=0.2)
    assert table[0].split() == [
        "MODEL", "STATUS", "MEMORY", "SLOTS", "CONTEXT", "FLASH", "THREADS", "SEQUENCES",
        "UNTIL",
    ]  # fmt: skip
    assert table[1].split()[:2] == ["one", "ready"]
    row = table[1].split()
    assert row[4:7] == ["2", "512", "off"]
    assert row[7:] == [str(threads), "1", "no", "limit"]
    # Asking loads nothing.
    assert len(server.pool.loaded()) == 1


def test_no_loaded_model(make_server: Serve) -> None:
    server = make_server()
    server.pool.shutdown(0.0)
    result = call("ps", "--url", server.url)
    assert (result.exit_code, result.stdout) == (
        0, f"The server at {server.url} has loaded no model.\n"
    )  # fmt: skip
    assert json.loads(call("ps", "--url", server.url, "--json").stdout)["models"] == []


def test_no_server() -> None:
    result = call("ps", OFFGRID_PORT="9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "offgrid: no server answers at http://127.0.0.1:9; start one with offgrid serve\n"
    )
    assert call("ps").exit_code == 2  # no port is configured


@pytest.mark.parametrize("command", ["ps", "stats"])
@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (404, {"error": {"code": "unknown_url", "message": "?"}}, "is older and does not say it"),
        (404, {"error": {"code": None, "message": "what?"}}, "what?"),
        (200, {"object": "list"}, "is no OffGrid server"),
        (200, ["a"], "is no OffGrid server"),
    ],
)
def test_a_server_without_that_path(command: str, status: int, answer: Any, said: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as other:
        serving = threading.Thread(target=other.handle_request)
        serving.start()
        result = call(command, "--url", f"http://127.0.0.1:{other.server_port}")
        serving.join()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f"{said}\n")


# --- launch ---------------------------------------------------------------------------------------


def exports(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables and the command that ``--print`` printed."""
    *lines, command = text.splitlines()
    environ = {}
    for line in lines:
        export, assignment = shlex.split(line)
        name, _, value = assignment.partition("=")
        assert export == "export"
        environ[name] = value
    return environ, shlex.split(command)


def test_the_printed_environment(base_url: str, server: Server) -> None:
    server.pool.engine(STARTER)
    at = ("--url", base_url, "--print")
    environ, command = exports(call("launch", "aider", *at, "--", "--yes").stdout)
    assert environ["OPENAI_API_BASE"] == f"{base_url}/v1"
    assert command[:3] == ["aider", "--model", f"openai/{STARTER}"]
    assert command[-1] == "--yes"
    environ, command = exports(call("launch", "codex", *at).stdout)
    assert environ == {}
    assert command[:3] == ["codex", "-m", STARTER]
    assert f'model_providers.offgrid.base_url="{base_url}/v1"' in command
    assert "model_context_window=2048" in command
    environ, command = exports(call("launch", "opencode", *at).stdout)
    config: dict[str, Any] = json.loads(environ["OPENCODE_CONFIG_CONTENT"])
    assert config["model"] == f"offgrid/{STARTER}"
    provider = config["provider"]["offgrid"]
    assert provider["options"]["baseURL"] == f"{base_url}/v1"
    assert provider["models"][STARTER]["limit"]["context"] == 2048
    warned = call("launch", "opencode", *at)
    assert "context of 2,048 tokens" in warned.stderr


def test_claude_code(base_url: str) -> None:
    environ, command = exports(call("launch", "claude", "--url", base_url, "--print").stdout)
    assert command == ["claude"]
    assert environ["ANTHROPIC_BASE_URL"] == base_url  # the program adds /v1
    assert environ["ANTHROPIC_MODEL"] == environ["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == STARTER


def test_a_server_without_the_api(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needy = dataclasses.replace(PROGRAMS["aider"], needs="/v1/none")
    monkeypatch.setitem(PROGRAMS, "aider", needy)
    result = call("launch", "aider", "--url", base_url, "--print")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "offgrid: aider needs the API /v1/none, which this server does not have\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="starts a shell script")
def test_the_program_is_started(base_url: str, tmp_path: Path) -> None:
    script = tmp_path / "aider"
    script.write_text('#!/bin/sh\necho "$OPENAI_API_BASE|$*"\nexit 7\n', encoding="utf-8")
    script.chmod(0o755)
    command = [program("offgrid"), "launch", "aider", "--url", base_url, "--", "--message", "a b"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", timeout=TIMEOUT,
        env={**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}, preexec_fn=heed_signals,
    )  # fmt: skip
    assert done.returncode == 7
    assert done.stdout.startswith(f"{base_url}/v1|--model openai/{STARTER} ")
    assert done.stdout.endswith(" --message a b\n")


@pytest.mark.slow
def test_what_cannot_be_started(
    base_url: str, make_server: Serve, tmp_path: Path, starter_path: Path
) -> None:
    absent = call("launch", "codex", "--url", base_url, PATH=str(tmp_path))
    assert (absent.exit_code, absent.stdout) == (127, "")
    assert "Codex CLI is not installed; with a network: npm install -g @openai/codex" in (
        absent.stderr
    )
    no_server = call("launch", "codex", OFFGRID_PORT="9", PATH=str(tmp_path))
    assert no_server.exit_code == 1
    assert "start one with offgrid serve" in no_server.stderr
    unknown = call("launch", "codex", "--url", base_url, "--model", "nothing")
    assert unknown.exit_code == 2
    assert "Model not found: nothing" in unknown.stderr
    for name in ("one", "two"):
        (tmp_path / f"{name}.gguf").symlink_to(starter_path)
    several = call("launch", "codex", "--url", make_server(default_model="one").url)
    assert several.exit_code == 1
    assert "choose one with --model: one, two" in several.stderr
    assert call("launch", "emacs").exit_code == 2
