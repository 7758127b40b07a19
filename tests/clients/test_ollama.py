"""The ollama client for Python: every call, sync and async."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
import scripted_model
from changed_models import FILL_IN, with_metadata
from support import STARTER, eventually
from tiny_models import make_bert
from tiny_vision import make_seeing, pixels, png

from offgrid.config import load_settings
from offgrid.server import Server

HELLO: Any = [{"role": "user", "content": "Hello!"}]
GREEDY: Any = {"temperature": 0}
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or []"
    " %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n"
    "</think>\n\n{% endif %}{% endif %}"
)
SAID = (
    '<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}'
    "\n</tool_call>"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, starter_path: Path) -> Iterator[Server]:
    """A starter that fills in, models that see and embed, and one that thinks and calls."""
    folder = tmp_path_factory.mktemp("models")
    with_metadata(starter_path, folder / starter_path.name, FILL_IN)
    make_seeing(folder)
    make_bert(folder, "MEAN")
    control = ("<|im_start|>", "<|im_end|>")
    scripted_model.write(folder / "thinker.gguf", THINKS, control, SAID)
    flags: Any = {
        "port": 0, "models_dir": folder, "responses_file": folder / "responses.sqlite3",
        "drain_timeout": 0, "threads": 1, "max_models": 4, "default_model": STARTER,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def test_chat_whole_and_streamed(client: ollama.Client) -> None:
    whole = client.chat(STARTER, HELLO, options=GREEDY)
    *parts, last = client.chat(STARTER, HELLO, options=GREEDY, stream=True)
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert whole.message.content
    assert (whole.done, whole.done_reason, whole.model) == (True, "stop", STARTER)
    assert last.done
    assert not any(part.done for part in parts)
    assert last.eval_count == whole.eval_count
    assert whole.total_duration and whole.eval_duration and whole.prompt_eval_count  # noqa: PT018


def test_options_as_an_object(client: ollama.Client) -> None:
    options = ollama.Options(temperature=0, num_predict=2, num_ctx=512, stop=["###"], seed=3)
    answer = client.chat(STARTER, HELLO, options=options, keep_alive="5m")
    assert (answer.done_reason, answer.eval_count) == ("length", 2)


def test_logprobs(client: ollama.Client) -> None:
    answer = client.chat(STARTER, HELLO, options=GREEDY, logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs) == answer.message.content
    assert all(len(token.top_logprobs or ()) == 2 for token in answer.logprobs)
    text = client.generate(STARTER, "Hello!", options=GREEDY, logprobs=True)
    assert text.logprobs


def get_weather(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: The city.
    """
    return f"It rains in {city}."


