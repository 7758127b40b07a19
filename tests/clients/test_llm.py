"""The ``llm`` program, configured by its ``extra-openai-models.yaml``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from processes import program
from support import STARTER, TIMEOUT

MODELS = """
- model_id: offgrid
  model_name: {model}
  api_base: {base}/v1
  supports_schema: true
  supports_tools: true
- model_id: offgrid-text
  model_name: {model}
  api_base: {base}/v1
  completion: true
"""


@pytest.fixture
def llm_home(base_url: str, tmp_path: Path) -> Path:
    text = MODELS.format(model=STARTER, base=base_url)
    (tmp_path / "extra-openai-models.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def llm(home: Path, *arguments: str) -> str:
    done = run(home, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("llm"), *arguments],
        env={**os.environ, "LLM_USER_PATH": str(home), "OPENAI_API_KEY": "any"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_prompts_streamed_and_whole(llm_home: Path) -> None:
    asked = ["-m", "offgrid", "-o", "temperature", "0", "-o", "seed", "3", "Hello!"]
    streamed = llm(llm_home, *asked)
    assert streamed.strip()
    assert llm(llm_home, *asked, "--no-stream") == streamed
    (answer, *_) = json.loads(llm(llm_home, "logs", "--json", "--count", "1"))
    assert answer["response"].strip() == streamed.strip()
    assert answer["input_tokens"] > 0
    assert answer["output_tokens"] > 0


def test_a_conversation_and_a_system_prompt(llm_home: Path) -> None:
    llm(llm_home, "-m", "offgrid", "-s", "You are brief.", "-o", "max_tokens", "20", "Hello!")
    assert llm(llm_home, "-c", "-o", "max_tokens", "20", "And now?").strip()


def test_text_completions_with_logprobs(llm_home: Path) -> None:
    asked = ["-m", "offgrid-text", "-o", "max_tokens", "5", "-o", "logprobs", "2", "Once upon a"]
    assert llm(llm_home, *asked).strip()
    (answer, *_) = json.loads(llm(llm_home, "logs", "--json", "--count", "1"))
    assert len(answer["response_json"]["logprobs"]) == 5
    assert llm(llm_home, *asked, "--no-stream").strip()


def test_schemas(llm_home: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"warm": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
        "required": ["warm", "size"],
        "additionalProperties": False,
    }
    answer = json.loads(llm(llm_home, "-m", "offgrid", "--schema", json.dumps(schema), "Oslo?"))
    assert isinstance(answer["warm"], bool)
    assert answer["size"] in ("small", "large")


def test_tools(llm_home: Path) -> None:
    functions = "def get_weather(city: str) -> str:\n    return 'rain in ' + city"
    asked = ["-m", "offgrid", "-o", "temperature", "0", "-o", "max_tokens", "100"]
    question = "What is the weather in Oslo?"
    llm(llm_home, *asked, "--functions", functions, "--chain-limit", "3", question)
    logs = json.loads(llm(llm_home, "logs", "--json", "--count", "0"))
    assert any(call["name"] == "get_weather" for entry in logs for call in entry["tool_calls"])


def test_models(llm_home: Path) -> None:
    assert "offgrid-text" in llm(llm_home, "models")


def test_errors(llm_home: Path) -> None:
    done = run(llm_home, "-m", "offgrid", "-o", "max_tokens", "-5", "Hello!")
    assert done.returncode == 1
    assert "max_tokens must be" in done.stderr
