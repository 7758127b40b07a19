"""``/api/generate``: prompts, raw texts, suffixes, conversations in ``context``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from changed_models import FILL_IN, with_metadata
from hypothesis import given
from hypothesis import strategies as st
from ollama_calls import both, refused
from support import STARTER, Json, chat_body, request

from offgrid.api.ollama.context import from_context, to_context
from offgrid.errors import InvalidParameter
from offgrid.server import Server

GENERATE = "/api/generate"
GREEDY: Json = {"options": {"temperature": 0}}


def prompt(text: str = "Hello!", **fields: object) -> Json:
    return {"model": "", "prompt": text, **GREEDY, **fields}


def response(line: Json) -> str:
    return str(line["response"])


def test_a_prompt_is_a_user_message(base_url: str) -> None:
    whole, lines = both(base_url, GENERATE, prompt(), response)
    body = chat_body(**GREEDY, stream=False)
    chat = request(base_url, "POST", "/api/chat", body).json
    assert response(whole) == chat["message"]["content"]
    assert whole["prompt_eval_count"] == chat["prompt_eval_count"]
    assert whole["context"] == lines[-1]["context"]
    assert whole.keys() - chat.keys() == {"response", "context"}


def test_the_system_message(base_url: str) -> None:
    plain, _ = both(base_url, GENERATE, prompt(), response)
    brief, _ = both(base_url, GENERATE, prompt(system="Be brief."), response)
    assert brief["prompt_eval_count"] > plain["prompt_eval_count"]


def test_a_raw_prompt_is_continued(base_url: str) -> None:
    options = {"temperature": 0, "num_predict": 5}
    whole, _ = both(base_url, GENERATE, prompt("Once upon", raw=True, options=options), response)
    body = {"model": STARTER, "prompt": "Once upon", "temperature": 0, "max_tokens": 5}
    text = request(base_url, "POST", "/v1/completions", body).json
    assert response(whole) == text["choices"][0]["text"]
    assert "context" not in whole
    assert (whole["done_reason"], whole["eval_count"]) == ("length", 5)
    scored = prompt("Once upon", raw=True, options=options, logprobs=True, top_logprobs=1)
    whole, lines = both(base_url, GENERATE, scored, response)
    assert "".join(token["token"] for token in whole["logprobs"]) == response(whole)
    assert [t for line in lines for t in line.get("logprobs", ())] == whole["logprobs"]


@pytest.mark.slow
def test_a_base_model_continues_a_text(
    make_server: Callable[..., Server], starter_path: Path, tmp_path: Path
) -> None:
    with_metadata(starter_path, tmp_path / "base.gguf", {"tokenizer.chat_template": " "})
    url = make_server().url
    options = {"temperature": 0, "num_predict": 5}
    plain = request(url, "POST", GENERATE, prompt("Once upon", options=options, stream=False)).json
    raw = prompt("Once upon", options=options, stream=False, raw=True)
    assert response(plain) == response(request(url, "POST", GENERATE, raw).json)
    asked = request(url, "POST", GENERATE, prompt("Once upon", system="Be brief.", stream=False))
    assert "base model" in asked.headers["x-offgrid-warning"]


@pytest.mark.slow
def test_filling_in(
    make_server: Callable[..., Server], starter_path: Path, tmp_path: Path, base_url: str
) -> None:
    with_metadata(starter_path, tmp_path / starter_path.name, FILL_IN)
    url = make_server().url
    options = {"temperature": 0, "num_predict": 4}
    body = prompt("def f(", suffix="return 1", options=options)
    whole, _ = both(url, GENERATE, body, response)
    assert whole["eval_count"] == 4
    shown = request(url, "POST", "/api/show", {"model": STARTER}).json
    assert "insert" in shown["capabilities"]
    # The beginning of a file has nothing before it.
    assert request(url, "POST", GENERATE, {**body, "prompt": ""}).status == 200
    assert "does not support suffix" in refused(base_url, GENERATE, body)


@pytest.mark.parametrize("kind", [{"raw": True}, {"suffix": "x"}])
@pytest.mark.parametrize("name", ["system", "context", "images"])
def test_a_raw_prompt_excludes_parts_of_a_conversation(
    base_url: str, kind: Json, name: str
) -> None:
    value = {"system": "x", "context": [1], "images": ["x"]}[name]
    message = refused(base_url, GENERATE, prompt(**kind, **{name: value}))
    assert (
        message
        == f"{name} cannot be combined with {next(iter(kind))}: the prompt is used as it is."
    )


def test_fields_that_have_no_effect_are_named(base_url: str) -> None:
    body = {"model": STARTER, "prompt": "Once", "raw": True, "truncate": True, "think": False,
            "options": {"num_predict": 1}, "stream": False}  # fmt: skip
    answer = request(base_url, "POST", GENERATE, body)
    assert set(answer.headers["x-offgrid-ignored"].split(", ")) == {"truncate", "think"}
    body = {"model": STARTER, "system": "Be kind.", "options": {"num_ctx": 512}}
    loaded = request(base_url, "POST", GENERATE, body)
    assert loaded.json["done_reason"] == "load"
    assert loaded.headers["x-offgrid-ignored"] == "options, system"


def test_a_conversation_goes_on(base_url: str) -> None:
    first = request(base_url, "POST", GENERATE, prompt(system="Be kind.", stream=False)).json
    again = prompt("And now?", context=first["context"], stream=False)
    second = request(base_url, "POST", GENERATE, again).json
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": first["response"]},
        {"role": "user", "content": "And now?"},
    ]
    body = {"model": STARTER, "messages": messages, **GREEDY, "stream": False}
    chat = request(base_url, "POST", "/api/chat", body).json
    assert second["response"] == chat["message"]["content"]
    assert second["prompt_eval_count"] == chat["prompt_eval_count"]
    # A new system message takes the place of the old one.
    other = {**again, "system": "Be brief."}
    body["messages"] = [{"role": "system", "content": "Be brief."}, *messages[1:]]
    counts = [
        request(base_url, "POST", path, asked).json["prompt_eval_count"]
        for path, asked in ((GENERATE, other), ("/api/chat", body))
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("numbers", [[1, 2, 3], [-1], [0x4F464647], [0x4F464647, 1 << 40]])
def test_the_context_of_another_server(base_url: str, numbers: list[int]) -> None:
    message = refused(base_url, GENERATE, prompt(context=numbers))
    assert message.startswith("context must be the one of an earlier answer of this server.")


ROLES = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(st.tuples(ROLES, st.text()), min_size=1, max_size=5))
def test_a_context_holds_the_conversation(turns: list[tuple[str, str]]) -> None:
    assert from_context(to_context(turns)) == turns  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 1 << 17), min_size=1, max_size=50))
def test_any_numbers_are_refused_or_read(numbers: list[int]) -> None:
    for given_numbers in (numbers, [0x4F464647, *numbers]):
        with pytest.raises(InvalidParameter):
            from_context(given_numbers)


def test_a_context_that_grows_when_it_is_unpacked_is_refused() -> None:
    numbers = to_context([("user", "a" * (9 << 20))])
    assert len(numbers) < 10_000
    with pytest.raises(InvalidParameter):
        from_context(numbers)
