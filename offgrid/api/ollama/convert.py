"""Requests of Ollama's API as requests of this server's own endpoints, and their errors back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from msgspec import structs

from offgrid.api.chat.request import parse_chat
from offgrid.api.completions.request import parse_completion
from offgrid.api.fields import notices
from offgrid.api.fields.common import GenerationFields
from offgrid.api.fields.foreign import SAME
from offgrid.api.fields.sampling import ALIASES
from offgrid.api.fields.translated import labelled
from offgrid.api.ollama.context import Turns, from_context
from offgrid.api.ollama.request import (
    UNSUPPORTED,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
    known_options,
    of_options,
    typed_fields,
)
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, RequestError

R = TypeVar("R", bound=GenerationFields)

DEFAULTS: Mapping[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's values of sampling parameters, where they are not those of ``/v1``. The settings of a
model replace them."""
_PART = re.compile(r"messages\[(\d+)\]\.content(?:\[(\d+)\](?:\.image_url\.url|\.text)?)?")
_MESSAGE = re.compile(r"messages(?:\[(\d+)\])?")


class Chat:
    """A conversation to be continued.

    Attributes:
        asked: the fields as the client sent them.
        request: the chat request that they mean.
        turns: the messages in the form of ``context``; empty for ``/api/chat``.

    Raises:
        InvalidParameter: a field is wrong; ``param`` names it as Ollama's API does.
    """

    def __init__(
        self, asked: OllamaChatRequest | OllamaGenerateRequest, messages: list[Json],
        sources: list[str] | None = None,
    ) -> None:  # fmt: skip
        """``sources`` are the fields from which ``/api/generate`` makes each of the messages."""
        self.asked = asked
        self.turns: Turns = []
        self._sources = sources
        self._labels = _labels(asked.options)
        body = {**_common(asked), "messages": messages}
        if asked.logprobs:
            body |= {"logprobs": True, "top_logprobs": asked.top_logprobs}
        if isinstance(asked, OllamaChatRequest):
            body["tools"] = [{"type": "function", **tool} for tool in asked.tools]
        try:
            self.request = with_defaults(parse_chat(body))
        except RequestError as ex:
            raise self.renamed(ex) from None

    def renamed(self, error: RequestError) -> RequestError:
        """Return an error of the chat request with the field names of Ollama's API."""
        param = error.param or ""
        match = _PART.match(param) or _MESSAGE.match(param)
        if match is None:
            return _labelled(error, self._labels)
        new = self._place(match) + param[match.end() :]
        # "messages" alone may be an ordinary word of the message.
        message = error.message.replace(match[0], new) if "[" in match[0] else error.message
        return _changed(error, message, new)

    def _place(self, match: re.Match[str]) -> str:
        """Return the field of Ollama's API that a place in the chat request comes from."""
        index = int(match[1]) if match[1] else -1
        part = match[2] if match.re is _PART else None
        image = f"images[{int(part) - 1}]" if part and int(part) else ""
        if self._sources is not None:
            return image or (self._sources[index] if index >= 0 else "prompt")
        if match.re is _PART:
            return f"messages[{index}].{image or 'content'}"
        return match[0]


class Text:
    """A prompt that is used as it is.

    Attributes:
        asked: the fields as the client sent them.
        request: the text completion that they mean.

    Raises:
        InvalidParameter: a field is wrong; ``param`` names it as Ollama's API does.
    """

    def __init__(self, asked: OllamaGenerateRequest) -> None:
        self.asked = asked
        self._labels = _labels(asked.options)
        if asked.truncate:
            notices.ignore("truncate")  # there are no turns to drop
        body = {**_common(asked), "prompt": asked.prompt}
        if asked.suffix:
            body["suffix"] = asked.suffix
        if asked.logprobs:
            body["logprobs"] = asked.top_logprobs
        try:
            self.request = with_defaults(parse_completion(body))
        except RequestError as ex:
            raise self.renamed(ex) from None

    def renamed(self, error: RequestError) -> RequestError:
        """Return an error of the completion with the field names of Ollama's API."""
        return _labelled(error, self._labels)


