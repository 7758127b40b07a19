"""All settings in one table: name, type, default, range, environment variable, meaning.

Precedence, lowest to highest: the default, the TOML file named by ``OFFGRID_CONFIG`` (or
``--config``), the environment, the command line. A value that does not parse or is out of range
raises :class:`~offgrid.errors.ConfigError`, whose message names the value's source. A test compares
``docs/CONFIGURATION.md`` with this table.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from offgrid.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - depends on the interpreter
    import tomli as tomllib

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        name: the attribute of :class:`Settings`, the key in a configuration file and, with
            dashes, the command-line flag.
        env: the environment variable.
        kind: ``int``, ``float``, ``bool``, ``str``, ``path``, ``list`` (comma-separated) or ``map``
            (comma-separated ``name=value``).
        default: the value if the setting is not set.
        meaning: one or two sentences for the reference page and ``--help``.
        low: smallest allowed number, or None.
        high: largest allowed number, or None.
        choices: the allowed words, or empty for any.
        flag: the command-line spelling if it differs from the name.
    """

    name: str
    env: str
    kind: str
    default: Any
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    flag: str = ""

    @property
    def option(self) -> str:
        """The command-line flag."""
        return "--" + (self.flag or self.name).replace("_", "-")

    def parse(self, value: Any, source: str) -> Any:
        """Convert ``value`` (a string, or a native value from a file) and check its range.

        Raises:
            ConfigError: the message names ``source``, the value and the allowed values.
        """
        try:
            parsed = _CONVERTERS[self.kind](value)
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{source}: {value!r} is not {_KIND_WORDS[self.kind]}") from None
        if self.choices and parsed not in self.choices:
            raise ConfigError(f"{source}: {value!r} is not one of {', '.join(self.choices)}")
        # Only numbers have a range in the table.
        number: Any = parsed
        if self.low is not None and number < self.low:
            raise ConfigError(f"{source}: {value} is too small; the minimum is {self.low}")
        if self.high is not None and number > self.high:
            raise ConfigError(f"{source}: {value} is too large; the maximum is {self.high}")
        return parsed


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip()


def _to_path(value: Any) -> Path:
    return Path(_to_str(value) if not isinstance(value, Path) else value).expanduser()


def _to_list(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise TypeError
    return tuple(word for word in (_to_str(item) for item in items) if word)


def _to_map(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        pairs = [(_to_str(name), _to_str(meant)) for name, meant in value.items()]
    elif isinstance(value, (list, tuple)):  # pairs, as this function returns them
        pairs = [(_to_str(name), _to_str(meant)) for name, meant in value]
    else:
        words = [word.partition("=") for word in _to_list(value)]
        pairs = [(name.strip(), meant.strip()) for name, _, meant in words]
    if not all(name and meant for name, meant in pairs) or len(dict(pairs)) < len(pairs):
        raise ValueError
    return tuple(pairs)


_CONVERTERS = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "str": _to_str,
    "path": _to_path,
    "list": _to_list,
    "map": _to_map,
}
_KIND_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false (1, t, true, yes, on; 0, f, false, no, off)",
    "str": "text",
    "path": "a path",
    "list": "a comma-separated list",
    "map": "a comma-separated list of name=value, each name once",
}


MAX_SEQUENCES = 4096
"""Sequences that may run or wait at once, over all models. Each may be a request, which holds a
thread."""


def default_models_dir() -> Path:
    """Return ``/var/lib/offgrid/models`` if it is a readable folder, else a folder in the home."""
    shared = Path("/var/lib/offgrid/models")
    if shared.is_dir() and os.access(shared, os.R_OK | os.X_OK):
        return shared
    return Path("~/.offgrid-llm/models").expanduser()


def default_responses_file() -> Path:
    """Return a file in the home, because conversations, unlike models, are private."""
    return Path("~/.offgrid-llm/responses.sqlite3").expanduser()


