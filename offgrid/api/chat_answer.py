"""The answer to a chat request, whole or in chunks: messages, reasoning, tool calls."""

from __future__ import annotations

import functools
import itertools
import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from offgrid.api.logprobs import prompt_logprobs
from offgrid.api.running import Mark, Running, Total
from offgrid.api.schema.body import excess
from offgrid.api.schema.chat import ChatRequest
from offgrid.chat.dialect import Dialect
from offgrid.chat.parser import AnswerParser, CallStart, Content, Event, Reasoning
from offgrid.engine.protocol import Delta, Grammar, PromptToken, TokenLogprob
from offgrid.errors import InvalidParameter
from offgrid.sampling import TextStream

Json = dict[str, Any]


class Talk:
    """A chat request in the way of talking of one model.

    Attributes:
        prompt: what the model reads.
        images: the files that it sees, and the request field of each.
        grammar: what its answer has to follow, None for anything.
        visible: control tokens whose text the answer's reader needs.
    """

    def __init__(
        self, request: ChatRequest, dialect: Dialect, images: Sequence[tuple[bytes, str]] = ()
    ) -> None:
        self.request = request
        self._dialect = dialect
        self._offer = offer = request.offer
        numbers = itertools.count()
        self.prompt = dialect.prompt(
            [message.for_template(numbers) for message in request.messages],
            list(offer.tools) or None,
            ask=request.add_generation_prompt is not False,
            resume=request.continue_final_message,
            variables=request.template_variables,
        )
        self.images = tuple(data for data, _ in images)
        self.image_params = tuple(param for _, param in images)
        self.visible = dialect.visible
        self.constrained = offer.constrained
        self.thinking = self.prompt.thinking
        self.grammar = self._grammar(request.grammar)

    def _grammar(self, wanted: Grammar | None) -> Grammar | None:
        """Return what the answer has to follow, for the functions and for ``response_format``."""
        offer = self._offer
        answer: Json | None = None
        schemas: list[tuple[str, str]] = []
        if wanted is not None and not offer.required:
            if wanted.kind != "json_schema":
                if offer.functions:
                    raise InvalidParameter(
                        f"{wanted.param} cannot be combined with functions that may be called.",
                        wanted.param,
                    )
                self.thinking = False  # the grammar begins where the answer does
                return wanted
            schemas.append((wanted.param, wanted.source))
            answer = _object(wanted)
            self.constrained = bool(offer.functions)
        if answer is None and not offer.constrained:
            return None
        places = {tool.function.name: i for i, tool in enumerate(self.request.tools or ())}
        for function in offer.functions:
            if function.parameters is not None and (offer.required or function.strict):
                param = f"tools[{places[function.name]}].function.parameters"
                schemas.append((param, json.dumps(function.parameters)))
        source = self._dialect.grammar(
            offer.functions,
            required=offer.required,
            parallel=offer.parallel,
            thinking=self.prompt.thinking,
            answer=answer,
        )
        param = "tools" if wanted is None else wanted.param
        return Grammar("answer", source, param, tuple(schemas))

    @property
    def offers_tools(self) -> bool:
        """Whether the answer may call functions."""
        return bool(self._offer.functions)

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings that the engine may look for anywhere in the answer.

        Where calls are guaranteed none may cut one, so :class:`Choice` looks for them in content.
        """
        return () if self._guards_calls else self.request.stops

    @property
    def _guards_calls(self) -> bool:
        return self.offers_tools and self.constrained

    @property
    def may_end_early(self) -> bool:
        """Whether a choice can be over before its generation is."""
        stopped = self._guards_calls and bool(self.request.stops)
        return stopped or (self.offers_tools and not self._offer.parallel)

    def choices(self) -> list[Choice]:
        """Return the choices of the answer, all still empty."""
        return [
            Choice(
                self._dialect.parser(
                    self._offer.names,
                    thinking=self.thinking,
                    constrained=self.constrained,
                    max_calls=0 if self._offer.parallel else 1,
                ),
                self.request.stops if self._guards_calls else (),
            )
            for _ in range(self.request.n)
        ]


def _object(wanted: Grammar) -> Json:
    """The schema of an answer, before it is checked where it is compiled."""
    too_much = excess(wanted.source)
    if too_much:
        raise InvalidParameter(f"{wanted.param} contains {too_much}.", wanted.param)
    try:
        schema = json.loads(wanted.source)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise InvalidParameter(f"{wanted.param} must be a JSON schema (an object).", wanted.param)
    return schema


class Choice:
    """One choice while it comes.

    Attributes:
        finish_reason: None as long as there is more to come.
        reasoning_tokens: tokens so far that are reasoning, its markers included.
    """

    def __init__(self, parser: AnswerParser, stops: tuple[str, ...] = ()) -> None:
        self._parser = parser
        self._content = TextStream(stops) if stops else None
        self._stops = stops
        self.finish_reason: str | None = None
        self.reasoning_tokens = 0

    def read(self, delta: Delta) -> list[Event]:
        """Take in a delta of the engine; return what it adds. After the end that is nothing."""
        if self.finish_reason is not None:
            return []
        thinking = self._parser.thinking
        events = self._heed_stops(self._parser.feed(delta.text))
        if thinking or self._parser.thinking:
            self.reasoning_tokens = delta.completion_tokens
        if self._content is not None and self._content.finished:
            self.finish_reason = "stop"
        elif delta.finish_reason is not None or self._parser.done:
            events += self._heed_stops(self._parser.finish())
            events += self._rest()
            self.finish_reason = delta.finish_reason or "stop"
            if self.finish_reason == "stop" and self._parser.calls:
                self.finish_reason = "tool_calls"
        return events

    def _heed_stops(self, events: list[Event]) -> list[Event]:
        """Cut content before a stop string; what may become one is held back, up to a call."""
        if self._content is None:
            return events
        heeded: list[Event] = []
        for event in events:
            if self._content.finished:
                break
            if isinstance(event, Content):
                text = self._content.feed(event.text.encode())
                heeded += [Content(text)] if text else []
            else:
                heeded += [*self._rest(), event]
        return heeded

    def _rest(self) -> list[Event]:
        """Content that was held back."""
        if self._content is None or self._content.finished:
            return []
        text, self._content = self._content.flush(), TextStream(self._stops)
        return [Content(text)] if text else []


def read_choices(
    talk: Talk, running: Running, total: Total, choices: list[Choice], *, whole: bool = False
) -> Iterator[tuple[int, Delta, list[Event]] | None]:
    """Yield index, delta and what it means, until every choice has ended; None in silence.

    With ``whole`` nothing is wanted before all is there, and nobody is woken for every token.

    A choice may end before its generation does (``parallel_tool_calls``); the rest is not read, and
    is cancelled with everything at the end of the response.
    """
    source: Iterator[tuple[int, Delta] | Mark | None]
    source = running.whole() if whole and not talk.may_end_early else running.deltas()
    running.rest = source
    for item in source:
        if not isinstance(item, tuple):  # no mark: there is one prompt
            yield None
            continue
        index, delta = item
        if choices[index].finish_reason is not None:
            continue
        total.add(index, delta)
        yield index, delta, choices[index].read(delta)
        if all(choice.finish_reason is not None for choice in choices):
            return


def answer_usage(total: Total, running: Running, choices: list[Choice]) -> Json:
    """Return the ``usage`` object of a chat answer."""
    usage: Json = total.usage(running.prompt_tokens)
    details = usage["completion_tokens_details"]
    details["reasoning_tokens"] = sum(choice.reasoning_tokens for choice in choices)
    return usage


def new_call_id() -> str:
    """Return an id for a call."""
    return f"call_{secrets.token_hex(12)}"


def whole_answer(head: Json, talk: Talk, running: Running) -> Json:
    """Collect the answer; ``head`` is what every answer begins with."""
    total = Total()
    choices = talk.choices()
    messages = [_Message() for _ in choices]
    logprobs: list[list[TokenLogprob]] = [[] for _ in choices]
    prompt: list[PromptToken] = []
    for item in read_choices(talk, running, total, choices, whole=True):
        if item is not None:
            index, delta, events = item
            prompt += delta.prompt
            logprobs[index] += delta.logprobs
            for event in events:
                messages[index].add(event)
    running.cancel()
    answers = [
        {
            "index": index,
            "message": messages[index].as_json(),
            "logprobs": _logprobs(logprobs[index]) if talk.request.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(choices)
    ]
    body = {**head, "choices": answers, "usage": answer_usage(total, running, choices)}
    if talk.request.prompt_logprobs is not None:
        body["prompt_logprobs"] = prompt_logprobs(prompt, talk.request.prompt_logprobs)
    return body


class _Message:
    """The message of a choice, piece by piece."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []

    def add(self, event: Event) -> None:
        if isinstance(event, Content):
            self._content.append(event.text)
        elif isinstance(event, Reasoning):
            self._reasoning.append(event.text)
        elif isinstance(event, CallStart):
            self._calls.append((event.name, []))
        else:
            self._calls[event.index][1].append(event.text)

    def as_json(self) -> Json:
        content = "".join(self._content)
        message: Json = {
            "role": "assistant",
            "content": None if self._calls and not content else content,
            "refusal": None,
            "annotations": [],
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": new_call_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(arguments)},
                }
                for name, arguments in self._calls
            ]
        return message


