"""The types of the keyword arguments of :class:`~offgrid.inprocess.llm.LLM`.

They are fields of the API's requests; ``docs/API.md`` explains each, with its range and default.
These types are for editors and type checkers: the API's own parsers check the values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Message = Mapping[str, Any]
"""A message as the API takes it: ``{"role": "user", "content": "Hello!"}``."""
Conversation = str | Sequence[Message]
"""Messages; a text is one message of the user."""
Batch = list[str] | Sequence[Sequence[Message]]
"""Several conversations."""
Prompt = str | list[int]
"""A text or token ids."""
Image = str | os.PathLike[str] | bytes
"""The path of an image file, or its content."""


class Settings(TypedDict, total=False):
    """How a model is loaded; ``docs/CONFIGURATION.md`` explains each setting."""

    models_dir: str | os.PathLike[str]
    model_aliases: Mapping[str, str]
    chat_template: str
    draft_model: str
    parallel: int
    ctx_size: int
    batch_size: int
    threads: int
    gpu_layers: int
    flash_attention: Literal["auto", "on", "off"]
    kv_type_k: str
    kv_type_v: str
    use_mmap: bool
    use_mlock: bool
    swa_full: bool
    checkpoints_mb: int
    cache_ram_mb: int
    cache_dir: str | os.PathLike[str]
    cache_disk_mb: int
    drafts: bool
    open_objects: bool
    load_timeout: float
    stall_timeout: float


class GenerationOptions(TypedDict, total=False):
    """Fields of chat and of completions."""

    max_tokens: int | None
    n: int
    stop: str | list[str]
    banned_strings: str | list[str]
    seed: int | None
    ignore_eos: bool
    cache_prompt: bool
    prompt_logprobs: int | None
    post_sampling_probs: bool
    timings_per_token: bool
    return_progress: bool
    samplers: str | list[str]
    t_max_predict_ms: int
    n_indent: int
    priority: int
    cache_salt: str

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    p_less: bool
    typical_p: float
    top_n_sigma: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    repeat_last_n: int
    min_tokens: int
    min_keep: int
    logit_bias: Mapping[str, float | bool] | list[Any]
    xtc_probability: float
    xtc_threshold: float
    dynatemp_range: float
    dynatemp_exponent: float
    adaptive_target: float
    adaptive_decay: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: list[str]

    regex: str
    choice: list[str]
    grammar: str
    grammar_type: Literal["gbnf", "lark"]
    response_format: Mapping[str, Any]


class ChatOptions(GenerationOptions, total=False):
    """Fields of chat."""

    max_completion_tokens: int | None
    logprobs: bool
    top_logprobs: int | None
    tools: list[Mapping[str, Any]]
    tool_choice: Literal["none", "auto", "required"] | Mapping[str, Any]
    parallel_tool_calls: bool
    add_generation_prompt: bool | None
    continue_final_message: bool
    reasoning_budget_tokens: int | None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    chat_template_kwargs: Mapping[str, Any]
    documents: list[Mapping[str, Any]]
    prediction: Mapping[str, Any] | None


class CompletionOptions(GenerationOptions, total=False):
    """Fields of completions."""

    logprobs: int | None
    echo: bool
    best_of: int | None
    suffix: str | None
