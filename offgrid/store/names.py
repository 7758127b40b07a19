"""File names of models: endings, parts of split files, projectors, quantisations, safe paths."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

EXTENSION = ".gguf"
MODELS_FOLDER = "offgrid-models"
"""The folder of an export that contains its models."""
INSTALLER_FOLDER = "offgrid-installer"
"""The folder of an export that contains OffGrid itself."""
PART = re.compile(r"-(\d{5})-of-(\d{5})$", re.ASCII)
"""The end of the name of a part of a split model, without ``.gguf``: its number, from 1, and the
number of all parts."""
PROJECTOR = re.compile(r"(^|[-_.])mmproj([-_.]|$)", re.IGNORECASE)
"""What the name of a projector contains."""
_QUANTISATION = re.compile(
    r"(?:^|[-_.])(?P<kind>(?:UD-)?I?Q\d(?:_[0-9A-Z]+)*|B?F16|F32|TQ\d_\d|MXFP4)(?=$|[-_.])",
    re.IGNORECASE,
)
_FORBIDDEN = frozenset('<>:"|?*\\')
"""Characters that a file on a FAT stick, or on Windows, cannot have in its name."""


def is_gguf(name: str) -> bool:
    """Return whether a name has the ending of a model file."""
    return name.lower().endswith(EXTENSION) and len(name) > len(EXTENSION)


def stem_of(name: str) -> str:
    """Return a name without ``.gguf``."""
    return name[: -len(EXTENSION)] if is_gguf(name) else name


def split_of(name: str) -> tuple[str, int, int] | None:
    """Return base, part (from 1) and number of parts of a split file's name, or None."""
    stem = stem_of(name)
    match = PART.search(stem)
    if match is None or match.start() == 0:
        return None
    part, count = int(match[1]), int(match[2])
    return (stem[: match.start()], part, count) if 1 <= part <= count else None


def model_stem(name: str) -> str:
    """Return a name without ``.gguf`` and without the number of its part."""
    split = split_of(name)
    return split[0] if split else stem_of(name)


def is_projector(name: str) -> bool:
    """Return whether a name has ``mmproj`` as a word, so that the file is a projector."""
    return PROJECTOR.search(stem_of(name)) is not None


def projector_name(projector: str, model: str) -> str:
    """Return a name under which a projector belongs to a model in any folder.

    The own name of the projector is kept if it names the model already.
    """
    stem = model_stem(model)
    if PROJECTOR.sub("", stem_of(projector)).lower() == stem.lower():
        return projector
    return f"mmproj-{stem}{EXTENSION}"


def projector_beside(projector: str, model: str) -> str:
    """Return :func:`projector_name` in the folder of a model that is given with its folders."""
    base, slash, own = model.rpartition("/")
    return f"{base}{slash}{projector_name(projector, own)}"


def quantisation(name: str) -> str:
    """Return the quantisation that a file's name states, in capitals; empty if none."""
    kinds = [match["kind"] for match in _QUANTISATION.finditer(model_stem(name))]
    return kinds[-1].upper() if kinds else ""


def safe_path(text: str) -> PurePosixPath | None:
    """Return the path of a model file below a models directory; None if it may not be used.

    Refused are absolute paths, ``..``, hidden files and folders, backslashes, drive letters,
    control characters, text that is not UTF-8, and names that do not end with ``.gguf``.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    pieces = text.split("/")
    if not is_gguf(text) or len(pieces) > 5:
        return None
    for piece in pieces:
        if not piece or piece[0] == "." or piece[-1] in ". " or len(piece.encode()) > 240:
            return None
        if any(char in _FORBIDDEN or ord(char) < 32 or ord(char) == 127 for char in piece):
            return None
    return PurePosixPath(text)
