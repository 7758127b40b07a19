"""Requests in which every optional field is set, and the table of their values.

Mutually exclusive fields are in separate requests.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from support import Json
from tiny_vision import pixels, png

from offgrid.api.fields.foreign import INERT as INERT_FOREIGN
from offgrid.api.ollama.context import to_context
from offgrid.sampling.params import RANGES, Range

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES_API = "/v1/messages"
RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
MODELS = "/v1/models"
HISTORY = "/v1/history"
HISTORY_ID = "full"
"""A conversation that the history must have."""

OBJECT: Json = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
_CACHE = {
    "mode": "implicit", "ttl": "30m", "comparison_response_id": "resp_1", "prewarm": False
}  # fmt: skip
INERT: Json = {
    "metadata": {"trip": "1"},
    "moderation": {"model": "none", "policy": {"a": 1}},
    "prompt_cache_key": "key",
    "prompt_cache_options": _CACHE,
    "prompt_cache_retention": "24h",
    "safety_identifier": "somebody",
    "store": True,
    "user": "somebody",
    "verbosity": "low",
}


def _another(limits: Range) -> float:
    """A value that a request may have and that is not the default."""
    if limits.kind is bool:
        return not limits.api_default
    step = (limits.api_most - limits.api_default) / 2 or (limits.api_least - limits.api_default) / 2
    return limits.kind(limits.api_default + (min(step, 1) if limits.kind is int else step))


SAMPLING: Json = {
    **{name: _another(limits) for name, limits in RANGES.items() if name != "repetition_penalty"},
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.01,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repeat_last_n": 32,
    "logit_bias": {"5": -1, "the": False},
    "seed": 7,
    "stop": ["###"],
    "banned_strings": ["a testament to"],
    "ignore_eos": True,
    "cache_prompt": False,
    "top_n_sigma": 3.0,
    "typical_p": 0.99,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.2,
    "dynatemp_range": 0.1,
    "dynatemp_exponent": 1.5,
    "mirostat": 2,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "dry_multiplier": 0.5,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n"],
    "min_tokens": 1,
    "min_keep": 2,
    "post_sampling_probs": True,
}
STAY: Json = {"keep_alive": 300, "ttl": 300}
"""How long the model stays loaded, under two names."""
GENERATION: Json = {
    **INERT,
    **SAMPLING,
    **STAY,
    "max_tokens": 24,
    "n": 2,
    "service_tier": "default",
    "priority": 1,
    "cache_salt": "salt",
    "samplers": ["penalties", "dry", "temperature", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "t_max_predict_ms": 60_000,
    "n_indent": 1,
}
REPETITION: list[Json] = [{"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "rep_pen": 1.1}]

NOTHING: Json = {
    "add_bos_token": True, "add_special_tokens": True, "allowed_token_ids": [],
    "auto_max_new_tokens": False, "bad_words": [], "banned_tokens": [], "beam_width": 1,
    "best_of": 1, "cfg_scale": 1.0, "character": "", "n": 1,
    "chat_template": "", "do_sample": True, "echo": False, "enable_search": False,
    "encoder_repetition_penalty": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "guidance_scale": 1,
    "guided_whitespace_pattern": "", "image_data": [], "include_stop_str_in_output": False,
    "instruction_template": "", "kv_transfer_params": {}, "logits_processors": [], "lora": [],
    "lora_path": "", "max_tokens_second": 0, "media_io_kwargs": {}, "mm_processor_kwargs": {},
    "mode": "instruct", "n_discard": 0, "n_probs": 0, "no_repeat_ngram_size": 0,
    "no_stop_trim": False, "num_beams": 1, "parse_tool_calls": True, "penalize_newline": True,
    "penalize_nl": True, "penalty_alpha": 0, "plugins": [], "preset": "",
    "reasoning_budget_message": "", "reasoning_budget_tokens": -1,
    "reasoning_format": "auto", "reasoning_in_content": False, "rep_pen_slope": 1,
    "repetition_decay": 0, "response_fields": [], "return_token_ids": False,
    "return_tokens_as_token_ids": False, "safe_prompt": False,
    "sampler_order": [6, 5, 0, 1, 3, 4, 2], "sampler_priority": [],
    "separate_reasoning": True, "skew": 0, "skip_special_tokens": True, "smoothing_factor": 0,
    "stop_regex": [], "stop_token_ids": [], "stream_reasoning": True,
    "t_max_prompt_ms": 0, "temperature_last": False, "tfs": 1.0, "tfs_z": 1,
    "thinking_forced_open": False,
    "top_a": 0.0, "truncate_prompt_tokens": -1, "use_beam_search": False, "vllm_xargs": {},
}  # fmt: skip
"""Values of foreign fields that ask for nothing."""
NOTES: Json = {
    **dict.fromkeys(INERT_FOREIGN, 1), "cache_salt": "salt", "options": {"num_ctx": 512},
    "return_progress": True,
    "timings_per_token": True, "prediction": {"type": "content", "content": "Once"},
}  # fmt: skip
"""The foreign fields that every endpoint accepts."""
FOREIGN: Json = {**NOTES, **NOTHING}
"""The foreign fields that every endpoint accepts that generates."""
SWITCHES: Json = {
    "think": "low", "thinking": {"type": "enabled"}, "enable_thinking": True,
    "reasoning": {"effort": "low"},
}  # fmt: skip
SAME_SAMPLING: Json = {
    "mirostat_mode": 2, "min_length": 1, "nsigma": 3.0, "random_seed": 7, "sampler_seed": 7,
    "typical": 0.99, "ban_eos_token": True, "rep_pen_range": 32, "repetition_penalty_range": 32,
    "stop_sequence": "###", "stop_sequences": ["###"], "stopping_strings": ["###"],
    "custom_token_bans": [5],
    "dynamic_temperature": True, "dynatemp_low": 0.4, "dynatemp_high": 0.6,
    "reasoning_budget": -1, "thinking_budget": -1, "thinking_budget_tokens": -1,
    "thinking_token_budget": -1,
}  # fmt: skip
SAME: Json = {
    **SAME_SAMPLING, "n_cmpl": 2, "n_predict": 24, "num_predict": 24, "max_new_tokens": 24,
    "max_output_tokens": 24,
}  # fmt: skip
"""Fields that :data:`GENERATION` has under other names, with the same values."""
_OPTIONS = {
    "include_usage": True, "include_obfuscation": True, "continuous_usage_stats": False
}  # fmt: skip
STREAM: list[Json] = [
    {"stream": True, "stream_options": _OPTIONS},
    {"stream": False, "prompt_logprobs": 1},
]
TOOL: Json = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": OBJECT, "strict": True},
}
_SCHEMA = {"name": "it", "description": "It.", "schema": OBJECT, "strict": True}
GRAMMARS: list[Json] = [
    {"response_format": {"type": "json_schema", "json_schema": _SCHEMA}},
    {"response_format": {"type": "json_object", "schema": OBJECT}},
    {"response_format": {"type": "text"}},
    {"json_schema": OBJECT},
    {"grammar": 'root ::= "a" | "b"', "grammar_type": "gbnf"},
    {"grammar_string": 'root ::= "a" | "b"'},
    {"regex": "[ab]+"},
    {"choice": ["a", "b"]},
    {"structured_outputs": {"choice": ["a", "b"]}},
    {"guided_json": OBJECT},
    {"guided_regex": "[ab]+"},
    {"guided_choice": ["a", "b"]},
    {"guided_grammar": 'root ::= "a" | "b"'},
    {"format": OBJECT},
    {"format": "json"},
]
_CALL = {
    "id": "c1", "type": "function", "index": 0,
    "function": {"name": "look", "arguments": '{"a": true}'},
}  # fmt: skip
_REFUSAL = {"type": "refusal", "refusal": "No."}
_THINKING = {"type": "thinking", "thinking": "Hm.", "closed": True, "signature": "somebody"}
MESSAGES: list[Json] = [
    {"role": "system", "content": "Be brief.", "name": "ship"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Hello!", "prompt_cache_breakpoint": {"mode": "explicit"}}
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning": "Hm."},
    {"role": "tool", "content": "7", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is 7.", "reasoning_content": "Hm."},
    {"role": "assistant", "content": None, "refusal": "No.", "annotations": []},
    {"role": "assistant", "content": [_THINKING, _REFUSAL], "audio": None, "function_call": None},
    {"role": "user", "content": "And now?"},
]
TO_CONTINUE = MESSAGES[:5]
_URL = f"data:image/png;base64,{base64.b64encode(png(pixels(1))).decode()}"


_IMAGE = {"type": "image_url", "image_url": {"url": _URL, "detail": "low"}}
_LOOK: list[Json] = [
    {"type": "text", "text": "Look!", "prompt_cache_breakpoint": {"mode": "explicit"}},
    {**_IMAGE, "prompt_cache_breakpoint": {"mode": "explicit"}},
]
_CHAT: Json = {
    **GENERATION,
    **SAME,
    **{name: value for name, value in FOREIGN.items() if name != "n"},
    **SWITCHES,
    "max_completion_tokens": 24,
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"polite": True, "controls": {"length": ["short"]}},
    "documents": [{"title": "Otters", "text": "Otters swim."}],
    "prediction": {
        "type": "content",
        "content": [
            {"type": "text", "text": "Otters ", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "text", "text": "swim."},
        ],
    },
}
_CHOICES: list[Json] = [
    {"tool_choice": "auto"},
    {"tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "look"}}]}}},
]  # fmt: skip
_CHAT_ALTERNATIVES = (
    REPETITION,
    STREAM,
    [
        {"add_generation_prompt": True},
        {"continue_final_message": True, "messages": TO_CONTINUE, "add_generation_prompt": False},
    ],
    # Tools can be combined with response_format, and with no other grammar.
    [
        *(
            {"tools": [TOOL], "parallel_tool_calls": False, **choice, **format}
            for choice, format in zip(_CHOICES, GRAMMARS, strict=False)
        ),
        *GRAMMARS[3:],
    ],
)
_LAB: Json = {
    **INERT,
    **NOTES,
    **STAY,
    **{name: value for name, value in SAMPLING.items()
       if name not in ("stop", "banned_strings", "post_sampling_probs")},
    "mirostat_mode": 2, "min_length": 1, "nsigma": 3.0, "random_seed": 7, "sampler_seed": 7,
    "typical": 0.99, "ban_eos_token": True, "rep_pen_range": 32, "repetition_penalty_range": 32,
    "continuation": [5, 6, 5],
    "top": 3,
    "samples": 20,
    "samplers": ["penalties", "dry", "temperature", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "service_tier": "default",
    "priority": 1,
}  # fmt: skip
_LAB_CHAT: Json = {
    **SWITCHES,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"polite": True, "controls": {"length": ["short"]}},
    "documents": [{"title": "Otters", "text": "Otters swim."}],
    "tools": [{**TOOL, "function": {**TOOL["function"], "strict": False}}],
}
_LAB_ALTERNATIVES: tuple[list[Json], ...] = (
    REPETITION,
    [
        {"add_generation_prompt": True},
        {"continue_final_message": True, "messages": TO_CONTINUE, "add_generation_prompt": False},
    ],
)
_TEXT: Json = {
    **GENERATION,
    **SAME,
    **{name: value for name, value in FOREIGN.items() if name not in ("best_of", "echo", "n")},
    **SWITCHES,
    "max_completion_tokens": 24,
}
_TEXT_ALTERNATIVES = (
    REPETITION,
    STREAM,
    [{"suffix": " end."}, {"logprobs": 2, "echo": True, "best_of": 2}],
    GRAMMARS,
)
_NATIVE: Json = {
    **{name: value for name, value in _TEXT.items() if name != "n_probs"},
    "best_of": 1,
    "echo": False,
    "n_probs": 2,
    "return_tokens": True,
    "samplers": "penalties;top_k;temperature",
    "t_max_prompt_ms": 500,
    "sse_ping_interval": 5,
}
_NATIVE_ALTERNATIVES = (
    REPETITION,
    [{"stream": True}, {"stream": False, "response_fields": ["content"]}],
    GRAMMARS,
)
_SIDES: list[Json] = [
    {"text_1": "otter", "text_2": ["river", "fox"]},
    {"data_1": ["otter"], "data_2": {"content": [{"type": "text", "text": "river"}]}},
    {"queries": "otter", "documents": ["river", "fox"]},
]
_RESPONSE_TOOL = {"type": "function", **TOOL["function"]}
_OTHER_TOOLS: list[Json] = [
    {"type": "custom", "name": "say", "description": "Says.", "format": {
        "type": "grammar", "syntax": "regex", "definition": "a|b"}},
    {"type": "custom", "name": "write", "format": {"type": "text"}},
    {"type": "namespace", "name": "files", "description": "Files.", "tools": [
        _RESPONSE_TOOL, {"type": "custom", "name": "patch"}]},
    {"type": "tool_search", "execution": "client", "description": "Searches.",
     "parameters": OBJECT},
    {"type": "web_search"},
]  # fmt: skip
_PAIRS: list[Json] = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}",
     "namespace": "files", "caller": {"type": "direct"}},
    {"type": "function_call_output", "call_id": "c1", "output": [
        {"type": "input_text", "text": "x"},
        {"type": "input_file", "filename": "a.txt", "file_data": "eA=="}]},
    {"type": "custom_tool_call", "call_id": "c2", "name": "say", "input": "a"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "x"},
    {"type": "shell_call", "call_id": "c3", "action": {"commands": ["ls"]}},
    {"type": "shell_call_output", "call_id": "c3", "output": [
        {"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 1}}]},
    {"type": "web_search_call", "status": "completed", "action": {}},
]  # fmt: skip
_ITEMS: list[Json] = [
    {"type": "message", "role": "developer", "content": "Be brief."},
    {"type": "additional_tools", "role": "developer", "tools": [
        {**_RESPONSE_TOOL, "name": "see"}]},
    *_PAIRS,
    {"role": "user", "content": [{"type": "input_text", "text": "Hello!"}]},
]  # fmt: skip
_RESPONSE: Json = {
    **{name: value for name, value in INERT.items() if name != "verbosity"},
    **SAMPLING,
    **STAY,
    **SAME_SAMPLING,
    **FOREIGN,
    "instructions": "Be kind.",
    "max_output_tokens": 24,
    "tools": [_RESPONSE_TOOL, *_OTHER_TOOLS],
    "parallel_tool_calls": False,
    "reasoning": {
        "effort": "low", "summary": "auto", "generate_summary": "concise", "mode": "standard",
        "context": "current_turn", "enabled": True, "exclude": False,
    },
    **{name: value for name, value in SWITCHES.items() if name != "reasoning"},
    "reasoning_effort": "low",
    "n_cmpl": 1,
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_tokens",
                     "max_completion_tokens"), 24),
    "background_options": {"completion_window": "soonest", "continuation_id": "x"},
    "client_metadata": {"trip": "1"},
    "context_management": [{"type": "compaction", "compact_threshold": 100}],
    "truncation": "auto",
    "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
    "top_logprobs": 2,
    "access_programs": {"cyber": "standard"},
    "image": {"context_compression": "auto"},
    "max_tool_calls": 3,
    "service_tier": "default",
    "priority": 1,
    "cache_salt": "salt",
    "samplers": ["penalties", "dry", "temperature", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "t_max_predict_ms": 60_000,
    "n_indent": 1,
    "chat_template_kwargs": {"polite": True},
}  # fmt: skip
_RESPONSE_ALTERNATIVES = (
    REPETITION,
    [
        {"tool_choice": "auto"},
        {"tool_choice": {"type": "function", "name": "look"}},
        {"tool_choice": {
            "type": "allowed_tools", "mode": "required",
            "tools": [{"type": "function", "name": "look"}]}},
        {"tool_choice": {"type": "custom", "name": "say"}},
        {"tool_choice": {"type": "function", "name": "look", "namespace": "files"}},
        {"tool_choice": {"type": "tool_search"}},
    ],
    [
        {"text": {"format": {"type": "json_schema", **_SCHEMA}, "verbosity": "low"}},
        {"text": {"format": {"type": "json_object"}}},
        {"text": {"format": {"type": "text"}}},
        *({"tool_choice": "none", **grammar} for grammar in GRAMMARS[3:]),
    ],
    [
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        {"stream": False},
        {"background": True},
        {"stream": True, "background": True},
    ],
)  # fmt: skip
_EVIDENCE: list[Json] = [
    {"type": "message", "role": "developer", "content": "Be brief."},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "7"},
    {"role": "user", "content": [
        {"type": "input_text", "text": "Hello!", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "input_json", "data": {"a": None}}]},
]  # fmt: skip
_MARKED = {"prompt_cache_breakpoint": {"mode": "explicit"}}
_QUESTIONS: list[Json] = [
    {"type": "predicate", "name": "kind", "instructions": "It is kind."},
    {"type": "choice", "name": "which", "instructions": [
        {"type": "input_text", "text": "Which?", **_MARKED},
        {"type": "input_json", "data": [{"a": 1}], **_MARKED}],
     "choices": [{"value": "a", "description": "The first."}, {"value": True}]},
    {"type": "score", "name": "how", "instructions": "How kind?", "levels": [
        {"label": "a", "description": "Not at all."}, {"label": "b"}]},
]  # fmt: skip

_CACHED = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
_QUOTED = {"citations": {"enabled": False}, **_CACHED}
_TEXT_BLOCK = {"type": "text", "text": "Hello!", **_CACHED}
_BASE64_IMAGE = {"type": "base64", "media_type": "image/png", "data": _URL.partition(",")[2]}
_BLOCKS: list[Json] = [
    _TEXT_BLOCK,
    {"type": "document", "title": "Otters", "context": "A zoo.", **_QUOTED,
     "source": {"type": "text", "media_type": "text/plain", "data": "Otters swim."}},
    {"type": "document", "source": {"type": "content", "content": [_TEXT_BLOCK]}},
    {"type": "search_result", "title": "A", "source": "a", "content": [_TEXT_BLOCK], **_QUOTED},
]  # fmt: skip
_CLAUDE_MESSAGES: list[Json] = [
    {"role": "user", "content": _BLOCKS},
    {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "somebody"},
        {"type": "redacted_thinking", "data": "somebody"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": None}, **_CACHED}]},
    {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": _BLOCKS,
         **_CACHED}]},
    {"role": "system", "content": "Be kind.", "clear_at": "never",
     "output_config": {"effort": "low"}},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
_CLAUDE_LOOK: list[Json] = [
    {"role": "user", "content": [
        _TEXT_BLOCK,
        {"type": "image", "source": _BASE64_IMAGE, **_CACHED},
        {"type": "image", "source": {"type": "url", "url": _URL}},
        {"type": "document", "source": {"type": "content", "content": [
            {"type": "image", "source": _BASE64_IMAGE}]}}]},
]  # fmt: skip
_CLAUDE_TOOL: Json = {
    "name": "look", "type": "custom", "description": "Looks.", "input_schema": OBJECT,
    "strict": True, "input_examples": [{"a": True}], "allowed_callers": ["direct"], **_CACHED,
    "defer_loading": True, "eager_input_streaming": True,
}  # fmt: skip
_ALONE = {"disable_parallel_tool_use": True}
_CLAUDE_FORMAT = {"type": "json_schema", "schema": OBJECT, "name": "it"}
_CLAUDE: Json = {
    **{name: value for name, value in SAMPLING.items() if name != "post_sampling_probs"},
    **STAY,
    **SAME_SAMPLING,
    **{name: value for name, value in FOREIGN.items() if name != "cache_control"},
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_output_tokens",
                     "max_completion_tokens"), 24),
    "n_cmpl": 1,
    "samplers": ["penalties", "dry", "temperature", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "t_max_predict_ms": 60_000,
    "n_indent": 1,
    "system": [_TEXT_BLOCK],
    "priority": 1,
    "cache_salt": "salt",
    "chat_template_kwargs": {"polite": True},
    "service_tier": "standard_only",
    "metadata": {"user_id": "somebody"},
    **_CACHED,
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "billing_policy": {"type": "auto"},
    "diagnostics": {"previous_message_id": "msg_1"},
    "fallbacks": [{"model": "other"}],
    "fallback_credit_token": "x",
    "inference_geo": "here",
    "speed": "fast",
    "user_profile_id": "somebody",
}  # fmt: skip
_CLAUDE_ALTERNATIVES = (
    REPETITION,
    [{"stream": True}, {"stream": False}],
    [
        {"thinking": {"type": "enabled", "budget_tokens": 8, "display": "omitted"}},
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"thinking": {"type": "disabled"}, "think": False, "enable_thinking": "off"},
        {"thinking": {"type": "between_tools"}, "reasoning": {"enabled": False}},
    ],
    [
        {"tools": [_CLAUDE_TOOL], "tool_choice": {"type": "auto", **_ALONE}},
        {"tools": [_CLAUDE_TOOL], "tool_choice": {"type": "any", **_ALONE}},
        {"tools": [_CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "look", **_ALONE}},
        {"tools": [_CLAUDE_TOOL], "tool_choice": {"type": "none"}},
        {"output_config": {"effort": "low", "format": _CLAUDE_FORMAT}},
        {"output_format": _CLAUDE_FORMAT},
        *GRAMMARS[3:],
    ],
)


_OLLAMA_CALL = {"id": "c1", "function": {"index": 0, "name": "look", "arguments": {"a": True}}}
_OLLAMA_MESSAGES: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Look!"},
    {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [_OLLAMA_CALL]},
    {"role": "tool", "content": "7", "tool_name": "look", "tool_call_id": "c1"},
]
_OLLAMA: Json = {
    **{name: value for name, value in NOTES.items() if name != "options"},
    **STAY,
    "stream": True,
    "options": {
        **{name: SAMPLING[name] for name in ("temperature", "top_p", "top_k", "min_p", "seed")},
        "num_predict": 24, "stop": ["###"], "repeat_penalty": 1.1, "num_ctx": 512, "tfs_z": 1,
    },
    "think": False,
    "truncate": True,
    "shift": True,
    "logprobs": True,
    "top_logprobs": 2,
}  # fmt: skip
_OLLAMA_FORMATS: list[Json] = [{"format": OBJECT}, {"format": "json"}, {"format": ""}]
_IMAGE_DATA = _URL.partition(",")[2]


SAID: list[Json] = [
    {"id": "u1", "parent": None, "role": "user", "created_at": 1790000000, "content": [
        {"type": "text", "text": "Look!"}, {"type": "image_url", "image_url": {"url": _URL}}]},
    {"id": "a1", "parent": "u1", "role": "assistant", "content": "It is 7.", "reasoning": "Hm.",
     "tool_calls": [_CALL], "status": "stopped", "model": "m", "data": {"usage": {"a": 1}}},
    {"id": "t1", "parent": "a1", "role": "tool", "tool_call_id": "c1", "content": "7"},
]  # fmt: skip
_CONVERSATION: Json = {
    "title": "Numbers", "pinned": True, "settings": {"temperature": 0.5}, "messages": SAID,
    "head": "a1",
}  # fmt: skip
_EXPORTED: Json = {
    "id": "exported", "object": "history.conversation", "created_at": 1790000000,
    "updated_at": 1790000001, **_CONVERSATION,
}  # fmt: skip


@dataclass(frozen=True)
class Full:
    """The fields and sample values of one endpoint.

    Attributes:
        path: path of the endpoint, called with POST.
        required: fields that every request has.
        samples: the optional fields that every request can have together.
        alternatives: lists of field sets; each request contains one set of each list.
        values: values of the parameters in the path.
    """

    path: str
    required: Json
    samples: Json = field(default_factory=dict)
    alternatives: tuple[list[Json], ...] = ()
    values: Json = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The path with the values of its parameters."""
        return self.path.format(**self.values)

    def bodies(self) -> list[Json]:
        """The request bodies: as many as the longest list of alternatives."""
        made = []
        for number in range(max((len(options) for options in self.alternatives), default=1)):
            body = {**self.required, **self.samples}
            for options in self.alternatives:
                body |= options[number % len(options)]
            made.append(body)
        return made


