"""Requests in which every optional field is set, and the table of their values.

Mutually exclusive fields are in separate requests.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from support import Json
from tiny_vision import pixels, png

from offgrid.api.fields.foreign import INERT as INERT_FOREIGN
from offgrid.sampling.params import RANGES, Range

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
MODELS = "/v1/models"

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
}
REPETITION: list[Json] = [{"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "rep_pen": 1.1}]

NOTHING: Json = {
    "add_bos_token": True, "add_special_tokens": True, "allowed_token_ids": [],
    "auto_max_new_tokens": False, "bad_words": [], "banned_strings": [], "banned_tokens": [],
    "beam_width": 1, "best_of": 1, "cache_salt": "", "cfg_scale": 1.0, "character": "", "n": 1,
    "chat_template": "", "do_sample": True, "echo": False, "enable_search": False,
    "encoder_repetition_penalty": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "guidance_scale": 1,
    "guided_whitespace_pattern": "", "image_data": [], "include_stop_str_in_output": False,
    "instruction_template": "", "kv_transfer_params": {}, "logits_processors": [], "lora": [],
    "lora_path": "", "max_tokens_second": 0, "media_io_kwargs": {}, "mm_processor_kwargs": {},
    "mode": "instruct", "n_discard": 0, "n_indent": 0, "n_probs": 0, "no_repeat_ngram_size": 0,
    "no_stop_trim": False, "num_beams": 1, "parse_tool_calls": True, "penalize_newline": True,
    "penalize_nl": True, "penalty_alpha": 0, "plugins": [], "preset": "",
    "reasoning_budget_message": "", "reasoning_budget_tokens": -1,
    "reasoning_format": "auto", "reasoning_in_content": False, "rep_pen_slope": 1,
    "repetition_decay": 0, "response_fields": [], "return_token_ids": False,
    "return_tokens_as_token_ids": False, "safe_prompt": False,
    "sampler_order": [6, 5, 0, 1, 3, 4, 2], "sampler_priority": [],
    "samplers": ["dry", "temperature", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "separate_reasoning": True, "skew": 0, "skip_special_tokens": True, "smoothing_factor": 0,
    "stop_regex": [], "stop_token_ids": [], "stream_reasoning": True, "t_max_predict_ms": -1,
    "t_max_prompt_ms": 0, "temperature_last": False, "tfs": 1.0, "tfs_z": 1,
    "thinking_forced_open": False,
    "top_a": 0.0, "truncate_prompt_tokens": -1, "use_beam_search": False, "vllm_xargs": {},
}  # fmt: skip
"""Values of foreign fields that ask for nothing."""
NOTES: Json = {
    **dict.fromkeys(INERT_FOREIGN, 1), "options": {"num_ctx": 512}, "return_progress": True,
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
    starter: str, seeing: str, ranking: str, previous: str, conversation_id: str, stick: str
) -> list[Full]:
    """All endpoints that accept a body.

    Args:
        starter: id of a model that supports chat and fill-in-the-middle.
        seeing: id of a vision model.
        ranking: id of a model that ranks.
        previous: id of a stored response.
        conversation_id: id of a conversation.
        stick: a folder below an import root.
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
        Full(RESPONSES, question, _RESPONSE, alternatives),
        Full(f"{RESPONSES}/input_tokens", question, _RESPONSE, alternatives),
        Full(CONVERSATIONS, {}, {"items": _ITEMS, "metadata": {"trip": "1"}}),
        Full(f"{CONVERSATIONS}/{{id}}", {}, {"metadata": {"trip": "2"}}, values=of_conversation),
        Full(f"{CONVERSATIONS}/{{id}}/items", {"items": _ITEMS}, values=of_conversation),
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
        Full(f"{MODELS}/{{model}}/load", {}, {**NOTES, **STAY, "wait": True}, values=model),
        Full(f"{MODELS}/{{model}}/unload", {}, {**NOTES, "wait": True}, values=model),
        Full(
            "/v1/import",
            {"paths": [stick]},
            {"ids": ["none"], "replace": True, "stream": False, "background": False},
        ),
    ]
