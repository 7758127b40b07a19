"""The answer to a ``/v1/responses`` request: items that grow, and the events that report it.

One writer serves both forms: a stream sends the events; a whole answer is the response object that
they have built.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from offgrid.api.chat.answer import answer_usage, new_call_id, read_choices
from offgrid.api.chat.prompt import ChatPrompt
from offgrid.api.generation import GenerationGroup, Signal, Total
from offgrid.api.http.error_handlers import told
from offgrid.api.http.sse import Chunk
from offgrid.api.logprobs import logprob_entries
from offgrid.api.responses.custom import InputReader
from offgrid.api.responses.items import new_id, sealed
from offgrid.api.responses.request import ChatForm
from offgrid.api.responses.tools import Offered
from offgrid.api.shapes import Json
from offgrid.api.timings import with_progress
from offgrid.chat.answer_parser import AnswerEvent, CallArguments, CallStart, Content, Reasoning
from offgrid.engine.client.client import ClientGone
from offgrid.engine.protocol.events import TokenLogprob
from offgrid.errors import EngineFault, RequestError

log = logging.getLogger(__name__)

_CUTS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a choice ended -> why its response is incomplete."""


class ResponseWriter:
    """Writes one response.

    Args:
        head: the initial response object: status ``in_progress`` or ``queued``, no output. One
            that is queued is answered in the background: it is kept however it ends.
        form: the request in the form of a chat request.
        prompt: the conversation in the model's dialect.
        group: its generation, with one choice.
        logprobs: whether text carries the logprobs of its tokens.
        obfuscate: whether deltas carry random padding.
        seal: whether reasoning carries its text as ``encrypted_content`` too.
        keep: called with the finished response, on a thread that may block; returns whether it was
            stored.

    Attributes:
        response: the response object in its current state.
    """

    def __init__(
        self,
        head: Json,
        form: ChatForm,
        prompt: ChatPrompt,
        group: GenerationGroup,
        *,
        logprobs: bool,
        obfuscate: bool,
        seal: bool,
        keep: Callable[[Json], bool],
    ) -> None:
        self.response = head
        self._background = bool(head["background"])
        self._form = form
        self._prompt = prompt
        self._group = group
        self._logprobs = logprobs
        self._obfuscate = obfuscate
        self._seal = seal
        self._keep = keep
        self._timed = prompt.request.timings_per_token
        self._number = 0
        self._open: _Part | None = None

    def complete(self) -> Json:
        """Wait for the answer and return the finished response.

        Raises:
            RequestError: the model could not finish the answer.
        """
        for _ in self._events(whole=True):
            pass
        self._group.cancel()
        self._store()
        return self.response

    def stream(self) -> Iterator[Chunk]:
        """Yield the events of a stream; the last one says how the response ended."""
        for kind in ("response.created", f"response.{self.response['status']}"):
            yield self._event(kind, response=self._snapshot())
        try:
            yield from self._events()
        except ClientGone:
            raise
        except RequestError as ex:
            yield self._failure(self._form.renamed(ex))
            return
        except Exception:
            log.exception("a response failed")
            yield self._failure(EngineFault("Internal server error."))
            return
        yield Signal.MAY_BLOCK
        self._store()
        yield self._event(f"response.{self.response['status']}", response=self._snapshot())

    def cancelled(self) -> Json:
        """Return the last event of a response whose client has cancelled it."""
        self._abandon("cancelled")
        self._store()
        return self._event("response.incomplete", response=self._snapshot())

    def _events(self, *, whole: bool = False) -> Iterator[Json | None]:
        """Yield the events between the response's first and last; None if no delta came lately."""
        total = Total()
        (choice,) = choices = self._prompt.choices()
        waiting: list[TokenLogprob] = []  # logprobs for the next event with text
        for item in read_choices(self._prompt, self._group, total, choices, whole=whole):
            if item is None:
                yield None
                continue
            if self.response["status"] == "queued":
                self.response["status"] = "in_progress"
                yield self._event("response.in_progress", response=self._snapshot())
            _, delta, events = item
            if delta.progress is not None:
                state = self._event("response.in_progress", response=self._snapshot())
                yield with_progress(state, delta, self._group.prompt_length(0))
            waiting += delta.logprobs
            timings = total.timings(self._group.prompt_tokens) if self._timed else None
            for event in events:
                tokens, waiting = waiting, []
                yield from self._add(event, tokens if isinstance(event, Content) else [], timings)
            if choice.reasoning_tokens == delta.completion_tokens:
                waiting = []  # these tokens are reasoning or its markers
        cut = _CUTS.get(choice.finish_reason or "")
        if not cut and self._open is None:
            yield from self._add(Content(""), [])  # an empty answer still has a message
        yield from self._close("incomplete" if cut else "completed", waiting)
        self.response["status"] = "incomplete" if cut else "completed"
        if cut:
            self.response["incomplete_details"] = {"reason": cut}
        else:
            self.response["completed_at"] = int(time.time())
        self.response["usage"] = _usage(answer_usage(total, self._group, choices))
        if self._timed:
            self.response["timings"] = total.timings(self._group.prompt_tokens)

    def _add(
        self, event: AnswerEvent, tokens: list[TokenLogprob], timings: Json | None = None
    ) -> Iterator[Json]:
        """Add an event's text to the open item, or begin a new item with it."""
        if self._open is None or not self._open.takes(event):
            yield from self._close("completed", [])
            self._open = self._new_part(event, len(self.response["output"]))
            self.response["output"].append(self._open.item)
            yield from map(self._named, self._open.begin())
        logprobs = logprob_entries(tokens) if self._logprobs else []
        text = event.name if isinstance(event, CallStart) else event.text
        if not isinstance(event, CallStart) and (text or logprobs):
            added = self._open.add(text, logprobs)
            if added is None:
                return
            delta = self._named(added)
            if self._obfuscate:
                delta["obfuscation"] = secrets.token_urlsafe(secrets.randbelow(24))
            if timings is not None:
                delta["timings"] = timings
            yield delta

    def _new_part(self, event: AnswerEvent, output_index: int) -> _Part:
        """Return the item that an event begins."""
        if isinstance(event, CallStart):
            return _new_call(event.name, self._form.tools.offered.get(event.name), output_index)
        if isinstance(event, Reasoning):
            return _new_reasoning(output_index, self._seal)
        return _new_message(output_index)

    def _close(self, status: str, rest: list[TokenLogprob]) -> Iterator[Json]:
        """Finish the open item; ``rest`` are tokens that added no text."""
        if self._open is not None:
            logprobs = logprob_entries(rest) if self._logprobs else []
            yield from map(self._named, self._open.end(status, logprobs))
            self._open = None

    def _failure(self, error: RequestError) -> Json:
        """Return the last event of a response that cannot be finished."""
        code = "invalid_prompt" if error.status < 500 else "server_error"
        self.response["error"] = {"code": code, "message": told(error)}
        self._abandon("failed")
        if self._background:
            self._store()
        else:
            self.response["store"] = False
        return self._event("response.failed", response=self._snapshot())

    def _abandon(self, status: str) -> None:
        """Complete the open item in the response; its events are not sent."""
        if self._open is not None:
            self._open.end("incomplete", [])
            self._open = None
        self.response["status"] = status

    def _store(self) -> None:
        # Try even if ``store`` was false at first: another process may have unlocked the file.
        self.response["store"] = self._keep(self.response)

    def _snapshot(self) -> Json:
        return {**self.response, "output": list(self.response["output"])}

    def _named(self, event: Json) -> Json:
        return self._event(event.pop("type"), **event)

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event