def full_requests(
    starter: str,
    seeing: str,
    ranking: str,
    previous: str,
    conversation_id: str,
    stick: str,
    spare: str,
) -> list[Full]:
    """All endpoints that accept a body.

    Args:
        starter: id of a model that supports chat and fill-in-the-middle.
        seeing: id of a vision model.
        ranking: id of a model that ranks.
        previous: id of a stored response.
        conversation_id: id of a conversation.
        stick: a folder below an import root.
        spare: id of a model that may be removed.
    """
    model = {"model": starter}
    conversation = {**model, "messages": MESSAGES}
    look = {"model": seeing, "messages": [{"role": "user", "content": _LOOK}]}
    question = {**model, "input": _ITEMS}
    alternatives = (
        *_RESPONSE_ALTERNATIVES,
        [
            {"previous_response_id": previous},
            {"conversation": conversation_id},
            {"conversation": {"id": conversation_id}},
        ],
    )
    of_conversation = {"id": conversation_id}
    return [
        Full(CHAT, conversation, _CHAT, _CHAT_ALTERNATIVES),
        Full(f"{CHAT}/input_tokens", conversation, _CHAT, _CHAT_ALTERNATIVES),
        Full(CHAT, look),
        Full(f"{CHAT}/input_tokens", look),
        Full(COMPLETIONS, {**model, "prompt": "Once"}, _TEXT, _TEXT_ALTERNATIVES),
        *(
            Full(
                path,
                {**model, "messages": _CLAUDE_MESSAGES, "max_tokens": 24},
                _CLAUDE,
                _CLAUDE_ALTERNATIVES,
            )
            for path in (MESSAGES_API, f"{MESSAGES_API}/count_tokens")
        ),
        *(
            Full(path, {"model": seeing, "messages": _CLAUDE_LOOK, "max_tokens": 24})
            for path in (MESSAGES_API, f"{MESSAGES_API}/count_tokens")
        ),
        Full(RESPONSES, question, _RESPONSE, alternatives),
        Full(f"{RESPONSES}/input_tokens", question, _RESPONSE, alternatives),
        Full(CONVERSATIONS, {}, {"items": _ITEMS, "metadata": {"trip": "1"}}),
        Full(f"{CONVERSATIONS}/{{id}}", {}, {"metadata": {"trip": "2"}}, values=of_conversation),
        Full(f"{CONVERSATIONS}/{{id}}/items", {"items": _ITEMS}, values=of_conversation),
        Full(HISTORY, {}, {"id": HISTORY_ID, **_CONVERSATION}),
        Full(
            f"{HISTORY}/{{id}}",
            {},
            {name: value for name, value in _CONVERSATION.items() if name != "messages"},
            values={"id": HISTORY_ID},
        ),
        Full(
            f"{HISTORY}/{{id}}/messages",
            {"messages": SAID},
            {"head": "a1"},
            values={"id": HISTORY_ID},
        ),
        Full(
            f"{HISTORY}/import",
            {"object": "history.export", "version": 1, "conversations": [_EXPORTED]},
            {"exported_at": 1790000000},
        ),
        Full(
            "/v1/embeddings",
            {**model, "input": ["Once", [5, 6]]},
            {**INERT, **NOTES, **STAY, "dimensions": 8, "encoding_format": "base64"},
        ),
        Full(
            "/v1/rerank",
            {"model": ranking, "query": "otter", "documents": ["river", {"text": "fox"}]},
            {**INERT, **NOTES, **STAY, "top_n": 1, "return_documents": True},
        ),
        *(
            Full(path, {**model, "prompt": prompt}, _NATIVE, _NATIVE_ALTERNATIVES)
            for path in ("/completion", "/completions")
            for prompt in ("Once", [{"prompt_string": "Once"}, [5, "upon"]])
        ),
        Full(
            "/infill",
            {**model, "input_prefix": "a", "input_suffix": "b"},
            {
                **_NATIVE,
                "input_extra": [{"text": "c", "filename": "c.py", "time": [1, 2]}],
                "prompt": "  ",
            },
            _NATIVE_ALTERNATIVES,
        ),
        Full("/apply-template", conversation, _CHAT, _CHAT_ALTERNATIVES),
        Full("/apply-template", look),
        *(
            Full(
                path,
                {"model": ranking},
                {**INERT, **NOTES, **STAY, "use_activation": False},
                (_SIDES,),
            )
            for path in ("/v1/score", "/score")
        ),
        Full(
            "/v1/decisions",
            {**model, "input": _EVIDENCE, "questions": _QUESTIONS},
            {
                **INERT,
                **NOTES,
                **STAY,
                "cache_prompt": False,
                "service_tier": "default",
                "priority": 1,
                "cache_salt": "salt",
            },
        ),
        Full("/v1/lab/distribution", conversation, {**_LAB, **_LAB_CHAT}, _LAB_ALTERNATIVES),
        Full("/v1/lab/distribution", look, {"continuation": "A"}),
        Full(
            "/v1/lab/distribution",
            model,
            _LAB,
            ([{"prompt": "Once"}, {"tokens": [5, 6]}], REPETITION),
        ),
        Full(
            "/v1/decisions",
            {
                "model": seeing,
                "input": [{"role": "user", "content": [{"type": "input_text", "text": "Look!"}]}],
                "questions": [
                    {
                        "type": "predicate",
                        "instructions": [
                            {"type": "input_text", "text": "It is red."},
                            {
                                "type": "input_image",
                                "image_url": _URL,
                                "detail": "low",
                                **_MARKED,
                            },
                        ],
                    }
                ],
            },
        ),
        Full("/v1/moderations", {"input": ["Once", "upon"]}, {**INERT, **NOTES, **STAY, **model}),
        Full(
            "/v1/moderations",
            {
                "model": seeing,
                "input": [
                    {"type": "text", "text": "Look!"},
                    {"type": "image_url", "image_url": {"url": _URL, "detail": "low"}},
                ],
            },
        ),
        Full(
            "/tokenize",
            {"content": "Once"},
            {
                **NOTES,
                **STAY,
                **model,
                "add_special": True,
                "parse_special": False,
                "with_pieces": True,
            },
        ),
        Full(
            "/tokenize",
            {"prompt": "Once"},
            {
                **NOTES,
                **STAY,
                **model,
                "add_special_tokens": False,
                "return_token_strs": True,
            },
        ),
        Full(
            "/tokenize",
            {"messages": TO_CONTINUE},
            {
                **NOTES,
                **STAY,
                **SWITCHES,
                **model,
                "reasoning_effort": "low",
                "documents": [{"title": "A", "text": "B"}],
                "chat_template_kwargs": {"polite": True},
                "add_special_tokens": False,
                "return_token_strs": True,
                "tools": [TOOL],
            },
            (
                [
                    {"add_generation_prompt": False, "continue_final_message": True},
                    {"add_generation_prompt": True, "messages": MESSAGES},
                ],
            ),
        ),
        Full("/detokenize", {"tokens": [300, 301]}, {**NOTES, **STAY, **model}),
        Full(
            f"{MODELS}/{{model}}/load",
            {},
            {**NOTES, **STAY, "wait": True},
            ([{"stream": False}, {"stream": True}],),
            values=model,
        ),
        Full(f"{MODELS}/{{model}}/pin", {}, NOTES, values=model),
        Full(f"{MODELS}/{{model}}/unpin", {}, NOTES, values=model),
        Full(
            f"{MODELS}/{{model}}/default",
            {},
            NOTES,
            ([{"default": True}, {"default": False}],),
            values=model,
        ),
        Full(f"{MODELS}/{{model}}/remove", {"confirm": spare}, NOTES, values={"model": spare}),
        Full(f"{MODELS}/{{model}}/unload", {}, {**NOTES, "wait": True}, values=model),
        Full(
            "/v1/import",
            {"paths": [stick]},
            {"ids": ["none"], "replace": True, "stream": False, "background": False},
        ),
        Full(
            "/v1/export",
            {"path": stick},
            {"ids": [starter], "replace": True, "stream": False, "background": False},
        ),
        Full(
            "/api/chat",
            {**model, "messages": _OLLAMA_MESSAGES},
            {**_OLLAMA, "tools": [TOOL], "system": "Be brief."},
            (_OLLAMA_FORMATS,),
        ),
        Full(
            "/api/chat",
            {
                "model": seeing,
                "messages": [{"role": "user", "content": "Look!", "images": [_IMAGE_DATA]}],
            },
        ),
        Full(
            "/api/generate",
            {**model, "prompt": "Once"},
            _OLLAMA,
            (
                _OLLAMA_FORMATS,
                [
                    {"system": "Be brief.", "context": to_context([("user", "Hello!")])},
                    {"raw": True},
                    {"suffix": " end."},
                ],
            ),
        ),
        Full("/api/generate", {"model": seeing, "prompt": "Look!"}, {"images": [_IMAGE_DATA]}),
        Full(
            "/api/embed",
            {**model, "input": ["Once", "upon"]},
            {**NOTES, **STAY, "dimensions": 8, "truncate": True},
        ),
        Full("/api/embeddings", {**model, "prompt": "Once"}, {**NOTES, **STAY}),
        Full(
            "/api/show",
            model,
            {
                **NOTES,
                "name": starter,
                "verbose": True,
                "system": "Be brief.",
                "template": "x",
            },
        ),
        Full(
            "/api/pull",
            model,
            {
                **NOTES,
                "name": starter,
                "stream": True,
                "insecure": True,
                "username": "me",
                "password": "x",
            },
        ),
    ]


