"""``offgrid complete``."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from support import STARTER, request

from offgrid.cli import main

Complete = Callable[..., Result]
TEXT = "Once upon a time"
GREEDY = ("-t", "0", "-n", "6")


@pytest.fixture
def complete() -> Complete:
    def call(*arguments: str, stdin: str = "") -> Result:
        environ = {"OFFGRID_NUM_THREADS": "1", "OFFGRID_PORT": "0"}
        return CliRunner().invoke(main, ["complete", *arguments], input=stdin, env=environ)

    return call


@pytest.mark.slow
def test_a_text_is_continued(complete: Complete, base_url: str) -> None:
    body = {"prompt": TEXT, "temperature": 0, "max_tokens": 6}
    told = request(base_url, "POST", "/v1/completions", body).json
    text = told["choices"][0]["text"]
    at = ("--url", base_url)
    for arguments, stdin in (
        ((STARTER, TEXT, *at), ""),
        ((STARTER, TEXT, "--local"), ""),
        ((STARTER, *at), TEXT),
        ((STARTER, *at), f"{TEXT}\n"),  # as echo writes it
        (("", TEXT, *at), ""),
    ):
        result = complete(*arguments, *GREEDY, stdin=stdin)
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{text}\n", "")
    echoed = complete(STARTER, TEXT, "--echo", *at, *GREEDY)
    assert echoed.stdout == f"{TEXT}{text}\n"
    spoken = complete(STARTER, TEXT, "-v", *at, *GREEDY)
    assert "6 tokens" in spoken.stderr
    # Other line ends belong to the text.
    lines = complete(STARTER, *at, *GREEDY, "--json", stdin=f"{TEXT}\n\n")
    told = request(base_url, "POST", "/v1/completions", {**body, "prompt": f"{TEXT}\n"}).json
    assert json.loads(lines.stdout)["choices"][0]["text"] == told["choices"][0]["text"]


def test_json_is_the_answer_of_the_api(complete: Complete, base_url: str) -> None:
    body = {"prompt": TEXT, "temperature": 0, "max_tokens": 6, "logprobs": 1, "stop": ["\n"]}
    told = request(base_url, "POST", "/v1/completions", body).json
    result = complete(STARTER, TEXT, "--json", "--url", base_url, *GREEDY, "--stop", "\n",
                      "--set", "logprobs=1")  # fmt: skip
    answer = json.loads(result.stdout)
    assert answer["choices"] == told["choices"]
    assert answer["usage"]["completion_tokens"] == told["usage"]["completion_tokens"]
    assert (answer["object"], answer["model"]) == ("text_completion", STARTER)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((STARTER, "x", "--set", "n=2"), 2, "n and best_of cannot be given here"),
        ((STARTER, "x", "--top-p", "7"), 2, "top_p must be between 0 and 1"),
        ((STARTER, "x", "--url", "http://127.0.0.1:9"), 1, "no server answers"),
        (("no-such-model", "x"), 2, "Model not found"),
    ],
)
def test_wrong_arguments(
    complete: Complete, arguments: tuple[str, ...], status: int, message: str
) -> None:
    result = complete(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
