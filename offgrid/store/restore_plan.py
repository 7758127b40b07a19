"""Reads and checks a backup, and writes its files beside the places where they belong.

Nothing that a server uses changes here; :mod:`offgrid.store.restore` puts the files into place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import msgspec

from offgrid.config import Settings
from offgrid.errors import ConfigError, TransferError
from offgrid.store.archives import FAULTS
from offgrid.store.backup_filters import (
    FOLDER,
    filter_in_config,
    filter_path,
    leads_to,
    name_in_config,
    name_in_keys,
    users_of_filters,
)
from offgrid.store.backup_parts import (
    CONFIG,
    CONFIG_FOLDER,
    FORMAT,
    KEYS,
    MANIFEST,
    PARTS,
    VERSION,
    File,
    Manifest,
    check_database,
    config_path,
)
from offgrid.store.database import SUFFIXES
from offgrid.store.disk import DISK, explained

_LARGEST_MANIFEST = 1 << 20
_STAGED = ".restored"
_EXCLUSIVE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

SettingsOf = Callable[[Path | None], Settings]
"""Returns the settings that a configuration file gives, or those in force if it gets none; raises
ConfigError."""


@dataclass
class Step:
    """One file to restore: where it is, checked, and where it belongs."""

    name: str
    staged: Path
    target: Path
    is_database: bool


@dataclass
class Plan:
    """What is to be restored.

    Attributes:
        steps: the files, in the order in which they get their contents.
        models: ids of the models that the server of the backup had.
        filter_file: where the content filter of the settings is after the restore; empty if there
            is none, or the configuration is left out.
    """

    steps: list[Step] = field(default_factory=list)
    models: tuple[str, ...] = ()
    filter_file: str = ""

    def staged(self, name: str) -> Path | None:
        """Return where a file of the archive is until it gets its place; None if it has none."""
        return next((step.staged for step in self.steps if step.name == name), None)


def make_plan(
    source: Path, config: Path | None, settings_of: SettingsOf, stack: contextlib.ExitStack
) -> Plan:
    """Check all files of an archive, and write them beside the places where they belong.

    Args:
        source: the archive.
        config: where the configuration file belongs; None leaves the configuration out.
        settings_of: see :data:`SettingsOf`.
        stack: closes the archive, and removes the files that did not get their places.

    Raises:
        TransferError: the archive is damaged, foreign or of a later version, or the disk is full.
    """
    archive = stack.enter_context(_opened(source))
    return _Planner(source, archive, config, settings_of, stack).plan()


class _Planner:
    def __init__(
        self,
        source: Path,
        archive: zipfile.ZipFile,
        config: Path | None,
        settings_of: SettingsOf,
        stack: contextlib.ExitStack,
    ) -> None:
        self._source = source
        self._archive = archive
        self._config = config
        self._settings_of = settings_of
        self._stack = stack
        self._manifest = _manifest(source, archive)
        self._plan = Plan(models=self._manifest.models)

    def plan(self) -> Plan:
        files = {file.name: file for file in self._manifest.files}
        parts = {part.name: part for part in PARTS if part.name in files}
        filters = {name for name in files if name.startswith(f"{FOLDER}/")}
        # The configuration comes first: it may say where the others belong.
        for name in sorted(files.keys() - parts.keys() - filters, key=lambda name: name != CONFIG):
            if config_path(name, Path()) is None:
                raise self._no_place(name)
            if self._config is not None:
                self._stage(files[name], config_path(name, self._config))
        settings = _checked(self._settings_of, self._plan.staged(CONFIG))
        for name, part in parts.items():
            self._stage(files[name], part.path(settings), is_database=part.is_database)
        self._filters({name: files[name] for name in filters}, settings)
        return self._plan

    def _no_place(self, name: str) -> TransferError:
        return _damaged(self._source, f"this version has no place for {name!r}")

    def _stage(self, file: File, target: Path | None, *, is_database: bool = False) -> None:
        if target is None:
            raise self._no_place(file.name)
        staged = _stage(self._source, self._archive, file, target)
        for suffix in SUFFIXES:  # the database of a foreign archive may have companions
            self._stack.callback(staged.with_name(staged.name + suffix).unlink, missing_ok=True)
        if is_database and (fault := check_database(staged)) is not None:
            raise _damaged(self._source, f"{file.name}: {fault}")
        self._plan.steps.append(Step(file.name, staged, target, is_database))

    def _filters(self, files: dict[str, File], settings: Settings) -> None:
        """Plan the content filters that keys and settings will name."""
        manifest, plan = self._manifest, self._plan
        if unknown := set(manifest.filters.values()) - files.keys():
            raise _damaged(self._source, f"it has no {min(unknown)!r}")
        keys, config = plan.staged(KEYS), plan.staged(CONFIG)
        here = self._filter_here(config)
        try:
            needed = set(users_of_filters(None, keys))
        except TransferError as ex:
            raise _damaged(self._source, ex) from None
        # If the configuration is left out, so is the filter that it names.
        if self._config is not None or all(file.name != CONFIG for file in manifest.files):
            plan.filter_file = here
        moved: dict[str, str] = {}
        others, plan.steps = plan.steps, []
        for name, file in files.items():
            target = filter_path(name, settings.keys_file)
            if target is None:
                raise self._no_place(name)
            paths = [path for path, meant in manifest.filters.items() if meant == name]
            paths = [path for path in paths if self._moves(path, file, needed, here)]
            if paths and not leads_to(str(target), file):
                self._stage(file, target)
            moved.update(dict.fromkeys(paths, str(target.absolute())))
        # A running server must find them when it sees the restored keys.
        plan.steps += others
        if moved and keys is not None:
            name_in_keys(keys, moved)
        if config is not None:
            text = name_in_config(_text(config), moved, manifest.folder)
        if config is not None and text is not None:
            flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
            with FileIO(os.open(config, flags), "wb") as out:
                DISK.write(out, text.encode())
                DISK.sync(out)
        if plan.filter_file:
            plan.filter_file = moved.get(manifest.filter_file, here)

    def _filter_here(self, config: Path | None) -> str:
        """Return where the filter of the settings is on this machine if nothing is changed."""
        named = self._manifest.filter_file
        if config is None or self._config is None:
            return named
        text = _text(config)
        if filter_in_config(text, self._manifest.folder) != named:
            return named
        return filter_in_config(text, self._config.absolute().parent)

    def _moves(self, path: str, file: File, needed: set[str], here: str) -> bool:
        """Whether what names a filter must name it elsewhere: keys, or the settings."""
        if path in needed and not leads_to(path, file):
            return True
        is_own = bool(self._plan.filter_file) and path == self._manifest.filter_file
        return is_own and not leads_to(here, file)


def _text(config: Path) -> str:
    return config.read_bytes().decode("utf-8-sig")


def _opened(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except FileNotFoundError:
        raise TransferError(f"{source}: there is no such file.", "not_found") from None
    except OSError as ex:
        raise TransferError(f"{source}: {ex.strerror or ex}.", "source") from None
    except FAULTS as ex:
        raise _damaged(source, ex) from None


def _damaged(source: Path, why: object) -> TransferError:
    return TransferError(
        f"{source}: is not a whole backup ({why}). Nothing was changed; use another copy of it.",
        "invalid",
    )


def _manifest(source: Path, archive: zipfile.ZipFile) -> Manifest:
    """Return the manifest of an archive that has exactly the files which it lists."""
    names = archive.namelist()
    try:
        with archive.open(MANIFEST) as file:
            manifest = msgspec.json.decode(file.read(_LARGEST_MANIFEST), type=Manifest)
    except KeyError:
        raise _damaged(source, "it has no manifest") from None
    except (
        msgspec.MsgspecError,
        OSError,
        *FAULTS,
    ) as ex:  # OSError: places before the file's start
        raise _damaged(source, f"its manifest: {ex}") from None
    if manifest.format != FORMAT:
        raise _damaged(source, "another program has written it")
    if manifest.version > VERSION:
        raise TransferError(
            f"{source}: OffGrid {manifest.offgrid} has written it, which is later than this "
            "version; install that one, then restore.",
            "invalid",
        )
    if sorted(names) != sorted([MANIFEST, *(file.name for file in manifest.files)]):
        raise _damaged(source, "it has other files than its manifest lists")
    return manifest


def _checked(settings_of: SettingsOf, config: Path | None) -> Settings:
    try:
        return settings_of(config)
    except ConfigError as ex:
        which = "" if config is None else "the configuration in the backup cannot be used here: "
        raise TransferError(f"{which}{ex}. Nothing was changed.", "invalid") from None


def _stage(source: Path, archive: zipfile.ZipFile, file: File, target: Path) -> Path:
    """Write one file of the archive beside its target, and compare its size and hash."""
    staged = target.with_name(f".{target.name}{_STAGED}")
    digest, left = hashlib.sha256(), file.size
    try:
        _make_folder(target.parent)
        staged.unlink(missing_ok=True)
        with (
            archive.open(file.name) as packed,
            FileIO(os.open(staged, _EXCLUSIVE, 0o600), "wb") as out,
        ):
            while block := packed.read(1 << 20):
                digest.update(block)
                left -= len(block)
                if left < 0:  # a small archive may unpack to more than any disk holds
                    break
                DISK.write(out, block)
            _give(out, target, shared=file.name.startswith(f"{CONFIG_FOLDER}/"))
            DISK.sync(out)
    except OSError as ex:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        if ex.errno == errno.EINVAL:  # the archive says that it begins before the file's start
            raise _damaged(source, f"{file.name}: {ex.strerror}") from None
        raise explained(ex, target, file.size) from None
    except FAULTS as ex:
        staged.unlink(missing_ok=True)
        raise _damaged(source, f"{file.name}: {ex}") from None
    if left or digest.hexdigest() != file.sha256:
        staged.unlink(missing_ok=True)
        raise _damaged(source, f"{file.name} is not the file that its manifest lists")
    return staged


def _give(file: FileIO, target: Path, *, shared: bool) -> None:
    """Give a new file to the owner of its folder, so that an administrator can restore the files of
    a service, which runs as a separate user.

    It goes through the descriptor: that user could put a link in the place of the file.

    Args:
        file: the file.
        target: the file that it will replace.
        shared: whether those may read it who can read that file, or anybody if an administrator
            restores it and there is none, as a service must read its configuration.
    """
    if not hasattr(os, "fchmod"):  # Windows
        return
    old = target.stat() if shared and target.exists() else None
    if _is_root():
        status = old or target.parent.stat()
        os.fchown(file.fileno(), status.st_uid, status.st_gid)
    if old is not None:
        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
    elif shared and _is_root():
        os.fchmod(file.fileno(), 0o644)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _make_folder(folder: Path) -> None:
    absent = [above for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in reversed(absent):
        as_owner_of(made.parent, made)


def as_owner_of(folder: Path, file: Path) -> None:
    """Give a file or folder to the owner of its folder, if this is an administrator."""
    if _is_root():
        status = folder.stat()
        # That owner could put a link in its place, which must not lead to a file of the system.
        os.chown(file, status.st_uid, status.st_gid, follow_symlinks=False)
