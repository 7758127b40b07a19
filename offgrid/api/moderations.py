"""``POST /v1/moderations``: OpenAI's categories, as predicates that the model judges.

A general model is asked whether a text belongs to each category. Nothing here was trained to
moderate: see ``docs/DECISIONS.md``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import falcon
import msgspec
from msgspec import Meta

from offgrid.api.decisions.call import Probabilities, of_input
from offgrid.api.decisions.prompt import make_frame
from offgrid.api.decisions.request import Predicate
from offgrid.api.decisions.shapes import Probability
from offgrid.api.engines import engine_for
from offgrid.api.fields.common import check_fields
from offgrid.api.fields.inert import InertFields
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.fields.nulls import present_in
from offgrid.api.generation import GenerationGroup
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.screening import check_prompt
from offgrid.api.shapes import Answer, Json
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter

MAX_INPUTS = 256
"""Most texts of a request."""
THRESHOLD = 0.5
"""A text belongs to the categories that are at least as likely as this."""
OPENAI_MODELS = (
    "omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest",
    "text-moderation-stable",
)  # fmt: skip
"""Names that stand for the default model, because clients send them without being asked."""

_THREAT = "and threatens violence or serious harm"
CATEGORIES = {
    "harassment": "The text harasses or insults a person or a group, or encourages that.",
    "harassment/threatening": f"The text harasses a person or a group {_THREAT}.",
    "hate": "The text expresses or promotes hate against people because of their race, gender, "
    "ethnicity, religion, nationality, sexual orientation, disability or caste.",
    "hate/threatening": "The text expresses hate against people because of their race, gender, "
    f"ethnicity, religion, nationality, sexual orientation, disability or caste, {_THREAT}.",
    "illicit": "The text gives instructions or advice for a crime or another illicit act.",
    "illicit/violent": "The text gives instructions or advice for a violent crime, or for getting "
    "or making weapons.",
    "self-harm": "The text promotes, encourages or describes suicide, cutting, an eating disorder "
    "or another form of self-harm.",
    "self-harm/instructions": "The text gives instructions or advice for suicide, cutting, an "
    "eating disorder or another form of self-harm.",
    "self-harm/intent": "The author of the text intends to harm himself or herself, or is doing so "
    "now.",
    "sexual": "The text is meant to arouse sexual excitement, or promotes sexual services.",
    "sexual/minors": "The text has sexual content about a person who is younger than 18 years.",
    "violence": "The text describes death, violence or physical injury.",
    "violence/graphic": "The text describes death, violence or physical injury in graphic detail.",
}
"""Category -> the statement that the model judges."""
_OF_IMAGES = (
    "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "violence",
    "violence/graphic",
)  # fmt: skip
"""Categories for which OpenAI's API judges images too, and so the only ones for which its clients
expect the type ``image``. Here, the model sees text and images together for all of them."""


class ModerationImageURL(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image as a data URL. ``detail`` has no effect: the projector determines the size."""

    url: str
    detail: str | None = None


class ModerationText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"
):
    """A text to be judged."""

    text: str


class ModerationImage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image_url"
):
    """An image to be judged, for vision models."""

    image_url: ModerationImageURL


class ModerationsRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    input: (
        str
        | Annotated[
            list[str | ModerationText | ModerationImage], Meta(min_length=1, max_length=MAX_INPUTS)
        ]
    )  # fmt: skip
    keep_alive: KeepAlive = None

    @property
    def contents(self) -> list[tuple[str | list[Json], str]]:
        """What is judged, as the contents of chat messages, each with its field. Several texts are
        judged one by one; a list of objects is one input with several parts."""
        given = self.input
        if isinstance(given, str):
            return [(given, "input")]
        if all(isinstance(one, str) for one in given):
            return [(str(one), f"input[{index}]") for index, one in enumerate(given)]
        return [([_part(one) for one in given], "input")]


def _part(given: str | ModerationText | ModerationImage) -> Json:
    if isinstance(given, ModerationImage):
        return {"type": "image_url", "image_url": {"url": given.image_url.url}}
    return {"type": "text", "text": given if isinstance(given, str) else given.text}


