"""Settings: their sources, refused values, and their rows in the reference page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offgrid.config import OTHER_VARIABLES, TABLE, load_settings
from offgrid.errors import ConfigError

PAGE = Path(__file__).parent.parent / "docs" / "CONFIGURATION.md"


def shown_default(default: object) -> str:
    if default in ("", ()):
        return "none"
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
        if setting.name not in ("models_dir", "responses_file"):
            assert default == shown_default(setting.default)
        if setting.low is not None:
            assert limits == f"{setting.low} to {setting.high}"
        if setting.choices:
            assert limits == ", ".join(setting.choices)


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
        ("OFFGRID_LOAD_TIMEOUT", "1"), ("OFFGRID_MODEL_LOAD_TIMEOUT", "nan"),
        ("OFFGRID_HOST", "0.0.0.0"), ("OFFGRID_CONFIG", "/no/such/file.toml"),
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
    assert load_settings({"host": "0.0.0.0", "allow_remote": "yes"}, environ={}).allow_remote
    assert load_settings({"host": "::1"}, environ={}).host == "::1"


def test_more_open_requests_than_threads_are_refused() -> None:
    with pytest.raises(ConfigError, match="OFFGRID_QUEUE_SIZE"):
        load_settings({"parallel": 256, "queue_size": 1024, "max_models": 4}, environ={})
    load_settings({"parallel": 256, "queue_size": 1024, "max_models": 3}, environ={})
