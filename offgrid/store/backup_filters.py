"""The content filters in a backup: the files that keys name, and the file of the settings.

In the archive they are in the folder ``filters``, and the manifest says which path meant which of
them. On another machine these paths may not exist, or belong to something else, so a restore never
writes there: the files come into a folder ``filters`` beside the keys file, and keys and
configuration name them there. A path that leads to the same content stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from offgrid.config import Settings
from offgrid.config.values import in_folder
from offgrid.errors import TransferError
from offgrid.store.backup_parts import File
from offgrid.store.keys import KeyFile, KeysError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - depends on the interpreter
    import tomli as tomllib

FOLDER = "filters"
"""In the archive, and beside the keys file."""
_SETTING = "filter_file"
_MOST_LETTERS = 80
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")
_MEMBER = re.compile(rf"{FOLDER}/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}")
_LINE = re.compile(
    rf"""^(?P<key>[ \t]*(?:{_SETTING}|"{_SETTING}"|'{_SETTING}')[ \t]*=[ \t]*)"""
    r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')""",
    re.MULTILINE,
)


@dataclass
class Found:
    """The filter files that a server uses.

    Attributes:
        members: their copies, by name in the archive.
        named: a path, as a key or the settings name it -> its name in the archive.
        absent: paths without a file, each with what names it.
    """

    members: dict[str, Path] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def copy_filters(folder: Path, settings: Settings, keys_file: Path | None) -> Found:
    """Copy the filter files that are in use into a folder.

    Args:
        folder: gets a folder with the copies, readable only by their owner.
        settings: the settings in force.
        keys_file: a copy of the keys file; None if there is none.

    Raises:
        TransferError: one cannot be read.
        OSError: a copy cannot be written.
    """
    folder = folder / FOLDER
    folder.mkdir(mode=0o700)
    found = Found()
    known: dict[Path, str] = {}
    for text, whose in users_of_filters(settings, keys_file).items():
        if not _is_utf8(text):
            raise TransferError(
                f"{text}: the path of the filter file of {whose} is not UTF-8; rename the file.",
                "source",
            )
        try:
            path = _expanded(text)
            if not path.is_file():
                found.absent[text] = whose
                continue
            source = path.open("rb")
        except OSError as ex:
            raise TransferError(
                f"{text}: the filter file of {whose} cannot be read ({ex.strerror or ex}). Make "
                "the backup as the user of the server.",
                "source",
            ) from None
        with source:
            name = known.setdefault(path.resolve(), _free_name(path, known.values()))
            found.named[text] = name
            if name not in found.members:
                copy = found.members[name] = folder / name.rpartition("/")[2]
                copy.touch(0o600)
                with copy.open("wb") as target:
                    shutil.copyfileobj(source, target)
    return found


def users_of_filters(settings: Settings | None, keys_file: Path | None) -> dict[str, str]:
    """Return the paths of all filter files, each with the key or the setting that names it.

    Args:
        settings: None to look at keys only.
        keys_file: None if there are no keys. Keys that are revoked are left out.

    Raises:
        TransferError: the keys file cannot be used.
    """
    users: dict[str, str] = {}
    if settings is not None and settings.filter_file:
        users[settings.filter_file] = f"the setting {_SETTING}"
    if keys_file is not None:
        file = KeyFile(keys_file)
        try:
            for key in file.all():
                if key.grant.filter_file and key.revoked is None:
                    users.setdefault(key.grant.filter_file, f"the key {key.name}")
        except KeysError as ex:
            raise TransferError(str(ex), "source") from None
        finally:
            file.close()
    return users


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        return Path(text)


def _free_name(path: Path, taken: Iterable[str]) -> str:
    """Return a name in the archive that every file system can hold."""
    plain = _UNUSUAL.sub("_", path.name)[-_MOST_LETTERS:].lstrip("._-") or "filter"
    names = {name.lower() for name in taken}
    number, name = 1, f"{FOLDER}/{plain}"
    while name.lower() in names:
        number += 1
        stem, dot, suffix = plain.partition(".")
        name = f"{FOLDER}/{stem}-{number}{dot}{suffix}"
    return name


# --- restoring ------------------------------------------------------------------------------------


def filter_path(name: str, keys_file: Path) -> Path | None:
    """Return where a filter file of an archive belongs; None if it is none, or its name, which may
    be hostile, leads elsewhere."""
    if not _MEMBER.fullmatch(name):
        return None
    return keys_file.with_name(FOLDER) / name.rpartition("/")[2]


def leads_to(text: str, file: File) -> bool:
    """Return whether a path leads to a file with the content of one in an archive."""
    path, digest = _expanded(text), hashlib.sha256()
    with contextlib.suppress(OSError, ValueError):
        if path.is_file() and path.stat().st_size == file.size:
            with path.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
            return digest.hexdigest() == file.sha256
    return False


def is_absent(text: str) -> bool:
    """Return whether a path of a filter leads to no file."""
    try:
        return not _expanded(text).is_file()
    except (OSError, ValueError):
        return True


def name_in_keys(keys_file: Path, moved: Mapping[str, str]) -> None:
    """Let the keys of a file name their filters at other paths.

    Raises:
        TransferError: the keys file cannot be used.
    """
    file = KeyFile(keys_file)
    try:
        file.move_filters(moved)
    except KeysError as ex:
        raise TransferError(str(ex), "source") from None
    finally:
        file.close()


def filter_in_config(text: str, folder: Path | str) -> str:
    """Return the path of the filter that a valid configuration names; empty if it names none.

    Args:
        text: the configuration.
        folder: its folder, to which a path in it is relative.
    """
    path = tomllib.loads(text).get(_SETTING)
    return in_folder(folder, path) if isinstance(path, str) and path.strip() else ""


def name_in_config(text: str, moved: Mapping[str, str], folder: Path | str) -> str | None:
    """Return a configuration that names its filter at another path, and is the same otherwise;
    None if there is nothing to change, or it cannot be changed.

    Args:
        text: the configuration, which is valid.
        moved: path -> other path.
        folder: the folder in which the configuration was.
    """
    path = filter_in_config(text, folder)
    if path not in moved:
        return None
    old = tomllib.loads(text)
    value = json.dumps(moved[path], ensure_ascii=False)  # also a string of TOML
    # A line that looks like the setting may be a part of a text of several lines.
    for line in _LINE.finditer(text):
        new = f"{text[: line.end('key')]}{value}{text[line.end() :]}"
        with contextlib.suppress(ValueError):  # it is not valid any more
            if tomllib.loads(new) == {**old, _SETTING: moved[path]}:
                return new
    return None
