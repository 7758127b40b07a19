"""Tensors of models that the lending machine has too: they need not cross the network."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import tiny_models
from processes import serving
from rpc_library import rpc_library
from rpc_workers import MakeWorker, RpcWorker, rpc_workers
from support import TIMEOUT, request
from wires import wire_to

from offgrid.engine.worker.lend import Job
from offgrid.errors import RpcError
from offgrid.peers import rpc_tensors
from offgrid.peers.rpc_tensors import TensorCache
from offgrid.rpc.child import Child, program_of
from offgrid.rpc.seed import LEAST
from offgrid.store.gguf_header import read_header
from offgrid.store.hashes import Hashes

LAYERS = 3
LARGE = 12_582_912
"""Bytes of each large tensor, of which a layer has three."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 115 MB with tensors for which llama.cpp asks a cache."""
    models = tiny_models.models
    recipe = models.RECIPES["small-llama"]
    shape = dataclasses.replace(recipe.shape, layers=LAYERS, width=256, hidden=12_288)
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    writer = models.gguf.GGUFWriter(path, recipe.architecture)
    recipe.build(writer, path.stem, shape)
    return tiny_models.finish(writer, path)


class Cached:
    """A cache of tensors, and the processes that it has started."""

    def __init__(self, folder: Path, limit: int = -1) -> None:
        self.folder = folder / "rpc-tensors"
        self.hashes = Hashes(folder / "hashes.sqlite3")
        self.started = 0
        self.spoil: Callable[[Path], None] = lambda folder: None
        self.cache = TensorCache(self.folder, limit, self.hashes, self.start)

    def start(self, folder: Path) -> Child:
        self.started += 1
        job = Job(rpc_library(), str(folder), 1, fills=True)
        self.spoil(folder)
        return Child(program_of(os.getpid(), msgspec.json.encode(job).decode()), lambda line: None)

    def names(self, sha256: str, layers: int = LAYERS, after: int = 0) -> set[str]:
        """The tensors that a session gets."""
        with self.cache.session(sha256, layers, after, lambda: None) as given:
            if not given:
                return set()
            folder = Path(given)
            assert stat.S_IMODE(folder.stat().st_mode) == 0o500
            assert all(link.resolve().parent == self.folder for link in folder.iterdir())
            return {link.name for link in folder.iterdir()}


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    return Cached(tmp_path)


def large_parts(path: Path, *layers: int) -> set[bytes]:
    """The bytes of the large tensors of some layers."""
    header, data = read_header(path), path.read_bytes()
    wanted = tuple(f"blk.{layer}." for layer in layers)
    begins = [
        header.data_start + tensor.offset
        for tensor in header.shapes
        if tensor.name.startswith(wanted) and tensor.size > LEAST
    ]
    return {data[begin : begin + LARGE] for begin in begins}


def test_only_tensors_of_the_wanted_layers_are_there(cached: Cached, large: Path) -> None:
    sha256 = cached.hashes.get_or_compute(large)
    names = cached.names(sha256, layers=1, after=1)
    assert {(cached.folder / name).read_bytes() for name in names} == large_parts(large, 1)
    assert len(names) == 3
    # The second time, only those are written that are missing.
    assert cached.names(sha256, layers=1, after=1) == names
    assert cached.started == 1
    assert len(cached.names(sha256, layers=2, after=0)) == 6
    assert cached.started == 2
    assert not [*cached.folder.glob("session-*"), *cached.folder.glob("filling-*")]


def test_a_file_that_was_changed_is_not_used(cached: Cached, large: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    shutil.copy(large, copy)
    sha256 = cached.hashes.get_or_compute(copy)
    with copy.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    assert cached.names(sha256) == set()
    assert cached.names("") == set()
    assert cached.names("0" * 64) == set()
    assert cached.started == 0


@pytest.mark.slow
def test_a_tensor_that_was_not_written_as_it_is_gets_no_name(cached: Cached, large: Path) -> None:
    """Something else writes into the folder; a full disk has the same effect."""
    sha256 = cached.hashes.get_or_compute(large)
    cached.spoil = lambda folder: (folder / ("0" * 16)).write_bytes(b"half")
    assert cached.names(sha256) == set()
    assert [path for path in cached.folder.iterdir() if path.suffix != ".json"] == []


@pytest.mark.slow
def test_the_size_is_limited(tmp_path: Path, large: Path) -> None:
    cached = Cached(tmp_path, limit=40)  # room for three tensors
    sha256 = cached.hashes.get_or_compute(large)
    first = cached.names(sha256, layers=1, after=2)
    assert len(first) == 3
    second = cached.names(sha256, layers=1, after=1)
    assert len(second) == 3
    kept = {path.name for path in cached.folder.iterdir() if path.suffix != ".json"}
    assert kept == second
    assert Cached(tmp_path, limit=0).names(sha256) == set()


@pytest.mark.slow
def test_an_error_of_the_borrower_ends_the_filling(cached: Cached, large: Path) -> None:
    sha256 = cached.hashes.get_or_compute(large)

    def gone() -> None:
        raise RpcError("it has closed the connection")

    with cached.cache.session(sha256, LAYERS, 0, gone) as folder:
        assert folder == ""


@pytest.mark.slow
def test_a_filling_that_was_given_up_is_continued(cached: Cached, large: Path) -> None:
    """The borrower has waited for as long as it may."""
    sha256 = cached.hashes.get_or_compute(large)
    calls = 0

    def working(most: int) -> None:
        nonlocal calls
        calls += 1
        if calls > most:
            raise RpcError("it has closed the connection")

    with cached.cache.session(sha256, LAYERS, 0, lambda: working(2)) as folder:
        assert folder == ""
    calls = 0
    with cached.cache.session(sha256, LAYERS, 0, lambda: working(99)) as folder:
        assert len([*Path(folder).iterdir()]) == 3 * LAYERS
    assert calls == 3 * LAYERS - 2


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, LARGE - 1], ids=["empty", "a byte is missing"])
def test_a_damaged_tensor_is_written_anew(cached: Cached, large: Path, left: int) -> None:
    sha256 = cached.hashes.get_or_compute(large)
    damaged = cached.folder / min(cached.names(sha256, layers=1))
    damaged.chmod(0o600)
    os.truncate(damaged, left)
    names = cached.names(sha256, layers=1)
    assert {(cached.folder / name).read_bytes() for name in names} == large_parts(large, 2)
    assert cached.started == 2