class _Part(abc.ABC):
    """An output item that is being written: it has one part, or it is a call with arguments.

    Its methods return events without their sequence numbers.
    """

    def __init__(self, item: Json, output_index: int, kind: type[Any]) -> None:
        self.item = item
        self._kind = kind
        self._place: Json = {"item_id": item["id"], "output_index": output_index}
        self._text: list[str] = []

    def takes(self, event: AnswerEvent) -> bool:
        """Whether the next event belongs to this item."""
        return isinstance(event, self._kind)

    def begin(self) -> list[Json]:
        """Begin the empty item; return the events that report it."""
        added = {key: list(v) if isinstance(v, list) else v for key, v in self.item.items()}
        index = self._place["output_index"]
        return [{"type": "response.output_item.added", "output_index": index, "item": added}]

    @abc.abstractmethod
    def add(self, text: str, logprobs: list[Json]) -> Json | None:
        """Add text to the item; return the event that reports it, None if none does yet."""

    def end(self, status: str, logprobs: list[Json]) -> list[Json]:
        """Finish the item; ``logprobs`` are those of tokens that added no text."""
        self.item["status"] = status
        index = self._place["output_index"]
        return [{"type": "response.output_item.done", "output_index": index, "item": self.item}]


class _Text(_Part):
    """A message or a reasoning item, with one part each."""

    def __init__(self, item: Json, output_index: int, kind: type[Any], part: Json) -> None:
        super().__init__(item, output_index, kind)
        self._place["content_index"] = 0
        self._part = part
        self._name = f"response.{part['type']}"
        self._has_logprobs = "logprobs" in part

    def begin(self) -> list[Json]:
        part = {**self._part, **({"logprobs": []} if self._has_logprobs else {})}
        begun = super().begin()
        self.item["content"].append(self._part)
        return [*begun, {"type": "response.content_part.added", **self._place, "part": part}]

    def add(self, text: str, logprobs: list[Json]) -> Json:
        self._text.append(text)
        event = {"type": f"{self._name}.delta", **self._place, "delta": text}
        if self._has_logprobs:
            self._part["logprobs"] += logprobs
            event["logprobs"] = logprobs
        return event

    def end(self, status: str, logprobs: list[Json]) -> list[Json]:
        self._part["text"] = "".join(self._text)
        done = {"type": f"{self._name}.done", **self._place, "text": self._part["text"]}
        if self._has_logprobs:
            self._part["logprobs"] += logprobs
            done["logprobs"] = self._part["logprobs"]
        part = {"type": "response.content_part.done", **self._place, "part": self._part}
        return [done, part, *super().end(status, logprobs)]


