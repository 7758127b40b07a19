"""Probabilities of decisions with real weights: exact, and independent of the order of choices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import OpenAI
from reference_logits import ReferenceModel
from support import Json, request

from offgrid.api.decisions.call import normalised
from offgrid.api.decisions.request import parse_decisions
from offgrid.api.decisions.wording import wordings
from offgrid.chat.dialect import Dialect
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import PromptPart
from offgrid.engine.worker.llama.model import Model

pytestmark = pytest.mark.models

SMOLLM2 = "SmolLM2-135M-Instruct"
LETTER = "I was charged twice for the same subscription. Please pay one of them back."
QUESTIONS: list[Json] = [
    {"type": "predicate", "instructions": "The customer wants a refund."},
    {"type": "choice", "instructions": "Which team is responsible?", "choices": [
        {"value": "billing", "description": "payments and refunds"}, {"value": "billing support"},
        {"value": "technical support"}, {"value": True}]},
    {"type": "score", "instructions": "How angry is the customer?", "levels": [
        {"label": "calm"}, {"label": "a little annoyed"}, {"label": "furious"}]},
]  # fmt: skip
ALIKE = 5e-3
"""Difference of probabilities that the rounding of llama.cpp may cause: it computes the tokens of a
prompt in other groups."""


@pytest.fixture(scope="module")
def vocabulary(smollm2: Path) -> Iterator[Model]:
    model = Model(Load(str(smollm2), ctx_size=512, parallel=1, threads=1, flash_attention="off"))
    yield model
    model.close()


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Iterator[ReferenceModel]:
    model = ReferenceModel(smollm2)
    yield model
    model.close()


def likelihoods(answer: Json) -> list[float]:
    if answer["type"] == "predicate":
        return [answer["probability"], 1 - answer["probability"]]
    return [one["probability"] for one in answer["probabilities"]]


def brute_force(
    model: Model, reference: ReferenceModel, question: Any, ends: Sequence[int]
) -> list[float]:
    """Compute every choice of every wording as a whole prompt, without anything in common."""
    info = model.info
    dialect = Dialect(info.chat_template, info.bos_text, info.eos_text, info.control_ids)
    sums = [0.0] * len(wordings(question)[0].answers)
    for wording in wordings(question):
        content = f"{LETTER}\n\n{wording.text}"
        prompt = dialect.prompt([{"role": "user", "content": content}])
        # The border between input and question is also one between tokens.
        parts = [*prompt.parts]
        place = next(n for n, part in enumerate(parts) if content in part.text)
        head, tail = parts[place].text.split(wording.text)
        parts[place : place + 1] = [
            PromptPart(head, False), PromptPart(wording.text, False), PromptPart(tail, False)
        ]  # fmt: skip
        before = model.tokenize([part for part in parts if part.text]).tolist()
        found = []
        for answer in wording.answers:
            tokens = [*before, *model.tokenize_plain(answer).tolist()]
            rows = reference.log_probabilities(tokens)
            own = range(len(before) - 1, len(tokens) - 1)
            total = math.fsum(rows[index, tokens[index + 1]] for index in own)
            found.append(total + math.log(np.exp(rows[-1, [*ends]]).sum()))
        for index, probability in zip(wording.places, normalised(found), strict=True):
            sums[index] += probability / 2
    return sums


def test_probabilities_are_those_of_brute_force_in_float64(
    real_url: str, vocabulary: Model, reference: ReferenceModel
) -> None:
    body = {"model": SMOLLM2, "input": LETTER, "questions": QUESTIONS}
    answers = request(real_url, "POST", "/v1/decisions", body).json["answers"]
    parsed, _ = parse_decisions(body)
    for question, answer in zip(parsed.questions, answers, strict=True):
        found = likelihoods(answer)
        assert math.fsum(found) == pytest.approx(1, abs=1e-6)
        expected = brute_force(vocabulary, reference, question, sorted(vocabulary.eog_ids))
        assert found == pytest.approx(expected, abs=ALIKE)


@pytest.mark.parametrize("model", [SMOLLM2, "gemma-3-270m"])
def test_other_orders_of_the_choices_change_nothing(real_url: str, model: str) -> None:
    choices = QUESTIONS[1]["choices"]
    with OpenAI(base_url=f"{real_url}/v1", api_key="any", max_retries=0) as client:
        found = []
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
            question: Any = {**QUESTIONS[1], "choices": [choices[place] for place in order]}
            answer = client.decisions.create(model=model, input=LETTER, questions=[question])
            (one,) = answer.answers
            assert one.type == "choice"
            likely = {str(p.value): p.probability for p in one.probabilities}
            assert sum(likely.values()) == pytest.approx(1, abs=1e-6)
            found.append(likely)
    assert found[1] == pytest.approx(found[0], abs=ALIKE)
    assert found[2] == pytest.approx(found[0], abs=ALIKE)
