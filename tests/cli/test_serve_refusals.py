"""What ``offgrid serve`` refuses to start with: each message names what is wrong."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from processes import models_flags, program, run_offgrid
from support import TIMEOUT

from offgrid.cli import main


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[models.bb]", 'models."bb": no model has the id bb (the ids are b, a)'),
        ("[models.b]\ncontext = 5", 'models."b": unknown setting context; '),
    ],
)
def test_a_wrong_table_of_a_model_ends_the_start(
    models: Path, starter_path: Path, text: str, named: str
) -> None:
    for name in "ab":
        (models / f"{name}.gguf").symlink_to(starter_path)
    file = models / "offgrid.toml"
    file.write_text(text)
    ended = run_offgrid("serve", "--port", "0", "--models-dir", str(models), "--config", str(file))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"offgrid: {file}: {named}" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_a_configured_folder_without_models_ends_the_command(models: Path, source: str) -> None:
    """Nothing is served in its place."""
    file = models.parent / "offgrid.toml"
    file.write_text(f"models_dir = {json.dumps(str(models))}\n", encoding="utf-8")
    (models / "broken.gguf").write_bytes(b"")
    arguments, environ, named = {
        "flag": (["--models-dir", str(models)], {}, "--models-dir"),
        "variable": ([], {"OFFGRID_MODELS_DIR": str(models)}, "OFFGRID_MODELS_DIR"),
        "file": (["--config", str(file)], {}, f"{file}: models_dir"),
    }[source]
    ended = run_offgrid("serve", "--port", "0", *arguments, environ=environ)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"offgrid: {named}: {models} contains no model (skipped: broken.gguf: the file is empty); "
        "copy a GGUF file into it, or name another folder\n"
    )


def waitress_serve(**environment: str) -> str:
    """Run ``waitress-serve``, which fails; return what it writes to standard error."""
    command = [program("waitress-serve"), "--listen=127.0.0.1:0", "--call"]
    ended = subprocess.run(
        [*command, "offgrid.app:create_app"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        timeout=TIMEOUT,
    )
    assert ended.returncode != 0
    return ended.stderr


@pytest.mark.slow
def test_waitress_serve_refuses_a_folder_without_models(models: Path) -> None:
    told = waitress_serve(OFFGRID_MODELS_DIR=str(models))
    assert f"OFFGRID_MODELS_DIR: {models} contains no model" in told


def test_waitress_serve_has_no_port_for_peers() -> None:
    told = waitress_serve(OFFGRID_PEERS="true")
    assert "OFFGRID_PEERS (--peers): peers need the server of 'offgrid serve'" in told


def test_wrong_paths_end_the_command(models: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("# Offline")
    result = CliRunner().invoke(main, ["serve", str(text), str(models), str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert result.output == (
        f"offgrid: {text}: not a GGUF file: it begins with '# Of'; "
        f"{models}: the folder contains no model; {tmp_path}/nothing: does not exist\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_files_and_folders_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of another user if this one may read everything."""
    # Python searches the current folder first, and the source tree is not compiled.
    monkeypatch.chdir("/")
    place = Path(tempfile.mkdtemp(prefix="offgrid-"))
    try:
        place.chmod(0o755)
        (place / "closed").mkdir()
        (place / "closed.gguf").write_bytes(b"GGUF")
        (place / "open").mkdir()
        (place / "open" / "a.gguf").write_bytes(b"GGUF")
        for name in ("closed", "closed.gguf", "open/a.gguf"):
            (place / name).chmod(0)
        look = (
            # Imported before, since the other user may not read this Python.
            "import os, sys, offgrid.cli.serving, offgrid.cli.listing, offgrid.cli.serve\n"
            "import offgrid.cli.models; from offgrid.cli import main\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"
            "main()"
        )
        command = (sys.executable, "-c", look)
        environ = {"HOME": str(place)}
        given = run_offgrid(
            "serve", str(place / "closed"), str(place / "closed.gguf"), str(place / "open"),
            command=command, environ=environ,
        )  # fmt: skip
        closed = run_offgrid(
            "serve", "--models-dir", str(place / "closed"), command=command, environ=environ
        )
        listed = run_offgrid(
            "list", "--models-dir", str(place / "open"), command=command, environ=environ
        )
    finally:
        for name in ("closed", "closed.gguf", "open/a.gguf"):
            (place / name).chmod(0o700)
        shutil.rmtree(place)
    assert (given.returncode, given.stderr) == (
        2,
        f"offgrid: {place}/closed: cannot be read: permission denied; {place}/closed.gguf: "
        f"permission denied; {place}/open: the folder contains no model (skipped: a.gguf: "
        "permission denied)\n",
    )
    assert (closed.returncode, closed.stderr) == (
        2, f"offgrid: --models-dir: {place}/closed cannot be read: permission denied\n"
    )  # fmt: skip
    assert f"{place}/open/a.gguf: permission denied\n" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (["--port", "x"], {}, "--port"),
        (["--ctx-size", "-1"], {}, "--ctx-size"),
        (["--parallel", "0"], {}, "--parallel"),
        (["--host", "0.0.0.0"], {}, "--host"),
        (["--log-level", "loud"], {}, "--log-level"),
        (["--model", "no/such/file.gguf"], {}, "--model"),
        (["--model", "no-such-id"], {}, "--model"),
        (["--config", "no-such-file.toml"], {}, "no-such-file.toml"),
        (["--no-such-flag"], {}, "--no-such-flag"),
        ([], {"OFFGRID_PORT": "99999"}, "OFFGRID_PORT"),
        ([], {"OFFGRID_NUM_THREADS": "many"}, "OFFGRID_NUM_THREADS"),
        ([], {"OFFGRID_DEFAULT_MODEL": "no/such/file.gguf"}, "OFFGRID_MODEL"),
        ([], {"OFFGRID_PARALEL": "4"}, "OFFGRID_PARALEL"),
    ],
)
def test_a_wrong_value_is_named(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environ: dict[str, str],
    named: str,
    models: Path,
) -> None:
    """Runs in this process; the next test starts a separate one."""
    module = importlib.import_module("offgrid.cli.serving")
    monkeypatch.setattr(module, "configure_logging", lambda level: None)
    # If a value is accepted after all, the server must not run for ever.
    monkeypatch.setattr(module.Server, "run", lambda server, announce: server.stop())
    arguments = ["serve", "--models-dir", str(models), *arguments]
    environ = {"OFFGRID_PORT": "0", **environ}
    result = CliRunner().invoke(main, arguments, env=environ)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert named in result.output


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (["--model", "no-such-id"], {}, "--model"),
        # A value of the wrong type ends it earlier, in the same way.
        pytest.param(["--port", "x"], {}, "--port", marks=pytest.mark.slow),
        pytest.param([], {"OFFGRID_PARALEL": "4"}, "OFFGRID_PARALEL", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_value_ends_the_command(
    arguments: list[str], environ: dict[str, str], named: str, models: Path
) -> None:
    ended = run_offgrid("serve", "--models-dir", str(models), *arguments, environ=environ)
    assert ended.returncode == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_port_in_use_is_reported(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_offgrid("serve", "--port", str(port), *models_flags(models))
    assert ended.returncode == 1
    assert ended.stderr == (
        f"offgrid: cannot listen on 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)} by process "
        f"{os.getpid()} ({' '.join(psutil.Process().cmdline()[:3])}); stop the other program, or "
        "choose another port: --port 0 picks a free one\n"
    )
    assert ended.stdout == ""


@pytest.mark.parametrize(
    "host",
    [
        "203.0.113.1",
        # Names fail earlier, when they are resolved.
        "no-such-host.invalid",
        pytest.param("..", marks=pytest.mark.slow),
    ],
)
def test_an_address_of_no_interface_is_reported(host: str, models: Path) -> None:
    flags = ("--host", host, "--insecure", "--port", "0", *models_flags(models))
    ended = run_offgrid("serve", *flags)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"offgrid: cannot listen on {host}:0: ")
    assert "Traceback" not in ended.stderr
