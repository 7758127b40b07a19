"""Answers of ``/api/chat`` and ``/api/generate``: their chunks, which a whole answer joins."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from offgrid.api.chat.answer import new_call_id, read_choices
from offgrid.api.chat.prompt import ChatPrompt
from offgrid.api.generation import GenerationGroup, Total
from offgrid.api.logprobs import logprob_entries
from offgrid.api.ollama.context import Turns, to_context
from offgrid.api.shapes import Json
from offgrid.chat.answer_parser import AnswerEvent, CallArguments, CallStart, Content, Reasoning
from offgrid.engine.protocol.events import Delta
from offgrid.errors import RequestError

Source = Iterator[tuple[Delta, Sequence[AnswerEvent], str | None] | None]
"""Deltas, what they add to the answer, and the reason of its end; None if none came lately."""
_MS = 1_000_000
"""Nanoseconds of a millisecond."""


def now() -> str:
    """Return the time as ``created_at`` has it."""
    return to_time(time.time())


def to_time(seconds: float) -> str:
    """Return seconds since 1970 as a date and time in UTC (RFC 3339)."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Clock:
    """The times of a request, in nanoseconds of the monotonic clock.

    Attributes:
        began: when it came.
        loaded: when its model was ready.
    """

    began: int
    loaded: int

    def durations(self) -> Json:
        """Return the fields of an answer that ends now."""
        return {
            "total_duration": time.monotonic_ns() - self.began,
            "load_duration": self.loaded - self.began,
        }


class ChatForm:
    """Chunks of ``/api/chat``."""

    def said(self, text: str, thinking: str = "", calls: Sequence[Json] = ()) -> Json:
        """Return the fields of a chunk with a part of the answer."""
        message: Json = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [*calls]
        return {"message": message}

    def end(self, text: str) -> Json:
        """Return further fields of the last chunk; ``text`` is the whole answer."""
        return {}


class GenerateForm:
    """Chunks of ``/api/generate``.

    Args:
        turns: the conversation before the answer, for ``context``; None for an answer without it.
    """

    def __init__(self, turns: Turns | None = None) -> None:
        self._turns = turns

    def said(self, text: str, thinking: str = "", calls: Sequence[Json] = ()) -> Json:
        """Return the fields of a chunk with a part of the answer."""
        return {"response": text, "thinking": thinking} if thinking else {"response": text}

    def end(self, text: str) -> Json:
        """Return further fields of the last chunk; ``text`` is the whole answer."""
        if self._turns is None:
            return {}
        return {"context": to_context([*self._turns, ("assistant", text)])}


def of_chat(prompt: ChatPrompt, group: GenerationGroup, total: Total, *, whole: bool) -> Source:
    """Yield what the deltas of a chat add; with ``whole``, when the generation has ended."""
    choices = prompt.choices()
    for item in read_choices(prompt, group, total, choices, whole=whole):
        if item is None:
            yield None
        else:
            _, delta, events = item
            yield delta, events, choices[0].finish_reason


def of_text(group: GenerationGroup, total: Total, *, whole: bool) -> Source:
    """Yield what the deltas of a completion add; with ``whole``, when the generation has ended."""
    for item in group.by_prompt() if whole else group.deltas():
        if not isinstance(item, tuple):  # always None: with one prompt there are no marks
            yield None
            continue
        index, delta = item
        total.add(index, delta)
        yield delta, [Content(delta.text)] if delta.text else [], delta.finish_reason


