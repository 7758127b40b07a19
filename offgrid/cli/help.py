"""How ``offgrid --help`` looks, and how wrong arguments are reported.

Options and commands are listed in groups, in the width of the terminal. A wrong argument gets one
line, with a suggestion if it looks misspelt.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from offgrid.config import GROUPS, Setting, similar
from offgrid.config.setting import flag_of
from offgrid.terminal import shown

WIDEST = 160
"""Columns. Longer lines are hard to read, even in a wider terminal."""
CONTEXT: Mapping[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": WIDEST,
}
"""Settings of click that all commands inherit."""
_NARROW = 60
"""Columns below which the meaning of an option begins on a line of its own."""
_MANY = 12
"""Options of a command above which they are listed in groups."""
_OTHER = "Other"
_FEW = 5
"""Choices that still fit into the first column of the help."""
_METAVARS = {
    "int": "N", "count": "N", "float": "N", "duration": "TIME", "mib": "MIB", "str": "TEXT",
    "path": "PATH", "list": "A,B,...", "map": "NAME=ID,...",
}  # fmt: skip
_ALL = "Options"
_SPACE, _HYPHEN = "\N{NO-BREAK SPACE}", "\N{NON-BREAKING HYPHEN}"
"""Characters at which a line is never broken."""
_FLAG = re.compile(r"(?<!\w)--\w[\w-]*")
_DEFAULT = re.compile(r"\[default: [^\]]*\]")
_RANGE = re.compile(r"; [\d<=x]+\]")
"""What click writes after the default of a number; a wrong number gets a message with its range."""
ELSEWHERE = {
    "chat": "run", "pull": "get", "download": "get", "fetch": "get", "ls": "list", "models": "list",
    "rm": "remove", "delete": "remove", "show": "info", "start": "serve", "server": "serve",
    "up": "serve", "check": "doctor", "benchmark": "bench", "settings": "config", "cp": "export",
    "load": "import", "help": "--help", "status": "ps", "metrics": "stats", "top": "stats",
}  # fmt: skip
"""Names that other programs have for our commands."""


class SettingOption(click.Option):
    """The option of a setting. Its help leaves out older names.

    Attributes:
        setting: the row of the table.
    """

    def __init__(self, declarations: Sequence[str], *, setting: Setting, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.setting = setting

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the flags, and the meaning with the default."""
        setting = self.setting
        flags = f"{setting.short}, {setting.option}" if setting.short else setting.option
        if setting.kind == "bool":
            flags = f"{flags} / --no-{setting.option[2:]}"
        else:
            flags = f"{flags} {metavar_of(setting)}"
        default = default_of(setting)
        note = f"  [default: {default}]" if default else ""
        words = f" One of {setting.limits}." if len(setting.choices) > _FEW else ""
        return flags, f"{_with_flags(setting.meaning)}{words}{note}"


