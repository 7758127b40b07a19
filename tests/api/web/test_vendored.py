"""The third-party libraries of the web page are those of offgrid/web/vendor/vendor.json."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page_files import WEB, imports, later_imports

VENDOR = WEB / "vendor"
PACKAGES: list[dict[str, Any]] = json.loads((VENDOR / "vendor.json").read_text())["packages"]
FILES: dict[str, dict[str, Any]] = {
    file["file"]: file for package in PACKAGES for file in package["files"]
}
SCRIPTS = sorted(VENDOR.rglob("*.js"))
LICENCE_WORDS = {
    "MIT": "Permission is hereby granted, free of charge",
    "Apache-2.0": "Apache License",
    "BSD-3-Clause": "Redistribution and use in source and binary forms",
    "(MPL-2.0 OR Apache-2.0)": "Apache License",
}


def test_each_file_has_its_recorded_hash() -> None:
    hashes = {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in FILES}
    assert hashes == {name: file["sha256"] for name, file in FILES.items()}


def test_each_file_is_listed() -> None:
    found = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}
    assert found - {"vendor.json"} == set(FILES)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package["name"])
def test_each_package_has_its_licence(package: dict[str, Any]) -> None:
    texts = [
        (VENDOR / file["file"]).read_text()
        for file in package["files"]
        if file["file"].startswith("licences/")
    ]
    assert LICENCE_WORDS[package["licence"]] in texts[0]
    assert package["version"]


def test_only_a_file_with_an_edit_differs_from_its_package() -> None:
    changed = {name for name, file in FILES.items() if file["sha256"] != file["source_sha256"]}
    assert changed == {name for name, file in FILES.items() if file.get("edits")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_library_imports_only_files_beside_it(script: Any) -> None:
    source = script.read_text()
    for name in imports(source) + later_imports(source):
        assert name.startswith("./"), f"a browser cannot find {name!r}"
        assert (script.parent / name).is_file()


def test_the_hooks_import_the_vendored_preact() -> None:
    assert imports((VENDOR / "hooks.js").read_text()) == ["./preact.js"]


def test_no_library_names_a_source_map() -> None:
    assert not [path.name for path in SCRIPTS if "sourceMappingURL" in path.read_text()]


# --- the program that makes the folder ------------------------------------------------------------

NPM = """#!{python}
import pathlib, sys, tarfile
folder, wanted = sys.argv[sys.argv.index("--pack-destination") + 1], sys.argv[-1]
source = pathlib.Path({packages!r}) / wanted
with tarfile.open(f"{{folder}}/some.tgz", "w:gz") as archive:
    archive.add(source, "package")
print("some.tgz")
"""
"""Packs a folder, in place of the registry's npm."""
LIBRARY = b'import{a}from"other";export default a;\n//# sourceMappingURL=a.js.map'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with .ci/vendor and one vendored package, and an npm that has this package."""
    program = Path(__file__).parents[3] / ".ci" / "vendor"
    if not program.exists():
        pytest.skip("a source distribution has no .ci")
    folder = tmp_path / "tree"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(program, folder / ".ci")
    package = tmp_path / "packages" / "a@1.0.0"
    package.mkdir(parents=True)
    (package / "a.mjs").write_bytes(LIBRARY)
    (package / "LICENSE").write_text("MIT")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(NPM.format(python=sys.executable, packages=str(package.parent)))
    npm.chmod(0o755)
    edits = ["import other ./other.js", "no-source-map", "export b"]
    listed = {"file": "a.js", "source": "a.mjs", "edits": edits}
    licence = {"file": "licences/a.txt", "source": "LICENSE"}
    vendor = folder / "offgrid" / "web" / "vendor"
    vendor.mkdir(parents=True)
    packages = [{"name": "a", "version": "1.0.0", "licence": "MIT", "files": [listed, licence]}]
    (vendor / "vendor.json").write_text(json.dumps({"packages": packages}))
    return folder


def make(tree: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/vendor of a tree."""
    path = f"{tree.parent / 'bin'}:{os.environ['PATH']}"
    command = [sys.executable, str(tree / ".ci" / "vendor"), *flags]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})


def test_files_are_made_with_their_edits(tree: Path) -> None:
    vendor = tree / "offgrid" / "web" / "vendor"
    assert make(tree, "--update").returncode == 0
    made = b'import{a}from"./other.js";export default a;\n\nexport default b;\n'
    assert (vendor / "a.js").read_bytes() == made
    (listed, _) = json.loads((vendor / "vendor.json").read_text())["packages"][0]["files"]
    assert listed["sha256"] == hashlib.sha256(made).hexdigest()
    assert listed["source_sha256"] == hashlib.sha256(LIBRARY).hexdigest()
    (vendor / "a.js").unlink()
    assert make(tree).returncode == 0
    assert (vendor / "a.js").read_bytes() == made


def test_a_package_that_has_changed_is_refused(tree: Path) -> None:
    vendor = tree / "offgrid" / "web" / "vendor"
    assert make(tree, "--update").returncode == 0
    good = (vendor / "a.js").read_bytes()
    source = tree.parent / "packages" / "a@1.0.0" / "a.mjs"
    source.write_bytes(b'import{a}from"other";steal();')
    ended = make(tree)
    assert ended.returncode == 1
    assert ended.stderr.startswith("a.js: source_sha256 is ")
    assert (vendor / "a.js").read_bytes() == good
    # An edit that finds nothing to change, or too much, is an error also with --update.
    for text in (b"nothing", LIBRARY + LIBRARY):
        source.write_bytes(text)
        ended = make(tree, "--update")
        assert ended.returncode == 1
        assert "times; change this edit in vendor.json" in ended.stderr
