"""How an LLM is found, loaded, ended, and replaced after a crash."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from support import STARTER, TIMEOUT, eventually

from offgrid import LLM
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ConfigError, EngineFault, ModelLoadFailed, ModelNotFound
from offgrid.inprocess.loading import open_pool


@pytest.fixture
def folder(tmp_path: Path, starter_path: Path) -> Path:
    """A folder with two models."""
    for name in ("otter-small", "beaver"):
        (tmp_path / f"{name}.gguf").symlink_to(starter_path)
    return tmp_path


def worker(llm: LLM) -> psutil.Process:
    with llm._model.engine() as engine:
        assert engine.pid is not None
        return psutil.Process(engine.pid)


def busy(llm: LLM) -> int:
    with llm._model.engine() as engine:
        return engine.in_flight


# --- which model ----------------------------------------------------------------------------------


def test_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EnginePool, "engine", lambda pool, name: None)  # loads nothing
    settings = {"models_dir": folder, "model_aliases": {"pet": "otter-small"}}
    for name, id in (("otter-small", "otter-small"), ("Otter", "otter-small"), ("", "beaver"),
                     ("pet", "otter-small"), (folder / "beaver.gguf", "beaver"),
                     (str(folder / "beaver.gguf"), "beaver"), (STARTER, STARTER)):  # fmt: skip
        assert open_pool(name, None, settings).default_id == id
    monkeypatch.chdir(folder)
    assert open_pool("beaver.gguf", None, {}).default_id == "beaver"


def test_a_path(folder: Path) -> None:
    with LLM(folder / "beaver.gguf", threads=1) as llm:
        assert llm.name == "beaver"
        assert llm.chat("Hello!", temperature=0).text
    assert repr(llm) == "<LLM beaver, closed>"


@pytest.mark.slow
def test_settings(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "offgrid.toml"
    file.write_text(f"models_dir = '{folder}'\nctx_size = 512\n", encoding="utf-8")
    monkeypatch.setenv("OFFGRID_NUM_THREADS", "1")
    with LLM(config=file) as llm:
        assert llm.ctx_size == 512
    with LLM(config=file, ctx_size=256) as llm:
        assert llm.ctx_size == 256


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("badger", ModelNotFound, "Model not found: badger. The models are beaver, otter-small."),
        ("smollm2-135m", ModelNotFound, "Fetch it with: offgrid get smollm2-135m"),
        ("./no/such.gguf", ConfigError, "such.gguf: does not exist"),
    ],
)
def test_unknown_names(folder: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LLM(name, models_dir=folder)


def test_wrong_settings(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none does not exist"):
        LLM("beaver", models_dir=tmp_path / "none")
    with pytest.raises(ConfigError, match="is a folder"):
        LLM(folder)
    with pytest.raises(ConfigError, match="port is not a setting of LLM"):
        LLM("beaver", models_dir=folder, port=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="ctx-size"):
        LLM("beaver", models_dir=folder, ctx_size=-1)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.raises((ModelLoadFailed, ConfigError, ModelNotFound)):
        LLM(tmp_path / "broken.gguf")


# --- the end --------------------------------------------------------------------------------------


def test_close_ends_the_worker() -> None:
    llm = LLM(STARTER, threads=1)
    process = worker(llm)
    stream = llm.stream("Tell me a story.", ignore_eos=True)
    next(iter(stream))
    llm.close()
    llm.close()
    assert not process.is_running()
    with pytest.raises(RuntimeError, match="closed"):
        list(stream)
    with pytest.raises(RuntimeError, match="This LLM is closed"):
        llm.chat("Hello!")
    with pytest.raises(RuntimeError, match="This LLM is closed"):
        llm.tokenize("Hello!")


@pytest.mark.slow
def test_an_llm_that_is_forgotten_ends_its_worker() -> None:
    llm = LLM(STARTER, threads=1)
    process = worker(llm)
    del llm
    gc.collect()
    eventually(lambda: not process.is_running(), "the worker has ended")


@pytest.mark.slow
def test_a_program_that_ends_leaves_no_worker(tmp_path: Path) -> None:
    program = (
        "from offgrid import LLM\n"
        f"llm = LLM({STARTER!r}, threads=1)\n"
        "stream = llm.stream('Tell me a story.', ignore_eos=True)\n"
        "next(iter(stream))\n"
        "with llm._model.engine() as engine: print(engine.pid)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd="/", timeout=TIMEOUT
    )
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: not psutil.pid_exists(int(done.stdout)), "the worker has ended")


def test_a_closed_stream_has_no_more_pieces(llm: LLM) -> None:
    with llm.stream("Tell me a story.", ignore_eos=True, max_tokens=8) as stream:
        next(iter(stream))
        llm.chat("Hello!", max_tokens=8)  # meanwhile other pieces come, which nobody reads
    assert list(stream) == []


@pytest.mark.slow
def test_a_stream_that_nobody_reads_frees_its_slot(llm: LLM) -> None:
    eventually(lambda: busy(llm) == 0, "earlier streams have ended")
    with llm.stream("Tell me a story.", ignore_eos=True) as stream:
        next(iter(stream))
        assert busy(llm) == 1
    eventually(lambda: busy(llm) == 0, "the closed stream has ended")
    assert list(stream) == []
    for _ in llm.stream("Tell me a story.", ignore_eos=True):
        break
    gc.collect()
    eventually(lambda: busy(llm) == 0, "the forgotten stream has ended")


@pytest.mark.slow
def test_ctrl_c_ends_the_answer_and_not_the_llm(tmp_path: Path) -> None:
    """SIGINT goes to the whole group, so also to the worker."""
    program = (
        "import os, signal, threading\n"
        "from offgrid import LLM\n"
        f"llm = LLM({STARTER!r}, threads=1)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "stop = threading.Event()\n"
        "def press():\n"
        "    with llm._model.engine() as engine:\n"
        "        while not engine.in_flight: pass\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "threading.Thread(target=press).start()\n"
        "try: llm.chat('Tell me a story.', ignore_eos=True)\n"
        "except KeyboardInterrupt: print('stopped')\n"
        "print(llm.chat('Hello!', temperature=0).finish_reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd="/",
        timeout=TIMEOUT, start_new_session=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("stopped\nstop\n", "")


@pytest.mark.slow
def test_a_crash_fails_one_call_and_the_next_is_answered(no_pauses: None) -> None:
    with LLM(STARTER, threads=1) as llm:
        first = worker(llm)
        stream = llm.stream("Tell me a story.", ignore_eos=True)
        next(iter(stream))
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(EngineFault, match="died"):
            list(stream)
        assert llm.chat("Hello!", temperature=0).text
        assert worker(llm).pid != first.pid


def test_its_threads_are_listed(llm: LLM) -> None:
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| program \| `([^`]+)` \|", page, re.MULTILINE)
    patterns = [re.escape(row).replace("<n>", r"\d+") for row in rows]
    started: set[str] = set()
    start = threading.Thread.start

    def record(thread: threading.Thread) -> None:
        started.add(thread.name)
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", record)
        llm.chat(["Hello!", "What is 2 + 3?"], max_tokens=2)
        with LLM(STARTER, threads=1):
            pass
    own = {name for name in started if name.startswith("llm-")}
    assert all(any(re.fullmatch(pattern, name) for name in own) for pattern in patterns)
    assert all(any(re.fullmatch(pattern, name) for pattern in patterns) for name in own)


# --- the package ----------------------------------------------------------------------------------


def test_importing_the_package_imports_no_library(tmp_path: Path) -> None:
    """Programs that only sample, and the worker, need nothing of it."""
    program = (
        "import sys; before = set(sys.modules); import offgrid\n"
        "print(sorted(n for n in set(sys.modules) - before if n.startswith('offgrid')\n"
        "             or n.split('.')[0] in ('msgspec', 'falcon', 'numpy', 'llama_cpp')))\n"
        "from offgrid import LLM; print(LLM.__module__)\n"
        "print([n for n in sys.modules if n.split('.')[0] in ('llama_cpp', 'numpy', 'waitress')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd="/", check=True
    )
    assert done.stdout.splitlines() == ["['offgrid']", "offgrid.inprocess.llm", "[]"]
