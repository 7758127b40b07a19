"""The answers of Ollama's API; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from offgrid.api.shapes import Answer, Byte, Count, Logprob

Nanoseconds = Annotated[int, Meta(ge=0, description="Nanoseconds.")]
Moment = Annotated[str, Meta(description="Date and time in UTC (RFC 3339).")]
Digest = Annotated[
    str,
    Meta(
        pattern="^[0-9a-f]{64}$",
        description="Changes when the model's file does. It is no hash of the content.",
    ),
]
Capability = Literal["completion", "embedding", "tools", "insert", "vision", "thinking"]
DoneReason = Literal["stop", "length", "content_filter"]


class OllamaError(Answer):
    """The answer to every request below ``/api`` that fails, and the last line of a stream that
    fails."""

    error: str


class OllamaCalledFunction(Answer):
    """The function's name, and its arguments as an object."""

    index: Count
    name: str
    arguments: dict[str, Any]


class OllamaCall(Answer):
    id: str
    function: OllamaCalledFunction


class OllamaAnswerMessage(Answer):
    """The message of an answer, or what a line of a stream adds to it. Calls are always whole."""

    role: Literal["assistant"]
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: Annotated[list[OllamaCall], Meta(min_length=1)] | UnsetType = UNSET


class OllamaTopLogprob(Answer):
    token: str
    logprob: Logprob
    bytes: list[Byte]


class OllamaLogprob(OllamaTopLogprob):
    """A token of the answer, and its alternatives."""

    top_logprobs: list[OllamaTopLogprob]


class _Answer(Answer, kw_only=True):
    """Fields of both endpoints. Those after ``done`` are in whole answers and last lines only."""

    model: str
    created_at: Moment
    logprobs: list[OllamaLogprob] | UnsetType = UNSET


class _Ended(_Answer, kw_only=True):
    done: Literal[True]
    done_reason: DoneReason
    total_duration: Nanoseconds
    load_duration: Annotated[
        int, Meta(ge=0, description="Nanoseconds until the model was ready for the request.")
    ]
    prompt_eval_count: Annotated[int, Meta(ge=0, description="Tokens of the prompt.")]
    prompt_eval_duration: Nanoseconds
    eval_count: Annotated[int, Meta(ge=0, description="Tokens of the answer.")]
    eval_duration: Nanoseconds


class OllamaChatAnswer(_Ended, kw_only=True):
    """The next message of a conversation, or the last line of a stream."""

    message: OllamaAnswerMessage


class OllamaChatLine(_Answer, kw_only=True):
    """A line of a stream before the last one."""

    message: OllamaAnswerMessage
    done: Literal[False]


class OllamaGenerateAnswer(_Ended, kw_only=True):
    """The answer to a prompt, or the last line of a stream."""

    response: str
    thinking: str | UnsetType = UNSET
    context: (
        Annotated[
            list[Count],
            Meta(description="The conversation, for the next request; its form may change."),
        ]
        | UnsetType
    ) = UNSET


class OllamaGenerateLine(_Answer, kw_only=True):
    """A line of a stream before the last one."""

    response: str
    done: Literal[False]
    thinking: str | UnsetType = UNSET


class _Loaded(Answer):
    model: str
    created_at: Moment
    done: Literal[True]
    done_reason: Annotated[Literal["load", "unload"], Meta(description="What became of the model.")]


class OllamaChatLoaded(_Loaded):
    """The answer to a request without messages."""

    message: OllamaAnswerMessage


class OllamaGenerateLoaded(_Loaded):
    """The answer to a request without a prompt."""

    response: Literal[""]


class OllamaEmbeddings(Answer):
    """A vector for each text, in the order of the texts; each of the length 1."""

    model: str
    embeddings: list[list[float]]
    total_duration: Nanoseconds
    load_duration: Nanoseconds
    prompt_eval_count: Annotated[int, Meta(ge=0, description="Tokens of all texts.")]


class OllamaEmbedding(Answer):
    """The vector of the prompt, of the length 1; empty without a prompt."""

    embedding: list[float]


class OllamaVersion(Answer):
    """The version of this server, not Ollama's."""

    version: str


class OllamaDetails(Answer):
    """What a model's file says about it. Texts are empty and numbers 0 where it says nothing."""

    parent_model: Annotated[str, Meta(description="The model whose file it uses, if any.")]
    format: Literal["gguf"]
    family: Annotated[str, Meta(description="The architecture.")]
    families: list[str]
    parameter_size: Annotated[str, Meta(description="Such as `8.0B`.")]
    quantization_level: str
    context_length: Count


class OllamaMoreDetails(OllamaDetails):
    embedding_length: Count


class OllamaModel(Answer):
    """A model that requests can name."""

    name: Annotated[str, Meta(description="Its id and `:latest`.")]
    model: Annotated[str, Meta(description="The same as `name`.")]
    modified_at: Moment
    size: Annotated[int, Meta(ge=0, description="Bytes of its file, or of all its parts.")]
    digest: Digest
    details: OllamaDetails
    capabilities: list[Capability]


class OllamaModels(Answer):
    """All models that can be used, the newest file first."""

    models: list[OllamaModel]


class OllamaLoadedModel(Answer):
    """A model that is loaded or being loaded."""

    name: str
    model: str
    size: Annotated[int, Meta(ge=0, description="Bytes of its worker process in memory.")]
    digest: Digest
    details: OllamaDetails
    expires_at: Annotated[
        str,
        Meta(
            description="When it is unloaded if no request comes: a date and time in UTC. One that "
            "is not unloaded has the year 2318."
        ),
    ]
    size_vram: Literal[0]
    context_length: Annotated[int, Meta(ge=0, description="Tokens of the context of a slot.")]


class OllamaLoadedModels(Answer):
    """The models that are loaded or being loaded, the last to be unloaded first."""

    models: list[OllamaLoadedModel]


class OllamaTensor(Answer):
    name: str
    type: str
    shape: list[Count]


class OllamaModelDescription(Answer):
    """A model."""

    modelfile: Annotated[str, Meta(description="Its settings in the form of a Modelfile.")]
    parameters: Annotated[str, Meta(description="Its own sampling parameters, a line for each.")]
    system: Annotated[str, Meta(description="Its own system prompt.")]
    license: str
    template: Annotated[str, Meta(description="Its chat template, in Jinja.")]
    details: OllamaMoreDetails
    model_info: Annotated[
        dict[str, Any], Meta(description="Metadata of its file that describe the model.")
    ]
    capabilities: list[Capability]
    modified_at: Moment
    tensors: list[OllamaTensor] | UnsetType = UNSET


class OllamaPulled(Answer):
    """The model is there."""

    status: Literal["success"]
