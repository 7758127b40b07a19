"""The branches of one request: in which order their tokens are computed, and what is read. Pure.

All choices of all branches form one trie below the prompt. Its nodes are computed depth first, so
that tokens that several choices, or several branches, have in common are computed once. Only one
path of the trie is in a slot at a time: before the next path is computed, the slot is cut where the
two part. If slots are idle, they compute other paths at the same time.

The row of a node tells how likely the tokens after it are. It is read once, for all choices that
pass through the node.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from offgrid.engine.protocol.events import BranchLogprobs

END = -1
"""Stands for the end of a choice, among the tokens that follow a row."""
TokenTuple = tuple[int, ...]
Lookup = Callable[[list[int]], list[float]]
"""Returns the logprobs of tokens, or of :data:`END`, from one row."""


class BranchTokens(NamedTuple):
    """The token ids of a branch, from the prompt on: ``stem``, and then one of ``choices``.

    All choices together, with the stem before them, must have at least one token in common.
    """

    stem: TokenTuple
    choices: list[TokenTuple]


@dataclass(slots=True)
class _Path:
    """The tokens of a choice of some branches, from the prompt on.

    Attributes:
        stem: the first of them, which paths of the same branch share in memory.
        rest: the others.
        owners: the branches, each with the index of the choice in it, and the index of the first
            token in which the choices of that branch differ.
        first: index of the token after which the row is the first one that is needed.
        shared: how many tokens it has in common with the path before.
        wanted: as ``first``, of this path and of later ones that share that token.
        begin: how many of its tokens are computed for paths before.
        fresh: how many of the others are computed before its choice, and how many of the choice.
        logprobs: of the tokens after ``first``, and of the end, as far as they are known.
    """

    stem: TokenTuple
    rest: TokenTuple
    owners: list[tuple[int, int, int]] = field(default_factory=list)
    first: int = 0
    shared: int = 0
    wanted: int = 0
    begin: int = 0
    fresh: tuple[int, int] = (0, 0)
    logprobs: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.stem) + len(self.rest)

    def __getitem__(self, index: int) -> int:
        size = len(self.stem)
        return self.stem[index] if index < size else self.rest[index - size]

    def begin_of(self, length: int) -> TokenTuple:
        """Return its first ``length`` tokens."""
        return self.stem[:length] + self.rest[: max(0, length - len(self.stem))]


class Trie:
    """The paths of all branches of a request, and which of them no sequence has begun yet.

    The paths are divided into groups. No row that one group needs is needed by another one, so
    several sequences may compute a group each at the same time.

    Args:
        branches: their tokens.
        ends: whether the end of each choice counts.
        forks: whether the model needs a copy of its state where paths part, because it cannot cut
            sequences there. Then all paths are one group.
        keeps_prompt: whether it needs one at the end of the prompt.

    Attributes:
        paths: in the order of a depth-first walk.
        forks: for each path, after how many of its tokens a copy of the state is needed.
        forked: whether there are such copies where paths part.
        waiting: the groups that are still to be begun, each as indices of paths.
        active: how many sequences compute a group now.
        prompt_tokens: number of tokens of the trie before the choices.
        choice_tokens: number of those of the choices that are computed.
        done: how many of ``choice_tokens`` have been computed.
    """

    def __init__(
        self,
        branches: Sequence[BranchTokens],
        *,
        ends: bool = True,
        forks: bool = False,
        keeps_prompt: bool = False,
    ) -> None:
        self.ends = ends
        self.paths = _paths(branches)
        self._left = [len(branch.choices) for branch in branches]
        self._sums = [[0.0] * len(branch.choices) for branch in branches]
        self._count()
        self.forked = forks
        self.forks = self._find_forks() if forks else [[] for _ in self.paths]
        if keeps_prompt or forks:
            self.forks[0].insert(0, 0)
        self.waiting = deque(self._groups())
        self.active = 0
        self.prompt_tokens = sum(path.fresh[0] for path in self.paths)
        self.choice_tokens = sum(path.fresh[1] for path in self.paths)
        self.done = 0

    def end(self, path: _Path) -> int:
        """Return how many tokens of a path are computed: the last one only if its row is needed."""
        return len(path) if self.ends else len(path) - 1

    def put_back(self, group: range) -> None:
        """Let the rest of a group be computed later, by another sequence."""
        for place in group:
            self.paths[place].logprobs = []
        self.waiting.appendleft(group)

    def finish(self, path: _Path) -> list[BranchLogprobs]:
        """Note that a path is computed; return the branches of which all logprobs are known now."""
        self.done += path.fresh[1]
        finished = []
        for branch, choice, start in path.owners:
            self._sums[branch][choice] = math.fsum(path.logprobs[start - path.first - 1 :])
            self._left[branch] -= 1
        for branch in dict.fromkeys(branch for branch, _, _ in path.owners):
            same = [choice for other, choice, _ in path.owners if other == branch]
            for choice in same:  # they share the probability
                self._sums[branch][choice] -= math.log(len(same))
            if not self._left[branch]:
                finished.append(BranchLogprobs(branch, tuple(self._sums[branch])))
        path.logprobs = []
        return finished

    def _groups(self) -> list[range]:
        if self.forked:
            return [range(len(self.paths))]
        # No row of the tokens that a path shares with those before is needed from there on.
        begins = [n for n, path in enumerate(self.paths) if not n or path.wanted >= path.shared]
        return [range(*pair) for pair in pairwise([*begins, len(self.paths)])]

    def _count(self) -> None:
        """Find out how many tokens each path adds to those before."""
        computed = 0
        for path in self.paths:
            path.begin = min(path.shared, computed)
            computed = max(path.begin, self.end(path))
            choice = min(max(path.first + 1, path.begin), computed)
            path.fresh = choice - path.begin, computed - choice

    def _find_forks(self) -> list[list[int]]:
        """Return, for each path, after how many of its tokens later paths part from it."""
        forks = []
        for place, path in enumerate(self.paths):
            found: set[int] = set()
            lowest = len(path)
            for later in self.paths[place + 1 :]:
                lowest = min(lowest, later.shared)
                if lowest <= path.begin:
                    break
                found.add(min(lowest, self.end(path)))
            forks.append(sorted(found))
        return forks


class Branching:
    """The way of one sequence through the groups of a trie. There must be one that waits.

    Attributes:
        trie: the paths. Several sequences of a request may share it.
        tokens: the tokens after the prompt that are to be computed now.
        states: copies of the model's state, by how many tokens after the prompt it has seen.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.tokens: TokenTuple = ()
        self.states: dict[int, Any] = {}
        trie.active += 1
        group = trie.waiting.popleft()
        self._at, self._stop = group.start, group.stop
        """The path that is computed now, and the end of its group."""
        self._next = trie.paths[self._at].wanted
        """Index of the token whose row is the next one to be read."""
        self._extend(-1)

    # --- what is computed now -----------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """Index, after the prompt, of the first token whose row is still needed."""
        return self._next

    def read(self, index: int, lookup: Lookup) -> None:
        """Read the row after the token with this index, if it is the next one that is needed."""
        if index != self._next:
            return
        readers: list[tuple[_Path, int]] = []
        for place in range(self._at, self._stop):
            path = self.trie.paths[place]
            if place > self._at and path.shared <= index:
                break
            if path.first > index:
                continue
            if index + 1 < len(path):
                readers.append((path, path[index + 1]))
            elif self.trie.ends:
                readers.append((path, END))
        tokens = list(dict.fromkeys(token for _, token in readers))
        found = dict(zip(tokens, lookup(tokens), strict=True)) if tokens else {}
        for path, token in readers:
            path.logprobs.append(found[token])
        self._next = index + 1

    # --- what comes next ----------------------------------------------------------------------

    @property
    def needs_state(self) -> bool:
        """Whether a copy of the model's state is needed after :attr:`tokens`."""
        return len(self.tokens) in self.trie.forks[self._at]

    def advance(self) -> tuple[int | None, tuple[BranchLogprobs, ...]]:
        """Go on after all of :attr:`tokens` were computed and their rows read.

        Returns:
            How many of the tokens stay, or None if there is nothing left to begin; and the branches
            of which all logprobs are known now.
        """
        trie, keep = self.trie, len(self.tokens)
        if keep < trie.end(trie.paths[self._at]):
            self._extend(keep)
            return keep, ()
        finished: list[BranchLogprobs] = []
        limit = keep
        while True:
            finished += trie.finish(trie.paths[self._at])
            self._at += 1
            if self._at == self._stop:
                if not trie.waiting:
                    trie.active -= 1
                    return None, tuple(finished)
                group = trie.waiting.popleft()
                self._at, self._stop = group.start, group.stop
                limit = trie.paths[self._at].wanted  # no row of this group has been read
            path = trie.paths[self._at]
            keep = path.begin if trie.forked else min(self._in_common(path), limit)
            if trie.end(path) > keep:
                break
        for depth in [depth for depth in self.states if depth > keep]:
            del self.states[depth]
        self._next = max(path.wanted, keep)
        self._extend(keep)
        return keep, tuple(finished)

    def stop(self) -> None:
        """Stop here; what is not finished waits for another sequence."""
        self.trie.active -= 1
        self.trie.put_back(range(self._at, self._stop))

    def _in_common(self, path: _Path) -> int:
        """Return how many tokens of a path were computed last."""
        return common_length([self.tokens, path.begin_of(len(path))])

    def _extend(self, done: int) -> None:
        """Let :attr:`tokens` be those of the path up to its next fork after ``done`` tokens, or to
        its end."""
        path = self.trie.paths[self._at]
        stops = [fork for fork in self.trie.forks[self._at] if fork > done]
        self.tokens = path.begin_of(min([*stops, self.trie.end(path)]))


