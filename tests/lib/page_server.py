"""Starts servers for the browser tests, which run in Node, and changes them as the tests ask.

    python tests/lib/page_server.py      # prints its address: OFFGRID_CONTROL for one test file

A test sends JSON with POST and gets JSON:

    /start    flags, environ, keys, models, model, peers
                                             a new server in new folders: id, url, folders; `peers`
                                             is its name among other machines, if it talks to any
    /stop     id                             ends it, as Ctrl-C does
    /restart  id                             starts it again at the same address, with its files
    /end      id                             kills it
    /key      id, name, scopes               creates a key: key_id, secret
    /revoke   id, name                       revokes it
    /stick    id, name, size or model        puts a large file, or one of its models, onto a stick
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import page_models
from keyed import new_key
from processes import Child, program
from sticks import put_large
from support import STARTER, Json

from offgrid.store.keys import KeyFile

_WRITING = threading.Lock()


def _written_models(folder: Path) -> Path:
    """The folder with the models of all servers of a run, which may be started at the same time."""
    with _WRITING:
        if not folder.is_dir():
            folder.mkdir()
            page_models.write_all(folder)
    return folder


class PageServer:
    """One ``offgrid serve`` with all its files in a folder."""

    def __init__(self, folder: Path, body: Json) -> None:
        self._folder = folder
        self._body = body
        self._port = "0"
        for name in ("models", "media/stick", "home"):
            (folder / name).mkdir(parents=True)
        if body.get("models", True):
            for path in _written_models(folder.parent / "models").iterdir():
                os.link(path, folder / "models" / path.name)
        self._keys = folder / "keys.sqlite3"
        self.secret = new_key(self._keys, "tester", "admin")[1] if body.get("keys") else None
        self._child = self._start()

    def _start(self) -> Child:
        folder = self._folder
        child = Child(
            program("offgrid"), "serve", "--port", self._port, "--threads", "1",
            "--models-dir", str(folder / "models"), *self._default(),
            "--responses-file", str(folder / "responses.sqlite3"), *self._body.get("flags", []),
            cwd=folder, HOME=str(folder / "home"), XDG_CONFIG_HOME=str(folder / "home"),
            XDG_STATE_HOME=str(folder / "home"), XDG_CACHE_HOME=str(folder / "home"),
            OFFGRID_KEYS_FILE=str(self._keys), OFFGRID_IMPORT_ROOTS=str(folder / "media"),
            OFFGRID_DRAIN_TIMEOUT="0", **self._peers(), **self._body.get("environ", {}),
        )  # fmt: skip
        try:
            url = child.wait_ready() if self._default() else child.url
        except AssertionError as ex:
            child.end()
            raise AssertionError(f"{ex}\n{child.err.text}") from ex
        self._port = str(urlsplit(url).port)
        return child

    def _peers(self) -> dict[str, str]:
        if "peers" not in self._body:
            return {}
        return {
            "OFFGRID_PEERS": "true", "OFFGRID_PEERS_NAME": self._body["peers"],
            "OFFGRID_PEERS_HOST": "127.0.0.1", "OFFGRID_PEERS_PORT": "0",
            "OFFGRID_PEERS_DISCOVERY": "false", "OFFGRID_PEERS_DIR": str(self._folder / "peers"),
        }  # fmt: skip

    def _default(self) -> list[str]:
        name = self._body.get("model", STARTER)
        return ["--model", name] if name else []

    @property
    def about(self) -> Json:
        """What a test needs to know."""
        folder = self._folder
        return {
            "url": self._child.url,
            "secret": self.secret,
            "models": str(folder / "models"),
            "stick": str(folder / "media/stick"),
            "picture": str(folder.parent / "picture.png"),
        }

    def stop(self) -> None:
        self._child.interrupt()
        self._child.wait()

    def restart(self) -> None:
        self._child = self._start()

    def end(self) -> None:
        self._child.end()

    def new_key(self, name: str, scopes: list[Any]) -> Json:
        key, secret = new_key(self._keys, name, *scopes)
        return {"key_id": key.id, "secret": secret}

    def revoke(self, name: str) -> None:
        with contextlib.closing(KeyFile(self._keys)) as keys:
            keys.revoke(name)

    def add_to_stick(self, name: str, model: str | None, size: int) -> None:
        path = self._folder / "media/stick" / name
        if model is None:
            put_large(path, size)
        else:
            shutil.copy(self._folder / f"models/{model}.gguf", path)


class Control:
    """The servers of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[int, PageServer] = {}
        self._ids = itertools.count()

    def call(self, path: str, body: Json) -> Json:
        """Do what a test asks."""
        if path == "/start":
            id = next(self._ids)
            self._servers[id] = PageServer(self._folder / str(id), body)
            return {"id": id, **self._servers[id].about}
        server = self._servers[body["id"]]
        actions: dict[str, Callable[[], Json | None]] = {
            "/stop": server.stop,
            "/restart": server.restart,
            "/end": server.end,
            "/key": lambda: server.new_key(body["name"], body.get("scopes", [])),
            "/revoke": lambda: server.revoke(body["name"]),
            "/stick": lambda: server.add_to_stick(
                body["name"], body.get("model"), body.get("size", 0)
            ),
        }
        return actions[path]() or {}

    def end(self) -> None:
        """Kill all servers."""
        for server in self._servers.values():
            server.end()


@contextlib.contextmanager
def controlling(folder: Path) -> Iterator[str]:
    """Serve a :class:`Control`; yields its URL. All of its servers are ended at the end."""
    control = Control(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, told = 200, control.call(self.path, body)
            except Exception as ex:
                status, told = 500, {"error": f"{type(ex).__name__}: {ex}"}
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Tests print what went wrong themselves."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()
            control.end()


def main() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):  # A shell's background jobs ignore SIGINT.
        signal.signal(name, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="offgrid-page-"))
    try:
        with controlling(folder) as url:
            print(url, flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.pop("OFFGRID_CONTROL", None)
    main()