def stream_answer(head: Json, talk: Talk, running: Running) -> Iterator[Json | None]:
    """Yield the chunks of a stream: role, what is said, finish, and usage if asked for."""
    request = talk.request
    total = Total()
    choices = talk.choices()
    waiting: list[list[TokenLogprob]] = [[] for _ in choices]  # for the next chunk with text

    def chunk(index: int, delta: Json, finish_reason: str | None = None) -> Json:
        tokens, waiting[index] = waiting[index], []
        logprobs = _logprobs(tokens) if tokens else None
        choice = {
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason,
        }  # fmt: skip
        result: Json = {**head, "choices": [choice]}
        if request.include_usage:
            result["usage"] = None
        if request.obfuscate:
            result["obfuscation"] = secrets.token_urlsafe(secrets.randbelow(24))
        return result

    # Whether there will be content is not known yet, and text is added to what comes first.
    content = None if talk.offers_tools else ""
    for index in range(request.n):
        yield chunk(index, {"role": "assistant", "content": content, "refusal": None})
    for item in read_choices(talk, running, total, choices):
        if item is None:
            yield None
            continue
        index, delta, events = item
        waiting[index] += delta.logprobs
        for event in events:
            yield chunk(index, _delta(event))
        finish_reason = choices[index].finish_reason
        if finish_reason is not None:
            yield chunk(index, {}, finish_reason)
    if request.include_usage:
        yield {**head, "choices": [], "usage": answer_usage(total, running, choices)}