def _paths(branches: Sequence[BranchTokens]) -> list[_Path]:
    """Return the different paths of all choices, in the order of a depth-first walk."""
    groups: dict[TokenTuple, dict[TokenTuple, _Path]] = {}
    for branch, (stem, choices) in enumerate(branches):
        start = len(stem) + common_length(choices)
        if not start:
            raise ValueError("the choices of a branch need a token in common")
        group = groups.setdefault(stem, {})
        for choice, rest in enumerate(choices):
            path = group.setdefault(rest, _Path(stem, rest, first=start - 1))
            path.owners.append((branch, choice, start))
            path.first = min(path.first, start - 1)
    paths = [group[rest] for _, group in sorted(groups.items()) for rest in sorted(group)]
    for before, path in pairwise(paths):
        if before.stem == path.stem:
            path.shared = len(path.stem) + common_length([before.rest, path.rest])
        else:
            path.shared = common_length([before.begin_of(len(before)), path.begin_of(len(path))])
    later: _Path | None = None
    for path in reversed(paths):
        path.wanted = path.first
        if later is not None and later.wanted < later.shared:
            path.wanted = min(path.wanted, later.wanted)
        later = path
    return paths


def common_length(texts: Sequence[TokenTuple]) -> int:
    """Return how many tokens several texts have in common at their beginning."""
    low, high = min(texts), max(texts)  # those of all others lie between
    for index, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return index
    return min(len(low), len(high))