def parse_moderations(body: dict[str, Any]) -> ModerationsRequest:
    """Check the body of a request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    if isinstance(body.get("input"), list):
        body = {**body, "input": present_in(body["input"])}
    request = check_fields(body, ModerationsRequest)
    given = request.input
    texts = [isinstance(one, str) for one in given] if isinstance(given, list) else [True]
    if any(texts) and not all(texts):
        raise InvalidParameter(
            "input must be text, a list of texts or a list of objects, not a mixture.", "input"
        )
    if request.model in OPENAI_MODELS:
        return msgspec.structs.replace(request, model="")
    return request


InputType = Literal["text", "image"]
_NAMES = {re.sub("[-/]", "_", name): name for name in CATEGORIES}
"""Attribute -> category."""


class ModerationCategories(Answer, rename=_NAMES):
    """The categories to which the input belongs."""

    harassment: bool
    harassment_threatening: bool
    hate: bool
    hate_threatening: bool
    illicit: bool
    illicit_violent: bool
    self_harm: bool
    self_harm_instructions: bool
    self_harm_intent: bool
    sexual: bool
    sexual_minors: bool
    violence: bool
    violence_graphic: bool


class ModerationScores(Answer, rename=_NAMES):
    """How likely each category is."""

    harassment: Probability
    harassment_threatening: Probability
    hate: Probability
    hate_threatening: Probability
    illicit: Probability
    illicit_violent: Probability
    self_harm: Probability
    self_harm_instructions: Probability
    self_harm_intent: Probability
    sexual: Probability
    sexual_minors: Probability
    violence: Probability
    violence_graphic: Probability


class ModerationInputTypes(Answer, rename=_NAMES):
    """What was judged for each category."""

    harassment: list[InputType]
    harassment_threatening: list[InputType]
    hate: list[InputType]
    hate_threatening: list[InputType]
    illicit: list[InputType]
    illicit_violent: list[InputType]
    self_harm: list[InputType]
    self_harm_instructions: list[InputType]
    self_harm_intent: list[InputType]
    sexual: list[InputType]
    sexual_minors: list[InputType]
    violence: list[InputType]
    violence_graphic: list[InputType]


class ModerationResult(Answer):
    """The judgement of one input."""

    flagged: bool
    categories: ModerationCategories
    category_scores: ModerationScores
    category_applied_input_types: ModerationInputTypes


class ModerationsObject(Answer):
    """The judgements of all inputs, in their order."""

    id: str
    model: str
    results: list[ModerationResult]


class ModerationsCall:
    """A request that is being answered.

    Args:
        engine: the model.
        request: a checked request.
        alive: whether the client still waits for the answer.

    Raises:
        RequestError: the model does not accept the request; nothing is left running.
    """

    questions: ClassVar[list[Predicate]] = [*map(Predicate, CATEGORIES.values())]

    def __init__(
        self, engine: EngineClient, request: ModerationsRequest, alive: Callable[[], bool]
    ) -> None:
        check_prompt([(msgspec.to_builtins(request.input), "input")])
        self._model = engine.name
        self._types: list[set[str]] = []
        self._probabilities = Probabilities(engine)
        for content, param in request.contents:
            message: Json = {"role": "user", "content": content}
            try:
                frame = make_frame(engine, [message], {"model": request.model})
            except InvalidParameter as ex:
                raise of_input(ex, param) from None
            asked = [(question, param) for question in self.questions]
            self._probabilities.ask(frame, asked, (param,) * len(frame.images))
            kinds = ["text"] if isinstance(content, str) else [part["type"] for part in content]
            self._types.append({"image" if kind == "image_url" else kind for kind in kinds})
        self._probabilities.start(alive)

    @property
    def group(self) -> GenerationGroup:
        """The generations; the caller that gives up the answer cancels them."""
        return self._probabilities.group

    def whole(self) -> Json:
        """Return the judgements when they are complete."""
        found, _ = self._probabilities.whole()
        size = len(CATEGORIES)
        results = [
            _result([pair[0] for pair in found[size * index : size * (index + 1)]], types)
            for index, types in enumerate(self._types)
        ]
        return {"id": f"modr-{secrets.token_hex(16)}", "model": self._model, "results": results}


def _result(scores: list[float], types: set[str]) -> Json:
    flags = {name: score >= THRESHOLD for name, score in zip(CATEGORIES, scores, strict=True)}
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": dict(zip(CATEGORIES, scores, strict=True)),
        "category_applied_input_types": {
            name: sorted(types if name in _OF_IMAGES else types - {"image"}, reverse=True)
            for name in CATEGORIES
        },
    }


class ModerationsResource:
    """Judges whether texts belong to OpenAI's categories."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Check the request, judge all inputs, and answer."""
        request = read_checked(req, self._max_body, parse_moderations)
        alive = liveness(req)
        engine = engine_for(self._pool, req, request, generates=True)
        resp.media = ModerationsCall(engine, request, alive).whole()
