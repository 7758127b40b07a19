"""Parameters and examples of tests of which only some are in the default run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import hypothesis
import pytest


def few(n: int, values: Iterable[Any]) -> list[Any]:
    """Return the values for ``parametrize``; all but the first ``n`` are slow.

    A value may be a tuple with a value for each name, or an object of ``pytest.param``.
    """
    return [value if i < n else _slow(value) for i, value in enumerate(values)]


def examples(n: int, check: Callable[..., None], *strategies: Any) -> None:
    """Run a check with ``n`` examples: ``@pytest.mark.parametrize("n", few(1, [20, 200]))`` has the
    larger number as a slow variant."""
    suppressed = [hypothesis.HealthCheck.too_slow]
    bounds = hypothesis.settings(max_examples=n, deadline=None, suppress_health_check=suppressed)
    bounds(hypothesis.given(*strategies)(check))()


def _slow(value: Any) -> Any:
    if hasattr(value, "marks"):
        return pytest.param(*value.values, id=value.id, marks=[*value.marks, pytest.mark.slow])
    values = value if type(value) is tuple else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)
