"""The chat templates that llama.cpp collects: which format is recognised, and what is written."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from offgrid.chat.answer_parser import CallArguments, CallStart
from offgrid.chat.dialect import Dialect
from offgrid.chat.grammars import Function
from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.reasoning import ReasoningLimit
from offgrid.grammar.checked import CheckedSchema

from ..chat.vocabulary import Vocabulary

pytestmark = pytest.mark.models

FAMILIES: dict[str, str] = {
    "Apertus": "apertus",
    "Apriel": "apriel",
    "Bielik": "hermes",
    "ByteDance-Seed": "seed",
    "Cohere2MoE": "command",
    "CohereForAI-c4ai-command-r-plus": "command-r-plus",
    "CohereForAI-c4ai-command-r7b": "command",
    "GLM-4.6": "glm",
    "GLM-4.7": "glm-4.7",
    "GigaChat3-": "gigachat",
    "GigaChat3.1": "gigachat-3.1",
    "HuggingFaceTB-SmolLM3": "generic",  # This version does not write calls.
    "Kimi-K2": "kimi-k2",
    "Kimi-K3": "kimi-k3",
    "LFM2-8B": "lfm2",
    "LFM2.5": "lfm2",
    "MiMo": "hermes",
    "MiniMax-M1": "minimax-m1",
    "MiniMax-M2": "minimax-m2",
    "MiniMax-M3": "minimax-m3",
    "Mistral-Small": "mistral-named",
    "NVIDIA-Nemotron-3": "qwen-xml",
    "NVIDIA-Nemotron-Nano-v2": "nemotron-v2",
    "NousResearch": "hermes",
    "Qwen-": "hermes",
    "Qwen3-Coder": "qwen-xml",
    "Qwen3.5": "qwen-xml",
    "Reka": "hermes",
    "Spark": "glm-4.7",
    "StepFun": "qwen-xml",
    "deepseek-ai-DeepSeek-R1": "deepseek-r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v4",
    "fireworks": "firefunction",
    "google-gemma-2": "generic",  # Made without calls, like the next two.
    "llama-cpp-rwkv": "generic",
    "microsoft-Phi-3.5": "generic",
    "google-gemma-4": "gemma4",
    "ibm-granite-granite-3.3": "phi",
    "ibm-granite-granite-4": "hermes",
    "inclusionai-ling": "glm",
    "llama-cpp-deepseek-r1": "deepseek-r1",
    "meetkai-functionary-medium-v3.1": "functionary-3.1",
    "meetkai-functionary-medium-v3.2": "functionary-3.2",
    "meta-llama": "llama",
    "mistralai-Ministral": "mistral-named",
    "mistralai-Mistral-Nemo": "mistral",
    "moonshotai-Kimi-K2": "kimi-k2",
    "muse": "muse",
    "openai-gpt-oss": "harmony",
    "openbmb": "minicpm5",
    "poolside-Laguna-S-": "glm-4.7",
    "poolside-Laguna-XS": "glm",
    "tencent-Hy3": "hunyuan",
    "unsloth-Apriel": "apriel",
    "unsloth-mistral-Devstral": "mistral-named",
    "upstage-Solar": "solar",
}
"""The beginning of a template's name -> its family; the longest beginning counts."""
REASONING = {
    "Bielik": "<think>", "ByteDance-Seed": "<seed:think>", "Qwen3.5": "<think>",
    "google-gemma-4": "<|channel>thought", "openai-gpt-oss": "<|channel|>analysis<|message|>",
    "MiniMax-M3": "<mm:think>", "upstage-Solar": "<|think|>", "Kimi-K3": "<|open|>think<|sep|>",
    "tencent-Hy3": "<think:opensource>", "Cohere2MoE": "<|START_THINKING|>",
    "Apriel-1.6": "Here are my reasoning steps:", "deepseek-ai-DeepSeek-V3.1": "<think>",
    "HuggingFaceTB-SmolLM3": "<think>", "ibm-granite-granite-3.3": "<think>",
    "muse": " to=self<|message|>",
}  # fmt: skip
OMITTED_REASONING = {
    "Apriel-1.6-15b-Thinker-fixed",
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2.5-Instruct",
    "NVIDIA-Nemotron-Nano-v2",
    "Qwen-QwQ-32B",
    "Reka-Edge",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4-Flash-0731",
    "deepseek-ai-DeepSeek-V4",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-deepseek-r1",
    "llama-cpp-rwkv-world",
    "meetkai-functionary-medium-v3.2",
}
"""Templates that omit earlier reasoning, at least beside calls or unless it is asked for."""
VOCABULARY = {"LFM2": {"<|tool_call_start|>": 5, "<|tool_call_end|>": 6}}
"""Control tokens by which a family is recognised whose template writes no calls."""


