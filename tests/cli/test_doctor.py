"""``offgrid doctor``: each check in its good and its bad states."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from llama_8b import AVX2, LLAMA_8B
from tiny_lora import make_lora

from offgrid import __version__
from offgrid.cli import main
from offgrid.cli.doctor import checks as all_checks
from offgrid.cli.doctor import machine
from offgrid.config import Settings, load_settings
from offgrid.engine import processors
from offgrid.engine.build import Build, Device
from offgrid.engine.client import about
from offgrid.engine.client.about import BuildUnknown, ask_build
from offgrid.engine.client.fit import Candidate, measure
from offgrid.engine.memory import Bound
from offgrid.engine.protocol.commands import Load
from offgrid.peers.identity import load_identity

SUBJECTS = [
    "configuration", "models", "disk", "permissions", "leftovers", "memory", "threads", "llama.cpp",
    "processor", "gpu", "rpc", "port", "peers", "clock",
]  # fmt: skip
Doctor = Callable[..., tuple[int, dict[str, dict[str, str]]]]


@pytest.fixture(scope="module")
def build() -> Build:
    """What the installed llama.cpp says of itself; it is asked once."""
    return ask_build()


@pytest.fixture
def doctor(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run ``offgrid doctor --json``; return its status and the checks by subject."""
    monkeypatch.setattr(all_checks, "ask_build", lambda: build)

    def run(*flags: str, **environ: str) -> tuple[int, dict[str, dict[str, str]]]:
        files = () if "--responses-file" in flags else ("--responses-file", str(tmp_path / "r"))
        arguments = ["doctor", "--json", "--port", "0", *files, *flags]
        ended = CliRunner().invoke(main, arguments, env={"HOME": str(tmp_path), **environ})
        found: dict[str, Any] = json.loads(ended.output)
        checks = {check["subject"]: check for check in found["checks"]}
        states = [check["state"] for check in found["checks"]]
        worst = max(states, key=["ok", "warning", "problem"].index)
        assert found["state"] == worst
        assert ended.exit_code == (1 if worst == "problem" else 0)
        for check in checks.values():  # what is wrong can be mended
            assert bool(check["fix"]) == (check["state"] != "ok"), check
        return ended.exit_code, checks

    return run


def put(folder: Path, starter: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).symlink_to(starter)
    return folder


def test_a_machine_that_is_ready(doctor: Doctor, tmp_path: Path, starter_path: Path) -> None:
    folder = put(tmp_path / "models", starter_path, "a.gguf")
    status, checks = doctor("--models-dir", str(folder))
    assert status == 0
    assert [*checks] == SUBJECTS
    for subject in ("configuration", "models", "permissions", "leftovers", "llama.cpp", "rpc",
                    "port", "peers", "clock"):  # fmt: skip
        assert checks[subject]["state"] == "ok", checks[subject]
    assert checks["models"]["text"] == "1 can be served; the default is a"
    assert checks["configuration"]["text"].endswith("given: models_dir, port, responses_file")


def test_it_prints_a_line_for_each_check(doctor: Doctor, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "OFFGRID_PORT": "0"}
    ended = CliRunner().invoke(main, ["doctor"], env=environ)
    assert ended.exit_code == 0
    lines = ended.output.splitlines()
    named = [line.split()[1] for line in lines if line.startswith(("ok ", "warning ", "problem "))]
    assert named == SUBJECTS
    assert (
        "warning  models        only the bundled starter, which just shows that the server works"
        in lines
    )
    assert (
        f"{' ' * 23}fix: run 'offgrid get smollm2-135m', or copy a GGUF file into " in ended.output
    )
    assert lines[-1].endswith("warning") or lines[-1].endswith("ok")
    assert "\x1b" not in ended.output


def test_files_that_cannot_be_served(doctor: Doctor, tmp_path: Path, starter_path: Path) -> None:
    folder = put(tmp_path / "models", starter_path, "a.gguf")
    (folder / "empty.gguf").write_bytes(b"")
    (folder / "cut.gguf").write_bytes(starter_path.read_bytes()[:1_000_000])
    (folder / ".b.gguf.part").write_bytes(b"x" * (1 << 20))
    (folder / ".b.gguf.part.json").write_text("{}")
    status, checks = doctor("--models-dir", str(folder))
    assert status == 0
    assert checks["models"]["state"] == "warning"
    text = checks["models"]["text"]
    assert text.startswith("1 can be served, 2 cannot: empty.gguf (the file is empty), cut.gguf (")
    assert checks["models"]["fix"] == "copy damaged files again, or remove them"
    assert checks["leftovers"]["state"] == "warning"
    assert f"1.0 MiB: {folder}/.b.gguf.part" in checks["leftovers"]["text"]


