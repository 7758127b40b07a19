"""What a row of the tables says: request and answers of one method of one path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from offgrid.api.shapes import Error

Struct = type[msgspec.Struct]


@dataclass(frozen=True)
class Body:
    """The JSON object that a request carries.

    Attributes:
        types: the struct that checks the body; several if the body's fields decide which.
        name: its name in the document, if not the struct's name.
        ignored: fields that have no effect.
        aliases: other names of fields.
        foreign: whether foreign fields are translated.
        replaced: schemas of fields whose types allow more than the checks.
        hidden: attributes of the struct that are not fields of the body.
        optional: whether the request may have no body.
        more: structs that check the fields from which hidden attributes are made.
        texts: media types of a body that is text and not JSON.
    """

    types: tuple[Struct, ...]
    name: str | None = None
    ignored: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    foreign: bool = False
    replaced: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    optional: bool = False
    more: tuple[Struct, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """Request and answers of one method of one path.

    Attributes:
        method: in lower case; an entry for GET includes HEAD.
        path: as in the document, with ``{name}`` for a parameter.
        summary: a description in a few words.
        answers: types of a whole answer; several if the request decides which.
        events: types of the events of a stream, if the answer may be one.
        named: whether the events have names, without ``[DONE]`` after the last one.
        body: the body of the request.
        query: names of query parameters; all are optional strings.
        errors: error statuses besides those that any request may get.
        headers: more headers of the answer.
        later: whether the answer has status 202 if the request does not wait.
        creates: whether the answer has status 201.
        public: whether it needs no key.
        texts: media types of an answer that is text and not JSON.
        files: media types of an answer that is a file.
        leads: when the answer is a redirection (302); empty if it never is.
        failures: type of the answer by error status, where that is not the error object.
        error: type of the error object.
        lines: whether the events of a stream are lines of JSON.
        done: whether ``[DONE]`` follows the last event of a stream without names.
        lists: whether the answer is a list of these types.
    """

    method: str
    path: str
    summary: str
    answers: tuple[Struct, ...]
    events: tuple[Struct, ...] = ()
    body: Body | None = None
    query: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()
    named: bool = False
    later: bool = False
    creates: bool = False
    public: bool = False
    texts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    leads: str = ""
    failures: Mapping[int, Struct] = field(default_factory=dict)
    error: Struct = Error
    lines: bool = False
    done: bool = True
    lists: Literal["never", "also", "always"] = "never"

    @property
    def names_a_model(self) -> bool:
        """Whether its body names the model, for which the request may wait."""
        kinds = () if self.body is None else self.body.types
        return any("model" in kind.__struct_fields__ for kind in kinds)