class _Narrow(click.Command):
    """Help in the width of a terminal that click takes for wider than it is."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help."""
        columns = shutil.get_terminal_size().columns - 2
        formatter.width = min(formatter.width, max(columns, _NARROW // 2))
        super().format_help(ctx, formatter)


class Command(_Narrow):
    """A command whose many options are listed in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options; if there are many, those of each group below its name."""
        options = sorted(_options(ctx), key=_rank)
        is_long = len(options) > _MANY
        records: dict[str, list[tuple[str, str]]] = {g: [] for g in (_ALL, *GROUPS, _OTHER)}
        for option in options:
            record = option.get_help_record(ctx)
            if record is not None:
                group = _group(option) if is_long else _ALL
                records[group].append((record[0], _whole(record[1])))
        for group, rows in records.items():
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows, col_max=30 if formatter.width >= _NARROW else 6)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the text below the options."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text(_whole(self.epilog))

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, with plain characters."""
        return super().get_help(ctx).replace(_SPACE, " ").replace(_HYPHEN, "-")


class Group(_Narrow, click.Group):
    """A command with subcommands. Without one, it prints its help."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        attributes["invoke_without_command"] = True
        super().__init__(*arguments, **attributes)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand, or print the help if there is none."""
        result = super().invoke(ctx)
        if ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())
        return result

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; suggest one for a name that does not exist."""
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            path = ctx.command_path
            best = self.suggest(name)
            hint = f"did you mean '{path} {best}'?" if best else f"{path} --help lists them"
            raise click.UsageError(f"there is no command '{path} {name}'; {hint}")
        return super().resolve_command(ctx, args)

    def suggest(self, name: str) -> str | None:
        """Return the command that a misspelt name means; None if none is like it."""
        return similar(name, self.commands)


class Later(click.Command):
    """Stands for a command until it is needed. Help and completion of the ``offgrid`` command show
    its short help without importing it, which may take a second.

    Args:
        name: what the user types.
        place: the module and the attribute with the command, with a colon between them.
        short_help: the same as that of the command.
    """

    def __init__(self, name: str, place: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self._place = place

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self._place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class Root(Group):
    """The ``offgrid`` command.

    Attributes:
        sections: heading -> the names of its commands, in order. All others come last.
    """

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.sections: dict[str, tuple[str, ...]] = {}

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command, imported now."""
        command = self.commands.get(name)
        if isinstance(command, Later):
            command = self.commands[name] = command.load()
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin with what was typed, without importing them, and the
        options."""
        commands = [
            CompletionItem(name, help=self.commands[name].get_short_help_str())
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, those of each section below its heading."""
        listed = {name for names in self.sections.values() for name in names}
        rest = tuple(name for name in self.list_commands(ctx) if name not in listed)
        longest = max(map(len, self.commands))
        limit = formatter.width - longest - 6
        for heading, names in {**self.sections, _OTHER: rest}.items():
            commands = [(name, self.commands[name]) for name in names if name in self.commands]
            rows = [(name.ljust(longest), c.get_short_help_str(limit)) for name, c in commands]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def suggest(self, name: str) -> str | None:
        """Do the same, also for the names that other programs have for our commands."""
        other = ELSEWHERE.get(name.lower())
        if other is not None and (other in self.commands or other.startswith("-")):
            return other
        return super().suggest(name)

    def main(self, *arguments: Any, **named: Any) -> Any:
        """Run a command; report wrong arguments in one line."""
        run: Callable[..., Any] = super().main
        if not named.pop("standalone_mode", True):
            return run(*arguments, standalone_mode=False, **named)
        try:
            status = run(*arguments, standalone_mode=False, **named)
        except click.Abort as ex:
            # A question that is interrupted hides the cause, and leaves its line unfinished.
            stopped = isinstance(ex.__cause__ or ex.__context__, KeyboardInterrupt)
            line_end = "\n" if stopped and ex.__cause__ is None else ""
            click.echo(f"{line_end}offgrid: stopped", err=True)
            sys.exit(130 if stopped else 1)
        except click.ClickException as ex:
            click.echo(f"offgrid: {shown(_explained(ex))}", err=True)
            sys.exit(ex.exit_code)
        sys.exit(status if isinstance(status, int) else 0)


def metavar_of(setting: Setting) -> str:
    """Return what stands for the value of a setting in help."""
    if len(setting.choices) > _FEW:
        return "TYPE"  # the meaning lists them
    if setting.choices:
        return "|".join(setting.choices)
    words = [word for word, _ in setting.words]
    return "|".join([_METAVARS.get(setting.kind, setting.kind.upper()), *words])


def default_of(setting: Setting) -> str:
    """Return a default for a reader; empty if it is nothing, or depends on the machine."""
    default = setting.default
    if default is None or default in ("", ()):
        return ""
    if setting.kind == "bool":
        return "on" if default else "off"
    for word, number in setting.words:
        if default == number:
            return word
    unit = {"duration": "s", "mib": "MiB"}.get(setting.kind)
    if isinstance(default, tuple):
        return ",".join(default)
    text = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{text} {unit}" if unit and default else text


def _with_flags(meaning: str) -> str:
    """Return a meaning that names other settings as flags. Only names of several words are
    unmistakable."""
    words = meaning.split(" ")
    for index, word in enumerate(words):
        name = word.rstrip(".,:;")
        if "_" in name and name.islower():
            words[index] = flag_of(name) + word[len(name) :]
    return " ".join(words)


def _whole(text: str) -> str:
    """Return a text whose flags are not broken at their hyphens, and defaults at their spaces."""
    text = _FLAG.sub(lambda found: found[0].replace("-", _HYPHEN), _RANGE.sub("]", text))
    return _DEFAULT.sub(lambda found: found[0].replace(" ", _SPACE), text)


def _group(option: click.Option) -> str:
    if isinstance(option, SettingOption):
        return option.setting.group
    return _OTHER if _rank(option) > 1 else _ALL


def _rank(option: click.Option) -> int:
    """Return where an option is listed: a command's own first, those that all have last."""
    if option.name in ("config", "no_config"):
        return 2
    if "--help" in option.opts:
        return 3
    return isinstance(option, SettingOption)


def _explained(ex: click.ClickException) -> str:
    """Return an error of click as one line that says what to do."""
    ctx = getattr(ex, "ctx", None)
    path = ctx.command_path if ctx is not None else "offgrid"
    if isinstance(ex, click.NoSuchOption):
        known = [] if ctx is None else [*_flat(p.opts + p.secondary_opts for p in _options(ctx))]
        best = similar(ex.option_name, [name for name in known if name.startswith("--")])
        hint = f"did you mean {best}?" if best is not None else f"{path} --help lists all"
        return f"{path} has no option {ex.option_name}; {hint}"
    message = ex.format_message().rstrip(".")
    message = f"{message[:1].lower()}{message[1:]}"
    return message if "; " in message else f"{message}; see {path} --help"


def _options(ctx: click.Context) -> list[click.Option]:
    return [p for p in ctx.command.get_params(ctx) if isinstance(p, click.Option)]


def _flat(lists: Iterable[Iterable[Any]]) -> Iterable[Any]:
    return (item for items in lists for item in items)