@pytest.mark.slow
def test_the_bytes_are_on_the_disk_before_a_tensor_has_its_name(
    cached: Cached, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, replace, renamed = set[int](), os.replace, list[bool]()

    def note_sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)

    def note_name(old: Path, new: Path) -> None:
        renamed.append(Path(old).stat().st_ino in synced)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_name)
    sha256 = cached.hashes.get_or_compute(large)
    assert len(cached.names(sha256, layers=1)) == 3
    assert renamed == [True] * 4  # the last one is the index


@pytest.mark.slow
def test_a_session_that_waits_for_another_one_tells_its_borrower(
    cached: Cached, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A borrower that hears nothing for a minute gives up."""
    monkeypatch.setattr(rpc_tensors, "_SIGN_OF_LIFE", 0.01)
    sha256 = cached.hashes.get_or_compute(large)
    fills, told, results = threading.Event(), threading.Event(), list[bool]()

    def working() -> None:
        fills.set()
        results.append(told.wait(TIMEOUT))

    def fill() -> None:
        with cached.cache.session(sha256, 1, 0, working):
            pass

    thread = threading.Thread(target=fill)
    thread.start()
    assert fills.wait(TIMEOUT)
    with cached.cache.session(sha256, 1, 0, told.set) as folder:
        assert len([*Path(folder).iterdir()]) == 3
    thread.join()
    assert all(results)
    assert cached.started == 1


@pytest.mark.slow
def test_another_process_leaves_the_folder_of_a_session_alone(
    tmp_path: Path, large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For example a second RPC worker with another port."""
    first = Cached(tmp_path)
    sha256 = first.hashes.get_or_compute(large)
    with first.cache.session(sha256, 1, 0, lambda: None) as folder:
        second = Cached(tmp_path)
        assert second.names(sha256, layers=1) == set()
        assert f"another RPC worker uses {first.folder}" in caplog.text
        assert len([*Path(folder).iterdir()]) == 3


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeWorker]:
    with rpc_workers(tmp_path, tmp_path / "here" / "peers") as make:
        yield make


def loaded(folder: Path, model: Path, far: RpcWorker) -> tuple[str, int]:
    """What a server answers that has borrowed for the whole model, and the bytes it has sent."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    if not (models / model.name).exists():
        os.link(model, models / model.name)
    Hashes.beside(folder / "responses.sqlite3").get_or_compute(models / model.name)
    with wire_to(far.port) as wire:
        flags = (
            "--no-config", "--peers-dir", str(folder / "here" / "peers"), "--peers-name", "here",
            "--rpc-servers", f"far:{wire.port}", "--rpc-layers", "all",
            "--rpc-library", rpc_library(), "--threads", "1",
        )  # fmt: skip
        with serving(folder, *flags) as server:
            url = server.wait_ready()
            body = {"prompt": "a b c", "max_tokens": 16, "temperature": 0}
            response = request(url, "POST", "/v1/completions", body)
            assert response.status == 200, response.body
        return str(response.json["choices"][0]["text"]), wire.most


@pytest.mark.slow
def test_what_the_lender_has_does_not_cross_the_network(
    tmp_path: Path, large: Path, make: MakeWorker
) -> None:
    far = make("far")
    expected, sent = loaded(tmp_path, large, far)
    weights = LAYERS * 3 * LARGE
    assert sent > weights
    copy = tmp_path / "far" / "copy.gguf"
    shutil.copy(large, copy)
    Hashes.beside(tmp_path / "far" / "responses.sqlite3").get_or_compute(copy)
    for _ in range(2):
        text, sent = loaded(tmp_path, large, far)
        assert text == expected
        assert sent < weights / 10
