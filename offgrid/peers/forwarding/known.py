"""Where a model is: what the peers have reported, and in which order they are asked.

A name means a model of a peer if it is its id or one of its aliases, in any case and with or
without ``.gguf``. Beginnings of ids are not enough: which model they mean would depend on which
peers can be reached.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from offgrid.peers.book import Peer
from offgrid.store.names import stem_of

CONNECTED = "connected"
REFUSED = "refused"


class ReportedModel(Protocol):
    """A model as its peer has reported it; the fields are those of ``GET /v1/models``."""

    @property
    def id(self) -> str: ...
    @property
    def aliases(self) -> Sequence[str]: ...
    @property
    def sha256(self) -> str | None: ...


class Report(Protocol):
    """What a peer has last said about itself."""

    @property
    def models(self) -> Sequence[Any]: ...
    @property
    def slots_free(self) -> int: ...
    @property
    def queue(self) -> int: ...


class Known(Protocol):
    """A paired machine, its state, and its last report."""

    @property
    def peer(self) -> Peer: ...
    @property
    def state(self) -> str: ...
    @property
    def report(self) -> Any: ...


class Found(NamedTuple):
    """A model of a peer.

    Attributes:
        peer: the peer.
        model: the model as reported.
        connected: whether the peer answered the last question for its report.
    """

    peer: Peer
    model: Any
    connected: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Id and aliases."""
        return (self.model.id, *self.model.aliases)


class _Index:
    """The models of all peers as they were at a moment."""

    def __init__(self, known: Sequence[Known]) -> None:
        self.known = [*known]
        self.by_id: dict[str, list[Found]] = {}
        """Id -> the peers that have it, connected ones first."""
        self.by_name: dict[str, str] = {}
        """A name in any form -> the id that it means. Ids come before aliases, and names as they
        are written before others."""
        reported = [one for one in known if one.report is not None and one.state != REFUSED]
        reported.sort(key=lambda one: (one.state != CONNECTED, one.peer.paired_at))
        for one in reported:
            for model in one.report.models:
                found = Found(one.peer, model, one.state == CONNECTED)
                self.by_id.setdefault(model.id, []).append(found)
        entries = sorted((id, found[0].names) for id, found in self.by_id.items())
        for form in (str, str.casefold):
            for first, last in ((0, 1), (1, None)):
                for id, names in entries:
                    for name in names[first:last]:
                        self.by_name.setdefault(form(name), id)

    def holds(self, known: Sequence[Known]) -> bool:
        """Return whether nothing has changed since."""
        return len(known) == len(self.known) and all(
            old.report is new.report and old.state == new.state
            for old, new in zip(self.known, known, strict=True)
        )


class Whereabouts:
    """Knows which peers have which models. Thread-safe.

    Args:
        known: returns the paired machines as they are known now.
    """

    def __init__(self, known: Callable[[], Sequence[Known]]) -> None:
        self._known = known
        self._index = _Index(())
        self._lock = threading.Lock()
        self._sent: dict[str, tuple[Any, int]] = {}
        """Certificate -> a report, and requests sent since then, minus those that have ended."""

    def listed(self) -> list[Found]:
        """Return a model for each id, sorted by id: that of the peer which stands for it, a
        connected one if there is one."""
        return [found[0] for _, found in sorted(self._latest().by_id.items())]

    def names(self) -> list[str]:
        """Return the ids and aliases of all models of peers."""
        return [name for found in self.listed() for name in found.names]

    def find(self, name: str) -> list[Found]:
        """Return the models that a name means, in the order in which their peers are asked.

        All have the same id. Connected peers come first, of these the ones with the same hash as
        the first in :meth:`listed`, and of these the one with the most free slots and the shortest
        queue.
        """
        index = self._latest()
        for form in (name, name.casefold(), stem_of(name).casefold()):
            if form in index.by_name:
                found = index.by_id[index.by_name[form]]
                reports = {one.peer.certificate: one.report for one in index.known}
                return sorted(found, key=lambda one: self._rank(one, found[0], reports))
        return []

    def sent(self, peer: Peer, change: int) -> None:
        """Note that a request was sent to a peer (1), or has ended (-1)."""
        with self._lock:
            report, number = self._sent.get(peer.certificate, (None, 0))
            self._sent[peer.certificate] = (report, max(0, number + change))

    def _rank(self, one: Found, first: Found, reports: Mapping[str, Any]) -> tuple[bool, bool, int]:
        report = reports[one.peer.certificate]
        load = report.queue - report.slots_free + self._since(one.peer, report)
        return not one.connected, one.model.sha256 != first.model.sha256, load

    def _since(self, peer: Peer, report: object) -> int:
        """Return how many requests were sent to a peer that its report cannot know of."""
        with self._lock:
            seen, number = self._sent.get(peer.certificate, (None, 0))
            if seen is not report:
                number = 0
                self._sent[peer.certificate] = (report, number)
            return number

    def _latest(self) -> _Index:
        known = self._known()
        index = self._index
        if not index.holds(known):
            self._index = index = _Index(known)
        return index
