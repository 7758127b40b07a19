"""The limit: a loop that does nothing but ``llama_decode``.

Run by ``server.py`` in a process of its own. It computes the same prompts and as many tokens as the
server is asked for, but draws nothing, makes no text and talks to nobody: each next token is a
fixed one. Reads one JSON object a line ``{"streams": N, "prompt_tokens": P, "tokens": T}`` and
answers ``{"seconds": S}``.
"""

from __future__ import annotations

import json
import sys
import time

import msgspec
import numpy as np

from offgrid.engine.model import Model
from offgrid.engine.protocol import Load


def run(model: Model, streams: int, prompt_tokens: int, tokens: int) -> float:
    """Return the seconds that prefill and ``tokens`` steps of all streams take."""
    prompt = np.full(prompt_tokens, 300, dtype=np.int32)
    one = prompt[:1]
    began = time.perf_counter()
    # The first token comes out of the prefill, as it does for the server.
    for slot in range(streams):
        for start in range(0, prompt_tokens, model.batch.capacity):
            model.batch.clear()
            chunk = prompt[start : start + model.batch.capacity]
            model.batch.add(slot, start, chunk, start + len(chunk) == prompt_tokens)
            model.decode()
    for step in range(tokens - 1):
        model.batch.clear()
        for slot in range(streams):
            last = model.batch.add(slot, prompt_tokens + step, one, True)
        model.decode()
        model.logits(last)  # waits until the computation has ended
    seconds = time.perf_counter() - began
    for slot in range(streams):
        model.forget(slot)
    return seconds


def main() -> None:
    """Load what the first line says, then answer line by line."""
    model = Model(msgspec.json.decode(sys.stdin.readline(), type=Load))
    run(model, 1, 8, 8)  # warm
    for line in sys.stdin:
        print(json.dumps({"seconds": run(model, **json.loads(line))}), flush=True)


main()