def parse_chat_request(body: Json) -> OllamaChatRequest | Chat:
    """Check the body of a request to ``/api/chat``; a conversation without messages stays as it is.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    asked = typed_fields(body, OllamaChatRequest, UNSUPPORTED)
    asked = structs.replace(asked, options=known_options(asked.options))
    if not asked.messages:
        if asked.tools:
            raise InvalidParameter("tools need messages.", "messages")
        return asked
    if asked.system:
        notices.ignore("system")
    return Chat(asked, [_message(message) for message in asked.messages])


def parse_generate_request(body: Json) -> OllamaGenerateRequest | Chat | Text:
    """Check the body of a request to ``/api/generate``; one without a prompt stays as it is.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    asked = typed_fields(body, OllamaGenerateRequest, UNSUPPORTED)
    asked = structs.replace(asked, options=known_options(asked.options))
    kind = "raw" if asked.raw else "suffix" if asked.suffix else ""
    for name in ("system", "context", "images"):
        if kind and getattr(asked, name):
            raise InvalidParameter(
                f"{name} cannot be combined with {kind}: the prompt is used as it is.", name
            )
    if not (asked.prompt or asked.suffix or asked.images):
        return asked
    return Text(asked) if kind else conversation(asked)


def conversation(asked: OllamaGenerateRequest) -> Chat:
    """Return the conversation of a prompt, a system message, and the ``context``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    turns = from_context(asked.context)
    sources = ["context"] * len(turns)
    if asked.system:
        if turns and turns[0][0] == "system":
            turns, sources = turns[1:], sources[1:]
        turns, sources = [("system", asked.system), *turns], ["system", *sources]
    turns = [*turns, ("user", asked.prompt)]
    messages: list[Json] = [{"role": role, "content": text} for role, text in turns]
    if asked.images:
        messages[-1]["content"] = _parts(asked.prompt, asked.images)
    chat = Chat(asked, messages, [*sources, "prompt"])
    chat.turns = turns
    return chat


def with_defaults(request: R) -> R:
    """Return a request with Ollama's values of the sampling parameters that it does not set."""
    sampling = request.sampling
    absent = {name: value for name, value in DEFAULTS.items() if name not in sampling.given}
    params = dataclasses.replace(sampling.params, **absent)
    return structs.replace(request, sampling=structs.replace(sampling, params=params))


def _common(asked: OllamaChatRequest | OllamaGenerateRequest) -> Json:
    if asked.shift:
        notices.ignore("shift")
    if asked.top_logprobs and not asked.logprobs:
        notices.ignore("top_logprobs")
    return {
        "model": asked.model,
        "stream": asked.stream,
        "options": asked.options,
        "format": asked.format,
        "keep_alive": asked.keep_alive,
        "think": asked.think,
    }


def _message(message: OllamaMessage) -> Json:
    """Return a message in the form of a chat request."""
    result: Json = {"role": message.role, "content": message.content}
    if message.images:
        result["content"] = _parts(message.content, message.images)
    if message.thinking is not None:
        result["reasoning_content"] = message.thinking
    if message.tool_calls:
        result["tool_calls"] = [
            {"id": call.id, "function": {"name": call.function.name,
                                         "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]  # fmt: skip
    if message.tool_name is not None:
        result["name"] = message.tool_name
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    return result


def _parts(text: str, images: list[str]) -> list[Json]:
    """Return the text and the images of a message, in this order."""
    urls = (data if data.startswith("data:") else f"data:;base64,{data}" for data in images)
    return [
        {"type": "text", "text": text},
        *({"type": "image_url", "image_url": {"url": url}} for url in urls),
    ]


def _labels(options: Json) -> dict[str, str]:
    """Return the names of fields here -> their names in a request with these options."""
    names = {SAME.get(name, ALIASES.get(name, name)): f"options.{name}" for name in options}
    return {"json_schema": "format", "top_logprobs": "top_logprobs", **names}


def _labelled(error: RequestError, labels: Mapping[str, str]) -> RequestError:
    error = labelled(error, labels)
    message = of_options(error.message)
    return error if message == error.message else _changed(error, message, error.param)


def _changed(error: RequestError, message: str, param: str | None) -> RequestError:
    changed = type(error)(message, param, code=error.code)
    changed.retry_after = error.retry_after
    return changed
