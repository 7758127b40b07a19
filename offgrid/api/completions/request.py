"""``POST /v1/completions``: the request's fields."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from offgrid.api.fields.body import are_tokens
from offgrid.api.fields.common import MAX_TOKENS, GenerationFields, Unsupported, convert
from offgrid.errors import InvalidParameter

MAX_STOPS = 64
MAX_PROMPTS = 2048
"""As OpenAI's; and so many answers to them in all, those of ``best_of`` counted."""
MAX_BEST_OF = 20
Prompt = str | tuple[int, ...]


class CompletionRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    prompt: Any
    # 0 computes the prompt alone: for its logprobs, or to have it computed for what comes.
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool = False
    best_of: Annotated[int, Meta(ge=1, le=MAX_BEST_OF)] | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts in order: text, or token ids that are taken as they are."""
        return split_prompts(self.prompt)

    @property
    def candidates(self) -> int:
        """Choices to compute for each prompt: ``best_of`` where it is more than ``n``."""
        return self.n if self.best_of is None else self.best_of


UNSUPPORTED: Unsupported = {}


def parse_completion(body: dict[str, Any]) -> CompletionRequest:
    """Check the body of a text completion request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = convert(body, CompletionRequest, UNSUPPORTED, MAX_STOPS)
    answers = len(split_prompts(request.prompt)) * max(request.n, request.candidates)
    if answers > MAX_PROMPTS:
        raise InvalidParameter(
            f"prompt: prompts times n or best_of makes {answers} answers, more than {MAX_PROMPTS}.",
            "prompt",
        )
    if request.candidates < request.n:
        raise InvalidParameter("best_of must be at least n.", "best_of")
    if request.candidates > request.n and request.stream:
        raise InvalidParameter("best_of greater than n cannot be streamed.", "best_of")
    if request.suffix and request.echo and request.logprobs is not None:
        raise InvalidParameter("echo with logprobs cannot be combined with suffix.", "suffix")
    return request


def split_prompts(prompt: Any) -> list[Prompt]:
    """Text, token ids, or a list of either, to a list."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidParameter("prompt must be text, token ids, or a list of these.", "prompt")
    if are_tokens(prompt):
        return [tuple(prompt)]
    if len(prompt) > MAX_PROMPTS:
        raise InvalidParameter(
            f"prompt takes at most {MAX_PROMPTS} prompts, not {len(prompt)}.", "prompt"
        )
    prompts: list[Prompt] = []
    for index, item in enumerate(prompt):
        if isinstance(item, str):
            prompts.append(item)
        elif are_tokens(item):
            prompts.append(tuple(item))
        else:
            raise InvalidParameter("A prompt must be text or token ids.", f"prompt[{index}]")
    return prompts


def is_token(item: Any) -> bool:
    """Whether a JSON value can be a token id of some vocabulary."""
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 31