@pytest.fixture(scope="module")
def dialects(templates: dict[str, str]) -> dict[str, Dialect]:
    return {
        name: Dialect(source, "<BOS>", "<EOS>", _by_name(VOCABULARY, name) or {})
        for name, source in templates.items()
    }


def _by_name(table: dict[str, Any], name: str) -> Any:
    found = [begin for begin in table if name.startswith(begin)]
    return table[max(found, key=len)] if found else None


def call(name: str, arguments: dict[str, Any], id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {"city": "Tromsoe", "days": "3 days"}
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "A place."},
            "days": {"type": "string", "description": "How long."}}, "required": ["city"]}}},
    {"type": "function", "function": {
        "name": "get_tide", "description": "Tells the tide.",
        "parameters": {"type": "object", "properties": {
            "port": {"type": "string", "description": "A port."}}, "required": []}}},
]  # fmt: skip
PLAIN = [{"role": "user", "content": "Question one"}]
SYSTEM = [{"role": "system", "content": "Be brief please"}, *PLAIN]
TURNS = [
    *SYSTEM, {"role": "assistant", "content": "Answer one"},
    {"role": "user", "content": "Question two"},
]  # fmt: skip
CALLED = [
    *SYSTEM,
    {"role": "assistant", "content": "Let me look", "tool_calls": [
        call("get_weather", WEATHER, "abcdefgh1"), call("get_tide", {"port": "Bodoe"}, "abcdefgh2"),
    ]},
    {"role": "tool", "content": "Result one", "tool_call_id": "abcdefgh1", "name": "get_weather"},
    {"role": "tool", "content": "Result two", "tool_call_id": "abcdefgh2", "name": "get_tide"},
]  # fmt: skip


def test_the_families(dialects: dict[str, Dialect]) -> None:
    assert len(dialects) >= 70
    found = {name: dialect.family for name, dialect in dialects.items()}
    assert found == {name: _by_name(FAMILIES, name) for name in dialects}


def test_the_markers_of_reasoning(dialects: dict[str, Dialect]) -> None:
    for name, dialect in dialects.items():
        begin = _by_name(REASONING, name)
        if begin is not None:
            assert dialect.reasoning_markers is not None, name
            assert dialect.reasoning_markers[0] == begin, name


def test_reasoning_of_an_unfinished_turn_is_in_the_prompt(dialects: dict[str, Dialect]) -> None:
    """A call with its result follows the user, and the model is to go on."""
    omitted = set()
    for name, dialect in dialects.items():
        call = {**CALLED[2], "reasoning_content": "Reason one"}
        parts = dialect.prompt([*CALLED[:2], call, *CALLED[3:]], TOOLS).parts
        if dialect.reasons and "Reason one" not in "".join(part.text for part in parts):
            omitted.add(name)
    assert omitted == OMITTED_REASONING


def test_prompts_hold_everything_that_was_said(dialects: dict[str, Dialect]) -> None:
    for name, dialect in dialects.items():
        for messages in (PLAIN, SYSTEM, TURNS, CALLED):
            for tools in (None, TOOLS):
                parts = dialect.prompt(messages, tools).parts
                prompt = "".join(part.text for part in parts)
                for message in messages:
                    assert message["content"] in prompt, (name, message)
                    for made in message.get("tool_calls") or ():
                        function = made["function"]
                        words = [function["name"], *function["arguments"].values()]
                        assert all(word in prompt for word in words), (name, prompt[-600:])
                if tools:
                    assert "Tells the tide." in prompt, name


