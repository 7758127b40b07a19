"""A small real model knows the capital of France, whichever way it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from openai import OpenAI

from offgrid import LLM
from offgrid.cli import main

pytestmark = pytest.mark.models

QUESTION = "What is the capital of France? Answer in one sentence."


def test_openai(real_url: str, smollm2: Path) -> None:
    with OpenAI(base_url=f"{real_url}/v1", api_key="x", max_retries=0) as client:
        answer = client.chat.completions.create(
            model=smollm2.stem,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=30,
        )
    assert "Paris" in (answer.choices[0].message.content or "")


def test_run(real_url: str, smollm2: Path) -> None:
    for arguments in (
        [smollm2.stem, QUESTION, "--url", real_url],
        [str(smollm2), QUESTION, "--local", "--ctx-size", "512"],
    ):
        environ = {"OFFGRID_NUM_THREADS": "1", "OFFGRID_PORT": "0"}
        command = ["run", *arguments, "--temperature", "0", "-n", "30"]
        result = CliRunner().invoke(main, command, env=environ)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "Paris" in result.stdout


def test_llm(smollm2: Path) -> None:
    with LLM(smollm2, threads=1, ctx_size=512) as llm:
        answer = llm.chat(QUESTION, temperature=0, max_tokens=30)
        assert "Paris" in answer.text
        assert "".join(llm.stream(QUESTION, temperature=0, max_tokens=30)) == answer.text
        paris, lyon = llm.score("The capital of France is", [" Paris", " Lyon"])
        assert paris.logprob > lyon.logprob
