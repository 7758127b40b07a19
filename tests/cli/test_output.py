"""Lines in terminals of several widths, and in a pipe."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import heed_signals

from offgrid.cli import main, output

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)
else:
    import fcntl
    import pty
    import subprocess
    import termios


def in_terminal(columns: int, *arguments: str, **environ: str) -> str:
    """What a command prints in a terminal of some width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    child = subprocess.Popen(
        [sys.executable, "-m", "offgrid", *arguments],
        cwd="/",
        env={**inherited, "TERM": "xterm", **environ},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=heed_signals,
    )
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 1 << 16):
            text += data
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
        child.wait()
    return text.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 160])
def test_list_fits_the_terminal(columns: int, tmp_path: Path, starter_path: Path) -> None:
    long = "a-very-long-name-" * 6
    for name in ("b", long):
        (tmp_path / f"{name}.gguf").symlink_to(starter_path)
    (tmp_path / "text.gguf").write_text("this is no model")
    text = in_terminal(columns, "list", "--models-dir", str(tmp_path))
    lines = text.splitlines()
    assert max(map(len, lines)) <= max(columns, len(long))
    assert (long in lines) == (columns == 80)  # on a line of its own
    assert "this is no model"[:4] in text
    piped = CliRunner().invoke(main, ["list", "--models-dir", str(tmp_path)]).output.splitlines()
    assert long not in piped
    assert any(line.startswith(f"{long}  ") for line in piped)
    assert piped[-1].startswith(f"  {tmp_path}/text.gguf: not a GGUF file: it begins with ")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve --help", "--help", "config --help"])
def test_a_narrow_terminal_breaks_no_words(command: str) -> None:
    narrow, wide = (in_terminal(columns, *command.split()) for columns in (40, 160))
    meanings = [line for line in narrow.splitlines() if not line.lstrip().startswith("-")]
    assert max(map(len, meanings)) <= 40
    assert set(re.findall(r"[a-z]+", narrow)) <= set(re.findall(r"[a-z]+", wide))


@pytest.mark.slow
def test_colours_only_in_a_terminal(tmp_path: Path) -> None:
    flags = ("doctor", "--port", "0")
    home = {"HOME": str(tmp_path)}
    assert "\x1b[33mwarning\x1b[0m  models " in in_terminal(120, *flags, **home)
    assert "\x1b" not in in_terminal(120, *flags, **home, NO_COLOR="1")


def test_wrapped_lines_are_indented(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "width", lambda: 50)
    output.echo_wrapped("name  ", f"{'word ' * 12}\x1b[31m", mark="** ", mark_width=3)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"** name  {('word ' * 8).strip()}"
    assert second == f"{' ' * 9}{'word ' * 4}\\x1b[31m"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "?"), (7, "7"), (999, "999"), (1000, "1.00 k"), (134_515_008, "135 M"),
        (7_504_900_000, "7.50 B"), (70_600_000_000, "70.6 B"), (1_200_000_000_000, "1.20 T"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(number: int | None, text: str) -> None:
    assert output.short_number(number) == text
