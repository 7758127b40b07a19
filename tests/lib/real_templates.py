"""The chat templates that llama.cpp collects: in the source archive of llama-cpp-python.

pip downloads the archive from the index that it is configured with and checks its hash. The
templates are kept beside the models of :mod:`real_models`, and never committed.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from real_models import FOLDER, NO_NETWORK, Unreachable, complete

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_INNER = "/vendor/llama.cpp/models/templates/"


def fetch(folder: Path = FOLDER) -> Path:
    """Return the folder of the templates; download them first if they are not there.

    Raises:
        Unreachable: the package index cannot be reached.
        RuntimeError: pip failed for another reason.
    """
    path = folder / f"templates-{VERSION}"
    if path.is_dir():
        return path
    with tempfile.TemporaryDirectory() as downloads, complete(path) as target:
        archive = _download(Path(downloads))
        target.mkdir()
        with tarfile.open(archive) as files:
            for member in files:
                if _INNER in member.name and member.name.endswith(".jinja"):
                    content = files.extractfile(member)
                    assert content is not None
                    (target / Path(member.name).name).write_bytes(content.read())
    return path


def cached(folder: Path = FOLDER) -> bool:
    """Whether the templates need no download."""
    return (folder / f"templates-{VERSION}").is_dir()


def _download(folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python",
        "--require-hashes", "--disable-pip-version-check", "--dest", str(folder),
        "-r", str(wanted),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip()
        unreachable = any(words in said for words in NO_NETWORK)
        raise (Unreachable if unreachable else RuntimeError)(said[-2000:])
    return next(folder.glob("*.tar.gz"))
