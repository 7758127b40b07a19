"""docs/COMMANDS.md compared with the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from offgrid.cli import main
from offgrid.cli.doctor.checks import run_checks
from offgrid.cli.help import SettingOption
from offgrid.config import TABLE

PAGE = (Path(__file__).parents[2] / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
SECTIONS = {
    heading: text
    for heading, text in re.findall(r"^## (offgrid .*)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE)
}


def commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """The command and all below it, without groups, which do nothing."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.commands:
        inner = command.get_command(click.Context(command), name)
        assert inner is not None
        yield from commands(f"{path} {name}", inner)


COMMANDS = dict(commands("offgrid", main))


def test_every_command_has_a_section() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_has_all_options_and_arguments(name: str) -> None:
    text, command = SECTIONS[name], COMMANDS[name]
    of_all = ("config", "no_config")
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in of_all]
    foreign = [p for p in options if not isinstance(p, SettingOption)]
    own = {flag for p in foreign for flag in (*p.opts, *p.secondary_opts)}
    rows = re.findall(r"^\| (`-[^|]*) \|", text, re.MULTILINE)
    assert {flag for row in rows for flag in re.findall(r"`(--?[\w-]+)", row)} == own
    settings = {p.setting.option for p in options if isinstance(p, SettingOption)}
    listed = re.search(r"^Settings: ((?:.*\n)+)", text, re.MULTILINE)
    if len(settings) == len(TABLE):
        assert "all settings" in " ".join(text.split())
    else:
        assert set(re.findall(r"`(--[\w-]+)`", listed[1] if listed else "")) == settings
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = f"`{name}" + "".join(f" {p.make_metavar(click.Context(command))}" for p in arguments)
    assert re.search(re.escape(usage), text), usage


def test_the_checks_of_the_doctor_are_listed(tmp_path: Path) -> None:
    rows = re.findall(r"^\| ([a-z.]+) \|", SECTIONS["offgrid doctor"], re.MULTILINE)
    flags = {"port": "0", "responses_file": str(tmp_path / "r"), "config": ""}
    assert rows == [check.subject for check in run_checks(flags)]
