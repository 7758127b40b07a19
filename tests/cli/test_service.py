"""``offgrid service``, with a systemctl that writes down what it is asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from offgrid.cli import main
from offgrid.cli import service as module
from offgrid.service.unit import MARK

Run = Callable[..., Result]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """The file in which the false systemctl writes down its arguments."""
    return tmp_path / "asked"


@pytest.fixture
def run(tmp_path: Path, asked: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on a system with systemd."""
    tools = tmp_path / "tools"
    tools.mkdir()
    tool = tools / "systemctl"
    tool.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\n[ -e {tmp_path}/broken ] && exit 1\nexit 0\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(module, "_RUNNING", tmp_path)
    monkeypatch.setattr(module, "_SYSTEM_UNITS", tmp_path / "units")
    monkeypatch.setattr(module, "_SYSTEM_CONFIG", tmp_path / "etc" / "offgrid.toml")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["service", *arguments])

    return run


def test_a_service_of_a_user(run: Run, asked: Path, tmp_path: Path) -> None:
    unit = tmp_path / "config" / "systemd" / "user" / "offgrid.service"
    result = run("install", "--user", "--now")
    assert result.exit_code == 0, result.output
    assert unit.read_text().startswith(MARK)
    assert asked.read_text().split("\n")[:2] == [
        "--user daemon-reload",
        "--user enable --now offgrid",
    ]
    assert run("install", "--user").exit_code == 0  # its own file may be written again
    assert run("show", "--user").output == unit.read_text()
    assert run("install", "--user", "--print").output == unit.read_text()
    assert run("uninstall", "--user").exit_code == 0
    assert not unit.exists()
    assert asked.read_text().split("\n")[-3:-1] == [
        "--user disable --now offgrid",
        "--user daemon-reload",
    ]
    assert run("uninstall", "--user").exit_code == 1
    assert "install' writes one" in run("show", "--user").output


def test_the_folders_of_a_user_exist_before_the_service(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd cannot open a folder that does not exist to the service."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = run("install", "--user", "--print").output
    assert not (tmp_path / "home").exists()
    assert run("install", "--user").exit_code == 0
    (paths,) = [line for line in text.splitlines() if line.startswith("ReadWritePaths=")]
    folders = [Path(word) for word in paths.removeprefix("ReadWritePaths=-").split(" -")]
    assert tmp_path / "home" / ".offgrid-llm" in folders
    for folder in folders:
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_service_of_the_system(run: Run, asked: Path, tmp_path: Path) -> None:
    """Its configuration is in /etc, if there is one."""
    config = tmp_path / "etc" / "offgrid.toml"
    config.parent.mkdir()
    config.write_text("drain_timeout = 100")
    result = run("install", "--system", "--run-as", "llm", "--memory-max", "80%")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "units" / "offgrid.service").read_text()
    assert f"serve --config {config}\n" in text
    assert "TimeoutStopSec=140\n" in text
    assert "MemoryMax=80%\n" in text
    assert "User=llm\n" in text
    assert asked.read_text().split("\n")[0] == "daemon-reload"


def test_a_file_of_somebody_else_stays(run: Run, asked: Path, tmp_path: Path) -> None:
    unit = tmp_path / "units" / "offgrid.service"
    unit.parent.mkdir()
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    for command in ("install", "uninstall"):
        result = run(command, "--system")
        assert result.exit_code == 1
        assert "somebody else has written this file" in result.output
    assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert not asked.exists()


def test_a_link_is_not_followed(run: Run, tmp_path: Path) -> None:
    """``systemctl mask`` makes one to /dev/null."""
    unit = tmp_path / "units" / "offgrid.service"
    unit.parent.mkdir()
    unit.symlink_to("/dev/null")
    result = run("install", "--system")
    assert result.exit_code == 1
    assert "somebody else has written this file" in result.output


def test_without_systemd(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RUNNING", tmp_path / "none")
    monkeypatch.setattr(module.sys, "platform", "linux")
    for command in ("install", "uninstall", "status"):
        result = run(command, "--user")
        assert result.exit_code == 1
        assert "systemd does not run here" in result.output
    assert run("install", "--user", "--print").exit_code == 0
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert "launchd" in run("install", "--user").output
    assert run("install", "--user", "--print").output.startswith("<?xml")


def test_without_permission(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the error is made here."""

    def refuse(self: Path, text: str) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    result = run("install", "--system")
    assert result.exit_code == 1
    assert "Permission denied; a service of the system needs root, --user does not" in result.output


def test_a_systemctl_that_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    result = run("install", "--user")
    assert result.exit_code == 1
    assert "'systemctl --user daemon-reload' failed: status 1" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--user", "--run-as", "llm"), "--run-as needs --system"),
        (("--system", "--run-as", "a b"), "is not the name of a user"),
        (("--system", "--run-as", "a\nUser=root"), "is not the name of a user"),
        (("--user", "--memory-max", "much"), "is not a size"),
        (("--user", "--config", "/no/such/file"), "/no/such/file"),
    ],
)
def test_wrong_arguments(run: Run, arguments: tuple[str, ...], told: str) -> None:
    result = run("install", *arguments)
    assert result.exit_code == 2
    assert told in result.output
