"""Copies one model file into its partial file, and reads back from the disk what was written.

Four things overlap: reading the source, hashing it (in a thread), writing to the disk, and (in
another thread) reading back and hashing what the disk has. The hash of the source and that of the
disk must be equal.

**Resuming.** The partial file is hashed up to the journal's byte and compared with the journal. If
a manifest states the hash of the whole file, the copy continues there, and the last comparison
covers what was copied before. Without a known hash, the source is read again up to that byte and
compared, because another file with the same name and size may lie there by now.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from offgrid.errors import TransferError
from offgrid.store.commit import FullFile
from offgrid.store.digest import Blocks, Digest, hashing, open_regular
from offgrid.store.disk import Disk, explained, forget_cached
from offgrid.store.partial import (
    Journal,
    drop,
    note_if_possible,
    open_partial,
    partial_path,
    read_journal,
    write_journal,
)
from offgrid.store.progress import Report
from offgrid.store.sources import Item, Reader

CHECKPOINT = 128 * 2**20
"""Bytes after which the journal of a partial file is written."""
_FLUSH = 32 * 2**20
"""Bytes after which what was written is synced and read back while the copy goes on. Otherwise the
system may begin to write when memory is full, and the last sync takes as long as the whole copy."""


class _StalePartial(Exception):
    """What an earlier import had copied does not belong to the source's known hash."""


