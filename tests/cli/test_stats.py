"""``offgrid stats``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import Child, program
from support import STARTER, eventually, request

from offgrid.api.http.gate import places
from offgrid.cli import main
from offgrid.server import Server


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["stats", *arguments], env={"OFFGRID_PORT": "0"})


def test_the_statistics(make_server: Callable[..., Server]) -> None:
    server = make_server()
    body = {"model": STARTER, "prompt": "Once upon a time", "max_tokens": 3}
    assert request(server.url, "POST", "/v1/completions", body).status == 200
    keeper = server.observation.keeper
    eventually(lambda: keeper.machine is not None, "the machine was looked at")
    keeper.look()
    stats = server.observation.observer.stats
    eventually(lambda: stats.posts()[0] == 1, "the request is counted")  # after its answer
    shown = call("--url", server.url)
    assert shown.exit_code == 0
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line}
    assert f"{server.url}, version" in lines["server"]
    assert "1 (2xx: 1)" in lines["requests"]
    assert lines["tokens"].endswith("4 in, 0 of them cached; 3 out")
    assert f"0 of {places(server.settings)} taken" in lines["places"]
    assert "processors" in lines["machine"]
    head, row = lines["MODEL"], lines[STARTER]
    assert head.split()[:5] == ["MODEL", "STATE", "RUNNING", "WAITING", "CELLS"]
    assert row.split()[1:4] == ["ready", "0/4", "0/16"]
    assert row.count(" ms") == 2
    answer = json.loads(call("--json", "--url", server.url).stdout)
    assert answer["object"] == "stats"
    assert answer["total"]["tokens"]["completion"] == 3


def test_without_a_server() -> None:
    shown = call("--url", "http://127.0.0.1:9")
    assert shown.exit_code == 1
    assert "127.0.0.1:9" in shown.output
    assert call().exit_code == 2  # the port is not known


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_watch_repeats_until_it_is_interrupted(base_url: str, tmp_path: Path) -> None:
    child = Child(program("offgrid"), "stats", "--json", "--watch", "--url", base_url, cwd=tmp_path)
    try:
        eventually(lambda: child.out.text.count("\n") >= 2, "two answers")
        child.process.send_signal(signal.SIGINT)
        assert child.wait() == 130
    finally:
        child.end()
    first, second = map(json.loads, child.out.text.splitlines()[:2])
    assert second["uptime"] > first["uptime"]