def key_requests(id: str, starter: str, number: int = 0) -> list[Full]:
    """The endpoints that create and change keys. They need a server whose keys may change.

    Args:
        id: id of a key that may be changed.
        starter: id of a model.
        number: makes the name of the new key unique.
    """
    limits = {
        "requests_per_minute": 5, "tokens_per_minute": 600, "concurrent_requests": 2,
        "max_tokens": 100,
    }  # fmt: skip
    grant = {
        "scopes": ["inference", "stats"], "models": [starter], "limits": limits, "expires": "30d"
    }  # fmt: skip
    return [
        Full("/v1/keys", {"name": f"ward {number}"}, grant),
        Full("/v1/keys/{id}", {}, grant, values={"id": id}),
        Full("/v1/keys/{id}/rotate", {}, {"grace": "1h"}, values={"id": id}),
    ]


def peer_requests(address: str, code: str, id: str, model: str) -> list[Full]:
    """The endpoints about other machines. They need a server with peers.

    Args:
        address: where a machine shows a code.
        code: the code.
        id: of a peer.
        model: a model of this machine.
    """
    limits = {
        "requests_per_minute": 100, "tokens_per_minute": 100_000, "concurrent_requests": 4,
        "max_tokens": 500,
    }  # fmt: skip
    grant = {"models": [model], "limits": limits}
    return [
        Full("/v1/peers/pair", {}, {"address": address, "code": code}),
        Full("/v1/peers/{id}", {}, grant, values={"id": id}),
    ]


def copy_requests(peer: str, model: str) -> list[Full]:
    """The endpoints that copy models from a peer.

    Args:
        peer: its name.
        model: the id of a model that it has.
    """
    rest = {"replace": True, "stream": False, "background": False}
    return [Full("/v1/import", {"peer": peer, "ids": [model]}, rest)]
