"""``POST /v1/completions``: the request's fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NamedTuple

from msgspec import Meta, structs

from offgrid.api.fields.body import are_tokens
from offgrid.api.fields.common import MAX_TOKENS, GenerationFields, Unsupported, convert
from offgrid.errors import InvalidParameter

MAX_PROMPTS = 2048
"""OpenAI's limit. It also limits the number of all answers, including those of ``best_of``."""
MAX_BEST_OF = 20


class Prompt(NamedTuple):
    """One prompt: text, or token ids that are used unchanged.

    ``param`` is the request field that errors name, with the prompt's index if it is in a list.
    """

    content: str | tuple[int, ...]
    param: str


class CompletionRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    PARSED: ClassVar[frozenset[str]] = GenerationFields.PARSED | {"prompts"}

    prompt: Any
    """None after :attr:`prompts` is made from it, to free memory: it may be a million tokens."""
    prompts: tuple[Prompt, ...] = ()
    # 0 only computes the prompt: for its logprobs, or to cache it for later requests.
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[int, Meta(ge=1, le=MAX_BEST_OF)] | None = None
    suffix: str | None = None

    @property
    def candidates(self) -> int:
        """Number of choices to compute for each prompt: ``best_of`` if given, else ``n``."""
        return self.n if self.best_of is None else self.best_of


UNSUPPORTED: Unsupported = {}


def parse_completion(body: dict[str, Any]) -> CompletionRequest:
    """Check the body of a text completion request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = convert(body, CompletionRequest, UNSUPPORTED)
    request = structs.replace(request, prompt=None, prompts=split_prompts(request.prompt))
    answers = len(request.prompts) * max(request.n, request.candidates)
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


def split_prompts(prompt: Any) -> tuple[Prompt, ...]:
    """Convert text, token ids, or a list of either into the prompts, in order.

    Raises:
        InvalidParameter: ``prompt`` is none of these.
    """
    if isinstance(prompt, str):
        return (Prompt(prompt, "prompt"),)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidParameter("prompt must be text, token ids, or a list of these.", "prompt")
    if are_tokens(prompt):
        return (Prompt(tuple(prompt), "prompt"),)
    if len(prompt) > MAX_PROMPTS:
        raise InvalidParameter(
            f"prompt takes at most {MAX_PROMPTS} prompts, not {len(prompt)}.", "prompt"
        )
    prompts: list[Prompt] = []
    for index, item in enumerate(prompt):
        param = f"prompt[{index}]"
        if not isinstance(item, str) and not are_tokens(item):
            raise InvalidParameter(f"{param} must be text or token ids.", param)
        prompts.append(Prompt(item if isinstance(item, str) else tuple(item), param))
    return tuple(prompts)
