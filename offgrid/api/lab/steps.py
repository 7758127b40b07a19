"""The steps of sampling, one after the other, as the real sampler does them.

Each step is switched on after the ones before it, with all later ones off, and the sampler's
distribution is computed again. So the numbers are those of :mod:`offgrid.sampling`, not of a second
implementation. The order is that of ``csrc/og_sampler.h``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from offgrid.engine.protocol.events import LogitsRow
from offgrid.sampling import Distribution, Sampler, SamplingParams, distribution

Off = Literal["neutral", "greedy", "mirostat"]
"""Why a step does nothing: its parameters ask for nothing, the most likely token is taken anyway,
or mirostat replaces it."""


class Step(NamedTuple):
    """One step of the definition.

    Attributes:
        name: in answers.
        params: the parameters that it reads; with their defaults it does nothing.
        acts: whether it does something with given parameters.
        truncates: whether mirostat and greedy draws replace it.
    """

    name: str
    params: tuple[str, ...]
    acts: Callable[[SamplingParams], bool]
    truncates: bool = False


END_TOKENS = "end_tokens"
XTC = "xtc"
MIROSTAT = "mirostat"
ADAPTIVE = "adaptive_p"
STEPS = (
    Step("logit_bias", ("logit_bias",), lambda p: bool(p.logit_bias)),
    Step(
        "repetition_penalty",
        ("repetition_penalty", "repeat_last_n"),
        lambda p: p.repetition_penalty != 1 and p.repeat_last_n != 0,
    ),
    Step("frequency_penalty", ("frequency_penalty",), lambda p: p.frequency_penalty != 0),
    Step("presence_penalty", ("presence_penalty",), lambda p: p.presence_penalty != 0),
    Step(
        "dry",
        ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_breakers"),
        lambda p: p.dry_multiplier > 0 and p.dry_penalty_last_n != 0,
    ),
    Step(END_TOKENS, ("min_tokens",), lambda p: p.min_tokens > 0),
    Step(
        "temperature",
        ("temperature", "dynatemp_range", "dynatemp_exponent"),
        lambda p: p.temperature != 1 or p.dynatemp_range > 0,
    ),
    Step("top_n_sigma", ("top_n_sigma",), lambda p: p.top_n_sigma > 0, True),
    Step("top_k", ("top_k",), lambda p: p.top_k > 0, True),
    Step("typical_p", ("typical_p",), lambda p: p.typical_p < 1, True),
    Step("top_p", ("top_p",), lambda p: p.top_p < 1, True),
    Step("min_p", ("min_p",), lambda p: p.min_p > 0, True),
    Step("p_less", ("p_less",), lambda p: p.p_less, True),
    Step(
        XTC,
        ("xtc_probability", "xtc_threshold"),
        lambda p: p.xtc_probability > 0 and p.xtc_threshold <= 0.5,
        True,
    ),
    Step(MIROSTAT, ("mirostat", "mirostat_tau", "mirostat_eta"), lambda p: p.mirostat > 0),
    Step(ADAPTIVE, ("adaptive_target", "adaptive_decay"), lambda p: p.adaptive_target >= 0),
)
"""All steps in their order. Mirostat replaces those that truncate, and adaptive-p."""


class Outcome(NamedTuple):
    """What a step leaves in one of the two cases of XTC.

    Attributes:
        applied: whether XTC removes tokens in this draw.
        chance: how likely that is.
        before: the distribution before the step, in the same case.
        after: that after it.
    """

    applied: bool
    chance: float
    before: Distribution
    after: Distribution


class Trace(NamedTuple):
    """What a step has done.

    Attributes:
        step: the step; None for the model's own distribution.
        off: why it does nothing; None if it acts.
        before: the distribution before it.
        after: the distribution after it; the same object if it does nothing.
        outcomes: the two cases of XTC, if XTC decides about this step; else empty.
        state: mirostat's or adaptive-p's state.
    """

    step: Step | None
    off: Off | None
    before: Distribution
    after: Distribution
    outcomes: tuple[Outcome, ...] = ()
    state: dict[str, float] | None = None


class Pipeline:
    """Samplers for a row, with the parameters of some of the steps.

    Args:
        row: the row.
        ignore_eos: whether end tokens are never sampled.

    Attributes:
        params: the parameters of the request.
        logits: the raw row.
    """

    def __init__(self, row: LogitsRow, *, ignore_eos: bool) -> None:
        self.params = row.sampling
        self.ignore_eos = ignore_eos
        self._row = row
        self.logits = memoryview(row.logits).cast("f")
        self._prompt = [token for token in array("i", row.prompt) if token >= 0]
        self._answer = array("i", row.answer)

    def sampler(self, steps: int = len(STEPS), **changed: Any) -> Sampler:
        """Return a sampler after the answer, of which only the first steps act.

        Args:
            steps: how many.
            changed: parameters with other values than the request's.
        """
        names = [name for step in STEPS[:steps] for name in step.params]
        chosen = {name: getattr(self.params, name) for name in names} | changed
        params = SamplingParams(
            **{"seed": self.params.seed, "min_keep": self.params.min_keep, **chosen}
        )
        ends = _place(END_TOKENS) < steps
        sampler = Sampler(
            len(self.logits),
            params,
            prompt_tokens=self._prompt,
            banned=self._row.ends if ends and self.ignore_eos else (),
            end_tokens=self._row.ends,
        )
        for token in self._answer:
            sampler.accept(token)
        sampler.state = self._row.state
        return sampler

    def distribution(self, steps: int, **changed: Any) -> Distribution:
        """Return the distribution after the first steps.

        Raises:
            SamplingError: the row is unusable, or no token is left.
        """
        return distribution(self.sampler(steps, **changed), self.logits)

    def acts(self, step: Step) -> bool:
        """Whether the parameters of a step ask for anything."""
        if step.name == END_TOKENS and self.ignore_eos:
            return True
        if step.name == END_TOKENS and self.params.min_tokens <= len(self._answer):
            return False
        return step.acts(self.params)

    def state(self, step: Step) -> dict[str, float] | None:
        """Return the state that a step has after the answer, if it has one."""
        _, mu, mean = self._row.state
        if step.name == MIROSTAT:
            return {"mu": mu}
        if step.name == ADAPTIVE:
            target = array("f", [self.params.adaptive_target])[0]  # as the sampler has it
            goal = 2 * target - mean
            return {"mean": mean, "goal": min(1.0, max(0.0, goal))}
        return None


def _place(name: str) -> int:
    return next(place for place, step in enumerate(STEPS) if step.name == name)


def trace(pipeline: Pipeline) -> Iterator[Trace]:
    """Yield the model's distribution, then what each step does to it.

    Raises:
        SamplingError: the row is unusable, or no token is left.
    """
    now = pipeline.distribution(0)
    yield Trace(None, None, now, now)
    outcomes: tuple[Outcome, ...] = ()
    greedy = False
    for place, step in enumerate(STEPS, 1):
        off = _reason(pipeline, step, greedy)
        if off is not None:
            yield Trace(step, off, now, now)
            continue
        before = now
        if step.name == XTC or outcomes:
            outcomes = _outcomes(pipeline, place, before, outcomes)
            now = _mixture(outcomes)
        else:
            now = pipeline.distribution(place)
        if step.name == "temperature":
            greedy = now.temperature == 0
        yield Trace(step, None, before, now, outcomes, pipeline.state(step))


def _reason(pipeline: Pipeline, step: Step, greedy: bool) -> Off | None:
    """Return why a step does nothing; None if it acts."""
    if not pipeline.acts(step):
        return "neutral"
    follows = step.truncates or step.name in (MIROSTAT, ADAPTIVE)
    if greedy and follows:
        return "greedy"
    if pipeline.params.mirostat and (step.truncates or step.name == ADAPTIVE):
        return "mirostat"
    return None


def _outcomes(
    pipeline: Pipeline, place: int, before: Distribution, earlier: tuple[Outcome, ...]
) -> tuple[Outcome, ...]:
    """Return what the first steps leave if XTC removes tokens, and if it does not."""
    chance = pipeline.params.xtc_probability
    cases = [(True, chance), (False, 1 - chance)]
    befores = {outcome.applied: outcome.after for outcome in earlier}
    return tuple(
        Outcome(
            applied,
            share,
            befores.get(applied, before),
            pipeline.distribution(place, xtc_probability=float(applied)),
        )
        for applied, share in cases
        if share > 0
    )


def _mixture(outcomes: tuple[Outcome, ...]) -> Distribution:
    first, *rest = outcomes
    return first.after.mixed(rest[0].after, rest[0].chance) if rest else first.after
