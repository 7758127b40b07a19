"""Fields of other servers that clients send to this one, in tables.

Clients that are made for several servers send the fields of all of them. A field with a
counterpart here is used as that (:data:`SAME`, and the forms that
:class:`~offgrid.api.fields.translated.Translated` reads). A field that cannot change the answer is
accepted (:data:`WITHOUT_EFFECT`), and the response names it (:mod:`offgrid.api.fields.notices`). A
field that would change the answer is accepted only if its value asks for nothing or is a usual
default of clients (:data:`ONLY_IF_OFF`), and otherwise refused with a reason.

The names are those of llama-server, Ollama, LM Studio, vLLM, SGLang, text-generation-webui,
KoboldCpp, TabbyAPI, Mistral, DeepSeek, Anthropic and OpenRouter, as their clients send them.
``docs/API.md`` lists them; a test compares it with the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from offgrid.api.fields.messages import unknown
from offgrid.api.fields.orders import KOBOLD_CPP, WEB_UI, Orders
from offgrid.errors import InvalidParameter

SAME = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "ban_eos_token": "ignore_eos",
    "grammar_string": "grammar",
    "min_length": "min_tokens",
    "n_cmpl": "n",
    "mirostat_mode": "mirostat",
    "nsigma": "top_n_sigma",
    "random_seed": "seed",
    "reasoning_budget": "reasoning_budget_tokens",
    "rep_pen": "repetition_penalty",
    "rep_pen_range": "repeat_last_n",
    "repeat_penalty": "repetition_penalty",
    "repetition_penalty_range": "repeat_last_n",
    "sampler_seed": "seed",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "stopping_strings": "stop",
    "thinking_budget": "reasoning_budget_tokens",
    "thinking_budget_tokens": "reasoning_budget_tokens",
    "thinking_token_budget": "reasoning_budget_tokens",
    "ttl": "keep_alive",
    "typical": "typical_p",
}
"""Field -> the field of this API with the same meaning, if an endpoint does not have the field."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Fields that limit the answer."""
NO_LIMIT = (-1, -2)
"""Values of these that mean no limit; as a seed, a random one."""

NOTHING: dict[str, Any] = {"grammar": "", "reasoning_budget_tokens": -1, "stop": []}
"""Fields with another name in :data:`SAME`, and the value that asks for nothing."""

WITHOUT_EFFECT: dict[str, frozenset[str]] = {
    # Reason -> fields.
    "the settings of the server decide": frozenset({
        "draft_model", "draft_num_predict", "embedding_only", "f16_kv", "logits_all", "low_vram",
        "main_gpu", "n_ctx", "num_batch", "num_ctx", "num_gpu", "num_thread", "numa",
        "speculative.n_max", "speculative.n_min", "prompt_lookup_num_tokens", "speculative.p_min",
        "speculative_ngram", "static_cache", "truncation_length", "use_mlock", "use_mmap",
        "vocab_only",
    }),
    "the server chooses the slot and manages its cache": frozenset({
        "cache_control", "copilot_cache_control", "id_slot", "n_cache_reuse", "n_keep", "num_keep",
        "slot_id",
    }),
    "notes of clients and gateways": frozenset({
        "api_server", "api_type", "chat_id", "client_metadata", "conversation_id", "extra_content",
        "legacy_api", "models", "provider", "provider_specific_fields",
        "reasoning_details", "request_id", "route", "session_id", "thinking_blocks", "trace_id",
        "transforms",
    }),
    "it only makes answers of chat faster": frozenset({"prediction"}),
    "they concern answers": frozenset({"cache_salt", "priority"}),
    "they ask for facts beside the answer": frozenset({
        "return_progress", "return_tokens", "timings_per_token", "usage",
    }),
    "they refine a feature that is refused, or off": frozenset({
        "early_stopping", "guided_decoding_backend", "length_penalty", "negative_prompt",
        "smoothing_curve", "spaces_between_special_tokens",
    }),
    "reasoning is always returned": frozenset({"include_reasoning"}),
}  # fmt: skip
"""Fields whose values are not checked. They cannot change the text of the answer."""
INERT = frozenset(name for names in WITHOUT_EFFECT.values() for name in names)


class Off(NamedTuple):
    """When a field asks for nothing.

    Attributes:
        values: the values that ask for nothing, in words for the documentation.
        asks_nothing: whether a value asks for nothing.
        reason: why other values are refused, or the alternative; a part of a sentence.
        is_usual: whether a value asks for something, but is accepted without effect: clients send
            it although their user has chosen nothing.
    """

    values: str
    asks_nothing: Callable[[Any], bool]
    reason: str
    is_usual: Callable[[Any], bool] = lambda value: False


def _number(*numbers: float, reason: str) -> Off:
    """Return the rule of a number that turns something off."""
    return Off(
        " or ".join(f"{number:g}" for number in numbers),
        lambda value: not isinstance(value, bool) and value in numbers,
        reason,
    )


