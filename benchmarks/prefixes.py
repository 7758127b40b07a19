"""Long prompts after a restart, read instead of computed; and more conversations than slots.

    python benchmarks/prefixes.py                                     # two models, 4 minutes
    python benchmarks/prefixes.py --models smollm2 --lengths 250,1000,4000 --plot prefixes.png
    python benchmarks/prefixes.py --models "" --conversations         # counts only, half a minute

For each model, a server answers one prompt of each length, ends as Ctrl-C ends it, and a second
server answers the same prompts. ``cold`` and ``restored`` are the times to the first token of the
two. Both servers run alone, and a short request goes before, so that the model is in memory. The
first server answers each prompt a second time, from its slot. The greedy answer of the second
server must be the same, or the benchmark ends with an error. ``same`` says whether the first, cold
answer has the same tokens too: there the last token of the prompt is computed together with the
others, which llama.cpp rounds differently. Drafts are off, because they change the number of rows
and therefore the rounding, and depend on measured times. ``step`` is what one token of
a running stream takes, and ``pause`` the longest gap in that stream while the longest prompt is
restored beside it, in a third server.

``--conversations`` counts tokens, so other programs do not matter: 100 requests that continue one
of 8 conversations, chosen at random, on 8 slots, on 4, and on 4 without saved prefixes. All
prefixes are on disk at most, and no model is loaded twice.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from pathlib import Path
from typing import Any

import models
import psutil
from cases import cached_tokens
from clients import Clients, Prompts, Reading, read_all
from report import add_json_option, percentile, print_table, write_json
from servers import OffGrid

from offgrid.engine.protocol.commands import Load
from offgrid.store.catalogue import STARTER_PATH

ANSWER = 16
"""Tokens of each answer."""
GREEDY = {
    "temperature": 0, "max_tokens": ANSWER, "ignore_eos": True, "stream": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
SLOTS, TALKS, REQUESTS, TURN = 4, 8, 100, 40
SENTENCES = (
    "The river is wide, and the old mill on its bank has been empty for years.",
    "In the morning the otter swims to the small island and looks for fish.",
    "Nobody in the village remembers who built the stone bridge.",
    "On warm days the children sit in the shade of the big tree and read.",
    "The miller's daughter wrote a letter to her brother, who lived in the city.",
    "At night a light moves along the path between the church and the harbour.",
    "The baker opens his shop at six and sells bread until noon.",
    "After the storm, two boats were missing, and a third one had lost its mast.",
)
"""Text that even a small model knows how to continue: the most likely token is far ahead of the
second, so that rounding does not decide."""


def serve(load: Load, folder: str, options: argparse.Namespace, *more: str) -> OffGrid:
    """Start a server that keeps its files in a folder of its own."""
    files = ("--responses-file", f"{folder}/responses.sqlite3", "--cache-disk-mb", "16384")
    return OffGrid(load, options.program, flags=(*files, "--no-drafts", *more))


def ask(server: OffGrid, prompt: str) -> Reading:
    """Return the answer to a prompt when it is complete."""
    (reading,) = read_all(server, [{**GREEDY, "prompt": prompt}])
    if reading.status != 200:
        raise SystemExit(f"{reading.status}: {reading.text()}")
    return reading


def story(server: OffGrid, tokens: int) -> str:
    """Return a text of a little less than so many tokens, which ends in the middle of a sentence.
    No two lengths begin alike."""
    chance = random.Random(tokens)
    body = {"prompt": " ".join(SENTENCES), "max_tokens": 1}
    each = server.ask("/v1/completions", body)["usage"]["prompt_tokens"] / len(SENTENCES)
    begin = f"Story number {tokens}."
    count = max(4, int((tokens - 25) / each))
    told = [*SENTENCES, *chance.choices(SENTENCES, k=max(0, count - len(SENTENCES)))][:count]
    chance.shuffle(told)
    last = told[0].split()
    return " ".join([begin, *told, *last[: len(last) // 2]])


def restart(path: Path, lengths: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one model."""
    load = Load(
        str(path), ctx_size=max(lengths) + 2 * ANSWER + 64, parallel=len(lengths) + 1,
        threads=options.threads,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with serve(load, folder, options) as server:
            server.warm()
            prompts = [story(server, length) for length in lengths]
            cold = [ask(server, prompt) for prompt in prompts]
            slots = [ask(server, prompt) for prompt in prompts]
        size = sum(file.stat().st_size for file in Path(folder, "prefixes").rglob("*.prefix"))
        with serve(load, folder, options) as server:
            server.warm()
            restored = [ask(server, prompt) for prompt in prompts]
        with serve(load, folder, options) as server:
            server.warm()
            gaps = beside(server, prompts[-1])
    rows = []
    for before, slot, after in zip(cold, slots, restored, strict=True):
        if slot.text() != after.text():
            raise SystemExit(f"{path.stem}: {slot.text()!r} became {after.text()!r}")
        rows.append({
            "prompt": before.usage()["prompt_tokens"], "cached": cached_tokens(after),
            "cold": before.first(), "restored": after.first(),
            "same": before.text() == after.text(),
        })  # fmt: skip
    return {"model": path.stem, "rows": rows, "bytes": size, **gaps}


def beside(server: OffGrid, prompt: str) -> dict[str, float]:
    """Return the usual gap between two tokens of a stream, and the longest while a saved prefix is
    restored beside it, in seconds."""
    clients = Clients(server)
    stream = clients.send({**GREEDY, "max_tokens": 2000, "prompt": "Once upon a time"})
    clients.run(until=lambda: len(stream.chunks) > 20)
    other = clients.send({**GREEDY, "max_tokens": 1, "prompt": prompt})
    clients.run(until=lambda: other.started)
    clients.leave()
    times = [when for tokens in stream.tokens().values() for when in tokens]
    before = [b - a for a, b in itertools.pairwise(times) if b <= other.sent]
    during = [b - a for a, b in itertools.pairwise(times) if b > other.sent]
    return {"step": percentile(before, 0.5), "pause": max(during, default=0.0)}


def conversations(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Count the tokens that are computed for the prompts of all requests."""
    path = models.resolve(options.talker) if options.talker else STARTER_PATH
    ways = (
        ("8 slots", TALKS, ()),
        ("4 slots", SLOTS, ()),
        ("4 slots, only on disk", SLOTS, ("--cache-ram-mb", "0")),
        ("4 slots, nothing saved", SLOTS, ("--cache-ram-mb", "0", "--cache-disk-mb", "0")),
    )
    found = []
    for name, slots, flags in ways:
        load = Load(str(path), ctx_size=2048, parallel=slots, threads=options.threads)
        with (
            tempfile.TemporaryDirectory() as folder,
            serve(load, folder, options, *flags) as server,
        ):
            counts = talk(server)
        found.append({"way": name, **counts})
    return found


def talk(server: OffGrid) -> dict[str, int]:
    """Play the conversations on one server; the same ones each time."""
    prompts, chance = Prompts(server, seed=3), random.Random(5)
    said = [prompts.text(200) for _ in range(TALKS)]
    counts = {"prompt": 0, "computed": 0}
    for _ in range(REQUESTS):
        number = chance.randrange(TALKS)
        said[number] += f" And {prompts.text(TURN)}"
        usage = (reading := ask(server, said[number])).usage()
        said[number] += reading.text()
        counts["prompt"] += usage["prompt_tokens"]
        counts["computed"] += usage["prompt_tokens"] - cached_tokens(reading)
    return counts


def show(found: dict[str, Any]) -> None:
    """Print the table of a model."""
    rows = found["rows"]
    print_table(
        f"{found['model']}: time to the first token after a restart; {found['bytes'] / 1e6:,.0f} MB"
        f" on disk; beside a stream with a step of {1e3 * found['step']:.0f} ms, the longest gap is"
        f" {1e3 * found['pause']:.0f} ms",
        ["prompt", "cached", "cold ms", "restored ms", "restored / cold", "target", "same"],
        [[row["prompt"], row["cached"], 1e3 * row["cold"], 1e3 * row["restored"],
          row["restored"] / row["cold"], "0.1" if row is rows[-1] else None,
          "yes" if row["same"] else "no"] for row in rows],
    )  # fmt: skip


def show_counts(found: list[dict[str, Any]]) -> None:
    """Print the table of the conversations."""
    base = found[0]["computed"]
    print_table(
        f"{REQUESTS} requests in {TALKS} conversations",
        ["", "tokens of prompts", "computed", "computed / 8 slots", "target"],
        [[row["way"], row["prompt"], row["computed"], row["computed"] / base,
          "1.15" if row["way"].startswith("4 slots") and "nothing" not in row["way"] else None]
         for row in found],
    )  # fmt: skip


def plot(path: Path, found: list[dict[str, Any]]) -> None:
    """Draw the time to the first token against the length of the prompt."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4.5), constrained_layout=True)
    for number, result in enumerate(found):
        lengths = [row["prompt"] for row in result["rows"]]
        for way, style in (("cold", "--"), ("restored", "-")):
            times = [row[way] for row in result["rows"]]
            label = f"{result['model']}, {'computed' if way == 'cold' else 'after a restart'}"
            axes.plot(lengths, times, style, marker="o", color=f"C{number}", label=label)
    axes.set(
        xlabel="tokens of the prompt", ylabel="seconds to the first token", xscale="log",
        yscale="log",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--models", default="smollm2,llama-1b",
        help="paths, names of models.py, or of real weights: smollm2, gemma3; empty for none",
    )  # fmt: skip
    parser.add_argument("--lengths", default="250,1000,4000", help="tokens of the prompts")
    parser.add_argument("--conversations", action="store_true", help="count the tokens")
    parser.add_argument("--talker", default="", help="its model; the starter by default")
    # With flash attention, another number of threads rounds differently, and random weights have
    # many tokens that are practically tied.
    cores = psutil.cpu_count(logical=False) or 1
    parser.add_argument("--threads", type=int, default=cores, help="of llama.cpp")
    parser.add_argument(
        "--program", default="", help="the command of OffGrid, if not the installed"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw time against length")
    add_json_option(parser)
    options = parser.parse_args()
    lengths = sorted(int(text) for text in options.lengths.split(","))
    content: dict[str, Any] = {"models": []}
    for name in filter(None, options.models.split(",")):
        content["models"].append(restart(models.resolve(name), lengths, options))
        show(content["models"][-1])
        write_json(options.json, content)
    if options.conversations:
        content["conversations"] = conversations(options)
        show_counts(content["conversations"])
    write_json(options.json, content)
    if options.plot and content["models"]:
        plot(options.plot, content["models"])


if __name__ == "__main__":
    main()
