"""Where a model is: what the peers have reported, and in which order they are asked.

A name means a model of a peer if it is its id, in any case and with or without ``.gguf``, or one of
its aliases, in any case. Beginnings of ids are not enough: which model they mean would depend on
which peers can be reached.

The request is sent as it came, so a peer finds the model by that name. The same name may mean one
model on one peer and another one, or none, on another peer. Only peers on which it means the same
model are asked.
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


class _Names:
    """What names mean on a peer; the order is that in which its catalogue looks them up."""

    def __init__(self, models: Sequence[ReportedModel]) -> None:
        by_id = sorted(models, key=lambda model: model.id)
        self._ids = {model.id for model in by_id}
        self._aliases: dict[str, str] = {}
        for model in by_id:
            for alias in model.aliases:
                self._aliases.setdefault(alias, model.id)
        self._folded_aliases = {alias.casefold(): alias for alias in self._aliases}
        self._folded_ids: dict[str, str] = {}
        for id in self._ids:
            known = self._folded_ids.setdefault(id.casefold(), id)
            if known != id:  # the peer would not know which one is meant
                self._folded_ids[id.casefold()] = ""

    def meant(self, name: str) -> tuple[int, str] | None:
        """Return the id that a name means, after a number that is smaller the more exact the name
        is; None if it means no model."""
        if name in self._ids:
            return 0, name
        alias = name if name in self._aliases else self._folded_aliases.get(name.casefold(), name)
        if alias in self._aliases and alias not in self._ids:
            return (1 if alias == name else 2), self._aliases[alias]
        stem = stem_of(name)
        if stem in self._ids:
            return 3, stem
        id = self._folded_ids.get(stem.casefold())
        return (4, id) if id else None


class _Index:
    """The models of all peers as they were at a moment."""

    def __init__(self, known: Sequence[Known]) -> None:
        self.known = [*known]
        self.by_id: dict[str, list[Found]] = {}
        """Id -> the peers that have it, connected ones first."""
        self.names: dict[str, _Names] = {}
        """Certificate of a peer -> what names mean there."""
        reported = [one for one in known if one.report is not None and one.state != REFUSED]
        reported.sort(key=lambda one: (one.state != CONNECTED, one.peer.paired_at))
        for one in reported:
            self.names[one.peer.certificate] = _Names(one.report.models)
            for model in one.report.models:
                found = Found(one.peer, model, one.state == CONNECTED)
                self.by_id.setdefault(model.id, []).append(found)

    def meant(self, name: str) -> list[Found]:
        """Return the models that a name means, all with the same id: if it means several, the one
        for which it is the most exact, and of these the first one by id."""
        meant = {
            certificate: found
            for certificate, names in self.names.items()
            if (found := names.meant(name)) is not None
        }
        if not meant:
            return []
        _, id = min(meant.values())
        return [
            one
            for one in self.by_id[id]
            if one.peer.certificate in meant and meant[one.peer.certificate][1] == id
        ]

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
        found = self._latest().by_id.values()
        return list(dict.fromkeys(name for same in found for one in same for name in one.names))

    def meant(self, name: str) -> str | None:
        """Return the id that a name means; None if it means no model of a peer."""
        found = self._latest().meant(name)
        return found[0].model.id if found else None

    def find(self, name: str) -> list[Found]:
        """Return the models that a name means, in the order in which their peers are asked.

        All have the same id, and their peers find them by this name. Connected peers come first, of
        these the ones with the same hash as the first in :meth:`listed`, and of these the one with
        the most free slots and the shortest queue.
        """
        index = self._latest()
        found = index.meant(name)
        if not found:
            return []
        first = index.by_id[found[0].model.id][0]
        reports = {one.peer.certificate: one.report for one in index.known}
        return sorted(found, key=lambda one: self._rank(one, first, reports))

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
