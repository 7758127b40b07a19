"""How much throughput a content filter costs: two servers of one run, with and without a filter.

Usage: python benchmarks/content_filter.py [PHRASES] [PATTERNS]. The servers answer in turns, so
that other programs slow both down alike. Prints tokens per second and their ratio, the median of
the rounds.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from offgrid.config import load_settings
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_ID

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))
from support import request, together

ROUNDS, STREAMS, TOKENS = 9, 4, 200


def terms(phrases: int, patterns: int) -> str:
    """Return a filter file of random words, which begin as words of real texts do."""
    rng = random.Random(18)
    letters = "etaoinshrdlucmfw"
    words = ["".join(rng.choices(letters, k=rng.randrange(3, 10))) for _ in range(phrases)]
    regular = [f"/\\b{word[:2]}[{letters}]{{2,6}}q{word[-2:]}\\b/i" for word in words[:patterns]]
    return "\n".join([*(f"{word} zq{word}" for word in words), *regular])


def serve(folder: Path, filter_file: str) -> Server:
    """Start a server with the starter model."""
    given = {
        "port": 0, "models_dir": folder, "default_model": STARTER_ID, "import_roots": "none",
        "responses_file": folder / f"responses{len(filter_file)}.sqlite3", "threads": 1,
        "parallel": STREAMS, "filter_file": filter_file, "drafts": False,
    }  # fmt: skip
    server = Server(load_settings(given, environ={}))
    server.start()
    return server


def rate(server: Server) -> float:
    """Return the tokens per second of several requests at once."""
    body = {
        "model": STARTER_ID, "prompt": "Once upon a time", "max_tokens": TOKENS, "ignore_eos": True,
    }  # fmt: skip
    began = time.perf_counter()
    answers = together([lambda: request(server.url, "POST", "/v1/completions", body)] * STREAMS)
    seconds = time.perf_counter() - began
    return sum(answer.json["usage"]["completion_tokens"] for answer in answers) / seconds


def main(phrases: int, patterns: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "terms.txt").write_text(terms(phrases, patterns))
        plain, filtered = serve(folder, ""), serve(folder, str(folder / "terms.txt"))
        rate(plain), rate(filtered)
        pairs = [(rate(plain), rate(filtered)) for _ in range(ROUNDS)]
        plain.stop()
        filtered.stop()
    ratio = statistics.median(after / before for before, after in pairs)
    before, after = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"{phrases} phrases, {patterns} patterns: {before:.0f} and {after:.0f} tokens/s, ratio "
          f"{ratio:.3f}")  # fmt: skip


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*numbers, *(1000, 0)[len(numbers) :])
