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


def package(folder: Path, name: str, version: str, needs: str = "") -> None:
    """A wheel, which has the program ``offgrid`` if it needs another one."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    members = {
        f"{name}/__init__.py": PROGRAM,
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if needs:
        metadata += f"Requires-Dist: {needs}\n"
        members[f"{info}/entry_points.txt"] = f"[console_scripts]\noffgrid = {name}:main".encode()
    members[f"{info}/METADATA"] = metadata.encode()
    members[f"{info}/RECORD"] = "".join(f"{member},,\n" for member in members).encode()
    wheel(folder / f"{name}-{version}-py3-none-any.whl", members)


def fake_pip(requirements: Sequence[str], folder: Path) -> None:
    assert requirements[-1] == "pip"
    package(folder, "offgrid_llm", __version__, needs="llama_cpp_python")
    package(folder, "llama_cpp_python", "0.3.36")
    shutil.copy(PIP[-1], folder)


@pytest.mark.skipif(not PIP or os.name == "nt", reason="needs sh and a bundled pip")
def test_install_sh_needs_only_the_stick(tmp_path: Path) -> None:
    """Neither the network nor the configuration of pip is used."""
    stick = tmp_path / "my stick"
    put(stick / "offgrid-models/a.gguf", content(1, 1000))
    assert write_installer(stick, None, fake_pip)[0] == 3
    assert sorted(os.listdir(stick / "offgrid-installer")) == [tag()]
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    for name in ("dirname", "ls"):
        (programs / name).symlink_to(shutil.which(name) or "")
    target = tmp_path / "new place"
    environ = {
        "PATH": str(programs), "HOME": str(tmp_path), "PIP_INDEX_URL": "http://127.0.0.1:1/",
        "PIP_TARGET": str(tmp_path / "elsewhere"),
    }  # fmt: skip
    result = subprocess.run(
        ["/bin/sh", str(stick / "install.sh"), "--serve", str(target)],
        capture_output=True, text=True, env=environ, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"ran import {stick / 'offgrid-models'}\nran serve\n"
    # A Python that does not fit is refused, and the message names those that do.
    os.rename(stick / "offgrid-installer" / tag(), stick / "offgrid-installer/other-cp399")
    result = subprocess.run(
        ["/bin/sh", str(stick / "install.sh")],
        capture_output=True, text=True, env=environ, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "no Python on this machine fits" in result.stderr
    assert "other-cp399" in result.stderr


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
