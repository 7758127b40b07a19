"""``/infill`` as editors ask it: the bodies that llama.vim and llama.vscode send.

Sources: https://github.com/ggml-org/llama.vim/blob/master/autoload/llama.vim and
https://github.com/ggml-org/llama.vscode/blob/master/src/llama-server.ts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from changed_models import FILL_IN, with_metadata
from scripted_model import write
from support import STARTER, Json, Stream, request

from offgrid.config import load_settings
from offgrid.server import Server

INFILL = "/infill"
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
KEYS = (
    "tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
)  # fmt: skip
SAYS = "return a + b\n\n    def twice(self):\n"
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
CHUNKS = [
    {"text": "def helper():\n    pass\n", "time": [1764, 52], "filename": "helper.py"},
    {"text": "import os\n", "time": [1764, 60], "filename": "main.py"},
]
VIM: Json = {
    "id_slot": 0,
    "input_prefix": "class A:\n    def add(self, a, b):\n",
    "input_suffix": "\n\nprint(A().add(1, 2))\n",
    "input_extra": CHUNKS,
    "prompt": "        ",
    "n_predict": 128,
    "stop": [],
    "n_indent": 8,
    "top_k": 40,
    "top_p": 0.90,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms",
        "timings/prompt_per_second", "timings/predicted_n", "timings/predicted_ms",
        "timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated",
        "tokens_cached",
    ],
}  # fmt: skip
VIM_WARMS_UP: Json = {
    "id_slot": 0, "input_prefix": "", "input_suffix": "", "input_extra": CHUNKS, "prompt": "",
    "n_predict": 0, "temperature": 0.0, "stream": False, "samplers": [], "cache_prompt": True,
    "t_max_prompt_ms": 1, "t_max_predict_ms": 1, "response_fields": [""],
}  # fmt: skip
VSCODE: Json = {
    "id_slot": 0, "input_prefix": VIM["input_prefix"], "input_suffix": VIM["input_suffix"],
    "input_extra": CHUNKS, "prompt": "        ", "n_predict": 128, "n_cmpl": 3, "top_k": 40,
    "top_p": 0.99, "stream": False, "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 2500,
}  # fmt: skip
TWINNY: Json = {
    "input_prefix": "def f():\n    ",
    "input_suffix": "\n",
    "n_predict": 4,
    "stream": True,
}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose model fills in code, with the tokens of Qwen2.5-Coder."""
    folder = tmp_path_factory.mktemp("code")
    plain = write(folder / "plain.gguf", TEMPLATE, FIM, SAYS)
    with_metadata(plain, folder / "code.gguf", dict(zip(KEYS, range(256, 261), strict=True)))
    plain.unlink()
    flags = {"models_dir": folder, "responses_file": folder / "responses.sqlite3", "threads": 1}
    server = Server(load_settings({"port": 0, "drain_timeout": 0, **flags}, environ={}))
    server.start()
    yield server.url
    server.stop()


def ask(base_url: str, body: Json, status: int = 200) -> Any:
    response = request(base_url, "POST", INFILL, body)
    assert response.status == status, response.body
    return response.json


def test_llama_vim(code: str) -> None:
    """It reads the content, whether text was left out, and the timings by their whole names."""
    answer = ask(code, VIM)
    assert answer.keys() == set(VIM["response_fields"])
    assert answer["content"] == "return a + b\n"  # the next line is not indented as far
    assert answer["truncated"] is False
    assert answer["timings/predicted_n"] > 0
    assert answer["tokens_cached"] >= answer["timings/prompt_n"]


def test_llama_vim_warms_up_the_cache(code: str) -> None:
    """It sends its chunks before they are needed, and asks for no answer."""
    chunks = [{"text": f"value_{n} = {n}\n" * 40, "time": [1, 2], "filename": f"{n}.py"}
              for n in range(3)]  # fmt: skip
    assert ask(code, {**VIM_WARMS_UP, "input_extra": chunks}) == {}
    body = {**VIM, "input_extra": chunks, "response_fields": []}
    timings = ask(code, body)["timings"]
    assert timings["cache_n"] > 10 * timings["prompt_n"]


