"""The ``offgrid`` command as a separate process: its output, flags, models and refusals."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from changed_models import with_metadata
from click.testing import CliRunner
from processes import Child, models_flags, program
from support import STARTER, TIMEOUT, chat_body, request
from tiny_vision import make_seeing

from offgrid import __version__
from offgrid.cli import main
from offgrid.config import TABLE, Setting, Settings, load_settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol import Load
from offgrid.errors import OffgridError
from offgrid.store.catalogue import Catalogue

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
UNUSUAL = {
    "host": "localhost", "port": "0", "allow_remote": "true", "allowed_hosts": "a.lan,b.lan",
    "cors_origins": "http://a.lan", "models_dir": "some/folder",
    "import_roots": "/media/a,/media/b", "model": "some-model",
    "model_aliases": "gpt-4o=a,gpt-5=b", "chat_template": "chatml",
    "draft_model": "some-draft",
    "max_models": "2", "memory_budget": "6000", "keep_alive": "5m", "parallel": "3",
    "ctx_size": "640", "batch_size": "64", "threads": "5",
    "gpu_layers": "7", "flash_attention": "on", "kv_type_k": "q8_0", "kv_type_v": "q5_1",
    "use_mmap": "false", "use_mlock": "true", "swa_full": "true", "checkpoints_mb": "77",
    "cache_ram_mb": "31", "cache_dir": "some/prefixes", "cache_disk_mb": "33", "drafts": "false",
    "open_objects": "true", "reasoning_budget": "500",
    "queue_size": "9", "queue_timeout": "30",
    "load_timeout": "11", "stall_timeout": "13", "drain_timeout": "17", "sse_ping_interval": "19",
    "max_body_mb": "21", "unknown_fields": "ignore", "max_responses": "23",
    "max_responses_mb": "25", "responses_file": "some/responses.sqlite3", "log_level": "warning",
}  # fmt: skip
"""For every setting a value other than its default."""
Serve = Callable[..., Child]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(models: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start ``offgrid serve`` on a free port; every server is ended after the test."""
    children: list[Child] = []

    def start(*flags: str, **environ: str) -> Child:
        command = (program("offgrid"), "serve", "--port", "0", *models_flags(models))
        children.append(Child(*command, *flags, cwd=tmp_path, **environ))
        return children[-1]

    yield start
    for child in children:
        child.end()


