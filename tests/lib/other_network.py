"""A second machine: a network namespace with a cable to this one, which is in a namespace too.

    unshare --net python other_network.py DIRECTORY OFFGRID

The program starts OFFGRID, the command ``offgrid``, as a user does: with default settings, on all
addresses without a key, and on all addresses with a key. It asks each server for every endpoint
from the second namespace, and prints what was answered as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE, THERE = "192.0.2.1", "192.0.2.2"
PORTS = (22, 80, 443, 8080, 11434, 11435, 11611, 11612, 2019)
ASK = """
import json, socket, sys, urllib.error, urllib.request
address, port, paths, headers, ports = json.load(sys.stdin)
told = {"open": []}
for one in [*ports, port]:
    with socket.socket() as asking:
        asking.settimeout(5)
        if asking.connect_ex((address, one)) == 0:
            told["open"].append(one)
for method, path in paths:
    url = f"http://{address}:{port}{path}"
    data = b"{}" if method == "POST" else None
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            told[f"{method} {path}"] = answer.status
    except urllib.error.HTTPError as ex:
        told[f"{method} {path}"] = ex.code
    except OSError as ex:
        told[f"{method} {path}"] = str(ex.reason if hasattr(ex, "reason") else ex)
print(json.dumps(told))
"""
"""Runs on the second machine: which ports are open, and the status of each request."""


def run(*command: str) -> None:
    """Run a command of the system."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def connect(holder: int) -> None:
    """Lay a cable to the namespace of a process."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
    run("ip", "link", "set", "there", "netns", str(holder))
    run("ip", "addr", "add", f"{HERE}/24", "dev", "here")
    run("ip", "link", "set", "here", "up")
    there = ("nsenter", "--net", "--target", str(holder))
    run(*there, "ip", "addr", "add", f"{THERE}/24", "dev", "there")
    run(*there, "ip", "link", "set", "there", "up")


def ask(holder: int, port: int, paths: list[list[str]], key: str = "") -> dict[str, object]:
    """Ask for paths from the second machine."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    asked = subprocess.run(
        ["nsenter", "--net", "--target", str(holder), sys.executable, "-c", ASK],
        input=json.dumps([HERE, port, paths, headers, PORTS]),
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    told: dict[str, object] = json.loads(asked.stdout)
    return told


class Served:
    """A server, until the block ends."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = 0
        self.paths: list[list[str]] = []

    def __enter__(self) -> Served:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("OffGrid LLM "):
                self.port = int(line.rsplit(":", 1)[1])
            if line.startswith("  ready"):
                break
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()


def paths_of(document: dict[str, dict[str, object]]) -> list[list[str]]:
    """The method and path of every endpoint."""
    return [
        [method.upper(), path.replace("{", "").replace("}", "")]
        for path, methods in document["paths"].items()
        for method in methods  # type: ignore[attr-defined]
        if method in ("get", "post", "delete")
    ]


def document(port: int, key: str) -> dict[str, dict[str, object]]:
    """The server's OpenAPI document, as this machine may read it."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/openapi.json", headers=headers)
    with urllib.request.urlopen(request) as answer:
        found: dict[str, dict[str, object]] = json.load(answer)
        return found


def main() -> None:
    """Start the servers one after the other, and ask them."""
    folder, offgrid = Path(sys.argv[1]), sys.argv[2]
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
        time.sleep(0.01)
    try:
        connect(holder.pid)
        files = (
            "--keys-file", str(folder / "keys.sqlite3"), "--models-dir", str(folder),
            "--model", "offgrid-starter", "--responses-file", str(folder / "responses.sqlite3"),
        )  # fmt: skip
        serve = (offgrid, "serve", "--port", "0", "--threads", "1", *files)
        everywhere = (*serve, "--host", "0.0.0.0")
        told: dict[str, object] = {}
        with Served(*serve) as server:
            paths = paths_of(document(server.port, ""))
            told["default"] = ask(holder.pid, server.port, paths)
        refused = subprocess.run(everywhere, capture_output=True, text=True)
        told["refused"] = [refused.returncode, refused.stderr]
        created = subprocess.run(
            [offgrid, "keys", "create", "test", "--keys-file", str(folder / "keys.sqlite3")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        key = created.stdout.strip()
        with Served(*everywhere) as server:
            told["stranger"] = ask(holder.pid, server.port, paths)
            told["wrong"] = ask(holder.pid, server.port, paths[:3], "sk-wrong")
            told["holder"] = ask(holder.pid, server.port, [["GET", "/v1/models"]], key)
            told["port"] = server.port
        print(json.dumps(told))
    finally:
        holder.kill()
        holder.wait()


if __name__ == "__main__":
    main()
