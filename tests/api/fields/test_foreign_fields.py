"""Fields of other servers: used, accepted without effect, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from full_requests import FOREIGN, NOTHING
from support import STARTER, chat_body, request

from offgrid.api.chat.request import ChatRequest, parse_chat
from offgrid.api.completions.request import CompletionRequest, parse_completion
from offgrid.api.embeddings import parse_embeddings
from offgrid.api.fields import notices
from offgrid.api.fields.foreign import (
    FOREIGN as NAMES,
)
from offgrid.api.fields.foreign import (
    IF_UNKNOWN,
    INERT,
    ONLY_IF_OFF,
    SAME,
    SPECIAL,
)
from offgrid.api.responses.request import ResponsesRequest, parse_responses
from offgrid.api.tokens import parse_tokenize
from offgrid.errors import InvalidParameter
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def chat(**fields: Any) -> ChatRequest:
    return parse_chat({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})


def text(**fields: Any) -> CompletionRequest:
    return parse_completion({"model": "m", "prompt": "x", **fields})


def response(**fields: Any) -> ResponsesRequest:
    return parse_responses({"model": "m", "input": "x", **fields})[0]


def refused(parse: Callable[..., Any], **fields: Any) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        parse(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("foreign", "own"),
    [
        ({"n_predict": 9}, {"max_tokens": 9}), ({"num_predict": 9}, {"max_tokens": 9}),
        ({"max_new_tokens": 9}, {"max_tokens": 9}), ({"max_output_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": -1}, {}), ({"n_predict": -1}, {}), ({"num_predict": -2}, {}),
        ({"max_tokens": 9, "n_predict": -1}, {"max_tokens": 9}),
        ({"options": {"num_predict": 9, "top_k": 3, "num_ctx": 4096, "stop": ["a"]}},
         {"max_tokens": 9, "top_k": 3, "stop": ["a"]}),
        ({"options": {}}, {}), ({"options": {"temperature": 1}, "temperature": 1.0},
                                {"temperature": 1}),
        ({"rep_pen": 1.2}, {"repetition_penalty": 1.2}),
        ({"rep_pen": 1.2, "repeat_penalty": 1.2, "repetition_penalty": 1.2},
         {"repetition_penalty": 1.2}),
        ({"rep_pen_range": 5, "repetition_penalty_range": 5}, {"repeat_last_n": 5}),
        ({"typical": 0.5}, {"typical_p": 0.5}), ({"min_length": 3}, {"min_tokens": 3}),
        ({"ttl": 60}, {"keep_alive": 60}), ({"options": {"ttl": "5m"}}, {"keep_alive": "5m"}),
        ({"nsigma": 1.5}, {"top_n_sigma": 1.5}), ({"mirostat_mode": 2}, {"mirostat": 2}),
        ({"mirostat_mode": 0}, {"mirostat": 0}), ({"ban_eos_token": True}, {"ignore_eos": True}),
        ({"sampler_seed": 4}, {"seed": 4}), ({"sampler_seed": -1, "seed": 4}, {"seed": 4}),
        ({"random_seed": 4}, {"seed": 4}), ({"sampler_seed": -1}, {}),
        ({"stopping_strings": ["a"]}, {"stop": ["a"]}),
        ({"stopping_strings": ["a"], "stop": "a"}, {"stop": "a"}),
        ({"stopping_strings": [], "stop": ["a"]}, {"stop": ["a"]}),
        ({"stop_sequences": ["a"]}, {"stop": ["a"]}), ({"stop_sequence": "a"}, {"stop": "a"}),
        ({"grammar_string": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"grammar_string": ""}, {}),
        ({"dry_sequence_breakers": '["\\n", ":"]'}, {"dry_sequence_breakers": ["\n", ":"]}),
        ({"dry_sequence_breakers": '"\\n", ":"'}, {"dry_sequence_breakers": ["\n", ":"]}),
        ({"dry_sequence_breakers": "[]"}, {"dry_sequence_breakers": []}),
        ({"custom_token_bans": "5, 6"}, {"logit_bias": {"5": False, "6": False}}),
        ({"custom_token_bans": [5], "logit_bias": {"7": 1}}, {"logit_bias": {"7": 1, "5": False}}),
        ({"custom_token_bans": [5], "logit_bias": [["a", 1]]},
         {"logit_bias": [["a", 1], [5, False]]}),
        ({"dynamic_temperature": True, "dynatemp_low": 0.7, "dynatemp_high": 1.3},
         {"temperature": 1.0, "dynatemp_range": (1.3 - 0.7) / 2}),
        ({"dynamic_temperature": True, "dynatemp_low": 0, "dynatemp_high": 1, "temperature": 0.5,
          "dynatemp_range": 0.5}, {"temperature": 0.5, "dynatemp_range": 0.5}),
        ({"dynamic_temperature": False, "dynatemp_low": 0.1, "dynatemp_high": 2}, {}),
        ({"dynatemp_low": 0.1}, {}), ({"stream_options": None}, {}),
        ({"custom_token_bans": ""}, {}), ({"custom_token_bans": []}, {}),
        ({"format": "json"}, {"json_schema": {"type": "object"}}), ({"format": ""}, {}),
        ({"format": {"enum": ["a", None], "title": None}}, {"json_schema": {"enum": ["a", None]}}),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("parse", [chat, text])
def test_used_as_the_field_of_this_api(
    parse: Callable[..., Any], foreign: dict[str, Any], own: dict[str, Any]
) -> None:
    assert parse(**foreign) == parse(**own)


@pytest.mark.parametrize(
    ("foreign", "budget", "param"),
    [
        ({"reasoning_budget": 5}, 5, "reasoning_budget"),
        ({"thinking_budget": 0}, 0, "thinking_budget"),
        ({"thinking_budget_tokens": 5}, 5, "thinking_budget_tokens"),
        ({"options": {"thinking_token_budget": 5}}, 5, "options.thinking_token_budget"),
        ({"thinking": {"budget_tokens": 5}}, 5, "thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": 5}}, 5, "reasoning.max_tokens"),
        ({"thinking_budget": 5, "reasoning_budget_tokens": 5}, 5, "reasoning_budget_tokens"),
        ({"reasoning_budget_tokens": -1}, None, ""), ({"thinking_budget": -1}, None, ""),
        ({"reasoning_budget_tokens": None}, None, ""), ({}, None, ""),
    ],
    ids=str,
)  # fmt: skip
def test_names_of_the_reasoning_budget(
    foreign: dict[str, Any], budget: int | None, param: str
) -> None:
    request = chat(**foreign).with_budget(-1)
    assert (request.reasoning_budget_tokens, request.budget_param) == (budget, param)
    # The setting of the server counts only without a budget of the request.
    both = chat(**foreign).with_budget(77)
    expected = (77, "") if budget is None else (budget, param)
    assert (both.reasoning_budget_tokens, both.budget_param) == expected


def test_a_budget_of_0_sets_the_switches_of_templates() -> None:
    off = {"enable_thinking": False, "thinking": False}
    assert chat(reasoning_budget_tokens=0).template_variables == off
    assert chat(reasoning_budget_tokens=5).template_variables == {}
    asked = chat(reasoning_budget_tokens=0, reasoning_effort="low").template_variables
    assert asked["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    "name", ["reasoning_budget_tokens", "thinking_budget", "thinking_token_budget"]
)
def test_text_completions_have_no_reasoning_to_limit(name: str) -> None:
    assert text(**{name: -1}) == text()
    error = refused(text, **{name: 5})
    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert error.message.endswith("use chat, /v1/responses, or thinking in /v1/messages.")


ON = {"enable_thinking": True, "thinking": True}


@pytest.mark.parametrize(
    ("foreign", "effort", "variables"),
    [
        ({"think": False}, "none", {}), ({"think": True}, None, ON), ({"think": "low"}, "low", {}),
        ({"enable_thinking": False}, "none", {}), ({"enable_thinking": True}, None, ON),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, None, ON),
        ({"thinking": {"type": "disabled"}}, "none", {}), ({"thinking": False}, "none", {}),
        ({"thinking": {"type": "adaptive"}}, None, {}),
        ({"reasoning": {"effort": "high"}}, "high", {}), ({"reasoning": {}}, None, {}),
        ({"reasoning": {"enabled": True, "exclude": False}}, None, ON),
        ({"reasoning": "off"}, "none", {}), ({"reasoning": "on"}, None, ON),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "low"}, "low", {}),
        ({"think": True, "reasoning_effort": "high"}, "high", ON),
        ({"think": True, "chat_template_kwargs": {"thinking": False}}, None,
         {"enable_thinking": True, "thinking": False}),
    ],
    ids=str,
)  # fmt: skip
def test_switches_of_reasoning(
    foreign: dict[str, Any], effort: str | None, variables: dict[str, Any]
) -> None:
    request = chat(**foreign)
    assert (request.reasoning_effort, request.chat_template_kwargs) == (effort, variables)
    body = {"messages": [{"role": "user", "content": "x"}], **foreign}
    counted: Any = parse_tokenize(body)
    assert (counted.reasoning_effort, counted.chat_template_kwargs) == (effort, variables)
    assert text(**{k: v for k, v in foreign.items() if k in ("think", "thinking")}) == text()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"n_predict": 9, "max_tokens": 8}, ("n_predict", "max_tokens")),
        ({"n_predict": 9, "num_predict": 8}, ("num_predict", "n_predict")),
        ({"options": {"temperature": 1}, "temperature": 0.5},
         ("options.temperature", "temperature")),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2},
         ("repeat_penalty", "repetition_penalty")),
        ({"rep_pen": 1.1, "repeat_penalty": 1.2}, ("repeat_penalty", "rep_pen")),
        ({"stopping_strings": ["a"], "stop": ["b"]}, ("stopping_strings", "stop")),
        ({"ban_eos_token": True, "ignore_eos": False}, ("ban_eos_token", "ignore_eos")),
        ({"think": False, "reasoning_effort": "low"}, ("think", "reasoning_effort")),
        ({"think": True, "reasoning_effort": "none"}, ("think", "reasoning_effort")),
        ({"think": True, "thinking": False}, ("thinking", "think")),
        ({"dynamic_temperature": True, "dynatemp_low": 0, "dynatemp_high": 1, "temperature": 1},
         ("dynatemp_low", "temperature")),
    ],
    ids=str,
)  # fmt: skip
def test_two_names_with_different_values(fields: dict[str, Any], names: tuple[str, str]) -> None:
    error = refused(chat, **fields)
    assert error.message == (
        f"{names[0]} and {names[1]} are the same parameter and have different values; give only "
        "one."
    )
    assert error.param == names[0]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n_predict": "x"}, "n_predict", "n_predict must be an integer, not a string."),
        ({"n_predict": -3}, "n_predict", "n_predict must be between"),
        ({"options": {"temperature": 3}}, "options.temperature",
         "options.temperature must be between 0 and 2, not 3."),
        ({"options": {"logit_bias": {"5": 101}}}, "options.logit_bias.5", "between"),
        ({"options": 5}, "options", "options must be an object."),
        ({"options": {"temprature": 1}}, "options.temprature",
         "Unknown field: options.temprature. Did you mean options.temperature?"),
        ({"options": {"top_a": 0.2}}, "options.top_a", "options.top_a is not supported"),
        ({"options.temperature": 1}, "options.temperature",
         "Unknown field: options.temperature. Did you mean temperature?"),
        ({"options": {"options": {}}}, "options.options", "Unknown field: options.options."),
        ({"stopping_strings": [5]}, "stopping_strings[0]", "stopping_strings[0] must be a string"),
        ({"stopping_strings": ["x"] * 65}, "stopping_strings", "takes at most 64 strings, not 65"),
        ({"rep_pen": 0}, "rep_pen", "rep_pen must be between 0.01 and 100, not 0."),
        ({"mirostat_mode": 3}, "mirostat_mode", "mirostat_mode must be between 0 and 2, not 3."),
        ({"think": "much"}, "think", '"low"'), ({"think": 5}, "think", "not an integer"),
        ({"thinking": [5]}, "thinking", "not a list"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort", '"low"'),
        ({"reasoning": {"max_tokens": -5}}, "reasoning.max_tokens", "between -1 and"),
        ({"custom_token_bans": "a"}, "custom_token_bans", "a list of token ids"),
        ({"custom_token_bans": [True]}, "custom_token_bans", "a list of token ids"),
        ({"custom_token_bans": {}}, "custom_token_bans", "a list of token ids"),
        ({"dry_sequence_breakers": "x"}, "dry_sequence_breakers", "a list of strings"),
        ({"dry_sequence_breakers": "{}x"}, "dry_sequence_breakers", "a list of strings"),
        ({"dry_sequence_breakers": "[" * 9000}, "dry_sequence_breakers", "a list of strings"),
        ({"dry_sequence_breakers": "[5]"}, "dry_sequence_breakers[0]", "must be a string"),
        ({"dynamic_temperature": 1}, "dynamic_temperature", "true or false"),
        ({"dynamic_temperature": True}, "dynamic_temperature", "dynatemp_low and dynatemp_high"),
        ({"options": {"dynamic_temperature": True}}, "options.dynamic_temperature", "dynatemp_low"),
        ({"dynamic_temperature": True, "dynatemp_low": 2, "dynatemp_high": 1},
         "dynamic_temperature", "the smaller one first"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}},
         "stream_options.continuous_usage_stats", "use include_usage"),
        ({"format": "yaml"}, "format", 'format must be "json" or a JSON schema.'),
        ({"format": {"type": "text"}}, "format", "Invalid type: text"),
        ({"format": "json", "response_format": {"type": "json_object"}}, "format",
         "response_format and format are mutually exclusive"),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"function_call": {"name": "f"}}, "function_call", "use tool_choice"),
    ],
    ids=str,
)  # fmt: skip
def test_errors_name_the_field_as_the_client_does(
    fields: dict[str, Any], param: str, words: str
) -> None:
    error = refused(chat, **fields)
    assert error.param == param
    assert words in error.message


OTHER = {
    "add_special_tokens": 5, "chat_template": "{{ x }}", "reasoning_format": "none",
    "penalize_newline": 1, "penalize_nl": 1, "temperature_last": 1, "tfs": True,
}  # fmt: skip


def opposite(name: str) -> Any:
    """A value that asks for something."""
    value = NOTHING[name]
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    return 0.25 if isinstance(value, (int, float)) else ["x"]


@pytest.mark.parametrize("name", sorted(ONLY_IF_OFF | IF_UNKNOWN))
def test_refused_unless_the_value_asks_for_nothing(name: str) -> None:
    others = {"n": response, "reasoning_budget_tokens": text}
    parse = others.get(name, chat if name in IF_UNKNOWN else text)
    assert parse(**{name: NOTHING[name]}) == parse()
    reason = (ONLY_IF_OFF | IF_UNKNOWN)[name].reason
    for value in (opposite(name), {"odd": 1}):
        error = refused(parse, **{name: value})
        assert (error.param, error.code) == (name, "unsupported_parameter")
        assert error.message.endswith(f"this value: {reason}.")


PRIORITY = [
    "repetition_penalty", "presence_penalty", "frequency_penalty", "dry", "temperature",
    "dynamic_temperature", "quadratic_sampling", "top_n_sigma", "top_k", "top_p", "typical_p",
    "epsilon_cutoff", "eta_cutoff", "tfs", "top_a", "min_p", "mirostat", "xtc",
    "encoder_repetition_penalty", "no_repeat_ngram",
]  # fmt: skip
"""What SillyTavern sends as sampler_priority."""


@pytest.mark.parametrize(
    ("name", "value", "noted"),
    [
        ("temperature_last", False, False), ("temperature_last", True, True),
        ("penalize_nl", True, False), ("penalize_newline", False, True),
        ("sampler_priority", [], False), ("sampler_priority", "", False),
        ("sampler_priority", PRIORITY, True), ("sampler_priority", "\n".join(PRIORITY), True),
        ("sampler_priority", PRIORITY[4:17], True),
        ("sampler_priority", ["temperature", "top_k", "typical_p", "top_p", "min_p"], False),
        ("sampler_order", [6, 0, 1, 3, 4, 2, 5], True),
        ("sampler_order", [6, 5, 0, 1, 3, 4, 2], False),
    ],
    ids=str,
)  # fmt: skip
def test_usual_values_of_clients_have_no_effect(name: str, value: Any, noted: bool) -> None:
    notices.begin(tolerant=False)
    assert chat(**{name: value}) == chat()
    assert notices.ignored() == ((name,) if noted else ())
    assert chat(options={name: value}) == chat()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sampler_priority", (PRIORITY[::-1], ["temperature"], [*PRIORITY, "magic"], 5, {})),
        ("sampler_order", ([0, 1, 2, 3, 4, 5, 6], [6, 0], [*range(9)], [True], "6")),
        ("temperature_last", (1, 0, "true", [])),
    ],
)
def test_other_orders_of_the_parameters_are_refused(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        error = refused(chat, **{name: value})
        assert (error.param, error.code) == (name, "unsupported_parameter")


def test_those_without_effect_are_noted() -> None:
    notices.begin(tolerant=False)
    # Other endpoints have these, with an effect.
    fields = {"return_progress", "timings_per_token", "prediction", "priority", "cache_salt"}
    inert = INERT - fields
    fields: dict[str, Any] = dict.fromkeys(inert, 5)
    assert chat(**fields) == chat()
    assert set(notices.ignored()) == inert
    notices.begin(tolerant=False)
    chat(thinking={"type": "adaptive", "budget_tokens": 5}, reasoning={"exclude": True},
         options={"num_ctx": 5}, include_reasoning=True)  # fmt: skip
    names = {"thinking.type", "reasoning.exclude", "options.num_ctx"}
    assert set(notices.ignored()) == names
    notices.begin(tolerant=False)
    chat(temperature=1, user="me")
    assert notices.ignored() == ()


def test_fields_of_other_endpoints_stay_unknown() -> None:
    """A foreign field counts only where its counterpart exists."""
    for name in ("n_predict", "top_a", "think", "stopping_strings", "custom_token_bans"):
        error = refused(
            lambda **f: parse_embeddings({"model": "m", "input": "x", **f}), **{name: 1}
        )
        assert (error.param, error.code) == (name, "unknown_parameter")


def test_every_name_is_in_one_table() -> None:
    assert len(NAMES) == len(SAME) + len(INERT) + len(ONLY_IF_OFF) + len(SPECIAL)
    assert NOTHING.keys() == ONLY_IF_OFF.keys() | IF_UNKNOWN.keys()


# --- through the server ---------------------------------------------------------------------------

ROLE_PLAY: dict[str, Any] = {
    # The fields of a client for many text completion servers, which sends those of all of them.
    **{name: FOREIGN[name] for name in ONLY_IF_OFF}, "api_type": "ooba", "legacy_api": False,
    "negative_prompt": "", "smoothing_curve": 1, "truncation_length": 8192,
    "max_tokens": 12, "max_new_tokens": 12, "n_predict": 12, "num_predict": 12, "seed": 5,
    "sampler_seed": 5, "temperature": 0.8, "top_p": 0.9, "top_k": 40, "typical_p": 1,
    "typical": 1, "min_p": 0.05, "repetition_penalty": 1.1, "repeat_penalty": 1.1, "rep_pen": 1.1,
    "rep_pen_range": 0, "repetition_penalty_range": 0, "repeat_last_n": 0, "mirostat": 0,
    "mirostat_mode": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "ban_eos_token": False,
    "ignore_eos": False, "stop": ["\nYou:"], "stopping_strings": ["\nYou:"], "grammar_string": "",
    "dry_multiplier": 0, "dry_sequence_breakers": '["\\n", ":", "\\"", "*"]',
    "custom_token_bans": "", "logit_bias": {}, "xtc_probability": 0, "num_ctx": 8192,
}  # fmt: skip


def test_a_client_that_sends_the_fields_of_all_servers(base_url: str) -> None:
    plain = {name: ROLE_PLAY[name] for name in (
        "max_tokens", "seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
        "repeat_last_n", "stop")}  # fmt: skip
    body = {"model": STARTER, "prompt": "Once upon a time"}
    expected = request(base_url, "POST", TEXT, {**body, **plain})
    answer = request(base_url, "POST", TEXT, {**body, **ROLE_PLAY})
    assert (expected.status, answer.status) == (200, 200), answer.body
    assert answer.json["choices"] == expected.json["choices"]
    assert notices.HEADER not in expected.headers
    assert "num_ctx" in answer.headers[notices.HEADER].split(", ")
    assert "top_a" not in answer.headers[notices.HEADER]


def test_more_than_four_stop_strings(base_url: str) -> None:
    body = chat_body(stop=[f"<{n}>" for n in range(63)] + ["e"], max_tokens=20, temperature=0)
    answer = request(base_url, "POST", CHAT, body)
    assert answer.status == 200
    assert "e" not in answer.json["choices"][0]["message"]["content"]


def test_reasoning_forms_reach_the_template(base_url: str) -> None:
    """The count of /tokenize is that of the chat request, with the same template variables."""
    for fields in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"polite": True}}):
        body = {"messages": [{"role": "user", "content": "Hello!"}], **fields}
        counted = request(base_url, "POST", "/tokenize", body)
        assert counted.status == 200, counted.body
        used = request(base_url, "POST", f"{CHAT}/input_tokens", body).json["input_tokens"]
        assert counted.json["count"] == used


NOTES: dict[str, Any] = {
    "cache_control": {"type": "ephemeral"}, "copilot_cache_control": {"type": "ephemeral"},
    "provider_specific_fields": {"a": None}, "thinking_blocks": [], "reasoning_details": [{}],
    "extra_content": {"x": 1}, "opts": {"visible": True}, "status": "success", "sender": "a",
    "parsed": None, "tool_name": "look", "injected": False,
}  # fmt: skip


def noted(value: dict[str, Any]) -> dict[str, Any]:
    """An object with the notes that clients and gateways leave in it."""
    return {**value, **NOTES}


def test_notes_inside_messages_and_tools_change_nothing(base_url: str) -> None:
    """Once such a message is in a history, every later request has it."""

    def body(note: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        function = note({"name": "look", "arguments": "{}"})
        call = note({"id": "c1", "type": "function", "index": 0, "function": function})
        return {
            "model": STARTER,
            "messages": [
                note({"role": "system", "content": "Be brief."}),
                note({"role": "user", "content": [note({"type": "text", "text": "Hello!"})]}),
                note({"role": "assistant", "content": None, "tool_calls": [call]}),
                note({"role": "tool", "content": "7", "tool_call_id": "c1"}),
                note({"role": "assistant", "content": "It is 7."}),
                note({"role": "user", "content": "And now?"}),
            ],
            "tools": [note({"type": "function", "function": note({"name": "look"})})],
            "max_tokens": 8,
            "temperature": 0,
        }

    plain = request(base_url, "POST", CHAT, body(lambda value: value))
    answer = request(base_url, "POST", CHAT, body(noted))
    assert (plain.status, answer.status) == (200, 200), answer.body
    assert answer.json["choices"] == plain.json["choices"]
    assert answer.json["usage"]["prompt_tokens"] == plain.json["usage"]["prompt_tokens"]


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {"content": []}, {}])
def test_an_assistant_that_said_nothing(base_url: str, content: dict[str, Any]) -> None:
    user = {"role": "user", "content": "Hello!"}
    for more in ({}, {"reasoning_content": "Hm."}, {"refusal": None, "tool_calls": []}):
        messages = [user, {"role": "assistant", **content, **more}, user]
        answer = request(base_url, "POST", CHAT, chat_body(max_tokens=1) | {"messages": messages})
        assert answer.status == 200, answer.body


NEW: dict[str, Any] = {"temprature": 0.5, "mood": {"a": [1]}, "a\r\nb, c\u00e9": 1, "x" * 200: 1}


def test_unknown_fields_are_accepted_if_the_server_is_told(
    make_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    url = make_server(unknown_fields="ignore", default_model=STARTER).url
    expected = "temprature, mood, a%0D%0Ab%2C%20c%C3%A9, " + "x" * notices.MAX_NAME
    with caplog.at_level("INFO", "offgrid.api.http.middleware"):
        for path, body in (
            (CHAT, chat_body(max_tokens=1)),
            (CHAT, chat_body(max_tokens=1, stream=True)),
            (TEXT, {"model": STARTER, "prompt": "x", "max_tokens": 1}),
            ("/v1/responses", {"model": STARTER, "input": "x", "max_output_tokens": 1}),
            ("/v1/embeddings", {"model": STARTER, "input": "x"}),
            ("/tokenize", {"content": "x"}),
            (f"{CHAT}/input_tokens", chat_body()),
        ):
            answer = request(url, "POST", path, {**body, **NEW})
            assert answer.status == 200, (path, answer.body)
            assert answer.headers[notices.HEADER] == expected
            assert f"POST {path}: fields without effect: {expected}" in caplog.messages
            assert notices.HEADER not in request(url, "POST", path, body).headers
    many = {f"field_{n}": 1 for n in range(900)}
    answer = request(url, "POST", "/tokenize", {"content": "x", **many})
    assert answer.headers[notices.HEADER].endswith(", field_31, and 868 more")
    # What would change the answer is refused all the same.
    error = request(url, "POST", CHAT, chat_body(top_a=0.5, mood=1))
    assert (error.status, error.json["error"]["param"]) == (400, "top_a")
    error = request(url, "POST", CHAT, chat_body(temperature=3, mood=1))
    assert (error.status, error.json["error"]["param"]) == (400, "temperature")
