"""Compares the time of answers with and without `prediction`, over HTTP, with real weights.

    python benchmarks/predictions.py ~/.cache/offgrid-tests/SmolLM2-135M-Instruct.gguf
    python benchmarks/predictions.py LARGE.gguf --draft-model SMALL.gguf

The model answers a question; then it is asked again, and the prediction is its answer with one line
changed. Three servers take turns: one without drafts, one with drafts but without the prediction
(only what repeats in prompt and answer is proposed then), and the latter with the prediction. With
`--draft-model`, a fourth has that. The clock runs from the request to the whole answer, the prefill
of the short prompt included. Each figure is the best of `--repeat` rounds. `same` is the share of
answers with the same text: llama.cpp rounds differently with other numbers of rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from report import add_json_option, print_table, write_json

from offgrid.config import load_settings
from offgrid.server import Server

QUESTIONS = (
    "Write a Python function that counts the words of a file, with comments.",
    "List ten animals, and write one sentence about each of them.",
    "Write a letter to a friend about a journey to the sea.",
)
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature 0.7": {"temperature": 0.7, "seed": 1},
}


def serve(folder: Path, model: Path, options: argparse.Namespace, **flags: Any) -> Server:
    """Start a server with one model, in this process; the model has a process of its own."""
    given = {
        "port": 0, "models_dir": folder, "model": str(model), "keep_alive": -1, "parallel": 1,
        "ctx_size": 2048, "threads": options.threads, "responses_file": folder / "r.sqlite3",
        **flags,
    }  # fmt: skip
    server = Server(load_settings(given, environ={}))
    server.start()
    return server


def ask(server: Server, question: str, **fields: Any) -> tuple[float, dict[str, Any]]:
    """Return the seconds that an answer took, and the answer."""
    messages = [{"role": "user", "content": question}]
    data = json.dumps({"messages": messages, **fields}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", data, headers)
    began = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        body: dict[str, Any] = json.load(response)
    return time.perf_counter() - began, body


def changed(text: str) -> str:
    """Return a text with another line in the middle, or another sentence if it has one line."""
    separator = "\n" if text.count("\n") > 2 else ". "
    lines = text.split(separator)
    lines[len(lines) // 2] = "Nobody had expected that this line would be here"
    return separator.join(lines)


def measure(servers: dict[str, Server], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row of figures for each kind of sampling."""
    figures = []
    for name, sampling in SAMPLING.items():
        best: dict[str, float] = dict.fromkeys([*servers, "prediction"], 0.0)
        same, total, accepted, predicted = 0, 0, 0, 0
        for question in QUESTIONS:
            fields = {"max_tokens": options.tokens, "ignore_eos": True, **sampling}
            _, first = ask(servers["without"], question, **fields)
            text = first["choices"][0]["message"]["content"]
            guess = {"prediction": {"type": "content", "content": changed(text)}}
            speeds: dict[str, list[float]] = {kind: [] for kind in best}
            for _ in range(options.repeat):
                for kind in best:
                    server = servers.get(kind, servers["drafts"])
                    extra = guess if kind == "prediction" else {}
                    seconds, body = ask(server, question, **fields, **extra)
                    speeds[kind].append(body["usage"]["completion_tokens"] / seconds)
                    same += body["choices"][0]["message"]["content"] == text
                    total += 1
            details = body["usage"]["completion_tokens_details"]
            accepted += details["accepted_prediction_tokens"]
            predicted += details["accepted_prediction_tokens"]
            predicted += details["rejected_prediction_tokens"]
            for kind in best:
                best[kind] += max(speeds[kind]) / len(QUESTIONS)
        figures.append({
            "sampling": name, **best, "ratio": best["prediction"] / best["without"],
            "accepted": accepted / predicted, "same": same / total,
        })  # fmt: skip
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft-model", type=Path)
    parser.add_argument("--tokens", type=int, default=250, help="length of an answer")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, dict[str, Any]] = {"without": {"drafts": False}, "drafts": {}}
        if options.draft_model is not None:
            kinds["draft model"] = {"draft_model": str(options.draft_model)}
        servers = {
            kind: serve(Path(folder), options.model, options, **flags)
            for kind, flags in kinds.items()
        }
        try:
            figures = measure(servers, options)
        finally:
            for server in servers.values():
                server.stop()
    columns = [*kinds, "prediction"]
    print_table(
        f"{options.model.stem}, tokens/s over HTTP, {options.tokens} tokens an answer",
        ["sampling", *columns, "prediction / without", "accepted", "same answers"],
        [[f["sampling"], *(f[kind] for kind in columns), f["ratio"], f["accepted"], f["same"]]
         for f in figures],
    )  # fmt: skip
    write_json(options.json, {"model": options.model.stem, "rows": figures})


if __name__ == "__main__":
    main()
