"""Places model files in a models directory so that no kill, pulled stick or full disk does harm.

A file is copied to a hidden partial file beside its target (:mod:`offgrid.store.partial`) while its
SHA-256 is computed, synced, read back from the disk, compared (:mod:`offgrid.store.copying`), and
then renamed (:mod:`offgrid.store.commit`). At every moment the target is the old file, absent, or
the complete verified new file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.commit import commit
from offgrid.store.copying import CHECKPOINT, Copier, source_failed
from offgrid.store.description import refusal_of
from offgrid.store.digest import BLOCK, open_regular
from offgrid.store.disk import DISK, Disk, explained, largest_file, mib, too_large
from offgrid.store.hashes import Hashes
from offgrid.store.names import stem_of
from offgrid.store.partial import drop, partial_path
from offgrid.store.progress import Report, silent
from offgrid.store.sources import FileSource, Group, Item, Reader

MARGIN = 16 * 2**20
"""Bytes of the disk that an import leaves free."""


class Placer:
    """Places the files of groups below a models directory, whose lock the caller holds.

    Args:
        models_dir: an existing folder.
        replace: whether a different file with the same name is replaced.
        keep_partial: whether a partial file stays after a failure, for the next import.
        hashes: the known SHA-256 of files.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        replace: bool = False,
        keep_partial: bool = True,
        report: Report = silent,
        hashes: Hashes | None = None,
        disk: Disk = DISK,
        checkpoint: int = CHECKPOINT,
    ) -> None:
        self._dir = models_dir
        self._replace = replace
        self._keep = keep_partial
        self._report = report
        self._hashes = hashes or Hashes(None)
        self._disk = disk
        self._copier = Copier(models_dir, report, disk, checkpoint)

    def missing(self, group: Group) -> Group | None:
        """Return the files of a group that must be placed; None if all are there already.

        Raises:
            TransferError: a different file is there and may not be replaced, or the source fails or
                is of no use.
        """
        group = Group(group.name, tuple(self._named(item) for item in group.items))
        items = tuple(item for item in group.items if not self._identical(item))
        for item in items or group.items:
            self._check_before(item)
        if not items:
            self.discard(group)
            self._record({item.name: item.sha256 for item in group.items})
            return None
        for item in items:
            target = self._dir / item.name
            if target.is_dir():
                raise TransferError(
                    f"a folder lies at {target}. Rename it to make room for the model.", "different"
                )
            if os.path.lexists(target) and not self._replace:
                raise TransferError(
                    f"a different file lies at {target}. Use --replace to replace it.", "different"
                )
        # Two models must never be mixed: replace all parts, or only the one that differs.
        if len(items) > 1 or len(group.items) == 1:
            return group
        return Group(group.name, items, whole=group.items)

    def _check_before(self, item: Item) -> None:
        """Refuse a useless file before it is copied.

        Not a listed one, whose hash says more, and not one in a wheel, which would have to be
        unpacked: they are refused after the copy.

        Raises:
            TransferError: the file is of no use, or cannot be read.
        """
        if item.sha256 or not isinstance(item.source, FileSource):
            return
        try:
            with contextlib.closing(item.source.open()) as file:
                refusal = refusal_of(file, item.name)
        except OSError as ex:
            raise source_failed(item, ex) from None
        if refusal is not None:
            raise _unusable(item, refusal)

    def _check_copy(self, item: Item) -> None:
        """Refuse a useless file after it was copied, before it gets its name.

        Raises:
            TransferError: the file is of no use; its partial file is gone.
        """
        target = self._dir / item.name
        path = partial_path(target)
        try:
            with open_regular(path, follow=False) as file:
                refusal = refusal_of(file, item.name)
        except OSError as ex:
            raise explained(ex, path, item.source.size) from None
        if refusal is not None:
            drop(target, self._disk)
            raise _unusable(item, refusal)

    def _named(self, item: Item) -> Item:
        """Return an item with the name of a file that has the same id: ``a.gguf``, ``a.GGUF``."""
        target = self._dir / item.name
        if os.path.lexists(target):
            return item
        stem = stem_of(target.name)
        with contextlib.suppress(OSError):
            for name in os.listdir(target.parent):
                if name != target.name and stem_of(name) == stem and name != stem:
                    return replace(item, name=item.name[: -len(target.name)] + name)
        return item

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
                    need -= min(partial_path(target).lstat().st_size, item.source.size)
        free = self._disk.free(self._dir)
        if need > 0 and need + MARGIN > free:
            raise TransferError(
                f"{self._dir}: {mib(need)} are needed and {mib(free)} are free. Free "
                f"{mib(need + MARGIN - free)} there, or copy fewer models.",
                "disk_full",
            )

    def place(self, group: Group) -> None:
        """Copy, verify and rename all files of a group.

        Raises:
            TransferError: the source fails, was altered, does not match its known hash or is of no
                use, or the disk is full. What was there before is unchanged.
        """
        try:
            several = len(group.items) > 1
            full = []
            for item in group.items:
                full.append(self._copier.fill(item, note=several))
                self._check_copy(item)
            self._forget([item.name for item in group.items])
            commit(full, self._disk)
        except BaseException:
            if not self._keep:
                self.discard(group)
            raise
        for file in full:
            self._hashes.put(file.target, file.sha256)
        self._record({item.name: file.sha256 for item, file in zip(group.items, full, strict=True)})

    def discard(self, group: Group) -> None:
        """Remove the partial files of a group."""
        for item in group.items:
            drop(self._dir / item.name, self._disk)

    def _forget(self, names: Sequence[str]) -> None:
        """Remove what the manifest says of files that are about to be replaced.

        After a kill, the manifest then says nothing about the new file, rather than that it is
        damaged.
        """
        with contextlib.suppress(TransferError):
            manifest.forget(self._dir, names, self._disk)

    def _record(self, hashes: dict[str, str]) -> None:
        """Add hashes to the manifest. The models are in place, whether or not it can be written."""
        rows = []
        with contextlib.suppress(OSError, TransferError):
            for name, digest in hashes.items():
                digest = digest or self._hashes.get(self._dir / name) or ""
                if digest:
                    rows.append(manifest.row(name, (self._dir / name).stat().st_size, digest))
            manifest.record(self._dir, rows, self._disk)

    def _identical(self, item: Item) -> bool:
        """Return whether the target has the same content already."""
        target = self._dir / item.name
        size = item.source.size
        try:
            if not target.is_file() or target.stat().st_size != size:
                return False
            if item.sha256:
                digest = self._hashes.get_or_compute(
                    target, lambda done: self._report(item.name, "comparing", done, size)
                )
                return digest == item.sha256
            with open_regular(target) as file:
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
        try:
            reader = item.source.open()
        except OSError as ex:
            raise source_failed(item, ex) from None
        with contextlib.closing(reader):
            while ours := file.read(BLOCK):
                try:
                    if ours != _read_full(reader, len(ours)):
                        return False
                except OSError as ex:
                    raise source_failed(item, ex) from None
                done += len(ours)
                self._report(item.name, "comparing", done, item.source.size)
        return done == item.source.size


def _unusable(item: Item, refusal: str) -> TransferError:
    return TransferError(f"{item.source.origin}: {refusal}", "unusable")


def _read_full(reader: Reader, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end of the source."""
    data = reader.read(size)
    while len(data) < size:
        more = reader.read(size - len(data))
        if not more:
            break
        data += more
    return data
