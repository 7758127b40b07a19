"""llama-server's own API."""

from __future__ import annotations

from typing import Any

from offgrid.api.chat import request as chat
from offgrid.api.llama_server import request as llama_server
from offgrid.api.llama_server import shapes as llama_server_shapes
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations.bodies import CHAT, OF_A_MODEL, SAMPLING, SEED, generation_body
from offgrid.api.openapi.operations.operation import Operation, Struct

_NATIVE = {
    **SAMPLING,
    "max_tokens": by_hand.limit(0),
}


def _llama_server(method: str, path: str, summary: str, *answers: Struct, **more: Any) -> Operation:
    """Return an operation of llama-server's own API."""
    return Operation(
        method,
        path,
        summary,
        answers,
        error=llama_server_shapes.LlamaServerError,
        done=False,
        **more,
    )


def _completion(path: str) -> Operation:
    return _llama_server(
        "post",
        path,
        "The continuation of a text, in llama-server's form",
        *llama_server_shapes.ANSWERS,
        events=(llama_server_shapes.NativePart, *llama_server_shapes.ANSWERS),
        lists="also",
        body=generation_body(
            llama_server.NativeRequest, replaced={**_NATIVE, "prompt": by_hand.NATIVE_PROMPT}
        ),
        errors=OF_A_MODEL,
        headers=SEED,
    )


OPERATIONS = (
    _completion("/completion"),
    _completion("/completions"),
    _llama_server(
        "post",
        "/infill",
        "The text between two others",
        *llama_server_shapes.ANSWERS,
        events=(llama_server_shapes.NativePart, *llama_server_shapes.ANSWERS),
        lists="also",
        body=generation_body(llama_server.InfillRequest, replaced=_NATIVE),
        errors=OF_A_MODEL,
        headers=SEED,
    ),
    _llama_server(
        "post",
        "/apply-template",
        "The text that a conversation becomes",
        llama_server_shapes.AppliedTemplate,
        body=generation_body(chat.ChatRequest, name="ApplyTemplateRequest", replaced=CHAT),
        errors=OF_A_MODEL,
    ),
    _llama_server(
        "get",
        "/props",
        "Properties of the server and of a model",
        llama_server_shapes.Props,
        query=("model",),
        errors=(404, 409),
    ),
    _llama_server("post", "/props", "Not offered: every request gets an error", errors=(501,)),
    _llama_server(
        "get",
        "/slots",
        "What the slots of a model are used for",
        llama_server_shapes.SlotObject,
        lists="always",
        query=("model", "fail_on_no_slot"),
        errors=(404,),
    ),
    _llama_server("post", "/slots/{id}", "Not offered: every request gets an error", errors=(501,)),
)
