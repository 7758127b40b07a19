"""Puts OffGrid itself on a stick: wheels of this version and of everything that it needs.

::

    DEST/install.sh  DEST/install.bat             make a virtual environment from the stick alone
    DEST/offgrid-installer/<platform>-cp<XY>/     the wheels, pip's own among them

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

INSTALL_SH = r"""#!/bin/sh
# Installs OffGrid LLM @VERSION@ and the models of this folder. It uses no network.
#
#     sh install.sh [--serve] [FOLDER]
#
# FOLDER is the virtual environment to make; without it, "offgrid" in the home folder.
# With --serve, the server is started at the end.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
serve=no
if [ "${1:-}" = --serve ]; then
    serve=yes
    shift
fi
target=${1:-"$HOME/offgrid"}
wheels=
code='import sys, sysconfig
print("%s-cp%d%d" % ((sysconfig.get_platform(),) + sys.version_info[:2]))'
for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
    tag=$("$python" -c "$code" 2>/dev/null) || continue
    if [ -d "$here/offgrid-installer/$tag" ]; then
        wheels=$here/offgrid-installer/$tag
        break
    fi
done
if [ -z "$wheels" ]; then
    echo "install.sh: no Python on this machine fits the packages on this stick, which are for:" >&2
    ls "$here/offgrid-installer" >&2
    echo "Install that version of Python, or export from a machine like this one." >&2
    exit 1
fi
if [ ! -x "$target/bin/python" ]; then
    "$python" -m venv --without-pip "$target"
fi
for pip in "$wheels"/pip-*.whl; do :; done
PIP_CONFIG_FILE=/dev/null "$target/bin/python" "$pip/pip" install --isolated --quiet \
    --disable-pip-version-check --no-index --find-links "$wheels" "offgrid-llm==@VERSION@"
if [ -d "$here/offgrid-models" ]; then
    "$target/bin/offgrid" import "$here/offgrid-models"
fi
if [ "$serve" = yes ]; then
    exec "$target/bin/offgrid" serve
fi
echo "OffGrid LLM is installed. Start it with:"
echo "    $target/bin/offgrid serve"
"""
INSTALL_BAT = r"""@echo off
rem Installs OffGrid LLM @VERSION@ and the models of this folder. It uses no network.
rem
rem     install.bat [FOLDER]
rem
rem FOLDER is the virtual environment to make; without it, "offgrid" in the home folder.
setlocal
set "here=%~dp0"
set "target=%~1"
if "%target%"=="" set "target=%USERPROFILE%\offgrid"
set "wheels="
set "python="
for %%v in (3.14 3.13 3.12 3.11 3.10) do call :try py -%%v
call :try python
if not defined wheels (
    echo install.bat: no Python on this machine fits the packages on this stick, which are for:
    dir /b "%here%offgrid-installer"
    echo Install that version of Python, or export from a machine like this one.
    exit /b 1
)
if not exist "%target%\Scripts\python.exe" %python% -m venv --without-pip "%target%" || exit /b 1
for %%w in ("%wheels%\pip-*.whl") do set "pip=%%~fw"
set "PIP_CONFIG_FILE=nul"
"%target%\Scripts\python.exe" "%pip%\pip" install --isolated --quiet --disable-pip-version-check --no-index --find-links "%wheels%" "offgrid-llm==@VERSION@" || exit /b 1
if exist "%here%offgrid-models\" "%target%\Scripts\offgrid.exe" import "%here%offgrid-models" || exit /b 1
echo OffGrid LLM is installed. Start it with:
echo     "%target%\Scripts\offgrid.exe" serve
exit /b 0

:try
if defined wheels exit /b 0
set "tag="
for /f "delims=" %%t in ('%* -c "import sys, sysconfig; print(sysconfig.get_platform() + '-cp' + str(sys.version_info[0]) + str(sys.version_info[1]))" 2^>nul') do set "tag=%%t"
if not defined tag exit /b 0
if not exist "%here%offgrid-installer\%tag%\" exit /b 0
set "wheels=%here%offgrid-installer\%tag%"
set "python=%*"
exit /b 0
"""  # noqa: E501


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
        for path in wheels:
            with FileIO(path, "r+b") as file:
                disk.sync(file)
        shutil.rmtree(final, ignore_errors=True)
        disk.replace(draft, final)
        for name, text in (("install.sh", INSTALL_SH), ("install.bat", INSTALL_BAT)):
            text = text.replace("@VERSION@", __version__)
            if name.endswith(".bat"):
                text = text.replace("\n", "\r\n")
            manifest.write_whole(dest / name, text.encode(), disk)
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
