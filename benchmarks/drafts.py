"""Compares the speed with drafts and without: the same engine, the same answers, in turns.

    python benchmarks/drafts.py --models ~/.cache/offgrid-tests/SmolLM2-135M-Instruct.gguf
    python benchmarks/drafts.py --models llama-1b --rows repeat,prediction,schema
    python benchmarks/drafts.py --models llama-1b --rows chat

The cases:

- ``repeat``: the answer is a text of the prompt with one word changed;
- ``prediction``: the answer, twice as long, is the predicted text but for one line;
- ``schema``: JSON with fixed keys, on one stream and on four;
- ``chat``: answers of the model's own, which nothing predicts.

Neither random weights nor a small model write a known text reliably. Except for ``chat``, the
answers are therefore scripted: after llama.cpp has computed a row, the logit of the token that the
script has at that place is set far above all others, in place, which takes no time. Everything else
is the usual: decoding, the row count of each step, masks, sampling, text. So a scripted row shows
what drafts bring if the model does write the text.

The clock starts when all streams have their first token. Each figure is the best of ``--repeat``
rounds. With a script, both answers must be the script, or the benchmark ends with an error. For
``chat``, the share of answers with the same tokens is given: llama.cpp rounds differently with
other numbers of rows.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import numpy as np
from report import add_json_option, print_table, write_json

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, EngineEvent, Failed
from offgrid.engine.protocol.requests import GenerationRequest, Grammar
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.prediction import PredictedText, Prediction
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.llama.model import Model
from offgrid.grammar.checked import CheckedSchema
from offgrid.sampling import SamplingParams

_CERTAIN = 1000.0
"""The logit of the scripted token."""
_WORDS = (
    "the otter and fox river house old small wide swims runs lives sleeps looks is in on of to by "
    "day night water tree green red fast slow stone under after long short white bird fish hill"
).split()
GREEDY = SamplingParams(temperature=0.0)
WARM = SamplingParams(temperature=0.7, top_p=0.95, seed=1)


class Scripted:
    """A model that says what a script prescribes.

    Attributes:
        scripts: request id -> the tokens of its answer.
        engine: the engine that uses the model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.scripts: dict[int, list[int]] = {}
        self.engine: Engine | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, index: int) -> int:
        """Return the address of a row, in which the scripted token is certain."""
        address = self._model.logits(index)
        assert self.engine is not None
        batch = self._model.batch
        slot, position = int(batch._seq_id[index]), int(batch._pos[index])
        for sequence in self.engine.scheduler.running:
            script = self.scripts.get(sequence.request_id)
            if sequence.slot == slot and script is not None:
                place = position + 1 - sequence.n_prompt
                if 0 <= place < len(script):
                    ctypes.c_float.from_address(address + 4 * script[place]).value = _CERTAIN
        return address


@dataclass
class Case:
    """One row of the table: a request for each stream, and the answers that are prescribed."""

    name: str
    sampling: str
    requests: list[GenerationRequest]
    scripts: list[list[int]] = field(default_factory=list)
    predictions: list[list[int]] = field(default_factory=list)


