"""The server that ``attacks.py`` attacks, with its models and its other client."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import models
import psutil
from attack_wire import KEY, TIMEOUT, Outcome, encoded, exchange, head
from servers import OffGrid

from offgrid.engine.protocol.commands import Load
from offgrid.store.catalogue import STARTER_PATH
from offgrid.store.keys import Grant, KeyFile

WATCHER = Path(__file__).with_name("attack_watcher.py")
FLOOD = "{% for i in range(4096) %}{{ '\U0001f600' * 4095 }}{% endfor %}"
"""A chat template that writes 16.7 million characters, which are 64 MB."""

LIMITS = (
    "--requests-per-minute", "100000", "--tokens-per-minute", "100000000",
    "--concurrent-requests", "1000",
)  # fmt: skip
"""With ``--keys``: limits of callers that are counted and that no attack reaches."""


class Stage:
    """A server with its models, the other client, and the helpers of attacks.

    Attributes:
        quick: whether to make attacks small.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self._program: str = options.program
        self._folder = folder
        self._log = (folder / "log").open("ab")
        self.responses = folder / "responses.sqlite3"
        self._server: OffGrid | None = None
        self._watcher: subprocess.Popen[str] | None = None
        self.base = 0
        """Bytes of the server's process before the first attack on it."""
        self._access: tuple[str, ...] = ()
        self._secrets = self._make_keys() if options.keys else {}
        self._make_models()

    def _make_keys(self) -> dict[str, str]:
        """Create keys for the attacks, which all of their requests have, and for the watcher."""
        keys = KeyFile(self._folder / "keys.sqlite3")
        secrets = {
            name: keys.create(name, Grant(frozenset(("admin",))))[1]
            for name in ("attacker", "watcher")
        }
        keys.close()
        os.environ[KEY] = secrets["attacker"]
        self._access = ("--keys-file", str(self._folder / "keys.sqlite3"), *LIMITS)
        return secrets

    def _make_models(self) -> None:
        where = self._folder / "models"
        where.mkdir()
        # Copies, not links: a worker is recognised by the file that it has mapped.
        for name in ("watched", "target", *(f"turn{number}" for number in range(6))):
            shutil.copy(STARTER_PATH, where / f"{name}.gguf")
        shutil.copy(models.make("small-controls"), where / "controls.gguf")
        shutil.copy(models.make("many-tokens"), where / "tokens.gguf")
        (where / "broken.gguf").write_bytes(b"GGUF" + random.Random(1).randbytes(4096))
        _make_flood(where / "flood.gguf")

    # --- life -----------------------------------------------------------------------------------

    @property
    def server(self) -> OffGrid:
        """The running server."""
        assert self._server is not None
        return self._server

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return self.server.port

    def start(self) -> None:
        """Start a server and its watcher unless they run."""
        if self._server is not None and self._server.process.poll() is None:
            return
        self.stop()
        self._server = self.serve()
        self._server.warm()
        self._watcher = subprocess.Popen(
            [sys.executable, str(WATCHER), str(self.port), self.server.model,
             str(self.server.process.pid)],
            env={**os.environ, KEY: self._secrets.get("watcher", "")},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.look()
        time.sleep(1.0)
        self.base = self.look()["resident"]

    def serve(self) -> OffGrid:
        """Return a new server; the caller closes it."""
        where = self._folder / "models"
        load = Load(str(where / "watched.gguf"), parallel=8, ctx_size=0)
        flags = (
            "--models-dir", str(where), "--max-models", "3",
            "--responses-file", str(self.responses), "--drain-timeout", "0", *self._access,
        )  # fmt: skip
        server = OffGrid(load, self._program, queue_size=64, flags=flags, stderr=self._log)
        server.key = self._secrets.get("watcher", "")
        return server

    def stop(self) -> None:
        """End the server and its watcher."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        """End everything."""
        self.stop()
        self._log.close()

    def look(self) -> dict[str, Any]:
        """Return the watcher's report since the last call."""
        assert self._watcher is not None
        assert self._watcher.stdin is not None
        assert self._watcher.stdout is not None
        self._watcher.stdin.write("\n")
        self._watcher.stdin.flush()
        seen: dict[str, Any] = json.loads(self._watcher.stdout.readline())
        return seen

    def worker(self, model: str) -> psutil.Process | None:
        """The process that serves a model."""
        for child in psutil.Process(self.server.process.pid).children():
            with contextlib.suppress(psutil.Error, OSError):
                maps = Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8")
                if f"/{model}.gguf" in maps:
                    return child
        return None

    # --- requests -------------------------------------------------------------------------------

    def ask(self, path: str, body: Any, method: str = "POST", **headers: str) -> str:
        """Send one request; return its status, or a word for what happened instead."""
        data = b"" if body is None else encoded(body)
        return self.exchange(head(method, path, len(data), headers) + data)

    def exchange(self, *pieces: bytes, timeout: float = TIMEOUT) -> str:
        """Send bytes; return the status of the response, or a word for what happened instead."""
        return exchange(self.port, pieces, timeout)

    def together(self, asks: Iterable[Callable[[], str]]) -> Outcome:
        """Call all functions at once; count the statuses."""
        work = list(asks)
        with ThreadPoolExecutor(max(1, len(work))) as threads:
            return Counter(threads.map(lambda ask: ask(), work))


def _make_flood(path: Path) -> None:
    """Write a small model with the chat template ``FLOOD``."""
    recipe = models.RECIPES["small-llama"]
    writer = models.gguf.GGUFWriter(path, recipe.architecture)
    recipe.build(writer, path.stem, recipe.shape)
    writer.kv_data[0][models.gguf.Keys.Tokenizer.CHAT_TEMPLATE].value = FLOOD
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
