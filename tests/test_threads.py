"""docs/architecture.md lists exactly the threads that a server and its workers run."""

from __future__ import annotations

import base64
import os
import platform
import re
import signal
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from changed_models import with_template
from processes import Child, serving
from sticks import content, put
from support import STARTER, Json, Stream, chat_body, endless, eventually, request
from tiny_vision import make_seeing, pixels, png

from offgrid.server import Server

if sys.platform == "win32":
    pytest.skip("no such signals", allow_module_level=True)

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
IN_PROGRAMS = "http"
"""The thread that serves when a program embeds the server, not under ``offgrid serve``."""


class Row(NamedTuple):
    """A row of the table: a process, a pattern of names, and the number of such threads."""

    process: str
    name: str
    count: str

    def matches(self, name: str) -> bool:
        return re.fullmatch(re.escape(self.name).replace("<n>", r"\d+"), name) is not None


ROWS = [
    Row(*row) for row in re.findall(r"^\| (\w+) \| `([^`]+)` \| ([^|]+) \|", PAGE, re.MULTILINE)
]


def recorded(folder: Path, pid: int) -> set[str]:
    """The names of all threads that a process has started so far."""
    return set((folder / str(pid)).read_text(encoding="utf-8").splitlines())


def compare(process: str, names: set[str]) -> None:
    """Fail unless these are the threads that the table lists for a process."""
    rows = [row for row in ROWS if row.process == process and row.name != IN_PROGRAMS]
    for name in names:
        assert [row for row in rows if row.matches(name)], (
            f"{name} of the {process}: not in the table"
        )
    for row in rows:
        if row.name == "memory-trimmer" and platform.libc_ver()[0] != "glibc":
            continue
        of_this_row = {name for name in names if row.matches(name)}
        assert of_this_row, f"{row.name} of the {process}: no such thread"
        if row.count.isdigit():
            assert len(of_this_row) == int(row.count), row


def see(url: str) -> None:
    """Load a vision model in place of another model, and let it encode an image."""
    data = base64.b64encode(png(pixels(1))).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    body = {"model": "seeing", "max_tokens": 1, "messages": [{"role": "user", "content": [image]}]}
    assert request(url, "POST", "/v1/chat/completions", body).status == 200


def compute_hard_masks(url: str) -> None:
    """Use a grammar with 300 optional letters, so that a mask takes milliseconds."""
    grammar = "start: /[0-9]{8}/ letter{0,300}\nletter: /[a-z]/?"
    body = chat_body(grammar=grammar, grammar_type="lark", max_tokens=40, ignore_eos=True)
    assert request(url, "POST", "/v1/chat/completions", body).status == 200


def end_the_worker(child: Child) -> None:
    """Kill a worker while one request streams and one waits for the slot."""
    worker = child.worker()
    with Stream(child.url, "/v1/completions", endless()) as running:
        assert running.read_some()
        # The first ping shows that it waits in the worker's queue.
        with Stream(child.url, "/v1/completions", endless(max_tokens=1)) as waiting:
            worker.kill()
            assert list(waiting.events())[-1] == "[DONE]"


def bring_a_model(url: str, stick: Path) -> None:
    """Import a file that is large enough to be read back from the disk while it is copied."""
    put(stick / "large.gguf", content(1, 34 * 2**20))
    made = request(url, "POST", "/v1/import", {"paths": [str(stick)]}).json
    assert made["status"] == "completed"
    made = request(url, "POST", "/v1/export", {"path": str(stick), "ids": ["large"]}).json
    assert made["status"] == "completed"


def save_prefixes(url: str, threads: Path) -> None:
    """Write a prefix to disk, and read it again. While it is being written, it is still taken from
    memory."""
    otter, fox = "The otter swam down the river. " * 30, "A fox went up the hill one day. " * 30

    def usage(text: str) -> Json:
        body = {"model": STARTER, "prompt": text, "max_tokens": 1}
        answer = request(url, "POST", "/v1/completions", body)
        assert answer.status == 200
        return dict(answer.json["usage"])

    usage(otter)

    def is_read() -> bool:
        usage(fox)
        again = usage(otter)
        assert again["prompt_tokens_details"]["cached_tokens"] == again["prompt_tokens"] - 1
        return any("prefix-reader" in file.read_text() for file in threads.iterdir())

    eventually(is_read, "a prefix is read from disk")


@pytest.mark.slow
def test_all_threads_are_in_the_table(tmp_path: Path, starter_path: Path) -> None:
    """One server does everything for which a thread is started."""
    threads = tmp_path / "threads"
    threads.mkdir()
    (tmp_path / "models").mkdir()
    make_seeing(tmp_path / "models")
    # A template with an operation that only the renderer's process runs.
    template = "{% for m in messages %}{{ m.content | center(1) }}{% endfor %}"
    with_template(starter_path, tmp_path / "models" / starter_path.name, template)
    path = os.pathsep.join([str(HERE / "recorded"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {"PYTHONPATH": path, "RECORDED_THREADS": str(threads)}
    environ |= {"NOTIFY_SOCKET": "@offgrid-tests", "WATCHDOG_USEC": "60000000"}  # as systemd does
    flags = (
        "--import-roots",
        str(tmp_path / "stick"),
        "--max-models",
        "1",
        "--parallel",
        "1",
        "--sse-ping-interval",
        "1",
        "--cache-ram-mb",
        "0",
    )
    with serving(tmp_path, *flags, "--model", STARTER, **environ) as child:
        child.wait_ready()
        url = child.url
        compute_hard_masks(url)
        body = {"model": STARTER, "prompt": "word " * 20_000, "max_tokens": 1}
        assert request(url, "POST", "/v1/completions", body).status == 400  # large, and too long
        save_prefixes(url, threads)
        end_the_worker(child)
        responses = "/v1/responses"
        made = request(url, "POST", responses, {"model": STARTER, "input": "a", "background": True})
        cancelled = request(url, "POST", f"{responses}/{made.json['id']}/cancel")
        assert cancelled.status == 200
        see(url)
        bring_a_model(url, tmp_path / "stick")
        os.kill(child.process.pid, signal.SIGHUP)
        child.err.find("SIGHUP: read the settings again")
        os.kill(child.process.pid, signal.SIGUSR2)
        child.err.find("SIGUSR2 has no effect")
        child.process.terminate()
        assert child.wait() == 0
        pids = {int(file.name) for file in threads.iterdir()}
    compare("server", recorded(threads, child.process.pid))
    workers = [recorded(threads, pid) for pid in pids - {child.process.pid}]
    compare("worker", set().union(*workers))


def test_a_server_in_a_program_has_a_thread_for_its_sockets(server: Server) -> None:
    assert request(server.url, "GET", "/health").status == 200
    assert IN_PROGRAMS in {thread.name for thread in threading.enumerate()}
