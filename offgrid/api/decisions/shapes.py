"""The types of the answer of ``/v1/decisions``, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from offgrid.api.shapes import Answer, Count

Probability = Annotated[float, Meta(ge=0, le=1)]


class PredicateAnswer(Answer, tag_field="type", tag="predicate"):
    """How likely it is that the statement is true."""

    name: str | None
    probability: Probability


class ChoiceProbability(Answer):
    value: bool | str
    probability: Probability


class ChoiceAnswer(Answer, tag_field="type", tag="choice"):
    """The most likely choice, and the probabilities of all, in the order of the request."""

    name: str | None
    choice: bool | str
    confidence: Probability
    probabilities: list[ChoiceProbability]


class LevelProbability(Answer):
    value: Count
    label: str
    probability: Probability


class ScoreAnswer(Answer, tag_field="type", tag="score"):
    """The mean of the levels, which count from 0, weighted by their probabilities."""

    name: str | None
    score: Annotated[float, Meta(ge=0)]
    confidence: Probability
    probabilities: list[LevelProbability]


class DecisionInputDetails(Answer):
    cached_tokens: Annotated[int, Meta(ge=0, description="Not computed again.")]
    cache_write_tokens: Literal[0]


class DecisionOutputDetails(Answer):
    reasoning_tokens: Literal[0]


class DecisionUsage(Answer):
    """Tokens of input and questions, and of the choices that were computed."""

    input_tokens: Count
    input_tokens_details: DecisionInputDetails
    output_tokens: Count
    output_tokens_details: DecisionOutputDetails
    total_tokens: Count


class Decision(Answer):
    """An answer to each question, in the order of the questions."""

    answers: list[PredicateAnswer | ChoiceAnswer | ScoreAnswer]
    model: str
    usage: DecisionUsage
