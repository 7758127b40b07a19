"""Tensors of models that this machine has too, so that borrowers need not send them.

A machine that lends memory may have the model itself, for example imported from the peer. Then its
large tensors are written into a folder from which ggml's RPC server reads them, instead of
receiving them: on a network with 1 Gbit/s, 8 GB take more than a minute.

ggml trusts the files of that folder and also writes into it, without a check and not atomically.
Therefore each session gets a folder of links that ggml cannot write to, and the files to which they
lead are written here, compared with the model, and only then given their names. A file with a name
is whole even after a power cut: its bytes are on the disk before it gets the name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from offgrid.errors import RpcError
from offgrid.peers.identity import write_private
from offgrid.rpc.child import Child
from offgrid.rpc.seed import LEAST, MOST, Seeder
from offgrid.store.disk import hold
from offgrid.store.gguf_header import BadHeader, Header, Tensor, read_header
from offgrid.store.hashes import Hashes

log = logging.getLogger(__name__)

_LAYER = re.compile(r"blk\.(\d+)\.", re.ASCII)
_NAME = re.compile(r"[0-9a-f]{16}", re.ASCII)
_SHARE = 4
"""Without a setting, the cache takes at most one part in four of the disk that is free."""
_MIB = 1 << 20
_SIGN_OF_LIFE = 5.0
"""Seconds between two messages to a borrower that waits until another one's tensors are there."""