class _Call(_Part):
    """A function call."""

    _name = "response.function_call_arguments"

    def add(self, text: str, logprobs: list[Json]) -> Json:
        self._text.append(text)
        return {"type": f"{self._name}.delta", **self._place, "delta": text}

    def end(self, status: str, logprobs: list[Json]) -> list[Json]:
        arguments = self.item["arguments"] = "".join(self._text)
        done = {
            "type": f"{self._name}.done", **self._place,
            "name": self.item["name"], "arguments": arguments,
        }  # fmt: skip
        return [done, *super().end(status, logprobs)]


class _CustomCall(_Part):
    """A call of a custom tool: its input is a text."""

    _name = "response.custom_tool_call_input"

    def __init__(self, item: Json, output_index: int, kind: type[Any]) -> None:
        super().__init__(item, output_index, kind)
        self._reader = InputReader()

    def add(self, text: str, logprobs: list[Json]) -> Json | None:
        return self._delta(self._reader.feed(text))

    def _delta(self, text: str) -> Json | None:
        if not text:
            return None
        self._text.append(text)
        return {"type": f"{self._name}.delta", **self._place, "delta": text}

    def end(self, status: str, logprobs: list[Json]) -> list[Json]:
        last = self._delta(self._reader.finish())
        text = self.item["input"] = "".join(self._text)
        done = {"type": f"{self._name}.done", **self._place, "input": text}
        return [*([last] if last else []), done, *super().end(status, logprobs)]


class _Search(_Part):
    """A search for tools that the client executes; its arguments are an object."""

    def add(self, text: str, logprobs: list[Json]) -> None:
        self._text.append(text)

    def end(self, status: str, logprobs: list[Json]) -> list[Json]:
        with contextlib.suppress(msgspec.DecodeError, RecursionError):  # the answer was cut
            self.item["arguments"] = msgspec.json.decode("".join(self._text))
        return super().end(status, logprobs)


def _new_call(called: str, tool: Offered | None, output_index: int) -> _Part:
    """Return the item of a call, by the name by which the model calls the tool."""
    kind = "function" if tool is None else tool.kind
    item: Json = {
        "type": "function_call", "status": "in_progress", "call_id": new_call_id(),
    }  # fmt: skip
    if kind == "tool_search":
        item |= {"type": "tool_search_call", "execution": "client", "arguments": {}}
        return _Search({"id": new_id("ts"), **item}, output_index, CallArguments)
    item["name"] = called if tool is None else tool.name
    if tool is not None and tool.namespace is not None:
        item["namespace"] = tool.namespace
    if kind == "custom":
        item |= {"type": "custom_tool_call", "input": ""}
        return _CustomCall({"id": new_id("ctc"), **item}, output_index, CallArguments)
    return _Call({"id": new_id("fc"), **item, "arguments": ""}, output_index, CallArguments)


class _Reasoning(_Text):
    """A reasoning item that carries its text as ``encrypted_content`` too."""

    def end(self, status: str, logprobs: list[Json]) -> list[Json]:
        self.item["encrypted_content"] = sealed("".join(self._text))
        return super().end(status, logprobs)


def _new_reasoning(output_index: int, seal: bool) -> _Part:
    item: Json = {
        "id": new_id("rs"), "type": "reasoning", "status": "in_progress",
        "summary": [], "content": [], **({"encrypted_content": None} if seal else {}),
    }  # fmt: skip
    kind = _Reasoning if seal else _Text
    return kind(item, output_index, Reasoning, {"type": "reasoning_text", "text": ""})


def _new_message(output_index: int) -> _Part:
    item: Json = {
        "id": new_id("msg"), "type": "message", "status": "in_progress",
        "role": "assistant", "content": [],
    }  # fmt: skip
    part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return _Text(item, output_index, Content, part)


def _usage(usage: Json) -> Json:
    """Return the usage of a chat answer with this API's field names."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {
            "reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
        },
        "total_tokens": usage["total_tokens"],
    }
