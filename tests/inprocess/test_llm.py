"""Requests to an LLM: the same answers as over HTTP, typed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from support import STARTER, chat_body, request, together
from tiny_models import make_bert
from tiny_vision import make_seeing, pixels, png

from offgrid import LLM
from offgrid.chat.answer_parser import CallArguments, CallStart, Content
from offgrid.errors import IncompleteAnswer, InvalidParameter
from offgrid.inprocess.messages import is_batch

GREEDY = {"temperature": 0, "max_tokens": 12}


@dataclass
class City:
    name: str
    people: int


class Town(msgspec.Struct):
    name: str
    rivers: list[str]


class Village(pydantic.BaseModel):
    name: str
    has_pub: bool


# --- chat -----------------------------------------------------------------------------------------


def test_an_answer_is_that_of_the_server(llm: LLM, base_url: str) -> None:
    fields = {"seed": 5, "max_tokens": 20, "logprobs": True, "top_logprobs": 2, "n": 2}
    told = request(base_url, "POST", "/v1/chat/completions", chat_body("Hello!", **fields)).json
    answer = llm.chat("Hello!", **fields)
    assert [choice.text for choice in answer.choices] == [
        choice["message"]["content"] for choice in told["choices"]
    ]
    assert (str(answer), answer.finish_reason, answer.seed) == (answer.text, "stop", 5)
    assert answer.usage.prompt_tokens == told["usage"]["prompt_tokens"]
    assert answer.usage.completion_tokens == told["usage"]["completion_tokens"]
    tokens = told["choices"][0]["logprobs"]["content"]
    assert [token.token for token in answer.logprobs] == [token["token"] for token in tokens]
    assert [token.logprob for token in answer.logprobs] == pytest.approx(
        [token["logprob"] for token in tokens], abs=1e-4
    )
    assert answer.message == {"role": "assistant", "content": answer.text}


def test_a_prediction_changes_only_its_counts(llm: LLM) -> None:
    plain = llm.chat("Tell me a story.", seed=3, max_tokens=20)
    prediction = {"type": "content", "content": f"{plain.text} And more."}
    answer = llm.chat("Tell me a story.", seed=3, max_tokens=20, prediction=prediction)
    assert answer.choices == plain.choices
    with pytest.raises(InvalidParameter) as caught:
        llm.chat("Hello!", prediction={"type": "text", "content": "x"})
    assert caught.value.param == "prediction.type"


def test_a_conversation_and_its_system_message(llm: LLM) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello!"}]
    first = llm.chat(messages, system="You are brief.", **GREEDY)
    messages += [first.message, {"role": "user", "content": "And what is 2 + 3?"}]
    whole = [{"role": "system", "content": "You are brief."}, *messages]
    answer = llm.chat(messages, system="You are brief.", **GREEDY)
    assert answer.choices == llm.chat(whole, **GREEDY).choices
    assert llm.count_tokens(messages, system="You are brief.") == llm.count_tokens(whole)
    assert llm.count_tokens(whole) > llm.count_tokens("Hello!")


def test_a_stream_gives_the_same_answer(llm: LLM) -> None:
    whole = llm.chat("Tell me a story.", seed=3, max_tokens=20, logprobs=True)
    stream = llm.stream("Tell me a story.", seed=3, max_tokens=20, logprobs=True)
    with pytest.raises(RuntimeError, match="to its end"):
        _ = stream.answer
    pieces = list(stream)
    assert len(pieces) > 3
    assert "".join(pieces) == whole.text
    # The cache may hold the prompt by then, so its use differs.
    assert stream.answer.choices == whole.choices
    assert (stream.answer.seed, stream.seed) == (3, 3)
    assert stream.answer.usage.completion_tokens == whole.usage.completion_tokens
    assert list(stream) == []


def test_a_loop_that_was_left_can_be_continued(llm: LLM) -> None:
    whole = llm.chat("Tell me a story.", **GREEDY)
    stream = llm.stream("Tell me a story.", **GREEDY)
    first = next(iter(stream))
    assert first + "".join(stream) == whole.text


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo"]}},
            "required": ["city"],
        },
    },
}


def test_tool_calls(llm: LLM) -> None:
    options: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "seed": 1}
    answer = llm.chat("The weather in Oslo?", **options)
    (call,) = answer.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather", {"city": "Oslo"},
    )  # fmt: skip
    assert (answer.finish_reason, answer.text) == ("tool_calls", "")
    events = list(llm.stream("The weather in Oslo?", **options).events())
    assert events[0] == CallStart(0, "get_weather")
    arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
    assert json.loads(arguments) == {"city": "Oslo"}
    assert not [event for event in events if isinstance(event, Content)]
    # The message can be sent back as it is.
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    asked = {"role": "user", "content": "The weather in Oslo?"}
    assert llm.chat([asked, answer.message, result], tools=[TOOL], **GREEDY).text


def test_images(tmp_path: Path) -> None:
    model, _ = make_seeing(tmp_path)
    image = png(pixels(1))
    (tmp_path / "picture.png").write_bytes(image)
    with LLM(model, threads=1) as llm:
        assert llm.has_vision
        seen = llm.chat("What is this?", images=[tmp_path / "picture.png"], **GREEDY)
        assert seen.text == llm.chat("What is this?", images=[image], **GREEDY).text
        assert seen.usage.prompt_tokens > llm.count_tokens("What is this?")
        with pytest.raises(InvalidParameter, match=r"no-such\.png cannot be read"):
            llm.chat("What is this?", images=["no-such.png"])
        with pytest.raises(InvalidParameter, match="several conversations"):
            llm.chat(["a", "b"], images=[image])  # type: ignore[call-overload]


def test_a_model_without_vision_refuses_images(llm: LLM) -> None:
    with pytest.raises(InvalidParameter, match="no vision support"):
        llm.chat("What is this?", images=[png(pixels(1))])
    with pytest.raises(InvalidParameter, match="role user"):
        llm.chat([{"role": "assistant", "content": "x"}], images=[png(pixels(1))])


# --- structured answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (City, City),
        (Town, Town),
        (Village, Village),
        (list[int], list),
        ({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}, dict),
    ],
)
def test_a_schema_gives_a_value(llm: LLM, schema: Any, kind: type) -> None:
    # The starter writes long lists and texts.
    answer = llm.chat("Make one up.", schema=schema, seed=1, max_tokens=400)
    stream = llm.stream("Make one up.", schema=schema, seed=1, max_tokens=400)
    assert "".join(stream) == answer.text
    if answer.finish_reason == "length":
        with pytest.raises(IncompleteAnswer, match="max_tokens"):
            _ = answer.parsed
    else:
        assert isinstance(answer.parsed, kind)
        assert stream.answer.parsed == answer.parsed


def test_an_answer_that_is_cut_off_has_no_value(llm: LLM) -> None:
    answer = llm.chat("Make one up.", schema=City, max_tokens=2)
    with pytest.raises(IncompleteAnswer, match="raise max_tokens"):
        _ = answer.parsed
    assert llm.chat("Hello!", max_tokens=2).parsed is None


def test_other_structures(llm: LLM) -> None:
    assert llm.chat("Yes or no?", choice=["yes", "no"]).text in ("yes", "no")
    assert llm.chat("A year?", regex="[12][0-9]{3}").text.isdigit()
    assert llm.chat("Sing.", grammar='root ::= ("la ")+ "la"', max_tokens=40).text.startswith("la")
    (answer,) = llm.complete(["The year "], schema={"type": "integer", "maximum": 9})
    assert isinstance(answer.parsed, int)
    with pytest.raises(InvalidParameter, match="No JSON schema"):
        llm.chat("Hello!", schema=type("Odd", (), {}))
    with pytest.raises(InvalidParameter, match="mutually exclusive"):
        llm.chat("Hello!", schema=City, regex="a")


# --- several at the same time ---------------------------------------------------------------------


def test_conversations_in_a_list(llm: LLM) -> None:
    texts = ["Hello!", "What is 2 + 3?", "Tell me a story.", "Count from 3 to 12."] * 4
    answers = llm.chat(texts, **GREEDY)
    assert [answer.text for answer in answers] == [
        llm.chat(t, **GREEDY).text for t in texts[:4]
    ] * 4
    conversations = [[{"role": "user", "content": text}] for text in texts[:2]]
    assert [answer.text for answer in llm.chat(conversations, **GREEDY)] == [
        answer.text for answer in answers[:2]
    ]
    assert is_batch(["a"])
    assert not is_batch("a")


@pytest.mark.parametrize("wrong", [5, None, {"role": "user", "content": "Hello!"}, b"Hello!"])
def test_what_is_no_conversation_is_refused(llm: LLM, wrong: Any) -> None:
    with pytest.raises(InvalidParameter, match="must be a text, a list of messages") as error:
        llm.chat(wrong)
    assert error.value.param == "messages"


def test_an_error_in_a_list_names_the_conversation_and_ends_the_others(llm: LLM) -> None:
    bad = [{"role": "nobody", "content": "x"}]
    good = [{"role": "user", "content": "Tell me a story."}]
    with pytest.raises(InvalidParameter, match=r"Conversation 1: .*role") as error:
        llm.chat([good, bad, good], ignore_eos=True)
    assert error.value.param == "messages[0].role"
    # Nothing is left running: all slots are free for the next call.
    assert llm.chat("Hello!", **GREEDY).text


def test_many_threads(llm: LLM) -> None:
    expected = llm.chat("Hello!", seed=9, max_tokens=8).text
    calls = [lambda: llm.chat("Hello!", seed=9, max_tokens=8).text] * 24
    assert set(together(calls)) == {expected}


@pytest.mark.slow
def test_threads_wait_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server would refuse them."""
    monkeypatch.setattr("offgrid.inprocess.loading._QUEUE", 0)
    with LLM(STARTER, threads=1, parallel=1) as llm:
        calls = [lambda: llm.chat("Hello!", **GREEDY).text] * 8
        assert len(set(together(calls))) == 1
        assert len(llm.complete(["Once upon", "A small"] * 3, **GREEDY)) == 6


