"""``POST /v1/completions``: the request's fields."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from offgrid.api.schema.fields import TOKENS_SCHEMA, GenerationFields, Unsupported, convert
from offgrid.errors import InvalidParameter

MAX_STOPS = 64
MAX_PROMPTS = 64
Prompt = str | tuple[int, ...]
_PROMPTS = Meta(
    extra_json_schema={
        "anyOf": [
            {"type": "string"},
            TOKENS_SCHEMA,
            {
                "type": "array",
                "items": {"anyOf": [{"type": "string"}, TOKENS_SCHEMA]},
                "minItems": 1,
                "maxItems": MAX_PROMPTS,
            },
        ]
    }
)


class CompletionRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: Annotated[Any, _PROMPTS]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool = False
    best_of: Annotated[int, Meta(ge=1)] | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts in order: text, or token ids that are taken as they are."""
        return split_prompts(self.prompt)


UNSUPPORTED: Unsupported = {"suffix": lambda value: value == ""}


def parse_completion(body: dict[str, Any]) -> CompletionRequest:
    """Check the body of a text completion request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = convert(body, CompletionRequest, UNSUPPORTED, MAX_STOPS)
    split_prompts(request.prompt)
    if request.best_of is not None and request.best_of != request.n:
        raise InvalidParameter(
            "best_of other than n is not supported by this server.",
            "best_of",
            code="unsupported_parameter",
        )
    if request.echo and request.logprobs is not None:
        raise InvalidParameter(
            "echo together with logprobs is not supported by this server.",
            "echo",
            code="unsupported_parameter",
        )
    if request.echo and any(not isinstance(prompt, str) for prompt in request.prompts):
        raise InvalidParameter("echo needs prompts given as text.", "echo")
    return request


def split_prompts(prompt: Any) -> list[Prompt]:
    """Text, token ids, or a list of either, to a list."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidParameter("prompt must be text, token ids, or a list of these.", "prompt")
    if all(_is_token(item) for item in prompt):
        return [tuple(prompt)]
    if len(prompt) > MAX_PROMPTS:
        raise InvalidParameter(f"prompt takes at most {MAX_PROMPTS} prompts.", "prompt")
    prompts: list[Prompt] = []
    for index, item in enumerate(prompt):
        if isinstance(item, str):
            prompts.append(item)
        elif isinstance(item, list) and item and all(_is_token(token) for token in item):
            prompts.append(tuple(item))
        else:
            raise InvalidParameter("A prompt must be text or token ids.", f"prompt[{index}]")
    return prompts


def _is_token(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 31
