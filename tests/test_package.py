"""The files of an installation, the message of a source tree, and the links of the documents."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from compiled import COMPILED
from support import TIMEOUT

import offgrid
from offgrid.store.catalogue import STARTER_PATH

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGE = Path(offgrid.__file__).parent
LARGEST_STARTER = 4 * 2**20
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "*.md",
        "csrc/*.md",
        "docs/**/*.md",
        "tests/*.md",
        "starter/*.md",
        "benchmarks/*.md",
        "offgrid/**/*.md",
    )
    for path in ROOT.glob(pattern)
)


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    return importlib.metadata.distribution("offgrid-llm")


@pytest.fixture(scope="module")
def installed(
    distribution: importlib.metadata.Distribution,
) -> list[importlib.metadata.PackagePath]:
    """The files of our package as recorded by pip."""
    if is_editable(distribution):
        pytest.skip("an editable installation has no files of its own")
    files = [file for file in distribution.files or [] if file.parts[0] == "offgrid"]
    assert len(files) > 40
    return files


def is_editable(distribution: importlib.metadata.Distribution) -> bool:
    """Whether the package is installed in editable mode."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def python(program: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, **environ},
        timeout=TIMEOUT,
    )


# --- the installation -----------------------------------------------------------------------------


def test_no_source_of_compiled_modules_is_installed(
    installed: list[importlib.metadata.PackagePath],
) -> None:
    sources = {".pyx", ".pxd", ".pxi", ".c", ".h", ".inc", ".cpp"}
    assert [str(file) for file in installed if file.suffix in sources] == []


def test_types_are_installed(installed: list[importlib.metadata.PackagePath]) -> None:
    names = {file.as_posix() for file in installed}
    assert "offgrid/py.typed" in names
    for module in (path.stem for path in (ROOT / "offgrid" / "sampling").glob("*.pyx")):
        assert f"offgrid/sampling/{module}.pyi" in names
        compiled = [name for name in names if name.startswith(f"offgrid/sampling/{module}.")]
        assert any(name.endswith(tuple(EXTENSION_SUFFIXES)) for name in compiled)


def test_the_starter_and_its_card_are_installed(
    installed: list[importlib.metadata.PackagePath],
) -> None:
    files = {file.as_posix(): Path(str(file.locate())) for file in installed}
    starter = files["offgrid/models/offgrid-starter.gguf"]
    assert 0 < starter.stat().st_size <= LARGEST_STARTER
    assert starter.read_bytes()[:4] == b"GGUF"
    assert "offgrid/models/README.md" in files
    assert STARTER_PATH.stat().st_size <= LARGEST_STARTER


def test_the_web_page_is_installed(
    distribution: importlib.metadata.Distribution, installed: list[importlib.metadata.PackagePath]
) -> None:
    if PACKAGE.parent != Path(str(distribution.locate_file(""))):
        pytest.skip("another copy of the package is imported than the installed one")
    names = {file.as_posix() for file in installed if file.parts[:2] == ("offgrid", "web")}
    assert names == {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "offgrid" / "web").rglob("*")
        if path.is_file()
    }
    assert "offgrid/web/vendor/highlight/languages/c.js" in names


def test_metadata(distribution: importlib.metadata.Distribution) -> None:
    assert distribution.metadata["Requires-Python"] == ">=3.10"
    assert distribution.version == offgrid.__version__
    scripts = {
        entry.name: entry.value
        for entry in distribution.entry_points
        if entry.group == "console_scripts"
    }
    assert scripts == {"offgrid": "offgrid.cli:main"}


def test_the_sampling_modules_are_compiled() -> None:
    for module in COMPILED:
        assert str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES))


# --- the source tree ------------------------------------------------------------------------------