def test_calls_of_the_history_are_read_as_answers(dialects: dict[str, Dialect]) -> None:
    """What the template writes for a call is what the model writes, so the parser must read it."""
    unread = set()
    for name, dialect in dialects.items():
        with_calls = "".join(part.text for part in dialect.prompt(CALLED, TOOLS).parts)
        answer = with_calls.rpartition("Question one")[2].partition("Result one")[0]
        schemas = {
            tool["function"]["name"]: tool["function"]["parameters"]
            for tool in TOOLS  # type: ignore[index]
        }
        for size in (len(answer), 1, 7):
            parser = dialect.parser(schemas)
            events = []
            for at in range(0, len(answer), size):
                events += parser.feed(answer[at : at + size])
            events += parser.finish()
            names = [event.name for event in events if isinstance(event, CallStart)]
            pieces = [event for event in events if isinstance(event, CallArguments)]
            text = "".join(piece.text for piece in pieces if piece.index == 0)
            if names[:1] != ["get_weather"] or json.loads(text) != WEATHER:
                unread.add(name)
    assert not unread


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False}  # fmt: skip
TAG = re.compile(r"<[^<>\s{}]+>|\[/?[A-Z_]+\]")


@pytest.mark.parametrize("tokens", ["control", "text"])
def test_a_forced_end_of_reasoning_is_in_all_grammars(
    templates: dict[str, str], dialects: dict[str, Dialect], tokens: str
) -> None:
    """Whether the markers are control tokens or text: what a budget writes, the grammars accept."""
    reasoning = 0
    for name, plain in dialects.items():
        if plain.reasoning_places is None:
            continue
        reasoning += 1
        form = plain.form
        texts = [text for calls in form.calls for text in calls.texts] + [*form.wrappers]
        if form.channels is not None:
            texts += form.channels.texts
        elif form.reasoning is not None:
            texts += [form.reasoning.begin, form.reasoning.end, form.reasoning.after]
        tags = sorted({tag for text in texts for tag in TAG.findall(text)})
        vocabulary = Vocabulary([], tags if tokens == "control" else [])
        dialect = Dialect(templates[name], "<BOS>", "<EOS>", vocabulary.control)
        for how in ("required", "strict", "schema", "both"):
            for opened in (False, True) if form.channels is None else (False,):
                check_forced_ends(dialect, vocabulary, how, opened)
    assert reasoning > 40


def check_forced_ends(dialect: Dialect, vocabulary: Any, how: str, opened: bool) -> None:
    get = Function("get", CheckedSchema(CITY, "tools", arguments=True), True, CITY)
    functions = [] if how == "schema" else [get]
    schema = CheckedSchema({"const": "x"}, "field") if how in ("schema", "both") else None
    source, schemas = dialect.grammar(
        functions, required=how == "required", parallel=False, thinking=opened, answer=schema
    )
    assert dialect.reasoning_places is not None
    assert dialect.reasoning_markers is not None
    budget = dialect.reasoning_places.budget(
        0, "field", opened=opened, offered=bool(functions), required=how == "required"
    )
    (start,) = Grammars(vocabulary).matchers(Grammar("answer", source, "tools", schemas), 1)
    begin = "" if opened else dialect.reasoning_markers[0]
    for end in {budget.close, budget.insist}:
        matcher = start.copy()
        limit = ReasoningLimit(budget, [1], [1], vocabulary.n_vocab)
        for token in vocabulary.tokens(f"{begin}\nHm. {end}"):
            assert matcher.mask[token // 32] >> (token % 32) & 1, (dialect.family, how, end)
            matcher.advance(token)
            assert matcher.error is None, (dialect.family, how, end)
        for token in vocabulary.tokens(begin):
            assert not limit.address
            limit.follow(vocabulary.pieces[token])
        assert limit.address, (dialect.family, begin)
