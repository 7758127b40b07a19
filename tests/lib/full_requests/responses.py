"""The Responses API."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import FOREIGN, SAME_SAMPLING, SWITCHES
from full_requests.shared.generation import INERT, REPETITION, SAMPLING, STAY
from full_requests.shared.structured import GRAMMARS, OBJECT, SCHEMA, TOOL

RESPONSES = "/v1/responses"
_TOOL = {"type": "function", **TOOL["function"]}
_OTHER_TOOLS: list[Json] = [
    {"type": "custom", "name": "say", "description": "Says.", "format": {
        "type": "grammar", "syntax": "regex", "definition": "a|b"}},
    {"type": "custom", "name": "write", "format": {"type": "text"}},
    {"type": "namespace", "name": "files", "description": "Files.", "tools": [
        _TOOL, {"type": "custom", "name": "patch"}]},
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
ITEMS: list[Json] = [
    {"type": "message", "role": "developer", "content": "Be brief."},
    {"type": "additional_tools", "role": "developer", "tools": [
        {**_TOOL, "name": "see"}]},
    *_PAIRS,
    {"role": "user", "content": [{"type": "input_text", "text": "Hello!"}]},
]  # fmt: skip
_SAMPLES: Json = {
    **{name: value for name, value in INERT.items() if name != "verbosity"},
    **SAMPLING,
    **STAY,
    **SAME_SAMPLING,
    **FOREIGN,
    "instructions": "Be kind.",
    "max_output_tokens": 24,
    "tools": [_TOOL, *_OTHER_TOOLS],
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
_ALTERNATIVES: tuple[list[Json], ...] = (
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
        {"text": {"format": {"type": "json_schema", **SCHEMA}, "verbosity": "low"}},
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


def response_requests(starter: str, previous: str, conversation_id: str) -> list[Full]:
    """Each endpoint with items of all types, after another response and in a conversation."""
    question = {"model": starter, "input": ITEMS}
    alternatives: tuple[list[Json], ...] = (
        *_ALTERNATIVES,
        [
            {"previous_response_id": previous},
            {"conversation": conversation_id},
            {"conversation": {"id": conversation_id}},
        ],
    )
    return [
        Full(RESPONSES, question, _SAMPLES, alternatives),
        Full(f"{RESPONSES}/input_tokens", question, _SAMPLES, alternatives),
    ]