def _switch(on: bool, reason: str) -> Off:
    return Off(str(on).lower(), lambda value: value is on, reason)


def _empty(reason: str) -> Off:
    return Off(
        "empty", lambda value: isinstance(value, (list, dict, str)) and not value, reason
    )  # fmt: skip


def _order(whose: str, orders: Orders) -> Off:
    """Return the rule of a field that asks for an order of the sampling parameters."""
    return Off(
        f"the order of this server, or {whose} usual order, which has no effect",
        orders.is_own,
        _FIXED,
        orders.is_usual,
    )


_PENALIZED = Off(
    "true, or false, which has no effect", lambda value: value is True,
    "penalties treat line ends as all tokens; use logit_bias", lambda value: value is False,
)  # fmt: skip
_FIXED = "the order of the sampling parameters is fixed"
_NO_BEAMS = "this server has no beam search"
_CONTROL = "control tokens are never part of an answer"
_BEGINNING = "the model's file decides; send token ids for another beginning"
_TAIL_FREE = "tail-free sampling does not exist here; use min_p or typical_p"
_STOPS = "tokens cannot end an answer; use stop with their texts"
_BANS = "use logit_bias, where false bans a token"

ONLY_IF_OFF: dict[str, Off] = {
    "add_bos_token": _switch(True, _BEGINNING),
    "add_special_tokens": _switch(True, _BEGINNING),
    "allowed_token_ids": _empty("use a grammar, choice or regex"),
    "auto_max_new_tokens": _switch(False, "leave out max_tokens, or send -1"),
    "bad_words": _empty("use banned_strings"),
    "banned_tokens": _empty(_BANS),
    "beam_width": _number(1, reason=_NO_BEAMS),
    "cfg_scale": _number(1, reason="there is no guidance by a second prompt"),
    "character": _empty("write a system message"),
    "chat_template": _empty("the template of the model's file is used"),
    "do_sample": _switch(True, "use temperature 0 for the most likely tokens"),
    "enable_search": _switch(False, "the server searches nothing"),
    "encoder_repetition_penalty": _number(1, reason="use repetition_penalty"),
    "epsilon_cutoff": _number(0, reason="use min_p"),
    "eta_cutoff": _number(0, reason="use min_p"),
    "guidance_scale": _number(1, reason="there is no guidance by a second prompt"),
    "guided_whitespace_pattern": _empty("the white space of JSON is fixed"),
    "image_data": _empty("send images in the messages of a chat request"),
    "include_stop_str_in_output": _switch(False, "an answer ends before its stop string"),
    "instruction_template": _empty("the template of the model's file is used"),
    "kv_transfer_params": _empty("the cache stays on this server"),
    "logits_processors": _empty("clients cannot run code here"),
    "lora": _empty("adapters cannot be chosen by a request"),
    "lora_path": _empty("adapters cannot be chosen by a request"),
    "max_tokens_second": _number(0, reason="the speed of an answer cannot be limited"),
    "media_io_kwargs": _empty("the projector's file decides"),
    "mm_processor_kwargs": _empty("the projector's file decides"),
    "mode": Off(
        "instruct", lambda value: value == "instruct", "every chat uses the model's template"
    ),
    "n_discard": _number(0, reason="the context is never shifted"),
    "n_probs": _number(0, reason="use logprobs"),
    "no_repeat_ngram_size": _number(0, reason="use dry_multiplier"),
    "no_stop_trim": _switch(False, "an answer ends before its stop string"),
    "num_beams": _number(1, reason=_NO_BEAMS),
    "parse_tool_calls": _switch(True, "calls are always parsed"),
    "penalize_newline": _PENALIZED,
    "penalize_nl": _PENALIZED,
    "penalty_alpha": _number(0, reason="there is no contrastive search"),
    "plugins": _empty("the server has no plugins"),
    "preset": _empty("send the parameters of the preset"),
    "reasoning_budget_message": _empty("reasoning ends with the model's own marker alone"),
    "reasoning_format": Off(
        "auto, deepseek or parsed", lambda value: value in ("auto", "deepseek", "parsed"),
        "reasoning is always returned as reasoning_content",
    ),
    "reasoning_in_content": _switch(False, "reasoning is always returned as reasoning_content"),
    "rep_pen_slope": _number(0, 1, reason="the penalty is the same at every distance"),
    "repetition_decay": _number(0, reason="the penalty is the same at every distance"),
    "response_fields": _empty("responses are always complete"),
    "return_token_ids": _switch(False, "use POST /tokenize"),
    "return_tokens_as_token_ids": _switch(False, "use POST /tokenize"),
    "safe_prompt": _switch(False, "write a system message"),
    "sampler_order": _order("KoboldCpp's", KOBOLD_CPP),
    "sampler_priority": _order("text-generation-webui's", WEB_UI),
    "separate_reasoning": _switch(True, "reasoning is always returned as reasoning_content"),
    "skew": _number(0, reason="use temperature"),
    "skip_special_tokens": _switch(True, _CONTROL),
    "smoothing_factor": _number(0, reason="use dynatemp_range or min_p"),
    "stop_regex": _empty("use stop, or a regex that the whole answer matches"),
    "stop_token_ids": _empty(_STOPS),
    "stream_reasoning": _switch(True, "reasoning is always streamed"),
    "t_max_prompt_ms": _number(0, -1, reason="the time of a prompt cannot be limited"),
    "temperature_last": Off(
        "false, or true, which has no effect", lambda value: value is False, _FIXED,
        lambda value: value is True,
    ),
    "tfs": _number(1, reason=_TAIL_FREE),
    "tfs_z": _number(1, reason=_TAIL_FREE),
    "thinking_forced_open": _switch(False, "the model's template decides"),
    "top_a": _number(0, reason="use min_p"),
    "truncate_prompt_tokens": _number(-1, reason="a prompt is never cut"),
    "use_beam_search": _switch(False, _NO_BEAMS),
    "vllm_xargs": _empty("they are for extensions of vLLM"),
}  # fmt: skip
"""Fields that would change the answer, and the values with which they do not."""
IF_UNKNOWN = {
    "best_of": _number(1, reason="only /v1/completions chooses among answers"),
    "echo": _switch(False, "only /v1/completions repeats its prompt"),
    "n": _number(1, reason="only chat and completions give several answers"),
    "reasoning_budget_tokens": _number(
        -1,
        reason="only a chat template says where reasoning begins; use chat, /v1/responses, or "
        "thinking in /v1/messages",
    ),
}
"""The same for fields that exist in another endpoint, and for the other names of these."""

