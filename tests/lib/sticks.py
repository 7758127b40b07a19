"""Folders that look like USB sticks: GGUF files, wheels, manifests."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any


def content(seed: int, size: int = 3_000_000) -> bytes:
    """A GGUF of exactly this many bytes, at least 160: a header, and one tensor of random bytes."""
    data = size - len(_header(0))
    return _header(data) + random.Random(seed).randbytes(data)


def put_large(path: Path, size: int) -> Path:
    """Write a GGUF of exactly this many bytes that occupies no room: its tensor is a hole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(_header(size - len(_header(0))))
        file.truncate(size)
    return path


def _header(data: int) -> bytes:
    """The header of a GGUF whose only tensor has ``data`` bytes of the type I8."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    begin = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)  # version, tensors, metadata values
    metadata = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    tensor = text(b"token_embd.weight") + struct.pack("<IQIQ", 1, data, 24, 0)
    whole = begin + metadata + tensor
    return whole + bytes(-len(whole) % 32)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(path: Path, data: bytes) -> Path:
    """Write a file. One that was there has another time afterwards, however coarse the clock of
    files is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_ctime_ns if path.exists() else None
    path.write_bytes(data)
    while path.stat().st_ctime_ns == before:
        path.write_bytes(data)
    return path


PARTS = tuple(f"big-{part:05}-of-00003.gguf" for part in (1, 2, 3))
"""The names of the files of :func:`split_model`."""


def split_model(folder: Path, seed: int) -> dict[str, bytes]:
    """Put the parts of a split model into a folder; return them by name."""
    files = {name: content(seed + i, 200_000) for i, name in enumerate(PARTS)}
    for name, data in files.items():
        put(folder / name, data)
    return files


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    """A zip file with these members, compressed as in a wheel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def manifest(folder: Path, **changes: dict[str, Any]) -> Path:
    """A manifest of all model files of a folder; ``changes`` are changed fields by file name."""
    models = []
    for path in sorted(folder.rglob("*.gguf")):
        name = path.relative_to(folder).as_posix()
        data = path.read_bytes()
        row = {"file_name": name, "model_id": "x", "quantization": "", "size": len(data)}
        models.append({**row, "sha256": sha256(data), **changes.get(name, {})})
    path = folder / "manifest.json"
    path.write_text(json.dumps({"version": "1.0", "models": models}), encoding="utf-8")
    return path


def visible(folder: Path) -> dict[str, bytes]:
    """The content of all files of a models directory that are not hidden, without its manifest."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "manifest.json"
    }


def hidden(folder: Path) -> list[str]:
    """The names of the hidden files of a models directory."""
    return sorted(path.name for path in folder.rglob(".*"))
