"""Puts OffGrid itself on a stick: wheels of this version and of everything that it needs.

::

    DEST/install.sh  DEST/install.bat             make a virtual environment from the stick alone
    DEST/offgrid-installer/<platform>-cp<XY>/     the wheels, pip's own among them, and on Linux
                                                  libgomp.so.1, which small systems lack

The wheels fit this platform and this version of Python. Exports from several machines to one stick
add a folder each; the scripts choose the one that fits.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from offgrid import __version__
from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.disk import DISK, Disk, explained
from offgrid.store.names import INSTALLER_FOLDER
from offgrid.store.packages import pip_error, require_pip

_DISTRIBUTION = "offgrid-llm"
_NEEDED = ("offgrid_llm", "llama_cpp_python", "pip")
Pip = Callable[[Sequence[str], Path], None]
"""Puts wheels of requirements and of all their dependencies into a folder."""

SCRIPTS = ("install.sh", "install.bat")
"""The files of the folder ``stick``; each runs the check :mod:`offgrid.engine.worker.self_test`."""


OPENMP_LIBRARY = "libgomp.so.1"
"""GCC's library for threads, which llama.cpp and the sampler need."""


def script(name: str) -> bytes:
    """Return a script for this version. Windows needs its own line ends."""
    text = (Path(__file__).parent / "stick" / name).read_text(encoding="utf-8")
    text = text.replace("@VERSION@", __version__)
    return text.replace("\n", "\r\n" if name.endswith(".bat") else "\n").encode()


def tag() -> str:
    """Return the name of the folder for this platform and version of Python."""
    return f"{sysconfig.get_platform()}-cp{sys.version_info[0]}{sys.version_info[1]}"


def write_installer(
    dest: Path, source: Path | None, pip: Pip, disk: Disk = DISK
) -> tuple[int, int]:
    """Write wheels and scripts to a stick; return the number of wheels and their bytes.

    Args:
        source: a wheel or a source folder of this version; None to use what this installation was
            made from, or else the user's package index.

    Raises:
        TransferError: pip fails, a wheel that is needed is missing, or the stick is full.
    """
    base = dest / INSTALLER_FOLDER
    draft, final = base / f".{tag()}", base / tag()
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        pip([str(source) if source is not None else _origin(), "pip"], draft)
        wheels = sorted(draft.glob("*.whl"))
        _check(wheels)
        library = _openmp_library()
        if library is not None:
            shutil.copyfile(library, draft / OPENMP_LIBRARY)
        for path in draft.iterdir():
            with FileIO(path, "r+b") as file:
                disk.sync(file)
        shutil.rmtree(final, ignore_errors=True)
        disk.replace(draft, final)
        for name in SCRIPTS:
            manifest.write_whole(dest / name, script(name), disk)
        with contextlib.suppress(OSError):  # FAT has no such permission
            os.chmod(dest / "install.sh", 0o755)
    except OSError as ex:
        raise explained(ex, final, 0) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(wheels), sum(path.stat().st_size for path in final.glob("*.whl"))


def _check(wheels: Sequence[Path]) -> None:
    names = [path.name.split("-")[:2] for path in wheels]
    for needed in _NEEDED:
        versions = [version for name, version in names if name.lower() == needed]
        if not versions:
            raise TransferError(f"pip made no wheel of {needed}", "pip")
        if needed == "offgrid_llm" and versions != [__version__]:
            raise TransferError(
                f"pip made a wheel of version {versions[0]}, but this is {__version__}. Name a "
                "wheel or source folder of this version with --installer-from.",
                "pip",
            )


def _openmp_library() -> Path | None:
    """Return the OpenMP library that this process has loaded for the sampler; None if none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
            path = Path(line.split(maxsplit=5)[-1])
            if path.name.startswith(OPENMP_LIBRARY) and path.is_file():
                return path
    return None


def _origin() -> str:
    """Return what pip is asked for: the local path that was installed, or name and version."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        text = importlib.metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
        url = urlsplit(json.loads(text or "{}").get("url", ""))
        path = Path(unquote(url.path))
        if url.scheme == "file" and path.exists():
            return str(path)
    return f"{_DISTRIBUTION}=={__version__}"


def run_pip(requirements: Sequence[str], folder: Path, *, show: bool = False) -> None:
    """Make wheels with pip as the user configured it; a wheel that is not found is built.

    Args:
        show: let pip write its progress to standard output.

    Raises:
        TransferError: pip is absent or fails.
    """
    require_pip()
    result = subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--no-input", "--disable-pip-version-check",
            "--wheel-dir", str(folder), *requirements,
        ],
        stdin=subprocess.DEVNULL,
        stdout=None if show else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )  # fmt: skip
    if result.returncode != 0:
        error = pip_error(requirements, result.stderr)
        hint = "--installer-from names a wheel or source folder of this version."
        raise TransferError(f"{error} {hint}", error.code)
