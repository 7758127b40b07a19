"""Places model files in a models directory so that no kill, pulled stick or full disk does harm.

A file is copied to a hidden partial file beside its target (``.NAME.part``) while its SHA-256 is
computed, synced, read back from the disk, compared, and then renamed. A journal
(``.NAME.part.json``) says up to which byte the partial file is on the disk, and the hash up to
there. At every moment the target is the old file, absent, or the complete verified new file.

The parts of a split model are all copied and verified first. Then a commit file lists them, the
old first part is removed, and all are renamed, the first part last: a split model is visible
through its first part only. :func:`recover` finishes the renames that a kill interrupted, without
the source.

**Resuming.** The partial file is hashed up to the journal's byte and compared with the journal. If
a manifest states the hash of the whole file, the copy continues there, and the last comparison
covers what was copied before. Without a known hash, the source is read again up to that byte and
compared, because another file with the same name and size may lie there by now.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

import msgspec

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.disk import DISK, Disk, explained, forget_cached, largest_file, mib, too_large
from offgrid.store.names import split_of
from offgrid.store.sources import Group, Item, Reader

CHECKPOINT = 128 * 2**20
"""Bytes after which the partial file is synced and its journal written."""
MARGIN = 16 * 2**20
"""Bytes of the disk that an import leaves free."""
_FLUSH = 32 * 2**20
"""Bytes after which the system is asked to write to the disk, while the copy goes on. Otherwise it
may begin when memory is full, and the last sync takes as long as the whole copy."""
_BLOCK = 2**20
_AHEAD = 8
"""Blocks that may wait for the hash while the copy goes on."""
_MAX_DEPTH = 4
_COMMIT = ".commit"

Phase = Literal["comparing", "copying", "verifying"]
Report = Callable[[str, Phase, int, int], None]
"""Is called with a file's name, its phase, and the bytes done and to do."""


def silent(name: str, phase: Phase, done: int, total: int) -> None:
    """Report nothing."""


class _Journal(msgspec.Struct):
    size: int
    expected: str
    done: int
    sha256: str


class _CommitFile(msgspec.Struct):
    files: dict[str, str]
    """SHA-256 by name, in the order of the renames."""


@dataclass(frozen=True)
class _Full:
    """A complete and verified partial file."""

    target: Path
    sha256: str


class _StalePartial(Exception):
    """What an earlier import had copied does not belong to the source's known hash."""


class _Digest:
    """SHA-256 of blocks, computed in a thread while the next blocks are copied."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._hash = hashlib.sha256()
        self.size = 0
        """Bytes of all blocks."""
        self._waiting: deque[Future[None]] = deque()

    def update(self, data: bytes) -> None:
        """Add a block; wait if too many blocks wait already."""
        self._waiting.append(self._pool.submit(self._hash.update, data))
        self.size += len(data)
        if len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def hexdigest(self) -> str:
        """Return the hash of all blocks so far."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._hash.hexdigest()