TABLE: tuple[Setting, ...] = (
    Setting(
        "host",
        "OFFGRID_HOST",
        "str",
        "127.0.0.1",
        "Address to listen on. Any address other than this machine's loopback also needs "
        "allow_remote.",
    ),
    Setting(
        "port",
        "OFFGRID_PORT",
        "int",
        11611,
        "TCP port to listen on. 0 picks a free port, which is printed at start.",
        low=0,
        high=65535,
    ),
    Setting(
        "allow_remote",
        "OFFGRID_ALLOW_REMOTE",
        "bool",
        False,
        "Accept connections from other machines even though the server has no authentication. "
        "Only for a network you trust.",
    ),
    Setting(
        "allowed_hosts",
        "OFFGRID_ALLOWED_HOSTS",
        "list",
        (),
        "Further names, comma-separated, that a request's Host header may contain. Loopback "
        "names and the value of host are always allowed, and with allow_remote every IP address. "
        "All others are refused, which prevents DNS rebinding.",
    ),
    Setting(
        "cors_origins",
        "OFFGRID_CORS_ORIGINS",
        "list",
        (),
        "Web origins (scheme://host:port), comma-separated, whose pages may call the API. "
        "Pages of any other origin are refused.",
    ),
    Setting(
        "models_dir",
        "OFFGRID_MODELS_DIR",
        "path",
        None,
        "Folder of GGUF files, searched with its subfolders. If this setting is given, the folder "
        "must exist and contain a model. If it is not given and its default contains no model, "
        "the bundled starter model is served.",
    ),
    Setting(
        "default_model",
        "OFFGRID_DEFAULT_MODEL",
        "str",
        "",
        "Model to load at start, and to answer requests that name none: an id from the models "
        "directory, or the path of a GGUF file in any folder.",
        flag="model",
    ),
    Setting(
        "model_aliases",
        "OFFGRID_MODEL_ALIASES",
        "map",
        (),
        "Further names of models, as name=id, comma-separated. A request may use the name instead "
        "of the id.",
    ),
    Setting(
        "chat_template",
        "OFFGRID_CHAT_TEMPLATE",
        "str",
        "",
        "Chat template of the default model, instead of the one in its file: the path of a Jinja "
        "file, or chatml.",
    ),
    Setting(
        "max_models",
        "OFFGRID_MAX_MODELS",
        "int",
        3,
        "Maximum number of models loaded at the same time. The least recently used idle model "
        "is unloaded to make room for another.",
        low=1,
        high=64,
    ),
    Setting(
        "parallel",
        "OFFGRID_PARALLEL",
        "int",
        4,
        "Slots of each model: the number of sequences that it generates at the same time. Each "
        "slot has its own context in memory.",
        low=1,
        high=256,
    ),
    Setting(
        "ctx_size",
        "OFFGRID_MAX_CONTEXT",
        "int",
        4096,
        "Context length of a slot in tokens, prompt plus answer. 0 means the length that the "
        "model was trained with, which is also the maximum.",
        low=0,
        high=1 << 22,
    ),
    Setting(
        "batch_size",
        "OFFGRID_BATCH_SIZE",
        "int",
        512,
        "Maximum number of tokens in one decode call.",
        low=32,
        high=8192,
    ),
    Setting(
        "threads",
        "OFFGRID_NUM_THREADS",
        "int",
        0,
        "Number of threads that llama.cpp computes with. 0 means one per physical core.",
        low=0,
        high=1024,
    ),
    Setting(
        "gpu_layers",
        "OFFGRID_GPU_LAYERS",
        "int",
        0,
        "Number of the model's layers to put on a GPU, if llama.cpp was built for one. -1 "
        "means all.",
        low=-1,
        high=100000,
    ),
    Setting(
        "use_mmap",
        "OFFGRID_USE_MMAP",
        "bool",
        True,
        "Map the model file into memory instead of reading it. Turn this off for files on "
        "removable media.",
    ),
    Setting(
        "use_mlock",
        "OFFGRID_USE_MLOCK",
        "bool",
        False,
        "Lock the model in memory so that it is never swapped out.",
    ),
    Setting(
        "open_objects",
        "OFFGRID_OPEN_OBJECTS",
        "bool",
        False,
        "Let objects have members that their JSON schema does not describe, as the standard says. "
        "By default only a schema with additionalProperties allows them.",
    ),
    Setting(
        "queue_size",
        "OFFGRID_QUEUE_SIZE",
        "int",
        16,
        "Maximum number of sequences that wait for a slot of one model. Further requests "
        "immediately get 503 with Retry-After.",
        low=0,
        high=1024,
    ),
    Setting(
        "queue_timeout",
        "OFFGRID_QUEUE_TIMEOUT",
        "float",
        0.0,
        "Seconds that a sequence may wait for a slot before its request gets 503. 0 means as "
        "long as the client stays connected.",
        low=0,
        high=86400,
    ),
    Setting(
        "load_timeout",
        "OFFGRID_MODEL_LOAD_TIMEOUT",
        "float",
        300.0,
        "Seconds that loading a model may take.",
        low=1,
        high=86400,
    ),
    Setting(
        "stall_timeout",
        "OFFGRID_STALL_TIMEOUT",
        "float",
        120.0,
        "Seconds that one step of a worker may take before the worker counts as stuck and is "
        "restarted.",
        low=1,
        high=86400,
    ),
    Setting(
        "drain_timeout",
        "OFFGRID_DRAIN_TIMEOUT",
        "float",
        30.0,
        "Seconds that running requests have to finish after Ctrl-C or SIGTERM.",
        low=0,
        high=86400,
    ),
    Setting(
        "sse_ping_interval",
        "OFFGRID_SSE_PING_INTERVAL",
        "float",
        10.0,
        "Seconds without data after which a comment line is sent to keep a stream's connection "
        "open. 0 turns this off.",
        low=0,
        high=3600,
    ),
    Setting(
        "max_body_mb",
        "OFFGRID_MAX_BODY_MB",
        "int",
        8,
        "Maximum size of a request body in MiB. A larger body gets 413.",
        low=1,
        high=1024,
    ),
    Setting(
        "unknown_fields",
        "OFFGRID_UNKNOWN_FIELDS",
        "str",
        "refuse",
        "What happens to a request with a field that this server does not know: refuse returns 400 "
        "and names the field; ignore accepts it, and names it in the response header "
        "x-offgrid-ignored and in the log.",
        choices=("refuse", "ignore"),
    ),
    Setting(
        "max_responses",
        "OFFGRID_MAX_RESPONSES",
        "int",
        10000,
        "Maximum number of responses and conversations that are stored. The least recently used "
        "are deleted first. 0 disables storage.",
        low=0,
        high=1000000,
    ),
    Setting(
        "max_responses_mb",
        "OFFGRID_MAX_RESPONSES_MB",
        "int",
        1024,
        "Maximum size of the stored responses and conversations with their items, in MiB.",
        low=1,
        high=1 << 20,
    ),
    Setting(
        "responses_file",
        "OFFGRID_RESPONSES_FILE",
        "path",
        None,
        "SQLite file for stored responses and conversations, created on first use.",
    ),
    Setting(
        "log_level",
        "OFFGRID_LOG_LEVEL",
        "str",
        "info",
        "Least severe level of the messages logged to standard error. debug includes "
        "llama.cpp's own lines.",
        choices=("debug", "info", "warning", "error"),
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force. Its fields are the rows of :data:`TABLE`, in order, and two more."""

    host: str
    port: int
    allow_remote: bool
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    models_dir: Path
    default_model: str
    model_aliases: tuple[tuple[str, str], ...]
    chat_template: str
    max_models: int
    parallel: int
    ctx_size: int
    batch_size: int
    threads: int
    gpu_layers: int
    use_mmap: bool
    use_mlock: bool
    open_objects: bool
    queue_size: int
    queue_timeout: float
    load_timeout: float
    stall_timeout: float
    drain_timeout: float
    sse_ping_interval: float
    max_body_mb: int
    unknown_fields: str
    max_responses: int
    max_responses_mb: int
    responses_file: Path
    log_level: str
    models_dir_source: str = ""
    """Where ``models_dir`` was set, in words for messages; empty if it has its default value."""
    model_paths: tuple[Path, ...] = ()
    """Files and folders of models that were given to ``offgrid serve`` without a flag."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
    model_paths: Iterable[Path] = (),
) -> Settings:
    """Merge default, file, environment and flags into one checked :class:`Settings`.

    Args:
        flags: values by setting name; ``None`` means not given.
        environ: the environment; ``os.environ`` if omitted.
        config_file: a TOML file; ``OFFGRID_CONFIG`` of ``environ`` if omitted.
        model_paths: files and folders of models, in addition to the settings.

    Raises:
        ConfigError: a value does not parse or is out of range, an unknown ``OFFGRID_*`` variable
            or file key is set, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    flags = flags or {}
    values: dict[str, Any] = {setting.name: setting.default for setting in TABLE}
    values["models_dir"] = default_models_dir()
    values["responses_file"] = default_responses_file()
    file_values = _read_file(config_file or environ.get("OFFGRID_CONFIG") or None)
    _refuse_unknown_variables(environ)
    source_of: dict[str, str] = {}
    for setting in TABLE:
        given = []
        if setting.name in file_values:
            given.append(file_values[setting.name])
        if environ.get(setting.env, "") != "":
            given.append((environ[setting.env], setting.env))
        if flags.get(setting.name) is not None:
            given.append((flags[setting.name], setting.option))
        for value, source in given:  # each is checked, the last one is in force
            values[setting.name] = setting.parse(value, source)
            source_of[setting.name] = source
    settings = Settings(
        **values, models_dir_source=source_of.get("models_dir", ""), model_paths=tuple(model_paths)
    )
    sequences = (settings.parallel + settings.queue_size) * settings.max_models
    if sequences > MAX_SEQUENCES:
        raise ConfigError(
            "OFFGRID_PARALLEL (--parallel) plus OFFGRID_QUEUE_SIZE (--queue-size), times "
            f"OFFGRID_MAX_MODELS (--max-models), allows {sequences} open requests; the maximum is "
            f"{MAX_SEQUENCES}. Lower one of the three."
        )
    if not is_loopback(settings.host) and not settings.allow_remote:
        raise ConfigError(
            f"OFFGRID_HOST (--host): {settings.host!r} would let other machines use this server "
            "without authentication. Listen on 127.0.0.1, or set OFFGRID_ALLOW_REMOTE=true "
            "(--allow-remote) if you trust everyone on that network."
        )
    return settings


def _read_file(path: str | Path | None) -> dict[str, tuple[Any, str]]:
    """Return setting name -> (value, source) of a TOML file; empty if there is no file."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as ex:
        raise ConfigError(f"OFFGRID_CONFIG (--config): cannot read {path}: {ex}") from ex
    except ValueError:  # Python refuses to convert thousands of digits.
        raise ConfigError(
            f"OFFGRID_CONFIG (--config): cannot read {path}: a number is too long"
        ) from None
    known = {setting.name for setting in TABLE}
    unknown = sorted(set(content) - known)
    if unknown:
        raise ConfigError(
            f"{path}: unknown setting {', '.join(unknown)}; offgrid serve --help lists all settings"
        )
    return {name: (value, f"{path}: {name}") for name, value in content.items()}


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """Refuse unknown ``OFFGRID_*`` variables, so that a misspelt one is not silently ignored."""
    known = {setting.env for setting in TABLE} | OTHER_VARIABLES
    for name in sorted(environ):
        if name.startswith("OFFGRID_") and name not in known:
            raise ConfigError(
                f"{name} is not a setting of OffGrid; offgrid serve --help lists all settings"
            )


OTHER_VARIABLES = frozenset({"OFFGRID_CONFIG"})
"""``OFFGRID_*`` names that are not rows of the table: the path of the configuration file."""

assert [field.name for field in fields(Settings)][: len(TABLE)] == [row.name for row in TABLE]
