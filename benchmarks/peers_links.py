"""What forwarding adds to a request, between machines with slow cables.

    python benchmarks/peers_links.py        # as root: it makes network namespaces

A client, a machine that forwards and the one that has the model are each in a namespace
(``tests/lib/hosts.py``). ``tc`` limits the rates of all cables. A delay is made by relays in front
of the machine that has the model (``tests/lib/delays.py``). The client asks for one token, in turn
from the machine that has the model and through its peer; connections stay open.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import add_json_option, machine, print_table, write_json

from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import load_identity
from offgrid.store.catalogue import STARTER_PATH

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))
import hosts
from hosts import Host
from support import eventually, request

LINKS = (("", 0.0), ("1gbit", 0.0), ("100mbit", 0.0), ("1gbit", 2.0))
"""Rate of each cable, and milliseconds to the machine that has the model in each direction."""
REPEAT = 100
"""Requests on each way."""
MODEL, WORDS, PORT = "starter-far", 64, 11612
COLUMNS = ("cables", "direct ms", "forwarded ms", "more ms")


def introduce(near: Host, far: Host, port: int) -> None:
    """Let two hosts know each other; the far one is reached at a port."""
    ports = {near.name: PORT, far.name: port}
    folders = {host.name: host.folder / "peers" for host in (near, far)}
    certificates = {name: load_identity(at, name).certificate for name, at in folders.items()}
    for own, other in ((near, far), (far, near)):
        Book(folders[own.name]).add(
            Peer(
                name=other.name, certificate=certificates[other.name], addresses=(other.address,),
                port=ports[other.name], paired_at=1,
            )
        )  # fmt: skip


def serve(host: Host) -> str:
    """Start a server with peers; return its URL."""
    folder = str(host.folder / "peers")
    flags = ("--peers", "--peers-dir", folder, "--peers-port", str(PORT), "--no-peers-discovery")
    return host.serve(*flags, "--threads", "1", "--no-drafts").url


def milliseconds(host: Host, addresses: tuple[str, str]) -> list[float]:
    """The median times of a request from a host to two addresses, which take turns."""
    connections = [http.client.HTTPConnection(address, timeout=60) for address in addresses]
    with host.inside():
        for connection in connections:
            connection.connect()
    times: list[list[float]] = [[], []]
    for number in range(2 * REPEAT):
        prompt = f"{number} " + "word " * WORDS
        body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": 1}).encode()
        began = time.perf_counter()
        connections[number % 2].request("POST", "/v1/completions", body)
        response = connections[number % 2].getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"the answer is {response.status}")
        times[number % 2].append(time.perf_counter() - began)
    for connection in connections:
        connection.close()
    return [statistics.median(one) * 1000 for one in times]


def row(rate: str, delay: float) -> tuple[str, float, float, float]:
    """Measure one kind of cables."""
    with tempfile.TemporaryDirectory() as folder, hosts.lan(Path(folder), 3) as lan:
        client, near, far = lan.hosts
        shutil.copyfile(STARTER_PATH, far.models / f"{MODEL}.gguf")
        inner = f"{far.address}:{PORT}"
        if delay:
            inner = far.delayed(inner, delay)
        introduce(near, far, int(inner.rpartition(":")[2]))
        direct, through = serve(far), serve(near)
        eventually(lambda: MODEL in ids(through), "the near machine lists the model")
        at = direct.rpartition("/")[2]
        if delay:
            at = far.delayed(at, delay)
        for host in lan.hosts if rate else ():
            host.limit(rate)
        alone, forwarded = milliseconds(client, (at, through.rpartition("/")[2]))
    name = ", ".join(filter(None, (rate or "unlimited", f"{delay:g} ms" if delay else "")))
    return name, alone, forwarded, forwarded - alone


def ids(url: str) -> list[Any]:
    """The ids of the models that a server lists."""
    return [one["id"] for one in request(url, "GET", "/v1/models").json["data"]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_json_option(parser)
    options = parser.parse_args()
    if reason := hosts.refusal():
        raise SystemExit(reason)
    table = [row(rate, delay) for rate, delay in LINKS]
    print_table(f"One token after {WORDS} words", COLUMNS, table)
    results = [dict(zip(COLUMNS, one, strict=True)) for one in table]
    write_json(options.json, {"machine": machine(), "links": results})


if __name__ == "__main__":
    main()
