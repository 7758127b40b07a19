"""The types of the answer of ``/v1/lab/distribution``, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from offgrid.api.lab.steps import Off
from offgrid.api.shapes import Answer, Byte, Count

Probability = Annotated[float, Meta(ge=0, le=1)]


class LabToken(Answer):
    """A token of a distribution. ``piece`` is its text, in which bytes that are not UTF-8 by
    themselves become U+FFFD."""

    id: Count
    piece: str
    bytes: list[Byte]
    probability: Probability
    before: Probability | UnsetType = UNSET
    """Its probability before the step."""
    logit: float | UnsetType = UNSET
    """As the model computed it, in float32."""


class LabPiece(Answer):
    """A token of the answer so far."""

    id: Count
    piece: str
    bytes: list[Byte]


class LabChange(Answer):
    """What a step changes. ``kept`` tokens can be drawn after it; it took ``removed`` tokens away,
    which had ``removed_probability`` together. ``entropy`` is in bits."""

    kept: Count
    removed: Count
    removed_probability: Probability
    entropy: Annotated[float, Meta(ge=0)]
    tokens: list[LabToken]
    removed_tokens: list[LabToken]


class LabOutcome(LabChange):
    """What a step changes if XTC removes tokens (``applied``), or if it does not."""

    applied: bool
    chance: Probability


class LabStep(LabChange):
    """A step of sampling. One that is not ``active`` changes nothing, lists no tokens, and says
    why."""

    step: Literal[
        "model", "logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty", "dry",
        "end_tokens", "temperature", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p",
        "p_less", "xtc", "mirostat", "adaptive_p",
    ]  # fmt: skip
    parameters: dict[str, Any]
    active: bool
    inactive: Off | None
    temperature: float | UnsetType = UNSET
    """The one in force, as ``dynatemp_range`` moved it; 0 takes the most likely token."""
    outcomes: list[LabOutcome] | UnsetType = UNSET
    state: dict[str, float] | UnsetType = UNSET


class LabFinal(Answer):
    """The distribution that the token is drawn from; ``before`` is the model's own."""

    kept: Count
    entropy: Annotated[float, Meta(ge=0)]
    tokens: list[LabToken]


class LabCount(Answer):
    id: Count
    piece: str
    bytes: list[Byte]
    count: Count
    expected: Annotated[float, Meta(ge=0)]


class LabRest(Answer):
    """The tokens that are not listed."""

    count: Count
    expected: Annotated[float, Meta(ge=0)]


class LabSamples(Answer):
    """Draws at consecutive positions, and Pearson's test of their counts. ``p_value`` is null if
    there is one cell only."""

    n: Count
    counts: list[LabCount]
    others: LabRest
    chi_square: Annotated[float, Meta(ge=0)]
    degrees_of_freedom: Count
    p_value: Probability | None


class LabDistribution(Answer):
    """What each step of sampling does to the distribution of the next token."""

    object: Literal["lab.distribution"]
    model: str
    vocabulary: Count
    prompt_tokens: Count
    cached_tokens: Annotated[int, Meta(ge=0, description="Not computed again.")]
    continuation: list[LabPiece]
    seed: int
    steps: list[LabStep]
    final: LabFinal
    drawn: LabToken
    """The token that a request with this seed draws here."""
    samples: LabSamples | None