def _delta(event: Event) -> Json:
    """What a chunk says of one event."""
    if isinstance(event, Content):
        return {"content": event.text}
    if isinstance(event, Reasoning):
        return {"reasoning_content": event.text}
    call: Json = {"index": event.index}
    if isinstance(event, CallStart):
        call |= {"id": new_call_id(), "type": "function",
                 "function": {"name": event.name, "arguments": ""}}  # fmt: skip
    else:
        call["function"] = {"arguments": event.text}
    return {"tool_calls": [call]}


def _logprobs(tokens: list[TokenLogprob]) -> Json:
    return {"content": logprob_entries(tokens), "refusal": None}


def logprob_entries(tokens: list[TokenLogprob]) -> list[Json]:
    """Return tokens with their logprobs and alternatives as the API lists them."""
    return [
        {
            **_entry(token.piece, token.logprob),
            "top_logprobs": [_entry(piece, logprob) for piece, logprob in token.top],
        }
        for token in tokens
    ]


def _entry(piece: bytes, logprob: float) -> Json:
    text, data = _told(piece)
    return {"token": text, "logprob": logprob, "bytes": data}


@functools.lru_cache(maxsize=4096)
def _told(piece: bytes) -> tuple[str, list[int]]:
    """A token's text and bytes as the API tells them. The same few tokens come again and again."""
    return piece.decode("utf-8", "replace"), list(piece)