def test_llama_vscode(code: str) -> None:
    """It asks for several answers, and gets a list. On a busy machine, its limit of 2.5 s could end
    them after their first line."""
    body = {**VSCODE, "t_max_predict_ms": 3_600_000}
    answers = ask(code, body)
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert {answer["content"] for answer in answers} == {SAYS}
    assert {answer["stop_type"] for answer in answers} == {"eos"}
    (answer,) = [ask(code, {**body, "n_cmpl": 1})]
    assert answer["content"] == SAYS


def test_the_prompt_is_the_models_format(code: str) -> None:
    """The whole text is in the answer, so that an editor's author can look at it."""
    answer = ask(code, {**VSCODE, "n_cmpl": 1})
    assert answer["prompt"] == (
        "<|repo_name|>myproject\n"
        "<|file_sep|>helper.py\ndef helper():\n    pass\n"
        "<|file_sep|>main.py\nimport os\n"
        "<|file_sep|>filename\n"
        f"<|fim_prefix|>{VIM['input_prefix']}        "
        f"<|fim_suffix|>{VIM['input_suffix']}<|fim_middle|>"
    )
    bare = ask(code, {"input_prefix": "a", "input_suffix": "b"})
    assert bare["prompt"] == "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"


def test_texts_of_control_tokens_stay_text(code: str) -> None:
    """Code may contain them; an editor must not be able to end the prefix by accident."""
    tokens = ask(code, {"input_prefix": "a", "input_suffix": "b"})["tokens_evaluated"]
    with_name = ask(code, {"input_prefix": "a<|fim_middle|>", "input_suffix": "b"})
    assert with_name["tokens_evaluated"] > tokens + 3


def test_a_stream_equals_the_whole_answer(code: str) -> None:
    with Stream(code, INFILL, {**VIM, "stream": True, "response_fields": []}) as stream:
        *parts, last = map(json.loads, stream.events())
    assert "".join(part["content"] for part in parts) == "return a + b\n"
    assert (last["stop"], last["stop_type"]) == (True, "limit")


@pytest.mark.slow
def test_text_that_does_not_fit_is_left_out_and_the_answer_says_so(
    tmp_path: Path, starter_path: Path, make_server: Callable[..., Server]
) -> None:
    with_metadata(starter_path, tmp_path / "code.gguf", FILL_IN)
    url = make_server(ctx_size=256, parallel=1).url
    body = {**VIM, "input_prefix": "far away\n" * 500, "n_predict": 8, "response_fields": []}
    response = request(url, "POST", INFILL, body)
    assert response.status == 200, response.body
    assert response.json["truncated"] is True
    assert response.json["tokens_evaluated"] == 248
    assert "left out" in response.headers["x-offgrid-warning"]
    small = request(url, "POST", INFILL, {**VIM, "input_extra": [], "n_predict": 8})
    assert "x-offgrid-warning" not in small.headers
    # The line of the cursor is never cut.
    error = ask(url, {**body, "prompt": "x" * 100_000}, 400)["error"]
    assert (error["param"], error["type"]) == ("prompt", "exceed_context_size_error")


def test_a_model_that_cannot_fill_in(base_url: str) -> None:
    error = ask(base_url, {**VIM, "model": STARTER}, 400)["error"]
    assert "no fill-in-the-middle tokens" in error["message"]
    assert error["param"] == "input_prefix"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input_prefix": None}, "input_prefix", "Missing"),
        ({"input_suffix": None}, "input_suffix", "Missing"),
        ({"input_prefix": 1}, "input_prefix", "must be a string"),
        ({"input_extra": "x"}, "input_extra", "must be a list"),
        ({"input_extra": [{"filename": "a.py"}]}, "input_extra[0].text", "Missing"),
        ({"input_extra": [{"text": 1}]}, "input_extra[0].text", "must be a string"),
        ({"input_extra": [{"text": "a", "path": "b"}]}, "input_extra[0].path", "nknown"),
        ({"prompt": ["x"]}, "prompt", "must be a string"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, "lora", "adapters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_name_the_field(code: str, fields: Json, param: str, words: str) -> None:
    error = ask(code, {**VIM, **fields}, 400)["error"]
    assert (error["code"], error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]
