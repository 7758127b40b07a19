"""Server-sent events: their bytes, and that a stream equals an unstreamed answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI
from support import STARTER, Stream, chat_body, request, text_of

from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def stream(base_url: str, path: str, body: dict[str, Any]) -> list[str]:
    with Stream(base_url, path, {**body, "stream": True}) as opened:
        assert opened.response.status == 200
        return list(opened.events())


def test_bytes_of_a_chat_stream(base_url: str) -> None:
    body = chat_body(temperature=0, stream_options={"include_usage": True})
    response = request(base_url, "POST", CHAT, {**body, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    frames = response.body.split(b"\n\n")
    assert frames.pop() == b""
    assert frames.pop() == b"data: [DONE]"
    assert all(frame.startswith(b"data: {") and b"\n" not in frame for frame in frames)
    chunks = [json.loads(frame[6:]) for frame in frames]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    *content, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] >= len(content) - 2
    assert all(chunk["usage"] is None for chunk in content)
    first, *middle, last = [chunk["choices"][0] for chunk in content]
    assert first["delta"]["role"] == "assistant"
    assert first["delta"]["content"] == ""
    assert first["finish_reason"] is None
    for choice in middle:
        assert choice["delta"].keys() == {"content"}
        assert choice["delta"]["content"]
        assert choice["finish_reason"] is None
    assert last["delta"] == {}
    assert last["finish_reason"] == "stop"


def test_no_usage_unless_asked(base_url: str) -> None:
    for chunk in stream(base_url, CHAT, chat_body(temperature=0))[:-1]:
        assert "usage" not in json.loads(chunk)


def test_bytes_of_a_text_stream(base_url: str) -> None:
    body = {
        "model": STARTER, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    *events, usage, done = stream(base_url, TEXT, body)
    assert done == "[DONE]"
    assert json.loads(usage)["usage"]["completion_tokens"] == 8
    chunks = [json.loads(event) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + [
        "length"
    ]


@pytest.mark.parametrize("question", ["Hello!", "Tell me a short story.", "What is 47 + 38?"])
def test_greedy_is_the_same_each_time_and_streamed(base_url: str, question: str) -> None:
    body = chat_body(question, temperature=0)
    whole = request(base_url, "POST", CHAT, body).json["choices"][0]["message"]["content"]
    again = request(base_url, "POST", CHAT, body).json["choices"][0]["message"]["content"]
    assert whole
    assert whole == again == text_of(stream(base_url, CHAT, body))


def test_seed_repeats_and_another_seed_differs(base_url: str) -> None:
    def story(seed: int) -> str:
        body = chat_body("Tell me a short story.", seed=seed, temperature=1.2, max_tokens=60)
        return request(base_url, "POST", CHAT, body).json["choices"][0]["message"]["content"]

    first = story(1)
    assert story(1) == first
    assert len({first, *map(story, range(2, 6))}) > 1
    body = chat_body("Tell me a short story.", seed=1, temperature=1.2, max_tokens=60)
    assert text_of(stream(base_url, CHAT, body)) == first


def test_a_seed_that_was_drawn_is_reported_and_repeats(base_url: str) -> None:
    body = chat_body("Tell me a short story.", temperature=1.2, max_tokens=40)
    first = request(base_url, "POST", CHAT, body)
    seed = int(first.headers["x-offgrid-seed"])
    again = request(base_url, "POST", CHAT, {**body, "seed": seed})
    assert again.json["choices"] == first.json["choices"]


def test_minus_one_is_a_seed_that_is_drawn(base_url: str) -> None:
    body = chat_body("Tell me a short story.", temperature=1.2, max_tokens=40, seed=-1)
    first, other = (request(base_url, "POST", CHAT, body) for _ in range(2))
    assert first.headers["x-offgrid-seed"] != other.headers["x-offgrid-seed"] != "-1"
    body["seed"] = int(first.headers["x-offgrid-seed"])
    assert request(base_url, "POST", CHAT, body).json["choices"] == first.json["choices"]


@pytest.mark.slow
def test_every_stop_string_of_a_greedy_answer_cuts_before_its_first_occurrence(
    base_url: str,
) -> None:
    body = chat_body("Tell me a short story.", temperature=0, max_tokens=80)
    text = request(base_url, "POST", CHAT, body).json["choices"][0]["message"]["content"]
    assert len(text) > 100
    places = range(0, len(text) - 12, 23)
    for start in places:
        stop = text[start : start + 1 + start % 12]
        answer = request(base_url, "POST", CHAT, {**body, "stop": stop}).json["choices"][0]
        assert answer["message"]["content"] == text[: text.index(stop)]
        assert answer["finish_reason"] == "stop"
        streamed = stream(base_url, CHAT, {**body, "stop": ["\x00", stop]})
        assert text_of(streamed) == text[: text.index(stop)]


def test_choices_differ_and_are_counted(base_url: str) -> None:
    body = chat_body("Tell me a short story.", n=3, seed=5, temperature=1.2, max_tokens=30)
    whole = request(base_url, "POST", CHAT, body).json
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert len(set(texts)) == 3
    assert whole["usage"]["completion_tokens"] > 60
    single = request(base_url, "POST", CHAT, {**body, "n": 1}).json
    assert whole["usage"]["prompt_tokens"] == single["usage"]["prompt_tokens"]
    assert texts[0] == single["choices"][0]["message"]["content"]
    streamed = ["", "", ""]
    for event in stream(base_url, CHAT, body)[:-1]:
        for choice in json.loads(event)["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == texts


def test_cached_tokens(base_url: str) -> None:
    """The second request of a conversation computes only the new tokens, and reports that."""
    question = "Tell me a short story about a lamp that was never seen before."
    body = chat_body(question, temperature=0, max_tokens=40)

    def usage(**fields: Any) -> dict[str, Any]:
        answer = request(base_url, "POST", CHAT, body | fields).json
        return answer["usage"]

    first, second = usage(), usage()
    details = "prompt_tokens_details"
    assert second[details]["cached_tokens"] == second["prompt_tokens"] - 1
    assert first[details]["cached_tokens"] < first["prompt_tokens"] - 1
    assert usage(cache_prompt=False)[details]["cached_tokens"] == 0
    *_, last, _ = stream(base_url, CHAT, body | {"stream_options": {"include_usage": True}})
    assert json.loads(last)["usage"][details]["cached_tokens"] == second["prompt_tokens"] - 1


def test_max_completion_tokens_wins(base_url: str) -> None:
    body = chat_body("Tell me a short story.", max_tokens=50, max_completion_tokens=3)
    answer = request(base_url, "POST", CHAT, body).json
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def test_ignore_eos_continues_the_answer(base_url: str) -> None:
    body = chat_body(temperature=0, max_tokens=120, ignore_eos=True)
    answer = request(base_url, "POST", CHAT, body).json
    assert answer["usage"]["completion_tokens"] == 120
    assert answer["choices"][0]["finish_reason"] == "length"


def test_logprobs(client: OpenAI) -> None:
    response = client.chat.completions.create(
        model=STARTER, messages=[{"role": "user", "content": "Hello!"}],
        temperature=0, logprobs=True, top_logprobs=3,
    )  # fmt: skip
    choice = response.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    told = bytes(byte for token in choice.logprobs.content for byte in token.bytes or ())
    assert told.decode() == choice.message.content
    for token in choice.logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        # Greedy sampling chooses the most likely token.
        assert token.top_logprobs[0].logprob == token.logprob
        assert token.top_logprobs[0].token == token.token


def test_legacy_logprobs(client: OpenAI) -> None:
    prompt = "Once upon a time"
    answer = client.completions.create(
        model=STARTER, prompt=prompt, max_tokens=6, temperature=0, logprobs=2
    ).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.tokens is not None
    assert answer.logprobs.text_offset is not None
    assert answer.logprobs.top_logprobs is not None
    assert "".join(answer.logprobs.tokens) == answer.text
    assert answer.logprobs.text_offset[0] == len(prompt)
    assert all(2 <= len(top) <= 3 for top in answer.logprobs.top_logprobs)


def test_offsets_of_a_prompt_given_as_tokens(client: OpenAI) -> None:
    prompt = [300, 301, 302]
    body = {"model": STARTER, "max_tokens": 1, "temperature": 0, "logprobs": 0}
    answer = client.completions.create(prompt=prompt, **body).choices[0]
    text = client.completions.create(prompt=[300], **body, logit_bias={}).choices[0]
    assert answer.logprobs is not None
    assert text.logprobs is not None
    assert answer.logprobs.text_offset is not None
    assert text.logprobs.text_offset is not None
    assert answer.logprobs.text_offset[0] > text.logprobs.text_offset[0] > 0


def test_prompts_as_lists(base_url: str) -> None:
    prompts = ["Once upon a time", "OffGrid is"]
    body = {"model": STARTER, "max_tokens": 6, "temperature": 0}
    together = request(base_url, "POST", TEXT, {**body, "prompt": prompts}).json["choices"]
    alone = [
        request(base_url, "POST", TEXT, {**body, "prompt": prompt}).json["choices"][0]["text"]
        for prompt in prompts
    ]
    assert [choice["text"] for choice in together] == alone
    assert [choice["index"] for choice in together] == [0, 1]


def test_echo(base_url: str) -> None:
    body = {"model": STARTER, "prompt": "Once upon", "max_tokens": 4, "temperature": 0}
    plain = request(base_url, "POST", TEXT, body).json["choices"][0]["text"]
    body["echo"] = True
    assert request(base_url, "POST", TEXT, body).json["choices"][0]["text"] == "Once upon" + plain
    assert text_of(stream(base_url, TEXT, body)) == "Once upon" + plain


def test_openai_client_streams(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=STARTER, messages=[{"role": "user", "content": "Hello!"}],
            temperature=0, stream=True, stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert chunks[-1].usage is not None
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    with client.chat.completions.stream(
        model=STARTER, messages=[{"role": "user", "content": "Hello!"}], temperature=0
    ) as opened:
        assert opened.get_final_completion().choices[0].message.content


def test_logit_bias_steers_and_bans(base_url: str, server: Server) -> None:
    n_vocab = server.pool.engine(STARTER).info.n_vocab
    body = {"model": STARTER, "prompt": "Once upon a time", "max_tokens": 1, "temperature": 0}

    def text(**fields: Any) -> str:
        answer = request(base_url, "POST", TEXT, {**body, "ignore_eos": True, **fields})
        return answer.json["choices"][0]["text"]

    plain = text()
    assert text(logit_bias={"200": 100}) == text(logit_bias={"200": 100}, prompt="Hello") != plain
    # Ban each thousand token ids in turn; only one thousand contains the most likely token.
    thousands = [range(i, min(i + 1000, n_vocab)) for i in range(0, n_vocab, 1000)]
    banned = [text(logit_bias={str(i): False for i in ids}) for ids in thousands]
    assert sum(answer != plain for answer in banned) == 1


def test_content_in_parts_is_their_joined_text(base_url: str) -> None:
    def counted(role: str, content: Any) -> int:
        messages = [{"role": role, "content": content}, {"role": "user", "content": "And?"}]
        body = {"model": STARTER, "messages": messages, "max_tokens": 1}
        answer = request(base_url, "POST", CHAT, body)
        assert answer.status == 200, answer.body
        tokens: int = answer.json["usage"]["prompt_tokens"]
        return tokens

    whole = counted("assistant", "I must not \nsay that, sorry.")
    parts = [
        {"type": "text", "text": "I must not "},
        {"type": "refusal", "refusal": "say that, sorry."},
    ]
    assert counted("assistant", parts) == whole
