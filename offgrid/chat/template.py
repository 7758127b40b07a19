"""Converts a chat's messages to prompt parts with the template in the model file.

Control tokens such as ``<|im_end|>`` may come only from the template itself, never from a user's
text. Therefore every string of the request is marked before rendering: a character that occurs
nowhere in the request is inserted into every control text, and into every text that could become
one together with neighbouring text. After rendering, an unmarked control text comes from the
template, and the marks are removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from jinja2 import TemplateError

from offgrid.chat.sandbox import Sandbox, TemplateLimit
from offgrid.engine.limits import check_text_size, utf8_size
from offgrid.engine.protocol import PromptPart
from offgrid.errors import ContextLengthExceeded, InvalidParameter
from offgrid.sampling import TextSet

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""For models whose file contains no template."""

_MARKS = [chr(code) for code in (*range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF, 0x1FFFE, 0x1FFFF)]
"""Unicode noncharacters: valid in text, but without any meaning."""
_WORD = re.compile(r"\w+")
_TYPED = re.compile(r"\btype\b")
_MAX_ERROR = 1000
_MAX_WORD = 256
"""Characters. Any word that templates look up is shorter."""
_NOT_COUNTED = frozenset({"role", "reasoning_content"})
"""Parts of a message that are not counted before rendering: most templates omit the reasoning of
earlier answers. The rendered parts are counted afterwards."""

Message = dict[str, Any]


class ChatTemplate:
    """The compiled template of one model. Thread-safe.

    Args:
        source: Jinja text, ``None`` for ChatML.
        bos: text of the token that begins a sequence.
        eos: text of the token that ends a sequence.
        control_texts: texts that only the template may write.
        n_ctx: tokens of the model's context, None for no limit.

    Raises:
        InvalidParameter: the template is not valid Jinja, or the control texts are too long.

    All state is created here, because threads share the object.
    """

    def __init__(
        self,
        source: str | None,
        bos: str,
        eos: str,
        control_texts: Sequence[str],
        n_ctx: int | None = None,
    ) -> None:
        self._variables = {"bos_token": bos, "eos_token": eos}
        self._n_ctx = n_ctx
        self._sandbox = Sandbox()
        self._scaffold = _Scaffold(control_texts)
        joined = "\0".join(control_texts)
        self._marks = [mark for mark in _MARKS if mark not in joined]
        source = CHATML if source is None else source
        try:
            self._template = self._sandbox.from_string(source)
        # Python's compiler can also fail: nesting, null bytes, numbers of a million digits.
        except Exception as ex:
            raise InvalidParameter(_words("is not valid", ex), "messages") from ex
        self._typed = bool(_TYPED.search(source)) and self._takes_only_parts()

    def render(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        *,
        ask: bool = True,
        resume: bool = False,
        variables: Message | None = None,
    ) -> tuple[PromptPart, ...]:
        """Return the prompt for the next answer.

        Args:
            messages: with ``role``, ``content`` and the other fields of the API. Developer messages
                become system messages for every template. A ``content`` is text, or a list of texts
                and image numbers, each of which becomes a separate part.
            tools: function descriptions, for templates that support tools.
            ask: whether to write the beginning of an answer after the last message.
            resume: end the prompt with the last message's content, so that the answer continues it.
            variables: further variables for this template, such as ``enable_thinking``.

        Raises:
            InvalidParameter: the template rejects the messages (with its own message) or fails.
            ContextLengthExceeded: the texts, or the rendered prompt, are too long for the context.
                The texts are measured before anything else is done.
        """
        self._check_texts(messages, tools)
        images = _images(messages)
        needed = 1 + resume + bool(images)
        free = (m for m in self._marks if not _contains([messages, tools, variables], m))
        marks = list(islice(free, needed))
        if len(marks) < needed:
            raise InvalidParameter("These messages use all Unicode noncharacters.", "messages")
        options = _Options(tools, ask and not resume, marks[1] if resume else "", variables or {})
        if images:
            messages = _quoted(messages, marks[-1])
        parts = self._write(messages, options, marks[0])
        return _with_images(parts, marks[-1], images) if images else parts

    def _check_texts(self, messages: Sequence[Message], tools: Any) -> None:
        """Refuse texts that are too long before any other work on them."""
        if self._n_ctx is not None:
            texts = [
                [value for key, value in message.items() if key not in _NOT_COUNTED]
                for message in messages
            ]
            check_text_size(_text_size([texts, tools]), self._n_ctx, "messages")

    def _write(
        self, messages: Sequence[Message], options: _Options, mark: str
    ) -> tuple[PromptPart, ...]:
        messages = [dict(m, role="system") if m["role"] == "developer" else m for m in messages]
        # Keep the message, not the exception, which holds this frame and so the whole request.
        words = ""
        for attempt in _attempts(messages):
            try:
                return self._render(attempt, options, mark)
            except ContextLengthExceeded:
                raise
            except Exception as ex:  # A template can raise any exception.
                words = words or _words("does not accept these messages", ex, mark)
                if isinstance(ex, TemplateLimit):
                    break
        raise InvalidParameter(words, "messages")

    def _render(
        self, messages: Sequence[Message], options: _Options, mark: str
    ) -> tuple[PromptPart, ...]:
        marked = [
            # Roles come from the API, and templates build control texts from them.
            {**self._scaffold.mark(message, mark), "role": message["role"]}
            for message in messages
        ]
        if options.end:
            marked[-1]["content"] = (marked[-1]["content"] or "") + options.end
        if self._typed:
            for message in marked:
                message["content"] = [{"type": "text", "text": message["content"] or ""}]
        text = self._sandbox.render_bounded(
            self._template,
            {
                **self._scaffold.mark(options.variables, mark),
                **self._variables,
                "messages": marked,
                "tools": self._scaffold.mark(options.tools, mark) if options.tools else None,
                "add_generation_prompt": options.ask,
            },
        )
        if options.end:
            text, found, _ = text.rpartition(options.end)
            if not found:
                raise TemplateError("it changes the last message, which cannot be continued")
        return self._parts(text, mark)

    def _parts(self, text: str, mark: str) -> tuple[PromptPart, ...]:
        """Return the parts of a rendered prompt, if the model's context can hold them."""
        most = len(text) if self._n_ctx is None else self._n_ctx
        parts = self._scaffold.split(text, mark, most)
        if parts is None:
            raise ContextLengthExceeded(
                f"The prompt has more than {most} control tokens; this model's context takes at "
                f"most {most} tokens.",
                "messages",
            )
        if self._n_ctx is not None:
            size = sum(utf8_size(part.text) for part in parts)
            check_text_size(size, self._n_ctx, "messages")
        return parts

    def _takes_only_parts(self) -> bool:
        """Return whether the template accepts content only as a list of typed parts."""
        needle = _MARKS[0]
        contents: tuple[Any, ...] = (needle, [{"type": "text", "text": needle}])
        as_text, as_parts = (self._writes(content, needle) for content in contents)
        return as_parts and not as_text

    def _writes(self, content: Any, needle: str) -> bool:
        messages = [{"role": "user", "content": content}]
        variables = {**self._variables, "messages": messages, "tools": None}
        try:
            text = self._sandbox.render_bounded(
                self._template, {**variables, "add_generation_prompt": True}
            )
        except Exception:  # A template can raise any exception.
            return False
        return needle in text