def run(
    *arguments: str, environ: Mapping[str, str] | None = None, command: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``offgrid`` to its end."""
    return subprocess.run(
        [*(command or (program("offgrid"),)), *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **(environ or {})},
        timeout=TIMEOUT,
    )


def flag(setting: Setting, value: str) -> list[str]:
    """The command-line form of a setting."""
    if setting.kind != "bool":
        return [setting.option, value]
    return [setting.option if value == "true" else f"--no-{setting.option[2:]}"]


# --- serve ----------------------------------------------------------------------------------------


def test_serve_prints_its_banner_and_answers(serve: Serve, models: Path) -> None:
    child = serve()
    # The output is read through a pipe while the server runs, so it must not be buffered.
    url = child.url
    assert url.startswith("http://127.0.0.1:")
    assert request(url, "GET", "/health").status == 200
    child.out.find(rf"^OffGrid LLM {__version__} at ")
    child.out.find(rf"models +{STARTER}\n")
    child.out.find(rf"folder +{models}\n")
    child.out.find(r"slots +4 per model, plus a queue of 16\n")
    child.out.find(
        rf"memory +{STARTER} needs \d+ MiB, \d+\.\d GiB free; 4 slots of 2,048 tokens, "
        r"12 MiB of cache \(f16\)\n"
    )
    child.out.find(rf"ready +{STARTER}: .*context of 2048 tokens per slot\n")
    child.out.find(rf"compute +{STARTER}: flash attention off \(the model is small\)\n")
    answer = request(url, "POST", CHAT, chat_body(temperature=0))
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"]
    log = (
        r"\S+ \S+ INFO offgrid.engine.client.roster: loading offgrid-starter: needs .*\n"
        r"\S+ \S+ INFO offgrid.engine.client.supervisor: loaded offgrid-starter in .*\n"
    )
    assert re.fullmatch(log, child.err.text)


def test_flags_take_effect(serve: Serve) -> None:
    child = serve(
        "--host", "localhost", "--parallel", "1", "--queue-size", "0", "--ctx-size", "64",
        "--threads", "1", "--gpu-layers", "-1",
    )  # fmt: skip
    url = child.wait_ready()
    assert url.startswith("http://localhost:")
    child.out.find(r"slots +1 per model, plus a queue of 0\n")
    child.out.find(r"ready .*context of 64 tokens per slot")
    assert request(url, "POST", CHAT, chat_body(max_tokens=1)).status == 200
    refused = request(url, "POST", CHAT, chat_body("hello " * 100))
    assert refused.status == 400
    assert refused.json["error"]["code"] == "context_length_exceeded"
    assert " 64 tokens" in refused.json["error"]["message"]
    both = request(url, "POST", TEXT, {"model": STARTER, "prompt": ["a", "b"], "n": 2})
    assert both.status == 400
    assert "at most 1 " in both.json["error"]["message"]


def test_variables_take_effect(serve: Serve) -> None:
    """Variables act like flags; two more threads must add two threads of llama.cpp."""
    counts = []
    for threads in ("1", "3"):
        child = serve(OFFGRID_MAX_CONTEXT="64", OFFGRID_NUM_THREADS=threads, OFFGRID_PARALLEL="1")
        url = child.wait_ready()
        child.out.find(r"slots +1 per model, plus a queue of 16\n")
        refused = request(url, "POST", CHAT, chat_body("hello " * 100))
        assert " 64 tokens" in refused.json["error"]["message"]
        assert request(url, "POST", CHAT, chat_body(max_tokens=1)).status == 200
        counts.append(child.worker().num_threads())
    assert counts[1] - counts[0] == 2


@pytest.mark.parametrize("source", ["flags", "variables"])
def test_every_setting_can_be_given(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    taken: list[Settings] = []

    def server(settings: Settings) -> None:
        taken.append(settings)
        raise OffgridError("enough seen")

    module = importlib.import_module("offgrid.cli.serving")
    monkeypatch.setattr(module, "Server", server)
    monkeypatch.setattr(module, "_configure_logging", lambda level: None)
    arguments, environ = ["serve"], {}
    for setting in TABLE:
        if source == "flags":
            arguments += flag(setting, UNUSUAL[setting.name])
        else:
            environ[setting.env] = UNUSUAL[setting.name]
    result = CliRunner().invoke(main, arguments, env=environ)
    assert (result.exit_code, "enough seen" in result.output) == (1, True)
    for setting in TABLE:
        value = getattr(taken[0], setting.name)
        assert value == setting.parse(UNUSUAL[setting.name], "test")
        assert value != setting.default


def test_settings_reach_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starter_path: Path
) -> None:
    loads: list[Load] = []
    monkeypatch.setattr(EngineClient, "start", lambda self: loads.append(self.load))
    file, draft = tmp_path / "some-model.gguf", tmp_path / "some-draft.gguf"
    file.symlink_to(starter_path)
    draft.symlink_to(starter_path)
    settings = load_settings({**UNUSUAL, "models_dir": tmp_path}, environ={})
    EnginePool(settings, Catalogue(settings)).start()
    assert loads == [
        Load(
            path=str(file), ctx_size=640, parallel=3, batch_size=64, threads=5,
            gpu_layers=7, flash_attention="on", kv_type_k="q8_0", kv_type_v="q5_1",
            use_mmap=False, use_mlock=True, swa_full=True, checkpoints_mb=77, drafts=False,
            open_objects=True, draft_model=None,  # drafts are off
            cache_ram=31, cache_dir="some/prefixes", cache_disk=33,
        )
    ]  # fmt: skip


def test_a_model_by_path_and_by_id(serve: Serve, models: Path, starter_path: Path) -> None:
    elsewhere = models.parent / "elsewhere.gguf"
    shutil.copy(starter_path, elsewhere)
    (models / "sub").mkdir()
    for name in ("first", "sub/second"):
        (models / f"{name}.gguf").symlink_to(starter_path)
    by_path = serve("--model", str(elsewhere))
    by_id = serve("--model", "sub/second")
    by_variable = serve(OFFGRID_DEFAULT_MODEL="first")
    for child, model in (
        (by_path, "elsewhere"), (by_id, "sub/second"), (by_variable, "first"),
    ):  # fmt: skip
        child.out.find(rf"models +.*\b{model}\b")
        child.out.find(rf"ready +{model}:")
        body = {"model": model, "prompt": "Once", "max_tokens": 1}
        answer = request(child.url, "POST", TEXT, body)
        assert (answer.status, answer.json["model"]) == (200, model)


def test_several_models_without_a_default(serve: Serve, models: Path, starter_path: Path) -> None:
    """None is loaded at start, and the banner says so; a pinned one is."""
    for name in "ab":
        (models / f"{name}.gguf").symlink_to(starter_path)
    child = serve()
    child.out.find(r"loaded +none at start: there are several models and no default;\n")
    listed = request(child.url, "GET", "/v1/models").json["data"]
    assert [model["status"] for model in listed] == ["unloaded"] * 2
    answer = request(child.url, "POST", TEXT, {"model": "b", "prompt": "Once", "max_tokens": 1})
    assert answer.status == 200
    child.err.find("loading b: ")
    assert "ready" not in child.out.text
    file = models / "offgrid.toml"
    file.write_text("[models.b]\npin = true\n")
    pinned = serve("--config", str(file))
    pinned.out.find(r"ready +b:")
    assert "none at start" not in pinned.out.text


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
    ended = run("serve", "--port", "0", "--models-dir", str(models), "--config", str(file))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"offgrid: {file}: {named}" in ended.stderr


def test_file_names_are_shown_unchanged(serve: Serve, models: Path, starter_path: Path) -> None:
    """Markup, quotes and letters that the output cannot encode do no harm."""
    name = "it's [red] q4 :smile:"
    (models / f"{name}.gguf").symlink_to(starter_path)
    (models / "modèle.gguf").symlink_to(starter_path)
    child = serve("--model", name, PYTHONIOENCODING="ascii")
    url = child.wait_ready()
    assert f"models   {name}, mod\\xe8le\n" in child.out.text
    assert f"ready    {name}: " in child.out.text
    # The command in the banner is valid.
    curl, address, data, body = shlex.split(child.out.find(r"try +(.*)\n")[1])
    assert (curl, address, data) == ("curl", url + CHAT, "-d")
    answer = request(url, "POST", CHAT, body.encode())
    assert (answer.status, answer.json["model"]) == (200, name)


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
    ended = run("serve", "--port", "0", *arguments, environ=environ)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"offgrid: {named}: {models} contains no model (skipped: broken.gguf: the file is empty); "
        "copy a GGUF file into it, or name another folder\n"
    )


def test_waitress_serve_refuses_a_folder_without_models(models: Path) -> None:
    command = [program("waitress-serve"), "--listen=127.0.0.1:0", "--call"]
    ended = subprocess.run(
        [*command, "offgrid.app:create_app"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "OFFGRID_MODELS_DIR": str(models)},
        timeout=TIMEOUT,
    )
    assert ended.returncode != 0
    assert f"OFFGRID_MODELS_DIR: {models} contains no model" in ended.stderr


def test_the_banner_without_models(models: Path, tmp_path: Path) -> None:
    """The starter is served if nothing was configured; skipped files are named."""
    folder = tmp_path / ".offgrid-llm" / "models"
    folder.mkdir(parents=True)
    (folder / "broken.gguf").write_bytes(b"# Off")
    child = Child(program("offgrid"), "serve", "--port", "0", cwd=tmp_path, HOME=str(tmp_path))
    try:
        child.wait_ready()
        child.out.find(rf"models +{STARTER}\n")
        child.out.find(
            rf"note +this is the starter.*\n.*offgrid get smollm2-135m\n.*GGUF file into {folder}\n"
        )
        reason = "not a GGUF file: it begins with '# Of'"
        child.out.find(rf"skipped +{folder}/broken.gguf: {reason}\n")
        child.err.find(rf"WARNING .*not served: {folder}/broken.gguf: {reason}")
    finally:
        child.end()


def test_serve_files_and_folders(models: Path, tmp_path: Path, starter_path: Path) -> None:
    (models / "sub").mkdir()
    for path in (tmp_path / "one.gguf", models / "sub" / "two.gguf"):
        path.symlink_to(starter_path)
    (models / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])
    flags = ("--port", "0", "--threads", "1", "--responses-file", str(tmp_path / "r"))
    child = Child(program("offgrid"), "serve", "one.gguf", str(models), *flags, cwd=tmp_path)
    try:
        child.out.find(r"ready +one:")
        child.out.find(rf"file +{tmp_path}/one.gguf\n +folder +{models}\n")
        assert "note" not in child.out.text
        listed = request(child.url, "GET", "/v1/models").json
        assert [model["id"] for model in listed["data"]] == ["one", "sub/two"]
        assert [file["file"] for file in listed["unusable"]] == ["cut.gguf"]
        child.err.find(rf"cannot be used: {models}/cut.gguf: the file is cut off: it has 1,")
        answer = request(child.url, "POST", TEXT, {"prompt": "Once", "max_tokens": 1})
        assert (answer.status, answer.json["model"]) == (200, "one")
    finally:
        child.end()


def test_the_log_has_one_reason_why_the_model_of_the_start_is_not_loaded(
    tmp_path: Path, starter_path: Path
) -> None:
    (tmp_path / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])
    flags = ("--port", "0", "--responses-file", str(tmp_path / "r"))
    # The lines about aliases come last.
    child = Child(program("offgrid"), "serve", "cut.gguf", *flags, "--model-aliases", "x=y",
                  cwd=tmp_path)  # fmt: skip
    try:
        child.err.find("the alias x stands for y, and no model has that id")
        child.process.terminate()
        child.wait()
        (line,) = (line for line in child.err.text.splitlines() if "cut off" in line)
        assert "ERROR offgrid.engine.client.pool: The model cut cannot be loaded: " in line
    finally:
        child.end()


def test_wrong_paths_end_the_command(models: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("# Offline")
    result = CliRunner().invoke(main, ["serve", str(text), str(models), str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert result.output == (
        f"offgrid: {text}: not a GGUF file: it begins with '# Of'; "
        f"{models}: the folder contains no model; {tmp_path}/nothing: does not exist\n"
    )


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
        given = run("serve", str(place / "closed"), str(place / "closed.gguf"),
                    str(place / "open"), command=command, environ=environ)  # fmt: skip
        closed = run("serve", "--models-dir", str(place / "closed"), command=command,
                     environ=environ)  # fmt: skip
        listed = run("list", "--models-dir", str(place / "open"), command=command, environ=environ)
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
    monkeypatch.setattr(module, "_configure_logging", lambda level: None)
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
    ended = run("serve", "--models-dir", str(models), *arguments, environ=environ)
    assert ended.returncode == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_port_in_use_is_reported(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", "--port", str(port), *models_flags(models))
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
    flags = ("--host", host, "--allow-remote", "--port", "0", *models_flags(models))
    ended = run("serve", *flags)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"offgrid: cannot listen on {host}:0: ")
    assert "Traceback" not in ended.stderr


# --- the other verbs ------------------------------------------------------------------------------


def test_list(models: Path, starter_path: Path) -> None:
    default = models / ".offgrid-llm" / "models"
    ended = run("list", environ={"HOME": str(models)})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "MODEL            PARAMETERS  QUANTISED  CONTEXT     SIZE  KIND\n"
        "offgrid-starter      2.76 M  Q8_0         2,048  2.9 MiB  chat\n\n"
        "This is the starter, which only shows that the server works. For a real model, run "
        f"'offgrid get smollm2-135m', or copy a GGUF file into {default}.\n"
    )
    long = "a-very-long-name-" * 6
    for name in ("b", "base", long):
        (models / f"{name}.gguf").symlink_to(starter_path)
    (models / "base.gguf").unlink()
    with_metadata(starter_path, models / "base.gguf", {"tokenizer.chat_template": ""})
    make_seeing(models, "b-seeing")
    (models / "notes.txt").write_text("no model")
    (models / "empty.gguf").write_bytes(b"")
    (models / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])
    # The other cases run in this process.
    listed = CliRunner().invoke(main, ["list"], env={"OFFGRID_MODELS_DIR": str(models)})
    lines = listed.output.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["MODEL", long, "b", "b-seeing", "base"]
    assert any(line.startswith("b-seeing ") and line.endswith(" chat, vision") for line in lines)
    assert any(line.startswith("base ") and line.endswith(" base model") for line in lines)
    assert "A base model has no chat template: use /v1/completions" in listed.output
    assert lines[-3] == "Not usable:"
    assert lines[-2].startswith(f"  {models}/cut.gguf: the file is cut off: it has 1,000,000 of ")
    assert lines[-1] == f"  {models}/empty.gguf: the file is empty"
    listed = CliRunner().invoke(main, ["list", "--json", "--models-dir", str(models)])
    as_json: dict[str, Any] = json.loads(listed.output)
    assert as_json["count"] == 4
    assert as_json["models"][1] == {
        "id": "b", "path": str(models / "b.gguf"), "size": starter_path.stat().st_size,
        "parts": [], "problem": None, "kind": "chat", "architecture": "llama",
        "parameters": 2_755_008, "quantization": "Q8_0", "context_length": 2048,
        "projector": None, "draft_model": None, "tools": True, "reasoning": False, "sha256": None,
        "settings": {},
    }  # fmt: skip
    assert as_json["models"][2]["projector"] == str(models / "mmproj-b-seeing.gguf")
    assert [file["path"] for file in as_json["unusable"]] == [
        str(models / "empty.gguf"), str(models / "cut.gguf")
    ]  # fmt: skip
    wrong = run("list", "--models-dir", str(models), "--model", "nothing")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--model" in wrong.stderr


def test_info(models: Path, starter_path: Path) -> None:
    file = models / "Own-Model.gguf"
    file.symlink_to(starter_path)
    (models / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])

    def info(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["info", "--models-dir", str(models), *arguments])
        return result.exit_code, result.output

    status, output = info("own")
    assert status == 0
    rows = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert rows["id"] == "Own-Model"
    assert rows["parameters"] == "2.76 M (2,755,008)"
    assert rows["context"] == "2,048 tokens (trained)"
    # A path that is in no models directory.
    status, output = info("--json", str(starter_path))
    assert (status, json.loads(output)["id"]) == (0, STARTER)
    config = models / "offgrid.toml"
    config.write_text(
        '[models.cook]\nbase = "Own-Model"\nctx_size = "1k"\nsampling = { top_k = 5 }\n'
    )
    status, output = info("cook", "--config", str(config))
    rows = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert (rows["base"], rows["ctx_size"], rows["sampling"]) == ("Own-Model", "1024", "top_k = 5")
    assert "of 1,024 tokens" in rows["memory"]
    status, output = info("cut")
    assert status == 1
    assert "offgrid: cut cannot be used: the file is cut off" in output
    assert info("owl") == (
        2, "offgrid: Model not found: owl. The models are Own-Model, cut.\n"
    )  # fmt: skip
    status, output = info(str(models))
    assert (status, "is a folder; offgrid list" in output) == (2, True)
    status, output = info(str(models / ".." / "models"), "--models-dir", "/no/such/folder")
    assert (status, output) == (2, "offgrid: --models-dir: /no/such/folder does not exist\n")


@pytest.mark.parametrize(
    "command", [(), (sys.executable, "-m", "offgrid")], ids=["offgrid", "python -m offgrid"]
)
def test_version_and_unknown_verbs(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python searches the current folder first, and the source tree is not compiled.
    monkeypatch.chdir(tmp_path)
    version = run("--version", command=command)
    assert (version.returncode, version.stdout) == (0, f"offgrid, version {__version__}\n")
    unknown = run("nothing", command=command)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == (
        "offgrid: there is no command 'offgrid nothing'; offgrid --help lists them\n"
    )
