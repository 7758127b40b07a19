"""The limit: a loop that does nothing but ``llama_decode``.

Run by ``server.py`` and ``engine.py`` in a separate process. It computes the same prompts and as
many tokens as the engine, but samples nothing, makes no text and sends nothing: each next token is
a fixed one. It reads one JSON object per line
``{"streams": N, "prompt_tokens": P, "tokens": T}`` and answers ``{"seconds": S}``. With
``"steps_only": true``, the streams get copies of one prompt, and only their steps are timed.
"""

from __future__ import annotations

import json
import sys
import time

import msgspec
import numpy as np

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.model import Model


def run(model: Model, streams: int, prompt_tokens: int, tokens: int) -> float:
    """Return the seconds that prefill and ``tokens`` steps of all streams take."""
    prompt = np.full(prompt_tokens, 300, dtype=np.int32)
    one = prompt[:1]
    began = time.perf_counter()
    # Prompts share a batch, and the prefill gives the first token, as in the engine.
    model.batch.clear()
    room = model.batch.capacity
    for slot in range(streams):
        start = 0
        while start < prompt_tokens:
            chunk = prompt[start : start + room]
            start += len(chunk)
            last = model.batch.add(slot, start - len(chunk), chunk, start == prompt_tokens)
            room -= len(chunk)
            if room == 0 or (slot == streams - 1 and start == prompt_tokens):
                model.decode()
                model.batch.clear()
                room = model.batch.capacity
    model.logits(last)
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


def steps(model: Model, streams: int, prompt_tokens: int, tokens: int) -> float:
    """Return the seconds of ``tokens`` steps of streams whose prompts are computed already."""
    prompt = np.full(prompt_tokens, 300, dtype=np.int32)
    for start in range(0, prompt_tokens, model.batch.capacity):
        model.batch.clear()
        last = model.batch.add(0, start, prompt[start : start + model.batch.capacity], True)
        model.decode()
    model.logits(last)
    for slot in range(1, streams):
        model.copy(0, slot)
    seconds = 0.0
    for step in range(tokens + 1):  # the first one carries out the copies
        began = time.perf_counter()
        model.batch.clear()
        for slot in range(streams):
            last = model.batch.add(slot, prompt_tokens + step, prompt[:1], True)
        model.decode()
        model.logits(last)
        seconds += (time.perf_counter() - began) if step else 0.0
    for slot in range(streams):
        model.forget(slot)
    return seconds


def main() -> None:
    """Load the model named by the first line, then answer line by line."""
    model = Model(msgspec.json.decode(sys.stdin.readline(), type=Load))
    run(model, 1, 8, 8)  # warm
    for line in sys.stdin:
        task = json.loads(line)
        measured = steps if task.pop("steps_only", False) else run
        print(json.dumps({"seconds": measured(model, **task)}), flush=True)


if __name__ == "__main__":
    main()
