"""A long prompt is not computed again after a restart, an unload or a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import serving
from support import STARTER, eventually, request

from offgrid.cli import main
from offgrid.engine.saved_prefixes import saved_files
from offgrid.server import Server

LONG = "The otter swam down the river to the old mill and looked at everything there. " * 14
MakeServer = Callable[..., Server]


def ask(url: str, text: str = LONG, **fields: Any) -> tuple[str, int, int]:
    """An answer, its cached tokens, and the tokens of its prompt."""
    body = {"model": STARTER, "prompt": text, "max_tokens": 6, "temperature": 0, **fields}
    answer = request(url, "POST", "/v1/completions", body)
    assert answer.status == 200, answer.body
    found = json.loads(answer.body)
    usage = found["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return found["choices"][0]["text"], cached, usage["prompt_tokens"]


def test_after_a_restart(make_server: MakeServer, tmp_path: Path) -> None:
    first = make_server()
    text, cached, prompt = ask(first.url)
    assert cached == 0
    assert prompt > 200
    first.stop()
    assert len(saved_files(tmp_path / "prefixes")) == 1
    second = make_server()
    assert ask(second.url) == (text, prompt - 1, prompt)
    second.stop()
    without = make_server(cache_disk_mb=0)
    assert ask(without.url) == (text, 0, prompt)


@pytest.mark.slow
def test_after_unloading(make_server: MakeServer) -> None:
    url = make_server().url
    text, _, prompt = ask(url)
    assert request(url, "POST", f"/v1/models/{STARTER}/unload").status == 200
    assert ask(url) == (text, prompt - 1, prompt)


@pytest.mark.slow
def test_nothing_is_left_unasked(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    ask(server.url, cache_prompt=False)
    ask(server.url, "Short.")
    server.stop()
    assert saved_files(tmp_path / "prefixes") == []


@pytest.mark.slow
def test_forget_deletes_them(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    ask(server.url)
    server.stop()
    file = str(tmp_path / "responses.sqlite3")
    result = CliRunner().invoke(main, ["forget", "--yes", "--json", "--responses-file", file])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["prefixes"] == 1
    assert saved_files(tmp_path / "prefixes") == []


# Stopping a server in this process saves in the same way as Ctrl-C.
@pytest.mark.slow
@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_after_the_end_of_the_process(how: str, tmp_path: Path) -> None:
    """Ctrl-C writes everything. A kill loses nothing that an idle worker has written."""
    with serving(tmp_path) as child:
        text, _, prompt = ask(child.wait_ready())
        if how == "interrupt":
            child.interrupt()
            assert child.wait() == 0
        else:
            folder = tmp_path / "prefixes"
            complete = lambda: any(not file.partial for file in saved_files(folder))  # noqa: E731
            eventually(complete, "the idle worker writes its slot")
    with serving(tmp_path) as child:
        assert ask(child.wait_ready()) == (text, prompt - 1, prompt)
