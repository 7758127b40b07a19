"""The paths of tokens that the branches of a request have."""

from __future__ import annotations

from offgrid.engine.worker.branching import BranchTokens

Tokens = tuple[int, ...]


def whole(tokens: BranchTokens) -> list[Tokens]:
    """The tokens of each choice, with those before it."""
    return [(*tokens.stem, *choice) for choice in tokens.choices]