def test_an_adapter_that_does_not_fit(doctor: Doctor, tmp_path: Path, starter_path: Path) -> None:
    """The files are sound, so it would be no use to copy them again."""
    folder = put(tmp_path / "models", starter_path, "a.gguf")
    make_lora(tmp_path, architecture="gpt2")
    file = tmp_path / "offgrid.toml"
    table = '[models.pirate]\nbase = "a"\nlora = ["{}"]\n'
    file.write_text(table.format("lora.gguf"))
    flags = ("--models-dir", str(folder), "--config", str(file))
    status, checks = doctor(*flags)
    assert (status, checks["models"]["state"]) == (0, "warning")
    assert (
        "as pirate: its adapter lora.gguf is for gpt2 models, and its base is"
        in checks["models"]["text"]
    )
    assert checks["models"]["fix"] == (
        "correct lora or base in the [models] table that names the adapter"
    )
    file.write_text(table.format("gone.gguf"))
    status, checks = doctor(*flags)
    assert (status, checks["models"]["fix"]) == (1, "correct this setting")
    assert f"{tmp_path}/gone.gguf does not exist" in checks["models"]["text"]


def test_places_without_models(doctor: Doctor, tmp_path: Path) -> None:
    status, checks = doctor("--models-dir", str(tmp_path / "nothing"))
    assert (status, checks["models"]["state"]) == (1, "problem")
    assert "does not exist" in checks["models"]["text"]
    status, checks = doctor("--model", "nothing")
    assert (status, checks["models"]["state"]) == (1, "problem")
    assert "no model 'nothing'" in checks["models"]["text"]


