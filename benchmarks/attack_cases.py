"""The attacks of ``attacks.py``, in the order in which they run."""

from __future__ import annotations

import contextlib
import functools
import random
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil
from attack_stage import Stage
from attack_wire import (
    CHAT,
    RESPONSES,
    TEXT,
    TIMEOUT,
    Outcome,
    chat,
    encoded,
    exchange,
    head,
    text,
)


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
    body = encoded({"model": "watched", "input": "Once", "max_output_tokens": 4, "store": False})
    message = head("POST", RESPONSES, len(body)) + body
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
    body = encoded(text("target", prompt, max_tokens=2000, ignore_eos=True, stream=True))
    message = head("POST", TEXT, len(body)) + body

    def stream() -> str:
        with socket.create_connection(("127.0.0.1", stage.port), timeout=TIMEOUT) as sock:
            sock.sendall(message)
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
            sock.sendall(head("GET", "/openapi.json", 0, {"Connection": "keep-alive"}) * 60)
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
    bodies = [encoded({"model": "target", "prompt": "a" * size}) for size in sizes]
    return Counter(stage.ask(TEXT, body) for body in bodies)


@attack("smuggling", "Content-Length with Transfer-Encoding, odd codings", "400", "501")
def smuggling(stage: Stage) -> Outcome:
    """RFC 9112, 6.1."""
    body = encoded(text("target"))
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    codings = ("chunked", "chunked, identity", "xchunked", "chunked\t;a", "\x0bchunked")
    return Counter(
        stage.exchange(
            head("POST", TEXT, length, {"Transfer-Encoding": coding}) + chunked, timeout=5.0
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
    return _dribble(stage, head("POST", TEXT, 1000) + b" " * 64)


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
        data = bytearray(encoded(changed(rng, body)))
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


@attack("raw", "random changes of the bytes of HTTP", "200", "400", "401", "403", "404", "405",
        "411", "413", "414", "429", "431", "501", "505", "no answer", "closed", "reset",
        )  # fmt: skip
def raw_mutations(stage: Stage) -> Outcome:
    """Flip, repeat and remove bytes of a whole request."""
    rng = random.Random(8)
    body = encoded(text("target"))
    whole = head("POST", TEXT, len(body)) + body
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
