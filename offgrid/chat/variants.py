"""Variants of a conversation, for templates that refuse it as it is.

Some templates accept only one order of messages: users and assistants alternate, the only system
message comes first, every result follows a call. The API accepts any order. Each variant changes
as little as possible, and no text is lost.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from offgrid.chat.conventions import Conventions, Message

Messages = list[Message]

_NO_RESULT = "No result."
"""The result of a call whose result is missing, for templates that require one."""
_MISSING_USER = {("nothing", kind) for kind in ("assistant", "call", "tool")} | {
    ("assistant", "call")
}
"""Neighbours between which a user message is missing."""
_BLANK = " "
"""Content for templates that refuse an empty message."""


def variants(messages: Messages, forms: Conventions) -> Iterator[Messages]:
    """Yield a conversation as it is, then its variants, the least changed first.

    Variants in which the template would omit a system message, a result that follows no call, or a
    call at either end of the conversation are left out.

    Args:
        messages: as for a template; ``content`` is text.
        forms: the conventions of the template.
    """
    seen: list[Messages] = []
    if not forms.keeps_orphans:
        messages = _without_orphans(messages)
    if forms.either_content or not forms.keeps_content:
        messages = _content_apart(messages)
    if not forms.keeps_first_call:
        messages = _begun_by_user(messages)
    if not forms.keeps_last_call:
        messages = [*messages, *_missing_results(messages[-1:])]
    if not _omits_system(messages, forms):
        seen.append(messages)
        yield messages
    objects = [_with_objects(message) for message in messages]
    for calls in (objects, _with_joined_reasoning(objects), as_text(objects)):
        arranged = calls
        for system in (_unchanged, _join_first_system, _fold_later_system, _fold_all_system):
            arranged = system(arranged)
            if _omits_system(arranged, forms):
                continue
            for turns in _turns(arranged, forms.keeps_content):
                if turns not in seen:
                    seen.append(turns)
                    yield turns


def _omits_system(messages: Messages, forms: Conventions) -> bool:
    """Return whether the template omits a system message, because of its place."""
    first = _count_first_system(messages)
    if first and not forms.keeps_system and first < len(messages):
        return True
    if first > 1 and not forms.keeps_first_system:
        return True
    if first == len(messages):
        return not forms.keeps_lone_system
    last = messages[-1]["role"]
    if first and last == "tool" and not forms.keeps_system_before_results:
        return True
    if first and last == "assistant" and not forms.keeps_system_before_answer:
        return True
    return not forms.keeps_later_system and any(m["role"] == "system" for m in messages[first:])


def _turns(messages: Messages, keeps_content: bool) -> Iterator[Messages]:
    called = _without_orphans(messages)
    yield messages
    yield called
    # A template that refuses a conversation may refuse a call without a result, or pass over it.
    yield _completed(called)
    yield _alternating(_completed(messages), "", keeps_content)
    yield _alternating(_filled(_completed(called)), _BLANK, keeps_content)
    # Results that the template does not know are texts; calls may have none.
    yield _alternating(called, "", keeps_content)
    yield _alternating(_filled(called), _BLANK, keeps_content)


def as_text(messages: Iterable[Message]) -> Messages:
    """Return messages in which calls and results are the text of assistants and users."""
    return [_call_as_text(m) if m.get("tool_calls") else _result_as_text(m) for m in messages]


def _call_as_text(message: Message) -> Message:
    calls = [_written(call["function"]) for call in message["tool_calls"]]
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**plain, "content": "\n".join(filter(None, [message["content"], *calls]))}


def _written(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"


def _result_as_text(message: Message) -> Message:
    if message["role"] != "tool":
        return message
    return {"role": "user", "content": f"<tool_response>{message['content']}</tool_response>"}


def _joined(texts: Iterable[str | None]) -> str:
    return "\n\n".join(filter(None, texts))


# --- calls ----------------------------------------------------------------------------------------


def _with_objects(message: Message) -> Message:
    """Return a message in which arguments given as text become an object with key "arguments"."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        if isinstance(function["arguments"], str):
            function = {**function, "arguments": {"arguments": function["arguments"]}}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def _content_apart(messages: Messages) -> Messages:
    """Write content beside calls as a message of its own, for templates that write only one."""
    apart: Messages = []
    for message in messages:
        if message.get("tool_calls") and message["content"]:
            apart.append({"role": message["role"], "content": message["content"]})
            message = {**message, "content": ""}
        apart.append(message)
    return apart


def _with_joined_reasoning(messages: Messages) -> Messages:
    """Put content into the reasoning where a message has both, and calls: some allow only one."""
    changed = []
    for message in messages:
        if message.get("tool_calls") and message["content"] and message.get("reasoning_content"):
            reasoning = _joined([message["reasoning_content"], message["content"]])
            message = {**message, "content": "", "reasoning_content": reasoning}
        changed.append(message)
    return changed


def _without_orphans(messages: Messages) -> Messages:
    """Write results that follow no call as a user's text."""
    written = []
    after_call = False
    for message in messages:
        if message["role"] != "tool":
            after_call = bool(message.get("tool_calls"))
        written.append(message if after_call else _result_as_text(message))
    return written


def _completed(messages: Messages) -> Messages:
    """Give every call a result."""
    complete: Messages = []
    waiting = _Waiting(())
    for message in messages:
        if message["role"] == "tool":
            waiting.answer(message.get("tool_call_id"))
        else:
            complete += map(_missing_result, waiting.calls)
            waiting = _Waiting(message.get("tool_calls") or ())
        complete.append(message)
    return [*complete, *map(_missing_result, waiting.calls)]


