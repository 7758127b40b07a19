"""Finds the models on sticks and in folders. Nothing here writes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from offgrid.errors import TransferError
from offgrid.store import manifest
from offgrid.store.names import (
    EXTENSION,
    INSTALLER_FOLDER,
    is_gguf,
    is_projector,
    model_stem,
    projector_name,
    safe_path,
    split_of,
)
from offgrid.store.pinned import entry_of
from offgrid.store.sources import LEAVES, FileSource, Group, Item, Source, check_magic, file_source
from offgrid.store.wheels import WheelSource, recorded_hash, wheel_members

_MAX_NAMED = 10
"""Missing files of one manifest that are named."""
_MAX_IN_WHEEL = 100
_MAX_DEPTH = 32
_OF_THE_SYSTEM = ("$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that systems make on sticks; usually only an administrator can read them."""


@dataclass
class Found:
    """What was found: models, and a reason for every file that is not one of them."""

    groups: list[Group] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Paths with reasons."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Paths with reasons, where the user expects a model: a path of the command line, a damaged
    manifest or split model."""


class StopSearch(Exception):
    """Raised by ``look`` to end a search with what was found so far."""


@dataclass(frozen=True)
class _Candidate:
    source: Source
    folder: str
    """Folder or wheel; the parts of a split model have the same one."""
    name: str
    listed: bool
    """Whether a manifest gave the name, which may then have folders."""
    sha256: str = ""


def find(
    paths: Iterable[Path],
    models_dir: Path,
    *,
    within: Sequence[Path] = (),
    look: Callable[[str], None] = lambda folder: None,
    unique: bool = True,
) -> Found:
    """Return the models in files and folders; folders with all their subfolders.

    A file that a manifest in its own or an upper folder lists gets the manifest's name and hash.
    Another file gets its own name without folders. A projector that belongs to the only model of
    its folder gets a name that says so (:func:`~offgrid.store.names.projector_name`).

    Args:
        within: folders without symbolic links; files outside of them are not opened. If empty,
            links may not leave the folder in which they were found.
        look: is called with each folder before it is read. It may raise :class:`StopSearch`, or
            another exception that reaches the caller.
        unique: whether a second model of the same name is a fault, as it cannot be imported too.
    """
    found = Found()
    candidates: list[_Candidate] = []
    with contextlib.suppress(StopSearch):
        _search(paths, models_dir, within, look, candidates, found)
    _make_groups(candidates, found, unique)
    return found


def _search(
    paths: Iterable[Path],
    models_dir: Path,
    within: Sequence[Path],
    look: Callable[[str], None],
    candidates: list[_Candidate],
    found: Found,
) -> None:
    for path in paths:
        try:
            path = Path(os.path.abspath(path))
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as ex:
            found.failed.append((str(path), _reason(ex)))
            continue
        if is_folder:
            before = len(found.skipped) + len(candidates) + len(found.failed)
            # Not with +=, which would lose the candidates if the search is stopped.
            for candidate in _in_folder(path, models_dir, within, look, found):
                candidates.append(candidate)
            if before == len(found.skipped) + len(candidates) + len(found.failed):
                found.failed.append((str(path), "the folder contains no .gguf or .whl file"))
        elif not (is_gguf(path.name) or path.name.lower().endswith(".whl")):
            found.failed.append((str(path), "it is neither a folder nor a .gguf or .whl file"))
        else:
            look(str(path.parent))
            alone = Found()
            rows = _folded(_manifest(path.parent, path.parent, alone))
            candidates += _in_file(path, rows, path.parent, _around(path, within), alone)
            found.failed += alone.failed + alone.skipped


def _around(path: Path, within: Sequence[Path]) -> Path | None:
    """Return the folder of ``within`` that contains a file, links resolved; the first if none."""
    real = Path(os.path.realpath(path))
    return next((folder for folder in within if real.is_relative_to(folder)), (*within, None)[0])


def _in_folder(
    root: Path,
    models_dir: Path,
    within: Sequence[Path],
    look: Callable[[str], None],
    found: Found,
) -> Iterator[_Candidate]:
    manifests: dict[str, dict[str, manifest.Row]] = {}
    own, real_root = os.path.realpath(models_dir), Path(os.path.realpath(root))
    around = (_around(root, within) if within else None) or real_root

    def unreadable(ex: OSError) -> None:
        found.failed.append((str(ex.filename or root), _reason(ex)))

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        look(folder)
        here = Path(folder)
        if os.path.realpath(folder) == own:
            subfolders.clear()
            found.skipped.append((folder, "it is the models directory itself"))
            continue
        _prune(here, root, subfolders, found)
        rows = _rows(here, root, manifests, names, found)
        for name in sorted(names):
            if not (is_gguf(name) or name.lower().endswith(".whl")):
                continue
            path = here / name
            if name.startswith("."):
                found.skipped.append((str(path), "it is a hidden file"))
            elif _leaves(path, around):
                found.skipped.append((str(path), LEAVES))
            else:
                yield from _in_file(path, rows, here, around, found)


def _prune(here: Path, root: Path, subfolders: list[str], found: Found) -> None:
    """Remove the subfolders that are not searched."""
    if len(here.relative_to(root).parts) >= _MAX_DEPTH and subfolders:
        found.skipped.append(
            (str(here), f"folders more than {_MAX_DEPTH} levels deep are passed over")
        )
        subfolders.clear()
    if INSTALLER_FOLDER in subfolders:
        found.skipped.append((str(here / INSTALLER_FOLDER), "it contains OffGrid, no models"))
    left_out = (INSTALLER_FOLDER, *_OF_THE_SYSTEM)
    subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and n not in left_out)


def _leaves(path: Path, around: Path) -> bool:
    """Return whether a path is a symbolic link to something outside of a folder."""
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(around)


def _rows(
    here: Path,
    root: Path,
    manifests: dict[str, dict[str, manifest.Row]],
    names: Sequence[str],
    found: Found,
) -> dict[str, manifest.Row]:
    """Return the rows for the files of a folder, from its own manifest or an upper one."""
    rows = _manifest(here, root, found)
    seen = {name.lower() for name in names}
    absent = [n for n in rows if n.lower() not in seen and not os.path.exists(here / n)]
    for name in absent[:_MAX_NAMED]:
        found.failed.append((str(here / name), "manifest.json lists it, but it is missing"))
    if len(absent) > _MAX_NAMED:
        reason = f"lists {len(absent) - _MAX_NAMED} more files that are missing"
        found.failed.append((str(here / manifest.NAME), reason))
    if not rows and here != root:
        upper, base = manifests.get(str(here.parent), {}), f"{here.name}/"
        rows = {n[len(base) :]: r for n, r in upper.items() if n.startswith(base)}
    manifests[str(here)] = rows
    return _folded(rows)


def _folded(rows: dict[str, manifest.Row]) -> dict[str, manifest.Row]:
    """Return rows also under their names in lower case: FAT does not distinguish them."""
    return {**{name.casefold(): row for name, row in rows.items()}, **rows}


def _manifest(folder: Path, root: Path, found: Found) -> dict[str, manifest.Row]:
    path = folder / manifest.NAME
    if _leaves(path, Path(os.path.realpath(root))):
        found.skipped.append((str(path), LEAVES))
        return {}
    try:
        rows, faults = manifest.read(folder)
    except TransferError as ex:
        found.failed.append((str(path), str(ex)))
        return {}
    found.failed += [(str(path), fault) for fault in faults]
    return rows


def _in_file(
    path: Path,
    rows: dict[str, manifest.Row],
    folder: Path,
    around: Path | None,
    found: Found,
) -> Iterator[_Candidate]:
    try:
        source = file_source(path, around)
        if path.name.lower().endswith(".whl"):
            yield from _in_wheel(source, found)
            return
        listed = rows.get(path.name) or rows.get(path.name.casefold())
        if listed is not None and listed.size != source.size:
            raise OSError(
                f"it has {source.size} bytes, but manifest.json says {listed.size}: the file is "
                "damaged or was replaced"
            )
        if listed is None and safe_path(path.name) is None:
            raise OSError("its name cannot be used; rename it")
        check_magic(source)
    except OSError as ex:
        found.failed.append((str(path), _reason(ex)))
    else:
        name = listed.file_name if listed else path.name
        digest = listed.sha256 if listed else ""
        yield _Candidate(source, str(folder), name, listed is not None, digest)


def _in_wheel(wheel: FileSource, found: Found) -> Iterator[_Candidate]:
    models = [(name, size) for name, size in wheel_members(wheel) if is_gguf(name)]
    if not models:
        found.skipped.append((str(wheel.path), _without_model(wheel.path)))
    if len(models) > _MAX_IN_WHEEL:
        raise OSError(f"it contains more than {_MAX_IN_WHEEL} models")
    for name, size in models:
        source = WheelSource(((wheel, name),), size)
        base = name.rpartition("/")[2]
        known = entry_of(wheel.path.name)
        try:
            digest = recorded_hash(wheel, name)
            if known is not None and [part.member for part in known.parts] == [name]:
                base, digest = f"{known.name}{EXTENSION}", known.sha256
            if safe_path(base) is None:
                raise OSError("its name cannot be used")
            check_magic(source)
        except OSError as ex:
            found.failed.append((source.origin, _reason(ex)))
        else:
            folder = f"{wheel.path}:{name.rpartition('/')[0]}"
            yield _Candidate(source, folder, base, False, digest)


def _without_model(path: Path) -> str:
    known = entry_of(path.name)
    if known is None:
        return "the wheel contains no .gguf file"
    # pip splits the variable at spaces, but not a URL, which has %20 for each.
    links = path.parent.as_uri() if " " in str(path.parent) else path.parent
    return (
        f"the wheel is one of several with {known.name}; fetch it with 'PIP_NO_INDEX=1 "
        f"PIP_FIND_LINKS={links} offgrid get {known.name}'"
    )


def _make_groups(candidates: list[_Candidate], found: Found, unique: bool) -> None:
    folders: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        folders.setdefault(candidate.folder, []).append(candidate)
    taken: dict[str, Group] = {}
    for members in folders.values():
        for group in _groups_of(members, found):
            origin, name = group.items[0].source.origin, group.items[0].name.lower()
            first = taken.setdefault(name if unique else f"{name} {origin}", group)
            if first is not group and first.items[0].source.origin != origin:
                reason = f"{first.items[0].source.origin} has the same name; rename one of them"
                found.failed.append((origin, reason))
    found.groups = list(taken.values())


def _groups_of(members: list[_Candidate], found: Found) -> Iterator[Group]:
    """Yield the groups of one folder."""
    models = {model_stem(c.name): c for c in members if not is_projector(c.name)}
    projectors = [c for c in members if is_projector(c.name)]
    only = next(iter(models.values())) if len(models) == len(projectors) == 1 else None
    splits: dict[tuple[str, int], dict[int, _Candidate]] = {}
    for candidate in members:
        split = split_of(candidate.name)
        if split is not None:
            splits.setdefault((split[0], split[2]), {})[split[1]] = candidate
            continue
        name = candidate.name
        if only is not None and is_projector(name) and not candidate.listed:
            name = projector_name(name, only.name)
        yield Group(name, (Item(candidate.source, name, candidate.sha256),))
    for (base, count), parts in splits.items():
        # The number of parts is the name's claim, so do not build a list of that length.
        missing = next(n for n in range(1, len(parts) + 2) if n not in parts)
        if len(parts) != count:
            reason = f"part {missing} of {count} is missing; all parts must be in one folder"
            found.failed += [(parts[n].source.origin, reason) for n in sorted(parts)]
            continue
        items = tuple(Item(parts[n].source, parts[n].name, parts[n].sha256) for n in sorted(parts))
        yield Group(f"{base} ({count} parts)", items)


def _reason(ex: OSError | ValueError) -> str:
    return getattr(ex, "strerror", None) or str(ex)
