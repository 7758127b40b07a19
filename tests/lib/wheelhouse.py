"""Wheels of what is installed, made without a network and without compiling.

A wheel is a zip file of the files that pip has installed, so each distribution can be packed again.
"""

from __future__ import annotations

import importlib.metadata
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from compiled import COMPILED

import offgrid

_SOURCES = {".pyx", ".pxd", ".c", ".h", ".pyc"}


def pack(names: list[str], folder: Path) -> None:
    """Write wheels of distributions, and of all that they need, to a folder."""
    left, done = list(names), set[str]()
    while left:
        name = _normal(left.pop())
        if name in done:
            continue
        done.add(name)
        found = importlib.metadata.distribution(name)
        _write(found, folder)
        left += _needs(found)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(distribution: importlib.metadata.Distribution) -> Iterator[str]:
    """Yield the names of the requirements that are installed and belong to no extra."""
    for requirement in distribution.requires or []:
        words, _, marker = requirement.partition(";")
        match = re.match(r"[A-Za-z0-9._-]+", words)
        if match and "extra" not in marker and _is_installed(match[0]):
            yield match[0]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _write(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    name, version = distribution.metadata["Name"].replace("-", "_"), distribution.version
    tags = re.findall(r"^Tag: (.+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    members = dict(_members(distribution))
    info = next(member.split("/")[0] for member in members if ".dist-info/" in member)
    members.pop(f"{info}/RECORD", None)
    path = folder / f"{name}-{version}-{tags[0]}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, file in members.items():
            archive.write(file, member)
        record = "".join(f"{member},,\n" for member in (*members, f"{info}/RECORD"))
        archive.writestr(f"{info}/RECORD", record)


def _members(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, Path]]:
    """Yield the name in the wheel and the path of each file of a distribution."""
    own = distribution.metadata["Name"] == "offgrid-llm"
    for file in distribution.files or []:
        is_code = file.parts[0] == ".." or file.suffix == ".pyc"  # scripts are made at installation
        if not is_code and not (own and ".dist-info" not in file.parts[0]):
            yield file.as_posix(), Path(str(file.locate()))
    if own:
        yield from _package()


def _package() -> Iterator[tuple[str, Path]]:
    """Yield the files of OffGrid itself, which may be installed in editable mode."""
    root = Path(offgrid.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix not in _SOURCES | {".so", ".pyd"}:
            yield path.relative_to(root.parent).as_posix(), path
    for module in COMPILED:
        path = Path(str(module.__file__))
        yield f"offgrid/sampling/{path.name}", path
