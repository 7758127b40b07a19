"""``offgrid keys``: its output, its errors, and a running server that follows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from keyed import bearer
from processes import program, serving
from support import TIMEOUT, request
from variants import few

from offgrid.store.keys import Grant, KeyFile

Run = subprocess.CompletedProcess[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite3"


def keys(file: Path, *arguments: str) -> Run:
    """Run ``offgrid keys``."""
    return subprocess.run(
        [program("offgrid"), "keys", *arguments, "--keys-file", str(file), "--no-config"],
        capture_output=True, encoding="utf-8", timeout=TIMEOUT,
    )  # fmt: skip


def made(file: Path, *arguments: str) -> Any:
    answer = keys(file, "create", *arguments, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_create_prints_the_key_alone(file: Path) -> None:
    answer = keys(file, "create", "ward 3")
    assert answer.returncode == 0
    assert answer.stdout.startswith("sk-offgrid-")
    assert answer.stdout.count("\n") == 1
    assert "scopes: history, inference; expires: never" in answer.stderr
    assert answer.stdout.strip() not in answer.stderr
    assert "From now on every request needs a key" in answer.stderr
    assert "From now on" not in keys(file, "create", "ward 4").stderr


def test_a_filter_file_with_a_fault_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "filter.txt").write_text("word\n/(/\n")
    answer = keys(file, "create", "ward", "--filter-file", str(tmp_path / "filter.txt"))
    assert answer.returncode == 2
    assert "--filter-file: " in answer.stderr
    assert "line 2" in answer.stderr
    assert not file.exists()


def test_create_with_all_options(file: Path, tmp_path: Path) -> None:
    (tmp_path / "filter.txt").write_text("word\n")
    key = made(
        file, "ward", "--scope", "inference", "-s", "stats,models", "--model", "OffGrid-Starter",
        "--expires", "30d", "--requests-per-minute", "5", "--tokens-per-minute", "600",
        "--concurrent-requests", "2", "--max-tokens", "100", "--filter-file",
        str(tmp_path / "filter.txt"),
    )  # fmt: skip
    assert key["scopes"] == ["inference", "models", "stats"]
    assert key["models"] == ["offgrid-starter"]
    assert key["limits"] == {
        "requests_per_minute": 5, "tokens_per_minute": 600, "concurrent_requests": 2,
        "max_tokens": 100,
    }  # fmt: skip
    assert key["filter_file"] == str(tmp_path / "filter.txt")
    assert key["expires"] - key["created"] in (30 * 86400 - 1, 30 * 86400, 30 * 86400 + 1)
    assert key["valid"]
    listed = json.loads(keys(file, "list", "--json").stdout)
    assert listed == {"file": str(file), "keys": [{k: v for k, v in key.items() if k != "key"}]}
    table = keys(file, "list").stdout
    assert "5 requests/min, 600 tokens/min, 2 at once, 100 tokens/answer" in table
    assert f"{key['prefix']}..." in table
    assert key["key"] not in table


@pytest.mark.slow
def test_change_replaces_what_is_named_and_keeps_the_rest(file: Path) -> None:
    made(file, "ward", "--expires", "30d", "--max-tokens", "100", "--concurrent-requests", "2")
    before = json.loads(keys(file, "list", "--json").stdout)["keys"][0]
    answer = keys(
        file, "change", "WARD", "-s", "stats,inference", "--model", "OffGrid-Starter",
        "--max-tokens", "50", "--json",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    limits = {**before["limits"], "max_tokens": 50}
    assert json.loads(answer.stdout) == {
        **before, "scopes": ["inference", "stats"], "models": ["offgrid-starter"], "limits": limits
    }  # fmt: skip
    answer = keys(
        file, "change", before["id"], "--all-models", "--no-limits", "--requests-per-minute", "9",
        "--expires", "never",
    )  # fmt: skip
    assert answer.stdout == (
        f"changed ward ({before['id']}); scopes: inference, stats; limits: 9 requests/min; "
        "expires: never\n"
    )
    (after,) = json.loads(keys(file, "list", "--json").stdout)["keys"]
    assert after["models"] is None
    assert after["prefix"] == before["prefix"]
    assert after["limits"] == {**dict.fromkeys(limits), "requests_per_minute": 9}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    few(
        4,
        [
            ((), "nothing is to be changed; give --scope, --model, --expires or a limit"),
            (("--model", "offgrid-starter", "--all-models"), "--model and --all-models contradict"),
            (("--scope", "inferense"), "--scope: .*'inferense'; did you mean inference[?]"),
            (("--max-tokens", "0"), "--max-tokens: 0 is not from 1 to"),
            (("--expires", "soon"), "--expires: 'soon' is not a time; such as 30d"),
            (("--model", "zzz"), "--model: .*'offgrid list' shows all"),
        ],
    ),
)
def test_a_change_that_is_wrong_changes_nothing(
    file: Path, arguments: tuple[str, ...], message: str
) -> None:
    key, _ = KeyFile(file).create("ward", Grant(frozenset({"inference"})))
    answer = keys(file, "change", "ward", *arguments)
    assert answer.returncode == 2
    assert re.match(f"offgrid: {message}", answer.stderr), answer.stderr
    assert KeyFile(file).find("ward") == key


def test_a_date_is_its_first_moment_here(file: Path) -> None:
    key = made(file, "ward", "--expires", "2099-01-31")
    assert time.localtime(key["expires"])[:6] == (2099, 1, 31, 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    few(
        5,
        [
            (("a", "--scope", "inferense"), "--scope: .*'inferense'; did you mean inference[?]"),
            (("a", "--scope", "zzz"), "--scope: .*'zzz'; they are admin, "),
            (("a", "--model", "ofgrid-starter"), "--model: .*did you mean offgrid-starter[?]"),
            (("a", "--model", "zzz"), "--model: .*'offgrid list' shows all"),
            (("a", "--expires", "soon"), "--expires: 'soon' is not a time; such as 30d"),
            (("a", "--expires", "2020-01-31"), "--expires: 2020-01-31 is over; give a time"),
            (("a", "--expires", "2020-31-31"), "--expires: '2020-31-31' is not a time"),
            (("a", "--expires", "0"), "--expires: '0' is over at once"),
            (("a", "--expires", "-5d"), "--expires: '-5d' is not a time"),
            (("a", "--expires", "99999999999d"), "--expires: .* is not a time"),
            (("a", "--requests-per-minute", "0"), "--requests-per-minute: 0 is not from 1 to"),
            (("a", "--max-tokens", "-1"), "--max-tokens: -1 is not from 1 to"),
            (
                ("a", "--filter-file", "/nothing/there"),
                "--filter-file: /nothing/there is not a file",
            ),
            (("a/b",), "'a/b' cannot be the name of a key; use 1 to 64 letters"),
            (("taken",), "there is a key named taken; choose another name"),
            ((), "missing argument 'NAME'"),
        ],
    ),
)
def test_wrong_arguments_get_one_line_that_says_what_to_do(
    file: Path, arguments: tuple[str, ...], message: str
) -> None:
    KeyFile(file).create("taken", Grant(frozenset({"inference"})))
    answer = keys(file, "create", *arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert re.match(f"offgrid: {message}", answer.stderr), answer.stderr


def test_models_of_peers_are_known_to_the_server_only(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFGRID_PEERS_DIR", str(tmp_path / "peers"))
    wrong = ("create", "a", "--model", "zzz")
    assert "POST /v1/keys" not in keys(file, *wrong).stderr
    (tmp_path / "peers").mkdir()
    assert keys(file, *wrong).stderr == (
        "offgrid: --model: there is no model 'zzz'; 'offgrid list' shows all; for a model of a "
        "peer, use POST /v1/keys\n"
    )


@pytest.mark.slow
def test_unknown_keys_and_files_that_cannot_be_used(file: Path) -> None:
    none = keys(file, "list")
    assert (none.returncode, none.stdout) == (0, f"There are no keys in {file}.\n")
    assert not file.exists()
    missing = keys(file, "revoke", "ward")
    assert missing.returncode == 1
    assert "it does not exist; create a key with" in missing.stderr
    made(file, "ward")
    unknown = keys(file, "rotate", "wart")
    assert unknown.returncode == 2
    assert "there is no key named wart; did you mean ward?" in unknown.stderr
    unknown = keys(file, "change", "wart", "--no-limits")
    assert unknown.returncode == 2
    assert "there is no key named wart; did you mean ward?" in unknown.stderr
    assert keys(file, "rotate", "ward", "--grace", "x").returncode == 2
    file.write_bytes(b"garbage" * 1000)
    for command in (("list",), ("create", "a"), ("revoke", "ward")):
        answer = keys(file, *command)
        assert answer.returncode == 1
        assert "restore it from a backup" in answer.stderr
        assert "--keys-file" in answer.stderr
    assert file.read_bytes() == b"garbage" * 1000


@pytest.mark.slow
def test_a_running_server_follows_the_command_line(tmp_path: Path, file: Path) -> None:
    with serving(tmp_path, "--keys-file", str(file)) as child:
        url = child.url

        def status(secret: str) -> int:
            return request(url, "GET", "/v1/models", headers=bearer(secret)).status

        assert status("none") == 200
        first = made(file, "ward")
        assert (status(first["key"]), status("none")) == (200, 401)
        assert keys(file, "change", "ward", "--scope", "history").returncode == 0
        assert status(first["key"]) == 403
        assert keys(file, "change", "ward", "--scope", "inference").returncode == 0
        second = json.loads(keys(file, "rotate", "WARD", "--grace", "1h", "--json").stdout)
        assert second["id"] == first["id"]
        assert (status(first["key"]), status(second["key"])) == (200, 200)
        third = json.loads(keys(file, "rotate", first["id"], "--json").stdout)
        assert [status(key["key"]) for key in (first, second, third)] == [401, 401, 200]
        revoked = keys(file, "revoke", "ward")
        assert revoked.stdout == f"revoked ward ({first['id']})\n"
        assert "No valid key is left" in revoked.stderr
        assert status(third["key"]) == 401
        assert "revoked" in keys(file, "list", "--all").stdout
        assert keys(file, "list").stdout.endswith("--all shows those that were revoked.\n")


@pytest.mark.slow
def test_commands_send_the_key(tmp_path: Path, file: Path) -> None:
    key = made(file, "terminal", "--scope", "inference,models")["key"]
    with serving(tmp_path, "--keys-file", str(file)) as child:
        url = child.wait_ready()
        child.out.find(r"keys +every request needs one; offgrid keys list shows them\n")
        curl = child.out.find(r"try +(curl .*)\n")[1]
        answer = subprocess.run(
            curl, shell=True, capture_output=True, text=True, timeout=TIMEOUT,
            env={**os.environ, "OFFGRID_API_KEY": key},
        )  # fmt: skip
        assert json.loads(answer.stdout)["object"] == "chat.completion"

        def run(*arguments: str, **environ: str) -> Run:
            return subprocess.run(
                [program("offgrid"), *arguments, "--url", url, "--no-config"],
                capture_output=True, encoding="utf-8", timeout=TIMEOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **environ},
            )  # fmt: skip

        for command in (("ps",), ("run", "", "Hello!"), ("complete", "", "Once upon")):
            refused = run(*command)
            assert refused.returncode == 1
            assert "give a key with OFFGRID_API_KEY or --api-key" in refused.stderr
            assert run(*command, "--api-key", key).returncode == 0
            assert run(*command, OFFGRID_API_KEY=key).returncode == 0
            assert run(*command, "--api-key", "\u00e4").returncode == 1
        plan = run("launch", "aider", "--print", OFFGRID_API_KEY=key)
        assert f"export OPENAI_API_KEY={key}" in plan.stdout
        plan = run("launch", "codex", "--print", OFFGRID_API_KEY=key)
        assert f"export OFFGRID_API_KEY={key}" in plan.stdout
        assert "env_key" in plan.stdout


@pytest.mark.slow
def test_a_server_does_not_start_with_a_keys_file_that_it_cannot_read(
    tmp_path: Path, file: Path
) -> None:
    file.write_bytes(b"")
    with serving(tmp_path, "--keys-file", str(file)) as child:
        assert child.wait() == 2
        assert "OFFGRID_KEYS_FILE (--keys-file): the keys file" in child.err.text
        assert "restore it from a backup" in child.err.text
    assert file.read_bytes() == b""
