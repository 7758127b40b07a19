"""Faults around the server: the clock, the disk, the home, the weights. It goes on serving.

``test_workers.py`` and ``tests/engine/client/test_watchdog.py`` have faults of workers,
``test_held_files.py`` those of model files, ``test_responses_file.py`` those of the stored
responses.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import tiny_models
from processes import Child, all_gone, all_stopped, is_worker, models_flags, program
from responses_calls import PATH
from support import (
    STARTER,
    TIMEOUT,
    Stream,
    endless,
    eventually,
    request,
    response_on,
    together,
)
from tiny_models import make_many_controls
from variants import few

pytestmark = pytest.mark.usefixtures("access")
if sys.platform == "win32":
    pytest.skip("no such faults", allow_module_level=True)

TEXT = "/v1/completions"
JUMPING = Path(__file__).parents[1] / "jumping"
DAY = 86400
Serve = Callable[..., Child]


# --- the clock ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [DAY, -DAY], ids=["forward", "back"])
def test_a_clock_that_jumps_by_a_day(serve: Serve, tmp_path: Path, seconds: int) -> None:
    """No deadline comes earlier or later: streams, idle connections and half a request stay."""
    clock = tmp_path / "clock"
    path = os.pathsep.join([str(JUMPING), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = serve("--parallel", "2", PYTHONPATH=path, JUMPING_CLOCK=str(clock))
    url = child.wait_ready()
    body = {"model": STARTER, "prompt": "Once", "max_tokens": 1}
    before = request(url, "POST", TEXT, body).json["created"]
    where = urlsplit(url)
    with (
        Stream(url, TEXT, endless(max_tokens=300)) as stream,
        socket.create_connection((where.hostname, where.port or 0), TIMEOUT) as half,
        contextlib.closing(http.client.HTTPConnection(where.netloc, timeout=TIMEOUT)) as idle,
    ):
        assert stream.read_some()
        idle.request("GET", "/health")
        idle.getresponse().read()
        held = idle.sock
        data = json.dumps(body).encode()
        head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        half.sendall(head.encode() + data[:3])
        clock.write_text(str(seconds))
        # The loop looks for connections to close whenever a request comes.
        for _ in range(5):
            assert request(url, "GET", "/health").status == 200
        after = request(url, "POST", TEXT, body).json["created"]
        assert abs(after - before - seconds) < DAY / 2  # the clock did jump
        half.sendall(data[3:])
        assert response_on(half).status == 200
        idle.request("GET", "/health")
        assert idle.getresponse().status == 200
        assert idle.sock is held
        *_, done = stream.events()
        assert done == "[DONE]"
    child.process.terminate()
    assert child.wait() == 0
    assert "ERROR" not in child.err.text


def test_waitress_uses_no_other_time() -> None:
    """Its two modules with deadlines have our clock, see the module ``clock``."""
    import waitress.channel
    import waitress.server

    from offgrid.api.http.waitress.clock import use_monotonic_clock

    use_monotonic_clock()
    for module in (waitress.server, waitress.channel):
        assert Path(str(module.__file__)).read_text().count("time.") == Path(
            str(module.__file__)
        ).read_text().count("time.time()")
        assert not hasattr(module.time, "sleep")


# --- the home and the disk ------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system, if this user may mount one."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def no_home(folder: Path) -> Iterator[Path]:
    """A home that is not there and cannot be made, as that of a service account."""
    yield Path("/proc/no-home") if sys.platform == "linux" else Path("/dev/null/home")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    with mounted(folder / "home", "-o", "ro") as home:
        yield home


@contextlib.contextmanager
def full(folder: Path) -> Iterator[Path]:
    with mounted(folder / "home", "-o", "size=256k") as home:
        with contextlib.suppress(OSError), (home / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield home


@pytest.mark.slow
@pytest.mark.parametrize("place", few(1, [no_home, read_only, full]))
def test_a_home_that_cannot_be_written(
    tmp_path: Path, place: Callable[[Path], contextlib.AbstractContextManager[Path]]
) -> None:
    """The server starts and answers; what cannot be stored says so."""
    models = tmp_path / "models"
    models.mkdir()
    with place(tmp_path) as home:
        child = Child(
            program("offgrid"), "serve", "--port", "0", *models_flags(models),
            cwd=tmp_path, HOME=str(home), XDG_CONFIG_HOME=str(home), XDG_CACHE_HOME=str(home),
        )  # fmt: skip
        try:
            url = child.wait_ready()
            body: dict[str, Any] = {"model": STARTER, "input": "Once", "max_output_tokens": 4}
            answer = request(url, "POST", PATH, body)
            assert answer.status == 200
            assert answer.json["store"] is False
            assert answer.json["output"]
            missing = request(url, "GET", f"{PATH}/resp_none")
            assert missing.status in (404, 500, 503)
            assert str(home) not in missing.body.decode()
            with Stream(url, TEXT, endless(max_tokens=5)) as stream:
                *_, done = stream.events()
                assert done == "[DONE]"
            child.err.find(r"responses\.sqlite3 cannot be used")
            child.process.terminate()
            assert child.wait() == 0
            assert "Traceback" not in child.err.text
        finally:
            child.end()


@pytest.mark.slow
def test_a_disk_that_becomes_full(tmp_path: Path) -> None:
    """Answers go on and say that they are not stored, what was stored can be read, and with room
    everything is stored again."""
    models = tmp_path / "models"
    models.mkdir()
    body = {"model": STARTER, "input": "Once", "max_output_tokens": 16}
    with mounted(tmp_path / "disk", "-o", "size=2m") as disk:
        child = Child(
            program("offgrid"), "serve", "--port", "0", *models_flags(models), "--threads", "1",
            "--responses-file", str(disk / "responses.sqlite3"), cwd=tmp_path,
        )  # fmt: skip
        try:
            url = child.wait_ready()
            kept = request(url, "POST", PATH, body).json
            assert kept["store"] is True
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            for _ in range(3):
                answer = request(url, "POST", PATH, {**body, "input": "Once more " * 200})
                assert (answer.status, answer.json["store"]) == (200, False)
                assert answer.json["output"]
            assert request(url, "GET", f"{PATH}/{kept['id']}").json == kept
            assert request(url, "GET", "/health").status == 200
            (disk / "filler").unlink()
            later = request(url, "POST", PATH, body).json
            assert later["store"] is True
            for answered in (kept, later):
                assert request(url, "GET", f"{PATH}/{answered['id']}").json == answered
            child.process.terminate()
            assert child.wait() == 0
            assert "Traceback" not in child.err.text
        finally:
            child.end()


# --- weights and cells ----------------------------------------------------------------------------


def spoilt(data: bytes) -> bytes:
    """A model file whose header is right, and whose weights are NaN in every type."""
    half = len(data) // 2
    return data[:half] + b"\xff" * (len(data) - half)


def test_logits_that_are_nan(serve: Serve, models: Path, tmp_path: Path) -> None:
    """B10: a request to a model with spoilt weights ends with an error, and not with text."""
    sound = tiny_models.make("llama", tmp_path)
    (models / "sound.gguf").symlink_to(sound)
    (models / "spoilt.gguf").write_bytes(spoilt(sound.read_bytes()))
    url = serve("--ctx-size", "128", "--max-models", "2").url
    body = {"model": "spoilt", "prompt": "Once", "max_tokens": 5}
    for _ in range(2):
        answer = request(url, "POST", TEXT, body)
        assert (answer.status, answer.json["error"]["code"]) == (500, "engine_fault")
    with Stream(url, TEXT, {**body, "stream": True}) as stream:
        events = list(stream.events())
        # The first token is wrong already, so that the error is the whole answer.
        (last,) = events if events else [stream.response.read().decode()]
        assert json.loads(last)["error"]["code"] == "engine_fault"
    assert request(url, "POST", TEXT, {**body, "model": "sound"}).status == 200


@pytest.mark.slow
def test_more_tokens_than_cells(serve: Serve) -> None:
    """A13: all requests are answered in turn, each to the end of its context, without a flood of
    log lines."""
    child = serve("--ctx-size", "256", "--parallel", "2", "--queue-size", "16")
    url = child.wait_ready()

    def ask(number: int) -> tuple[int, str]:
        text = f"{number} is the number of the otter in the river. " * 8
        answer = request(url, "POST", TEXT, endless(text, stream=False, max_tokens=1000))
        return answer.status, answer.json["choices"][0]["finish_reason"]

    answers = together([lambda number=number: ask(number) for number in range(8)])
    assert answers == [(200, "length")] * 8
    assert len(child.err.text.splitlines()) < 60


# --- no process is left ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_an_examination_ends_with_its_server(serve: Serve, models: Path, tmp_path: Path) -> None:
    """Even if it is stopped, so that it cannot notice the end of its pipe."""
    tiny = tiny_models.make("llama", tmp_path)
    for name in ("a", "b"):
        (models / f"{name}.gguf").symlink_to(tiny)
    child = serve("--max-models", "1", "--model", "a", "--ctx-size", "64")
    url = child.wait_ready()
    worker = child.worker()

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            request(url, "POST", TEXT, {"model": "b", "prompt": "Once", "max_tokens": 1})

    asking = threading.Thread(target=ask)
    asking.start()
    others: list[psutil.Process] = []

    def stop_it() -> bool:
        """Stop the examination while it imports its modules, or later."""
        for process in child.workers():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                if process == worker or not is_worker(process):
                    continue
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                if "msgspec" in maps or "numpy" in maps:
                    process.suspend()
                    others.append(process)
                    return True
        return False

    eventually(stop_it, "another process is started")
    child.process.kill()
    all_gone([worker, *others])
    asking.join(TIMEOUT)
    assert not asking.is_alive()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_rendering_ends_with_its_server(serve: Serve, models: Path) -> None:
    """Even if it is stopped. The template has an operation that Python cannot interrupt."""
    make_many_controls(models, 2, "{{ '\U0001f600' * 1000000 }}" * 16)
    child = serve()
    url = child.wait_ready()
    worker = child.worker()
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    assert request(url, "POST", "/v1/chat/completions", body).status == 400
    processes = psutil.Process(child.process.pid).children()
    assert len(processes) == 2
    assert worker in processes
    for process in processes:
        process.suspend()
        eventually(lambda process=process: all_stopped(process.pid), "it has stopped")
    child.process.kill()
    all_gone(processes)
