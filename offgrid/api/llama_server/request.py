"""``POST /completion`` and ``POST /infill``: the requests' fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, structs

from offgrid.api.fields import notices
from offgrid.api.fields.common import MAX_TOKENS, GenerationFields, Unsupported, convert
from offgrid.api.fields.messages import shown
from offgrid.chat.images import check_images, read_encoded
from offgrid.errors import InvalidParameter
from offgrid.sampling.params import MAX_TOP_LOGPROBS

MAX_PROMPTS = 2048
"""Most prompts of a request, and most answers to them."""
MAX_PIECES = 256
"""Most texts in a prompt that mixes texts and token ids."""
MAX_EXCERPTS = 1024
MAX_RESPONSE_FIELDS = 256
MEDIA = "<__media__>"
"""Stands for an image in the text of a prompt."""
DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama-server's defaults where they differ from those of the API document."""

T = TypeVar("T", bound="NativeFields")
Piece = str | tuple[int, ...]


class NativePrompt(NamedTuple):
    """One prompt: pieces of text, in which control tokens are parsed, and of token ids.

    Attributes:
        pieces: in order. With images there is one text more than there are images.
        images: image files; each stands between two texts.
        param: the request field that errors name.
    """

    pieces: tuple[Piece, ...]
    images: tuple[bytes, ...] = ()
    param: str = "prompt"

    @property
    def text(self) -> str | None:
        """Its text as the client sent it; None if it has token ids."""
        texts = [piece for piece in self.pieces if isinstance(piece, str)]
        return None if len(texts) < len(self.pieces) else MEDIA.join(texts)


