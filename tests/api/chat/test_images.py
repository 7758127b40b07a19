"""Images through the whole server: the openai client, with and without a vision model."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import ResponseInputContent
from pydantic import TypeAdapter
from support import STARTER, chat_body, request, together
from tiny_vision import POSITIONS, bmp, gif, jpeg, make_seeing, pixels, png

from offgrid.config import load_settings
from offgrid.server import Server

CHAT = "/v1/chat/completions"
RED, BLUE = png(pixels(1)), png(pixels(2))
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}


def image(data: bytes, kind: str = "png", **fields: Any) -> Any:
    """A content part with an image."""
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def user(*content: Any) -> list[Any]:
    parts = [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="module")
def seeing_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("seeing")
    make_seeing(folder)
    settings = load_settings(
        {"port": 0, "models_dir": folder, "drain_timeout": 0, "ctx_size": 512, "threads": 1},
        environ={},
    )
    server = Server(settings)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def seeing(seeing_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{seeing_url}/v1", api_key="not-needed", max_retries=0) as client:
        yield client


def ask(client: OpenAI, messages: list[Any], **fields: Any) -> Any:
    return client.chat.completions.create(model="seeing", messages=messages, **GREEDY | fields)


def test_only_the_model_is_listed(seeing: OpenAI) -> None:
    assert [model.id for model in seeing.models.list()] == ["seeing"]


def test_answers_about_images(seeing: OpenAI) -> None:
    red, again, blue = (
        ask(seeing, user("What is ", image(data, detail="high"), "?")) for data in (RED, RED, BLUE)
    )
    text = red.choices[0].message.content
    assert text
    assert again.choices[0].message.content == text
    assert blue.choices[0].message.content != text
    none = ask(seeing, user("What is ?"))
    assert red.usage.prompt_tokens == none.usage.prompt_tokens + POSITIONS
    assert again.usage.prompt_tokens_details.cached_tokens > POSITIONS


def test_stream(seeing: OpenAI) -> None:
    messages = user(image(RED), image(BLUE), "Which?")
    whole = ask(seeing, messages).choices[0].message.content
    chunks = ask(seeing, messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


@pytest.mark.parametrize(
    ("kind", "data"),
    [("bmp", bmp(pixels(1))), ("gif", gif(40, 30)), ("jpeg", jpeg(40, 30))],
)
def test_formats(seeing: OpenAI, kind: str, data: bytes) -> None:
    assert ask(seeing, user("What is ", image(data, kind), "?")).choices[0].message.content


def test_a_bitmap_and_a_png_of_the_same_pixels(seeing: OpenAI) -> None:
    first, second = (
        ask(seeing, user("What is ", image(data), "?")).choices[0].message.content
        for data in (RED, bmp(pixels(1)))
    )
    assert first == second


def test_many_requests_with_images_at_once(seeing: OpenAI) -> None:
    def answer(seed: int) -> str:
        messages = user(f"Number {seed}: ", image(png(pixels(seed))), " What?")
        return str(ask(seeing, messages, n=2).choices[1].message.content)

    def run(seed: int) -> Any:
        return lambda: answer(seed)

    seeds = range(20, 28)
    assert together([run(seed) for seed in seeds]) == [answer(seed) for seed in seeds]


def test_counting_the_tokens_of_images(seeing: OpenAI, seeing_url: str) -> None:
    messages = user("What is ", image(RED), "?")
    counted = request(seeing_url, "POST", f"{CHAT}/input_tokens", {"messages": messages})
    expected = ask(seeing, messages).usage.prompt_tokens
    assert counted.json["input_tokens"] == expected
    refused = request(seeing_url, "POST", "/tokenize", {"messages": messages})
    assert refused.status == 400
    assert refused.json["error"]["param"] == "messages[0].content[1].image_url.url"


def test_images_in_responses(seeing: OpenAI) -> None:
    url = image(RED)["image_url"]["url"]
    content: list[Any] = [
        {"type": "input_text", "text": "What is "},
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_text", "text": "?"},
    ]
    asked: list[Any] = [{"role": "user", "content": content}]
    fields: dict[str, Any] = {"model": "seeing", "temperature": 0}
    counted = seeing.responses.input_tokens.count(model="seeing", input=asked)
    expected = ask(seeing, user("What is ", image(RED), "?"))
    assert counted.input_tokens == expected.usage.prompt_tokens
    first = seeing.responses.create(
        **fields, input=asked, max_output_tokens=12, extra_body={"ignore_eos": True}
    )
    assert first.output_text == expected.choices[0].message.content
    (item,) = seeing.responses.input_items.list(first.id).data
    assert item.content == TypeAdapter(list[ResponseInputContent]).validate_python(  # type: ignore
        [content[0], {**content[1], "file_id": None}, content[2]]
    )
    more: list[Any] = [{"role": "user", "content": "And now?"}]
    second = seeing.responses.create(
        **fields, input=more, previous_response_id=first.id, max_output_tokens=1
    )
    told = [*asked, {"role": "assistant", "content": first.output_text}, *more]
    spelled_out = seeing.responses.input_tokens.count(model="seeing", input=told)
    assert second.usage is not None
    assert second.usage.input_tokens == spelled_out.input_tokens


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]},
            "input[0].content[0]",
        ),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "https://a.b/c"}]},
            "input[0].content[0].image_url",
        ),
        (
            {"role": "assistant", "content": [{"type": "input_image", "image_url": "data:,"}]},
            "input[0].content[0]",
        ),
    ],
)
def test_images_refused_in_responses(seeing: OpenAI, item: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        seeing.responses.create(model="seeing", input=[item])
    assert refused.value.param == param


def test_the_field_of_a_bad_image_after_other_messages(seeing: OpenAI) -> None:
    """The error names the position in the request, although the prompt has other messages first."""
    first = seeing.responses.create(model="seeing", input="Hello", max_output_tokens=1)
    bad = {"type": "input_image", "image_url": "data:image/png;base64,####"}
    asked: list[Any] = [
        {"role": "user", "content": "Look."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is"}, bad]},
    ]
    with pytest.raises(BadRequestError, match="base64") as refused:
        seeing.responses.create(
            model="seeing", instructions="Be brief.", previous_response_id=first.id, input=asked
        )
    assert refused.value.param == "input[1].content[1].image_url"


def shown_by_a_tool(*content: Any) -> list[Any]:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": user(*content)[0]["content"]},
    ]


def test_an_image_in_the_result_of_a_tool(seeing: OpenAI) -> None:
    red, again, blue = (
        ask(seeing, [*shown_by_a_tool("Look:", image(data)), *user("So?")])
        for data in (RED, RED, BLUE)
    )
    assert again.choices[0].message.content == red.choices[0].message.content
    assert blue.choices[0].message.content != red.choices[0].message.content
    none = ask(seeing, [*shown_by_a_tool("Look:"), *user("So?")])
    assert red.usage.prompt_tokens == none.usage.prompt_tokens + POSITIONS
    assert ask(seeing, shown_by_a_tool(image(RED))).choices[0].message.content


def test_an_image_of_a_tool_for_a_model_without_vision(base_url: str) -> None:
    body = {**chat_body("Hi"), "messages": shown_by_a_tool("Look:", image(RED))}
    refused = request(base_url, "POST", CHAT, body)
    error = refused.json["error"]
    assert (refused.status, error["code"]) == (400, "unsupported_parameter")
    assert (error["param"], "no vision" in error["message"]) == ("messages[2].content[1]", True)


URL = "messages[0].content[1].image_url.url"


@pytest.mark.parametrize(
    ("part", "param", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, URL, "fetches"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,####"}}, URL, "base64"),
        (image(RED[:-20]), URL, "is truncated"),
        (image(png(pixels(1), (30000, 30000))), URL, "30000 x 30000"),
        (image(b"RIFF\x10\0\0\0WEBPVP8 ", "webp"), URL, "WebP"),
        (image(b"%PDF-1.7"), URL, "unsupported format"),
        (image(jpeg(9, 9)[:120], "jpeg"), URL, "is truncated"),
        (image(RED, detail="huge"), "messages[0].content[1].image_url.detail", "huge"),
        ({"type": "image_url"}, "messages[0].content[1].image_url", "Missing"),
        ({"type": "image_url", "image_url": "data:"}, "messages[0].content[1].image_url", "object"),
    ],
)
def test_bad_images(seeing: OpenAI, part: Any, param: str, words: str) -> None:
    with pytest.raises(BadRequestError, match=words) as caught:
        ask(seeing, user("What is ", part, "?"))
    assert caught.value.param == param


def test_only_users_and_tools_may_send_images(seeing: OpenAI) -> None:
    messages = [{**user(image(RED))[0], "role": "system"}, *user("What?")]
    with pytest.raises(BadRequestError, match="user and tool messages") as caught:
        ask(seeing, messages)
    assert caught.value.param == "messages[0].content[0]"


def test_logprobs_of_prompts_with_images(seeing: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(seeing, user(image(RED), "?"), extra_body={"prompt_logprobs": 1})
    assert caught.value.param == "prompt_logprobs"


def test_images_longer_than_the_context(seeing: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(seeing, user("otter river " * 100, image(RED), "?"))
    assert caught.value.code == "context_length_exceeded"


def test_a_model_without_vision(base_url: str) -> None:
    body = chat_body() | {"messages": user("What is ", image(RED), "?")}
    response = request(base_url, "POST", CHAT, body)
    assert response.status == 400
    error = response.json["error"]
    assert error["param"] == "messages[0].content[1]"
    assert "no vision support" in error["message"]


@pytest.mark.slow
def test_a_projector_added_next_to_a_model_is_found(tmp_path: Path, make_server: Any) -> None:
    model, projector = make_seeing(tmp_path)
    aside = projector.rename(tmp_path / "projector.part")
    server = make_server(ctx_size=256, threads=1)
    body = {"model": model.stem, "messages": user("What is ", image(RED), "?"), "max_tokens": 2}
    assert request(server.url, "POST", CHAT, body).status == 400
    aside.rename(projector)
    assert request(server.url, "POST", CHAT, body).status == 200


def test_a_projector_that_does_not_load(tmp_path: Path, make_server: Any) -> None:
    model, projector = make_seeing(tmp_path)
    projector.write_bytes(b"GGUF" + bytes(100))
    server = make_server(ctx_size=256, threads=1)
    body = {"model": model.stem, "messages": user("What is ", image(RED), "?"), "max_tokens": 2}
    refused = request(server.url, "POST", CHAT, body)
    assert refused.status == 400
    assert "cannot be loaded" in refused.json["error"]["message"]
    assert request(server.url, "POST", CHAT, body | {"messages": user("Hi")}).status == 200


def test_the_starter_still_has_its_name(base_url: str) -> None:
    models = request(base_url, "GET", "/v1/models").json["data"]
    assert [model["id"] for model in models] == [STARTER]
