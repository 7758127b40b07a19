"""Model files that are damaged or changed while they are served: an error, and no harm.

A stream of another model runs beside every attack and must reach its end.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_models
from processes import Child
from served import complete, served
from support import Response, Stream, endless, eventually, request

pytestmark = pytest.mark.usefixtures("access")
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of under 1 MB."""
    return tiny_models.make("llama", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    folder = tmp_path_factory.mktemp("held")
    (folder / "models").mkdir()
    shutil.copy(tiny, folder / "models" / "beside.gguf")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, access: str) -> Iterator[Child]:
    flags = ("--model", "beside", "--max-models", "2", "--ctx-size", "512", "--parallel", "2")
    with served(folder, *flags) as child:
        yield child
        assert child.process.poll() is None
        assert "ERROR offgrid.api" not in child.err.text


@pytest.fixture(autouse=True)
def _stream_beside(server: Child) -> Iterator[None]:
    """A stream that starts before the attack must reach its end; then its model still answers."""
    with Stream(server.url, TEXT, {**endless(), "model": "beside", "max_tokens": 100}) as stream:
        assert stream.read_some()
        yield
        *_, done = stream.events()
        assert done == "[DONE]"
    assert ask(server, "beside").status == 200


def ask(server: Child, model: str) -> Response:
    return complete(server, {"model": model, "prompt": "Once", "max_tokens": 2})


def serves_or_says_why(server: Child, path: Path) -> None:
    """Check that a damaged file still works, or that the error blames the file, not the server."""
    response = ask(server, path.stem)
    if response.status != 200:
        error = response.json["error"]
        # A changed header can give a model that does not generate.
        known = {(500, "model_load_failed"), (400, "unsupported_model"), (500, "engine_fault")}
        assert (response.status, error["code"]) in known, error
        assert request(server.url, "GET", "/health").status == 200
    path.unlink()


# --- headers --------------------------------------------------------------------------------------


def cut_files(server: Child, folder: Path, tiny: Path, sizes: list[int]) -> None:
    whole = tiny.read_bytes()
    for size in sizes:
        path = folder / "models" / f"cut-{size}.gguf"
        path.write_bytes(whole[:size])
        serves_or_says_why(server, path)


def changed_headers(server: Child, folder: Path, tiny: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    whole = tiny.read_bytes()
    for number in range(count):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            # Change the counts and the first keys, then any place before the tensors.
            at = rng.randrange(4, rng.choice((64, 1000, 20_000)))
            data[at] = rng.choice((data[at] ^ 1 << rng.randrange(8), 0, 255))
        path = folder / "models" / f"changed-{seed}-{number}.gguf"
        path.write_bytes(data)
        serves_or_says_why(server, path)


@pytest.mark.slow
def test_a_file_truncated_anywhere(server: Child, folder: Path, tiny: Path) -> None:
    size = tiny.stat().st_size
    cut_files(server, folder, tiny, [4, size // 2])


def test_a_header_with_random_changes(server: Child, folder: Path, tiny: Path) -> None:
    changed_headers(server, folder, tiny, 3, seed=1)


@pytest.mark.slow
def test_many_cuts_and_random_changes(server: Child, folder: Path, tiny: Path) -> None:
    """The default run covers a few of both."""
    size = tiny.stat().st_size
    cut_files(server, folder, tiny, sorted(random.Random(2).sample(range(4, size), 44)))
    changed_headers(server, folder, tiny, 120, seed=3)


# --- while it is served ---------------------------------------------------------------------------


@pytest.fixture
def served_file(server: Child, folder: Path, tiny: Path) -> Iterator[Path]:
    """A model that has answered, so that its worker has the file open."""
    path = folder / "models" / "served.gguf"
    shutil.copy(tiny, path)
    assert ask(server, "served").status == 200
    yield path
    path.unlink(missing_ok=True)


def cut(path: Path, tiny: Path) -> None:
    os.truncate(path, 5000)


def replace(path: Path, tiny: Path) -> None:
    new = path.with_suffix(".part")
    new.write_bytes(tiny.read_bytes() + bytes(64))
    new.replace(path)


def overwrite(path: Path, tiny: Path) -> None:
    """Write NaN over all weights, in the same file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))


def remove(path: Path, tiny: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("act", "statuses"),
    [
        (cut, {500}),
        (replace, {200}),
        pytest.param(overwrite, {500}, marks=pytest.mark.slow),
        pytest.param(remove, {404}, marks=pytest.mark.slow),
    ],
    ids=["cut", "replaced", "overwritten", "removed"],
)
def test_a_file_that_changes_while_a_stream_is_computed(
    server: Child,
    served_file: Path,
    tiny: Path,
    act: Callable[[Path, Path], None],
    statuses: set[int],
) -> None:
    """D4: the stream ends normally or with one error event; then the new file counts."""
    with Stream(server.url, TEXT, {**endless(), "model": "served", "max_tokens": 200}) as stream:
        assert stream.read_some()
        act(served_file, tiny)
        *_, last = stream.events()
    assert last == "[DONE]" or '"error"' in last
    # The first request may be the one that notices a dead worker.
    eventually(lambda: ask(server, "served").status in statuses, f"status {statuses}")
    shutil.copy(tiny, served_file.with_suffix(".part"))
    served_file.with_suffix(".part").replace(served_file)
    assert ask(server, "served").status == 200
