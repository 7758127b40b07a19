"""``null`` anywhere in a body means that the value is absent, in the document and in the server."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from documented import Documented
from full_requests import Full, full_requests
from support import Json
from variants import few

from offgrid.api.anthropic.request import parse_messages
from offgrid.api.anthropic.request import to_chat as to_message
from offgrid.api.anthropic.signature import Signer
from offgrid.api.chat.request import parse_chat
from offgrid.api.completions.request import parse_completion
from offgrid.api.conversations.resource import parse_conversation, parse_new_items, parse_update
from offgrid.api.decisions.request import parse_decisions
from offgrid.api.embeddings import parse_embeddings
from offgrid.api.history.request import (
    parse_changes,
    parse_export,
    parse_new,
)
from offgrid.api.history.request import (
    parse_messages as parse_said,
)
from offgrid.api.lab.request import parse_lab
from offgrid.api.llama_server.request import parse_infill, parse_native
from offgrid.api.moderations import parse_moderations
from offgrid.api.ollama.convert import parse_chat_request, parse_generate_request
from offgrid.api.ollama.embed import parse_embed, parse_older
from offgrid.api.openapi.document import document
from offgrid.api.rerank import parse_rerank
from offgrid.api.responses.request import parse_responses, to_chat
from offgrid.api.score import parse_score
from offgrid.api.tokens import parse_detokenize, parse_tokenize
from offgrid.errors import InvalidParameter

SCHEMAS = Documented(document())
PLACES = {
    "continuation", "data_1", "data_2", "documents", "prompt", "queries", "text_1", "text_2",
    "tokens",
}  # fmt: skip
"""Fields with lists in which null is refused, since the places of the items matter."""
Path = tuple[Any, ...]


def embedding(body: Json) -> None:
    parse_embeddings(body).embedding()


def responses(body: Json) -> None:
    request, items = parse_responses(body)
    kept = [item for item in items if isinstance(item, dict)]
    to_chat(request, kept, range(len(kept)))


def message(body: Json) -> None:
    to_message(parse_messages(body), Signer(lambda: b"key"))


PARSERS: dict[str, Callable[[Json], Any]] = {
    "/v1/chat/completions": parse_chat,
    "/v1/completions": parse_completion,
    "/v1/messages": message,
    "/v1/responses": responses,
    "/v1/conversations": parse_conversation,
    "/v1/conversations/{id}": parse_update,
    "/v1/conversations/{id}/items": parse_new_items,
    "/v1/history": parse_new,
    "/v1/history/{id}": parse_changes,
    "/v1/history/{id}/messages": parse_said,
    "/v1/history/import": parse_export,
    "/v1/embeddings": embedding,
    "/v1/rerank": parse_rerank,
    "/completion": parse_native,
    "/infill": parse_infill,
    "/apply-template": parse_chat,
    "/v1/score": parse_score,
    "/v1/decisions": parse_decisions,
    "/v1/lab/distribution": parse_lab,
    "/v1/moderations": parse_moderations,
    "/tokenize": parse_tokenize,
    "/detokenize": parse_detokenize,
    "/api/chat": parse_chat_request,
    "/api/generate": parse_generate_request,
    "/api/embed": parse_embed,
    "/api/embeddings": parse_older,
}
REQUESTS = [
    full for full in full_requests("m", "seeing", "rank", "resp_1", "conv_1", "/stick", "spare")
    if full.path in PARSERS
]  # fmt: skip


def accepts(path: str, body: Json) -> bool:
    """Whether the server accepts a body."""
    try:
        PARSERS[path](body)
    except InvalidParameter:
        return False
    return True


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all values in a JSON value, itself included."""
    yield path
    inside = list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in value.items() if isinstance(value, dict) else inside:
        yield from places(inner, (*path, key))


def at(body: Json, path: Path) -> Any:
    for key in path:
        body = body[key]
    return body


def with_value(body: Json, path: Path, value: Any) -> Json:
    changed = copy.deepcopy(body)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def without(body: Json, path: Path) -> Json:
    changed = copy.deepcopy(body)
    del at(changed, path[:-1])[path[-1]]
    return changed


def pairs(body: Json, path: Path) -> Iterator[tuple[Json, Json, bool]]:
    """Bodies with null at a place, each with one in which it is absent, and whether it is an item
    of a list."""
    value = at(body, path)
    yield with_value(body, path, None), without(body, path), isinstance(path[-1], int)
    if isinstance(value, list):
        yield with_value(body, path, [None]), with_value(body, path, []), True
        yield with_value(body, path, [*value, None]), body, True
    if isinstance(value, dict):
        yield with_value(body, path, dict.fromkeys(value)), with_value(body, path, {}), False


def bodies(full: Full) -> Iterator[tuple[Json, Path]]:
    """Small bodies, each with the path of a value in it; no two of the same kind."""
    seen = set()
    for body in full.bodies():
        for field in body:
            small = {**full.required, field: body[field]}
            small = small if accepts(full.path, small) else body
            for path in places(body[field], (field,)):
                kind = tuple("*" if isinstance(key, int) else key for key in path)
                if (kind, type(at(small, path))) not in seen:
                    seen.add((kind, type(at(small, path))))
                    yield small, path


@pytest.mark.parametrize("full", few(3, REQUESTS), ids=lambda full: str(full.path))
def test_null_means_absent(full: Full) -> None:
    validator = SCHEMAS.body("post", full.path)
    lists = ("/v1/embeddings", "/api/embed", "/v1/moderations")
    ordered = PLACES | ({"input"} if full.path in lists else set())
    tried = 0
    for body, path in bodies(full):
        if "data" in path:  # JSON that the model reads: null is a value there
            continue
        for null, absent, item in pairs(body, path):
            tried += 1
            allowed, accepted = validator.is_valid(null), accepts(full.path, null)
            if item and path[0] in ordered:
                assert not allowed, null
                assert not accepted, null
            else:
                assert allowed == validator.is_valid(absent), null
                assert accepted == accepts(full.path, absent), null
    assert tried >= len(full.bodies()[0])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [None]}),
        ("/v1/responses", {"input": [None]}),
        ("/v1/completions", {"prompt": "x", "choice": [None]}),
        ("/v1/conversations/{id}/items", {"items": [None, None]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}],
                                  "documents": [{"text": None}]}),
    ],
)  # fmt: skip
def test_lists_and_objects_of_nulls_are_empty(path: str, body: Json) -> None:
    assert not SCHEMAS.body("post", path).is_valid(body)
    assert not accepts(path, body)
