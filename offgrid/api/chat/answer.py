"""The answer to a chat request, whole or in chunks: messages, reasoning, tool calls."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from offgrid.api.chat.choice import Choice
from offgrid.api.chat.prompt import ChatPrompt
from offgrid.api.generation import GenerationGroup, Signal, Total
from offgrid.api.logprobs import logprob_entries, prompt_logprobs
from offgrid.api.shapes import Json
from offgrid.api.timings import with_progress
from offgrid.chat.answer_parser import AnswerEvent, CallStart, Content, Reasoning
from offgrid.engine.protocol.events import Delta, PromptToken, TokenLogprob


def answer_usage(total: Total, group: GenerationGroup, choices: list[Choice]) -> Json:
    """Return the ``usage`` object of a chat answer."""
    usage: Json = total.usage(group.prompt_tokens)
    details = usage["completion_tokens_details"]
    details["reasoning_tokens"] = sum(choice.reasoning_tokens for choice in choices)
    return usage


def new_call_id() -> str:
    """Return an id for a tool call."""
    return f"call_{secrets.token_hex(12)}"


def read_choices(
    prompt: ChatPrompt,
    group: GenerationGroup,
    total: Total,
    choices: list[Choice],
    *,
    whole: bool = False,
) -> Iterator[tuple[int, Delta, list[AnswerEvent]] | None]:
    """Yield index, delta and events until every choice has ended; None if no delta came lately.

    With ``whole``, deltas are yielded only after their generation has ended, so that no thread
    wakes per token.

    A choice may end before the engine ends it (a stop string in the content,
    ``parallel_tool_calls``). Then the engine is told to end it, and its later deltas are ignored.
    """
    source: Iterator[tuple[int, Delta] | Signal | None]
    source = group.by_prompt() if whole and not prompt.may_end_early else group.deltas()
    group.keep_alive = source
    for item in source:
        if not isinstance(item, tuple):  # always None: with one prompt there are no marks
            yield None
            continue
        index, delta = item
        if choices[index].finish_reason is not None:
            continue
        total.add(index, delta)
        events = choices[index].read(delta)
        if choices[index].finish_reason is not None and delta.finish_reason is None:
            group.end(index)
        yield index, delta, events
        if all(choice.finish_reason is not None for choice in choices):
            return


def whole_answer(head: Json, prompt: ChatPrompt, group: GenerationGroup) -> Json:
    """Collect the answer; ``head`` holds its first fields, which are the same in every answer."""
    total = Total()
    choices = prompt.choices()
    messages = [_Message() for _ in choices]
    logprobs: list[list[TokenLogprob]] = [[] for _ in choices]
    prompt_tokens: list[PromptToken] = []
    for item in read_choices(prompt, group, total, choices, whole=True):
        if item is not None:
            index, delta, events = item
            prompt_tokens += delta.prompt
            logprobs[index] += delta.logprobs
            for event in events:
                messages[index].add(event)
    group.cancel()
    answers = [
        {
            "index": index,
            "message": messages[index].as_json(),
            "logprobs": _logprobs(logprobs[index]) if prompt.request.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(choices)
    ]
    body = {
        **head,
        "choices": answers,
        "usage": answer_usage(total, group, choices),
        "timings": total.timings(group.prompt_tokens),
    }
    if prompt.request.prompt_logprobs is not None:
        body["prompt_logprobs"] = prompt_logprobs(prompt_tokens, prompt.request.prompt_logprobs)
    return body


class _Message:
    """The message of a choice, collected from events."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []

    def add(self, event: AnswerEvent) -> None:
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


def stream_answer(head: Json, prompt: ChatPrompt, group: GenerationGroup) -> Iterator[Json | None]:
    """Yield the chunks of a stream: role, deltas, finish_reason, and usage if requested."""
    request = prompt.request
    total = Total()
    choices = prompt.choices()
    waiting: list[list[TokenLogprob]] = [[] for _ in choices]  # for each choice's next chunk

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
        ends = finish_reason is not None and not request.include_usage
        ends = ends and all(choice.finish_reason is not None for choice in choices)
        if ends or (request.timings_per_token and total.begun):
            result["timings"] = total.timings(group.prompt_tokens)
        return result

    # With tools, an answer may have no content, so begin with null. Clients append later content.
    content = None if prompt.offers_tools else ""
    for index in range(request.n):
        yield chunk(index, {"role": "assistant", "content": content, "refusal": None})
    for item in read_choices(prompt, group, total, choices):
        if item is None:
            yield None
            continue
        index, delta, events = item
        waiting[index] += delta.logprobs
        if delta.progress is not None:
            yield with_progress(chunk(index, {}), delta, group.prompt_length(0))
        for event in events:
            yield chunk(index, _delta(event))
        finish_reason = choices[index].finish_reason
        if finish_reason is not None:
            yield chunk(index, {}, finish_reason)
    if request.include_usage:
        yield {
            **head,
            "choices": [],
            "usage": answer_usage(total, group, choices),
            "timings": total.timings(group.prompt_tokens),
        }


def _delta(event: AnswerEvent) -> Json:
    """Return the delta of a chunk for one event."""
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