class Calls:
    """The calls of an answer, which Ollama's clients get whole."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._arguments: list[str] = []
        self._count = 0

    def add(self, event: CallStart | CallArguments) -> None:
        """Add a part of a call."""
        if isinstance(event, CallStart):
            self._name, self._arguments = event.name, []
        else:
            self._arguments.append(event.text)

    def take(self, *, ended: bool = False) -> tuple[list[Json], str]:
        """Return the calls that are complete.

        A call whose arguments are no object, because the answer was cut off, is returned as text
        when its end has come: clients expect an object.

        Args:
            ended: whether no more text of the latest call follows.
        """
        if self._name is None:
            return [], ""
        text = "".join(self._arguments)
        arguments = None
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
            arguments = msgspec.json.decode(text)
        if ended and not text.strip():
            arguments = {}
        if not isinstance(arguments, dict):
            return [], self._forget(text) if ended else ""
        function = {"index": self._count, "name": self._name, "arguments": arguments}
        self._count += 1
        self._forget("")
        return [{"id": new_call_id(), "function": function}], ""

    def _forget(self, text: str) -> str:
        self._name = None
        return text


def chunks(
    model: str,
    source: Source,
    group: GenerationGroup,
    total: Total,
    form: ChatForm | GenerateForm,
    clock: Clock,
    renamed: Callable[[RequestError], RequestError],
) -> Iterator[Json | None]:
    """Yield the chunks of an answer; None if no delta came for a moment.

    Args:
        model: its name, as the client writes it.
        source: the deltas of ``group``.
        group: the generation.
        total: counts the tokens of ``source``.
        form: makes the fields of a chunk.
        clock: the times of the request.
        renamed: puts the field names of Ollama's API into an error.

    Raises:
        RequestError: the generation fails.
    """
    calls = Calls()
    waiting: list[Json] = []  # logprobs for the next chunk
    texts: list[str] = []

    def chunk(said: Json, done: bool = False) -> Json:
        texts.append(said["response"] if "response" in said else said["message"]["content"])
        result = {"model": model, "created_at": now(), **said, "done": done}
        if waiting:
            result["logprobs"] = [*waiting]
            waiting.clear()
        return result

    def finished(*, ended: bool) -> Iterator[Json]:
        complete, text = calls.take(ended=ended)
        if complete or text:
            yield chunk(form.said(text, calls=complete))

    reason = None
    try:
        for item in source:
            if item is None:
                yield None
                continue
            delta, events, reason = item
            waiting += logprob_entries([t for t in delta.logprobs if not t.silent])
            for event in events:
                if isinstance(event, (CallStart, CallArguments)):
                    if isinstance(event, CallStart):
                        yield from finished(ended=True)
                    calls.add(event)
                    continue
                yield from finished(ended=True)
                thinks = isinstance(event, Reasoning)
                yield chunk(form.said("" if thinks else event.text, event.text if thinks else ""))
            yield from finished(ended=False)
    except RequestError as ex:
        raise renamed(ex) from ex
    yield from finished(ended=True)
    last = chunk(form.said(""), done=True)
    timings = total.timings(group.prompt_tokens)
    yield {
        **last,
        "done_reason": "stop" if reason in (None, "tool_calls") else reason,
        **form.end("".join(texts)),
        **clock.durations(),
        "prompt_eval_count": group.prompt_tokens,
        "prompt_eval_duration": round(timings["prompt_ms"] * _MS),
        "eval_count": timings["predicted_n"],
        "eval_duration": round(timings["predicted_ms"] * _MS),
    }


def joined(parts: Iterable[Json | None]) -> Json:
    """Return the chunks of an answer as one object."""
    result: Json = {}
    texts: dict[str, list[str]] = {}
    calls: list[Json] = []
    logprobs: list[Json] = []
    for part in parts:
        if part is None:
            continue
        result = part
        said = part.get("message", part)
        for name in ("content", "response", "thinking"):
            if name in said:
                texts.setdefault(name, []).append(said[name])
        calls += said.get("tool_calls", ())
        logprobs += part.get("logprobs", ())
    whole: Json = {name: "".join(pieces) for name, pieces in texts.items()}
    if calls:
        whole["tool_calls"] = calls
    result |= {"message": {**result["message"], **whole}} if "message" in result else whole
    if logprobs:
        result["logprobs"] = logprobs
    return result
