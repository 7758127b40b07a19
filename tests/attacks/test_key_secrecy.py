"""E19: a secret is in no log, no answer, no file and no core file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from keyed import bearer, new_key
from processes import serving
from support import STARTER, chat_body, request

from offgrid.cli import main

CANARY = "sk-offgrid-Xanthippe-Xanthippe-Xanthippe"  # not-a-secret
"""A secret that nobody has."""


def test_secrets_are_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "keys.sqlite3"
    _, secret = new_key(file, "ward", "admin")
    secrets = (secret, CANARY)
    with serving(tmp_path, "--keys-file", str(file), "--log-level", "debug") as child:
        url = child.wait_ready()
        answers = []
        for method, path, body in (
            ("GET", "/", None), ("GET", "/health", None), ("GET", "/v1/models", None),
            ("GET", "/v1/loaded", None), ("GET", "/nothing", None), ("GET", "/openapi.json", None),
            ("POST", "/v1/chat/completions", chat_body(max_tokens=2)),
            ("POST", "/v1/chat/completions", chat_body(max_tokens=0)),
            ("POST", "/v1/messages", {"model": STARTER, "max_tokens": 2, "messages": [
                {"role": "user", "content": "Hi"}]}),
            ("POST", "/v1/responses", {"model": STARTER, "input": "Hi", "max_output_tokens": 2}),
            ("POST", "/v1/responses", {"model": STARTER, "input": "Hi", "background": True,
                                       "max_output_tokens": 2}),
            ("POST", "/v1/chat/completions", b"{" + b" " * 100_000),
            ("POST", "/v1/chat/completions", b"no JSON"),
        ):  # fmt: skip
            for each in secrets:
                for headers in (
                    {}, bearer(each), {"X-Api-Key": each}, {"api-key": each},
                    {"Authorization": each}, {"Authorization": f"Basic {each}"},
                    {"Authorization": f"Bearer {each}", "X-Api-Key": "other"},
                    {**bearer(each), "Host": "evil.example"},
                    {**bearer(each), "Origin": "http://evil.example"},
                ):  # fmt: skip
                    answers.append(request(url, method, path, body, headers))
        statuses = {answer.status for answer in answers}
        assert {200, 400, 401, 403, 404, 429} <= statuses
        assert 500 not in statuses
        for answer in answers:
            told = answer.body + repr(answer.headers).encode()
            assert not any(each.encode() in told for each in secrets)
        child.interrupt()
        assert child.wait() == 0
        log = child.out.text + child.err.text
        assert "127.0.0.1 sends wrong keys" in log
        assert not any(each in log for each in secrets)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not any(each.encode() in path.read_bytes() for each in secrets), path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_no_process_writes_a_core_file(tmp_path: Path) -> None:
    with serving(tmp_path) as child:
        child.wait_ready()
        for pid in (child.process.pid, child.worker().pid):
            limits = Path(f"/proc/{pid}/limits").read_text()
            (line,) = (line for line in limits.splitlines() if line.startswith("Max core file"))
            assert line.split()[4] == "0"


def test_an_argument_with_a_secret_is_not_repeated(tmp_path: Path) -> None:
    """A person may give the secret instead of the name."""
    file = tmp_path / "keys.sqlite3"
    _, secret = new_key(file, "ward")
    for command in (["revoke", secret], ["rotate", secret], ["create", secret]):
        answer = CliRunner().invoke(main, ["keys", *command, "--keys-file", str(file)])
        assert answer.exit_code == 2
        assert secret not in answer.output
