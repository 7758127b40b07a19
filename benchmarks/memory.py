"""Compares the estimate of a model's memory with the resident memory of real workers.

    python benchmarks/memory.py
    python benchmarks/memory.py smollm2.gguf llama-8b --slots 1 2

Each model is loaded in several ways, as the server loads it. Its worker answers a short request
with a grammar, for which it prepares its vocabulary: that is what an idle model takes. Then it
answers requests that fill the contexts of all slots, and says that their cells are in use. The
estimate, which is for full contexts, must be within 10 percent of the resident memory after that.

By default each model is loaded with flash attention and without, so that the result does not depend
on what is faster on a machine. With ``--flash-attention auto`` the worker chooses, and the estimate
for its choice is compared. Models without enough free memory are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from models import RECIPES, resolve
from msgspec import structs
from report import add_json_option, print_table, write_json

from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.estimate import Estimate, estimate
from offgrid.engine.client.fit import Candidate, measure
from offgrid.engine.client.processor import repacked_types
from offgrid.engine.memory import MIB, free_memory
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import EmbeddingRequest, GenerationRequest, Grammar
from offgrid.sampling import SamplingParams
from offgrid.store.description import Description, describe

REAL = Path("~/.cache/offgrid-tests").expanduser()
"""Where the tests keep the real models that they have fetched."""
TOLERANCE = 0.10
SHORT, ANSWER = 16, 4
"""Tokens of a short prompt, and of each answer."""
WORDS = Grammar("regex", "[a-z ]{4,64}", "regex")
"""The request waits until the worker has prepared for grammars, which it otherwise does when it is
idle."""
LATEST = 5.0
"""Seconds within which a worker says how many cells are in use: it is asked every second."""


@dataclass(frozen=True)
class Measured:
    """A model, how it was loaded, its estimate, and the resident memory of its worker in bytes."""

    name: str
    load: Load
    flash: bool
    """Whether it was computed with flash attention."""
    before: Estimate
    """For a model that is not loaded: what must be free."""
    estimate: Estimate
    """For the way of attention that was chosen."""
    idle: int
    """After short requests."""
    full: int
    """After requests that filled the contexts of all slots."""

    @property
    def ratio(self) -> float:
        """The estimate over what was measured."""
        return self.estimate.total / self.full

    @property
    def right(self) -> bool:
        """Whether the estimate is right, and so much had to be free before the model was loaded."""
        enough = self.full <= (1 + TOLERANCE) * self.before.total
        return enough and abs(self.ratio - 1) <= TOLERANCE


def default_models() -> list[str]:
    """Return the real models that are there, and the models of models.py of all kinds."""
    real = sorted(REAL.glob("*.gguf")) if REAL.is_dir() else []
    made = ("small-llama", "many-tokens", "mamba-130m", "small-jamba", "llama-1b")
    return [*map(str, real), *made]


def loads(path: Path, options: argparse.Namespace, generates: bool) -> Iterator[Load]:
    """Yield the ways to load a model. The file is also read instead of mapped: once for each length
    of context, as that changes nothing but the weights."""
    load = Load(str(path), threads=options.threads)
    for context in options.contexts:
        load = structs.replace(load, ctx_size=context)
        for parallel in options.slots if generates else options.slots[:1]:
            for flash in options.flash_attention:
                yield structs.replace(load, parallel=parallel, flash_attention=flash)
        yield structs.replace(
            load, parallel=options.slots[0], flash_attention=options.flash_attention[0],
            use_mmap=False,
        )  # fmt: skip


def resident(client: EngineClient) -> int:
    """Return the resident bytes of a worker."""
    pid = client.pid
    assert pid is not None
    return int(psutil.Process(pid).memory_info().rss)


def ask(client: EngineClient, tokens: int, first: int = 0, grammar: Grammar | None = None) -> None:
    """Let a model answer a prompt of so many tokens, or embed it. The ``first`` one decides which
    tokens they are."""
    info = client.info
    ids = tuple(3 + (first + index * 7) % (min(info.n_vocab, 250) - 3) for index in range(tokens))
    if not info.generates:
        client.embed(EmbeddingRequest((ids,), params=("input",)), lambda: True)
        return
    sampling = SamplingParams(temperature=0.0)
    generation = client.submit(
        GenerationRequest(
            tokens=ids, sampling=sampling, max_tokens=ANSWER, ignore_eos=grammar is None,
            grammar=grammar,
        )
    )  # fmt: skip
    while not generation.finished:
        generation.next(60.0)
    if generation.failed:
        raise SystemExit(f"{client.name}: no answer")


def check_full(client: EngineClient) -> None:
    """Require that all cells of all slots are in use, but for those of a last token that was
    sampled and not decoded."""
    info, now = client.info, time.monotonic()
    cells = 0
    while time.monotonic() < now + LATEST:
        beat = client.latest
        cells = beat.figures.cells if beat is not None and beat.at > now else 0
        if cells >= info.n_parallel * (info.n_ctx - 1):
            return
        time.sleep(0.1)
    raise SystemExit(
        f"{client.name}: {cells} of {info.n_parallel * info.n_ctx} cells are in use, not all"
    )


def run(name: str, load: Load, description: Description) -> Measured | None:
    """Load a model in one way and measure it; None if memory does not suffice."""
    assert description.sizes is not None
    sizes = description.sizes
    before = estimate(sizes, load, repacked_types())
    if before.total > free_memory():
        return None
    client = EngineClient(load, queue_size=1, load_timeout=600, stall_timeout=600, name=name)
    client.start()
    try:
        info = client.wait_ready()
        ask(client, SHORT, grammar=WORDS)
        idle = resident(client)
        for slot in range(load.parallel if info.generates else 1):
            ask(client, info.n_ctx - ANSWER, slot)
        if info.generates:
            check_full(client)
        flash = info.flash_attention if info.generates else load.flash_attention == "on"
        found = estimate(sizes, load, repacked_types(), flash=flash)
        return Measured(name, load, flash, before, found, idle, resident(client))
    finally:
        client.close()


def row(one: Measured) -> list[str]:
    """Return the cells of a table's row."""
    load, found = one.load, one.estimate
    context = measure(Candidate(load), load).context or load.ctx_size
    sizes = (found.weights, found.copies, found.cache, found.compute, found.vocabulary)
    return [
        one.name, f"{load.parallel} x {context}", "mapped" if load.use_mmap else "read",
        "on" if one.flash else "off",
        *(f"{size / MIB:,.0f}" for size in (*sizes, found.total, one.idle, one.full)),
        f"{one.ratio:.2f}{'' if one.right else ' !'}",
    ]  # fmt: skip


