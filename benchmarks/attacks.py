"""Measures the effect of attacks on a server: on its other clients, and on its memory.

    python benchmarks/attacks.py              # takes some minutes
    python benchmarks/attacks.py --quick      # does everything work?
    python benchmarks/attacks.py --only bodies,killed

Starts ``offgrid serve`` on a free port of this machine and attacks it, one attack after the other.
During each attack another client runs in a separate process. It reads one stream after another of a
model that is not attacked, and requests ``/health`` without pause over a separate connection. A row
shows how much longer the longest pause of its streams was than its usual step, how long the slowest
``/health`` took, the responses to the attack, and whether the server and the worker of the stream
are still the same processes. At the end the server is left idle, and its memory is compared with
that before the first attack.

A server that an attack brings down is restarted for the next one, so the rows are independent.
Everything is bounded: connections, bytes, and the duration of an attack. Nothing leaves this
machine. The exit status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import psutil
from report import add_json_option, percentile, print_table, write_json
from servers import OffGrid

from offgrid.engine.protocol import Load
from offgrid.store.catalogue import STARTER_PATH

MAX_PAUSE = 0.5
"""Seconds that a stream may pause beyond its usual step."""
MAX_HEALTH = 0.2
"""Seconds that ``/health`` may take."""
MAX_GROWTH = 100
"""MiB by which the server's process may exceed its size before the first attack, after ``REST``."""
REST = 60.0
AFTERWARDS = 0.5
"""Seconds after an attack that still count as part of it, for its after-effects."""
TIMEOUT = 60.0
"""Seconds after which a request of an attack is abandoned."""
CHAT, RESPONSES, TEXT = "/v1/chat/completions", "/v1/responses", "/v1/completions"
FLOOD = "{% for i in range(4096) %}{{ '\U0001f600' * 4095 }}{% endfor %}"
"""A chat template that writes 16.7 million characters, which are 64 MB."""

Outcome = Counter[str]


# --- the other client, in a separate process ------------------------------------------------------


class Watcher:
    """Reads streams and requests ``/health``; reports the worst of both since the last report."""

    def __init__(self, port: int, model: str, pid: int) -> None:
        self._port = port
        self._body = json.dumps({
            "model": model, "prompt": "Once upon a time", "ignore_eos": True, "stream": True,
        }).encode()  # fmt: skip
        self._server = psutil.Process(pid)
        self._lock = threading.Lock()
        self._steps: list[float] = []
        self._token_at = time.perf_counter()
        self._health: list[float] = []
        self._asked_at: float | None = None
        self._broken = 0
        self._peak = 0

    def run(self) -> None:
        """Answer each line of standard input with a line of JSON until that ends."""
        for work in (self._stream, self._poll, self._weigh):
            threading.Thread(target=self._forever, args=(work,), daemon=True).start()
        for _ in sys.stdin:
            print(json.dumps(self._tell()), flush=True)

    def _tell(self) -> dict[str, Any]:
        now = time.perf_counter()
        with self._lock:
            steps = [*self._steps, now - self._token_at]
            health = [*self._health, *([] if self._asked_at is None else [now - self._asked_at])]
            told = {
                "pause": max(steps), "step": percentile(steps, 0.5), "tokens": len(steps) - 1,
                "health": max(health, default=0.0), "broken": self._broken, "peak": self._peak,
                "resident": self._resident(),
            }  # fmt: skip
            self._steps, self._health, self._broken, self._token_at = [], [], 0, now
        return told

    def _forever(self, work: Callable[[], None]) -> None:
        while True:
            # A dead server shows as a long pause.
            with contextlib.suppress(OSError, http.client.HTTPException, psutil.Error):
                work()
            time.sleep(0.005)

    def _resident(self) -> int:
        try:
            return int(self._server.memory_info().rss)
        except psutil.Error:
            return 0

    def _weigh(self) -> None:
        self._peak = max(self._peak, self._resident())

    def _stream(self) -> None:
        last = b""
        with socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT) as sock:
            sock.sendall(_head("POST", TEXT, len(self._body)) + self._body)
            while data := sock.recv(1 << 16):
                now = time.perf_counter()
                last = (last + data)[-32:]
                if b"data: " not in data:
                    continue
                with self._lock:
                    self._steps.append(now - self._token_at)
                    self._token_at = now
        if b"data: [DONE]" not in last:
            with self._lock:
                self._broken += 1

    def _poll(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        try:
            while True:
                self._asked_at = began = time.perf_counter()
                connection.request("GET", "/health")
                connection.getresponse().read()
                with self._lock:
                    self._health.append(time.perf_counter() - began)
                    self._asked_at = None
                time.sleep(0.002)
        finally:
            connection.close()


# --- the server under attack ----------------------------------------------------------------------


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
        self._make_models()

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
            [sys.executable, __file__, "--watch", str(self.port), self.server.model,
             str(self.server.process.pid)],
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
            "--responses-file", str(self.responses), "--drain-timeout", "0",
        )  # fmt: skip
        return OffGrid(load, self._program, queue_size=64, flags=flags, stderr=self._log)

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
        data = b"" if body is None else _encoded(body)
        return self.exchange(_head(method, path, len(data), headers) + data)

    def exchange(self, *pieces: bytes, timeout: float = TIMEOUT) -> str:
        """Send bytes; return the status of the response, or a word for what happened instead."""
        return exchange(self.port, pieces, timeout)

    def together(self, asks: Iterable[Callable[[], str]]) -> Outcome:
        """Call all functions at once; count the statuses."""
        work = list(asks)
        with ThreadPoolExecutor(max(1, len(work))) as threads:
            return Counter(threads.map(lambda ask: ask(), work))