class _Options(NamedTuple):
    """Options of one rendering; ``end`` marks where the prompt must end, or is empty."""

    tools: list[dict[str, Any]] | None
    ask: bool
    end: str
    variables: Message


class _Scaffold:
    """The control texts of a model: marks them in a user's text, and finds them in a prompt."""

    def __init__(self, control_texts: Sequence[str]) -> None:
        try:
            self._texts = TextSet(text for text in control_texts if text)
        except ValueError as ex:
            raise InvalidParameter(f"The model's control tokens: {ex}.", "messages") from None

    def mark(self, value: Any, mark: str) -> Any:
        """Return a copy of a request's value in which no string can become a control text."""
        if isinstance(value, str):
            return self._mark_text(value, mark)
        if isinstance(value, dict):
            return {self.mark(k, mark): self.mark(item, mark) for k, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item, mark) for item in value]
        return value

    def split(self, text: str, mark: str, most: int) -> tuple[PromptPart, ...] | None:
        """Return the parts of a rendered prompt without the marks; None if there are too many.

        If one control text is the beginning of another, the longer one wins.
        """
        pieces = self._texts.split(text, mark, most)
        return None if pieces is None else tuple(PromptPart(*piece) for piece in pieces)

    def _mark_text(self, text: str, mark: str) -> str:
        """Put the mark after the first character of every actual or possible control text.

        A mark is never put before a text, where it would appear to mark the template's own text.
        """
        if text.isspace():
            return text
        marked, whole = self._texts.mark(text, mark)
        # Templates compare and look up words ("function", "content"), so words stay unchanged.
        if marked is not text and not whole and len(text) <= _MAX_WORD and _WORD.fullmatch(text):
            return _Word(text, marked)
        return marked


