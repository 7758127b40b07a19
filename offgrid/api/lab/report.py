"""The answer of ``/v1/lab/distribution``, made from what the steps have done."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from offgrid.api.lab.samples import fit
from offgrid.api.lab.steps import END_TOKENS, Outcome, Pipeline, Trace
from offgrid.api.shapes import Json
from offgrid.engine.protocol.events import LogitsRow
from offgrid.sampling import Distribution


class Pieces(dict[int, bytes]):
    """The pieces of tokens by their ids. Tokens are written as ids first, and described when all
    pieces that the answer needs are known."""

    def of(self, token: int) -> Json:
        """Return the id, the text and the bytes of a token."""
        piece = self[token]
        return {"id": token, "piece": piece.decode("utf-8", "replace"), "bytes": [*piece]}


class Report:
    """Collects what is shown, and writes it when the pieces of its tokens are known.

    Args:
        pipeline: the samplers.
        traces: what each step has done.
        top: how many tokens of each distribution are shown.
        breakers: the texts of DRY's sequence breakers.
    """

    def __init__(
        self, pipeline: Pipeline, traces: Sequence[Trace], top: int, breakers: Sequence[str]
    ) -> None:
        self._pipeline = pipeline
        self._breakers = breakers
        self._traces = traces
        self._top = top
        self._shown: dict[int, list[tuple[int, float]]] = {}
        """By the id of a distribution: its most likely tokens."""
        self.model, self.final = traces[0].after, traces[-1].after

    def ids(self, answer: Iterable[int], more: Iterable[int]) -> set[int]:
        """Return the ids of all tokens that the answer names.

        Args:
            answer: the answer so far.
            more: tokens that were drawn and are shown.
        """
        ids = {*answer, *more}
        for change in self._changes():
            ids.update(token for token, _ in self._best(change.after))
            ids.update(token for token, _ in self._gone(change))
        return ids

    def _changes(self) -> Iterable[Trace | Outcome]:
        for trace in self._traces:
            if trace.off is None:
                yield trace
                yield from trace.outcomes

    def _best(self, shown: Distribution) -> list[tuple[int, float]]:
        if id(shown) not in self._shown:
            self._shown[id(shown)] = shown.top(self._top)
        return self._shown[id(shown)]

    def _gone(self, change: Trace | Outcome) -> list[tuple[int, float]]:
        return change.before.lost(change.after).top(self._top)

    # --- the answer ---------------------------------------------------------------------------

    def steps(self, pieces: Pieces) -> list[Json]:
        """Return all steps, the model's own distribution first."""
        return [self._step(trace, pieces) for trace in self._traces]

    def final_tokens(self, pieces: Pieces) -> Json:
        """Return the distribution that a token is drawn from."""
        return {
            "kept": self.final.kept,
            "entropy": self.final.entropy,
            "tokens": [
                {**self.token(pieces, token), "before": min(1.0, self.model[token])}
                for token, _ in self._best(self.final)
            ],
        }

    def token(self, pieces: Pieces, token: int) -> Json:
        """Return a token with its probability of being drawn."""
        return {**pieces.of(token), "probability": min(1.0, self.final[token])}

    def _step(self, trace: Trace, pieces: Pieces) -> Json:
        step: Json = {
            "step": "model" if trace.step is None else trace.step.name,
            "parameters": {} if trace.step is None else self._parameters(trace),
            "active": trace.off is None,
            "inactive": trace.off,
            **self._change(trace, pieces, listed=trace.off is None),
        }
        if trace.step is None:
            for token in step["tokens"]:
                del token["before"]
                token["logit"] = _finite(self._pipeline.logits[token["id"]])
        elif trace.step.name == "temperature" and trace.off is None:
            step["temperature"] = trace.after.temperature
        if trace.outcomes:
            step["outcomes"] = [
                {
                    "applied": outcome.applied,
                    "chance": outcome.chance,
                    **self._change(outcome, pieces, listed=True),
                }
                for outcome in trace.outcomes
            ]
        if trace.state is not None:
            step["state"] = trace.state
        return step

    def _parameters(self, trace: Trace) -> Json:
        assert trace.step is not None
        params = self._pipeline.params
        values: dict[str, Any] = {name: getattr(params, name) for name in trace.step.params}
        if trace.step.name == END_TOKENS:
            values["ignore_eos"] = self._pipeline.ignore_eos
        if values.pop("dry_breakers", None) is not None:
            values["dry_sequence_breakers"] = [*self._breakers]
        if "logit_bias" in values:
            values["logit_bias"] = {
                str(token): False if bias == -math.inf else bias
                for token, bias in (params.logit_bias or {}).items()
            }
        return values

    def _change(self, change: Trace | Outcome, pieces: Pieces, *, listed: bool) -> Json:
        before, after = change.before, change.after
        lost = before.lost(after)
        best = self._best(after) if listed else []
        gone = lost.top(self._top) if listed else []
        return {
            "kept": after.kept,
            "removed": lost.kept,
            "removed_probability": min(1.0, lost.total),
            "entropy": after.entropy,
            "tokens": [_shown(pieces, token, after, before) for token, _ in best],
            "removed_tokens": [_shown(pieces, token, after, before) for token, _ in gone],
        }


def _shown(pieces: Pieces, token: int, after: Distribution, before: Distribution) -> Json:
    return {
        **pieces.of(token),
        "probability": min(1.0, after[token]),
        "before": min(1.0, before[token]),
    }


def _finite(logit: float) -> float:
    """Return a logit that JSON can have."""
    return logit if math.isfinite(logit) else -9999.0


def listed_counts(tokens: Sequence[int], expected: Distribution, top: int) -> list[int]:
    """Return the tokens whose counts are shown: the most likely ones, then others that were
    drawn."""
    best = [token for token, _ in expected.top(top)]
    drawn = [token for token, _ in Counter(tokens).most_common(top)]
    rest = sorted({*drawn} - {*best}, key=lambda token: (-expected[token], token))
    return (best + rest)[:top]


def samples(
    tokens: Sequence[int], expected: Distribution, shown: list[int], pieces: Pieces
) -> Json:
    """Return the counts of drawn tokens, the expected ones, and how well both fit."""
    n, counts = len(tokens), Counter(tokens)
    found = fit(tokens, expected)
    rows = [
        {**pieces.of(token), "count": counts[token], "expected": n * expected[token]}
        for token in shown
    ]
    return {
        "n": n,
        "counts": rows,
        "others": {
            "count": n - sum(row["count"] for row in rows),
            "expected": max(0.0, n - math.fsum(row["expected"] for row in rows)),
        },
        "chi_square": found.chi_square,
        "degrees_of_freedom": found.degrees,
        "p_value": found.p_value,
    }


def answer_of(row: LogitsRow) -> list[int]:
    """Return the token ids of the answer so far."""
    return [*array("i", row.answer)]
