"""How well the counts of drawn tokens fit the distribution that they were drawn from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from offgrid.sampling import Distribution

_LEAST_EXPECTED = 5.0
"""Cells of the test with a smaller expected count are put together: the usual rule for Pearson's
test, whose statistic follows its limit badly otherwise."""
_MOST_TERMS = 10_000


class Fit(NamedTuple):
    """Pearson's chi-squared test of counts against expected ones.

    Attributes:
        chi_square: the statistic.
        degrees: the degrees of freedom; 0 if there is one cell only.
        p_value: how likely a statistic at least as large is if the counts follow the distribution;
            None without degrees of freedom.
    """

    chi_square: float
    degrees: int
    p_value: float | None


def fit(tokens: Sequence[int], expected: Distribution) -> Fit:
    """Return how well drawn tokens fit the distribution that they were drawn from."""
    n, counts = len(tokens), Counter(tokens)
    cells = [
        (counts[token], n * probability)
        for token, probability in expected.top(int(n / _LEAST_EXPECTED) + 1)
        if n * probability >= _LEAST_EXPECTED
    ]
    rest = (n - sum(count for count, _ in cells), n - math.fsum(want for _, want in cells))
    if rest[1] >= _LEAST_EXPECTED or not cells:
        cells.append(rest)
    elif rest[0] or rest[1] > 1e-6 * n:  # too little for its own cell
        count, want = cells.pop()
        cells.append((count + rest[0], want + rest[1]))
    statistic = math.fsum((count - want) ** 2 / want for count, want in cells if want > 0)
    degrees = len(cells) - 1
    return Fit(statistic, degrees, chi_square_tail(statistic, degrees) if degrees else None)


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Return the probability that a chi-squared variable is at least ``statistic``.

    It is the regularised incomplete gamma function Q(degrees / 2, statistic / 2): its series (DLMF
    8.7.1) or, for large values, its continued fraction (DLMF 8.9.2).
    """
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        return max(0.0, 1.0 - scale * _series(a, x))
    return min(1.0, scale * _fraction(a, x))


def _series(a: float, x: float) -> float:
    term = total = 1 / a
    for n in range(1, _MOST_TERMS):
        term *= x / (a + n)
        total += term
        if term < total * 1e-16:
            break
    return total


def _fraction(a: float, x: float) -> float:
    """Evaluate the fraction from its beginning, as Lentz did (Numerical Recipes, section 5.2)."""
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    value = d
    for n in range(1, _MOST_TERMS):
        numerator = n * (a - n)
        b += 2
        d = 1 / (numerator * d + b or tiny)
        c = b + numerator / c or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return value
