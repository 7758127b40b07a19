"""Help and version, flags, suggestions for misspelt commands and options, settings in commands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from processes import run_offgrid

from offgrid import __version__
from offgrid.cli import main
from offgrid.cli.help import CONTEXT, ELSEWHERE
from offgrid.config import GROUPS, TABLE, load_settings


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="offgrid", env=environ)


def help_of(command: str, width: int) -> str:
    """The help of a command in a terminal of some width; click's runner has a fixed one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        root = click.Context(main, info_name="offgrid", **CONTEXT)
        return click.Context(command_of(command), root, command).get_help()


def command_of(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def test_help_lists_all_commands_in_groups() -> None:
    for arguments in (["--help"], ["-h"], []):
        shown = run(*arguments)
        assert shown.exit_code == 0
        assert shown.output.startswith("Usage: offgrid ")
        assert re.findall(r"^(\w.*):$", shown.output, re.MULTILINE) == ["Options", *main.sections]
        for name in main.commands:
            assert len(re.findall(rf"^  {name} +\w.*[^.]\.$", shown.output, re.MULTILINE)) == 1
        assert "..." not in shown.output.split("Serve and chat")[1]


def test_serve_lists_every_setting_in_its_group() -> None:
    shown = help_of("serve", 80)
    sections = dict(re.findall(r"^(\w[^\n]*):\n((?:  .*\n)+)", shown, re.MULTILINE))
    assert [*sections] == [*GROUPS, "Other"]
    for setting in TABLE:
        line = rf"^  (?:{setting.short}, )?{setting.option} "
        assert re.search(line, sections[setting.group], re.MULTILINE), setting.name
        for alias in setting.aliases:
            assert alias.replace("_", "-") not in shown
    assert "-h, --help" in sections["Other"]


def test_serve_shows_defaults() -> None:
    shown = " ".join(help_of("serve", 80).split())
    for flag, default in (
        ("-c, --ctx-size N", "4096"), ("--threads N|auto", "auto"), ("--port N", "11611"),
        ("--use-mmap / --no-use-mmap", "on"), ("--use-mlock / --no-use-mlock", "off"),
        ("--load-timeout TIME", "300 s"), ("--max-body-mb MIB", "8 MiB"),
        ("--unknown-fields refuse|ignore", "refuse"), ("--queue-timeout TIME", "0"),
    ):  # fmt: skip
        assert re.search(rf"{re.escape(flag)} [^\[]*\[default: {re.escape(default)}\]", shown), flag


@pytest.mark.parametrize("width", [60, 80, 120, 160, 300])
def test_help_uses_the_width_of_the_terminal(width: int) -> None:
    lines = help_of("serve", width).splitlines()
    longest = max(map(len, lines))
    assert min(width, 160) - 12 < longest <= width
    # Flags and defaults are on one line, however narrow it is.
    assert not [line for line in lines if re.search(r"--[\w-]*-$|\[default:$", line)]


def test_commands_list_only_their_own_options() -> None:
    for name in main.commands:
        flags = {flag for p in command_of(name).params for flag in p.opts if flag.startswith("--")}
        if name in ("list", "info", "get", "import", "export", "verify", "remove"):
            assert "--models-dir" in flags
            assert not flags & {"--port", "--threads", "--queue-size", "--host"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serv"], "there is no command 'offgrid serv'; did you mean 'offgrid serve'?"),
        (["lst"], "there is no command 'offgrid lst'; did you mean 'offgrid list'?"),
        (["pull"], "there is no command 'offgrid pull'; did you mean 'offgrid get'?"),
        (["xyzzy"], "there is no command 'offgrid xyzzy'; offgrid --help lists them"),
        (["serve", "--paralel"], "offgrid serve has no option --paralel; did you mean --parallel?"),
        (["list", "--CONFIGS"], "offgrid list has no option --CONFIGS; did you mean --config?"),
        (["list", "--xyzzy"], "offgrid list has no option --xyzzy; offgrid list --help lists all"),
        (["info"], "missing argument 'MODEL'; see offgrid info --help"),
        (["list", "a"], "got unexpected extra argument (a); see offgrid list --help"),
        (["serve", "-c", "8kk"], "--ctx-size: '8kk' is not a whole number (such as 8192 or 8k)"),
        (["serve", "-ngl", "most"], "--gpu-layers: 'most' is not a whole number, or all"),
        (["serve", "--config", "nope.toml"],
         "--config: cannot read nope.toml: No such file or directory"),
    ],
)  # fmt: skip
def test_a_wrong_argument_gets_one_line(arguments: list[str], message: str) -> None:
    wrong = run(*arguments)
    assert wrong.exit_code == 2
    assert wrong.output == f"offgrid: {message}\n"


