"""Checks the bodies of ``/v1/history``.

``null`` counts as absent, except in ``settings`` and ``data``, which are the client's own JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from offgrid.api.fields.body import excess
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.common import refuse_others
from offgrid.api.fields.messages import EXAMPLES, invalid
from offgrid.api.history.shapes import (
    MAX_SETTINGS,
    ConversationChanges,
    HistoryExport,
    NewConversation,
    NewMessages,
)
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, MessageConflict
from offgrid.sampling import count_json
from offgrid.store.history.adding import Differs, Refused
from offgrid.store.history.markdown import InvalidMarkdown, parse_markdown
from offgrid.store.history.message import Conversation, StoredMessage

T = TypeVar("T", bound=msgspec.Struct)

VERSION = 1
"""Version of an export."""
RESERVED = frozenset({"export", "import"})
"""Ids that would be confused with endpoints."""
_COMMENT = re.compile(r"^<!-- (?:offgrid |part )?(\{.*\}) -->", re.MULTILINE)
_RULES = {
    "title": "must be one line, without control characters",
    "id": "must have 1 to 64 characters: letters of English, digits, - and _",
}
"""What the patterns of fields mean."""
_EXAMPLE = '[{"id": "msg_1", "role": "user", "content": "Hello!"}]'
_LISTS = frozenset({"content", "tool_calls"})


def parse_new(body: Json) -> NewConversation:
    """Check the body of a request for a new conversation."""
    new = _typed(body, NewConversation)
    check_id(new.id, "id")
    _check_settings(new.settings, "settings")
    _check_parts(new.messages, "")
    return new


def parse_changes(body: Json) -> ConversationChanges:
    """Check the body of a request that changes a conversation."""
    changes = _typed(body, ConversationChanges)
    _check_settings(changes.settings, "settings")
    return changes


def parse_messages(body: Json) -> NewMessages:
    """Check the body of a request that adds messages."""
    new = _typed(body, NewMessages)
    _check_parts(new.messages, "")
    return new


def parse_export(body: Json) -> HistoryExport:
    """Check the body of an import: an export."""
    export = _typed(body, HistoryExport)
    if export.version > VERSION:
        raise InvalidParameter(
            f"version {export.version} was written by a later version of OffGrid; this one reads "
            f"exports up to version {VERSION}.",
            "version",
        )
    for index, conversation in enumerate(export.conversations):
        place = f"conversations[{index}]."
        check_id(conversation.id, f"{place}id")
        _check_settings(conversation.settings, f"{place}settings")
        _check_parts(conversation.messages, place)
    return export


def parse_text(text: str) -> Conversation:
    """Check the Markdown of an import.

    Raises:
        InvalidParameter: it is not Markdown as exported; the message names the line. Or it has more
            JSON than a body may have.
    """
    comments = "[" + ",".join(_COMMENT.findall(text)) + "]"
    if too_much := excess(comments):
        raise InvalidParameter(f"The Markdown contains {too_much}.", code="too_many_values")
    if count_json(comments.encode()).depth > bounds().max_depth:
        raise InvalidParameter(
            f"A comment is nested too deeply (more than {bounds().max_depth} levels)."
        )
    try:
        conversation = parse_markdown(text)
    except InvalidMarkdown as ex:
        raise InvalidParameter(f"The Markdown cannot be imported: {ex}.") from None
    check_id(conversation.id, "id")
    _check_settings(conversation.settings, "settings")
    _check_parts(conversation.messages, "")
    return conversation


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what the store refuses into errors that name the field."""
    try:
        yield
    except Differs as ex:
        raise MessageConflict(ex.id, ex.reason, ex.place) from None
    except Refused as ex:
        raise InvalidParameter(f"{ex.place}: {ex.reason}.", ex.place) from None


def _typed(body: Json, cls: type[T]) -> T:
    fields = _present(body, _CONVERSATION)
    refuse_others(fields, cls.__struct_fields__, {})
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as ex:
        error = invalid(str(ex), fields, cls)
        place = error.param or ""
        if "matching regex" in str(ex):
            rule = _RULES["title" if place.endswith("title") else "id"]
            error = InvalidParameter(f"{place} {rule}.", place)
        # The example of chat has no id, which messages need here.
        message = error.message.replace(EXAMPLES["messages"], _EXAMPLE)
        error = InvalidParameter(message, error.param, code=error.code)
        raise error from None


Rules = dict[str, Callable[[Any], Any]]


def _present(value: Any, rules: Rules) -> Any:
    """Return an object without the fields that are null; ``rules`` are for those that are not."""
    if not isinstance(value, dict):
        return value
    return {
        name: rules[name](inner) if name in rules else inner
        for name, inner in value.items()
        if inner is not None
    }


def _items(rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def present(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [rule(item) for item in value if item is not None]

    return present


_MESSAGE: Rules = dict.fromkeys(_LISTS, _items(lambda item: item))
_messages = _items(lambda message: _present(message, _MESSAGE))
_CONVERSATION: Rules = {
    "messages": _messages,
    "conversations": _items(lambda item: _present(item, {"messages": _messages})),
}


def check_id(id: str | None, place: str) -> None:
    """Refuse an id that is the name of an endpoint."""
    if id in RESERVED:
        raise InvalidParameter(f"{place}: {id} is the name of an endpoint; choose another.", place)


def _check_settings(settings: Json | None, place: str) -> None:
    size = 0 if settings is None else len(msgspec.json.encode(settings))
    if size > MAX_SETTINGS:
        raise InvalidParameter(f"{place} has {size} bytes, at most {MAX_SETTINGS}.", place)


def _check_parts(messages: list[StoredMessage], where: str) -> None:
    for number, message in enumerate(messages):
        parts = message.content if isinstance(message.content, list) else []
        for index, part in enumerate(parts):
            if not isinstance(part.get("type"), str):
                place = f"{where}messages[{number}].content[{index}].type"
                raise InvalidParameter(
                    f"{place} is missing: each part needs a type, such as text or image_url.", place
                )
