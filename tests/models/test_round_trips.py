"""Round trips of llama.cpp's chat templates: what a template writes for an answer comes out of a
real engine, as the tokens of a model, and is read back. ``test_own_answers.py`` tries the grammars
of all templates without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scripted_model
from engine_runs import greedy_text
from real_answers import NAMES, SCHEMA, TOOLS, USER, Said, markers_of, message_of, said

from offgrid.chat.dialect import Dialect
from offgrid.chat.grammars import Function
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.llama.model import Model
from offgrid.grammar.checked import CheckedSchema

pytestmark = pytest.mark.models

CHECKED = CheckedSchema(SCHEMA, "tools", arguments=True)
FUNCTIONS = [Function(name, CHECKED, True, SCHEMA) for name in NAMES]
SAMPLE = (
    "Apertus-8B-Instruct", "CohereForAI-c4ai-command-r7b-12-2024-tool_use", "GLM-4.6",
    "LFM2.5-8B-A1B", "MiniMax-M2", "MiniMax-M3", "Mistral-Small-3.2-24B-Instruct-2506",
    "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-V3.2",
    "google-gemma-4-31B-it", "meetkai-functionary-medium-v3.2", "meta-llama-Llama-3.1-8B-Instruct",
    "mistralai-Ministral-3-14B-Reasoning-2512", "moonshotai-Kimi-K2", "openai-gpt-oss-120b",
    "upstage-Solar-Open-100B",
)  # fmt: skip
"""One template of each form of calls and reasoning."""
_TOO_MUCH_ALIKE = {"Kimi-K3", "GigaChat3.1-10B-A1.8B"}
"""The scripted model cannot say these answers: too few tokens tell their parts apart."""
_CALLS_TOO_MUCH_ALIKE = {"google-gemma-4-31B-it"}


def round_trip(path: Path, template: str, how: str = "free", **options: Any) -> str:
    """Let a real engine say an answer; return what is wrong with what was read, or nothing.

    ``how``: without a grammar (``free``), with strict functions (``auto``), or forced.
    """
    answer = said(Dialect(template, "<BOS>", "<EOS>", {}), **options)
    if answer is None:
        return ""
    scripted_model.write(path, template, markers_of(answer.text), answer.text)
    model = Model(Load(str(path), ctx_size=8192, parallel=1, batch_size=512, threads=1))
    try:
        return spoken(model, template, answer, how)
    finally:
        model.close()
        path.unlink()


def spoken(model: Model, template: str, answer: Said, how: str) -> str:
    info = model.info
    dialect = Dialect(template, info.bos_text, info.eos_text, info.control_ids)
    prompt = dialect.prompt([USER], TOOLS)
    grammar = None
    if how != "free":
        source, schemas = dialect.grammar(
            FUNCTIONS[:1] if how == "named" else FUNCTIONS, required=how != "auto",
            parallel=len(answer.calls) > 1, thinking=prompt.thinking,
        )  # fmt: skip
        grammar = Grammar("answer", source, "tools", schemas)
    text = greedy_text(model, dialect, prompt, grammar)
    parser = dialect.parser(
        {name: SCHEMA for name in NAMES}, thinking=prompt.thinking, constrained=grammar is not None
    )
    content, thought, calls = message_of([*parser.feed(text), *parser.finish()])
    found = (content.lstrip(), thought, calls)
    if found == (answer.content, answer.thought, list(answer.calls)):
        return ""
    return f"{answer.text!r} -> {text!r}: {found}"


def test_every_template(templates: dict[str, str], tmp_path: Path) -> None:
    """A call after reasoning, where the template writes any."""
    unread = {}
    for name, template in templates.items():
        if name in _TOO_MUCH_ALIKE:
            continue
        thoughtful = said(Dialect(template, "<BOS>", "<EOS>", {}), 1, thought=True) is not None
        unread[name] = round_trip(tmp_path / f"{name}.gguf", template, calls=1, thought=thoughtful)
    assert not any(unread.values()), {name: what for name, what in unread.items() if what}


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("how", ["auto", "required", "named"])
def test_strict_and_forced_calls(
    templates: dict[str, str], tmp_path: Path, name: str, how: str
) -> None:
    path, template = tmp_path / "scripted.gguf", templates[name]
    assert not round_trip(path, template, how, calls=1)
    assert not round_trip(path, template, how, calls=1, thought=True)
    if how != "named" and name not in _CALLS_TOO_MUCH_ALIKE:
        assert not round_trip(path, template, how, calls=2)
    if how == "auto" and name != "openai-gpt-oss-120b":  # It writes such content as reasoning.
        assert not round_trip(path, template, how, calls=1, content=True)