class _ReadBack:
    """Syncs a partial file while it grows, reads it back from the disk, and hashes that.

    Args:
        path: the partial file.
        file: the same file, which is being written.
        journal: its journal as it is now; ``journal.done`` bytes were read back already.
        known: the hash of these bytes.
    """

    def __init__(
        self,
        path: Path,
        file: FileIO,
        target: Path,
        journal: Journal,
        known: hashlib._Hash,
        disk: Disk,
        checkpoint: int,
    ) -> None:
        self._file = file
        self._reader = open_regular(path, follow=False)
        self._reader.seek(journal.done)
        self._target = target
        self._journal = journal
        self._hash = known
        self._blocks = Blocks()
        self._read = self._noted = self._written = journal.done
        self._disk = disk
        self._checkpoint = checkpoint
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="transfer-sync")
        self._running: Future[None] | None = None

    def wrote(self, size: int) -> None:
        """Count written bytes, and begin to read back if there are many.

        Raises:
            OSError: an earlier sync failed; the system reports such an error only once.
            TransferError: the journal cannot be written.
        """
        self._written += size
        if self._written - self._read < _FLUSH or not (
            self._running is None or self._running.done()
        ):
            return
        self._wait()
        self._running = self._pool.submit(self._sync_and_read, self._written, None)

    def finish(self, report: Callable[[int], None], *, note: bool) -> str:
        """Sync and read back the rest; return the hash of the whole file on the disk.

        Args:
            report: hears how many bytes were read back.
            note: write the journal of the complete file.

        Raises:
            OSError: the disk fails.
            TransferError: the journal cannot be written.
        """
        self._wait()
        self._sync_and_read(self._written, report)
        if note:
            self._note()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Wait, and forget errors: the copy has failed already, or has waited."""
        self._pool.shutdown()
        self._reader.close()

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _sync_and_read(self, end: int, report: Callable[[int], None] | None) -> None:
        self._disk.sync(self._file)
        forget_cached(self._file, self._read, end - self._read)
        while self._read < end:
            block = self._blocks.read(self._reader, end - self._read)
            if not block:
                raise OSError("the file is shorter than what was written")
            self._hash.update(block)
            self._read += len(block)
            if report is not None:
                report(self._read)
        if self._read - self._noted >= self._checkpoint and self._read < self._journal.size:
            self._note()

    def _note(self) -> None:
        size, expected = self._journal.size, self._journal.expected
        journal = Journal(size, expected, self._read, self._hash.hexdigest())
        write_journal(self._target, journal, self._disk)
        self._noted = self._read


class Copier:
    """Fills partial files below a models directory, whose lock the caller holds."""

    def __init__(
        self, models_dir: Path, report: Report, disk: Disk, checkpoint: int = CHECKPOINT
    ) -> None:
        self._dir = models_dir
        self._report = report
        self._disk = disk
        self._checkpoint = checkpoint

    def fill(self, item: Item, *, note: bool) -> FullFile:
        """Return the partial file of an item, complete, verified and on the disk.

        Args:
            note: write the journal of the complete file, because other files come before its
                rename.

        Raises:
            TransferError: the source fails, was altered or does not match its known hash, or the
                disk fails.
        """
        try:
            return self._fill_once(item, note)
        except _StalePartial:
            return self._fill_once(item, note)

    def _fill_once(self, item: Item, note: bool) -> FullFile:
        target = self._dir / item.name
        with open_partial(target, item.source.size) as file, hashing() as pool:
            digest = self._resumed(item, file, pool)
            try:
                return FullFile(target, self._copy(item, file, digest, note))
            except TransferError as ex:
                if ex.code != "source":
                    drop(target, self._disk)
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
                drop(target, self._disk)
                raise explained(ex, target, item.source.size) from None
            except BaseException:
                self._note_if_possible(item, file, digest)
                raise

    def _copy(self, item: Item, file: FileIO, digest: Digest, note: bool) -> str:
        """Complete the partial file after the bytes of ``digest``; return the file's hash."""
        target, size, begin = self._dir / item.name, item.source.size, digest.size
        journal = Journal(size, item.sha256, begin, digest.hexdigest())
        with (
            contextlib.closing(_opened(item, begin)) as reader,
            contextlib.closing(
                _ReadBack(
                    partial_path(target), file, target, journal, digest.plain(), self._disk,
                    self._checkpoint,
                )
            ) as read_back,
        ):  # fmt: skip
            file.truncate(begin)
            file.seek(begin)
            for block in _read(item, reader):
                # Written first: the journal never counts a byte that is not in the file.
                self._disk.write(file, block)
                digest.update(block)
                read_back.wrote(len(block))
                if digest.size > size:
                    raise _changed(item)
                self._report(item.name, "copying", digest.size, size)
            self._check_source(item, digest, resumed=begin > 0)
            found = read_back.finish(
                lambda done: self._report(item.name, "verifying", done, size), note=note
            )
        if found != digest.hexdigest():
            raise TransferError(
                f"{target}: the disk returned other bytes than were written. Check this disk.",
                "unwritable",
            )
        return found

    def _check_source(self, item: Item, digest: Digest, resumed: bool) -> None:
        """Check that the bytes that were read are those of one unaltered file."""
        if digest.size != item.source.size:
            raise _changed(item)
        if not item.sha256:
            if _altered(item):
                raise _changed(item)
            return
        copied = digest.hexdigest()
        if copied == item.sha256:
            return
        if resumed:
            # The source may have been damaged then and be whole now.
            drop(self._dir / item.name, self._disk)
            raise _StalePartial
        raise TransferError(
            f"{item.source.origin}: its SHA-256 is {copied}, but {item.sha256} was expected: the "
            "file is damaged or was altered. Make a new copy of it.",
            "wrong_hash",
        )

    def _resumed(self, item: Item, file: FileIO, pool: ThreadPoolExecutor) -> Digest:
        """Return the hash of the bytes of the partial file after which the copy continues."""
        fresh = Digest(pool)
        journal = read_journal(self._dir / item.name)
        if (
            journal is None
            or journal.size != item.source.size
            or journal.expected != item.sha256
            or not 0 < journal.done <= item.source.size
        ):
            return fresh
        digest = Digest(pool)
        try:
            forget_cached(file)
            self._hash(file, journal.done, digest, item)
        except OSError:
            return fresh
        if digest.hexdigest() != journal.sha256:
            return fresh
        if not item.sha256:
            again = Digest(pool)
            try:
                with contextlib.closing(item.source.open()) as reader:
                    self._hash(reader, journal.done, again, item)
            except OSError as ex:
                raise source_failed(item, ex) from None
            if again.hexdigest() != journal.sha256:
                return fresh
        return digest

    def _hash(self, file: Reader, size: int, digest: Digest, item: Item) -> None:
        """Add the next ``size`` bytes to a hash, or fewer if there are fewer."""
        blocks = Blocks()
        while digest.size < size:
            block = blocks.read(file, size - digest.size)
            if not block:
                return
            digest.update(block)
            self._report(item.name, "comparing", digest.size, item.source.size)

    def _note_if_possible(self, item: Item, file: FileIO, digest: Digest) -> None:
        journal = Journal(item.source.size, item.sha256, digest.size, digest.hexdigest())
        note_if_possible(file, self._dir / item.name, journal, self._disk)


def _opened(item: Item, offset: int = 0) -> Reader:
    try:
        return item.source.open(offset)
    except OSError as ex:
        raise source_failed(item, ex) from None


def _altered(item: Item) -> bool:
    try:
        return item.source.changed()
    except OSError as ex:
        raise source_failed(item, ex) from None


def _read(item: Item, reader: Reader) -> Iterator[memoryview]:
    blocks = Blocks()
    while True:
        try:
            block = blocks.read(reader)
        except OSError as ex:
            raise source_failed(item, ex) from None
        if not block:
            return
        yield block


def source_failed(item: Item, ex: OSError) -> TransferError:
    """Return the error for a source that cannot be read."""
    return TransferError(
        f"{item.source.origin}: cannot be read ({ex.strerror or ex}). {item.source.remedy}",
        "source",
    )


def _changed(item: Item) -> TransferError:
    return TransferError(
        f"{item.source.origin}: was altered while it was copied. Nothing was imported; try again "
        "after the other program has finished with it.",
        "changed",
    )