SWITCHES = ("enable_thinking", "reasoning", "think", "thinking")
"""Fields that turn reasoning on or off, or set its effort; see ``_reason`` of
:class:`~offgrid.api.fields.translated.Translated`."""
DYNAMIC = ("dynamic_temperature", "dynatemp_high", "dynatemp_low")
"""text-generation-webui's form of a temperature with ``dynatemp_range``."""
SPECIAL = ("custom_token_bans", "format", "options", *DYNAMIC, *SWITCHES)
"""Fields that become one or more fields of this API."""
FOREIGN = frozenset({*SAME, *INERT, *ONLY_IF_OFF, *SPECIAL})
"""All fields of this module."""


def unknown_field(name: str, known: Collection[str], *, in_options: bool) -> InvalidParameter:
    """Return the error for a field that does not exist, neither here nor elsewhere."""
    path, parent = (f"options.{name}", "options") if in_options else (name, "")
    return unknown(path, {*known, *aliases(known)}, parent)


def aliases(known: Collection[str]) -> dict[str, str]:
    """Return the names that some of an endpoint's fields have elsewhere."""
    names = (name for name in (*SAME, *LIMITS) if name not in known)
    return {name: own for name in names if (own := counterpart(name, known))}


def counterpart(name: str, known: Collection[str]) -> str:
    """Return the field of an endpoint that a foreign field means; an empty string if none does.

    Each endpoint has another name for the limit of the answer.
    """
    own = SAME.get(name, name)
    if own in LIMITS and own not in known:
        own = "max_output_tokens"
    return own if own in known else ""


def refusal(name: str) -> Off | None:
    """Return when a foreign field asks for nothing; None if it is no such field."""
    return ONLY_IF_OFF.get(name) or IF_UNKNOWN.get(SAME.get(name, name))


def generates(known: Collection[str]) -> bool:
    """Whether an endpoint with these fields generates text."""
    return "stop" in known


def descriptions(known: Collection[str]) -> dict[str, str]:
    """Return the other foreign fields that an endpoint accepts, each with a sentence about it."""
    found = {
        name: f"Without effect: {reason}."
        for reason, names in WITHOUT_EFFECT.items()
        for name in names
    }
    if generates(known):
        for name, off in (ONLY_IF_OFF | IF_UNKNOWN).items():
            for other in (name, *(alias for alias, own in SAME.items() if own == name)):
                found[other] = f"Refused unless it is {off.values}: {off.reason}."
    if "reasoning_effort" in known:
        found |= dict.fromkeys(SWITCHES, "Another form of reasoning_effort.")
    elif "reasoning" in known:
        found |= dict.fromkeys((*SWITCHES, "reasoning_effort"), "Another form of reasoning.effort.")
    elif generates(known):
        words = "Without effect: there is no template."
        if "thinking" in known:
            words = "Refused unless it is off, as thinking is: use thinking."
        found |= dict.fromkeys(SWITCHES, words)
    found["options"] = "Its members are fields of the request."
    if "json_schema" in known:
        found["format"] = "Another form of json_schema; the text json means any object."
    if generates(known):
        found |= dict.fromkeys(DYNAMIC, "Another form of temperature and dynatemp_range.")
        found["custom_token_bans"] = "Token ids that logit_bias bans."
    return {name: words for name, words in found.items() if name not in known}
