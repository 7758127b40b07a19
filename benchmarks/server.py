"""Throughput and latency over HTTP, beside a bare ``llama_decode`` loop of the same run.

    python benchmarks/server.py                          # the bundled starter model
    python benchmarks/server.py --model /path/to.gguf --streams 1,4,8 --tokens 128

For each number of streams, that many clients send the same request at once and read their answer
token by token; temperature 0.7, exact top_p 0.95, ``ignore_eos``, so that all of them run to the
end. The bare loop and the server take turns, each figure is the best of ``--repeat`` rounds.

Each stream must bring exactly the tokens that were asked for, a usage chunk and ``[DONE]``, or the
benchmark ends with an error. Before anything is timed, greedy streams side by side are compared
with the text that one gives alone; a difference is told (a larger batch may round differently).
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import IO, Any

import msgspec
from report import add_json_option, percentile, print_table, write_json

from offgrid.engine.protocol import Load
from offgrid.store.catalogue import STARTER_PATH

PROMPT = "Once upon a time there was a small otter who lived beside a wide river. "


class Server:
    """``offgrid serve`` as a user starts it."""

    def __init__(self, load: Load) -> None:
        # The installed program: "python -m" would find the source tree in the current folder.
        program = shutil.which("offgrid", path=sysconfig.get_path("scripts"))
        if program is None:
            raise SystemExit("offgrid is not installed here: pip install '.[test]'")
        command = [
            program, "serve", "--port", "0",
            "--model", load.path, "--parallel", str(load.parallel), "--ctx-size",
            str(load.ctx_size), "--threads", str(load.threads), "--batch-size",
            str(load.batch_size), "--log-level", "warning",
        ]  # fmt: skip
        environ = {k: v for k, v in os.environ.items() if not k.startswith("OFFGRID_")}
        environ["PYTHONUNBUFFERED"] = "1"
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
        assert self._process.stdout is not None
        self.model = Path(load.path).stem
        self.port = self._wait_ready(self._process.stdout)

    def _wait_ready(self, output: IO[str]) -> int:
        for line in output:  # ends when the server does
            match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if match:
                # Answered when the model is loaded, or cannot be.
                connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=600)
                body = json.dumps({"model": self.model, "prompt": "x", "max_tokens": 1})
                connection.request("POST", "/v1/completions", body)
                response = connection.getresponse()
                if response.status != 200:
                    self.close()
                    raise SystemExit(response.read().decode())
                connection.close()
                return int(match[1])
        raise SystemExit("the server did not start")

    def close(self) -> None:
        """Stop it as Ctrl-C does."""
        self._process.terminate()
        self._process.wait()


class Bare:
    """The bare loop in a process of its own."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("bare.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._tell(msgspec.json.encode(load).decode())

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def seconds(self, streams: int, prompt_tokens: int, tokens: int) -> float:
        """Time one round."""
        task = {"streams": streams, "prompt_tokens": prompt_tokens, "tokens": tokens}
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


class Reading:
    """What one client read: bytes, and when they came."""

    def __init__(self) -> None:
        self.chunks: list[tuple[float, bytes]] = []

    def parse(self) -> tuple[list[float], list[dict[str, Any]]]:
        """Return the arrival times and contents of all events; the last must be ``[DONE]``."""
        data = b"".join(chunk for _, chunk in self.chunks)
        ends, total = [], 0
        for _, chunk in self.chunks:
            total += len(chunk)
            ends.append(total)
        times, events, at, finished = [], [], 0, False
        for match in re.finditer(rb"data: (.*?)\n\n", data):
            while ends[at] < match.end():
                at += 1
            finished = match[1] == b"[DONE]"
            if not finished:
                times.append(self.chunks[at][0])
                events.append(json.loads(match[1]))
        if not finished:
            raise SystemExit(f"a stream ended without [DONE]: {data[-300:]!r}")
        return times, events


def read_streams(port: int, body: dict[str, Any], streams: int) -> tuple[float, list[Reading]]:
    """Send ``streams`` equal requests at once; return when they began and what came.

    One thread for all connections: the reader must not take the processor from what it measures.
    """
    payload = json.dumps(body).encode()
    request = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(streams)]
    readings = [Reading() for _ in sockets]
    began = time.perf_counter()
    for sock, reading in zip(sockets, readings, strict=True):
        sock.sendall(request)
        selector.register(sock, selectors.EVENT_READ, reading)
    while selector.get_map():
        for key, _ in selector.select():
            chunk = key.fileobj.recv(65536)  # type: ignore[union-attr]
            if chunk:
                key.data.chunks.append((time.perf_counter(), chunk))
            else:
                selector.unregister(key.fileobj)
    for sock in sockets:
        sock.close()
    return began, readings