# --- completions ----------------------------------------------------------------------------------


def test_completions(llm: LLM, base_url: str) -> None:
    body = {"model": STARTER, "prompt": "Once upon a time", "seed": 2, "max_tokens": 9, "n": 2}
    told = request(base_url, "POST", "/v1/completions", body).json
    answer = llm.complete("Once upon a time", seed=2, max_tokens=9, n=2, logprobs=1)
    assert [c.text for c in answer.choices] == [c["text"] for c in told["choices"]]
    assert answer.logprobs is not None
    assert len(answer.logprobs.tokens) == 9
    tokens = llm.tokenize("Once upon a time")
    assert llm.complete(tokens, **GREEDY).text == llm.complete("Once upon a time", **GREEDY).text
    stream = llm.stream_complete("Once upon a time", seed=2, max_tokens=9, logprobs=1)
    assert "".join(stream) == answer.text
    assert stream.answer.logprobs == answer.logprobs


def test_completions_in_a_list(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["Once upon a time", "A small otter", "The week has"]
    answers = llm.complete(prompts, **GREEDY)
    assert [str(answer) for answer in answers] == [str(llm.complete(p, **GREEDY)) for p in prompts]
    # A request has a limit, and a list has none.
    monkeypatch.setattr("offgrid.inprocess.llm.MAX_PROMPTS", 4)
    many = llm.complete(prompts * 3, n=2, **GREEDY)
    assert [answer.text for answer in many] == [answer.text for answer in answers] * 3
    assert all(len(answer.choices) == 2 for answer in many)
    assert llm.complete([]) == []
    with pytest.raises(InvalidParameter, match="may have at most") as error:
        llm.complete([*prompts, *prompts[:2], "word " * 9000], max_tokens=1)
    assert error.value.param == "prompt[5]"


# --- scores, vectors, tokens ----------------------------------------------------------------------


def test_scores(llm: LLM) -> None:
    text = "Once upon a time there was a small otter"
    score = llm.score(text)
    assert len(score.tokens) == len(llm.tokenize(text)) - 1
    assert score.logprob == pytest.approx(sum(token.logprob for token in score.tokens))
    assert score.perplexity > 1
    time, zebra = llm.score("Once upon a", [" time", " zebra"])
    assert (time.text, time.greedy, zebra.greedy) == (" time", True, False)
    assert time.logprob > zebra.logprob
    whole, begin = llm.score(["Once upon a zebra", "Once upon a"])
    assert zebra.logprob == pytest.approx(whole.logprob - begin.logprob, abs=1e-3)
    assert llm.complete("Once upon a", temperature=0, max_tokens=1).text == " time"
    # A token across the end of the context counts.
    (across,) = llm.score("Once upon a ti", ["me"])
    assert across.tokens[0].text == " time"


def test_vectors(llm: LLM) -> None:
    one = llm.embed("An otter")
    many = llm.embed(["An otter", "A river"])
    assert sum(x * x for x in one) == pytest.approx(1)
    assert many[0] == pytest.approx(one, abs=1e-5)
    assert len(llm.embed("An otter", dimensions=8)) == 8
    assert llm.embed(llm.tokenize("An otter")) == pytest.approx(one, abs=1e-5)
    assert llm.embed([]) == []


def test_ranks(tmp_path: Path) -> None:
    with LLM(make_bert(tmp_path, "RANK"), threads=1) as llm:
        ranked = llm.rerank("river", ["a river", "a stone", "the sea"], top_n=2)
        assert len(ranked) == 2
        assert ranked[0].relevance_score >= ranked[1].relevance_score
        with pytest.raises(InvalidParameter, match=r"does not generate text; use rerank\(\)"):
            llm.chat("Hello!")


def test_tokens(llm: LLM) -> None:
    text = "Once upon a time, Ōtā-san."
    tokens = llm.tokenize(text)
    assert llm.detokenize(tokens) == text
    assert all(0 <= token < llm.vocabulary_size for token in tokens)
    with pytest.raises(InvalidParameter, match="tokens"):
        llm.detokenize([-1])


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 3}, "temperature must be between 0 and 2, not 3"),
        ({"temprature": 1}, "Unknown field: temprature. Did you mean temperature?"),
        ({"model": "x"}, "model cannot be given here"),
        ({"keep_alive": 5}, r"keep_alive cannot be given here: the model stays loaded"),
        ({"stream": True}, r"stream cannot be given here: use stream\(\)"),
        ({"temperature": float("nan")}, "temperature cannot be written as JSON"),
        ({"stop": {1, 2}}, "stop cannot be written as JSON"),
        ({"stop": "\ud800"}, "unpaired surrogate"),
    ],
)
def test_wrong_options(llm: LLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        llm.chat("Hello!", **options)


def test_wrong_messages(llm: LLM) -> None:
    with pytest.raises(InvalidParameter, match="messages"):
        llm.chat([])
    with pytest.raises(InvalidParameter, match="one answer"):
        llm.stream("Hello!", n=2)
    with pytest.raises(InvalidParameter, match="echo"):
        llm.complete("Hello", schema=City, echo=True)
