"""Folders that look like USB sticks: files that begin like a GGUF, wheels, manifests."""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from pathlib import Path
from typing import Any


def content(seed: int, size: int = 3_000_000) -> bytes:
    """Random bytes that begin like a GGUF."""
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


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
