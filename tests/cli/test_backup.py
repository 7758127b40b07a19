"""``offgrid backup`` and ``offgrid restore``; ``tests/store/test_backup.py`` has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from keyed import bearer
from processes import serving
from responses_calls import PATH, ask
from support import chat_body, request

from offgrid.cli import main
from offgrid.stats.totals import Totals, TotalsFile


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.slow
def test_a_server_that_runs_is_backed_up_and_restored(tmp_path: Path) -> None:
    """History comes back at once, and the configuration with the next SIGHUP. The statistics
    continue from those of the backup: what the server has counted is added once."""
    config, archive = tmp_path / "offgrid.toml", tmp_path / "backup.zip"
    config.write_text("max_responses = 500")
    totals, statistics = Totals(0.0), TotalsFile(tmp_path / "stats.json")
    totals.count("POST", PATH, "2xx", 1000)
    statistics.save(totals)
    files = ("--config", config, "--responses-file", tmp_path / "responses.sqlite3")
    models = ("--models-dir", tmp_path / "none")
    with serving(tmp_path, "--config", str(config)) as child:
        url = child.wait_ready()
        kept = ask(url, max_output_tokens=4)
        result = run("backup", archive, *files, *models)
        assert result.exit_code == 0, result.output
        assert "config/offgrid.toml" in result.output
        assert request(url, "DELETE", f"{PATH}/{kept['id']}").status == 200
        config.write_text("max_responses = 0")
        refused = run("restore", archive, *files, *models)
        assert refused.exit_code == 1
        assert "--force" in refused.output
        result = run("restore", archive, "--force", *files, *models)
        assert result.exit_code == 0, result.output
        assert "after SIGHUP or a restart" in result.output
        assert request(url, "GET", f"{PATH}/{kept['id']}").json == kept
        assert ask(url, max_output_tokens=4)["store"] is True
        child.process.terminate()
        child.wait()
    ended = TotalsFile(tmp_path / "stats.json").load()
    assert ended is not None
    assert 1000 < ended.requests["POST", PATH, "2xx"] <= 1002
    assert config.read_text() == "max_responses = 500"


def create_key(file: Path, name: str, *options: object) -> str:
    result = run("keys", "create", name, "--keys-file", file, "--no-config", *options, "--json")
    assert result.exit_code == 0, result.output
    return str(json.loads(result.stdout)["key"])


@pytest.mark.slow
def test_content_filters_work_on_another_machine(tmp_path: Path) -> None:
    """Those of keys and that of the configuration, although none of their paths exists there."""
    old, new, archive = tmp_path / "old", tmp_path / "new", tmp_path / "backup.zip"
    for folder in (old / "rules", new):
        folder.mkdir(parents=True)
    (old / "rules" / "ward.txt").write_text("otter")
    (old / "everybody.txt").write_text("badger")
    (old / "offgrid.toml").write_text(f"filter_file = '{old / 'everybody.txt'}' # of the house")

    def files(place: Path) -> tuple[object, ...]:
        flags = {"config": "offgrid.toml", "keys-file": "keys.sqlite3", "models-dir": "models",
                 "responses-file": "responses.sqlite3"}  # fmt: skip
        return tuple(part for name in flags for part in (f"--{name}", place / flags[name]))

    keys = old / "keys.sqlite3"
    ward = create_key(keys, "ward", "--filter-file", old / "rules" / "ward.txt")
    cook = create_key(keys, "cook")
    result = run("backup", archive, *files(old))
    assert result.exit_code == 0, result.output
    assert "filters/ward.txt" in result.output
    old.rename(tmp_path / "gone")
    result = run("restore", archive, *files(new))
    assert result.exit_code == 0, result.output
    assert "does not exist" not in result.output
    assert "nothing names it" not in result.output
    assert (new / "offgrid.toml").read_text().endswith("# of the house")
    config = ("--config", str(new / "offgrid.toml"), "--keys-file", str(new / "keys.sqlite3"))
    with serving(new, *config) as child:
        url = child.wait_ready()

        def status(key: str, word: str) -> int:
            body = chat_body(f"An {word}?", max_tokens=1)
            answer = request(url, "POST", "/v1/chat/completions", body, headers=bearer(key))
            assert answer.status == 200 or answer.json["error"]["code"] == "content_filter"
            return answer.status

        asked = {(name, word): status(key, word) for name, key in (("ward", ward), ("cook", cook))
                 for word in ("otter", "badger", "heron")}  # fmt: skip
    assert {what for what, code in asked.items() if code == 400} == {
        ("ward", "otter"), ("ward", "badger"), ("cook", "badger"),
    }  # fmt: skip


def test_content_filters_that_are_missing_are_named(tmp_path: Path) -> None:
    """The rest is backed up and restored, and both commands say what will not be answered."""
    rules, archive = tmp_path / "ward.txt", tmp_path / "backup.zip"
    rules.write_text("otter")
    create_key(tmp_path / "keys.sqlite3", "ward", "--filter-file", rules)
    rules.unlink()
    missing = f"{rules}, the filter file of the key ward, does not exist"
    result = run("backup", archive, "--keys-file", tmp_path / "keys.sqlite3", "--no-config")
    assert result.exit_code == 0
    assert missing in result.output
    result = run("restore", archive, "--keys-file", tmp_path / "new.sqlite3", "--no-config")
    assert result.exit_code == 0
    assert f"{missing}: without it, nothing is answered" in result.output


def test_a_content_filter_that_a_variable_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup cannot set it on the other machine, so the command says what to set."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    rules, archive = tmp_path / "rules.txt", tmp_path / "backup.zip"
    rules.write_text("otter")
    assert run("backup", archive, "--no-config", "--filter-file", rules).exit_code == 0
    rules.unlink()
    restore = ("restore", archive, "--keys-file", tmp_path / "new" / "keys.sqlite3")
    result = run(*restore)
    assert result.exit_code == 0, result.output
    kept = tmp_path / "new" / "filters" / "rules.txt"
    assert kept.read_text() == "otter"
    assert f"the content filter is in {kept}, and nothing names it" in result.output
    assert "nothing names it" not in run(*restore, "--filter-file", kept).output


def test_without_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config, archive = tmp_path / "offgrid" / "offgrid.toml", tmp_path / "backup.zip"
    config.parent.mkdir()
    config.write_text("max_responses = 1")
    assert run("backup", archive).exit_code == 0
    config.write_text("max_responses = 2")
    assert run("restore", archive, "--force", "--no-config").exit_code == 0
    assert config.read_text() == "max_responses = 2"
    assert run("restore", archive, "--force").exit_code == 0
    assert config.read_text() == "max_responses = 1"


def test_errors(tmp_path: Path) -> None:
    result = run("restore", tmp_path / "no.zip")
    assert result.exit_code == 1
    assert "there is no such file" in result.output
    result = run("backup", tmp_path / "no" / "folder" / "backup.zip")
    assert result.exit_code == 1
    assert "cannot be written" in result.output