# The source tree after a fresh clone, and after compiling in place.
@pytest.mark.slow
@pytest.mark.parametrize("is_compiled", [False, True])
def test_python_m_pytest_uses_the_package_that_can_be_imported(
    tmp_path: Path, is_compiled: bool
) -> None:
    """The installed package if the source tree is not compiled, else the source tree."""
    tree = tmp_path / "tree"
    unwanted = [f"*{end}" for end in EXTENSION_SUFFIXES] + ["*.gguf", "__pycache__"]
    shutil.copytree(PACKAGE, tree / "offgrid", ignore=shutil.ignore_patterns(*unwanted))
    if is_compiled:
        for module in COMPILED:
            shutil.copy(str(module.__file__), tree / "offgrid" / "sampling")
    shutil.copy(ROOT / "pyproject.toml", tree)
    shutil.copytree(ROOT / "tests" / "lib", tree / "tests" / "lib")
    shutil.copy(ROOT / "tests" / "conftest.py", tree / "tests")
    (tree / "tests" / "test_small.py").write_text(
        "from pathlib import Path\n"
        "import offgrid.sampling\n"
        "def test_where_it_comes_from():\n"
        "    is_here = Path(offgrid.__file__).is_relative_to(Path(__file__).parent.parent)\n"
        f"    assert is_here is {is_compiled}\n"
    )
    done = subprocess.run(
        # In a worker process, as for all tests: it rebuilds sys.path.
        [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider"],
        capture_output=True,
        encoding="utf-8",
        cwd=tree,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_source_tree_says_how_to_install(
    tmp_path: Path, distribution: importlib.metadata.Distribution
) -> None:
    """In a fresh clone, Python finds the source tree before the installed package."""
    if is_editable(distribution):
        pytest.skip("an editable installation is found before any folder")
    leave_out = shutil.ignore_patterns("*.so", "*.pyd", "*.gguf", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "offgrid", ignore=leave_out)
    ended = python("import offgrid.sampling", tmp_path, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "pip install ." in last
    assert "C compiler" in last


def test_the_build_tools_of_the_makefile_include_all_requirements() -> None:
    """A build without isolation uses the installed tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = re.findall(r"^TOOLS = (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(project["build-system"]["requires"]) <= set(shlex.split(tools[0]))


# --- the documents --------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_blocks(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_has_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = re.findall(r"^<!-- (serve|tests) -->\n```sh\n(.+)\n```$", text, re.MULTILINE)
    assert dict(marked) == {
        "serve": "pip install . && offgrid serve",
        "tests": "pip install '.[test]' && pytest",
    }
    assert len(marked) == 2


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    source = ROOT / page
    text = source.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = source.parent / path if path else source
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page} links to {target}"


FOLDERS = ("offgrid", "csrc", "tests", "docs", "benchmarks", "starter")


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_code_exist(page: str) -> None:
    """Paths inside commands count too; ``*`` stands for any name.

    Files that programs write to ``out`` do not exist yet.
    """
    text = without_blocks((ROOT / page).read_text(encoding="utf-8"))
    words = [word for code in re.findall(r"`([^`]+)`", text) for word in code.split()]
    for path in words:
        if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and "/out/" not in path:
            assert any(ROOT.glob(path.rstrip("/"))), f"{page} names {path}"


def test_the_readme_says_where_to_make_changes() -> None:
    """It lists the subjects spread over several folders; a test above checks the paths."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = text.split("\n## Where to change what\n")[1].split("\n## ")[0].splitlines()
    for subject in (
        "structured output", "logprobs", "embeddings", "streaming", "how long prompts", "OpenAPI",
    ):  # fmt: skip
        found = [row for row in rows if row.startswith("|") and subject in row.split("|")[1]]
        assert found, subject
        for row in found:
            assert re.search(r"`(offgrid|csrc)/", row.split("|")[2]), row
            assert re.search(r"`(pytest|make) ", row.split("|")[3]), row


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| \[[^]]+\]\(([^)]+)\) \|", index, re.MULTILINE)
    found = {(ROOT / "docs" / name).resolve().relative_to(ROOT).as_posix() for name in named}
    assert found == set(PAGES) - {"docs/README.md"}


def test_the_pages_are_found() -> None:
    assert {"README.md", "docs/API.md", "docs/CONFIGURATION.md"} <= set(PAGES)
    assert "](docs/" in (ROOT / "README.md").read_text(encoding="utf-8")
