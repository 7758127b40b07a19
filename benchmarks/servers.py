"""The programs that the benchmarks compare, each in a separate process."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, ClassVar

import msgspec
import psutil

from offgrid.engine.protocol.commands import Load

if TYPE_CHECKING:
    from typing_extensions import Self

_START_SECONDS = 600.0


class Program:
    """A server for one model, as a context manager that ends it.

    Attributes:
        name: its name in the tables.
        port: the port on which it listens.
        exact: fields that make this server sample with temperature 0.7 and exact top_p 0.95 and
            continue to the last token.
        says_usage: whether its streams end with the token counts.
    """

    name = ""
    says_usage = True
    exact: ClassVar[dict[str, Any]] = {}

    def __init__(self, command: list[str], model: str, port: int, **popen: Any) -> None:
        self.model = model
        self.port = port
        self.key = ""
        """The API key that :meth:`ask` sends; empty for none."""
        self.began = time.perf_counter()
        self.process = subprocess.Popen(command, **popen)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop it as Ctrl-C does, and by force if that fails."""
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the whole answer of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_START_SECONDS)
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connection.request("POST", path, json.dumps({"model": self.model, **body}), headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"{self.name}: {response.status} {content.decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def warm(self) -> None:
        """Return when the model is loaded and has answered once."""
        self.ask("/v1/completions", {"prompt": "x", "max_tokens": 2})

    def resident(self) -> dict[str, int]:
        """Resident bytes of the server's process, and of all processes that it has started."""
        own = psutil.Process(self.process.pid)
        workers = sum(child.memory_info().rss for child in own.children(recursive=True))
        return {"server": own.memory_info().rss, "workers": workers}

    def _wait_listening(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with status {self.process.returncode}")
            try:
                # llama-server listens before its model is loaded, and returns 503 until then.
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/v1/models")
                ready = connection.getresponse().status == 200
                connection.close()
                if ready:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.close()
        raise SystemExit(f"{self.name} did not start")


class OffGrid(Program):
    """``offgrid serve`` as a user starts it.

    Args:
        load: model and sizes.
        program: the command; the installed program if empty.
        queue_size: requests that may wait.
        flags: more flags; of two with the same name the last one counts.
        stderr: target of its log.
    """

    name = "OffGrid"
    exact: ClassVar[dict[str, Any]] = {"temperature": 0.7, "top_p": 0.95, "ignore_eos": True}

    def __init__(
        self,
        load: Load,
        program: str = "",
        queue_size: int = 16,
        flags: Sequence[str] = (),
        stderr: IO[bytes] | None = None,
    ) -> None:
        command = [
            *_offgrid(program), "serve", "--port", "0",
            "--model", load.path, "--parallel", str(load.parallel), "--ctx-size",
            str(load.ctx_size), "--threads", str(load.threads), "--batch-size",
            str(load.batch_size), "--queue-size", str(queue_size), "--max-models", "1",
            # A benchmark computes every prompt, also in its second run.
            "--log-level", "warning", "--cache-disk-mb", "0", *flags,
        ]  # fmt: skip
        environ = {k: v for k, v in os.environ.items() if not k.startswith("OFFGRID_")}
        environ["PYTHONUNBUFFERED"] = "1"
        self.lines: list[tuple[float, str]] = []
        """Its output with the time of each line."""
        self._printed = threading.Condition()
        super().__init__(
            command, Path(load.path).stem, 0, stdout=subprocess.PIPE, stderr=stderr, text=True,
            env=environ,
        )  # fmt: skip
        assert self.process.stdout is not None
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        self.listening, line = self.wait_line(r"http://127\.0\.0\.1:\d+")
        self.port = int(re.findall(r"http://127\.0\.0\.1:(\d+)", line)[0])

    def _read(self, output: IO[str]) -> None:
        for line in output:
            with self._printed:
                self.lines.append((time.perf_counter(), line))
                self._printed.notify_all()
        with self._printed:
            self.lines.append((time.perf_counter(), ""))
            self._printed.notify_all()

    def wait_line(self, pattern: str) -> tuple[float, str]:
        """Return the time and the text of the first line that matches a pattern."""
        seen = 0
        with self._printed:
            while True:
                for when, line in self.lines[seen:]:
                    if re.search(pattern, line):
                        return when, line
                    if not line:
                        raise SystemExit("offgrid serve ended before it was ready")
                seen = len(self.lines)
                if not self._printed.wait(_START_SECONDS):
                    raise SystemExit("offgrid serve does not get ready")


def _offgrid(program: str) -> list[str]:
    if program:
        words = shlex.split(program)
        return [sys.executable if words[0] == "python" else words[0], *words[1:]]
    # "python -m" would use the source tree in the current folder, not the installed package.
    found = shutil.which("offgrid", path=sysconfig.get_path("scripts"))
    if found is None:
        raise SystemExit("offgrid is not installed here: pip install '.[test]', or use --program")
    return [found]


class LlamaServer(Program):
    """llama.cpp's own server."""

    name = "llama-server"
    # Its chain is set to the OpenAI API's definition: temperature first, then top_p, nothing else.
    exact: ClassVar[dict[str, Any]] = {
        "temperature": 0.7, "top_p": 0.95, "top_k": 0, "min_p": 0.0, "ignore_eos": True,
        "samplers": ["temperature", "top_p"],
    }  # fmt: skip

    def __init__(self, load: Load, binary: str) -> None:
        port = _free_port()
        command = [
            binary, "--model", load.path, "--port", str(port), "--parallel", str(load.parallel),
            "--ctx-size", str(load.ctx_size * load.parallel), "--batch-size", str(load.batch_size),
            *(["--threads", str(load.threads)] if load.threads else []),
        ]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        super().__init__(command, Path(load.path).stem, port, **quiet)
        self._wait_listening()


class LlamaCppPython(Program):
    """The server that comes with llama-cpp-python. It runs one request at a time."""

    name = "llama-cpp-python"
    says_usage = False
    # It has no ignore_eos, so its speed is calculated from the received tokens.
    exact: ClassVar[dict[str, Any]] = {
        "temperature": 0.7, "top_p": 0.95, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0,
    }  # fmt: skip

    def __init__(self, load: Load) -> None:
        port = _free_port()
        command = [
            sys.executable, "-m", "llama_cpp.server", "--model", load.path, "--port", str(port),
            "--n_ctx", str(load.ctx_size), "--n_batch", str(load.batch_size),
            # Otherwise each new request ends the running one.
            "--interrupt_requests", "false",
            *(["--n_threads", str(load.threads)] if load.threads else []),
        ]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        super().__init__(command, Path(load.path).stem, port, **quiet)
        self._wait_listening()

    @staticmethod
    def missing() -> list[str]:
        """The required modules that are not installed."""
        needed = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings")
        return [name for name in needed if importlib.util.find_spec(name) is None]


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Bare:
    """The bare loop of ``bare.py``."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("bare.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._tell(msgspec.json.encode(load).decode())

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def seconds(
        self, streams: int, prompt_tokens: int, tokens: int, *, steps_only: bool = False
    ) -> float:
        """Time one round, or only its steps after the prompts."""
        task = {
            "streams": streams, "prompt_tokens": prompt_tokens, "tokens": tokens,
            "steps_only": steps_only,
        }  # fmt: skip
        self._tell(json.dumps(task))
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("the bare loop ended; run benchmarks/bare.py by hand to see why")
        return float(json.loads(answer)["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
