"""Compares an import of a model file with ``cp`` followed by ``sha256sum``.

    python benchmarks/import.py --folder /path/on/the/disk --size 2000

Each round copies the same file once in each way, in turn. The copies are compared with the hash of
the source. The best time of all rounds counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from report import add_json_option, print_table, write_json

from offgrid.store.imports import import_models

BLOCK = 2**20


def make(path: Path, size: int) -> str:
    """Write a file of random bytes that begins like a GGUF; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        block = b"GGUF" + os.urandom(BLOCK - 4)
        for _ in range(size):
            file.write(block)
            digest.update(block)
            block = os.urandom(BLOCK)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def forget(path: Path) -> None:
    """Let the next read of a file come from the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_and_hash(source: Path, folder: Path, expected: str) -> float:
    """Return the seconds for ``cp``, a sync of the copy, and ``sha256sum``."""
    target = folder / "copy.gguf"
    begin = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    with target.open("r+b") as file:
        os.fsync(file.fileno())
    result = subprocess.run(["sha256sum", str(target)], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert result.stdout.split()[0].lstrip("\\") == expected
    target.unlink()
    return seconds


def imported(stick: Path, folder: Path, expected: str) -> float:
    """Return the seconds of an import."""
    models = folder / "models"
    begin = time.perf_counter()
    (outcome,) = import_models([stick], models)
    seconds = time.perf_counter() - begin
    assert outcome.status == "imported", outcome
    with (models / "model.gguf").open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
    assert digest.hexdigest() == expected
    shutil.rmtree(models)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--size", type=int, default=1000, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=5)
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        stick = folder / "stick"
        stick.mkdir()
        source = stick / "model.gguf"
        expected = make(source, options.size)
        row = {"file_name": "model.gguf", "size": options.size * BLOCK, "sha256": expected}
        listing = stick / "manifest.json"
        best = dict.fromkeys(("cp, sha256sum", "import", "import, manifest"), float("inf"))
        for _ in range(options.rounds):
            for way in best:
                listing.unlink(missing_ok=True)
                if way == "import, manifest":
                    listing.write_text(json.dumps({"models": [row]}), encoding="utf-8")
                forget(source)
                if way == "cp, sha256sum":
                    seconds = copy_and_hash(source, folder, expected)
                else:
                    seconds = imported(stick, folder, expected)
                best[way] = min(best[way], seconds)
    plain = best["cp, sha256sum"]
    rows = [[way, options.size / s, plain / s] for way, s in best.items()]
    print_table(f"{options.size} MiB", ("way", "MiB/s", "speed by cp, sha256sum"), rows)
    write_json(options.json, {"size_mib": options.size, "seconds": best})


if __name__ == "__main__":
    main()