class Measured:
    """The engine, and the times and answers of its requests."""

    def __init__(self, load: Load) -> None:
        self.model = Scripted(Model(load))
        self.engine = Engine(self.model, self._take)  # type: ignore[arg-type]
        self.model.engine = self.engine
        self._ids = itertools.count(1)
        self._begun: set[tuple[int, int]] = set()

    def _take(self, events: tuple[EngineEvent, ...]) -> None:
        for event in events:
            if isinstance(event, Delta):
                self._begun.add((event.id, event.choice))
            elif isinstance(event, Failed):
                raise SystemExit(f"a request failed: {event.message}")

    def run(self, case: Case, drafts: bool) -> tuple[float, list[list[int]], int]:
        """Compute a case.

        Returns:
            Seconds after the first tokens, the tokens of the answers, and how many of them were
            proposed.
        """
        self._begun.clear()
        sequences = []
        for number, request in enumerate(case.requests):
            id = next(self._ids)
            prepared = self.engine.prepare(id, request)
            (sequence,) = prepared.sequences
            sequences.append(sequence)
            if case.scripts:
                self.model.scripts[id] = case.scripts[number]
            if not drafts:
                sequence.drafter = None
            elif case.predictions:
                guess = np.array(case.predictions[number], dtype=np.int32)
                predicted = PredictedText(guess, self.model.n_vocab)
                sequence.drafter = Drafter([Prediction(predicted)])
            self.engine.submit(prepared)
        while len(self._begun) < len(sequences):
            self.engine.step()
        before = [len(sequence) for sequence in sequences]
        began = time.perf_counter()
        while self.engine.step():
            pass
        seconds = time.perf_counter() - began
        self.model.scripts.clear()
        answers = [s.tokens[s.n_prompt : len(s)].tolist() for s in sequences]
        for script, answer in zip(case.scripts, answers, strict=False):
            if answer != script:
                raise SystemExit(f"{case.name}: the answer is not the script")
        tokens = sum(len(s) - n for s, n in zip(sequences, before, strict=True))
        accepted = sum(s.drafter.accepted for s in sequences if s.drafter is not None)
        return tokens / seconds, answers, accepted


# --- the cases ------------------------------------------------------------------------------------


def words(rng: random.Random, count: int) -> str:
    """Return a text of random words, in lines of twelve."""
    chosen = [rng.choice(_WORDS) for _ in range(count)]
    return "\n".join(" ".join(chosen[i : i + 12]) for i in range(0, count, 12))


def plain_request(tokens: list[int], length: int, **fields: Any) -> GenerationRequest:
    """Return a request for an answer of a known length, which shares no prefix."""
    fields = {"ignore_eos": True, "cache_prompt": False, **fields}
    return GenerationRequest(tokens=tuple(tokens), max_tokens=length, **fields)


def repeat(model: Model, tokens: int) -> list[Case]:
    """The answer is the text of the prompt; one word in the middle is another one."""
    cases = []
    for name, sampling in (("greedy", GREEDY), ("temperature 0.7", WARM)):
        text, script = _changed(model, tokens, random.Random(1))
        prompt = model.tokenize_plain(f"Repeat with one word changed:\n{text}\n\n").tolist()
        request = plain_request(prompt, len(script), sampling=sampling)
        cases.append(Case("repeat, 1 stream", name, [request], [script]))
    return cases


