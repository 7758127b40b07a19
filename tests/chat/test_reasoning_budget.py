"""Reasoning budgets through a real engine and a real server, with models of many families."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import scripted_model
from engine_runs import GREEDY, Run
from support import Json, Stream, request

from offgrid.chat.answer_parser import CallStart, Content, Reasoning
from offgrid.chat.dialect import Dialect
from offgrid.config import load_settings
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.engine.worker.llama.model import Model
from offgrid.sampling import SamplingParams
from offgrid.server import Server

from .templates import EXAMPLES, Example
from .test_scripted import ARGUMENTS, SCHEMA, TOOL, answer, grammar_of

BY_NAME = {example.family: example for example in EXAMPLES}
REASONING = [example for example in EXAMPLES if "{thought}" in example.answer]
FORMS = ("hermes", "qwen-xml", "gemma4", "harmony")
HOW = ("auto", "strict", "required")
USER = [{"role": "user", "content": "Rain?"}]
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def load(path: Path) -> Model:
    return Model(Load(str(path), ctx_size=1024, parallel=2, batch_size=512, threads=1))


def dialect_of(model: Model, example: Example) -> Dialect:
    info = model.info
    return Dialect(example.template, info.bos_text, info.eos_text, info.control_ids)


def pieces_of(run: Run, id: int, choice: int = 0) -> list[bytes]:
    """The pieces of an answer; its request asked for logprobs."""
    deltas = [e for e in run.events if isinstance(e, Delta) and (e.id, e.choice) == (id, choice)]
    return [token.piece for delta in deltas for token in delta.logprobs]


def cut(pieces: Sequence[bytes], budget: int, begin: str, end: str) -> int | None:
    """The definition: after how many pieces of an answer reasoning is ended; None if the model ends
    it before. ``begin`` is empty if the prompt has opened reasoning."""
    begun = 0 if not begin else None
    for n in range(len(pieces) + 1):
        text = b"".join(pieces[:n])
        if begun is None:
            begun = n if begin.encode() in text else None
        if begun is None:
            continue
        said = text.partition(begin.encode())[2] if begin else text
        if end.encode() in said:
            return None
        within = any(said.endswith(end.encode()[:size]) for size in range(1, len(end.encode())))
        if n - begun >= budget and not within and "\ufffd" not in said.decode(errors="replace"):
            return n
    return None


# The families of the first rows have one form of reasoning each; the others repeat them.
@pytest.mark.parametrize(
    ("family", "how"),
    [
        *((family, how) for family in FORMS for how in HOW),
        *(
            pytest.param(example.family, how, marks=pytest.mark.slow)
            for example in REASONING if example.family not in FORMS for how in HOW
        ),
    ],
)  # fmt: skip
def test_the_thought_is_cut_and_the_call_is_made(tmp_path: Path, family: str, how: str) -> None:
    example = BY_NAME[family]
    path = tmp_path / "scripted.gguf"
    text = answer(example, how != "required")
    scripted_model.write(path, example.template, example.control, text)
    model = load(path)
    dialect = dialect_of(model, example)
    prompt = dialect.prompt(USER, [TOOL])
    places = dialect.reasoning_places
    assert places is not None
    assert dialect.reasoning_markers is not None
    begin, end = dialect.reasoning_markers
    end = "<|end|>" if example.family == "harmony" else end
    grammar = grammar_of(dialect, prompt, how)
    run = Run(model)

    def ask(budget: int | None) -> int:
        limit = None
        if budget is not None:
            limit = places.budget(
                budget, "x", opened=prompt.thinking, offered=True, required=how == "required"
            )
        id = run.send(
            GenerationRequest(
                parts=prompt.parts, sampling=GREEDY, max_tokens=90, visible=dialect.visible,
                grammar=grammar, reasoning_budget=limit, top_logprobs=0,
            )
        )  # fmt: skip
        run.finish()
        last = run.last(id)
        assert isinstance(last, Delta), last
        return id

    try:
        free = ask(None)
        pieces = pieces_of(run, free)
        seen = set()
        for budget in (0, 1, 3, 40):
            id = ask(budget)
            place = cut(pieces, budget, "" if prompt.thinking else begin, end)
            if place is None:
                assert run.text(id) == run.text(free)
                continue
            seen.add(place)
            assert pieces_of(run, id)[:place] == pieces[:place]
            before = b"".join(pieces[:place]).decode()
            assert run.text(id).startswith(before + places.close)
            if how == "required":  # whatever such a model says after it, the grammar allows
                parser = dialect.parser({"get": SCHEMA}, thinking=prompt.thinking, constrained=True)
                events = [*parser.feed(run.text(id)), *parser.finish()]
                calls = [event for event in events if isinstance(event, CallStart)]
                assert calls == [CallStart(0, "get")]
        assert len(seen) > 1
    finally:
        model.close()


@pytest.mark.parametrize("family", ["deepseek-v3.1", "mistral-named", "command"])
def test_the_answer_follows_and_characters_stay_whole(tmp_path: Path, family: str) -> None:
    example = BY_NAME[family]
    before, _, after = example.answer.partition("{thought}")
    tags = re.findall(r"<[^>]*>|\[/?THINK\]", after.partition("{content}")[0])
    rain = "雨".encode()
    script = [
        *([before] if before else []), "The user ", "wants rain", ": ", rain[:1], rain[1:2],
        rain[2:], " so", " ponder", *tags, "Take your ", "umbrella",
    ]  # fmt: skip
    path = tmp_path / "scripted.gguf"
    scripted_model.write(path, example.template, example.control, script, landmarks=False)
    model = load(path)
    try:
        dialect = dialect_of(model, example)
        prompt = dialect.prompt(USER)
        run = Run(model)
        assert dialect.reasoning_places is not None
        thoughts = []
        for budget in range(10):
            limit = dialect.reasoning_places.budget(
                budget, "x", opened=prompt.thinking, offered=False, required=False
            )
            id = run.send(
                GenerationRequest(
                    parts=prompt.parts, sampling=GREEDY, max_tokens=90, visible=dialect.visible,
                    reasoning_budget=limit, n=2,
                )
            )  # fmt: skip
            run.finish()
            parser = dialect.parser({}, thinking=prompt.thinking)
            events = [*parser.feed(run.text(id)), *parser.finish()]
            thoughts.append("".join(e.text for e in events if isinstance(e, Reasoning)))
            content = "".join(e.text for e in events if isinstance(e, Content))
            assert content == "Take your umbrella"
            assert run.text(id, 1) == run.text(id)
        words = ["", "The user", "The user wants rain", "The user wants rain:"]
        whole = "The user wants rain: 雨"
        assert thoughts == [*words, whole, whole, whole, whole + " so", *[whole + " so ponder"] * 2]
    finally:
        model.close()


def test_a_ban_of_the_end_of_reasoning_is_refused(tmp_path: Path) -> None:
    example = BY_NAME["command"]
    path = tmp_path / "scripted.gguf"
    scripted_model.write(path, example.template, example.control, "<|START_THINKING|>Hm. Hm.")
    model = load(path)
    try:
        dialect = dialect_of(model, example)
        assert dialect.reasoning_places is not None
        run = Run(model)
        with pytest.raises(Exception, match="logit_bias bans a token that ends reasoning; x needs"):
            run.send(
                GenerationRequest(
                    parts=(PromptPart("Hello", False),), sampling=GREEDY,
                    text_bias={"<|END_THINKING|>": float("-inf")},
                    reasoning_budget=dialect.reasoning_places.budget(
                        1, "x", opened=False, offered=False, required=False
                    ),
                )
            )  # fmt: skip
    finally:
        model.close()


def test_logprobs_of_forced_tokens_are_those_of_the_model(tmp_path: Path) -> None:
    example = BY_NAME["command"]
    path = tmp_path / "scripted.gguf"
    scripted_model.write(path, example.template, example.control, answer(example))
    model = load(path)
    try:
        dialect = dialect_of(model, example)
        assert dialect.reasoning_places is not None
        prompt = dialect.prompt(USER)
        limit = dialect.reasoning_places.budget(1, "x", opened=False, offered=False, required=False)
        run = Run(model)
        id = run.send(
            GenerationRequest(
                parts=prompt.parts, sampling=SamplingParams(temperature=1.5, seed=3), max_tokens=5,
                visible=dialect.visible, reasoning_budget=limit, top_logprobs=2,
            )
        )  # fmt: skip
        run.finish()
        deltas = [e for e in run.events if isinstance(e, Delta) and e.id == id]
        tokens = [token for delta in deltas for token in delta.logprobs]
        (forced,) = [token for token in tokens if token.piece == b"<|END_THINKING|>"]
        # The model would have gone on with its thought.
        assert forced.logprob < forced.top[0][1]
        assert forced.piece not in [piece for piece, _ in forced.top]
    finally:
        model.close()


# --- through the server ---------------------------------------------------------------------------

SERVED = [e for e in EXAMPLES if e.family in ("hermes", "qwen-xml", "harmony", "mistral")]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with models of some families; that of mistral does not reason."""
    folder = tmp_path_factory.mktemp("scripted")
    for example in SERVED:
        path = folder / f"{example.family}.gguf"
        scripted_model.write(path, example.template, example.control, answer(example))
    (folder / "offgrid.toml").write_text('[models."qwen-xml"]\nreasoning_budget = 2\n')
    flags: dict[str, Any] = {
        "port": 0, "models_dir": folder, "responses_file": folder / "responses.sqlite3",
        "drain_timeout": 0, "threads": 1, "parallel": 1, "reasoning_budget": 3,
        "max_models": 4,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}, config_file=folder / "offgrid.toml"))
    server.start()
    yield server.url
    server.stop()


