"""``offgrid service``: starts the server with the system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NoReturn

import click

from offgrid.cli.help import Group
from offgrid.cli.options import config_options, fail, resolved_settings
from offgrid.errors import OffgridError
from offgrid.service.plist import plist_text
from offgrid.service.unit import MARK, NAME, STATE, Service, unit_text, writable_folders
from offgrid.terminal import shown

_RUNNING = Path("/run/systemd/system")
"""Exists while systemd manages the system (``sd_booted(3)``)."""
_SYSTEM_UNITS = Path("/etc/systemd/system")
_SYSTEM_CONFIG = Path("/etc/offgrid/offgrid.toml")
_MEMORY = re.compile(r"[1-9][0-9]*[KMGT%]?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")


def _scope(function: Any) -> Any:
    return click.option(
        "--system/--user", "system", default=None,
        help="For the whole system, or for your user. The default is the system for root.",
    )(function)  # fmt: skip


@click.group(cls=Group)
def service() -> None:
    """Start the server with the system, as a hardened service.

    The unit file for systemd takes every right from the server that the server does not need.
    Settings belong into the configuration file: 'systemctl reload offgrid' reads it again.
    docs/SERVICE.md explains the file, launchd and Windows.
    """


@service.command()
@_scope
@config_options
@click.option("--run-as", metavar="USER", default="", help="Existing user of a system service.")
@click.option("--memory-max", metavar="SIZE", default="", help="Most memory, such as 6G or 80%.")
@click.option("--now", is_flag=True, help="Start the service too.")
@click.option("--print", "only_print", is_flag=True, help="Print the file, and change nothing.")
def install(
    system: bool | None, config: str | None, run_as: str, memory_max: str, now: bool,
    only_print: bool,
) -> None:  # fmt: skip
    """Write the unit file, and have systemd start the server with the system."""
    system = _for_system(system)
    _check(system, run_as, memory_max)
    if system and config is None and _SYSTEM_CONFIG.exists():
        config = str(_SYSTEM_CONFIG)
    try:
        resolved = resolved_settings({"config": config if not system or config else ""})
        command = [*_program(), "serve"]
        if config == "":
            command.append("--no-config")
        elif config is not None:
            command += ["--config", str(Path(config).expanduser().absolute())]
        made = Service(
            tuple(command), resolved.settings, resolved.file, system, run_as, memory_max,
            namespaces=_namespaces_allowed(),
        )  # fmt: skip
        text = unit_text(made)
    except OffgridError as ex:
        fail(str(ex), 2)
    if only_print:
        drain = resolved.settings.drain_timeout
        click.echo(plist_text(command, drain) if sys.platform == "darwin" else text, nl=False)
        return
    _need_systemd()
    path = _unit_path(system)
    _refuse_foreign(path)
    try:
        if not system:
            # systemd shows the service a home that it cannot change, except for folders that exist.
            for folder in writable_folders(made):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as ex:
        _not_permitted(path, ex)
    click.echo(f"wrote {shown(path)}")
    _systemctl(system, "daemon-reload")
    _systemctl(system, "enable", *(["--now"] if now else []), NAME)
    _advise(system, now)


@service.command()
@_scope
def uninstall(system: bool | None) -> None:
    """Stop the service and remove its unit file. Models, keys and history stay."""
    system = _for_system(system)
    _need_systemd()
    path = _unit_path(system)
    if not path.exists():
        fail(f"{path}: there is no such service", 1)
    _refuse_foreign(path)
    _systemctl(system, "disable", "--now", NAME)
    try:
        path.unlink()
    except OSError as ex:
        _not_permitted(path, ex)
    _systemctl(system, "daemon-reload")
    click.echo(f"removed {shown(path)}")


@service.command()
@_scope
def status(system: bool | None) -> None:
    """Show whether the service runs, and the end of its log."""
    system = _for_system(system)
    _need_systemd()
    sys.exit(subprocess.run([*_tool(system), "status", "--no-pager", NAME]).returncode)


@service.command()
@_scope
def show(system: bool | None) -> None:
    """Print the unit file that is installed."""
    path = _unit_path(_for_system(system))
    try:
        click.echo(path.read_text(), nl=False)
    except FileNotFoundError:
        fail(f"{path}: there is no such service; 'offgrid service install' writes one", 1)
    except OSError as ex:
        fail(f"{path}: {ex.strerror or ex}", 1)


def _for_system(system: bool | None) -> bool:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return is_root if system is None else system


def _check(system: bool, run_as: str, memory_max: str) -> None:
    if run_as and not system:
        raise click.UsageError("--run-as needs --system: a service of a user runs as that user")
    if run_as and not _USER.fullmatch(run_as):
        raise click.UsageError(f"--run-as: {run_as!r} is not the name of a user")
    if memory_max and not _MEMORY.fullmatch(memory_max):
        raise click.UsageError(f"--memory-max: {memory_max!r} is not a size such as 6G or 80%")


def _program() -> list[str]:
    """Return the command that starts this installation."""
    script = shutil.which("offgrid", path=sysconfig.get_path("scripts"))
    return [script] if script else [sys.executable, "-m", "offgrid"]


def _namespaces_allowed() -> bool:
    """Whether services of a user may have a separate view of the file system."""
    for name in ("kernel/unprivileged_userns_clone", "user/max_user_namespaces"):
        try:
            if Path("/proc/sys", name).read_text().strip() == "0":
                return False
        except OSError:  # this kernel has no such switch
            continue
    return True


def _need_systemd() -> None:
    if _RUNNING.exists() and shutil.which("systemctl"):
        return
    if sys.platform == "darwin":
        fail(
            "macOS has launchd: 'offgrid service install --print' prints the file for it, and "
            "docs/SERVICE.md says where it belongs",
            1,
        )
    fail(
        "systemd does not run here, so there is no service to manage; 'offgrid service install "
        "--print' prints the unit file, and docs/SERVICE.md describes other systems",
        1,
    )


def _unit_path(system: bool) -> Path:
    if system:
        return _SYSTEM_UNITS / f"{NAME}.service"
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "systemd" / "user" / f"{NAME}.service"


def _refuse_foreign(path: Path) -> None:
    """Refuse to change a file that this program has not written."""
    try:
        is_ours = not os.path.lexists(path) or path.read_text().startswith(MARK)
    except (OSError, UnicodeDecodeError):
        is_ours = False
    if not is_ours:
        fail(f"{path}: somebody else has written this file; move it away, and try again", 1)


def _not_permitted(path: Path, ex: OSError) -> NoReturn:
    more = "; a service of the system needs root, --user does not" if ex.errno in (1, 13) else ""
    fail(f"{path}: {ex.strerror or ex}{more}", 1)


def _tool(system: bool) -> list[str]:
    return ["systemctl", *([] if system else ["--user"])]


def _systemctl(system: bool, *words: str) -> None:
    command = [*_tool(system), *words]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        said = ended.stderr.strip() or f"status {ended.returncode}"
        fail(f"'{' '.join(command)}' failed: {said}", 1)


def _advise(system: bool, now: bool) -> None:
    tool = " ".join(_tool(system))
    if not now:
        click.echo(f"start it:      {tool} start {NAME}")
    click.echo(f"see its log:   journalctl {'' if system else '--user '}-u {NAME}")
    if system:
        click.echo(f"its models:    {STATE / 'models'}")
    else:
        click.echo("without login: loginctl enable-linger")