HEAD = (
    "model", "slots", "file", "flash attention", "weights", "copies", "cache", "compute",
    "vocabulary", "estimate", "idle", "full", "estimate / full",
)  # fmt: skip


def main() -> None:
    """Measure, print the table, and fail if an estimate is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL",
                        help=f"GGUF files or: {', '.join(RECIPES)}")  # fmt: skip
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--contexts", type=int, nargs="+", default=[2048])
    parser.add_argument("--flash-attention", choices=("on", "off", "auto"), nargs="+",
                        default=["on", "off"])  # fmt: skip
    parser.add_argument("--threads", type=int, default=0)
    add_json_option(parser)
    options = parser.parse_args()
    results, left_out = [], []
    for text in options.models or default_models():
        path = resolve(text)
        description = describe([path])
        if description.problem is not None:
            raise SystemExit(f"{text}: {description.problem}")
        for load in loads(path, options, description.generates):
            one = run(path.stem, load, description)
            if one is None:
                left_out.append(f"{path.stem} ({load.parallel} slots)")
            else:
                results.append(one)
                print(" ".join(row(one)), flush=True)
    print_table("Memory in MiB", HEAD, [row(one) for one in results])
    if left_out:
        print(f"left out for lack of memory: {', '.join(left_out)}")
    write_json(options.json, {"rows": [dict(zip(HEAD, row(one), strict=True)) for one in results]})
    wrong = [one for one in results if not one.right]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(results)} estimates are more than 10 % off")


if __name__ == "__main__":
    main()