def body(family: str, **fields: Any) -> Json:
    return {"model": family, "messages": USER, "temperature": 0, "max_tokens": 120, **fields}


def message(url: str, family: str, **fields: Any) -> Json:
    response = request(url, "POST", CHAT, body(family, **fields))
    assert response.status == 200, response.body
    return dict(response.json)


@pytest.mark.parametrize("family", ["hermes", "qwen-xml", "harmony"])
def test_a_budget_in_chat_and_responses(url: str, family: str) -> None:
    whole = message(url, family, reasoning_budget_tokens=1000)
    (choice,) = whole["choices"]
    thought = choice["message"]["reasoning_content"]
    assert thought == "The user wants <rain>."
    tokens = whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    for budget in (0, 1, 2):
        answered = message(url, family, reasoning_budget_tokens=budget)
        cut_short = answered["choices"][0]["message"].get("reasoning_content", "")
        assert thought.startswith(cut_short)
        assert len(cut_short) < len(thought)
        details = answered["usage"]["completion_tokens_details"]
        assert details["reasoning_tokens"] != tokens
        streamed = ""
        with Stream(url, CHAT, body(family, reasoning_budget=budget, stream=True)) as stream:
            for event in stream.events():
                for part in json.loads(event)["choices"] if event != "[DONE]" else ():
                    streamed += part["delta"].get("reasoning_content") or ""
        assert streamed == cut_short
        made = request(url, "POST", RESPONSES, {
            "model": family, "input": "Rain?", "temperature": 0, "max_output_tokens": 120,
            "reasoning": {"max_tokens": budget},
        }).json  # fmt: skip
        texts = [
            part["text"]
            for item in made["output"] if item["type"] == "reasoning" for part in item["content"]
        ]  # fmt: skip
        assert "".join(texts) == cut_short


