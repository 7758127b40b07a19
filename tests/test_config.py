"""Settings: their sources, refused values, and their rows in the reference page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offgrid.api.http.gate import places
from offgrid.api.http.machines import check_address
from offgrid.config import (
    MAX_REQUESTS,
    OTHER_VARIABLES,
    TABLE,
    default_config_file,
    flag_of,
    load_settings,
    resolve,
    variable_of,
)
from offgrid.errors import ConfigError

PAGE = Path(__file__).parent.parent / "docs" / "CONFIGURATION.md"


def shown_default(default: object) -> str:
    if default in (None, "", ()):
        return "none"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_the_page_lists_every_setting() -> None:
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 7 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells
    assert list(rows) == [setting.name for setting in TABLE]
    for setting in TABLE:
        _, env, option, kind, default, limits, meaning = rows[setting.name]
        assert (env, option, kind) == (f"`{setting.env}`", f"`{setting.option}`", setting.kind)
        assert meaning == setting.meaning
        if setting.name not in (
            "keys_file",
            "peers_dir",
            "models_dir",
            "responses_file",
            "history_file",
            "cache_dir",
        ):
            assert default == shown_default(setting.default)
        assert limits == (setting.limits or "-")


def test_the_page_lists_the_older_names() -> None:
    page = PAGE.read_text(encoding="utf-8").split("\n## Older names\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", page, re.MULTILINE)
    assert rows == [(row.name, alias) for row in TABLE for alias in row.aliases]


def test_the_page_lists_the_other_variables() -> None:
    assert set(re.findall(r"^\| `(OFFGRID_\w+)`", PAGE.read_text(), re.MULTILINE)) == set(
        OTHER_VARIABLES
    )


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text('parallel = 2\nthreads = 3\ncors_origins = ["http://a"]\n')
    environ = {"OFFGRID_CONFIG": str(file), "OFFGRID_PARALLEL": "5", "OFFGRID_PORT": ""}
    settings = load_settings({"ctx_size": "1024", "threads": None}, environ)
    assert (settings.parallel, settings.threads, settings.ctx_size) == (5, 3, 1024)
    assert settings.cors_origins == ("http://a",)
    assert settings.port == 11611
    assert load_settings({"parallel": 7}, environ).parallel == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OFFGRID_PORT", "x"), ("OFFGRID_PORT", "70000"), ("OFFGRID_PORT", "-1"),
        ("OFFGRID_PARALLEL", "0"), ("OFFGRID_USE_MMAP", "perhaps"), ("OFFGRID_LOG_LEVEL", "loud"),
        ("OFFGRID_LOAD_TIMEOUT", "0.5"), ("OFFGRID_MODEL_LOAD_TIMEOUT", "nan"),
        ("OFFGRID_CORS_ORIGINS", "*"), ("OFFGRID_CORS_ORIGINS", "app.example"),
        ("OFFGRID_TRUSTED_PROXIES", "*"), ("OFFGRID_TLS_KEY", "key.pem"),
        ("OFFGRID_CONFIG", "/no/such/file.toml"),
        ("OFFGRID_PARALEL", "4"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings(environ={name: value})


def test_a_wrong_flag_and_a_wrong_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--ctx-size"):
        load_settings({"ctx_size": "many"}, environ={})
    file = tmp_path / "offgrid.toml"
    for content, named in (
        ("paralel = 1", "paralel"), ("port = 1.5", "port"), ("x = [", "read"),
        ("drain_timeout = 1" + "0" * 400, "drain_timeout"), ("port = 1" + "0" * 5000, "too long"),
    ):  # fmt: skip
        file.write_text(content)
        with pytest.raises(ConfigError, match=named):
            load_settings(environ={}, config_file=file)


def test_remote_hosts_need_explicit_permission(tmp_path: Path) -> None:
    """E5. Keys are the other permission, so settings alone cannot tell."""
    for name in ("insecure", "allow_remote"):
        check_address(load_settings({"host": "0.0.0.0", name: "yes"}, environ={}), "0.0.0.0")
    settings = load_settings({"keys_file": tmp_path / "keys.sqlite3"}, environ={})
    for host in ("::1", "127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST"):
        check_address(settings, host)
    for host in ("0.0.0.0", "::", "192.0.2.1", "a.example", "localhost.evil.example", ""):
        with pytest.raises(ConfigError, match=r"offgrid keys create.*--insecure"):
            check_address(settings, host)


def test_more_open_requests_than_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"OFFGRID_QUEUE_SIZE \(--queue-size\)"):
        load_settings({"parallel": 256, "queue_size": 1024, "max_models": 4}, environ={})
    load_settings({"parallel": 256, "queue_size": 1024, "max_models": 3}, environ={})


def test_two_files_of_data_are_not_one(tmp_path: Path) -> None:
    file = tmp_path / "all.sqlite3"
    with pytest.raises(ConfigError, match=r"RESPONSES_FILE .* and OFFGRID_KEYS_FILE .* two"):
        load_settings({"responses_file": file, "keys_file": file}, environ={})
    with pytest.raises(ConfigError, match="--history-file"):
        load_settings({"responses_file": tmp_path / "history.sqlite3"}, environ={})


def test_the_gate_admits_no_more_requests_than_the_maximum() -> None:
    """Its places for further clients count too: each request holds a thread."""
    flags = {"parallel": 256, "max_models": 4}
    settings = load_settings({**flags, "queue_size": 766}, environ={})
    assert places(settings) == MAX_REQUESTS
    with pytest.raises(ConfigError, match=r"allows 5125 open requests.*the maximum is 5120"):
        load_settings({**flags, "queue_size": 767}, environ={})


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("default_model", "a", "a"), ("max_context", "8k", 8192), ("num_threads", "3", 3),
        ("model_load_timeout", "5m", 300.0), ("n_gpu_layers", "all", -1),
        ("flash_attn", "off", "off"), ("cache_type_k", "q4_0", "q4_0"),
        ("cache_type_v", "q8_0", "q8_0"), ("allow_remote", "yes", True),
    ],
)  # fmt: skip
def test_older_names_work_everywhere(tmp_path: Path, name: str, value: str, parsed: object) -> None:
    setting = next(row for row in TABLE if name in row.aliases)
    file = tmp_path / "offgrid.toml"
    file.write_text(f'{name} = "{value}"\n')
    for given, source in (
        (resolve(environ={}, config_file=file), f"{file}: {name}"),
        (resolve(environ={variable_of(name): value}), variable_of(name)),
        (resolve({name: value}, environ={}), setting.option),
    ):
        assert getattr(given.settings, setting.name) == parsed
        assert given.sources == {setting.name: source}


def test_one_setting_under_two_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="OFFGRID_MAX_CONTEXT and OFFGRID_CTX_SIZE are the same"):
        load_settings(environ={"OFFGRID_CTX_SIZE": "1", "OFFGRID_MAX_CONTEXT": "1"})
    file = tmp_path / "offgrid.toml"
    file.write_text("ctx_size = 1\nmax_context = 1\n")
    with pytest.raises(ConfigError, match=r"max_context and .*ctx_size are the same"):
        load_settings(environ={}, config_file=file)
    # The file and the environment are different places.
    file.write_text("max_context = 1\n")
    later = {"OFFGRID_CTX_SIZE": "2", "OFFGRID_CONFIG": str(file)}
    assert load_settings(environ=later).ctx_size == 2


def test_no_name_has_two_meanings() -> None:
    names = [name for setting in TABLE for name in setting.names]
    assert len(set(names)) == len(names)
    flags = [setting.short for setting in TABLE if setting.short]
    assert sorted(flags) == ["-c", "-ctk", "-ctv", "-fa", "-m", "-ngl", "-np", "-p"]
    assert flag_of("ctx_size") == "--ctx-size"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("OFFGRID_PARALEL", "did you mean OFFGRID_PARALLEL?"),
        ("OFFGRID_CTXSIZE", "did you mean OFFGRID_CTX_SIZE?"),
        ("OFFGRID_CONFIGS", "did you mean OFFGRID_CONFIG?"),
        ("OFFGRID_XYZZY", "offgrid config show lists all settings"),
    ],
)
def test_an_unknown_variable_gets_a_suggestion(wrong: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={wrong: "1"})
    assert str(caught.value) == f"{wrong} is not a setting of OffGrid; {hint}"


def test_an_unknown_key_gets_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    for key, hint in (
        ("ctx-size", "did you mean ctx_size?"), ("PORT", "did you mean port?"),
        ("xyzzy", "offgrid config show lists all settings"),
    ):  # fmt: skip
        file.write_text(f"{key} = 1\n")
        with pytest.raises(ConfigError) as caught:
            load_settings(environ={}, config_file=file)
        assert str(caught.value) == f"{file}: unknown setting {key}; {hint}"


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ctx_size", "8k", 8192), ("ctx_size", "8K", 8192), ("ctx_size", "1M", 1 << 20),
        ("ctx_size", "1.5k", 1536), ("ctx_size", "8_000", 8000), ("ctx_size", 640, 640),
        ("gpu_layers", "all", -1), ("gpu_layers", "ALL", -1), ("gpu_layers", "12", 12),
        ("threads", "auto", 0), ("max_body_mb", "32", 32), ("max_body_mb", "1G", 1024),
        ("max_body_mb", "1GiB", 1024), ("max_body_mb", "1GB", 953), ("max_body_mb", "512 m", 512),
        ("load_timeout", "90", 90.0), ("load_timeout", "5m", 300.0), ("load_timeout", 2.5, 2.5),
        ("load_timeout", "1h30m", 5400.0), ("queue_timeout", "500ms", 0.5),
        ("drain_timeout", "1d", 86400.0),
    ],
)  # fmt: skip
def test_values_may_have_units(name: str, text: object, value: object) -> None:
    assert getattr(load_settings({name: text}, environ={}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ctx_size", "k"), ("ctx_size", "8kk"), ("ctx_size", "0.3k"), ("ctx_size", "8 tokens"),
        ("ctx_size", True), ("gpu_layers", "most"), ("max_body_mb", "8X"), ("max_body_mb", "1k"),
        ("max_body_mb", "1.5"), ("load_timeout", "5x"), ("load_timeout", "5m 3"),
        ("load_timeout", "-5m"), ("load_timeout", "1..5m"), ("load_timeout", "inf"), ("port", "8k"),
    ],
)  # fmt: skip
def test_wrong_units_are_refused(name: str, text: object) -> None:
    with pytest.raises(ConfigError, match=f"^{flag_of(name)}: {text!r} is not a"):
        load_settings({name: text}, environ={})


# --- the file -------------------------------------------------------------------------------------


def test_the_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("APPDATA", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve().file is None
    file = default_config_file()
    file.parent.mkdir(parents=True)
    file.write_text("parallel = 2\n")
    assert file.is_relative_to(tmp_path)
    assert resolve().file == file
    assert load_settings().parallel == 2
    assert load_settings(config_file="").parallel == 4
    other = tmp_path / "other.toml"
    other.write_text("parallel = 3\n")
    monkeypatch.setenv("OFFGRID_CONFIG", str(other))
    assert load_settings().parallel == 3
    assert load_settings(config_file=file).parallel == 2


def test_paths_in_a_file_are_relative_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables and flags mean the current folder, and words are no paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "offgrid.toml"
    file.write_text(
        "models_dir = 'models'\nkeys_file = '/keys'\nfilter_file = 'rules.txt'\n"
        "chat_template = 't.jinja'\nresponses_file = '~/r.sqlite3'\nsocket = 'fd:3'\n"
    )
    found = load_settings({}, environ={}, config_file="etc/offgrid.toml")
    assert found.models_dir == tmp_path / "etc" / "models"
    assert found.filter_file == str(tmp_path / "etc" / "rules.txt")
    assert found.chat_template == str(tmp_path / "etc" / "t.jinja")
    assert (found.keys_file, found.socket) == (Path("/keys").absolute(), "fd:3")
    assert found.responses_file == Path("~/r.sqlite3").expanduser()
    variables = {"OFFGRID_FILTER_FILE": "rules.txt"}
    found = load_settings({"models_dir": "m"}, environ=variables, config_file=file)
    assert (found.filter_file, found.models_dir) == ("rules.txt", Path("m"))
    file.write_text("chat_template = 'chatml'\nfilter_file = ' '\n")
    found = load_settings({}, environ={}, config_file=file)
    assert (found.chat_template, found.filter_file) == ("chatml", "")


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    file = tmp_path / "nope.toml"
    for make, reason in (
        (lambda: None, "No such file or directory"), (file.mkdir, "Is a directory"),
    ):  # fmt: skip
        make()
        with pytest.raises(ConfigError) as caught:
            load_settings(environ={}, config_file=file)
        assert str(caught.value) == f"--config: cannot read {file}: {reason}"
        with pytest.raises(ConfigError) as caught:
            load_settings(environ={"OFFGRID_CONFIG": str(file)})
        assert str(caught.value) == f"OFFGRID_CONFIG: cannot read {file}: {reason}"