def test_a_wrong_configuration_does_not_hide_the_rest(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text("paralel = 1\n")
    status, checks = doctor("--config", str(file))
    assert status == 1
    assert [*checks] == SUBJECTS
    assert checks["configuration"]["text"] == (
        f"{file}: unknown setting paralel; did you mean parallel?"
    )


@pytest.mark.skipif(os.name == "nt", reason="no modes here")
def test_files_that_others_may_read_or_change(doctor: Doctor, tmp_path: Path) -> None:
    responses, file = tmp_path / "responses.sqlite3", tmp_path / "offgrid.toml"
    responses.touch()
    responses.chmod(0o644)
    file.touch()
    file.chmod(0o666)
    flags = ("--responses-file", str(responses), "--config", str(file))
    check = doctor(*flags)[1]["permissions"]
    assert check["state"] == "warning"
    assert check["fix"] == f"chmod 600 {responses}; chmod o-w {file}"
    responses.chmod(0o600)
    file.chmod(0o644)
    assert doctor(*flags)[1]["permissions"]["state"] == "ok"


@pytest.mark.skipif(os.name == "nt", reason="no modes here")
def test_the_key_of_the_peers(doctor: Doctor, tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    flags = ("--peers-dir", str(folder))
    assert doctor(*flags)[1]["peers"]["text"] == "off; --peers turns them on"
    new = doctor(*flags, "--peers")[1]["peers"]
    assert (new["state"], new["text"][:8]) == ("ok", "0 paired")
    assert not folder.exists()  # the doctor changes nothing
    key = load_identity(folder).key_file
    key.chmod(0o644)
    check = doctor(*flags)[1]["peers"]  # also while peers are off
    assert (check["state"], check["fix"]) == ("warning", f"chmod 600 {key}")
    key.chmod(0o600)
    folder.chmod(0o755)
    assert doctor(*flags, "--peers")[1]["peers"]["fix"] == f"chmod 700 {folder}"
    folder.chmod(0o700)
    assert doctor(*flags, "--peers")[1]["peers"]["state"] == "ok"
    key.write_text("x")
    check = doctor(*flags, "--peers")[1]["peers"]
    assert (check["state"], "offgrid restore" in check["fix"]) == ("problem", True)


def test_the_libraries_of_the_peers(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "spake2" else find(name)
    )
    check = doctor("--peers")[1]["peers"]
    assert check["state"] == "problem"
    assert check["text"] == "libraries are missing: spake2"
    assert check["fix"] == "run pip install 'offgrid-llm[peers]'"


def test_a_home_that_cannot_be_written_is_named_once(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    models = tmp_path / "models"
    models.mkdir()
    flags = ("--responses-file", str(models / "responses.sqlite3"), "--models-dir", str(models))
    check = doctor(*flags)[1]["permissions"]
    assert check["text"] == f"{models} cannot be written"


@pytest.mark.slow
def test_a_port_in_use(doctor: Doctor, base_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, checks = doctor("--port", str(port))
    assert (status, checks["port"]["state"]) == (1, "problem")
    text = checks["port"]["text"]
    assert text.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert f"by process {os.getpid()} (" in text
    assert "--port 0" in checks["port"]["fix"]
    # Our own server is no fault.
    port = int(base_url.rpartition(":")[2])
    check = doctor("--port", str(port))[1]["port"]
    assert check["state"] == "ok"
    assert check["text"].startswith(f"OffGrid LLM {__version__} already serves at 127.0.0.1:{port}")


# --- llama.cpp ------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGILL"), reason="no such signal")
def test_a_llama_cpp_for_another_processor(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at in a process of its own, which it may end."""
    fake = tmp_path / "fake"
    (fake / "llama_cpp").mkdir(parents=True)
    init = fake / "llama_cpp" / "__init__.py"
    monkeypatch.setattr(sys, "path", [str(fake), *sys.path])
    monkeypatch.setattr(all_checks, "ask_build", about.ask_build)
    init.write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)\n")
    status, checks = doctor()
    assert status == 1
    assert checks["llama.cpp"]["text"] == (
        "it was built for another processor; its process was ended by the signal SIGILL"
    )
    assert "--no-binary llama-cpp-python" in checks["llama.cpp"]["fix"]
    assert "gpu" not in checks
    init.write_text("raise ImportError('libllama.so: cannot open')\n")
    with pytest.raises(BuildUnknown, match=r"ImportError: libllama\.so: cannot open"):
        ask_build()


def test_gpus(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(is_built: bool, layers: str, seen: tuple[str, str] | None = None) -> tuple[str, str]:
        monkeypatch.setattr(machine, "_gpu", lambda: seen)
        gpu = Device("CUDA0", "A card", "gpu", free=1 << 30, total=1 << 31)
        made = Build(**{
            field: getattr(build, field) for field in build.__struct_fields__
        } | {"gpu": is_built, "devices": (gpu,) if is_built else ()})  # fmt: skip
        found = machine.check_gpu(load_settings({"gpu_layers": layers}, environ={}), made)
        return found.state, found.text + found.fix

    assert check(False, "0")[0] == "ok"
    state, words = check(False, "0", ("an NVIDIA GPU", "CUDA"))
    assert (state, "CMAKE_ARGS=-DGGML_CUDA=on pip install" in words) == ("warning", True)
    assert "gpu_layers has no effect" in check(False, "all")[1]
    state, words = check(True, "0")
    assert (state, "A card (1.00 GiB free), not used" in words) == ("warning", True)
    assert check(True, "all") == ("ok", "A card (1.00 GiB free); layers on it: all")


def test_a_build_without_the_processors_instructions(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_own_features", lambda: ["AVX2", "AVX9"])
    found = machine.check_processor(build)
    assert found.state == "warning"
    assert "This processor also has" in found.text
    assert "AVX9" in found.text


# --- the machine ----------------------------------------------------------------------------------


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return folder


def test_the_limits_of_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = group(tmp_path / "inner", cpu_max="150000 100000\n")
    outer = group(tmp_path / "outer", cpu_max="max 100000\n")
    monkeypatch.setattr(processors, "_groups", lambda controller: iter([inner, outer]))
    assert processors.processors()[2] == 1.5
    monkeypatch.setattr(processors, "_groups", lambda controller: iter([tmp_path / "absent"]))
    assert processors.processors()[2] is None


def test_little_memory_and_few_processors(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    limit = [Bound(8 << 30, 5 << 30), Bound(6 << 30, 4 << 30)]
    monkeypatch.setattr(machine, "bounds", lambda: limit)
    monkeypatch.setattr(machine, "free_memory", lambda: 4 << 30)
    candidate = Candidate(Load("b"), sizes=LLAMA_8B)
    fit = measure(candidate, candidate.load, 16 << 30, AVX2)
    assert machine.check_memory(fit, "b").state == "ok"
    found = machine.check_memory(measure(candidate, candidate.load, 4 << 30, AVX2), "b")
    assert found.state == "warning"
    assert found.text.startswith(
        "4.00 GiB of 8.00 GiB free; the control group of this process allows 6.00 GiB, and b needs "
    )
    assert machine.check_memory(None, None).state == "ok"
    monkeypatch.setattr(machine, "free_memory", lambda: 300 << 20)
    assert machine.check_memory(None, None).fix == "close other programs"
    monkeypatch.setattr(processors, "processors", lambda: (2, 4, 1.5))
    assert machine.check_threads(dataclasses.replace(settings, threads=1)).state == "ok"
    found = machine.check_threads(dataclasses.replace(settings, threads=2))
    assert (found.state, "--threads) to 1 or auto" in found.fix) == ("warning", True)
    found = machine.check_threads(dataclasses.replace(settings, threads=0))
    assert (found.state, found.text) == (
        "ok", "found by measuring, from 1 to 2; 2 physical cores, 4 logical",
    )  # fmt: skip
    assert processors.cores() == processors.Cores(1, 2)
    monkeypatch.setattr(processors, "processors", lambda: (2, 4, None))
    found = machine.check_threads(dataclasses.replace(settings, threads=5))
    assert (found.state, "to 2 or auto" in found.fix) == ("warning", True)


def test_a_clock_that_is_behind() -> None:
    assert machine.check_clock().state == "ok"
    found = machine.check_clock(0)
    assert found.state == "warning"
    assert found.text.startswith("1970-01-01 00:00 UTC, which is before")