def _changed(model: Model, tokens: int, rng: random.Random) -> tuple[str, list[int]]:
    """Return a text, and the first tokens of the same text with another word in the middle."""
    list_of_words = words(rng, tokens).split(" ")
    text = " ".join(list_of_words)
    length = len(model.tokenize_plain(text))
    list_of_words = list_of_words[: max(20, len(list_of_words) * tokens // length)]
    text = " ".join(list_of_words)
    list_of_words[len(list_of_words) // 2] = "zebra"
    return text, model.tokenize_plain(" ".join(list_of_words)).tolist()


def prediction(model: Model, tokens: int) -> list[Case]:
    """The prediction is the answer, but one of its lines is another one."""
    rng = random.Random(2)
    text = words(rng, 2 * tokens)
    lines = text.split("\n")
    predicted = [*lines]
    predicted[len(lines) // 2] = words(rng, 12)
    script = model.tokenize_plain(text).tolist()
    request = plain_request(
        model.tokenize_plain("Change one line.\n").tolist(), len(script), sampling=WARM
    )
    guess = model.tokenize_plain("\n".join(predicted)).tolist()
    return [Case("prediction, 1 stream", "temperature 0.7", [request], [script], [guess])]


KEYS = ("name", "street", "city", "country", "years", "occupation", "language", "active")


def schema(model: Model, tokens: int) -> list[Case]:
    """Objects with eight keys, each value a word or a number."""
    rng = random.Random(3)
    one = {
        "type": "object",
        "properties": {key: {"type": "integer" if key == "years" else "string"} for key in KEYS},
        "required": list(KEYS), "additionalProperties": False,
    }  # fmt: skip
    checked = CheckedSchema(json.dumps({"type": "array", "items": one, "minItems": 1}), "x")
    cases = []
    for streams in (1, 4):
        requests, scripts = [], []
        for _ in range(streams):
            text, script = "[", []
            while len(script) < tokens:
                record = {key: rng.choice(_WORDS) for key in KEYS} | {"years": rng.randint(1, 99)}
                text += ("" if text == "[" else ", ") + json.dumps(record)
                script = model.tokenize_plain(text + "]").tolist()
            prompt = model.tokenize_plain(f"A list of people: {words(rng, 5)}\n").tolist()
            scripts.append(script)
            requests.append(plain_request(
                prompt, len(script), sampling=WARM, ignore_eos=False,
                grammar=Grammar.of_schema(checked),
            ))  # fmt: skip
        cases.append(Case(f"schema, {streams} streams", "temperature 0.7", requests, scripts))
    return cases


_QUESTIONS = (
    "Why is the sky blue?", "Write a short story about an otter.", "How do I cook rice?",
    "Explain how a bicycle stays upright.", "What is a good name for a cat?",
    "Name three rivers in Europe and say where they begin.", "Write a poem about the night.",
    "What should I pack for a week in the mountains?",
)  # fmt: skip


def chat(model: Model, tokens: int) -> list[Case]:
    """Ordinary questions, answered by the model itself."""
    cases = []
    for streams in (1, 4, 8):
        prompts = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n" for q in _QUESTIONS]
        requests = [
            plain_request(model.tokenize_plain(prompt).tolist(), tokens, sampling=WARM)
            for prompt in prompts[:streams]
        ]
        cases.append(Case(f"chat, {streams} streams", "temperature 0.7", requests))
    return cases


ROWS: dict[str, Callable[[Model, int], list[Case]]] = {
    "repeat": repeat,
    "prediction": prediction,
    "schema": schema,
    "chat": chat,
}


def measure(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one model; return a row of figures for each case."""
    load = Load(str(path), parallel=8, ctx_size=2048, threads=options.threads)
    measured = Measured(load)
    model = measured.model._model
    figures = []
    for name in options.rows.split(","):
        for case in ROWS[name](model, options.tokens):
            speeds: dict[bool, list[float]] = {False: [], True: []}
            same, total, accepted = 0, 0, 0
            for turn in range(options.repeat):
                answers = {}
                for drafts in (False, True) if turn % 2 == 0 else (True, False):
                    speed, answers[drafts], proposed = measured.run(case, drafts)
                    speeds[drafts].append(speed)
                    accepted = proposed if drafts else accepted
                pairs = [*zip(answers[False], answers[True], strict=True)]
                same += sum(a == b for a, b in pairs)
                total += len(pairs)
            plain, drafted = max(speeds[False]), max(speeds[True])
            figures.append({
                "model": path.stem, "case": case.name, "sampling": case.sampling,
                "plain": plain, "drafts": drafted, "ratio": drafted / plain,
                "accepted": accepted / sum(map(len, answers[True])), "same": same / total,
            })  # fmt: skip
    measured.model.close()
    print_table(
        f"{path.stem}, {options.tokens} tokens an answer",
        ["case", "sampling", "without tokens/s", "with drafts tokens/s", "ratio",
         "share that was proposed", "same answers"],
        [[f["case"], f["sampling"], f["plain"], f["drafts"], f["ratio"], f["accepted"], f["same"]]
         for f in figures],
    )  # fmt: skip
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="llama-1b", help="paths or names of models.py")
    parser.add_argument("--rows", default=",".join(ROWS), help="which of the cases")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer, about")
    parser.add_argument("--threads", type=int, default=0, help="of llama.cpp")
    parser.add_argument("--repeat", type=int, default=2, help="rounds, the best of which counts")
    add_json_option(parser)
    options = parser.parse_args()
    figures: list[dict[str, Any]] = []
    for name in options.models.split(","):
        figures += measure(models.resolve(name), options)
    write_json(options.json, {"rounds": options.repeat, "rows": figures})


if __name__ == "__main__":
    main()
