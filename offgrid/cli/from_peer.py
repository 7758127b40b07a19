"""``offgrid import --from``: the running server copies models from a peer; this follows it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from offgrid.cli.progress import Teller
from offgrid.cli.talk.remote import Remote, ServerError
from offgrid.store.imports import Outcome

if TYPE_CHECKING:
    from offgrid.api.shapes import Json

_DIFFERENT = "another file has this name in the models directory; --replace replaces it"
_ENDS = ("import.completed", "import.failed", "import.cancelled")


def import_from_peer(
    remote: Remote, peer: str, ids: Sequence[str], replace: bool, teller: Teller
) -> int:
    """Let a server copy models from a peer; return the exit status. Ctrl-C cancels the copy.

    Args:
        remote: the server. It is closed.
        peer: the name or id of the peer.
        ids: the models.
        replace: whether a different file with the same name is replaced.
        teller: tells the user.

    Raises:
        ServerError: the server refuses the import, or ends before it does.
    """
    body = {"peer": peer, "ids": [*ids], "replace": replace}
    try:
        with contextlib.closing(remote), teller.running():
            made = _followed(remote, body, teller)
    except KeyboardInterrupt:
        teller.event(event="end", status="interrupted")
        teller.line("stopped; the same command continues the import")
        return 130
    counts = Counter(file["status"] for file in made["files"])
    error = made["error"] or {}
    status = "done" if made["status"] == "completed" else "failed"
    if error:
        teller.event(event="end", status=status, code=error["code"], reason=error["message"])
        teller.line(error["message"])
    else:
        teller.event(event="end", status=status, **counts)
    words = ", ".join(f"{counts[word]} {word}" for word in counts)
    teller.line(f"{words or 'nothing imported'}, by the server at {remote.url}")
    return 0 if status == "done" else 1


def _followed(remote: Remote, body: Json, teller: Teller) -> Json:
    """Tell the progress of an import; return it at its end."""
    with contextlib.closing(remote.events("/v1/import", body)) as events:  # type: ignore[type-var]
        for event in events:
            if event["type"] == "import.progress":
                now = event["progress"]
                teller.progress(now["file"], now["phase"], now["done"], now["total"])
            elif event["type"] == "import.file":
                teller.outcome(_outcome(event["file"]))
            elif event["type"] in _ENDS:
                made: Json = event["import"]
                return made
    raise ServerError("the server ended before the import did")


def _outcome(file: Json) -> Outcome:
    code = file["code"] or ""
    reason = _DIFFERENT if code == "different" else file["reason"] or ""
    return Outcome(file["status"], file["name"], reason, code, file["size"], file["id"] or "")
