"""The answers of llama-server's own endpoints; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from offgrid.api.shapes import Answer, Byte, Count, Logprob
from offgrid.api.timings import Progress, Timings

Slot = Annotated[int, Meta(ge=-1, description="-1 if it had none.")]


class LlamaServerErrorDetail(Answer):
    """The reason of the error, and the field of the request at fault; ``code`` is the status."""

    code: Annotated[int, Meta(ge=400, le=599)]
    message: str
    type: str
    param: str | None


class LlamaServerError(Answer):
    """The answer to every request of llama-server's API that fails, and the last event of a stream
    that fails."""

    error: LlamaServerErrorDetail


class TokenOption(Answer):
    """A token with its logprob, or with its probability if ``post_sampling_probs`` is true."""

    id: Count
    token: str
    bytes: list[Byte]
    logprob: Logprob | UnsetType = UNSET
    prob: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET


class TokenProbability(TokenOption):
    """A token of the answer, and the likeliest tokens at its place."""

    top_logprobs: list[TokenOption] | UnsetType = UNSET
    top_probs: list[TokenOption] | UnsetType = UNSET


class SettingsOfSampling(Answer):
    """Parameters under llama-server's names."""

    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: Count
    top_p: float
    min_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: Count
    dry_penalty_last_n: int
    dry_sequence_breakers: list[str]
    mirostat: Count
    mirostat_tau: float
    mirostat_eta: float
    min_keep: Count
    logit_bias: list[tuple[int, float | bool]]
    n_predict: Annotated[int, Meta(ge=-1, description="-1: as many as the context allows.")]
    max_tokens: Annotated[int, Meta(ge=-1, description="The same.")]
    seed: int
    stop: list[str]
    n_keep: Literal[0]
    n_discard: Literal[0]
    n_indent: Count
    t_max_predict_ms: Count
    ignore_eos: bool
    stream: bool
    n_probs: Count
    grammar: str
    samplers: Annotated[list[str], Meta(description="In the order in which they act.")]
    timings_per_token: bool
    post_sampling_probs: bool
    lora: Annotated[list[Any], Meta(max_length=0)]


class NativeCompletion(Answer):
    """An answer. As the last event of a stream it has no ``content`` and no ``tokens``."""

    index: Count
    content: str
    tokens: list[Count]
    id_slot: Slot
    stop: Literal[True]
    model: str
    tokens_predicted: Annotated[int, Meta(ge=0, description="Tokens of the answer.")]
    tokens_evaluated: Annotated[int, Meta(ge=0, description="Tokens of the prompt.")]
    generation_settings: SettingsOfSampling
    prompt: Annotated[
        str, Meta(description="The text of the prompt, without a BOS that was added.")
    ]
    has_new_line: bool
    truncated: Annotated[
        bool,
        Meta(
            description="Whether the context was too short: for the rest of the answer, or for all "
            "of the text around it."
        ),
    ]
    stop_type: Annotated[
        Literal["eos", "word", "limit", "content_filter"],
        Meta(description="The end token, a stop string, a limit, or the content filter."),
    ]
    stopping_word: Annotated[str, Meta(description="The stop string, or empty.")]
    tokens_cached: Annotated[int, Meta(ge=0, description="Tokens of prompt and answer.")]
    timings: Timings
    completion_probabilities: list[TokenProbability] | UnsetType = UNSET


class NativeSelection(msgspec.Struct):
    """The fields that the request names with ``response_fields``."""


class NativePart(Answer):
    """An event of a stream before the last one of its answer."""

    index: Count
    content: str
    tokens: list[Count]
    stop: Literal[False]
    id_slot: Slot
    tokens_predicted: Count
    tokens_evaluated: Count
    timings: Timings | UnsetType = UNSET
    completion_probabilities: list[TokenProbability] | UnsetType = UNSET
    prompt_progress: Progress | UnsetType = UNSET


ANSWERS = (NativeCompletion, NativeSelection)


class AppliedTemplate(Answer):
    """The prompt of a conversation. ``<__media__>`` stands for an image."""

    prompt: str


class PropsNext(Answer):
    """llama-server describes a slot here; these are the values of one that is idle."""

    has_next_token: Literal[False]
    has_new_line: Literal[False]
    n_remain: Literal[-1]
    n_decoded: Literal[0]
    stopping_word: Literal[""]


class PropsSettings(Answer):
    """``params`` are those of a request that sets none."""

    id: Literal[0]
    id_task: Literal[-1]
    n_ctx: Annotated[int, Meta(ge=1, description="Tokens of the context of one slot.")]
    speculative: Annotated[bool, Meta(description="Whether proposed tokens are computed.")]
    is_processing: Literal[False]
    params: SettingsOfSampling
    prompt: Literal[""]
    next_token: PropsNext


class Modalities(Answer):
    vision: bool
    audio: Literal[False]


class Props(Answer):
    """Properties of the server and of one model."""

    default_generation_settings: PropsSettings
    total_slots: Annotated[int, Meta(ge=1)]
    model_alias: Annotated[str, Meta(description="The id of the model.")]
    model_path: Annotated[str, Meta(description="The name of its file, without a folder.")]
    modalities: Modalities
    media_marker: Annotated[str, Meta(description="Stands for an image in prompt_string.")]
    endpoint_slots: Literal[True]
    endpoint_props: Annotated[Literal[False], Meta(description="POST /props is refused.")]
    endpoint_metrics: Literal[True]
    chat_template: Annotated[str, Meta(description="Empty if the model has none.")]
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: Literal[False]


class SlotNext(Answer):
    has_next_token: Annotated[bool, Meta(description="Whether the answer goes on.")]
    n_remain: Annotated[int, Meta(ge=-1, description="Tokens that it may still have; -1 if idle.")]
    n_decoded: Annotated[int, Meta(ge=0, description="Tokens of the answer so far.")]


class SlotObject(Answer):
    """What a slot is used for."""

    id: Count
    n_ctx: Annotated[int, Meta(ge=1, description="Tokens that it can hold.")]
    speculative: Annotated[bool, Meta(description="Whether proposed tokens are computed.")]
    is_processing: Annotated[bool, Meta(description="Whether a sequence runs in it.")]
    n_tokens: Annotated[int, Meta(ge=0, description="Tokens that it holds.")]
    n_prompt_tokens: Annotated[int, Meta(ge=0, description="Of the prompt that runs.")]
    n_prompt_tokens_cache: Annotated[int, Meta(ge=0, description="Those that were cached.")]
    n_prompt_tokens_processed: Annotated[int, Meta(ge=0, description="Those that are computed.")]
    next_token: SlotNext
