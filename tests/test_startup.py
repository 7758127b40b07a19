"""Preparations before a process's first thread: complete type information, and crash traces."""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import TIMEOUT
from variants import few

from offgrid.startup import enable_crash_trace

HERE = Path(__file__).parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a new process, with threads that disturb each other."""
    path = [str(HERE / "hurried"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        cwd=HERE / "hurried",  # in the project's folder Python would import the source tree
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


LOOK = """
import gc, pathlib, sys
import msgspec
from offgrid.config import load_settings
from offgrid.startup import package_structs

def is_prepared(struct):
    return any(type(part).__name__ == "StructInfo" for part in gc.get_referents(struct))

folder = pathlib.Path(sys.argv[1])
files = {{"models_dir": folder, "responses_file": folder / "r.sqlite3"}}
settings = load_settings(
    {{"port": 0, "default_model": "offgrid-starter", **files}}, environ={{}}
)
{start}
modules = [module for name, module in sys.modules.items() if name.startswith("offgrid.")]
values = [value for module in modules for value in vars(module).values()]
structs = {{value for value in values if isinstance(value, type(msgspec.Struct))}}
structs -= {{msgspec.Struct}}
assert len(structs) > 20
assert structs <= set(package_structs()), structs - set(package_structs())
# A dataclass in a message has what msgspec knows of it in an attribute.
from offgrid.sampling.params import SamplingParams
assert "__msgspec_cache__" in vars(SamplingParams)
print([struct for struct in structs if not is_prepared(struct)])
"""
STARTS = {
    "serve": "import offgrid.server; server = offgrid.server.Server(settings)",
    "waitress-serve": "import offgrid.app; app = offgrid.app.create_app(settings)",
    "worker": """
import offgrid.engine.worker.main
offgrid.engine.worker.main.prepare_process()
""",
}


@pytest.mark.parametrize("start", few(1, STARTS.values()), ids=STARTS)
def test_every_struct_of_a_process_is_prepared(start: str, tmp_path: Path) -> None:
    """Structs are found automatically; a new one needs no registration."""
    result = run("-c", LOOK.format(start=start), str(tmp_path))
    assert (result.stdout, result.returncode) == ("[]\n", 0), result.stderr


@pytest.mark.slow
def test_every_struct_survives_its_first_use_by_eight_threads() -> None:
    result = run(str(HERE / "lib" / "first_use.py"))
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100


CRASH = """
import os, signal, sys
from offgrid.startup import enable_crash_trace
{before}
enable_crash_trace()
os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("", True),
        ("import io; sys.stderr = io.StringIO()", True),  # replaced, for example by a logger
        ("sys.stderr = sys.__stderr__ = None", False),  # a service without a console
        ("os.close(2)", False),
    ],
    ids=["plain", "replaced", "absent", "closed"],
)
def test_a_crash_leaves_a_trace_if_standard_error_is_a_file(before: str, told: bool) -> None:
    result = run("-c", CRASH.format(before=before))
    assert result.returncode == -signal.SIGSEGV
    assert ("Fatal Python error: Segmentation fault" in result.stderr) is told
    assert ("most recent call first" in result.stderr) is told


def test_an_already_enabled_trace_keeps_its_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pytest enables a trace, and so may a program that embeds the server."""
    assert faulthandler.is_enabled()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    enable_crash_trace()
    assert faulthandler.is_enabled()


@pytest.mark.parametrize(("before", "after"), [(0.005, 0.0005), (0.0001, 0.0001)])
def test_a_thread_keeps_pythons_lock_for_half_a_millisecond_at_most(
    before: float, after: float
) -> None:
    program = (
        f"import sys; sys.setswitchinterval({before}); from offgrid.startup import prepare_process;"
        "prepare_process(); print(sys.getswitchinterval())"
    )
    result = run("-c", program)
    assert float(result.stdout) == pytest.approx(after, rel=0.02), result.stderr
