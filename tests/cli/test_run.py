"""``offgrid run``: in a pipe, with a server, and as a chat in a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted_model
from click.testing import CliRunner, Result
from processes import heed_signals, program
from support import STARTER, TIMEOUT, eventually, request
from tiny_vision import make_seeing, pixels, png

from offgrid.cli import main
from offgrid.server import Server

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)
else:
    from terminals import ALT_ENTER, CTRL_C, CTRL_D, CTRL_Z, Terminal

Run = Callable[..., Result]
GREEDY = ("--temperature", "0")
REASONER = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture
def run() -> Run:
    """Run the command in this process, with text on standard input."""

    def call(*arguments: str, stdin: str = "", **environ: str) -> Result:
        environ = {"OFFGRID_NUM_THREADS": "1", "OFFGRID_PORT": "0", **environ}
        return CliRunner().invoke(main, ["run", *arguments], input=stdin, env=environ)

    return call


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Start the command in a terminal."""
    started: list[Terminal] = []

    def start(*arguments: str, **environ: str) -> Terminal:
        command = (program("offgrid"), "run", *arguments)
        started.append(Terminal(*command, cwd=tmp_path, **environ))
        return started[-1]

    yield start
    for one in started:
        one.end()


# --- a single question ----------------------------------------------------------------------------


def test_only_the_answer_is_printed(run: Run, base_url: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}
    said = request(base_url, "POST", "/v1/chat/completions", body).json
    answer = said["choices"][0]["message"]["content"]
    # A model of its own, and the server; the question as an argument, and on standard input.
    for arguments, stdin in (
        ((STARTER, "Hello!", "--local"), ""),
        ((STARTER, "--url", base_url), "Hello!\n"),
        (("--url", f"{base_url}/v1/", "", "Hello!"), ""),
    ):
        result = run(*arguments, *GREEDY, stdin=stdin)
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{answer}\n", "")


def test_text_and_question(run: Run, base_url: str, server: Server) -> None:
    asked = run(STARTER, "Repeat", "this.", "--url", base_url, "-n", "1", "-v", stdin="a text\n")
    both = {"messages": [{"role": "user", "content": "a text\n\nRepeat this."}]}
    path = "/v1/chat/completions/input_tokens"
    tokens = request(base_url, "POST", path, both).json["input_tokens"]
    assert f"1 tokens, first after " in asked.stderr  # noqa: F541
    assert f"prompt of {tokens} tokens" in asked.stderr


