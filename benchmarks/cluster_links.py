"""What HAProxy adds to a request, between machines with slow cables.

    python benchmarks/cluster_links.py        # as root: it makes network namespaces

A client, HAProxy with the configuration that ``offgrid cluster haproxy`` writes, and a simulated
machine that answers at once are each in a namespace (``tests/lib/hosts.py``). ``tc`` limits the
rates of all cables. A delay is made by a relay in front of the machine (``tests/lib/delays.py``),
which is what the client and HAProxy connect to. A request is a chat, and connections stay open.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from report import add_json_option, machine, print_table, write_json

from offgrid.cli.cluster.haproxy import Options, configuration
from offgrid.cli.cluster.machines import parsed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))
import hosts
import replicas
from front_proxies import free_port

LINKS = (("", 0.0), ("1gbit", 0.0), ("100mbit", 0.0), ("1gbit", 2.0))
"""Rate of each cable, and milliseconds to the machine in each direction."""
SIZES = (1_000, 100_000)
"""Bytes of a request."""
REPEAT = 300
"""Requests on each way."""
COLUMNS = ("cables", "request", "direct ms", "HAProxy ms", "more ms")


def milliseconds(host: hosts.Host, addresses: tuple[str, str], size: int) -> list[float]:
    """The median times of a request from a host to two addresses, which take turns."""
    body = json.dumps({"messages": [{"role": "user", "content": "x" * size}], "max_tokens": 1})
    connections = [http.client.HTTPConnection(address, timeout=60) for address in addresses]
    with host.inside():
        for connection in connections:
            connection.connect()
    times: list[list[float]] = [[], []]
    for number in range(2 * REPEAT):
        began = time.perf_counter()
        connections[number % 2].request("POST", "/v1/chat/completions", body.encode())
        response = connections[number % 2].getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"the answer is {response.status}")
        times[number % 2].append(time.perf_counter() - began)
    for connection in connections:
        connection.close()
    return [statistics.median(one) * 1000 for one in times]


def rows(rate: str, delay: float) -> list[tuple[str, str, float, float, float]]:
    """Measure one kind of cables."""
    made = []
    with tempfile.TemporaryDirectory() as folder, hosts.lan(Path(folder), 3) as lan:
        client, proxy, computing = lan.hosts
        script = str(Path(__file__).with_name("simulated_machines.py"))
        child = computing.start(
            "sh", "-c", f"sleep infinity | '{sys.executable}' '{script}' {computing.address} 1e9"
        )
        address = f"{computing.address}:{child.out.find(r'([0-9]+)')[1]}"
        if delay:
            address = computing.delayed(address, delay)
        for host in lan.hosts if rate else ():
            host.limit(rate)
        port, file = free_port(), proxy.folder / "haproxy.cfg"
        file.write_text(configuration([parsed(address)], Options(f"{proxy.address}:{port}")))
        at = (proxy.address, port)
        with replicas.running(proxy, replicas.haproxy(), file, at):
            for size in SIZES:
                both = (address, f"{proxy.address}:{port}")
                direct, relayed = milliseconds(client, both, size)
                name = f"{rate or 'unlimited'}, {delay:g} ms" if delay else rate or "unlimited"
                made.append((name, f"{size // 1000} kB", direct, relayed, relayed - direct))
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_json_option(parser)
    options = parser.parse_args()
    if reason := hosts.refusal():
        raise SystemExit(reason)
    table = [row for rate, delay in LINKS for row in rows(rate, delay)]
    print_table("One request", COLUMNS, table)
    results = [dict(zip(COLUMNS, row, strict=True)) for row in table]
    write_json(options.json, {"machine": machine(), "links": results})


if __name__ == "__main__":
    main()