class _Word(str):
    """A word that could become a control text with its neighbours, marked when it is written.

    Other conversions by a template (``| upper``) lose the mark.
    """

    _marked: str

    def __new__(cls, text: str, marked: str) -> _Word:
        word = super().__new__(cls, text)
        word._marked = marked
        return word

    def __str__(self) -> str:
        return self._marked

    def __format__(self, spec: str) -> str:
        return format(self._marked, spec)

    def __add__(self, other: str) -> str:
        return self._marked + str(other)

    def __radd__(self, other: str) -> str:
        return other + self._marked


def _images(messages: Sequence[Message]) -> list[int]:
    """Return the numbers of all images, in order."""
    contents = [m["content"] for m in messages if isinstance(m["content"], list)]
    return [part for content in contents for part in content if isinstance(part, int)]


def _quoted(messages: Sequence[Message], quote: str) -> list[Message]:
    """Write the image numbers into the texts, between characters that occur in no text."""
    quoted = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = "".join(f"{quote}{p}{quote}" if isinstance(p, int) else p for p in content)
        quoted.append({**message, "content": content})
    return quoted


def _with_images(
    parts: Sequence[PromptPart], quote: str, images: Sequence[int]
) -> tuple[PromptPart, ...]:
    """Return the parts of a rendered prompt, with parts for the images whose numbers it quotes.

    Raises:
        InvalidParameter: the template has omitted or moved an image.
    """
    result: list[PromptPart] = []
    for part in parts:
        for place, text in enumerate(part.text.split(quote)):
            if place % 2:
                result.append(PromptPart("", False, _number(text)))
            elif text:
                result.append(PromptPart(text, part.special))
        if part.text.count(quote) % 2:
            result.append(
                PromptPart("", False, len(images))
            )  # An unpaired quote: an invalid number.
    if [part.image for part in result if part.image >= 0] != list(images):
        raise InvalidParameter(
            "The model's chat template does not write each image at its place.", "messages"
        )
    return tuple(result)


def _number(text: str) -> int:
    """Return the number of an image, or a number that is too large if the text is invalid."""
    return int(text) if len(text) < 4 and text.isascii() and text.isdigit() else 1 << 30


def _text_size(value: Any) -> int:
    """Return the UTF-8 bytes of all texts in lists and in values of objects."""
    if isinstance(value, str):
        return utf8_size(value)
    if isinstance(value, dict):
        return sum(map(_text_size, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_text_size, value))
    return 0


def _contains(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, dict):
        return any(_contains(k, text) or _contains(item, text) for k, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_contains(item, text) for item in value)
    return False


def _attempts(messages: list[Message]) -> Iterator[list[Message]]:
    """Yield the messages, then variants for stricter templates. No text is lost."""
    yield messages
    objects = [_with_objects(message) for message in messages]
    if objects != messages:
        yield objects
    simpler = _simplify(objects)
    if simpler != objects:
        yield simpler


def _simplify(messages: Sequence[Message]) -> list[Message]:
    """Return messages without a system role, and with alternating roles.

    System text goes before the user message that follows it; neighbouring messages of one role
    become one message.
    """
    turns: list[Message] = []
    texts: list[list[Any]] = []  # of each turn; joined at the end, as there may be thousands
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        last = turns[-1] if turns else None
        plain = role in ("user", "assistant") and not message.get("tool_calls")
        if last is not None and plain and last["role"] == role and not last.get("tool_calls"):
            texts[-1].append(message.get("content"))
        else:
            turns.append({**message, "role": role})
            texts.append([message.get("content")])
    return [
        turn if len(own) == 1 else {**turn, "content": "\n\n".join(filter(None, own))}
        for turn, own in zip(turns, texts, strict=True)
    ]


def _with_objects(message: Message) -> Message:
    """Return a message in which arguments given as text become an object with key "arguments"."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        if isinstance(function["arguments"], str):
            function = {**function, "arguments": {"arguments": function["arguments"]}}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def _words(what: str, error: BaseException, mark: str = "") -> str:
    words = str(error).replace(mark, "") if mark else str(error)
    if len(words) > _MAX_ERROR:
        words = words[:_MAX_ERROR] + " ..."
    return f"The model's chat template {what}: {words}"
