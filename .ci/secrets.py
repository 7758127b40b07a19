"""Searches the files of the repository for secrets: private keys, tokens and passwords.

Usage: python .ci/secrets.py [FOLDER]. Prints file and line of each finding, never the secret, and
returns 1 if there is one. A line that contains "not-a-secret" is left out.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

KNOWN = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|\b(?:ghp|gho|ghs|ghu)_[A-Za-z0-9]{36}"
    r"|\bgithub_pat_\w{60,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{24,}"
    r"|\bhf_[A-Za-z0-9]{34}"
    r"|\bpypi-AgE[\w-]{40,}"
    r"|\bxox[abpr]-[\w-]{20,}"
)
GIVEN = re.compile(
    r"(?i)\b(?:password|passwd|secret|api_?key|token)\b\s*[:=]\s*[\"']([^\"'\s]{12,})[\"']"
)
LEAST_BITS = 3.3
"""Entropy of a character from which a text counts as random; words have less."""
MAX_BYTES = 1 << 20


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files that git tracks, or all if the folder is no repository."""
    command = ["git", "-C", str(folder), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        yield from (folder / name for name in listed.stdout.split("\0") if name)
    else:
        yield from (path for path in folder.rglob("*") if path.is_file())


def is_random(text: str) -> bool:
    """Whether a text looks like a secret rather than like words."""
    counts = Counter(text).values()
    bits = -sum(n / len(text) * math.log2(n / len(text)) for n in counts)
    kinds = sum(any(test(c) for c in text) for test in (str.islower, str.isupper, str.isdigit))
    return bits >= LEAST_BITS and kinds == 3


def finds(line: str) -> bool:
    """Whether a line contains a secret."""
    if "not-a-secret" in line:
        return False
    given = GIVEN.search(line)
    return bool(KNOWN.search(line)) or (given is not None and is_random(given[1]))


def main(folder: Path) -> int:
    """Search a folder; return 1 if there is a secret."""
    found = 0
    for path in sorted(files_of(folder)):
        if not path.is_file() or path.is_symlink() or path.stat().st_size > MAX_BYTES:
            continue
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if finds(line):
                print(f"{path}:{number}: a secret; remove it and make it invalid")
                found += 1
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