def test_settings_give_a_budget_to_requests_without_one(url: str) -> None:
    for family, budget in (("hermes", 3), ("qwen-xml", 2)):
        given = message(url, family, thinking_token_budget=budget)
        assert message(url, family)["choices"] == given["choices"]
        assert message(url, family, thinking_budget=-1)["choices"] == given["choices"]
        assert message(url, family, thinking_budget=99)["choices"] != given["choices"]


def test_a_schema_applies_after_the_cut(url: str) -> None:
    for family in ("hermes", "qwen-xml", "harmony"):
        for budget in (0, 2):
            fields = {"json_schema": {"const": "rain"}, "reasoning_budget_tokens": budget}
            answered = message(url, family, **fields)
            said = answered["choices"][0]["message"]
            assert said["content"] == '"rain"'
            assert len(said.get("reasoning_content", "")) < 22


def test_a_required_call_follows_the_cut(url: str) -> None:
    for family in ("hermes", "qwen-xml", "harmony"):
        answered = message(
            url, family, tools=[TOOL], tool_choice="required", thinking_budget_tokens=2
        )
        (call,) = answered["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == ARGUMENTS


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"reasoning_budget_tokens": 5}, "reasoning_budget_tokens"),
        ({"thinking_budget_tokens": 0}, "thinking_budget_tokens"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"options": {"thinking_budget": 5}}, "options.thinking_budget"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": 5}}, "reasoning.max_tokens"),
    ],
    ids=str,
)
def test_models_that_do_not_reason_refuse_it_by_name(url: str, fields: Json, name: str) -> None:
    error = request(url, "POST", CHAT, body("mistral", **fields)).json["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert error["message"].startswith(f"{name} is not supported by this model")
    asked = {"model": "mistral", "input": "Rain?", **fields}
    answered = request(url, "POST", RESPONSES, asked)
    assert (answered.status, answered.json["error"]["param"]) == (400, name)


def test_models_that_do_not_reason_need_no_budget(url: str) -> None:
    message(url, "mistral", max_tokens=2, reasoning_budget_tokens=-1)
    message(url, "mistral", max_tokens=2)  # the setting is for models that reason
