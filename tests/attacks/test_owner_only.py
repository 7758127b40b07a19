"""What a server stores about its users is readable only by its owner, whatever the umask.

A server and the commands run in a new home with umask 0; then every file and folder is looked at.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Child, program
from support import STARTER, chat_body, request

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the modes are those of Unix")

LONG = "The otter swam down the river and looked for a fish. " * 30


def run(home: Path, environ: dict[str, str], *words: str) -> str:
    """Run a command of offgrid with umask 0; return what it prints."""
    done = subprocess.run(
        [program("offgrid"), *words], cwd=home, env=environ, capture_output=True, text=True,
        check=False, umask=0,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_the_owner_reads_what_is_stored(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OFFGRID_")}
    environ |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"),
                "XDG_CACHE_HOME": str(home / ".cache"), "XDG_STATE_HOME": str(home / ".state"),
                "XDG_DATA_HOME": str(home / ".local")}  # fmt: skip
    secret = run(home, environ, "keys", "create", "test", "--scope", "admin").strip()
    starter = "import os; os.umask(0); os.execv(os.sys.argv[1], os.sys.argv[1:])"
    child = Child(
        sys.executable, "-c", starter, program("offgrid"), "serve", "--port", "0", "--threads", "1",
        "--parallel", "1", "--cache-ram-mb", "0", cwd=home, **environ,
    )  # fmt: skip
    try:
        child.wait_ready()
        headers = {"Authorization": f"Bearer {secret}"}
        for text in (LONG, "Another story. " * 60, LONG):
            body = {"model": STARTER, "prompt": text, "max_tokens": 2}
            assert request(child.url, "POST", "/v1/completions", body, headers).status == 200
        chat = chat_body("Remember this.", max_tokens=2)
        assert request(child.url, "POST", "/v1/chat/completions", chat, headers).status == 200
        stored = {"model": STARTER, "input": "Keep this.", "max_output_tokens": 2}
        assert request(child.url, "POST", "/v1/responses", stored, headers).status == 200
        page = request(child.url, "POST", "/v1/history", {"title": "Keep this."}, headers)
        assert page.status == 200
        made = request(child.url, "POST", "/v1/conversations", {}, headers)
        assert made.status == 200
    finally:
        child.process.terminate()
        child.wait()
        child.end()
    run(home, environ, "backup", str(home / "saved.zip"))
    found = [path for path in sorted(home.rglob("*")) if not path.is_symlink()]
    assert any(path.name == "responses.sqlite3" for path in found)
    assert any(path.suffix == ".zip" for path in found)
    for path in found:
        # Models are no secrets, and other accounts may share them; so is the folder above all.
        if "models" in path.parts or path.name in (".config", ".cache", ".state", ".local"):
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, f"{path.relative_to(home)}: {mode:o}"