def _encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _head(method: str, path: str, length: int, headers: dict[str, str] | None = None) -> bytes:
    more = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": str(length)}
    lines = [f"{name}: {value}" for name, value in {**more, **(headers or {})}.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1", "replace")


def exchange(port: int, pieces: Iterable[bytes], timeout: float = TIMEOUT) -> str:
    """Send bytes over a new connection; return the status or a word for what happened instead."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
            # A server may respond and close before it has read everything.
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    sock.sendall(piece)
            while data := sock.recv(1 << 16):
                answer = answer or data
    except TimeoutError:  # after a response the connection stays open for the next request
        if not answer:
            return "no answer"
    except OSError:
        if not answer:
            return "reset"
    words = answer.split(b" ", 2)
    return words[1].decode("latin-1") if len(words) > 1 else "closed"


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


def chat(model: str, content: str = "Hello!", **fields: Any) -> dict[str, Any]:
    """The body of a short chat."""
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": 4, **fields}


def text(model: str, prompt: Any = "Once", **fields: Any) -> dict[str, Any]:
    """The body of a short completion."""
    return {"model": model, "prompt": prompt, "max_tokens": 4, **fields}


# --- the attacks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """A way to harm the server.

    Attributes:
        name: its name for ``--only``.
        meaning: description for the table.
        run: runs the attack and returns the counted outcomes.
        wanted: the outcomes that are allowed.
        alone: whether it starts separate servers, so that no watcher runs beside it.
    """

    name: str
    meaning: str
    run: Callable[[Stage], Outcome]
    wanted: frozenset[str]
    alone: bool = False


ATTACKS: list[Attack] = []


def attack(
    name: str, meaning: str, *wanted: str, alone: bool = False
) -> Callable[[Callable[[Stage], Outcome]], Callable[[Stage], Outcome]]:
    """Add a function to the list of attacks."""

    def enter(run: Callable[[Stage], Outcome]) -> Callable[[Stage], Outcome]:
        ATTACKS.append(Attack(name, meaning, run, frozenset(wanted), alone))
        return run

    return enter


@attack("first", "16 first requests together, on fresh servers", "200", alone=True)
def first_requests(stage: Stage) -> Outcome:
    """Send the first requests to ``/v1/responses``, which has the largest types."""
    found: Outcome = Counter()
    body = _encoded({"model": "watched", "input": "Once", "max_output_tokens": 4, "store": False})
    message = _head("POST", RESPONSES, len(body)) + body
    for _ in range(2 if stage.quick else 20):
        with stage.serve() as server:
            found += stage.together([functools.partial(exchange, server.port, [message])] * 16)
            if server.process.poll() is not None:
                found["server died"] += 1
    return found


@attack("controls", "a message of `<`, 6,400 control texts", "200", "400", "413")
def control_texts(stage: Stage) -> Outcome:
    """Send texts of lengths at which the search for control texts used to become slow."""
    sizes = (60_000,) if stage.quick else (60_000, 500_000, 2_000_000)
    return Counter(stage.ask(CHAT, chat("controls", "<" * size)) for size in sizes)


@attack("turns", "6 models at once, then in turns, with room for 3", "200")
def models_in_turns(stage: Stage) -> Outcome:
    """The watched model is busy and stays loaded."""
    names = [f"turn{number}" for number in range(6)]
    found = stage.together([lambda name=name: stage.ask(TEXT, text(name)) for name in names])
    for name in names[:2] if stage.quick else names * 2:
        found[stage.ask(TEXT, text(name))] += 1
    return found


@attack("broken", "a file that cannot be loaded, asked for twice; then another", "500", "200")
def broken_file(stage: Stage) -> Outcome:
    """There is no room for another model: no loaded model may be unloaded for the broken one."""
    found = Counter(stage.ask(TEXT, text(name)) for name in ("turn0", "target"))
    healthy = ("turn0", "target")
    before = [stage.worker(name) for name in healthy]
    found += Counter(stage.ask(TEXT, text("broken")) for _ in range(2))
    if [stage.worker(name) for name in healthy] != before:
        found["healthy model unloaded"] += 1
    return found


@attack("killed", "worker killed while it computes one prompt for two clients", "200", "500", "cut")
def killed_worker(stage: Stage) -> Outcome:
    """The two streams end with an error; the same request sent again is answered."""
    prompt = "Once upon a time there was a small otter. " * 40
    body = _encoded(text("target", prompt, max_tokens=2000, ignore_eos=True, stream=True))
    head = _head("POST", TEXT, len(body))

    def stream() -> str:
        with socket.create_connection(("127.0.0.1", stage.port), timeout=TIMEOUT) as sock:
            sock.sendall(head + body)
            data = b""
            while piece := sock.recv(1 << 16):
                data = (data + piece)[-4096:]
        return "200" if b"[DONE]" in data else "cut"

    stage.ask(TEXT, text("target"))
    with ThreadPoolExecutor(2) as threads:
        streams = [threads.submit(stream) for _ in range(2)]
        time.sleep(0.05)
        _signal(stage.worker("target"), signal.SIGKILL)
        found = Counter(done.result() for done in streams)
    # Only the repeated request must succeed.
    again = stage.ask(TEXT, text("target", prompt))
    found[again if again == "200" else f"again {again}"] += 1
    return found


@attack("idle", "worker killed while idle, then a request", "200")
def killed_idle_worker(stage: Stage) -> Outcome:
    """Nothing was computed for the request, so its client notices nothing."""
    stage.ask(TEXT, text("target"))
    _signal(stage.worker("target"), signal.SIGKILL)
    return Counter([stage.ask(TEXT, text("target"))])


@attack("stopped", "worker stopped, 80 questions to its tokenizer", "200", "500", "503")
def stopped_worker(stage: Stage) -> Outcome:
    """It continues after a while, or the watchdog ends it."""
    stage.ask(TEXT, text("target"))
    worker = stage.worker("target")
    _signal(worker, signal.SIGSTOP)
    timer = threading.Timer(3.0 if stage.quick else 20.0, _signal, (worker, signal.SIGCONT))
    timer.start()
    count = 20 if stage.quick else 80
    body = {"model": "target", "content": "Once upon a time"}
    found = stage.together([lambda: stage.ask("/tokenize", body)] * count)
    timer.join()
    return found


def _signal(process: psutil.Process | None, number: signal.Signals) -> None:
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


@attack("bodies", "bodies of 8 MB of lists, ids, messages; one, then eight at once",
        "200", "400", "413", "503")  # fmt: skip
def large_bodies(stage: Stage) -> Outcome:
    """Send as many values as fit into 8 MiB."""
    size = 8 << 20
    count = 90_000
    message = b'{"role":"user","content":"a"}'
    bodies = [
        b'{"model":"target","prompt":[' + b",".join([b"[]"] * (size // 3 - 32)) + b"]}",
        b'{"model":"target","prompt":[' + b",".join([b"1"] * (size // 2 - 32)) + b"]}",
        b'{"model":"target","messages":[' + b",".join([message] * count) + b"]}",
    ]
    found: Outcome = Counter()
    for body, path in zip(bodies, (TEXT, TEXT, CHAT), strict=True):
        found[stage.ask(path, body)] += 1
        again = 1 if stage.quick else 8
        found += stage.together([lambda body=body, path=path: stage.ask(path, body)] * again)
    return found


@attack("small messages", "32 requests of 2,000 and of 8,000 empty messages", "400", "503")
def small_messages(stage: Stage) -> Outcome:
    """No body is large, but each message is work for the chat template."""
    message = b'{"role":"user","content":""}'
    found: Outcome = Counter()
    for count in (2000, 8000):
        body = b'{"model":"target","messages":[' + b",".join([message] * count) + b"]}"
        again = 4 if stage.quick else 32
        found += stage.together([lambda body=body: stage.ask(CHAT, body)] * again)
    return found


@attack("ids", "16 prompts of 520,000 token ids", "400", "503")
def token_ids(stage: Stage) -> Outcome:
    """Send as many values as a body may contain: parsed, then refused as too long a prompt."""
    body = b'{"model":"target","prompt":[' + b",".join([b"5"] * 520_000) + b"]}"
    return stage.together([lambda: stage.ask(TEXT, body)] * (2 if stage.quick else 16))


@attack("unread", "100 connections with 60 requests each, and no response is read", "closed")
def unread(stage: Stage) -> Outcome:
    """Each response has 128 kB; other clients are still served."""
    pause = threading.Event()
    with contextlib.ExitStack() as stack:
        sockets = _connect(stage, stack)
        for sock in sockets:
            sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 60)
        pause.wait(2.0)  # gives the watcher time to measure
    return Counter({"closed": len(sockets)})


@attack("origins", "Origin headers that are no URL", "403")
def odd_origins(stage: Stage) -> Outcome:
    """``urllib`` raises an exception for some of them."""
    origins = ("http://[", "http://]", "http://.e]x", "http://[::1", "//[", "null]", "http://a b")
    return Counter(stage.ask("/health", None, "GET", Origin=origin) for origin in origins)


@attack("cross-site", "GET of another site's page, without Origin", "403")
def cross_site(stage: Stage) -> Outcome:
    """Send the requests of ``<img src=...>``."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    return Counter([stage.ask("/tokenizer_info?model=target", None, "GET", **headers)])


@attack("template", "a chat template that writes 64 MB", "400")
def template_flood(stage: Stage) -> Outcome:
    """Use a model that is loaded for it."""
    stage.ask(TEXT, text("flood"))
    before = stage.worker("flood")
    found = Counter(stage.ask(CHAT, chat("flood")) for _ in range(1 if stage.quick else 3))
    if before is not None and stage.worker("flood") != before:
        found["worker ended"] += 1
    return found


@attack("limit", "bodies of 8 to 12 MB", "413")
def beyond_the_limit(stage: Stage) -> Outcome:
    """The client must be able to read the response."""
    sizes = [(8 << 20) + 1, 9_000_000, 9_900_000, 12_000_000]
    bodies = [_encoded({"model": "target", "prompt": "a" * size}) for size in sizes]
    return Counter(stage.ask(TEXT, body) for body in bodies)


@attack("smuggling", "Content-Length with Transfer-Encoding, odd codings", "400", "501")
def smuggling(stage: Stage) -> Outcome:
    """RFC 9112, 6.1."""
    body = _encoded(text("target"))
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    codings = ("chunked", "chunked, identity", "xchunked", "chunked\t;a", "\x0bchunked")
    return Counter(
        stage.exchange(
            _head("POST", TEXT, length, {"Transfer-Encoding": coding}) + chunked, timeout=5.0
        )
        for coding in codings
        for length in (len(body), len(chunked), 0)
    )


@attack("locked", "responses file locked by another process", "200", "503", "404")
def locked_file(stage: Stage) -> Outcome:
    """Create one stored response and read another one ten times."""
    stage.ask(RESPONSES, {"model": "target", "input": "Once", "max_output_tokens": 4})
    lock = sqlite3.connect(stage.responses, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        body = {"model": "target", "input": "Once", "max_output_tokens": 4}
        asks = [lambda: stage.ask(RESPONSES, body)]
        asks += [lambda: stage.ask(f"{RESPONSES}/resp_1", None, "GET")] * 10
        return stage.together(asks)
    finally:
        lock.close()


@attack("breakers", "DRY with 64 breakers of 40 characters, 262,144 tokens", "200", "400")
def breakers(stage: Stage) -> Outcome:
    """The default breakers first."""
    rng = random.Random(1)
    own = ["".join(rng.choices("etaoin shrdlu", k=40)) for _ in range(4 if stage.quick else 64)]
    return Counter([
        stage.ask(TEXT, text("tokens", dry_multiplier=0.8)),
        stage.ask(TEXT, text("tokens", dry_multiplier=0.8, dry_sequence_breakers=own)),
    ])  # fmt: skip


@attack("slow heads", "connections that send a byte of the head now and then", "closed", "408")
def slow_heads(stage: Stage) -> Outcome:
    """The slow clients leave after others have been served."""
    return _dribble(stage, b"GET /health HTTP/1.1\r\nX-A: " + b"a" * 64)


@attack("slow bodies", "connections that send a byte of the body now and then", "closed", "408")
def slow_bodies(stage: Stage) -> Outcome:
    """The same with complete headers."""
    return _dribble(stage, _head("POST", TEXT, 1000) + b" " * 64)


def _dribble(stage: Stage, message: bytes) -> Outcome:
    start = len(message) - 60
    with contextlib.ExitStack() as stack:
        sockets = _connect(stage, stack)
        for sock in sockets:
            sock.sendall(message[:start])
        for at in range(start, start + (4 if stage.quick else 20)):
            for sock in sockets:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(message[at : at + 1])
            time.sleep(0.25)
        answered = stage.ask(TEXT, text("target"))
    return Counter({"closed": len(sockets), **({} if answered == "200" else {answered: 1})})


def _connect(stage: Stage, stack: contextlib.ExitStack) -> list[socket.socket]:
    return [
        stack.enter_context(socket.create_connection(("127.0.0.1", stage.port), timeout=TIMEOUT))
        for _ in range(30 if stage.quick else 100)
    ]


@attack("idle connections", "idle and half-closed connections, then a request", "200")
def idle_connections(stage: Stage) -> Outcome:
    """Half of them close their sending side."""
    with contextlib.ExitStack() as stack:
        for number, sock in enumerate(_connect(stage, stack)):
            sock.sendall(b"GET /health HTTP/1.1\r\n")
            if number % 2:
                sock.shutdown(socket.SHUT_WR)
        return Counter(stage.ask(TEXT, text("target")) for _ in range(4))


@attack("mutations", "random changes of valid requests", "200", "400", "403", "404", "405", "413")
def mutations(stage: Stage) -> Outcome:
    """Replace, remove and repeat values; flip bytes in one of ten."""
    rng = random.Random(7)
    seeds: list[tuple[str, Any]] = [
        (TEXT, text("target", temperature=0.5, stop=["a"], logit_bias={"1": 2})),
        (CHAT, chat("target", response_format={"type": "json_object"}, n=2)),
        (RESPONSES, {"model": "target", "input": [{"role": "user", "content": "a"}],
                     "max_output_tokens": 4, "store": False}),
        ("/tokenize", {"model": "target", "content": "a"}),
        ("/v1/embeddings", {"model": "target", "input": ["a", "b"]}),
    ]  # fmt: skip
    found: Outcome = Counter()
    for _ in range(40 if stage.quick else 500):
        path, body = rng.choice(seeds)
        data = bytearray(_encoded(changed(rng, body)))
        if rng.random() < 0.1:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        found[stage.ask(path, bytes(data))] += 1
    return found


_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 2**63, "", "\u0000", "\ufdd0", "a" * 1000, [], {}, [[]], [None],
    {"": 0},
)  # fmt: skip


def changed(rng: random.Random, value: Any) -> Any:
    """Return a copy with one part replaced, removed or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        copy = dict(value)
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = changed(rng, value[key])
        return copy
    if isinstance(value, list) and value and rng.random() < 0.7:
        return [changed(rng, value[0]), *value[1:], *rng.choices(value, k=rng.randrange(3))]
    return rng.choice(_ODD)


@attack("raw", "random changes of the bytes of HTTP", "200", "400", "403", "404", "405", "411",
        "413", "414", "431", "501", "505", "no answer", "closed", "reset")  # fmt: skip
def raw_mutations(stage: Stage) -> Outcome:
    """Flip, repeat and remove bytes of a whole request."""
    rng = random.Random(8)
    body = _encoded(text("target"))
    whole = _head("POST", TEXT, len(body)) + body
    found: Outcome = Counter()
    for _ in range(40 if stage.quick else 500):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        # If the changed length is too large, the server waits for the rest.
        found[stage.exchange(bytes(data), timeout=0.2)] += 1
    return found


@attack("json", "nesting of 100,000, 8 MB of digits, odd characters, gzip, XML", "400", "413")
def odd_json(stage: Stage) -> Outcome:
    """Send JSON that may break a parser."""
    bodies = (
        b"[" * 100_000, b'{"a":' * 100_000, b'{"model":' + b"9" * (8_000_000) + b"}",
        b'{"model":"\\ud800"}', b'{"model":NaN}', b'{"model":"a","model":"b"}', b'{"model":"\0"}',
        b'{"model":"\xc0\xaf"}', b"\x1f\x8b\x08\0", b"<a/>", b"", b"\xff\xfe{\0}\0",
    )  # fmt: skip
    return Counter(stage.ask(TEXT, body) for body in bodies)


# --- the run --------------------------------------------------------------------------------------


@dataclass
class Row:
    """The result of an attack."""

    name: str
    meaning: str
    got: Outcome
    pause: float | None = None
    health: float | None = None
    broken: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def measure(stage: Stage, entry: Attack) -> Row:
    """Run one attack; return its row, whatever it does to the server."""
    if entry.alone:
        stage.stop()
        return _judged(Row(entry.name, entry.meaning, entry.run(stage)), entry)
    stage.start()
    usual = _calm(stage)
    worker = stage.worker("watched")
    began = time.perf_counter()
    try:
        got = entry.run(stage)
    except Exception as ex:
        got = Counter([f"{type(ex).__name__}"])
    seconds = time.perf_counter() - began
    time.sleep(AFTERWARDS)
    seen = stage.look()
    row = Row(entry.name, entry.meaning, got, max(0.0, seen["pause"] - usual), seen["health"],
              seen["broken"], seconds)  # fmt: skip
    status = stage.server.process.poll()
    if status is not None:
        row.faults.append(f"the server ended with status {status}")
    elif stage.worker("watched") != worker:
        row.faults.append("the watched worker is another one")
    return _judged(row, entry)


def _calm(stage: Stage) -> float:
    """Wait until the last attack is over; return the stream's usual step in seconds."""
    for _ in range(20):
        stage.look()
        time.sleep(0.5)
        seen = stage.look()
        if seen["pause"] < MAX_PAUSE / 2 and seen["tokens"] > 20:
            break
    return float(seen["step"])


def _judged(row: Row, entry: Attack) -> Row:
    others = [status for status in row.got if status not in entry.wanted]
    if others:
        row.faults.append(f"got {', '.join(sorted(others))}")
    if row.pause is not None and row.pause > MAX_PAUSE:
        row.faults.append(f"pause over {MAX_PAUSE:g} s")
    if row.health is not None and row.health > MAX_HEALTH:
        row.faults.append(f"/health over {MAX_HEALTH:g} s")
    if row.broken:
        row.faults.append(f"{row.broken} streams cut")
    return row


def nothing(stage: Stage) -> Outcome:
    """Wait, to get the figures without an attack."""
    time.sleep(2.0 if stage.quick else 10.0)
    return Counter()


def _rows(stage: Stage, options: argparse.Namespace) -> Iterator[Row]:
    chosen = options.only.split(",") if options.only else [entry.name for entry in ATTACKS]
    unknown = set(chosen) - {entry.name for entry in ATTACKS}
    if unknown:
        names = ", ".join(entry.name for entry in ATTACKS)
        raise SystemExit(f"no attack {', '.join(sorted(unknown))}; there are {names}")
    for entry in ATTACKS:
        if entry.name in chosen and entry.alone:
            yield measure(stage, entry)
    yield measure(stage, Attack("nothing", "nothing", nothing, frozenset()))
    for entry in ATTACKS:
        if entry.name in chosen and not entry.alone:
            row = measure(stage, entry)
            print(f"{entry.name}: {row.seconds:.1f} s", file=sys.stderr)
            yield row


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


def attack_all(options: argparse.Namespace) -> int:
    """Run all attacks, print and write the results; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), options)
        try:
            rows = list(_rows(stage, options))
            stage.start()
            peak = stage.look()["peak"]
            rest = 2.0 if options.quick else REST
            time.sleep(rest)
            after = stage.look()["resident"]
            memory = {"start": _mib(stage.base), "peak": _mib(peak), "after": _mib(after)}
        finally:
            stage.close()
            log = Path(folder, "log").read_text(encoding="utf-8", errors="replace")
            if options.log is not None:
                options.log.write_text(log, encoding="utf-8")
    growth = memory["after"] - memory["start"]
    print_table(
        f"Goals: pause at most {MAX_PAUSE:g} s, /health at most {MAX_HEALTH:g} s, "
        f"at most {MAX_GROWTH} MiB more {REST:g} s after the last attack",
        ["attack", "s", "longest pause ms", "slowest /health ms", "it got", "verdict"],
        [[row.meaning, row.seconds or None, _ms(row.pause), _ms(row.health),
          ", ".join(f"{n} x {status}" for status, n in sorted(row.got.items())) or "-",
          "; ".join(row.faults) or "good"] for row in rows],
    )  # fmt: skip
    good = growth <= MAX_GROWTH
    print(
        f"\nThe server's process: {memory['start']} MiB before, {memory['peak']} at its peak, "
        f"{memory['after']} after {rest:g} s of rest: {'good' if good else 'too much'}."
    )
    faulty = [row.name for row in rows if row.faults]
    print(f"{len(rows) - len(faulty)} of {len(rows)} rows are as they should be.")
    write_json(options.json, {
        "quick": options.quick, "memory_mib": memory,
        "attacks": [{**vars(row), "got": dict(row.got)} for row in rows],
    })  # fmt: skip
    return 1 if faulty or not good else 0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def main() -> None:
    """Run the attacks, or run as the watcher."""
    if sys.argv[1:2] == ["--watch"]:
        port, model, pid = sys.argv[2:]
        Watcher(int(port), model, int(pid)).run()
        return
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="attacks: " + "; ".join(f"{entry.name} ({entry.meaning})" for entry in ATTACKS),
    )
    parser.add_argument("--quick", action="store_true", help="small attacks, in a minute")
    parser.add_argument("--only", help="names of attacks, with commas between them")
    parser.add_argument("--program", default="", help="how to start offgrid (installed program)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where the server's log goes")
    add_json_option(parser)
    if not hasattr(os, "fork") or not Path("/proc").is_dir():
        raise SystemExit("attacks.py needs Linux: it finds workers in /proc and stops them.")
    # Ended by an outer time limit, it still ends its server and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(attack_all(parser.parse_args()))


if __name__ == "__main__":
    main()
