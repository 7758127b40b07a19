"""All settings in one table: name, type, default, range, environment variable, meaning.

A value comes from, weakest first: the default, the TOML file named by ``OFFGRID_CONFIG`` (or
``--config``), the environment, the command line. A value that does not parse or is out of range
is a :class:`~offgrid.errors.ConfigError` that names where it came from; nothing falls back in
silence. ``docs/CONFIGURATION.md`` is held against this table by a test.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
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
        kind: ``int``, ``float``, ``bool``, ``str``, ``path`` or ``list`` (comma-separated).
        default: the value when nobody sets it.
        meaning: one or two sentences for the reference page and ``--help``.
        low: smallest allowed number, or None.
        high: largest allowed number, or None.
        choices: the allowed words, or empty for any.
        flag: the spelling on the command line when it differs from the name.
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
            ConfigError: names ``source``, the value and what would be right.
        """
        try:
            parsed = _CONVERTERS[self.kind](value)
        except (ValueError, TypeError):
            raise ConfigError(f"{source}: {value!r} is not {_KIND_WORDS[self.kind]}") from None
        if self.choices and parsed not in self.choices:
            raise ConfigError(f"{source}: {value!r} is not one of {', '.join(self.choices)}")
        # Only numbers have a range in the table.
        number: Any = parsed
        if self.low is not None and number < self.low:
            raise ConfigError(f"{source}: {value} is less than {self.low:g}")
        if self.high is not None and number > self.high:
            raise ConfigError(f"{source}: {value} is more than {self.high:g}")
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


_CONVERTERS = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "str": _to_str,
    "path": _to_path,
    "list": _to_list,
}
_KIND_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false (1, t, true, yes, on; 0, f, false, no, off)",
    "str": "text",
    "path": "a path",
    "list": "a comma-separated list",
}


MAX_SEQUENCES = 4096
"""Requests that may run or wait at once, all models together: each holds a thread."""


def default_models_dir() -> Path:
    """``/var/lib/offgrid/models`` where a system-wide one is readable, else one in the home."""
    shared = Path("/var/lib/offgrid/models")
    if shared.is_dir() and os.access(shared, os.R_OK | os.X_OK):
        return shared
    return Path("~/.offgrid-llm/models").expanduser()


def default_responses_file() -> Path:
    """In the home: unlike models, conversations are nobody else's."""
    return Path("~/.offgrid-llm/responses.sqlite3").expanduser()