def test_a_server_on_the_configured_address_is_used(
    run: Run, base_url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = base_url.rpartition(":")[2]
    monkeypatch.setattr("offgrid.cli.talk.source.Local", None)  # it must not be used
    result = run(STARTER, "Hello!", OFFGRID_PORT=port)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.slow
def test_a_model_that_the_server_lacks_is_loaded(
    run: Run, base_url: str, tmp_path: Path, starter_path: Path
) -> None:
    (tmp_path / "own.gguf").symlink_to(starter_path)
    port = base_url.rpartition(":")[2]
    result = run("own", "Hello!", "--models-dir", str(tmp_path), *GREEDY, OFFGRID_PORT=port)
    assert (result.exit_code, result.stderr) == (0, "")
    assert run(str(tmp_path / "own.gguf"), "Hello!", *GREEDY).stdout == result.stdout
    # With --url nothing else is tried.
    result = run("own", "Hello!", "--models-dir", str(tmp_path), "--url", base_url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "offgrid: Model not found: own." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((STARTER,), 2, "there is no question"),
        ((STARTER, "x", "--set", "temprature=1"), 2, "Did you mean temperature?"),
        ((STARTER, "x", "--set", "seed"), 2, "NAME=VALUE"),
        ((STARTER, "x", "--temperature", "9"), 2, "temperature must be between 0 and 2"),
        ((STARTER, "x", "--image", "no-such.png"), 2, "no-such.png cannot be read"),
        ((STARTER, "x", "--url", "ftp://x"), 1, "is not an address"),
        (
            (STARTER, "x", "--url", "http://127.0.0.1:9"),
            1,
            "no server answers at http://127.0.0.1:9",
        ),
        ((STARTER, "x", "--url", "http://x", "--local"), 2, "exclude each other"),
        (("no-such-model", "x"), 2, "Model not found: no-such-model"),
        ((STARTER, "x", "--models-dir", "/no/such/folder"), 2, "/no/such/folder does not exist"),
    ],
)
def test_wrong_arguments(run: Run, arguments: tuple[str, ...], status: int, message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_errors_of_the_server_are_shown(run: Run, base_url: str) -> None:
    result = run(STARTER, "word " * 9000, "--url", base_url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "context" in result.stderr


def test_an_image(run: Run, make_server: Callable[..., Server], tmp_path: Path) -> None:
    make_seeing(tmp_path)
    (tmp_path / "picture.png").write_bytes(png(pixels(1)))
    url = make_server().url
    arguments = ("seeing", "What is this?", "--url", url, "-n", "2", "-v")
    plain, seen = run(*arguments), run(*arguments, "--image", str(tmp_path / "picture.png"))
    tokens = [int(r.stderr.split("prompt of ")[1].split()[0]) for r in (plain, seen)]
    assert tokens[1] > tokens[0]


@pytest.mark.slow
def test_a_program_gets_no_reasoning_and_a_terminal_gets_it_dimmed(
    run: Run,
    terminal: Callable[..., Terminal],
    make_server: Callable[..., Server],
    tmp_path: Path,
) -> None:
    scripted_model.write(
        tmp_path / "thinker.gguf", REASONER, ["<|im_start|>", "<|im_end|>"],
        "<think>\nIt is a greeting.\n</think>\n\nGood day\x1b]0;title\x07.",
    )  # fmt: skip
    options = ("--url", make_server().url, *GREEDY)
    result = run("thinker", "Hello!", *options)
    assert result.stdout == "Good day\x1b]0;title\x07.\n"
    screen = terminal("thinker", "Hello!", *options)
    assert screen.wait() == 0
    assert screen.raw.startswith("\x1b[2mIt ")
    assert "\x1b[0m\r\n\r\nGood day" in screen.raw
    # Control characters of a model do not reach the terminal.
    assert r"Good day\x1b]0;title\x07." in screen.text
    assert "It is a greeting.\n\nGood day" in screen.text
    plain = terminal("thinker", "Hello!", *options, TERM="dumb")
    assert plain.wait() == 0
    assert "\x1b[" not in plain.raw


def test_ctrl_c_ends_a_single_question_with_130(
    terminal: Callable[..., Terminal], base_url: str, server: Server
) -> None:
    screen = terminal(STARTER, "Tell me a story.", "--url", base_url, "--set", "ignore_eos=true")
    screen.find(r"\w+")
    screen.type(CTRL_C)
    assert screen.wait() == 130
    assert "Traceback" not in screen.text
    (engine,) = server.pool.loaded()
    eventually(lambda: engine.in_flight == 0, "the server has stopped the answer")


def test_a_reader_that_leaves_ends_the_command(base_url: str) -> None:
    command = [program("offgrid"), "run", STARTER, "Tell me a story.", "--url", base_url,
               "--set", "ignore_eos=true"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        cwd="/", preexec_fn=heed_signals,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        assert child.wait(TIMEOUT) == 1
        assert b"Traceback" not in child.stderr.read()


# --- the chat -------------------------------------------------------------------------------------


def ask(screen: Terminal, line: str) -> str:
    """Type a line and wait for its answer and the next prompt; return the answer."""
    screen.say(line)
    # The line is shown when it is read, and the prompt again after the answer.
    return screen.find(rf"{re.escape(line)}\s*\n((?:.*\S.*\n)+)>>>")[1].strip()


def test_a_chat(terminal: Callable[..., Terminal], base_url: str, tmp_path: Path) -> None:
    screen = terminal(STARTER, "--url", base_url, *GREEDY)
    screen.find(rf"{STARTER}, the server at {base_url}\. /help shows the commands")
    screen.find(">>>")
    first = ask(screen, "Hello!")
    assert "system message: You are an otter." in ask(screen, "/system You are an otter.")
    assert "max_tokens 3" in ask(screen, "/set max_tokens 3")
    ask(screen, "What is 2 + 3?")
    screen.say("/help")
    line = screen.find(r"^(Enter sends .*)\n.*\n>>>")[1]
    assert 80 < len(line) <= 100  # the terminal has 100 columns
    # A mistake is explained and changes nothing.
    assert "/stem is not a command; did you mean /system?" in ask(screen, "/stem x")
    assert "must be between 0 and 2, not 9" in ask(screen, "/set temperature 9")
    # Several lines: with quotes, and with Alt-Enter.
    screen.say('"""first line')
    screen.find(r"\.\.\.")
    ask(screen, 'second line"""')
    screen.type("third" + ALT_ENTER)
    screen.find(r"\.\.\.")
    ask(screen, "fourth")
    ask(screen, "//slash")
    assert "saved to talk.json" in ask(screen, "/save talk.json")
    saved: dict[str, Any] = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    asked = [m["content"] for m in saved["messages"] if m["role"] == "user"]
    assert asked == [
        "Hello!", "What is 2 + 3?", "first line\nsecond line", "third\nfourth", "/slash",
    ]  # fmt: skip
    answers = [m["content"] for m in saved["messages"] if m["role"] == "assistant"]
    assert len(answers) == 5
    assert answers[0] == first
    assert (saved["model"], saved["system"]) == (STARTER, "You are an otter.")
    assert saved["options"] == {"temperature": 0.0, "max_tokens": 3}
    # The history reaches the model: the server gives the same answer to all of it.
    body = {"messages": [{"role": "system", "content": saved["system"]}, *saved["messages"][:-1]],
            **saved["options"]}  # fmt: skip
    told = request(base_url, "POST", "/v1/chat/completions", body).json
    assert told["choices"][0]["message"]["content"] == answers[-1]
    assert "a new conversation" in ask(screen, "/new")
    assert "no message to answer again" in ask(screen, "/again")
    assert "10 messages from talk.json" in ask(screen, "/load talk.json")
    again = ask(screen, "/again")
    assert again == f"{answers[-1]}\n(the answer ended at max_tokens or at the end of the context)"
    screen.type(CTRL_D)
    assert screen.wait() == 0


@pytest.mark.slow
def test_ctrl_c_stops_only_the_answer(
    terminal: Callable[..., Terminal], server: Server, base_url: str
) -> None:
    screen = terminal(STARTER, "--url", base_url, "--set", "ignore_eos=true", "-v")
    screen.find(">>>")
    screen.type(CTRL_C)
    screen.find("Ctrl-D or /bye ends")
    screen.say("Tell me a story.")
    screen.find(r"story\.\s+\w+")
    screen.type(CTRL_C)
    screen.find(r"\(stopped\)")
    (engine,) = server.pool.loaded()
    eventually(lambda: engine.in_flight == 0, "the server has stopped the answer")
    screen.say("/set ignore_eos false")
    screen.say("Hello!")
    screen.find(r"\d+ tokens, [\d.]+ tokens/s, first after [\d.]+ s, prompt of \d+ tokens")
    screen.say("/bye")
    assert screen.wait() == 0


@pytest.mark.slow
def test_a_chat_with_a_model_of_its_own(
    terminal: Callable[..., Terminal], tmp_path: Path, starter_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.gguf").symlink_to(starter_path)
    screen = terminal("one", "--models-dir", str(tmp_path), "--local")
    screen.find("one, loaded by this command")
    screen.say("/model")
    screen.find(r"\* one\n\s+two\n")
    screen.say("/model two")
    screen.find("two answers now")
    screen.say("/model three")
    screen.find("Model not found: three")
    screen.say("Tell me a story.")
    screen.find(r"story\.\s+\w+")
    screen.type(CTRL_C)
    screen.say("/bye")
    assert screen.wait() == 0


# --- what is typed during an answer ---------------------------------------------------------------


class Held:
    """A server that is held in the middle of an answer, by stopping its worker."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.client = server.pool.engine(STARTER)
        self.client.supervisor.watchdog.pong_within = 10 * TIMEOUT

    def hold(self) -> None:
        assert self.client.pid is not None
        os.kill(self.client.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.client.pid is not None
        os.kill(self.client.pid, signal.SIGCONT)


@pytest.fixture
def held(make_server: Callable[..., Server]) -> Iterator[Held]:
    made = Held(make_server())
    yield made
    made.go_on()


@pytest.mark.slow
def test_what_is_typed_during_an_answer_is_for_the_next_prompt(
    terminal: Callable[..., Terminal], held: Held
) -> None:
    screen = terminal(STARTER, "--url", held.url, "--set", "ignore_eos=true", "-n", "500")
    screen.find(">>>")
    screen.say("Tell me a story.")
    screen.find(r"story\.\s+\w+")
    held.hold()
    screen.type("/bzz\x7f\x7f")  # Backspace twice
    held.go_on()
    screen.find(r">>>\s*/b")
    answer = screen.text.rpartition("Tell me a story.")[2].partition(">>>")[0]
    assert "/b" not in answer
    screen.say("ye")
    assert screen.wait() == 0
    assert screen.echoes()


SHELL = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, setpgroup=0,
                       setsigdef=[signal.SIGTTOU])
os.tcsetpgrp(0, child)
while True:
    status = os.waitpid(child, os.WUNTRACED)[1]
    os.tcsetpgrp(0, os.getpgrp())
    print("echo is", bool(termios.tcgetattr(0)[3] & termios.ECHO), flush=True)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status) % 256)
    sys.stdin.readline()
    os.tcsetpgrp(0, child)
    os.kill(child, signal.SIGCONT)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 241)])
def test_ctrl_z_and_signals_restore_the_terminal(
    held: Held, tmp_path: Path, number: int, status: int
) -> None:
    """The shell gets it as it was, and the program silences it again when it goes on."""
    command = (program("offgrid"), "run", STARTER, "Tell me a story.", "--url", held.url,
               "--set", "ignore_eos=true")  # fmt: skip
    screen = Terminal(sys.executable, "-c", SHELL, *command, cwd=tmp_path)
    try:
        screen.find(r"\w+")
        held.hold()
        assert not screen.echoes()
        screen.type(CTRL_Z)
        screen.find("echo is True")
        assert screen.echoes()
        screen.type("fg\n")
        eventually(lambda: not screen.echoes(), "it goes on, and nothing is shown")
        os.kill(os.tcgetpgrp(screen.descriptor), number)
        screen.find("echo is True")
        assert screen.wait() == status
    finally:
        screen.end()
