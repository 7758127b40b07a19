"""``/v1/decisions`` and ``/v1/moderations``, with OpenAI's client and plain HTTP."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI
from scripted_model import write
from support import STARTER, TIMEOUT, Json, eventually, request
from tiny_models import make, make_bert
from tiny_vision import pixels, png

from offgrid.api.decisions.request import (
    MAX_CHOICES,
    MAX_JSON_LEVELS,
    MAX_QUESTIONS,
    parse_decisions,
)
from offgrid.api.decisions.wording import wordings
from offgrid.api.moderations import CATEGORIES, OPENAI_MODELS
from offgrid.errors import InvalidParameter
from offgrid.server import Server

DECISIONS, MODERATIONS = "/v1/decisions", "/v1/moderations"
LETTER = "I was charged twice for the same subscription. Please pay one of them back."
REFUND: Json = {"type": "predicate", "name": "refund", "instructions": "The customer wants money."}
TEAM: Json = {
    "type": "choice",
    "name": "team",
    "instructions": "Which team is responsible?",
    "choices": [
        {"value": "billing", "description": "payments and refunds"},
        {"value": "technical"},
        {"value": "billing support"},
        {"value": True},
        {"value": "true"},
    ],
}
ANGER: Json = {
    "type": "score",
    "instructions": "How angry is the customer?",
    "levels": [{"label": "calm"}, {"label": "annoyed", "description": "a little"},
               {"label": "furious"}],
}  # fmt: skip


def decide(url: str, *questions: Json, status: int = 200, **fields: Any) -> Json:
    body = {"model": STARTER, "input": LETTER, "questions": [*questions], **fields}
    response = request(url, "POST", DECISIONS, body)
    assert response.status == status, response.body
    return response.json


def likelihoods(answer: Json) -> list[float]:
    """The probabilities of an answer."""
    if answer["type"] == "predicate":
        return [answer["probability"]]
    return [one["probability"] for one in answer["probabilities"]]


def test_each_kind_of_question(client: OpenAI) -> None:
    answer = client.decisions.create(
        model=STARTER, input=LETTER, questions=[REFUND, TEAM, ANGER]
    )  # fmt: skip
    refund, team, anger = answer.answers
    assert refund.type == "predicate"
    assert refund.name == "refund"
    assert 0 < refund.probability < 1
    assert team.type == "choice"
    assert [one.value for one in team.probabilities] == [
        choice["value"] for choice in TEAM["choices"]
    ]
    assert sum(one.probability for one in team.probabilities) == pytest.approx(1, abs=1e-6)
    best = max(team.probabilities, key=lambda one: one.probability)
    assert team.choice is best.value
    assert team.confidence == pytest.approx((best.probability - 0.2) / 0.8)
    assert anger.type == "score"
    assert anger.name is None
    assert [(one.value, one.label) for one in anger.probabilities] == [
        (0, "calm"), (1, "annoyed"), (2, "furious"),
    ]  # fmt: skip
    assert sum(one.probability for one in anger.probabilities) == pytest.approx(1, abs=1e-6)
    assert anger.score == pytest.approx(
        sum(one.value * one.probability for one in anger.probabilities)
    )
    assert answer.model == STARTER
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens > 0


def test_the_types_of_the_client_fit_exactly(client: OpenAI) -> None:
    """The client accepts any response; this validates it strictly."""
    answer = client.decisions.create(
        model=STARTER, input=LETTER, questions=[REFUND, TEAM, ANGER]
    )  # fmt: skip
    type(answer).model_validate(answer.model_dump(), strict=True)


@pytest.mark.slow
def test_the_order_of_the_choices_changes_nothing(base_url: str) -> None:
    choices = TEAM["choices"][:4]
    found = []
    for order in itertools.permutations(range(4)):
        question = {**TEAM, "choices": [choices[place] for place in order]}
        (answer,) = decide(base_url, question)["answers"]
        assert [one["value"] for one in answer["probabilities"]] == [
            choices[place]["value"] for place in order
        ]
        found.append({
            (type(one["value"]), one["value"]): one["probability"]
            for one in answer["probabilities"]
        } | {"choice": answer["choice"]})  # fmt: skip
    assert all(one == pytest.approx(found[0], abs=1e-6) for one in found)


def test_each_question_is_put_in_two_orders() -> None:
    request, _ = parse_decisions({"input": "a", "questions": [REFUND, TEAM, ANGER]})
    for question, last in zip(request.questions, (1, 4, 2), strict=True):
        one, other = wordings(question)
        assert one.answers == other.answers[::-1]
        assert one.places == other.places[::-1]
        assert sorted(one.places) == [*range(last + 1)]
        assert one.text != other.text


def test_values_that_could_be_misread_are_written_as_json() -> None:
    question = {"type": "choice", "instructions": "?", "choices": [
        {"value": True}, {"value": "true"}, {"value": "a\nb"}]}  # fmt: skip
    request, _ = parse_decisions({"input": "a", "questions": [question]})
    assert sorted(wordings(request.questions[0])[0].answers) == ['"a\\nb"', '"true"', "true"]


def test_questions_do_not_depend_on_each_other(base_url: str) -> None:
    alone = [decide(base_url, question)["answers"][0] for question in (REFUND, TEAM, ANGER)]
    together = decide(base_url, ANGER, REFUND, TEAM, REFUND)["answers"]
    for one, place in zip(alone, (1, 2, 0), strict=True):
        assert likelihoods(together[place]) == pytest.approx(likelihoods(one), abs=1e-3)
    assert together[1] == together[3]


def test_the_input_is_computed_once_for_all_questions(base_url: str) -> None:
    words = " ".join(f"The otter swam to rock {n}." for n in range(100))
    questions = [{**REFUND, "instructions": f"The otter saw {n} rocks."} for n in range(30)]
    one = decide(base_url, questions[0], input=f"Here: {words}")["usage"]
    many = decide(base_url, *questions, input=f"Now: {words}")["usage"]
    again = decide(base_url, *questions, input=f"Now: {words}")["usage"]
    assert one["input_tokens"] > 800
    # All questions together have fewer tokens than the input a second time.
    own = many["total_tokens"] - one["total_tokens"]
    assert own < 30 * 50
    cached = again["input_tokens_details"]["cached_tokens"]
    assert cached > 700
    assert again["total_tokens"] == many["total_tokens"]


def test_the_input_may_be_a_conversation(base_url: str) -> None:
    talk = [
        {"role": "developer", "content": "Help customers."},
        {"role": "user", "content": [{"type": "input_text", "text": LETTER},
                                     {"type": "input_json", "data": {"id": 7, "paid": None}}]},
        {"type": "function_call", "call_id": "c", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "two payments"},
        {"type": "custom_tool_call", "call_id": "d", "name": "note", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": [
            {"type": "input_text", "text": "noted"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I pay it back."},
                                          {"type": "refusal", "refusal": "No."}]},
    ]  # fmt: skip
    whole = decide(base_url, REFUND, input=talk)
    less = decide(base_url, REFUND, input=talk[:-1])
    assert whole["answers"][0]["probability"] != less["answers"][0]["probability"]
    assert whole["usage"]["input_tokens"] > less["usage"]["input_tokens"]


def test_null_in_json_is_a_value() -> None:
    _, talk = parse_decisions({
        "input": [{"role": "user", "content": [{"type": "input_json", "data": {"a": None}}]}],
        "questions": [{"type": "predicate", "name": None, "instructions": [
            {"type": "input_json", "data": [{"b": None}]}]}],
    })  # fmt: skip
    assert talk.messages == [{"role": "user", "content": '{"a":null}'}]


def test_fields_without_effect_in_instructions_are_accepted(base_url: str) -> None:
    part = {"type": "input_text", "text": REFUND["instructions"]}
    marked = {**part, "prompt_cache_breakpoint": {"mode": "explicit"}}
    plain, same = decide(
        base_url, REFUND, {**REFUND, "instructions": [marked]}, cache_prompt=False
    )["answers"]  # fmt: skip
    assert same == plain


DEEP: Any = {}
for _ in range(MAX_JSON_LEVELS):
    DEEP = {"a": DEEP}

REFUSED: list[tuple[Json, str]] = [
    ({"questions": []}, "questions"),
    ({"questions": [REFUND] * (MAX_QUESTIONS + 1)}, "questions"),
    ({"questions": [{**REFUND, "type": "box"}]}, "questions[0].type"),
    ({"questions": [{"type": "predicate"}]}, "questions[0].instructions"),
    ({"questions": [{**REFUND, "instructions": " "}]}, "questions[0].instructions"),
    ({"questions": [{**REFUND, "instructions": []}]}, "questions[0].instructions"),
    ({"questions": [{**REFUND, "weight": 1}]}, "questions[0].weight"),
    ({"questions": [{**TEAM, "choices": [{"value": "a"}]}]}, "questions[0].choices"),
    ({"questions": [{**TEAM, "choices": [{"value": str(n)} for n in range(MAX_CHOICES + 1)]}]},
     "questions[0].choices"),
    ({"questions": [{**TEAM, "choices": [{"value": "a"}, {"value": "a"}]}]},
     "questions[0].choices[1].value"),
    ({"questions": [{**TEAM, "choices": [{"value": "a"}, {"value": " "}]}]},
     "questions[0].choices[1].value"),
    ({"questions": [{**TEAM, "choices": [{"value": 1}, {"value": "a"}]}]},
     "questions[0].choices[0].value"),
    ({"questions": [{**ANGER, "levels": [{"label": "a"}]}]}, "questions[0].levels"),
    ({"questions": [{**ANGER, "levels": [{"label": "a"}, {"label": "a"}]}]},
     "questions[0].levels[1].label"),
    ({"questions": [{**REFUND, "instructions": [{"type": "input_json", "data": DEEP}]}]},
     "questions[0].instructions[0].data"),
    ({"questions": [{**REFUND, "instructions": [{"type": "input_text", "text": "a", "file": 1}]}]},
     "questions[0].instructions[0].file"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_json", "data": 5}]}]},
     "input[0].content[0].data"),
    ({"temperature": 0.5}, "temperature"),
    ({"question": [REFUND]}, "question"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_is_refused_is_named(fields: Json, param: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        parse_decisions({"input": "a", "questions": [REFUND], **fields})
    assert refused.value.param == param
    assert param in refused.value.message


def test_a_result_needs_its_call() -> None:
    result = {"type": "function_call_output", "call_id": "x", "output": "a"}
    with pytest.raises(InvalidParameter, match="No function call found") as refused:
        parse_decisions({"input": [result], "questions": [REFUND]})
    assert refused.value.param == "input"


def test_images_need_a_model_that_sees(base_url: str) -> None:
    url = f"data:image/png;base64,{base64.b64encode(png(pixels(1))).decode()}"
    image = {"type": "input_image", "image_url": url, "detail": "low"}
    answer = decide(base_url, REFUND, input=[{"role": "user", "content": [image]}], status=400)
    assert answer["error"]["param"] == "input[0].content[0]"
    question = {**REFUND, "instructions": [{"type": "input_text", "text": "Is it red?"}, image]}
    answer = decide(base_url, question, status=400)
    assert answer["error"]["param"] == "questions[0].instructions"
    assert "vision" in answer["error"]["message"]


def test_too_long_for_the_context(base_url: str) -> None:
    answer = decide(base_url, REFUND, input="otter " * 3000, status=400)
    assert answer["error"]["code"] == "context_length_exceeded"
    assert answer["error"]["param"] == "input"
    long = {**REFUND, "instructions": "otter " * 3000}
    answer = decide(base_url, REFUND, long, status=400)
    assert answer["error"]["code"] == "context_length_exceeded"
    assert answer["error"]["param"] == "questions[1]"


def test_a_client_that_leaves_ends_its_questions(server: Server, base_url: str) -> None:
    engine = server.pool.engine(STARTER)
    eventually(lambda: engine.in_flight == 0, "nothing of earlier tests runs")
    questions = [{**TEAM, "instructions": f"{n}?", "name": None} for n in range(MAX_QUESTIONS)]
    body = {"model": STARTER, "input": LETTER, "questions": questions}
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT)
    connection.request("POST", DECISIONS, json.dumps(body).encode())
    eventually(lambda: engine.in_flight == 1, "the request is there")
    connection.close()
    eventually(lambda: engine.in_flight == 0, "the place in the queue is given back")
    decide(base_url, REFUND)


def test_models_that_cannot_cut(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    name = make("mamba", tmp_path).stem
    url = make_server().url
    answers = decide(url, REFUND, TEAM, ANGER, model=name)["answers"]
    assert [answer["type"] for answer in answers] == ["predicate", "choice", "score"]


def test_a_model_that_does_not_generate(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    name = make_bert(tmp_path, "MEAN").stem
    url = make_server().url
    answer = decide(url, REFUND, model=name, status=400)
    assert answer["error"]["code"] == "unsupported_model"


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("word", ["Yes", "No", "bug", "find", "team"])
def test_what_the_model_would_say_is_the_answer(
    word: str, tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    """Of a model that says one word, whatever it is asked, letter by letter."""
    letters = [letter.encode() for letter in word]
    write(tmp_path / "one.gguf", CHATML, ["<|im_start|>", "<|im_end|>"], letters, landmarks=False)
    words = ["team", "bug", "find", "bugs"]
    choice = {**TEAM, "choices": [{"value": value} for value in words]}
    score = {**ANGER, "levels": [{"label": label} for label in words]}
    found = decide(make_server().url, REFUND, choice, score, model="one")["answers"]
    if word in ("Yes", "No"):
        assert found[0]["probability"] == pytest.approx(float(word == "Yes"), abs=0.01)
        return
    assert found[1]["choice"] == word
    assert found[1]["confidence"] > 0.99
    assert found[2]["score"] == pytest.approx(words.index(word), abs=0.01)


# --- moderations ----------------------------------------------------------------------------------


def test_moderations(client: OpenAI) -> None:
    answer = client.moderations.create(input="I will hit you.")
    assert answer.id.startswith("modr-")
    assert answer.model == STARTER
    (result,) = answer.results
    categories = result.categories.model_dump(by_alias=True)
    scores = result.category_scores.model_dump(by_alias=True)
    assert categories.keys() == scores.keys() == CATEGORIES.keys()
    assert categories == {name: score >= 0.5 for name, score in scores.items()}
    assert result.flagged == any(categories.values())
    assert result.category_applied_input_types.violence == ["text"]
    type(answer).model_validate(answer.model_dump(by_alias=True), strict=True)


@pytest.mark.slow
def test_several_texts_are_judged_one_by_one(client: OpenAI) -> None:
    texts = ["Otters swim.", "I hate you!", "Otters swim."]
    first, second, third = client.moderations.create(model=STARTER, input=texts).results
    assert first == third
    assert first.category_scores != second.category_scores
    parts: Any = [{"type": "text", "text": "Otters swim."}]
    (alone,) = client.moderations.create(model=STARTER, input=parts).results
    assert alone.category_scores.hate == pytest.approx(first.category_scores.hate, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", OPENAI_MODELS)
def test_names_of_openai_stand_for_the_default_model(client: OpenAI, model: str) -> None:
    assert client.moderations.create(model=model, input="Otters swim.").model == STARTER


def test_other_models_do_not_exist(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(model="other-moderation", input="a")


MIXED: Any = ["a", {"type": "text", "text": "b"}]
UNKNOWN: Any = [{"type": "audio", "text": "b"}]
MORE: Any = [{"type": "text", "text": "b", "weight": 1}]


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ([], "input"),
        (5, "input"),
        ([5], "input[0]"),
        (MIXED, "input"),
        (UNKNOWN, "input[0].type"),
        (MORE, "input[0].weight"),
    ],
)
def test_moderations_refuse_by_name(base_url: str, value: Any, param: str) -> None:
    answer = request(base_url, "POST", MODERATIONS, {"input": value})
    assert answer.status == 400
    assert answer.json["error"]["param"] == param
