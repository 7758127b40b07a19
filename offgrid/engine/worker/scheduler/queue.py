"""The queue for slots: which sequence gets the next one. Pure: no clock, no threads.

Slots are shared by caller. The next slot goes to a sequence of the caller that has the fewest
slots; among equals, to the caller whose turn it is. Turns are those of weighted fair queueing with
equal weights (Demers, Keshav and Shenker, 1989): the clock of the queue goes forward by one while
each waiting caller has a turn. A caller that comes may have its turn from now on, and the next one
when the clock has gone forward by one. The caller goes first who might go for longest.

A sequence has a class: interactive, normal or batch. Within a caller, a higher class goes first,
and within a class the order is that of arrival. Between callers only ``batch`` counts: it lets all
others go first. So no caller gets ahead of another one by calling its requests urgent. A class
that is passed over :data:`AGE` times counts as the next higher one.

The bounds:

- A caller that comes, and has no slot, waits for at most one turn of each other caller, unless it
  waits with ``batch`` alone; then for at most :data:`AGE` more.
- After a turn of a caller, each other caller that waits has at most one turn until that caller, if
  it has no slot then, has its next one; of those that come meanwhile, at most as many go first as
  callers wait.
- Any class of a caller is passed over by the caller's other classes at most 2 * :data:`AGE` + 2
  times.
- No slot is idle while a sequence waits.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic

from offgrid.engine.protocol.requests import BATCH
from offgrid.engine.worker.spans import S

AGE = 8
"""Turns that a class may be passed over before it counts as the next higher one."""
_ROUND = 720_720
"""The clock's unit: one turn of each waiting caller. All numbers up to 16 divide it."""
_Entry = tuple[int, S]
"""Number of the arrival, and the sequence."""


class _Line(Generic[S]):
    """The waiting sequences of one caller in one class."""

    __slots__ = ("entries", "level", "passed")

    def __init__(self, level: int, entries: Iterable[_Entry[S]] = (), passed: int = 0) -> None:
        self.level = level
        self.entries: deque[_Entry[S]] = deque(entries)
        self.passed = passed
        """Turns that went, since its last one, to another class of the caller; for
        ``batch``, those that went to anyone."""

    @property
    def rank(self) -> tuple[int, int]:
        """Its class after ageing, and the number of its first arrival."""
        return max(0, self.level - self.passed // AGE), self.entries[0][0]

    def copy(self) -> _Line[S]:
        return _Line(self.level, self.entries, self.passed)


class Waiting(Generic[S]):
    """The sequences that wait for a slot."""

    def __init__(self) -> None:
        self._returning: deque[S] = deque()
        """Sequences that were preempted. They have had their turn, so they come first."""
        self._lines: dict[str, dict[int, _Line[S]]] = {}
        """Caller -> class -> its sequences; without empty ones."""
        self._due: dict[str, tuple[int, int]] = {}
        """Caller -> clock from which it may have its next turn, and number of its latest turn; only
        of callers that wait, or may not have a turn yet."""
        self._clock = 0
        self._turns = 0
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        lines = (line for lines in self._lines.values() for line in lines.values())
        return len(self._returning) + sum(len(line.entries) for line in lines)

    def __bool__(self) -> bool:
        return bool(self._returning or self._lines)

    def __iter__(self) -> Iterator[S]:
        """The preempted sequences, then the others in order of arrival."""
        yield from list(self._returning)
        lines = (line for lines in self._lines.values() for line in lines.values())
        for _, sequence in sorted(itertools.chain(*(line.entries for line in lines)), key=_arrival):
            yield sequence

    def append(self, sequence: S) -> None:
        """Add a sequence that has just come."""
        owner = sequence.owner
        if owner not in self._lines:
            self._lines[owner] = {}
            due, latest = self._due.get(owner, (0, -1))
            self._due[owner] = max(due, self._clock), latest
        line = self._lines[owner].setdefault(sequence.priority, _Line(sequence.priority))
        line.entries.append((next(self._arrivals), sequence))

    def put_back(self, sequence: S) -> None:
        """Add a sequence that was preempted, before all others."""
        self._returning.appendleft(sequence)

    def remove(self, gone: Iterable[S]) -> None:
        """Remove sequences."""
        ids = {id(sequence) for sequence in gone}
        self._returning = deque(s for s in self._returning if id(s) not in ids)
        for owner, lines in list(self._lines.items()):
            for line in list(lines.values()):
                line.entries = deque(one for one in line.entries if id(one[1]) not in ids)
                self._drop_empty(owner, line)

    def take(self, running: Iterable[S]) -> S:
        """Remove and return the sequence that gets the next slot; there must be one.

        Args:
            running: the sequences that have slots now.
        """
        if self._returning:
            return self._returning.popleft()
        slots: dict[str, int] = {}
        for sequence in running:
            slots[sequence.owner] = slots.get(sequence.owner, 0) + 1
        heads = {owner: min(lines.values(), key=_rank) for owner, lines in self._lines.items()}
        owner = min(
            heads,
            key=lambda one: (
                heads[one].rank[0] >= BATCH,
                slots.get(one, 0),
                self._due[one],
                heads[one].rank[1],
            ),
        )
        return self._turn(owner, heads[owner])

    def _turn(self, owner: str, chosen: _Line[S]) -> S:
        """Give a turn to a caller and one of its classes."""
        for other, lines in self._lines.items():
            for line in lines.values():
                if line is not chosen and (other == owner or line.level == BATCH):
                    line.passed += 1
        chosen.passed = 0
        _, sequence = chosen.entries.popleft()
        self._turns += 1
        # From the clock and not from when its turn was due: otherwise a caller that had more turns
        # than others, because its sequences were short, would have to wait for theirs later.
        self._due[owner] = self._clock + _ROUND, self._turns
        self._clock += _ROUND // len(self._lines)
        self._drop_empty(owner, chosen)
        return sequence

    def _drop_empty(self, owner: str, line: _Line[S]) -> None:
        if line.entries:
            return
        del self._lines[owner][line.level]
        if not self._lines[owner]:
            del self._lines[owner]
            self._due = {
                one: due
                for one, due in self._due.items()
                if one in self._lines or due[0] > self._clock
            }

    def order(self, running: Iterable[S]) -> list[S]:
        """Return the sequences in the order in which they get slots if the running ones end in the
        order in which they began, and no other sequence comes."""
        copy = Waiting[S]()
        copy._returning = self._returning.copy()
        copy._lines = {
            owner: {level: line.copy() for level, line in lines.items()}
            for owner, lines in self._lines.items()
        }
        copy._due, copy._clock, copy._turns = dict(self._due), self._clock, self._turns
        slots, found = deque(running), []
        while copy:
            if slots:
                slots.popleft()
            found.append(copy.take(slots))
            slots.append(found[-1])
        return found


def _arrival(entry: _Entry[S]) -> int:
    return entry[0]


def _rank(line: _Line[S]) -> tuple[int, int]:
    return line.rank
