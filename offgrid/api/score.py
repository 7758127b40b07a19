"""``POST /v1/score`` and ``/score``: how well pairs of texts fit, in the form of vLLM's API."""

from __future__ import annotations

import math
import operator
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import falcon
import msgspec
from msgspec import Meta

from offgrid.api.engines import engine_for
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.common import check_fields
from offgrid.api.fields.inert import InertFields
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.http.meter import meter
from offgrid.api.http.owner import owner
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.shapes import Answer, Count, Json
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.requests import EmbeddingRequest
from offgrid.errors import InvalidParameter

MAX_TEXTS = 2048
_PROBABILITIES = ("qwen3", "qwen3vl")
"""Architectures of rank models for which llama.cpp computes probabilities (``build_pooling``)."""
NAMES = (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"))
"""The names that versions of vLLM have for the two sides."""


class ScorePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a text as an object."""

    type: Literal["text"]
    text: str


class ScoreText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text as an object, whose parts are joined."""

    content: Annotated[list[ScorePart], Meta(min_length=1)]


Side = (
    Annotated[str, Meta(min_length=1)]
    | ScoreText
    | Annotated[list[str | ScoreText], Meta(min_length=1, max_length=MAX_TEXTS)]
)


class ScoreRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two texts, a text and a list, or two lists of the same length."""

    model: str = ""
    text_1: Side | None = None
    text_2: Side | None = None
    data_1: Side | None = None
    data_2: Side | None = None
    queries: Side | None = None
    documents: Side | None = None
    use_activation: bool = True
    """Whether scores of rank models are mapped to 0..1."""
    keep_alive: KeepAlive = None


class Pairs(msgspec.Struct, frozen=True):
    """The texts of a checked request, pair by pair, and the fields that they came from."""

    request: ScoreRequest
    first: tuple[str, ...]
    second: tuple[str, ...]
    names: tuple[str, str]

    def place(self, side: int, index: int) -> str:
        """Return the field of a text, for errors; a list's with the index in it."""
        name = self.names[side]
        return f"{name}[{index}]" if isinstance(getattr(self.request, name), list) else name

    @property
    def model(self) -> str:
        """The model that the request names."""
        return self.request.model

    @property
    def keep_alive(self) -> float | str | None:
        """How long the model stays loaded."""
        return self.request.keep_alive


class PairScore(Answer):
    """The score of a pair, by its index in the longer list."""

    index: Count
    object: Literal["score"]
    score: float


class ScoreUsage(Answer):
    """Tokens of all texts."""

    prompt_tokens: Count
    total_tokens: Count
    completion_tokens: Literal[0]
    prompt_tokens_details: None


class Scores(Answer):
    """The scores in the order of the pairs."""

    id: Annotated[str, Meta(pattern="^score-[0-9a-f]{32}$")]
    object: Literal["list"]
    created: Count
    model: str
    data: list[PairScore]
    usage: ScoreUsage


def parse_score(body: dict[str, Any]) -> Pairs:
    """Check the body of a score request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = check_fields(body, ScoreRequest)
    given = {name for pair in NAMES for name in pair if getattr(request, name) is not None}
    names = next((pair for pair in NAMES if given == set(pair)), None)
    if names is None:
        missing = next(
            (name for pair in NAMES if given & set(pair) for name in pair if name not in given),
            "text_1",
        )
        raise InvalidParameter(
            "Two fields with texts are required: text_1 and text_2, data_1 and data_2, or queries "
            "and documents.",
            missing,
            code="missing_required_parameter",
        )
    first, second = (_texts(getattr(request, name), name) for name in names)
    if len(first) != len(second) and len(first) != 1:
        raise InvalidParameter(
            f"{names[0]} has {len(first)} texts and {names[1]} has {len(second)}; there must be "
            "one and one, one and many, or the same number of both.",
            names[0],
        )
    if len(first) < len(second):
        first *= len(second)
    return Pairs(request, first, second, names)


def _texts(side: Any, param: str) -> tuple[str, ...]:
    items = side if isinstance(side, list) else [side]
    texts = [
        item if isinstance(item, str) else "\n".join(part.text for part in item.content)
        for item in items
    ]
    for index, text in enumerate(texts):
        if not text:
            place = f"{param}[{index}]" if isinstance(side, list) else param
            raise InvalidParameter(f"{place} is empty.", place)
    return tuple(texts)


def scores(engine: EngineClient, pairs: Pairs, alive: Callable[[], bool]) -> Json:
    """Return the answer.

    A rank model reads each pair as query and document. Any other model turns the texts into
    embeddings, and the score is their cosine.

    Raises:
        RequestError: the model does not accept the request.
        ClientGone: ``alive`` returned False.
    """
    alive = bounds().within(alive)
    ranks = engine.info.pooling == "rank"
    found, tokens = (_ranked if ranks else _cosines)(engine, pairs, alive)
    if ranks and pairs.request.use_activation and not _has_probabilities(engine):
        found = [_sigmoid(score) for score in found]
    return {
        "id": f"score-{secrets.token_hex(16)}",
        "object": "list",
        "created": int(time.time()),
        "model": engine.name,
        "data": [
            {"index": index, "object": "score", "score": score} for index, score in enumerate(found)
        ],
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


def _has_probabilities(engine: EngineClient) -> bool:
    return engine.info.metadata.get("general.architecture") in _PROBABILITIES


def _sigmoid(score: float) -> float:
    # Of the two forms, the one whose exponential cannot overflow.
    if score >= 0:
        return 1.0 / (1.0 + math.exp(-score))
    return math.exp(score) / (1.0 + math.exp(score))


def _ranked(
    engine: EngineClient, pairs: Pairs, alive: Callable[[], bool]
) -> tuple[list[float], int]:
    """Return the scores of all pairs, and their tokens. Each different query is one request."""
    found = [0.0] * len(pairs.second)
    tokens = 0
    places: dict[str, list[int]] = {}
    for index, query in enumerate(pairs.first):
        places.setdefault(query, []).append(index)
    for query, indices in places.items():
        request = EmbeddingRequest(
            tuple(pairs.second[index] for index in indices),
            query=query,
            params=tuple(pairs.place(1, index) for index in indices),
            owner=owner(),
        )
        result = engine.embed(request, alive, meter().prompt)
        tokens += result.prompt_tokens
        for number, index in enumerate(indices):
            found[index] = result.values(number)[0]
    return found, tokens


def _cosines(
    engine: EngineClient, pairs: Pairs, alive: Callable[[], bool]
) -> tuple[list[float], int]:
    """Return the cosines of all pairs, and the tokens of the different texts."""
    texts: dict[str, str] = {}
    for side, given in enumerate((pairs.first, pairs.second)):
        for index, text in enumerate(given):
            texts.setdefault(text, pairs.place(side, index))
    request = EmbeddingRequest(tuple(texts), params=tuple(texts.values()), owner=owner())
    result = engine.embed(request, alive, meter().prompt)
    vectors = {text: result.values(number) for number, text in enumerate(texts)}
    found = [
        _product(vectors[first], vectors[second])
        for first, second in zip(pairs.first, pairs.second, strict=True)
    ]
    return found, result.prompt_tokens


def _product(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the cosine of two vectors of length 1."""
    return max(-1.0, min(1.0, math.fsum(map(operator.mul, first, second))))


class ScoreResource:
    """Scores pairs of texts."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check, score, and answer."""
        pairs = read_checked(req, self._max_body, parse_score)
        alive = liveness(req)
        engine = engine_for(self._pool, req, pairs)
        resp.media = scores(engine, pairs, alive)