class _Flusher:
    """Syncs a file in a thread while it is written, one sync at a time."""

    def __init__(self, file: FileIO, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._left = _FLUSH

    def wrote(self, size: int) -> None:
        """Count written bytes, and begin a sync if there are many.

        Raises:
            OSError: an earlier sync failed; the system reports such an error only once.
        """
        self._left -= size
        if self._left > 0 or (self._running is not None and not self._running.done()):
            return
        self.wait()
        self._left = _FLUSH
        self._running = self._pool.submit(self._disk.sync, self._file)

    def wait(self) -> None:
        """Wait for the running sync.

        Raises:
            OSError: it failed.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait, and forget errors: the copy has failed already, or has waited."""
        self._pool.shutdown()


class Placer:
    """Places the files of groups below a models directory, whose lock the caller holds.

    Args:
        models_dir: an existing folder.
        replace: whether a different file with the same name is replaced.
        keep_partial: whether a partial file stays after a failure, for the next import.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        replace: bool = False,
        keep_partial: bool = True,
        report: Report = silent,
        disk: Disk = DISK,
        checkpoint: int = CHECKPOINT,
    ) -> None:
        self._dir = models_dir
        self._replace = replace
        self._keep = keep_partial
        self._report = report
        self._disk = disk
        self._checkpoint = checkpoint

    def missing(self, group: Group) -> Group | None:
        """Return the files of a group that must be placed; None if all are there already.

        Raises:
            TransferError: a different file is there and may not be replaced, or the source fails.
        """
        items = tuple(item for item in group.items if not self._identical(item))
        if not items:
            self.discard(group)
            self._record({item.name: item.sha256 for item in group.items})
            return None
        for item in items:
            target = self._dir / item.name
            if os.path.lexists(target) and not self._replace:
                raise TransferError(
                    f"a different file lies at {target}. Use --replace to replace it.", "different"
                )
        # Two models must never be mixed: replace all parts, or only the one that differs.
        if len(items) > 1:
            items = group.items
        return Group(group.name, items)

    def check_space(self, groups: Sequence[Group]) -> None:
        """Check before the first copy that all files fit.

        Raises:
            TransferError: they do not; the message has both figures.
        """
        need = 0
        largest = largest_file(self._dir)
        for group in groups:
            for item in group.items:
                target = self._dir / item.name
                if largest is not None and item.source.size > largest:
                    raise too_large(target, item.source.size)
                need += item.source.size
                with contextlib.suppress(OSError):
                    need -= min(_partial(target).stat().st_size, item.source.size)
        free = self._disk.free(self._dir)
        if need > 0 and need + MARGIN > free:
            raise TransferError(
                f"{self._dir}: {mib(need)} are needed and {mib(free)} are free. Free "
                f"{mib(need + MARGIN - free)} there, or import fewer models.",
                "disk_full",
            )

    def place(self, group: Group) -> None:
        """Copy, verify and rename all files of a group.

        Raises:
            TransferError: the source fails, was altered or does not match its known hash, or the
                disk is full. What was there before is unchanged.
        """
        try:
            full = [self._fill(item) for item in group.items]
            commit(full, self._disk)
        except BaseException:
            if not self._keep:
                self.discard(group)
            raise
        self._record({item.name: file.sha256 for item, file in zip(group.items, full, strict=True)})

    def discard(self, group: Group) -> None:
        """Remove the partial files of a group."""
        for item in group.items:
            self._drop(self._dir / item.name)

    def _record(self, hashes: dict[str, str]) -> None:
        rows = []
        for name, digest in hashes.items():
            if digest:
                rows.append(manifest.row(name, (self._dir / name).stat().st_size, digest))
        manifest.record(self._dir, rows, self._disk)

    def _identical(self, item: Item) -> bool:
        """Return whether the target has the same content already."""
        target = self._dir / item.name
        source = item.source
        try:
            if not target.is_file() or target.stat().st_size != source.size:
                return False
            if item.sha256:
                digest = hash_of(
                    target, lambda done: self._report(item.name, "comparing", done, source.size)
                )
                return digest == item.sha256
            with FileIO(target, "rb") as file:
                return self._same(file, item)
        except OSError as ex:
            raise TransferError(
                f"{target}: cannot be read ({ex.strerror or ex}). Check its permissions, or remove "
                "it to import it anew.",
                "unwritable",
            ) from None

    def _same(self, file: FileIO, item: Item) -> bool:
        """Return whether our file and a source of the same size have the same content."""
        done = 0
        with contextlib.closing(self._opened(item)) as reader:
            while ours := file.read(_BLOCK):
                try:
                    if ours != _read_full(reader, len(ours)):
                        return False
                except OSError as ex:
                    raise _source_failed(item, ex) from None
                done += len(ours)
                self._report(item.name, "comparing", done, item.source.size)
        return done == item.source.size

    def _opened(self, item: Item, offset: int = 0) -> Reader:
        try:
            return item.source.open(offset)
        except OSError as ex:
            raise _source_failed(item, ex) from None

    def _fill(self, item: Item) -> _Full:
        """Return the partial file of an item, complete, verified and on the disk."""
        try:
            return self._fill_once(item)
        except _StalePartial:
            return self._fill_once(item)

    def _fill_once(self, item: Item) -> _Full:
        target = self._dir / item.name
        partial = _partial(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            descriptor = os.open(partial, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as ex:
            raise explained(ex, target, item.source.size) from None
        with FileIO(descriptor, "r+b") as file, ThreadPoolExecutor(1) as pool:
            copied = self._copy(item, file, pool)
            written = _Digest(pool)
            try:
                forget_cached(file)
                file.seek(0)
                self._hash_file(file, item.source.size, written, item.name, "verifying")
            except OSError as ex:
                raise explained(ex, target, item.source.size) from None
        if written.hexdigest() != copied:
            self._drop(target)
            raise TransferError(
                f"{target}: the disk returned other bytes than were written. Check this disk.",
                "unwritable",
            )
        return _Full(target, copied)

    def _copy(self, item: Item, file: FileIO, pool: ThreadPoolExecutor) -> str:
        """Complete and sync the partial file; return its hash."""
        target, size = self._dir / item.name, item.source.size
        digest = self._resumed(item, file, pool)
        resumed = done = digest.size
        with (
            contextlib.closing(self._opened(item, done)) as reader,
            contextlib.closing(_Flusher(file, self._disk)) as flusher,
        ):
            try:
                file.truncate(done)
                file.seek(done)
                noted = done
                for block in self._blocks(item, reader):
                    # Written first: the journal never counts a byte that is not in the file.
                    self._disk.write(file, block)
                    digest.update(block)
                    flusher.wrote(len(block))
                    done = digest.size
                    if done > size:
                        raise _changed(item)
                    if done - noted >= self._checkpoint and done < size:
                        self._note(item, file, digest)
                        noted = done
                    self._report(item.name, "copying", done, size)
                if done != size or self._altered(item):
                    raise _changed(item)
                copied = digest.hexdigest()
                if item.sha256 and copied != item.sha256:
                    if resumed:
                        # The source may have been damaged then and be whole now.
                        self._drop(target)
                        raise _StalePartial
                    raise TransferError(
                        f"{item.source.origin}: its SHA-256 is {copied}, but {item.sha256} was "
                        "expected: the file is damaged or was altered. Make a new copy of it.",
                        "wrong_hash",
                    )
                flusher.wait()
                self._note(item, file, digest)
            except TransferError as ex:
                if ex.code != "source":
                    self._drop(target)
                else:
                    self._note_if_possible(item, file, digest)
                raise
            except _StalePartial:
                raise
            except BrokenPipeError:  # of the terminal to which the progress is printed
                self._note_if_possible(item, file, digest)
                raise
            except OSError as ex:
                # The rest of the disk belongs to others again.
                self._drop(target)
                raise explained(ex, target, size) from None
            except BaseException:
                self._note_if_possible(item, file, digest)
                raise
        return copied

    def _altered(self, item: Item) -> bool:
        try:
            return item.source.changed()
        except OSError as ex:
            raise _source_failed(item, ex) from None

    def _blocks(self, item: Item, reader: Reader) -> Iterator[bytes]:
        while True:
            try:
                block = reader.read(_BLOCK)
            except OSError as ex:
                raise _source_failed(item, ex) from None
            if not block:
                return
            yield block

    def _resumed(self, item: Item, file: FileIO, pool: ThreadPoolExecutor) -> _Digest:
        """Return the hash of the bytes of the partial file after which the copy continues."""
        fresh = _Digest(pool)
        journal = _read_journal(self._dir / item.name)
        if (
            journal is None
            or journal.size != item.source.size
            or journal.expected != item.sha256
            or not 0 < journal.done <= item.source.size
        ):
            return fresh
        digest = _Digest(pool)
        try:
            self._hash_file(file, journal.done, digest, item.name, "comparing")
        except OSError:
            return fresh
        if digest.hexdigest() != journal.sha256:
            return fresh
        if not item.sha256:
            again = _Digest(pool)
            try:
                with contextlib.closing(item.source.open()) as reader:
                    left = journal.done
                    while left:
                        block = reader.read(min(_BLOCK, left))
                        if not block:
                            return fresh
                        again.update(block)
                        left -= len(block)
            except OSError as ex:
                raise _source_failed(item, ex) from None
            if again.hexdigest() != journal.sha256:
                return fresh
        return digest

    def _hash_file(self, file: FileIO, size: int, digest: _Digest, name: str, phase: Phase) -> None:
        """Add the next ``size`` bytes of our file to a hash, or fewer if it is shorter."""
        left = size
        while left:
            block = file.read(min(_BLOCK, left))
            if not block:
                return
            digest.update(block)
            left -= len(block)
            self._report(name, phase, size - left, size)

    def _note(self, item: Item, file: FileIO, digest: _Digest) -> None:
        """Sync the partial file, then say in its journal how far it goes."""
        self._disk.sync(file)
        journal = _Journal(item.source.size, item.sha256, digest.size, digest.hexdigest())
        path = _journal(self._dir / item.name)
        manifest.write_whole(path, msgspec.json.encode(journal), self._disk)

    def _note_if_possible(self, item: Item, file: FileIO, digest: _Digest) -> None:
        # The error that led here matters more; without a journal the next import starts anew.
        with contextlib.suppress(OSError, TransferError):
            file.truncate(digest.size)
            self._note(item, file, digest)

    def _drop(self, target: Path) -> None:
        with contextlib.suppress(OSError):
            self._disk.remove(_journal(target))
            self._disk.remove(_partial(target))


def commit(files: Sequence[_Full], disk: Disk = DISK) -> None:
    """Rename complete partial files to their targets; those of one folder if there are several.

    Raises:
        TransferError: a rename fails.
    """
    first = files[0].target
    try:
        if len(files) == 1:
            disk.replace(_partial(first), first)
            disk.remove(_journal(first))
            return
        # The first part makes a split model visible, so its name comes last.
        ordered = sorted(files, key=lambda f: (split_of(f.target.name) or ("", 0, 0))[1] == 1)
        names = {file.target.name: file.sha256 for file in ordered}
        path = first.with_name(f".{_short(first.name)}{_COMMIT}")
        manifest.write_whole(path, msgspec.json.encode(_CommitFile(names)), disk)
        _finish(path, list(names), disk)
    except OSError as ex:
        raise explained(ex, first, 0) from None


def _finish(path: Path, names: Sequence[str], disk: Disk) -> None:
    """Do the renames of a commit file that are not done, then remove it."""
    left = [path.with_name(name) for name in names if _partial(path.with_name(name)).exists()]
    last = path.with_name(names[-1])
    if last in left:
        disk.remove(last)
        disk.sync_folder(path.parent)
    for target in left:
        disk.replace(_partial(target), target)
    for name in names:
        disk.remove(_journal(path.with_name(name)))
    disk.remove(path)


def recover(models_dir: Path, disk: Disk = DISK) -> list[str]:
    """Finish the renames of split models that a kill interrupted; return the first parts' names.

    The partial files are hashed again. If one is damaged, none of the rest is renamed.
    """
    finished = []
    for path in _hidden(models_dir, manifest.DRAFT):
        with contextlib.suppress(OSError):
            disk.remove(path)
    for path in _hidden(models_dir, _COMMIT):
        try:
            names = msgspec.json.decode(path.read_bytes(), type=_CommitFile).files
            if all(_verified(path.with_name(name), digest) for name, digest in names.items()):
                _finish(path, list(names), disk)
                finished.append(list(names)[-1])
            else:
                disk.remove(path)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, IndexError):
            with contextlib.suppress(OSError):
                disk.remove(path)
    return finished


def _verified(target: Path, digest: str) -> bool:
    """Return whether a partial file is whole, or was renamed already."""
    if "/" in target.name or split_of(target.name) is None:
        return False
    try:
        return hash_of(_partial(target)) == digest
    except FileNotFoundError:
        return target.exists()


def hash_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in lower-case hex.

    Raises:
        OSError: it cannot be read.
    """
    with FileIO(path, "rb") as file, ThreadPoolExecutor(1) as pool:
        digest = _Digest(pool)
        done = 0
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            if report is not None:
                report(done)
        return digest.hexdigest()


def leftovers(models_dir: Path) -> list[tuple[Path, int]]:
    """Return the partial files of interrupted imports with their sizes in bytes."""
    found = []
    for path in _hidden(models_dir, ".part"):
        with contextlib.suppress(OSError):
            found.append((path, path.stat().st_size))
    return found


def _hidden(models_dir: Path, ending: str) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(models_dir, topdown=True):
        if len(Path(folder).relative_to(models_dir).parts) >= _MAX_DEPTH:
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder, n) for n in sorted(names) if n[0] == "." and n.endswith(ending))


def _short(name: str) -> str:
    """Return a name that leaves room for an ending; file systems allow 255 bytes."""
    if len(name.encode(errors="surrogateescape")) <= 230:
        return name
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _partial(target: Path) -> Path:
    return target.with_name(f".{_short(target.name)}.part")


def _journal(target: Path) -> Path:
    return target.with_name(f".{_short(target.name)}.part.json")


def _read_journal(target: Path) -> _Journal | None:
    try:
        return msgspec.json.decode(_journal(target).read_bytes(), type=_Journal)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _read_full(reader: Reader, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end of the source."""
    data = reader.read(size)
    while len(data) < size:
        more = reader.read(size - len(data))
        if not more:
            break
        data += more
    return data


def _source_failed(item: Item, ex: OSError) -> TransferError:
    return TransferError(
        f"{item.source.origin}: cannot be read ({ex.strerror or ex}). If the stick was pulled or "
        "the file removed, put it back and run the command again: it continues there.",
        "source",
    )


def _changed(item: Item) -> TransferError:
    return TransferError(
        f"{item.source.origin}: was altered while it was copied. Nothing was imported; run the "
        "command again after the other program has finished with it.",
        "changed",
    )