def test_a_function_is_called_and_its_result_goes_back(client: ollama.Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = client.chat("thinker", messages, tools=[get_weather], think=True)
    assert answer.message.thinking == "Hm."
    (call,) = answer.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Oslo"})
    result = get_weather(**call.function.arguments)
    messages += [answer.message, {"role": "tool", "content": result, "tool_name": "get_weather"}]
    again = client.chat("thinker", messages, tools=[get_weather])
    assert (again.prompt_eval_count or 0) > (answer.prompt_eval_count or 0)
    streamed = [
        call
        for part in client.chat("thinker", messages[:1], tools=[get_weather], stream=True)
        for call in part.message.tool_calls or ()
    ]
    assert [call.function.arguments for call in streamed] == [{"city": "Oslo"}]


def test_a_model_without_reasoning(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as refused:
        client.chat(STARTER, HELLO, think="high")
    assert refused.value.status_code == 400
    assert client.chat(STARTER, HELLO, think=False, options=GREEDY).message.thinking is None


def test_a_schema_of_pydantic(client: ollama.Client) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    answer = client.chat(STARTER, HELLO, format=Person.model_json_schema(), options=GREEDY)
    assert Person.model_validate_json(answer.message.content or "")
    assert client.generate(STARTER, "Hello!", format="json", options=GREEDY).response[0] == "{"


def test_images(client: ollama.Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(pixels(1)))
    options = {"num_predict": 3}
    for image in (png(pixels(1)), tmp_path / "a.png", str(tmp_path / "a.png")):
        messages: Any = [{"role": "user", "content": "Look!", "images": [image]}]
        assert client.chat("seeing", messages, options=options).eval_count == 3
    answer = client.generate("seeing", "Look!", images=[png(pixels(1))], options=options)
    assert answer.eval_count == 3


def test_generate(client: ollama.Client) -> None:
    whole = client.generate(STARTER, "Hello!", system="Be kind.", options=GREEDY)
    parts = list(client.generate(STARTER, "Hello!", system="Be kind.", options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    again = client.generate(STARTER, "And now?", context=whole.context, options=GREEDY)
    assert again.context is not None
    raw = client.generate(STARTER, "Once upon", raw=True, options={"num_predict": 3})
    assert (raw.eval_count, raw.context) == (3, None)
    filled = client.generate(STARTER, "def f(", suffix="return", options={"num_predict": 3})
    assert filled.eval_count == 3
    with pytest.raises(ollama.ResponseError, match="template is not supported"):
        client.generate(STARTER, "Hello!", template="{{ .Prompt }}")


def test_loading_and_unloading(client: ollama.Client) -> None:
    assert client.generate(STARTER).done_reason == "load"
    (model,) = [m for m in client.ps().models if m.model == f"{STARTER}:latest"]
    assert isinstance(model.expires_at, datetime.datetime)
    assert model.context_length == 2048
    assert client.chat(STARTER, [], keep_alive=0).done_reason == "unload"
    eventually(
        lambda: f"{STARTER}:latest" not in [m.model for m in client.ps().models], "it is unloaded"
    )


def test_embeddings(client: ollama.Client) -> None:
    many = client.embed("bert-mean", ["otter", "fox"], truncate=True, keep_alive="5m")
    one = client.embed("bert-mean", "otter", dimensions=8)
    assert len(many.embeddings) == 2
    assert len(one.embeddings[0]) == 8
    older = client.embeddings("bert-mean", "otter")
    assert list(older.embedding) == list(many.embeddings[0])


def test_the_lists(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert listed.keys() == {f"{n}:latest" for n in (STARTER, "seeing", "bert-mean", "thinker")}
    starter = listed[f"{STARTER}:latest"]
    assert starter.size and starter.modified_at and starter.digest  # noqa: PT018
    assert starter.details is not None
    assert starter.details.family == "llama"
    shown = client.show(STARTER)
    assert set(shown.capabilities or ()) == {"completion", "tools", "insert"}
    assert set(client.show("thinker").capabilities or ()) == {"completion", "tools", "thinking"}
    assert (shown.modelinfo or {})["llama.context_length"] == 2048
    assert isinstance(shown.modified_at, datetime.datetime)


def test_pulling(client: ollama.Client) -> None:
    assert client.pull(STARTER).status == "success"
    assert [part.status for part in client.pull(STARTER, stream=True)] == ["success"]
    with pytest.raises(ollama.ResponseError, match="fetches nothing from a network") as refused:
        client.pull("qwen3:4b")
    assert refused.value.status_code == 501


def test_what_is_not_offered(client: ollama.Client, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    calls: list[Callable[[], Any]] = [
        lambda: client.create("mine", from_=STARTER),
        lambda: list(client.create("mine", from_=STARTER, stream=True)),
        lambda: client.copy(STARTER, "mine"),
        lambda: client.push(STARTER),
        lambda: client.delete(STARTER),
        lambda: client.create_blob(tmp_path / "a.gguf"),
    ]
    for call in calls:
        with pytest.raises(ollama.ResponseError, match="does not offer /api/") as refused:
            call()
        assert refused.value.status_code == 501


def test_errors(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="Model not found: other") as absent:
        client.chat("other", HELLO)
    assert absent.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="Model not found: other"):
        list(client.generate("other", "x", stream=True))
    with pytest.raises(ollama.ResponseError, match=r"options\.temperature must be") as wrong:
        client.chat(STARTER, HELLO, options={"temperature": -1})
    assert wrong.value.status_code == 400


def test_the_async_client(server: Server) -> None:
    async def ask() -> None:
        client = ollama.AsyncClient(host=server.url)
        whole = await client.chat(STARTER, HELLO, options=GREEDY)
        text = ""
        async for part in await client.chat(STARTER, HELLO, options=GREEDY, stream=True):
            text += part.message.content or ""
        assert text == whole.message.content
        answers = await asyncio.gather(
            *(client.generate(STARTER, "Hello!", options=GREEDY) for _ in range(4))
        )
        assert {answer.response for answer in answers} == {whole.message.content}
        assert (await client.embed("bert-mean", "otter")).embeddings
        assert (await client.list()).models
        await client.close()

    asyncio.run(ask())
