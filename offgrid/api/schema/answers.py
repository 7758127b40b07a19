"""What each endpoint answers, for the OpenAPI document.

Resources build their answers as plain objects, token by token where it counts; these types say what
comes of it, and tests hold every answer against them. Nothing else may be in an answer than what is
named here. A field with the default ``UNSET`` may be absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Count = Annotated[int, Meta(ge=0)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Logprob = Annotated[float, Meta(le=0)]


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all answers: no field but those named."""


class Root(Answer):
    """What this server is."""

    name: str
    version: str
    status: Literal["running"]


class Health(Answer):
    """The server is there."""

    status: Literal["healthy"]


class ErrorDetail(Answer):
    """What is wrong, and which field of the request is at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """The answer to every request that fails; in a stream, the last event of one that fails."""

    error: ErrorDetail


class Model(Answer):
    """A model that can be asked for by its id."""

    id: str
    object: Literal["model"]
    created: Annotated[int, Meta(ge=0, description="Seconds since 1970.")]
    owned_by: str


class ModelList(Answer):
    """All models, sorted by id."""

    object: Literal["list"]
    data: list[Model]


class PromptTokensDetails(Answer):
    cached_tokens: Annotated[int, Meta(ge=0, description="Not computed again.")]
    audio_tokens: Literal[0]


class CompletionTokensDetails(Answer):
    reasoning_tokens: Count
    audio_tokens: Literal[0]
    accepted_prediction_tokens: Literal[0]
    rejected_prediction_tokens: Literal[0]


class Usage(Answer):
    """Tokens of all prompts and all answers of a request."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(Answer):
    """A token that could have been."""

    token: str
    logprob: Logprob
    bytes: list[Byte]


class ChatTokenLogprob(TopLogprob):
    """A token of the answer. Its bytes may be a part of a character only."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    content: list[ChatTokenLogprob]
    refusal: None


FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]
CallId = Annotated[str, Meta(pattern="^call_[0-9a-f]{24}$")]


class CalledFunction(Answer):
    """Name, and arguments as JSON in a string."""

    name: str
    arguments: str


class AnswerToolCall(Answer):
    id: CallId
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Answer):
    """``content`` is null when there is nothing but calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: Annotated[list[str], Meta(max_length=0)]
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Annotated[list[AnswerToolCall], Meta(min_length=1)] | UnsetType = UNSET


class ChatChoice(Answer):
    index: Count
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


ChatId = Annotated[str, Meta(pattern="^chatcmpl-[0-9a-f]{28}$")]
TextId = Annotated[str, Meta(pattern="^cmpl-[0-9a-f]{28}$")]


class PromptLogprob(Answer):
    """A token at a place of the prompt; ``rank`` 1 is the likeliest."""

    logprob: Logprob
    rank: Count
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""For each token a map from token ids; null for the first, which nothing goes before."""


class ChatCompletion(Answer):
    """The next message of a conversation."""

    id: ChatId
    object: Literal["chat.completion"]
    created: Count
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class FunctionFragment(Answer):
    """The name comes first, then the arguments piece by piece."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallFragment(Answer):
    """A piece of a call; the first one of a call has ``id`` and ``type``."""

    index: Count
    function: FunctionFragment
    id: CallId | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Answer):
    """What a chunk adds to its choice: the role first, then what is said, at last nothing."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Annotated[list[ToolCallFragment], Meta(min_length=1, max_length=1)] | UnsetType = (
        UNSET
    )
    refusal: UnsetType | None = UNSET


class ChatChunkChoice(Answer):
    index: Count
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


class ChatCompletionChunk(Answer):
    """An event of a streamed chat answer. ``usage`` is there with ``include_usage`` only: null, and
    in the last chunk, which has no choices, the numbers."""

    id: ChatId
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str
    choices: Annotated[list[ChatChunkChoice], Meta(max_length=1)]
    usage: Usage | UnsetType | None = UNSET
    obfuscation: str | UnsetType = UNSET


class TextLogprobs(Answer):
    """Four lists of equal length, one entry for each token. Null is for the first token of an
    echoed prompt."""

    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None]
    text_offset: list[Count]


class TextChoice(Answer):
    text: str
    index: Count
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class TextCompletion(Answer):
    """Continuations of texts; the index of a choice is prompt number times ``n`` plus choice."""

    id: TextId
    object: Literal["text_completion"]
    created: Count
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(Answer):
    text: str
    index: Count
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletionChunk(Answer):
    """An event of a streamed continuation; ``usage`` as in a chat's chunks."""

    id: TextId
    object: Literal["text_completion"]
    created: Count
    model: str
    system_fingerprint: str
    choices: Annotated[list[TextChunkChoice], Meta(max_length=1)]
    usage: Usage | UnsetType | None = UNSET
    obfuscation: str | UnsetType = UNSET


class Embedding(Answer):
    """A vector: numbers, or their bytes (float32, little-endian) in base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class InputUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: Count
    total_tokens: Count


class EmbeddingList(Answer):
    """A vector for each input, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: InputUsage


class RerankDocument(Answer):
    text: str


class RerankResult(Answer):
    """A document by its place in the request; its text if asked for."""

    index: Count
    relevance_score: float
    document: RerankDocument | UnsetType = UNSET


class Reranking(Answer):
    """Documents, the one that fits best first."""

    object: Literal["list"]
    model: str
    results: list[RerankResult]
    usage: InputUsage


class InputTokens(Answer):
    """What ``usage.prompt_tokens`` of the request would be."""

    object: Literal["response.input_tokens"]
    input_tokens: Count


class TokenPiece(Answer):
    """A token with its text, or with its bytes where these are no UTF-8 by themselves."""

    id: Count
    piece: str | list[Byte]


class ContentTokens(Answer):
    """As llama-server answers."""

    tokens: list[Count | TokenPiece]


class PromptTokens(Answer):
    """As vLLM answers."""

    count: Count
    max_model_len: Count
    tokens: list[Count]
    token_strs: list[str] | None


class Detokenized(Answer):
    """One text under llama-server's name and under vLLM's."""

    content: str
    prompt: str


class TokenizerInfo(Answer):
    """Names as in a Hugging Face ``tokenizer_config.json``; null where there is none."""

    tokenizer_class: str | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    add_bos_token: bool
    model_max_length: Count
    vocab_size: Count
    chat_template: str | None


class OpenApi(Answer):
    """This document."""

    openapi: Literal["3.1.1"]
    info: dict[str, str]
    paths: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]]
