"""Anthropic's Messages API."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import FOREIGN, SAME_SAMPLING
from full_requests.shared.generation import REPETITION, SAMPLING, STAY
from full_requests.shared.messages import IMAGE_DATA, IMAGE_URL
from full_requests.shared.structured import GRAMMARS, OBJECT

MESSAGES_API = "/v1/messages"
_CACHED = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
_QUOTED = {"citations": {"enabled": False}, **_CACHED}
_TEXT_BLOCK = {"type": "text", "text": "Hello!", **_CACHED}
_BASE64_IMAGE = {"type": "base64", "media_type": "image/png", "data": IMAGE_DATA}
_BLOCKS: list[Json] = [
    _TEXT_BLOCK,
    {"type": "document", "title": "Otters", "context": "A zoo.", **_QUOTED,
     "source": {"type": "text", "media_type": "text/plain", "data": "Otters swim."}},
    {"type": "document", "source": {"type": "content", "content": [_TEXT_BLOCK]}},
    {"type": "search_result", "title": "A", "source": "a", "content": [_TEXT_BLOCK], **_QUOTED},
]  # fmt: skip
_MESSAGES: list[Json] = [
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
_LOOK: list[Json] = [
    {"role": "user", "content": [
        _TEXT_BLOCK,
        {"type": "image", "source": _BASE64_IMAGE, **_CACHED},
        {"type": "image", "source": {"type": "url", "url": IMAGE_URL}},
        {"type": "document", "source": {"type": "content", "content": [
            {"type": "image", "source": _BASE64_IMAGE}]}}]},
]  # fmt: skip
_TOOL: Json = {
    "name": "look", "type": "custom", "description": "Looks.", "input_schema": OBJECT,
    "strict": True, "input_examples": [{"a": True}], "allowed_callers": ["direct"], **_CACHED,
    "defer_loading": True, "eager_input_streaming": True,
}  # fmt: skip
_ALONE = {"disable_parallel_tool_use": True}
_FORMAT = {"type": "json_schema", "schema": OBJECT, "name": "it"}
_SAMPLES: Json = {
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
_ALTERNATIVES: tuple[list[Json], ...] = (
    REPETITION,
    [{"stream": True}, {"stream": False}],
    [
        {"thinking": {"type": "enabled", "budget_tokens": 8, "display": "omitted"}},
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"thinking": {"type": "disabled"}, "think": False, "enable_thinking": "off"},
        {"thinking": {"type": "between_tools"}, "reasoning": {"enabled": False}},
    ],
    [
        {"tools": [_TOOL], "tool_choice": {"type": "auto", **_ALONE}},
        {"tools": [_TOOL], "tool_choice": {"type": "any", **_ALONE}},
        {"tools": [_TOOL], "tool_choice": {"type": "tool", "name": "look", **_ALONE}},
        {"tools": [_TOOL], "tool_choice": {"type": "none"}},
        {"output_config": {"effort": "low", "format": _FORMAT}},
        {"output_format": _FORMAT},
        *GRAMMARS[3:],
    ],
)


def anthropic_requests(starter: str, seeing: str) -> list[Full]:
    """Each endpoint with messages of all roles, and with images."""
    paths = (MESSAGES_API, f"{MESSAGES_API}/count_tokens")
    conversation = {"model": starter, "messages": _MESSAGES, "max_tokens": 24}
    look = {"model": seeing, "messages": _LOOK, "max_tokens": 24}
    return [
        *(Full(path, conversation, _SAMPLES, _ALTERNATIVES) for path in paths),
        *(Full(path, look) for path in paths),
    ]
