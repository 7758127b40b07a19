"""The unit file of systemd. It takes every right from the server that the server does not need.

The options are described in ``systemd.exec(5)`` and ``systemd.service(5)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from offgrid.config import Settings
from offgrid.errors import ConfigError

NAME = "offgrid"
STATE = Path("/var/lib") / NAME
"""Where a system service keeps its data: systemd makes it, and gives it to the service's user."""
MARK = "# Written by 'offgrid service install', which will write it again. For changes of your own:"
_SLACK = 40
"""Seconds beyond ``drain_timeout`` for the end: workers that hang, and prefixes that are saved."""
_WATCHDOG = 60
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_PRIVILEGED_PORTS = range(1, 1024)
_ALWAYS = (
    "NoNewPrivileges=yes",
    "UMask=0077",
    "LimitCORE=0",
    "LockPersonality=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",
    # A call that is not allowed fails, as without permission, and does not end the process.
    "SystemCallErrorNumber=EPERM",
)
_NAMESPACED = (
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
)


@dataclass(frozen=True)
class Service:
    """What is to be started.

    Attributes:
        command: the program and its arguments.
        settings: the settings with which it starts.
        config: its configuration file, if there is one.
        system: whether it is a service of the system, and not of a user.
        run_as: the user of a service of the system; empty for one that systemd makes up.
        memory_max: a limit such as ``6G``, or empty.
        namespaces: whether a service of a user may get a separate view of the file system.
    """

    command: tuple[str, ...]
    settings: Settings
    config: Path | None = None
    system: bool = False
    run_as: str = ""
    memory_max: str = ""
    namespaces: bool = True


def unit_text(service: Service) -> str:
    """Return the unit file.

    Raises:
        ConfigError: a path cannot be written into one.
    """
    settings = service.settings
    if set(service.command[0]) & set("\"'\\"):
        raise ConfigError(
            f"systemd starts no program with quotation marks or backslashes in its path; install "
            f"OffGrid in another folder than {Path(service.command[0]).parent}"
        )
    kill = "/bin/kill -HUP $MAINPID"
    edit = "systemctl edit" if service.system else "systemctl --user edit"
    lines = [
        f"{MARK} {edit} {NAME}",
        "[Unit]",
        "Description=OffGrid LLM, an OpenAI-compatible server for local models",
        "After=network.target",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={_command(service.command)}",
        f"ExecReload={kill}",
        "Restart=on-failure",
        "RestartSec=2",
        # A wrong setting stays wrong.
        "RestartPreventExitStatus=2",
        f"WatchdogSec={_WATCHDOG}",
        f"TimeoutStopSec={round(settings.drain_timeout) + _SLACK}",
        # Only the server gets SIGTERM; it ends its workers when their answers are finished.
        "KillMode=mixed",
        # If memory runs out, the kernel kills a worker, and the server starts another one.
        "OOMPolicy=continue",
    ]
    if service.memory_max:
        lines.append(f"MemoryMax={service.memory_max}")
    if settings.use_mlock:
        lines.append("LimitMEMLOCK=infinity")
    lines += ["", *_user_lines(service), *_capabilities(service), *_ALWAYS]
    if service.system or service.namespaces:
        lines += [*_NAMESPACED, *_file_lines(service)]
        if not settings.gpu_layers:
            lines.append("PrivateDevices=yes")
    target = "multi-user.target" if service.system else "default.target"
    return "\n".join([*lines, "", "[Install]", f"WantedBy={target}", ""])


def _user_lines(service: Service) -> list[str]:
    if not service.system:
        return []
    who = f"User={service.run_as}" if service.run_as else "DynamicUser=yes"
    state = [f"StateDirectory={NAME}", "StateDirectoryMode=0700", f"Environment=HOME={STATE}"]
    return [who, *state, f"WorkingDirectory={STATE}"]


def _capabilities(service: Service) -> list[str]:
    if service.settings.port not in _PRIVILEGED_PORTS:
        return ["CapabilityBoundingSet="] if service.system else []
    wanted = "CAP_NET_BIND_SERVICE"
    return [f"CapabilityBoundingSet={wanted}", f"AmbientCapabilities={wanted}"]


def _file_lines(service: Service) -> list[str]:
    """Return which folders the service may see and write to."""
    settings = service.settings
    writable = _written(settings)
    seen: list[Path] = [*writable, *settings.model_paths, Path(service.command[0])]
    # A relative path is below the service's own folder, or the name of a template.
    named = [Path(path).expanduser() for path in _read(settings) if path]
    seen += [path for path in named if path.is_absolute()]
    if service.config is not None:
        seen.append(service.config)
    if service.system:
        # Defaults in a home belong to the person who installs the service, not to the service.
        own = Path.home() / ".offgrid-llm"
        writable = [path for path in writable if not _is_below(path, (own, STATE))]
        seen = [path for path in seen if not _is_below(path, (own,))]
        hidden = "read-only" if any(_is_below(path, _HOMES) for path in seen) else "yes"
    else:
        hidden = "read-only"
    lines = [f"ProtectHome={hidden}"]
    if writable:
        # "-": a folder that does not exist yet prevents no start.
        paths = " ".join(_word(f"-{path.absolute()}") for path in _unique(writable))
        lines.append(f"ReadWritePaths={paths}")
    return lines


def _written(settings: Settings) -> list[Path]:
    """Return the folders that a server writes to, unless it has no permission."""
    folders = [settings.models_dir, settings.cache_dir, settings.peers_dir]
    files = [settings.responses_file, settings.history_file, settings.keys_file]
    if settings.socket and not settings.socket.startswith("fd:"):  # else systemd makes it
        files.append(Path(settings.socket).expanduser())
    return [*folders, *(path.parent for path in files if path)]


def _read(settings: Settings) -> list[Path | str | None]:
    """Return the files that a server reads besides models and configuration."""
    templates = [settings.chat_template, *(own.chat_template for own in settings.models)]
    return [settings.filter_file, settings.tls_cert, settings.tls_key, *templates]


def writable_folders(service: Service) -> list[Path]:
    """Return the folders that a service of a user may write to, without those below another one.
    A folder that does not exist when the service starts stays closed to it."""
    return _unique(_written(service.settings))


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    places = (path.absolute(), path.resolve())
    return any(place.is_relative_to(folder) for place in places for folder in folders)


def _unique(paths: Iterable[Path]) -> list[Path]:
    """Return each path once, without those below another one."""
    kept: list[Path] = []
    for path in sorted(paths):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def _command(words: Sequence[str]) -> str:
    program, *arguments = words
    # systemd replaces variables in arguments, but not in the path of the program.
    return " ".join([_word(program), *(_word(word).replace("$", "$$") for word in arguments)])


def _word(text: str) -> str:
    """Return a word of a command or a path, such that systemd reads it unchanged."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise ConfigError(f"{text!r} has a character that no unit file can contain; rename it")
    text = text.replace("%", "%%")
    if not set(text) & set(" \"'\\$;"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