def test_suggested_commands_exist() -> None:
    """All names of other programs lead to commands of this one."""
    assert not set(ELSEWHERE) & set(main.commands)
    assert {name for name in ELSEWHERE.values() if not name.startswith("-")} <= {
        name for names in main.sections.values() for name in names
    }


def test_control_characters_in_arguments_are_escaped() -> None:
    assert run("\x1b[31m").output == (
        "offgrid: there is no command 'offgrid \\x1b[31m'; offgrid --help lists them\n"
    )


def test_ctrl_c_ends_a_command_with_130() -> None:
    @click.command()
    def sleeper() -> None:
        raise KeyboardInterrupt

    @click.command()
    def asker() -> None:
        click.confirm("Sure?", abort=True)

    main.add_command(sleeper, "sleeper")
    main.add_command(asker, "asker")
    try:
        ended = run("sleeper")
        assert (ended.exit_code, ended.output.split()) == (130, ["offgrid:", "stopped"])
        declined = CliRunner().invoke(main, ["asker"], input="n\n")
        assert declined.exit_code == 1
    finally:
        del main.commands["sleeper"], main.commands["asker"]


def test_a_bad_configuration_file_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "offgrid" / "offgrid.toml"
    file.parent.mkdir()
    file.write_text("paralel = 2\n")
    home = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    wrong = run("list", **home)
    assert (wrong.exit_code, wrong.output) == (
        2, f"offgrid: {file}: unknown setting paralel; did you mean parallel?\n"
    )  # fmt: skip
    assert run("list", "--no-config", **home).exit_code == 0
    for flags in (["--no-config", "--config", str(file)], ["--config", str(file), "--no-config"]):
        for command in (["list"], ["config", "show"], ["verify"], ["serve", "--port", "0"]):
            both = run(*command, *flags, **home)
            assert (both.exit_code, both.output) == (
                2,
                f"offgrid: --no-config and --config {file} contradict each other; give only one "
                "of them\n",
            )


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "a", "-c", "8k", "-np", "2", "-ngl", "all", "-p", "0", "--threads", "3"],
        ["--default-model", "a", "--max-context", "8192", "--parallel", "2", "--n-gpu-layers", "-1",
         "--port", "0", "--num-threads", "3"],
        ["-ma", "-c8k", "-np=2", "-ngl=all", "-p0", "--threads=3"],
    ],
    ids=["short", "older", "joined"],
)  # fmt: skip
def test_flags_have_other_spellings(flags: list[str]) -> None:
    given = command_of("serve").make_context("serve", flags).params
    settings = load_settings(given, environ={})
    assert (settings.model, settings.ctx_size, settings.parallel) == ("a", 8192, 2)
    assert (settings.gpu_layers, settings.port, settings.threads) == (-1, 0, 3)


@pytest.mark.parametrize(
    "command", [(), (sys.executable, "-m", "offgrid")], ids=["offgrid", "python -m offgrid"]
)
def test_version_and_unknown_verbs(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python searches the current folder first, and the source tree is not compiled.
    monkeypatch.chdir(tmp_path)
    version = run_offgrid("--version", command=command)
    assert (version.returncode, version.stdout) == (0, f"offgrid, version {__version__}\n")
    unknown = run_offgrid("nothing", command=command)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == (
        "offgrid: there is no command 'offgrid nothing'; offgrid --help lists them\n"
    )