class _Waiting:
    """The calls of a message that have no result yet; there may be thousands."""

    def __init__(self, calls: Iterable[Message]) -> None:
        # Finding the first one takes constant time here, but not in a dictionary.
        self._calls = OrderedDict(enumerate(calls))
        self._places: dict[str | None, deque[int]] = {}
        for place, call in self._calls.items():
            self._places.setdefault(call["id"], deque()).append(place)

    @property
    def calls(self) -> Iterable[Message]:
        """Those that are left, in order."""
        return self._calls.values()

    def answer(self, id: str | None) -> None:
        """Remove the call that a result belongs to: the one with its id, or else the first."""
        if not self._calls:
            return
        places = self._places.get(id)
        place = places[0] if places else next(iter(self._calls))
        call = self._calls.pop(place)
        self._places[call["id"]].popleft()


def _missing_results(messages: Messages) -> Messages:
    return [_missing_result(call) for m in messages for call in m.get("tool_calls") or ()]


def _missing_result(call: Message) -> Message:
    result = {"role": "tool", "content": _NO_RESULT, "name": call["function"]["name"]}
    return result if call["id"] is None else {**result, "tool_call_id": call["id"]}


# --- system messages ------------------------------------------------------------------------------


def _begun_by_user(messages: Messages) -> Messages:
    """Put a user message in front of any other, apart from system messages."""
    first = _count_first_system(messages)
    if first == len(messages) or messages[first]["role"] == "user":
        return messages
    return [*messages[:first], {"role": "user", "content": ""}, *messages[first:]]


def _unchanged(messages: Messages) -> Messages:
    return messages


def _count_first_system(messages: Messages) -> int:
    others = (place for place, message in enumerate(messages) if message["role"] != "system")
    return next(others, len(messages))


def _join_first_system(messages: Messages) -> Messages:
    """Join the system messages with which the conversation begins."""
    count = _count_first_system(messages)
    if count < 2:
        return messages
    content = _joined(message["content"] for message in messages[:count])
    return [{**messages[0], "content": content}, *messages[count:]]


def _fold_later_system(messages: Messages) -> Messages:
    return _folded(messages, first=1)


def _fold_all_system(messages: Messages) -> Messages:
    return _folded(messages, first=0)


def _folded(messages: Messages, first: int) -> Messages:
    """Write the system messages from index ``first`` on as a user's text.

    Each goes in front of the user message that follows it; if another message follows, to the end
    of the user message before it, or into a new one.
    """
    folded: Messages = messages[:first]
    pending: list[str] = []
    for message in messages[first:]:
        if message["role"] == "system":
            pending.append(message["content"])
            continue
        if pending and message["role"] == "user":
            message = {**message, "content": _joined([*pending, message["content"]])}
        elif pending:
            _add_user(folded, pending)
        pending = []
        folded.append(message)
    if pending:
        _add_user(folded, pending)
    return folded


def _add_user(messages: Messages, texts: list[str]) -> None:
    if messages and messages[-1]["role"] == "user":
        last = messages.pop()
        messages.append({**last, "content": _joined([last["content"], *texts])})
    else:
        messages.append({"role": "user", "content": _joined(texts)})


# --- turns ----------------------------------------------------------------------------------------


def _filled(messages: Messages) -> Messages:
    return [
        {**message, "content": _BLANK}
        if message["role"] != "tool" and not message["content"] and not message.get("tool_calls")
        else message
        for message in messages
    ]


def _alternating(messages: Messages, filler: str, keeps_content: bool) -> Messages:
    """Return messages in which users and assistants alternate, apart from calls and results.

    Neighbouring messages of one role become one. Where one of the other role is missing, a message
    with the content ``filler`` takes its place.
    """
    bridged: Messages = []
    before = "nothing"
    for message in _merged(messages, keeps_content):
        kind = "call" if message.get("tool_calls") else message["role"]
        if kind == "user" and before in ("call", "tool"):
            bridged.append({"role": "assistant", "content": filler})
        elif (before, kind) in _MISSING_USER:
            bridged.append({"role": "user", "content": filler})
        before = before if kind == "system" else kind
        bridged.append(message)
    return bridged


def _merged(messages: Sequence[Message], keeps_content: bool) -> Messages:
    # Joined at the end, as there may be thousands.
    groups: list[Messages] = []
    for message in messages:
        if groups and _belongs(groups[-1][-1], message, keeps_content):
            groups[-1].append(message)
        else:
            groups.append([message])
    return [_one(group) for group in groups]


def _belongs(last: Message, message: Message, keeps_content: bool) -> bool:
    if last["role"] != message["role"] or message["role"] not in ("user", "assistant"):
        return False
    return not last.get("tool_calls") and (keeps_content or not message.get("tool_calls"))


def _one(group: Messages) -> Message:
    """Return one message with the texts of all, and the calls of the last."""
    if len(group) == 1:
        return group[0]
    one = {**group[0], "content": _joined(message["content"] for message in group)}
    reasoning = _joined(message.get("reasoning_content") for message in group)
    if reasoning:
        one["reasoning_content"] = reasoning
    if group[-1].get("tool_calls"):
        one["tool_calls"] = group[-1]["tool_calls"]
    return one