class TensorCache:
    """The folder of tensors. Thread-safe. Only one process uses it: another one would delete the
    folders of its sessions.

    Args:
        folder: it is created when it is first needed.
        limit: MiB that it may take; -1 for a fourth of the disk that is free, 0 for nothing.
        hashes: know which files this machine has.
        start: starts a process whose cache of tensors is the given folder, and writable.
    """

    def __init__(
        self, folder: Path, limit: int, hashes: Hashes, start: Callable[[Path], Child]
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._hashes = hashes
        self._start = start
        self._lock = threading.Lock()
        self._in_use: dict[str, set[str]] = {}
        """Folder of a session -> names of the tensors that it links to."""
        self._held: int | None = None
        """A descriptor: this process has the folder for itself."""
        if limit and folder.is_dir():
            with contextlib.suppress(OSError, RpcError):  # a session will tell
                self._take()

    @contextlib.contextmanager
    def session(
        self, sha256: str, layers: int, after: int, working: Callable[[], None]
    ) -> Iterator[str]:
        """Give a session a folder of tensors; an empty text if this machine has none of them.

        Args:
            sha256: of the model's file; empty if the borrower does not know it.
            layers: how many layers this machine gets.
            after: how many layers of the model come after these.
            working: called now and then meanwhile. It may raise an error, which ends this.
        """
        made = None
        try:
            made = self._prepare(sha256, layers, after, working)
        except (OSError, RpcError, BadHeader) as ex:
            log.warning("the cache of tensors is not used: %s", ex)
        try:
            yield "" if made is None else str(made)
        finally:
            if made is not None:
                with self._lock:
                    self._in_use.pop(made.name, None)
                _remove(made)

    def _prepare(
        self, sha256: str, layers: int, after: int, working: Callable[[], None]
    ) -> Path | None:
        path = self._hashes.find(sha256) if sha256 and self._limit else None
        if path is None:
            return None
        header = read_header(path)
        wanted = [*_wanted(header, layers, after)]
        if not wanted:
            return None
        with self._alone(working):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take()
            names = self._fill(path, sha256, header, wanted, working)
            made = Path(tempfile.mkdtemp(prefix="session-", dir=self._folder))
            for name in names:
                (made / name).symlink_to(self._folder / name)
                os.utime(self._folder / name)
            made.chmod(0o500)
            self._in_use[made.name] = names
        return made

    @contextlib.contextmanager
    def _alone(self, working: Callable[[], None]) -> Iterator[None]:
        """Hold the lock. Another session may fill the cache for minutes before that."""
        while not self._lock.acquire(timeout=_SIGN_OF_LIFE):
            working()
        try:
            yield
        finally:
            self._lock.release()

    # --- with the lock held -------------------------------------------------------------------

    def _take(self) -> None:
        """Take the folder for this process, and delete what an earlier one has left.

        Raises:
            RpcError: another process has it.
            OSError: it cannot be used.
        """
        if self._held is not None:
            return
        self._held = hold(self._folder)
        if self._held is None:
            raise RpcError(
                f"another RPC worker uses {self._folder}; let cache_dir lie in another folder "
                "for this one"
            )
        for left in (*self._folder.glob("session-*"), *self._folder.glob("filling-*")):
            _remove(left)

    def _fill(
        self,
        path: Path,
        sha256: str,
        header: Header,
        wanted: list[Tensor],
        working: Callable[[], None],
    ) -> set[str]:
        """Write the tensors that are missing; return the names of all that are there."""
        index = self._folder / f"{sha256}.json"
        known = self._known(index)
        here = {
            tensor.name: known[tensor.name]
            for tensor in wanted
            if tensor.name in known and self._is_whole(known[tensor.name], tensor.size)
        }
        missing = [tensor for tensor in wanted if tensor.name not in here]
        missing = self._make_room(missing, set(here.values()))
        if missing:
            log.info("reading %d tensors of %s", len(missing), path.name)
            written: dict[str, str] = {}
            try:
                self._write(path, header, missing, working, written)
            finally:
                # The next session goes on where this one was given up.
                here |= written
                write_private(index, msgspec.json.encode({**known, **here}))
        return set(here.values())

    def _known(self, index: Path) -> dict[str, str]:
        """Return name of a tensor -> name of its file, of those that are there."""
        try:
            read = msgspec.json.decode(index.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.DecodeError):
            return {}
        return {
            tensor: name
            for tensor, name in read.items()
            if _NAME.fullmatch(name) and (self._folder / name).is_file()
        }

    def _is_whole(self, name: str, size: int) -> bool:
        """Return whether a file has so many bytes; delete it if it has not, since ggml would not
        notice: it would compute with what its memory happens to hold."""
        file = self._folder / name
        if file.stat().st_size == size:
            return True
        log.warning("%s was damaged, and is written anew", file)
        file.unlink()
        return False

    def _make_room(self, missing: list[Tensor], kept: set[str]) -> list[Tensor]:
        """Delete the files that were used longest ago; return the tensors for which there is
        room then."""
        files = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        sizes = {path: path.stat().st_size for path in files}
        used = sum(sizes.values())
        free = shutil.disk_usage(self._folder).free
        limit = (free + used) // _SHARE if self._limit < 0 else self._limit * _MIB
        kept = kept.union(*self._in_use.values())
        needed = sum(tensor.size for tensor in missing)
        for path in sorted(files, key=lambda path: path.stat().st_mtime):
            if used + needed > limit and path.name not in kept:
                path.unlink()
                used -= sizes[path]
        fitting = []
        for tensor in missing:
            if used + tensor.size <= limit:
                used += tensor.size
                fitting.append(tensor)
        return fitting

    def _write(
        self,
        path: Path,
        header: Header,
        missing: list[Tensor],
        working: Callable[[], None],
        written: dict[str, str],
    ) -> None:
        """Write tensors; note in ``written`` each one that is there."""
        folder = Path(tempfile.mkdtemp(prefix="filling-", dir=self._folder))
        child = self._start(folder)
        try:
            with path.open("rb") as file, child.connect() as connection:
                seeder = Seeder(connection, max(tensor.size for tensor in missing))
                for tensor in missing:
                    working()
                    file.seek(header.data_start + tensor.offset)
                    data = file.read(tensor.size)
                    seeder.send(data)
                    written[tensor.name] = self._take_over(folder, data)
        finally:
            child.end()
            _remove(folder)

    def _take_over(self, folder: Path, data: bytes) -> str:
        """Give a file that ggml has written its name, after a comparison with what it should hold.

        Raises:
            RpcError: it differs, for example because the disk is full.
        """
        made = [*folder.iterdir()]
        if len(made) != 1 or not _NAME.fullmatch(made[0].name) or made[0].read_bytes() != data:
            raise RpcError("a tensor was not written as it is (is the disk full?)")
        # A power cut must not leave the name without the bytes.
        with made[0].open("r+b") as file:
            os.fsync(file.fileno())
        made[0].chmod(0o400)
        os.replace(made[0], self._folder / made[0].name)
        return made[0].name


def _wanted(header: Header, layers: int, after: int) -> Iterator[Tensor]:
    """Yield the tensors of the layers that llama.cpp looks for in a cache."""
    numbers = {
        tensor.name: int(found[1])
        for tensor in header.shapes
        if (found := _LAYER.match(tensor.name)) is not None
    }
    end = max(numbers.values(), default=-1) + 1 - after
    for tensor in header.shapes:
        number = numbers.get(tensor.name, -1)
        if end - layers <= number < end and LEAST < tensor.size <= MOST:
            yield tensor


def _remove(folder: Path) -> None:
    """Delete a folder that may be protected."""
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
        shutil.rmtree(folder)
