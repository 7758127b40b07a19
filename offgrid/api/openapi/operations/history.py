"""The history of the web page."""

from __future__ import annotations

from offgrid.api.history import shapes as history
from offgrid.api.openapi.operations.operation import Body, Operation

_HISTORY = "/v1/history"

OPERATIONS = (
    Operation(
        "get",
        _HISTORY,
        "The conversations of the web page, pinned ones first, then the latest",
        (history.HistoryList,),
        query=("after", "limit", "query"),
        errors=(404, 503),
    ),
    Operation(
        "post",
        _HISTORY,
        "A new conversation of the history",
        (history.HistoryConversation,),
        body=Body((history.NewConversation,), optional=True),
        errors=(404, 409, 413, 503, 507),
    ),
    Operation(
        "get",
        f"{_HISTORY}/{{id}}",
        "A conversation of the history with its messages",
        (history.OpenedConversation,),
        query=("since",),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_HISTORY}/{{id}}",
        "Changes title, pinned, head or settings of a conversation",
        (history.HistoryConversation,),
        body=Body((history.ConversationChanges,)),
        errors=(404, 413, 503, 507),
    ),
    Operation(
        "delete",
        f"{_HISTORY}/{{id}}",
        "Deletes a conversation of the history",
        (history.DeletedHistory,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_HISTORY}/{{id}}/messages",
        "Adds messages to a conversation of the history",
        (history.HistoryConversation,),
        body=Body((history.NewMessages,)),
        errors=(404, 409, 413, 503, 507),
    ),
    Operation(
        "get",
        f"{_HISTORY}/{{id}}/export",
        "A conversation as a file: JSON with all branches, or Markdown with one",
        (history.HistoryExport,),
        texts=("text/markdown",),
        query=("format",),
        errors=(404, 503),
    ),
    Operation(
        "get",
        f"{_HISTORY}/export",
        "All conversations of the history as a file",
        (history.HistoryExport,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_HISTORY}/import",
        "Stores all conversations of an export, or none",
        (history.HistoryImport,),
        body=Body((history.HistoryExport,), texts=("text/markdown",)),
        errors=(404, 409, 413, 503, 507),
    ),
)
