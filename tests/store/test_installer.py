"""The installer on a stick. The package in these tests has OffGrid's name and is tiny."""

from __future__ import annotations

import ensurepip
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from sticks import content, put, wheel
from support import TIMEOUT

from offgrid import __version__
from offgrid.errors import TransferError
from offgrid.store.installer import tag, write_installer

PROGRAM = b"import sys\ndef main():\n    print('ran', *sys.argv[1:])\n"
PIP = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))


def package(folder: Path, name: str, version: str, needs: str = "", test: str = "") -> None:
    """A wheel. If it needs another one, it has the program ``offgrid`` and the check of it."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    members = {
        f"{name}/__init__.py": PROGRAM,
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if needs:
        metadata += f"Requires-Dist: {needs}\n"
        members[f"{info}/entry_points.txt"] = f"[console_scripts]\noffgrid = {name}:main".encode()
        members["offgrid/engine/worker/self_test.py"] = test.encode()
    members[f"{info}/METADATA"] = metadata.encode()
    members[f"{info}/RECORD"] = "".join(f"{member},,\n" for member in members).encode()
    wheel(folder / f"{name}-{version}-py3-none-any.whl", members)


def fake_pip(requirements: Sequence[str], folder: Path, test: str = "") -> None:
    assert requirements[-1] == "pip"
    package(folder, "offgrid_llm", __version__, needs="llama_cpp_python", test=test)
    package(folder, "llama_cpp_python", "0.3.36")
    shutil.copy(PIP[-1], folder)


class Machine:
    """A stick, and a machine whose ``PATH`` has only the programs that the script may use."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.stick = folder / "my stick"
        self.programs = folder / "bin"
        self.target = folder / "new place"
        self.programs.mkdir()
        for name in ("dirname", "ls"):
            (self.programs / name).symlink_to(shutil.which(name) or "")
        put(self.stick / "offgrid-models/a.gguf", content(1, 1000))

    def python(self, text: str = 'exec "$REAL" "$@"') -> None:
        """Add ``python3``: a script for a shell, in which ``$REAL`` is this Python."""
        program(self.programs / "python3", text)

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "PATH": str(self.programs), "HOME": str(self.home), "REAL": sys.executable,
            "PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_TARGET": str(self.home / "elsewhere"),
            "PYTHONPATH": str(self.home / "nowhere"),
        }  # fmt: skip
        return subprocess.run(
            ["/bin/sh", str(self.stick / "install.sh"), *arguments, str(self.target)],
            capture_output=True, text=True, env=environ, timeout=TIMEOUT, check=False,
        )  # fmt: skip

    def refused(self, *arguments: str) -> str:
        """Run the script, which fails; return its message."""
        result = self.install(*arguments)
        assert result.returncode == 1
        assert "is installed. Start it" not in result.stdout
        message = result.stderr[result.stderr.index("install.sh: ") :]
        return message


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if not PIP or os.name == "nt":
        pytest.skip("needs sh and a bundled pip")
    return Machine(tmp_path)


@pytest.mark.slow
def test_install_sh_needs_only_the_stick(machine: Machine) -> None:
    """Neither the network nor the configuration of pip is used."""
    stick = machine.stick
    assert write_installer(stick, None, fake_pip)[0] == 3
    assert sorted(os.listdir(stick / "offgrid-installer")) == [tag()]
    if sys.platform == "linux":
        library = stick / "offgrid-installer" / tag() / "libgomp.so.1"
        assert library.read_bytes().startswith(b"\x7fELF")
    machine.python()
    result = machine.install("--serve")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"ran import {stick / 'offgrid-models'}\nran serve\n"
    # The second time, it finds its own environment, even without another Python.
    (machine.programs / "python3").unlink()
    result = machine.install()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(f"    {machine.target}/bin/offgrid serve\n")


def test_a_python_that_does_not_fit_is_refused(machine: Machine) -> None:
    write_installer(machine.stick, None, fake_pip)
    assert "This machine has: no Python." in machine.refused()
    machine.python()
    os.rename(
        machine.stick / "offgrid-installer" / tag(), machine.stick / "offgrid-installer/a-cp399"
    )
    message = machine.refused()
    assert "no Python on this machine fits" in message
    assert "\na-cp399\n" in message
    assert f"This machine has: {tag()}." in message


def test_a_python_without_venv(machine: Machine) -> None:
    write_installer(machine.stick, None, fake_pip)
    machine.python('[ "$1" = -m ] && { echo no module >&2; exit 1; }; exec "$REAL" "$@"')
    assert "package python3-venv" in machine.refused()


def test_a_folder_that_cannot_be_the_environment(machine: Machine) -> None:
    write_installer(machine.stick, None, fake_pip)
    machine.python()
    put(machine.target / "thesis.txt", b"")
    assert f"{machine.target} is not empty" in machine.refused()
    # The environment of another version of Python.
    (machine.target / "bin").mkdir()
    program(machine.target / "bin/python", "echo a-cp399")
    assert f"belongs to another version of Python than {tag()}" in machine.refused()


@pytest.mark.slow
def test_packages_that_do_not_work_on_this_machine(machine: Machine) -> None:
    def pip(requirements: Sequence[str], folder: Path) -> None:
        fake_pip(requirements, folder, "import os, signal; os.kill(os.getpid(), signal.SIGILL)")

    write_installer(machine.stick, None, pip)
    machine.python()
    assert "it cannot compute on this machine" in machine.refused()


def test_options_of_install_sh(machine: Machine) -> None:
    write_installer(machine.stick, None, fake_pip)
    assert "there is no option --service" in machine.refused("--service")
    assert "only one FOLDER" in machine.refused("somewhere")


def test_a_second_export_replaces_the_packages(tmp_path: Path) -> None:
    if not PIP:
        pytest.skip("needs a bundled pip")
    put(tmp_path / "offgrid-installer" / tag() / "old-1-py3-none-any.whl", b"")
    put(tmp_path / "offgrid-installer/other-cp312/theirs.whl", b"")
    write_installer(tmp_path, None, fake_pip)
    assert not list(tmp_path.rglob("old-*"))
    assert list(tmp_path.rglob("theirs.whl"))
    script = (tmp_path / "install.bat").read_bytes()
    assert f"offgrid-llm=={__version__}".encode() in script
    assert b"@VERSION@" not in script
    assert script.count(b"\n") == script.count(b"\r\n")


@pytest.mark.parametrize(
    ("version", "llama", "message"),
    [("9.9", True, "a wheel of version 9.9"), (__version__, False, "no wheel of llama_cpp_python")],
)
def test_a_wheel_that_is_wrong_or_missing(
    tmp_path: Path, version: str, llama: bool, message: str
) -> None:
    def pip(requirements: Sequence[str], folder: Path) -> None:
        assert requirements == [str(tmp_path), "pip"]
        package(folder, "offgrid_llm", version)
        if llama:
            package(folder, "llama_cpp_python", "1")
        package(folder, "pip", "1")

    with pytest.raises(TransferError, match=message):
        write_installer(tmp_path, tmp_path, pip)
    assert list(tmp_path.rglob("*.whl")) == []
    assert not (tmp_path / "install.sh").exists()
