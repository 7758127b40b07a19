"""``offgrid serve`` as a separate process: its banner, its settings and the models it serves."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import Child, Serve, program
from support import STARTER, chat_body, request

from offgrid import __version__
from offgrid.cli import main
from offgrid.config import TABLE, Setting, Settings, load_settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.commands import Load
from offgrid.errors import OffgridError
from offgrid.store.catalogue import Catalogue

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
UNUSUAL = {
    "host": "localhost", "port": "0", "socket": "fd:9", "socket_mode": "660",
    "ollama": "true", "ui": "false",
    "insecure": "true", "allowed_hosts": "a.lan,b.lan", "cors_origins": "http://a.lan",
    "trusted_proxies": "10.0.0.1,unix", "tls_cert": "some/cert.pem", "tls_key": "some/key.pem",
    "peers": "true", "peers_host": "127.0.0.1", "peers_port": "0", "peers_name": "desk",
    "peers_discovery": "false", "peer_addresses": "10.0.0.2,10.0.0.3:11612",
    "peers_dir": "some/peers", "rpc_servers": "strong,127.0.0.1:50052", "rpc_layers": "12",
    "rpc_library": "some/libggml-rpc.so", "rpc_cache_mb": "78", "rpc_host": "127.0.0.1",
    "rpc_port": "0",
    "keys_file": "some/keys.sqlite3", "models_dir": "some/folder",
    "import_roots": "/media/a,/media/b", "model": "some-model",
    "model_aliases": "gpt-4o=a,gpt-5=b", "chat_template": "chatml",
    "draft_model": "some-draft",
    "max_models": "2", "memory_budget": "6000", "keep_alive": "5m", "parallel": "3",
    "ctx_size": "640", "batch_size": "64", "threads": "5",
    "gpu_layers": "7", "flash_attention": "on", "kv_type_k": "q8_0", "kv_type_v": "q5_1",
    "use_mmap": "false", "use_mlock": "true", "swa_full": "true", "checkpoints_mb": "77",
    "cache_ram_mb": "31", "cache_dir": "some/prefixes", "cache_disk_mb": "33",
    "share_prefixes": "all", "drafts": "false",
    "open_objects": "true", "reasoning_budget": "500",
    "queue_size": "9", "queue_timeout": "30",
    "load_timeout": "11", "stall_timeout": "13", "ready_timeout": "15", "drain_timeout": "17",
    "sse_ping_interval": "19",
    "max_body_mb": "21", "request_timeout": "29", "requests_per_minute": "35",
    "tokens_per_minute": "3700", "concurrent_requests": "39", "max_tokens": "410",
    "max_messages": "43", "max_json_depth": "45", "max_schema_kb": "47",
    "unknown_fields": "ignore", "filter_file": "terms.txt", "max_responses": "23",
    "max_responses_mb": "25", "responses_file": "some/responses.sqlite3", "history": "false",
    "history_file": "some/history.sqlite3", "max_history_mb": "26", "log_level": "warning",
    "log_format": "json", "log_prompts": "true", "metrics_keys": "true", "core_dumps": "true",
}  # fmt: skip
"""For every setting a value other than its default."""


def flag(setting: Setting, value: str) -> list[str]:
    """The command-line form of a setting."""
    if setting.kind != "bool":
        return [setting.option, value]
    return [setting.option if value == "true" else f"--no-{setting.option[2:]}"]


def test_serve_prints_its_banner_and_answers(serve: Serve, models: Path) -> None:
    child = serve()
    # The output is read through a pipe while the server runs, so it must not be buffered.
    url = child.url
    assert url.startswith("http://127.0.0.1:")
    assert request(url, "GET", "/health").status == 200
    child.out.find(rf"^OffGrid LLM {__version__} at ")
    child.out.find(rf"page +{url}/ui\n")
    child.out.find(rf"models +{STARTER}\n")
    child.out.find(rf"folder +{models}\n")
    child.out.find(r"slots +4 per model, plus a queue of 16\n")
    child.out.find(
        rf"memory +{STARTER} needs \d+ MiB with full contexts, \d+\.\d GiB free; "
        r"4 slots of 2,048 tokens, 12 MiB of cache \(f16\)\n"
    )
    child.out.find(rf"ready +{STARTER}: .*context of 2048 tokens per slot\n")
    child.out.find(rf"compute +{STARTER}: flash attention off \(the model is small\)\n")
    answer = request(url, "POST", CHAT, chat_body(temperature=0))
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"]
    log = (
        r"\S+ \S+ INFO offgrid.engine.client.roster: loading offgrid-starter: needs .*\n"
        r"\S+ \S+ INFO offgrid.engine.client.supervisor: loaded offgrid-starter in .*\n"
        r"\S+ \S+ INFO offgrid.requests: POST /v1/chat/completions 200 .*\n"
    )
    child.err.find(r"/completions 200 .*\n")
    assert re.fullmatch(log, child.err.text)


@pytest.mark.slow
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


@pytest.mark.slow
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

    def server(settings: Settings, read_settings: object) -> None:
        taken.append(settings)
        raise OffgridError("enough seen")

    module = importlib.import_module("offgrid.cli.serving")
    monkeypatch.setattr(module, "Server", server)
    monkeypatch.setattr(module, "configure_logging", lambda level: None)
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
    # A model waits for the machines that lend it memory; tests/rpc has these.
    unusual = {name: value for name, value in UNUSUAL.items() if not name.startswith("rpc_")}
    settings = load_settings({**unusual, "models_dir": tmp_path}, environ={})
    EnginePool(settings, Catalogue(settings)).start()
    assert loads == [
        Load(
            path=str(file), ctx_size=640, parallel=3, batch_size=64, threads=5,
            gpu_layers=7, flash_attention="on", kv_type_k="q8_0", kv_type_v="q5_1",
            use_mmap=False, use_mlock=True, swa_full=True, checkpoints_mb=77, drafts=False,
            open_objects=True, draft_model=None,  # drafts are off
            cache_ram=31, cache_dir="some/prefixes", cache_disk=33,
            core_dumps=True, share_prefixes=True,
        )
    ]  # fmt: skip


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_banner_says_that_others_need_no_key(serve: Serve) -> None:
    child = serve("--host", "0.0.0.0", "--insecure")
    child.out.find(r"keys +none: everybody who can connect may use this server \(insecure\)\n")


@pytest.mark.slow
def test_a_machine_with_peers_needs_no_models(tmp_path: Path) -> None:
    """It uses those of its peers; the banner says how to pair it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    child = Child(
        program("offgrid"), "serve", "--port", "0", "--models-dir", str(folder), "--peers",
        "--peers-name", "galley", "--peers-host", "127.0.0.1", "--peers-port", "0",
        "--no-peers-discovery", "--responses-file", str(tmp_path / "responses.sqlite3"),
        cwd=tmp_path, HOME=str(tmp_path),
    )  # fmt: skip
    try:
        child.out.find(r"models +none\n")
        child.out.find(r"peers +galley, port \d+; to pair: offgrid peers pair\n")
        child.out.find(r"stop +Ctrl-C\n")
        assert request(child.url, "GET", "/ready").status == 200
    finally:
        child.end()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
