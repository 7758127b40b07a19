"""Records what a third-party client sends, as ``tests/clients/recorded`` has it.

::

    offgrid serve &
    python tests/lib/recorder.py tests/clients/recorded/NAME.json

prints an address. Point the client at it, with any API key, and use the client: a chat, a stream, a
call of a tool with its result. Each request is passed on to the server, and its path and body are
written to the file at once. Ctrl-C ends the recorder.

Headers are not recorded. Secrets, the names and folders of this machine, random ids of clients and
long texts, such as the prompts of a client's authors, are replaced: see :class:`Cleaner`. Read the
file before you commit it all the same.
"""

from __future__ import annotations

import argparse
import getpass
import http.client
import json
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MAX_TEXT = 400
"""Characters of a text that is recorded; a sentence stands for a longer one."""
_SECRET = re.compile(r"(api[-_]?key|authorization|password|secret|cookie|access[-_]?token)$", re.I)
_KEY = re.compile(r"\b(?:sk|pk|hf|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{8,}|\bBearer \S+", re.I)
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.I)
_DATA = re.compile(r"^data:[\w/+.-]+;base64,")
_USUAL = ("localhost", "root", "user")
"""Names that tell nothing, and may be words of a request, such as ``root`` in a grammar."""
_PASSED_ON = ("content-type", "accept", "authorization")
_NOT_PASSED_BACK = ("connection", "content-length", "date", "server", "transfer-encoding")


def machine_values() -> dict[str, str]:
    """What tells this machine and its user from others -> what stands for it."""
    home, name = str(Path.home()), socket.gethostname()
    folders = {os.getcwd(): "/project", home: "/home/user", tempfile.gettempdir(): "/tmp"}
    values = {folder: instead for folder, instead in folders.items() if len(folder) > 1}
    named = {name: "machine", getpass.getuser(): "user"}
    return values | {name: instead for name, instead in named.items() if name not in _USUAL}


class Cleaner:
    """Replaces secrets and what differs from machine to machine.

    Args:
        values: text -> what stands for it. A text counts where no letter or digit is next to it.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        ordered = sorted(values, key=len, reverse=True)
        self._values = values
        self._own = re.compile(
            rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, ordered)) or '(?!)'})(?![A-Za-z0-9])"
        )
        self._ids: dict[str, str] = {}

    def clean(self, value: Any) -> Any:
        """Return a JSON value without secrets; the same id has the same stand-in everywhere."""
        if isinstance(value, dict):
            return {
                name: "removed" if _SECRET.search(name) and inner else self.clean(inner)
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self.clean(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        if len(text) > MAX_TEXT and not _DATA.match(text):
            return f"A text of {len(text) // 100 * 100} characters."
        text = _KEY.sub("removed", text)
        text = self._own.sub(lambda match: self._values[match[0]], text)
        return _UUID.sub(lambda match: self._id(match[0]), text)

    def _id(self, id: str) -> str:
        number = len(self._ids) + 1
        return self._ids.setdefault(id.lower(), f"00000000-0000-4000-8000-{number:012}")


class Recorder:
    """A server that passes requests on to another one and writes down those with a body.

    Args:
        file: the list of requests, written anew after each request.
        server: base URL of the server that answers.
        values: as for :class:`Cleaner`.
    """

    def __init__(self, file: Path, server: str, values: Mapping[str, str]) -> None:
        self._file = file
        self.upstream = urlsplit(server).netloc
        self._lines: list[str] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"recorder": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._cleaner = Cleaner({**values, self.url: server})
        self._thread = threading.Thread(target=self._http.serve_forever, name="recorder")

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End after the running requests."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def record(self, path: str, raw: bytes) -> None:
        """Write down a request, unless the same one is in the file."""
        try:
            body = json.loads(raw)
        except ValueError:
            return  # not a request of the API
        request = {"path": path, "body": self._cleaner.clean(body)}
        line = json.dumps(request, ensure_ascii=False)
        with self._lock:
            if line not in self._lines:
                self._lines.append(line)
                text = "[\n" + ",\n".join(self._lines) + "\n]\n"
                self._file.write_text(text, encoding="utf-8")


class _Handler(BaseHTTPRequestHandler):
    """Passes one client's requests on."""

    protocol_version = "HTTP/1.1"
    recorder: Recorder

    def _pass_on(self) -> None:
        raw = self._body()
        if raw:
            self.recorder.record(urlsplit(self.path).path, raw)
        connection = http.client.HTTPConnection(self.recorder.upstream)
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        try:
            connection.request(self.command, self.path, raw or None, headers)
            self._answer(connection.getresponse())
        finally:
            connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(pieces)

    do_GET = do_POST = do_DELETE = do_HEAD = _pass_on

    def _answer(self, response: http.client.HTTPResponse) -> None:
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _NOT_PASSED_BACK:
                self.send_header(name, value)
        self.send_header("Connection", "close")  # so the end of the answer needs no length
        self.end_headers()
        self.close_connection = True
        while piece := response.read1(1 << 16):  # as it comes: it may be a stream
            self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:
        sys.stderr.write(f"{self.command} {self.path}\n")


def main() -> None:
    """Record until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Record the requests of a client.")
    parser.add_argument("file", type=Path, help="where to write them")
    parser.add_argument("--server", default="http://127.0.0.1:11611", help="what answers")
    given = parser.parse_args()
    recorder = Recorder(given.file, given.server, machine_values())
    recorder.start()
    print(f"Point the client at {recorder.url}/v1. Ctrl-C ends the recording.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        recorder.stop()


if __name__ == "__main__":
    main()
