"""A frame that is too large is refused by its sender, and ends one request at most."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import msgspec
import pytest
from support import STARTER, Stream, chat_body, endless, request

from offgrid.engine.protocol.commands import LookUp, Submit
from offgrid.engine.protocol.events import Delta, EngineEvent, Failed
from offgrid.engine.protocol.frames import FrameTooLarge, encode_frame, read_command, take_reports
from offgrid.engine.protocol.reports import Step
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart, TokenQuery
from offgrid.engine.worker.writer import Writer
from offgrid.sampling import SamplingParams
from offgrid.server import Server

LIMIT = 1000


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offgrid.engine.protocol.frames.MAX_FRAME", LIMIT)


@pytest.mark.usefixtures("small_frames")
def test_the_sender_refuses_frames_that_the_receiver_would_refuse() -> None:
    def command(length: int) -> LookUp:
        return LookUp(1, TokenQuery((PromptPart("x" * length, False),)))

    longest = LIMIT - (len(encode_frame(command(500))) - 504)
    assert len(encode_frame(command(longest))) == LIMIT + 4
    with pytest.raises(FrameTooLarge, match=f"{LIMIT + 1} bytes are more than the {LIMIT}"):
        encode_frame(command(longest + 1))


@pytest.mark.usefixtures("small_frames")
def test_a_step_with_many_events_takes_several_frames() -> None:
    stream = io.BytesIO()
    events: tuple[EngineEvent, ...] = tuple(Delta(id, 0, "x" * 300, 1) for id in range(20))
    Writer(stream).events(events)
    frames = take_reports(bytearray(stream.getvalue()))
    assert len(frames) > 1
    assert [event for frame in frames if isinstance(frame, Step) for event in frame.events] == [
        *events
    ]


@pytest.mark.usefixtures("small_frames")
def test_an_event_that_is_too_large_ends_only_its_request() -> None:
    stream = io.BytesIO()
    writer = Writer(stream)
    given_up: list[int] = []
    writer.give_up = given_up.append
    before, after = Delta(1, 0, "a", 1), Delta(3, 0, "b", 1)
    writer.events((before, Delta(2, 0, "x" * 2 * LIMIT, 1), after))
    frames = take_reports(bytearray(stream.getvalue()))
    first, failed, last = (e for frame in frames if isinstance(frame, Step) for e in frame.events)
    assert (first, last) == (before, after)
    assert isinstance(failed, Failed)
    assert (failed.id, failed.error) == (2, "EngineFault")
    assert given_up == [2]


def test_a_prompt_that_does_not_fit_into_a_frame(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender reports it: the worker and its running stream are not affected."""
    server = make_server()
    worker = server.pool.engine(STARTER).pid
    with Stream(server.url, "/v1/completions", endless(max_tokens=1900)) as stream:
        assert stream.read_some()
        monkeypatch.setattr("offgrid.engine.protocol.frames.MAX_FRAME", 100_000)
        text = "x" * 100_000
        for path, body, param in (
            ("/v1/chat/completions", chat_body(text), "messages"),
            ("/v1/completions", {"model": STARTER, "prompt": text}, "prompt"),
            ("/tokenize", {"content": text}, "content"),
            ("/v1/embeddings", {"model": STARTER, "input": [text]}, "input"),
        ):
            answer = request(server.url, "POST", path, body)
            assert answer.status == 400
            error = answer.json["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", param)
        assert stream.read_some()
        stream.leave()
    assert server.pool.engine(STARTER).pid == worker
    assert server.pool.engine(STARTER).in_flight <= 1


def test_sampling_parameters_cross_the_pipe() -> None:
    bias = {7: -math.inf, 8: 1.5}
    sampling = SamplingParams(
        temperature=0.5, logit_bias=bias, dry_breakers=[[1, 2]], seed=2**64 - 1
    )
    command = Submit(1, GenerationRequest((PromptPart("x", False),), sampling=sampling))
    assert read_command(io.BytesIO(encode_frame(command))) == command


def test_sampling_parameters_out_of_range_do_not_come_out_of_the_pipe() -> None:
    command = Submit(
        1, GenerationRequest((PromptPart("x", False),), sampling=SamplingParams(top_p=0.5))
    )
    frame = encode_frame(command)
    half, two = (msgspec.msgpack.encode(number) for number in (0.5, 2.0))
    assert frame.count(half) == 1
    with pytest.raises(msgspec.ValidationError, match="top_p must be between 0 and 1"):
        read_command(io.BytesIO(frame.replace(half, two)))
