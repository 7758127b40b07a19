"""What the commands print: answers on standard output, everything else on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console

from offgrid.api.shapes import Json
from offgrid.chat.answer_parser import AnswerEvent, Content, Reasoning
from offgrid.inprocess.stream import ChatCollector
from offgrid.terminal import shown, shown_text

_COUNTED = ("completion_tokens", "prompt_tokens")


def is_terminal() -> bool:
    """Whether a person reads standard output and types on standard input."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class Screen:
    """Prints answers.

    Args:
        verbose: whether the speed is printed after each answer.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        plain = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
        self._out = Console(**plain)  # type: ignore[arg-type]
        self._err = Console(stderr=True, **plain)  # type: ignore[arg-type]
        self._to_person = sys.stdout.isatty()

    def note(self, text: str) -> None:
        """Print a line about the command itself."""
        self._tell(shown_text(text), "dim")

    def error(self, text: str) -> None:
        """Print an error."""
        self._tell(f"offgrid: {shown(text)}", "red")

    def _tell(self, text: str, style: str) -> None:
        """Print a text in lines that fit the terminal; a pipe gets it unbroken."""
        self._err.print(text, style=style, soft_wrap=not self._err.is_terminal)

    def hint(self, text: str) -> None:
        """Print a note, unless standard error or standard input is no terminal."""
        if sys.stderr.isatty() and sys.stdin.isatty():
            self.note(text)

    def show(self, text: str) -> None:
        """Print lines that were asked for; in a terminal they are broken between words."""
        self._out.print(shown_text(text), soft_wrap=not self._to_person)

    def answer(self, chunks: Iterable[Json], collector: ChatCollector) -> None:
        """Print an answer while it comes; a terminal also shows its reasoning, dimmed.

        After an exception, such as that of Ctrl-C, the line is ended too.
        """
        speed = Speed()
        printer = _Printer(self._out if self._to_person else None)
        try:
            for chunk in chunks:
                for event in collector.add(chunk):
                    speed.heard()
                    printer.add(event)
        finally:
            printer.end()
        if self._verbose:
            self.note(speed.line(collector.usage or {}))

    def text(self, text: str) -> None:
        """Print a piece of a continuation."""
        sys.stdout.write(shown_text(text) if self._to_person else text)
        sys.stdout.flush()

    def speed(self, speed: Speed, usage: Json) -> None:
        """Print the speed of a continuation, if it is wanted."""
        if self._verbose:
            self.note(speed.line(usage))


class _Printer:
    """Prints the events of one answer.

    Args:
        terminal: None if a program reads the answer: it gets the content and nothing else.
    """

    def __init__(self, terminal: Console | None) -> None:
        self._terminal = terminal
        self._last: type[AnswerEvent] | None = None
        self._ended = True
        """Whether the last character was a line end."""

    def add(self, event: AnswerEvent) -> None:
        if not isinstance(event, (Content, Reasoning)):
            return
        if self._terminal is None:
            if isinstance(event, Content):
                sys.stdout.write(event.text)
                sys.stdout.flush()
                self._ended = event.text.endswith("\n")
            return
        text = shown_text(event.text)
        if self._last is Reasoning and isinstance(event, Content):
            text = ("\n" if self._ended else "\n\n") + text.lstrip("\n")
        style = "dim" if isinstance(event, Reasoning) else None
        self._terminal.print(text, end="", style=style)
        self._last, self._ended = type(event), text.endswith("\n")

    def end(self) -> None:
        """End the last line."""
        if not self._ended:
            sys.stdout.write("\n")
            sys.stdout.flush()


class Speed:
    """Measures how fast an answer comes, as its reader sees it."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._first: float | None = None
        self._last = self._begin

    def heard(self) -> None:
        """Note that a piece of the answer has come."""
        self._last = time.monotonic()
        self._first = self._first or self._last

    def line(self, usage: Json) -> str:
        """Return one line about the answer; ``usage`` has its tokens, or is empty."""
        return ", ".join(self._parts(usage))

    def _parts(self, usage: Json) -> Iterator[str]:
        answer, prompt = (int(usage.get(name) or 0) for name in _COUNTED)
        yield f"{answer} tokens"
        first = self._first or self._last
        if answer > 1 and self._last > first:
            # The first token comes with the prompt; the time after it is for the others.
            yield f"{(answer - 1) / (self._last - first):.1f} tokens/s"
        yield f"first after {first - self._begin:.2f} s"
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        yield f"prompt of {prompt} tokens ({cached} cached)"
