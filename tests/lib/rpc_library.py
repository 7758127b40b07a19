"""llama.cpp's RPC, compiled as a separate library from the sources of llama-cpp-python.

llama.cpp is built without RPC by default. To build it again takes minutes; this library takes
seconds, and fits the llama.cpp that is installed. The sources come from the package index that pip
is configured with. Sources and library are kept in ``~/.cache/offgrid-tests``, or in the folder
that ``OFFGRID_TEST_MODELS`` names.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_models import FOLDER

_FOLDERS = ("ggml/include/", "ggml/src/")
_DEFINES = ("GGML_BACKEND_DL", "GGML_BACKEND_BUILD", "GGML_BACKEND_SHARED", "GGML_SHARED")
_SECONDS = 600


class Unavailable(Exception):
    """The library cannot be made here; the message says why."""


@functools.cache
def rpc_library() -> str:
    """The path of the library; the test is skipped if it was not made. Tests do not make it: the
    default run compiles nothing and needs no network."""
    library = _place()
    if not library.exists():
        pytest.skip("llama.cpp's RPC is not compiled yet: python tests/lib/rpc_library.py")
    return str(library)


def _place() -> Path:
    version = importlib.metadata.version("llama-cpp-python")
    return FOLDER / f"libggml-rpc-{version}.so"


def make_library() -> str:
    """The path of the library, which the first call makes; raises Unavailable."""
    if sys.platform != "linux":
        raise Unavailable("the library is compiled for Linux only")
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise Unavailable("there is no C++ compiler for llama.cpp's RPC")
    version = importlib.metadata.version("llama-cpp-python")
    library = _place()
    with _alone(library):
        if not library.exists():
            _build(compiler, version, library)
    return str(library)


def _build(compiler: str, version: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        sources = _sources(version, folder) / "ggml"
        made = folder / library.name
        spec = importlib.util.find_spec("llama_cpp")
        assert spec is not None
        assert spec.origin is not None
        libraries = Path(spec.origin).parent / "lib"
        rpc = sources / "src" / "ggml-rpc"
        subprocess.run(
            [
                compiler, "-O2", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden",
                *(f"-D{name}" for name in _DEFINES),
                f"-I{sources / 'include'}", f"-I{sources / 'src'}",
                str(rpc / "ggml-rpc.cpp"), str(rpc / "transport.cpp"), "-o", str(made),
                f"-L{libraries}", "-lggml-base", "-lpthread",
            ],
            check=True,
            timeout=_SECONDS,
        )  # fmt: skip
        made.replace(library)


def _sources(version: str, folder: Path) -> Path:
    """The folder of llama.cpp's sources, of which only ggml is unpacked."""
    archive = FOLDER / f"llama_cpp_python-{version}.tar.gz"
    if not archive.exists():
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
            "llama-cpp-python", f"llama-cpp-python=={version}", "--dest", str(folder),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        if done.returncode:
            reason = done.stderr.strip()[-200:]
            raise Unavailable(f"the sources of llama.cpp cannot be had: {reason}")
        (folder / archive.name).replace(archive)
    root = f"{archive.name.removesuffix('.tar.gz')}/vendor/llama.cpp/"
    with tarfile.open(archive) as packed:
        wanted = tuple(root + part for part in _FOLDERS)
        for member in packed:
            if member.isfile() and member.name.startswith(wanted):
                packed.extract(member, folder)
    return folder / root


@contextlib.contextmanager
def _alone(library: Path) -> Iterator[None]:
    """Let one process of the tests build, and the others wait."""
    import fcntl

    library.parent.mkdir(parents=True, exist_ok=True)
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    if not library.exists() and os.path.exists(lock.name):
        os.unlink(lock.name)


if __name__ == "__main__":
    print(make_library())