TABLE: tuple[Setting, ...] = (
    Setting(
        "host",
        "OFFGRID_HOST",
        "str",
        "127.0.0.1",
        "Address to listen on. Anything but this machine's loopback also needs allow_remote.",
    ),
    Setting(
        "port",
        "OFFGRID_PORT",
        "int",
        11611,
        "TCP port to listen on; 0 takes a free one and the banner names it.",
        low=0,
        high=65535,
    ),
    Setting(
        "allow_remote",
        "OFFGRID_ALLOW_REMOTE",
        "bool",
        False,
        "Serve other machines although no key protects the server. Only for a network you trust.",
    ),
    Setting(
        "allowed_hosts",
        "OFFGRID_ALLOWED_HOSTS",
        "list",
        (),
        "More names that a request's Host header may carry, comma-separated. Loopback names and "
        "the address listened on are always allowed; others are refused (DNS rebinding).",
    ),
    Setting(
        "cors_origins",
        "OFFGRID_CORS_ORIGINS",
        "list",
        (),
        "Web origins (scheme://host:port) whose pages may call the API, comma-separated. "
        "Pages of any other origin are refused.",
    ),
    Setting(
        "models_dir",
        "OFFGRID_MODELS_DIR",
        "path",
        None,
        "Folder of GGUF files, subfolders included. When it holds none, the bundled starter "
        "model is served.",
    ),
    Setting(
        "default_model",
        "OFFGRID_DEFAULT_MODEL",
        "str",
        "",
        "Model to load at start: an id of the models directory, or the path of a GGUF file, "
        "which is then served in place.",
        flag="model",
    ),
    Setting(
        "max_models",
        "OFFGRID_MAX_MODELS",
        "int",
        3,
        "Models kept loaded at once; the least recently used idle one makes room for another.",
        low=1,
        high=64,
    ),
    Setting(
        "parallel",
        "OFFGRID_PARALLEL",
        "int",
        4,
        "Slots: sequences that one model generates at once. Each has a context of its own in "
        "memory.",
        low=1,
        high=256,
    ),
    Setting(
        "ctx_size",
        "OFFGRID_MAX_CONTEXT",
        "int",
        4096,
        "Context of one sequence in tokens, prompt plus answer. 0 takes what the model was "
        "trained with; more than that is cut down to it.",
        low=0,
        high=1 << 22,
    ),
    Setting(
        "batch_size",
        "OFFGRID_BATCH_SIZE",
        "int",
        512,
        "Most tokens that one decode call computes.",
        low=32,
        high=8192,
    ),
    Setting(
        "threads",
        "OFFGRID_NUM_THREADS",
        "int",
        0,
        "Threads that llama.cpp computes with; 0 takes one per physical core.",
        low=0,
        high=1024,
    ),
    Setting(
        "gpu_layers",
        "OFFGRID_GPU_LAYERS",
        "int",
        0,
        "Layers of the model that are put on a GPU, where llama.cpp was built for one; "
        "-1 takes all.",
        low=-1,
        high=100000,
    ),
    Setting(
        "use_mmap",
        "OFFGRID_USE_MMAP",
        "bool",
        True,
        "Map the model file into memory instead of reading it. Turn it off for files on "
        "removable media.",
    ),
    Setting(
        "use_mlock",
        "OFFGRID_USE_MLOCK",
        "bool",
        False,
        "Keep the model in memory, never swapped out.",
    ),
    Setting(
        "queue_size",
        "OFFGRID_QUEUE_SIZE",
        "int",
        16,
        "Sequences that may wait for a slot; more are answered 503 with Retry-After at once.",
        low=0,
        high=1024,
    ),
    Setting(
        "queue_timeout",
        "OFFGRID_QUEUE_TIMEOUT",
        "float",
        0.0,
        "Seconds that a sequence may wait for a slot before it is answered 503; 0: as long as its client does.",
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
        "Seconds that one step of the engine may take before the worker is counted as stuck and "
        "started again.",
        low=1,
        high=86400,
    ),
    Setting(
        "drain_timeout",
        "OFFGRID_DRAIN_TIMEOUT",
        "float",
        30.0,
        "Seconds that running answers get to finish after Ctrl-C or SIGTERM.",
        low=0,
        high=86400,
    ),
    Setting(
        "sse_ping_interval",
        "OFFGRID_SSE_PING_INTERVAL",
        "float",
        10.0,
        "Seconds of silence in a stream after which a comment line keeps the connection open; "
        "0 sends none.",
        low=0,
        high=3600,
    ),
    Setting(
        "max_body_mb",
        "OFFGRID_MAX_BODY_MB",
        "int",
        8,
        "Largest request body in MiB; a larger one is answered 413.",
        low=1,
        high=1024,
    ),
    Setting(
        "max_responses",
        "OFFGRID_MAX_RESPONSES",
        "int",
        10000,
        "Answers of /v1/responses that are kept for previous_response_id; those not used for longest "
        "go first. 0 keeps none.",
        low=0,
        high=1000000,
    ),
    Setting(
        "max_responses_mb",
        "OFFGRID_MAX_RESPONSES_MB",
        "int",
        1024,
        "MiB that these may take, with what they answer.",
        low=1,
        high=1 << 20,
    ),
    Setting(
        "responses_file",
        "OFFGRID_RESPONSES_FILE",
        "path",
        None,
        "SQLite file that they are kept in; made when it is first needed.",
    ),
    Setting(
        "log_level",
        "OFFGRID_LOG_LEVEL",
        "str",
        "info",
        "How much is logged to standard error; debug includes llama.cpp's own lines.",
        choices=("debug", "info", "warning", "error"),
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force. Field for field the rows of :data:`TABLE`."""

    host: str
    port: int
    allow_remote: bool
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    models_dir: Path
    default_model: str
    max_models: int
    parallel: int
    ctx_size: int
    batch_size: int
    threads: int
    gpu_layers: int
    use_mmap: bool
    use_mlock: bool
    queue_size: int
    queue_timeout: float
    load_timeout: float
    stall_timeout: float
    drain_timeout: float
    sse_ping_interval: float
    max_body_mb: int
    max_responses: int
    max_responses_mb: int
    responses_file: Path
    log_level: str


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
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
) -> Settings:
    """Merge default, file, environment and flags into one checked :class:`Settings`.

    Args:
        flags: values by setting name; ``None`` values count as not given.
        environ: the environment; ``os.environ`` when omitted.
        config_file: a TOML file; ``OFFGRID_CONFIG`` of ``environ`` when omitted.

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
    for setting in TABLE:
        if setting.name in file_values:
            value, source = file_values[setting.name]
            values[setting.name] = setting.parse(value, source)
        if environ.get(setting.env, "") != "":
            values[setting.name] = setting.parse(environ[setting.env], setting.env)
        if flags.get(setting.name) is not None:
            values[setting.name] = setting.parse(flags[setting.name], setting.option)
    settings = Settings(**values)
    sequences = (settings.parallel + settings.queue_size) * settings.max_models
    if sequences > MAX_SEQUENCES:
        raise ConfigError(
            "OFFGRID_PARALLEL (--parallel) plus OFFGRID_QUEUE_SIZE (--queue-size), times "
            f"OFFGRID_MAX_MODELS (--max-models), are {sequences} requests that may be open at "
            f"once; at most {MAX_SEQUENCES} can be."
        )
    if not is_loopback(settings.host) and not settings.allow_remote:
        raise ConfigError(
            f"OFFGRID_HOST (--host): {settings.host!r} would let other machines use this server "
            "without any key. Listen on 127.0.0.1, or set OFFGRID_ALLOW_REMOTE=true "
            "(--allow-remote) if you trust everyone on that network."
        )
    return settings


def _read_file(path: str | Path | None) -> dict[str, tuple[Any, str]]:
    """Return setting name -> (value, source) of a TOML file; empty when there is none."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as ex:
        raise ConfigError(f"OFFGRID_CONFIG (--config): cannot read {path}: {ex}") from ex
    known = {setting.name for setting in TABLE}
    unknown = sorted(set(content) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown setting {', '.join(unknown)}")
    return {name: (value, f"{path}: {name}") for name, value in content.items()}


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """A misspelt variable is an error, not a default in silence."""
    known = {setting.env for setting in TABLE} | OTHER_VARIABLES
    for name in sorted(environ):
        if name.startswith("OFFGRID_") and name not in known:
            raise ConfigError(f"{name} is no setting of OffGrid; docs/CONFIGURATION.md lists all")


OTHER_VARIABLES = frozenset({"OFFGRID_CONFIG"})
"""``OFFGRID_*`` names that are not rows of the table: the file itself."""

assert [field.name for field in fields(Settings)] == [setting.name for setting in TABLE]