class NativeFields(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of both endpoints; the answers are llama-server's."""

    # The answers have no place for what the other two ask for.
    PARSED: ClassVar[frozenset[str]] = GenerationFields.PARSED | {
        "prompt_logprobs", "stream_options",
    }  # fmt: skip

    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    n_probs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    return_tokens: bool = False
    response_fields: Annotated[list[str], Meta(max_length=MAX_RESPONSE_FIELDS)] = msgspec.field(
        default_factory=list
    )
    t_max_prompt_ms: Annotated[int, Meta(ge=-1)] = 0
    """Without effect, as in llama-server."""
    sse_ping_interval: Annotated[int, Meta(ge=-1, le=86400)] | None = None

    @property
    def lists_tokens(self) -> bool:
        """Whether the answer has the ids of its tokens: a stream always does."""
        return self.return_tokens or self.stream or self.n_probs > 0

    def wants(self, field: str) -> bool:
        """Whether the last object of an answer has a field."""
        return not self.response_fields or any(
            path.split("/", 1)[0] == field for path in self.response_fields
        )


class NativeRequest(NativeFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/completion``."""

    PARSED: ClassVar[frozenset[str]] = NativeFields.PARSED | {"prompts"}

    prompt: Any
    """None after :attr:`prompts` is made from it, to free memory."""
    prompts: tuple[NativePrompt, ...] = ()


class ExtraContext(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An excerpt of another file. ``time`` is a note of the editor, without effect."""

    text: str
    filename: str = ""
    time: Any = None


class InfillRequest(NativeFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``/infill``."""

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[ExtraContext], Meta(max_length=MAX_EXCERPTS)] = msgspec.field(
        default_factory=list
    )
    prompt: str = ""
    """The end of the text before the cursor, usually the beginning of its line."""


UNSUPPORTED: Unsupported = {
    "prompt_logprobs": lambda value: False,
    "stream_options": lambda value: False,
}


def parse_native(body: dict[str, Any]) -> NativeRequest:
    """Check the body of ``/completion``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = _parsed(body, NativeRequest)
    request = structs.replace(request, prompt=None, prompts=read_prompts(request.prompt))
    answers = len(request.prompts) * request.n
    if answers > MAX_PROMPTS:
        raise InvalidParameter(
            f"prompt: prompts times n_cmpl makes {answers} answers, more than {MAX_PROMPTS}.",
            "prompt",
        )
    return request


def parse_infill(body: dict[str, Any]) -> InfillRequest:
    """Check the body of ``/infill``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    return _parsed(body, InfillRequest)


def _parsed(body: dict[str, Any], kind: type[T]) -> T:
    request = convert(body, kind, UNSUPPORTED)
    if request.t_max_prompt_ms > 0:
        notices.ignore("t_max_prompt_ms")
    sampling = request.sampling
    sampling = structs.replace(sampling, params=sampling.with_defaults(DEFAULTS))
    return structs.replace(request, sampling=sampling)


def read_prompts(prompt: Any) -> tuple[NativePrompt, ...]:
    """Convert the forms of llama-server's ``prompt``: one prompt, or a list of prompts. A prompt is
    a text, a list of token ids and texts, or an object with a text and images.

    Raises:
        InvalidParameter: ``prompt`` is none of these.
    """
    if _is_prompt(prompt):
        return (_read_prompt(prompt, "prompt"),)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidParameter(
            f"prompt must be text, token ids, an object with prompt_string, or a list of these, "
            f"not {shown(prompt)}.",
            "prompt",
        )
    if len(prompt) > MAX_PROMPTS:
        raise InvalidParameter(
            f"prompt takes at most {MAX_PROMPTS} prompts, not {len(prompt)}.", "prompt"
        )
    prompts = []
    for index, item in enumerate(prompt):
        param = f"prompt[{index}]"
        if not _is_prompt(item):
            raise InvalidParameter(
                f"{param} must be text, token ids or an object with prompt_string.", param
            )
        prompts.append(_read_prompt(item, param))
    return tuple(prompts)


def _is_prompt(value: Any) -> bool:
    """Whether a value is one prompt. A list of texts alone is a list of prompts."""
    if isinstance(value, list):
        return any(_is_token(item) for item in value) and all(
            _is_token(item) or isinstance(item, str) for item in value
        )
    return isinstance(value, (str, Mapping))


def _is_token(value: Any) -> bool:
    return type(value) is int and value >= 0


def _read_prompt(value: Any, param: str) -> NativePrompt:
    if isinstance(value, str):
        return NativePrompt((value,), (), param)
    if isinstance(value, Mapping):
        return _with_images(value, param)
    pieces: list[Piece] = []
    ids: list[int] = []
    for item in value:
        if isinstance(item, str):
            pieces += [tuple(ids)] * bool(ids)
            pieces.append(item)
            ids = []
        else:
            ids.append(item)
    pieces += [tuple(ids)] * bool(ids)
    texts = sum(isinstance(piece, str) for piece in pieces)
    if texts > MAX_PIECES:
        raise InvalidParameter(f"{param} takes at most {MAX_PIECES} texts, not {texts}.", param)
    return NativePrompt(tuple(pieces), (), param)


def _with_images(value: Mapping[str, Any], param: str) -> NativePrompt:
    """Read ``{"prompt_string", "multimodal_data"}``."""
    text, data = value.get("prompt_string"), value.get("multimodal_data") or []
    for name in value:
        if name not in ("prompt_string", "multimodal_data"):
            raise InvalidParameter(
                f"{param}.{name} is unknown; a prompt has prompt_string and multimodal_data.",
                f"{param}.{name}",
                code="unknown_parameter",
            )
    if not isinstance(text, str):
        raise InvalidParameter(f"{param}.prompt_string must be text.", f"{param}.prompt_string")
    field = f"{param}.multimodal_data"
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise InvalidParameter(f"{field} must be a list of texts in base64.", field)
    if not data:
        return NativePrompt((text,), (), param)
    texts = text.split(MEDIA)
    if len(texts) != len(data) + 1:
        raise InvalidParameter(
            f"{param}.prompt_string must have {MEDIA} once for each of the {len(data)} items of "
            f"multimodal_data, not {len(texts) - 1} times.",
            f"{param}.prompt_string",
        )
    images = [
        (read_encoded(item, f"{field}[{index}]"), f"{field}[{index}]")
        for index, item in enumerate(data)
    ]
    check_images(images)
    return NativePrompt(tuple(texts), tuple(image for image, _ in images), param)