def text_of(events: list[dict[str, Any]]) -> str:
    """The whole text of a stream."""
    return "".join(choice["text"] for event in events for choice in event["choices"])


def check(server: Server, body: dict[str, Any], streams: int) -> int:
    """Check answers before timing them; return the tokens of the prompt."""
    greedy = {**body, "temperature": 0}
    alone = read_streams(server.port, greedy, 1)[1][0].parse()[1]
    for reading in read_streams(server.port, greedy, streams)[1]:
        if text_of(reading.parse()[1]) != text_of(alone):
            # Sums of a larger batch may round differently; on a model whose best two tokens are
            # that close, this is no error, but it should be seen.
            print("note: a greedy answer differs beside others", file=sys.stderr)
            break
    return int(alone[-1]["usage"]["prompt_tokens"])


def measure(server: Server, body: dict[str, Any], streams: int, tokens: int) -> dict[str, Any]:
    """One round over HTTP."""
    began, readings = read_streams(server.port, body, streams)
    firsts, gaps, ends = [], [], []
    for reading in readings:
        times, events = reading.parse()
        usage = events[-1]["usage"]
        if usage is None or usage["completion_tokens"] != tokens:
            raise SystemExit(f"a stream has not the {tokens} tokens that were asked for: {usage}")
        times = [t for t, e in zip(times, events, strict=True) if e["choices"]]
        firsts.append(times[0] - began)
        gaps += [later - earlier for earlier, later in itertools.pairwise(times)]
        ends.append(times[-1])
    return {
        "seconds": max(ends) - began,
        "ttft": percentile(firsts, 0.5),
        "gap_p50": percentile(gaps, 0.5),
        "gap_p99": percentile(gaps, 0.99),
    }


def best(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The round with the shortest time."""
    return min(rounds, key=lambda figures: figures["seconds"])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=str(STARTER_PATH), help="a GGUF file")
    parser.add_argument("--streams", default="1,4,8", help="numbers of clients")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--threads", type=int, default=0, help="of llama.cpp")
    parser.add_argument("--repeat", type=int, default=3, help="rounds, the best of which counts")
    add_json_option(parser)
    options = parser.parse_args()
    counts = [int(count) for count in options.streams.split(",")]
    load = Load(
        str(Path(options.model).resolve()), parallel=max(counts), ctx_size=options.tokens + 256,
        threads=options.threads,
    )  # fmt: skip
    body = {
        "model": Path(options.model).stem, "prompt": PROMPT * 4, "max_tokens": options.tokens,
        "temperature": 0.7, "top_p": 0.95, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    server, bare = Server(load), Bare(load)
    rows, figures = [], []
    try:
        prompt_tokens = check(server, body, max(counts))
        for streams in counts:
            ours, limit = [], []
            for _ in range(options.repeat):
                limit.append(bare.seconds(streams, prompt_tokens, options.tokens))
                ours.append(measure(server, body, streams, options.tokens))
            over_http = best(ours)
            total = streams * options.tokens
            speed, bare_speed = total / over_http["seconds"], total / min(limit)
            figures.append(
                {"streams": streams, "tokens_per_s": speed, "bare_tokens_per_s": bare_speed,
                 **over_http}
            )  # fmt: skip
            rows.append((
                streams, bare_speed, speed, speed / bare_speed, 1e3 * over_http["ttft"],
                1e3 * over_http["gap_p50"], 1e3 * over_http["gap_p99"],
            ))  # fmt: skip
    finally:
        server.close()
        bare.close()
    print_table(
        f"{body['model']}, {prompt_tokens} prompt tokens, {options.tokens} tokens an answer, "
        "temperature 0.7, top_p 0.95",
        ["streams", "bare tokens/s", "HTTP tokens/s", "share", "first token ms (median)",
         "gap p50 ms", "gap p99 ms"],
        rows,
    )  # fmt: skip
    write_json(options.json, {"model": body["model"], "rounds": options.repeat, "rows": figures})


if __name__ == "__main__":
    main()
