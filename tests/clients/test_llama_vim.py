"""llama.vim in Vim: it asks for the middle of a function, shows it, and inserts it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from changed_models import with_metadata
from scripted_model import write
from terminals import Terminal

from offgrid.server import Server

pytestmark = pytest.mark.skipif(
    not shutil.which("vim") or "LLAMA_VIM" not in os.environ,
    reason="LLAMA_VIM does not name a checkout of llama.vim, or there is no vim",
)
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")
KEYS = tuple(f"tokenizer.ggml.fim_{name}_token_id" for name in ("pre", "suf", "mid", "rep", "sep"))
SAYS = "a + b\n        return total\n\n    def twice(self):\n"
SCRIPT = """
set nocompatible noswapfile hidden
let g:llama_config = {{
    \\ 'endpoint_fim': '{url}/infill', 'auto_fim': v:false, 'show_info': 0,
    \\ 't_max_predict_ms': 60000,
    \\ }}
set runtimepath^={plugin}
runtime plugin/llama.vim
edit {folder}/sum.py
call setline(1, ['class Sum:', '    def add(self, a, b):', '        total = ', '', 'print(Sum())'])
call cursor(3, 17)
function! Look(timer)
    if llama#is_fim_hint_shown()
        call llama#fim_accept('full')
        call timer_stop(a:timer)
        silent write!
        qall!
    endif
endfunction
call timer_start(50, 'Look', {{'repeat': -1}})
call timer_start(100, {{-> llama#fim_inline(v:false, v:false)}})
startinsert!
"""


def test_the_middle_of_a_function(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    models = tmp_path / "models"
    models.mkdir()
    plain = write(tmp_path / "plain.gguf", "{{ messages[0].content }}", FIM, SAYS)
    with_metadata(plain, models / "code.gguf", dict(zip(KEYS, range(256, 261), strict=True)))
    url = make_server(models_dir=models).url
    script = tmp_path / "script.vim"
    script.write_text(SCRIPT.format(url=url, plugin=os.environ["LLAMA_VIM"], folder=tmp_path))
    vim = Terminal("vim", "-N", "-u", "NONE", "-i", "NONE", "-S", str(script), cwd=tmp_path)
    try:
        assert vim.wait() == 0
    finally:
        vim.end()
    # What is inserted ends before the line that is not indented as far as the cursor.
    assert (tmp_path / "sum.py").read_text() == (
        "class Sum:\n    def add(self, a, b):\n        total = a + b\n        return total\n"
        "\nprint(Sum())\n"
    )
