"""Streams: the text of an answer while it is generated, and the whole answer at its end.

The chunks are those of the API, made here or read from a server: the terminal chat uses both.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

from offgrid.api.generation import GenerationGroup
from offgrid.api.shapes import Json
from offgrid.chat.answer_parser import AnswerEvent, CallArguments, CallStart, Content, Reasoning
from offgrid.engine.client.client import ClientGone
from offgrid.errors import Overloaded
from offgrid.inprocess.answers import ChatAnswer, CompletionAnswer, chat_answer, completion_answers
from offgrid.inprocess.structure import Parse

A = TypeVar("A")


def delta_events(delta: Json) -> Iterator[AnswerEvent]:
    """Yield the events of a chat chunk's delta."""
    # Servers of others name reasoning differently.
    if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
        yield Reasoning(reasoning)
    if delta.get("content"):
        yield Content(delta["content"])
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        if function.get("name"):
            yield CallStart(call["index"], function["name"])
        if function.get("arguments"):
            yield CallArguments(call["index"], function["arguments"])


class ChatCollector:
    """Makes the whole answer of the chunks of a chat stream with one choice."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Json] = []
        self._logprobs: list[Json] = []
        self.finish_reason: str | None = None
        self.usage: Json | None = None
        self.timings: Json | None = None

    def add(self, chunk: Json) -> list[AnswerEvent]:
        """Add a chunk; return its events."""
        self._head = self._head or chunk
        self.usage = chunk.get("usage") or self.usage
        self.timings = chunk.get("timings") or self.timings
        events: list[AnswerEvent] = []
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            events += delta_events(delta)
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
            self._logprobs += (choice.get("logprobs") or {}).get("content") or []
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        for event in events:
            if isinstance(event, Content):
                self._content.append(event.text)
            elif isinstance(event, Reasoning):
                self._reasoning.append(event.text)
        return events

    def _add_call(self, fragment: Json) -> None:
        function = fragment.get("function") or {}
        if fragment["index"] == len(self._calls):
            self._calls.append({
                "id": fragment.get("id"),
                "type": "function",
                "function": {"name": function.get("name", ""), "arguments": ""},
            })  # fmt: skip
        self._calls[-1]["function"]["arguments"] += function.get("arguments") or ""

    @property
    def model(self) -> str:
        """The id of the model that answers; empty before the first chunk."""
        return str(self._head.get("model", ""))

    @property
    def text(self) -> str:
        """The content so far."""
        return "".join(self._content)

    def message(self) -> Json:
        """Return the message so far, without its reasoning."""
        message: Json = {"role": "assistant", "content": self.text}
        if self._calls:
            message["tool_calls"] = self._calls
            message["content"] = self.text or None
        return message

    def body(self) -> Json:
        """Return the whole answer as the API would, after the last chunk."""
        message = {"refusal": None, "annotations": [], **self.message()}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None} if self._logprobs else None,
            "finish_reason": self.finish_reason,
        }
        left_out = {"choices", "usage", "obfuscation", "timings", "prompt_progress"}
        head = {name: value for name, value in self._head.items() if name not in left_out}
        head["object"] = "chat.completion"
        return {**head, "choices": [choice], "usage": self.usage, "timings": self.timings}


class TextCollector:
    """Makes the whole answer of the chunks of a completion stream with one choice."""

    def __init__(self) -> None:
        self._last: Json = {}
        self._texts: list[str] = []
        self._logprobs: Json | None = None
        self._reason: str | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def add(self, chunk: Json) -> list[Content]:
        """Add a chunk; return its text."""
        self._last = chunk
        for choice in chunk["choices"]:
            self._texts.append(choice["text"])
            self._reason = choice.get("finish_reason") or self._reason
            for name, entries in (choice.get("logprobs") or {}).items():
                self._logprobs = self._logprobs or {}
                self._logprobs.setdefault(name, []).extend(entries)
        return [Content(choice["text"]) for choice in chunk["choices"] if choice["text"]]

    def body(self) -> Json:
        """Return the whole answer as the API would, after the last chunk."""
        choice = {
            "text": self.text, "index": 0, "logprobs": self._logprobs,
            "finish_reason": self._reason,
        }  # fmt: skip
        return {**self._last, "choices": [choice]}


class Running(Iterator[Json]):
    """A stream's work, without the object that the program holds: an iterator over its chunks.

    Args:
        chunks: made from the deltas of ``group``; items that are no objects are skipped.
        group: the generations.
        gone: set when the answer is no longer wanted; ``group`` heeds it.
    """

    def __init__(
        self, chunks: Iterator[Any], group: GenerationGroup, gone: threading.Event
    ) -> None:
        self.seed = group.seed
        self._chunks = chunks
        self._group = group
        self._gone = gone

    def __next__(self) -> Json:
        if self._gone.is_set():  # Deltas that came before may still wait to be read.
            raise StopIteration
        with told_if_closed():
            try:
                while not isinstance(chunk := next(self._chunks), dict):
                    pass
            except ClientGone:
                raise StopIteration from None
        return chunk

    def close(self) -> None:
        """End the answer. A thread that reads it meanwhile notices soon."""
        self._gone.set()
        self._group.cancel()


@contextlib.contextmanager
def told_if_closed() -> Iterator[None]:
    """Inside, an error that says that the server is stopping becomes one about the LLM."""
    try:
        yield
    except Overloaded as ex:
        if ex.code != "server_shutting_down":
            raise
        raise RuntimeError("The LLM was closed before the answer was complete.") from None


class Stream(Generic[A]):
    """An answer while it is generated: iterate over it to get its text.

    A loop that is left early can be continued by another one. :meth:`close`, the end of a ``with``
    block, or the last reference to this object end the generation. Only one thread may read it.
    """

    def __init__(
        self,
        running: Running,
        collector: ChatCollector | TextCollector,
        finish: Callable[[Json, int], A],
        abandoned: SimpleQueue[Running | None],
        owner: object,
    ) -> None:
        self._owner = owner
        """The LLM, which must not end before its streams."""
        self._running = running
        self._collector = collector
        self._finish = finish
        self._answer: A | None = None
        # The finalizer holds the generations until this object is gone: their own end writes to the
        # worker, which must not happen wherever garbage is collected. Another thread does it.
        self._finalizer = weakref.finalize(self, abandoned.put, running)
        self._finalizer.atexit = False

    def __iter__(self) -> Iterator[str]:
        """Yield the text for the user, piece by piece."""
        for event in self.events():
            if isinstance(event, Content):
                yield event.text

    def events(self) -> Iterator[AnswerEvent]:
        """Yield ``Content``, ``Reasoning``, ``CallStart`` and ``CallArguments`` as they come.

        Raises:
            RequestError: the generation failed.
        """
        for chunk in self.chunks():
            yield from self._collector.add(chunk)

    def chunks(self) -> Iterator[Json]:
        """Yield the chunks of the API; for programs that pass them on. They are not collected."""
        # "yield from" would close it when a loop is left.
        yield from map(_same, self._running)
        self._finalizer.detach()

    @property
    def seed(self) -> int:
        """The seed in force; the same seed gives the same answer again."""
        return self._running.seed

    @property
    def answer(self) -> A:
        """The whole answer.

        Raises:
            RuntimeError: the stream was not read to its end.
        """
        if self._answer is None:
            body = self._collector.body()
            if not body.get("usage") or not body["choices"][0]["finish_reason"]:
                raise RuntimeError("The stream has not been read to its end; read it first.")
            self._answer = self._finish(body, self.seed)
        return self._answer

    def close(self) -> None:
        """End the generation, if it has not ended. Idempotent; any thread may call it."""
        self._finalizer.detach()
        self._running.close()

    def __enter__(self) -> Stream[A]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _same(chunk: Json) -> Json:
    return chunk


def chat_stream(
    running: Running, parse: Parse | None, abandoned: SimpleQueue[Running | None], owner: object
) -> Stream[ChatAnswer[Any]]:
    """Return the stream of a chat request."""

    def finish(body: Json, seed: int) -> ChatAnswer[Any]:
        return chat_answer(body, seed, parse)

    return Stream(running, ChatCollector(), finish, abandoned, owner)


def text_stream(
    running: Running, parse: Parse | None, abandoned: SimpleQueue[Running | None], owner: object
) -> Stream[CompletionAnswer[Any]]:
    """Return the stream of a completion request."""

    def finish(body: Json, seed: int) -> CompletionAnswer[Any]:
        return completion_answers(body, 1, seed, parse)[0]

    return Stream(running, TextCollector(), finish, abandoned, owner)
