"""The part ``copy`` of ``peers.py``: an import from a peer compared with curl.

Two servers run in network namespaces (``tests/lib/hosts.py``). Each round copies the same file in
each way, in turn: with curl to nothing, with curl to a file on the same disk, and with ``POST
/v1/import``. curl has the certificate of the machine that imports, so it uses the same link, the
same TLS and the same server. The best time of all rounds counts.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))
from hosts import Host, lan
from paired_hosts import PORT, identity, pair, peer_flags
from report import print_table
from sticks import put_large

MIB = 2**20
WAYS = ("curl, to nothing", "curl, to a file", "import")


def measure(rates: list[str], size: int, rounds: int, folder: Path | None) -> dict[str, Any]:
    """Measure each rate of the link, such as ``1gbit``; ``none`` is the link without a limit.

    Args:
        size: MiB of the file.
        folder: a folder on the disk to measure.
    """
    figures: dict[str, Any] = {"size_mib": size}
    with tempfile.TemporaryDirectory(dir=folder) as name, lan(Path(name), 2) as hosts:
        near, far = hosts.hosts
        pair(near, far)
        expected = make(far.models / "model.gguf", size)
        far.serve(*peer_flags(far), "--model", "offgrid-starter")
        url = near.serve(*peer_flags(near)).url
        imported(url, near, expected)  # the peer computes the hash once
        for rate in rates:
            if rate != "none":
                near.limit(rate)
            best = dict.fromkeys(WAYS, float("inf"))
            for _ in range(rounds):
                for way in WAYS:
                    os.sync()
                    seconds = (
                        imported(url, near, expected)
                        if way == "import"
                        else curl(near, far, expected if way == WAYS[1] else "")
                    )
                    best[way] = min(best[way], seconds)
            if rate != "none":
                near.unlimit()
            figures[rate] = best
            told(rate, size, best)
    return figures


def make(path: Path, size: int) -> str:
    """Write a model of random bytes; return its SHA-256."""
    put_large(path, size * MIB)
    with path.open("r+b") as file:
        file.seek(MIB)
        for _ in range(size - 1):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    return sha256(path)


def told(rate: str, size: int, best: dict[str, float]) -> None:
    """Print the table of one rate."""
    rows = [[way, size / s, best[WAYS[0]] / s, best[WAYS[1]] / s] for way, s in best.items()]
    title = f"{size} MiB, link of {rate}" if rate != "none" else f"{size} MiB, link without a limit"
    print_table(title, ("way", "MiB/s", "speed by curl to nothing", "by curl to a file"), rows)


def curl(near: Host, far: Host, expected: str) -> float:
    """Return the seconds for a copy with curl: to a file with this hash, or to nothing."""
    mine, theirs = identity(near), identity(far)
    target = near.folder / "curl.gguf" if expected else Path(os.devnull)
    begin = time.perf_counter()
    done = near.run(
        "curl", "-sS", "--fail", "--noproxy", "*", "--connect-to", f"::{far.address}:{PORT}",
        "--cert", str(mine.certificate_file), "--key", str(mine.key_file),
        "--cacert", str(theirs.certificate_file), "--insecure", "-o", str(target),
        f"https://{far.address}:{PORT}/peer/models/model/files/0",
    )  # fmt: skip
    if expected:
        with target.open("r+b") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    if expected:
        assert sha256(target) == expected
        target.unlink()
    return seconds


def imported(url: str, near: Host, expected: str) -> float:
    """Return the seconds of an import."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=3600)
    body = {"peer": "b", "ids": ["model"]}
    begin = time.perf_counter()
    connection.request("POST", "/v1/import", json.dumps(body))
    made = json.loads(connection.getresponse().read())
    seconds = time.perf_counter() - begin
    connection.close()
    assert made["status"] == "completed", made
    assert made["files"][0]["status"] == "imported", made
    assert sha256(near.models / "model.gguf") == expected
    for path in near.models.iterdir():
        path.unlink()
    return seconds


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, by another program than the measured one."""
    done = subprocess.run(["sha256sum", str(path)], check=True, capture_output=True, text=True)
    return done.stdout.split()[0].lstrip("\\")
