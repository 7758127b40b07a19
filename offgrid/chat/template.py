"""Converts a chat's messages to prompt parts with the template in the model file.

Texts of the request are marked before rendering, so that none of them becomes a control token
(:mod:`offgrid.chat.scaffold`). If a template refuses a conversation, variants of it are tried
(:mod:`offgrid.chat.variants`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from offgrid.chat.budget import Budget, TemplateLimit, budget_for
from offgrid.chat.child import RENDERER
from offgrid.chat.conventions import REASONING_PART, Conventions, Message, find_conventions
from offgrid.chat.image_places import images_of, quoted, with_images, with_moved_images
from offgrid.chat.sandbox import Sandbox, Uninterruptible
from offgrid.chat.scaffold import Scaffold
from offgrid.chat.tools import completed
from offgrid.chat.variants import variants
from offgrid.engine.context_length import check_text_size, utf8_size
from offgrid.engine.protocol.requests import PromptPart
from offgrid.errors import ContextLengthExceeded, InvalidParameter

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""For models whose file contains no template, or an empty one."""
_CHATML_NAMES = ("", "chatml")
"""Templates that stand for ChatML, as in llama.cpp."""

_TOOLS = re.compile(r"\btools\b")
_MAX_ERROR = 1000
_NOT_COUNTED = frozenset({"role", "reasoning_content"})
"""Parts of a message that are not counted before rendering: most templates omit the reasoning of
earlier answers. The rendered parts are counted afterwards."""
_PROBE_STEPS, _PROBE_TEXT = 60_000, 16 * 1024 * 1024
_PROBE_SECONDS = 2.0
_PROBE_OUTPUT = 16 * 1024
"""The work that all probes of a template together may do. Real templates need up to 13,000 steps, 2
million characters and some hundredths of a second, and write up to 7,200 characters in one probe.
What a probe writes is read by the parsers of all families, so longer texts count as refused."""
_DOCUMENTS = """\
# Documents
Answer with the help of these documents:
<documents>
{documents}
</documents>"""


class ChatTemplate:
    """The compiled template of one model. Thread-safe.

    Args:
        source: Jinja text; ``None``, "" or "chatml" for ChatML.
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
        self._in_child = False
        """Whether the template was seen to use operations that only the renderer's process runs."""
        self._scaffold = Scaffold(control_texts)
        source = CHATML if source is None or source.strip() in _CHATML_NAMES else source
        self._source = source
        try:
            self._template = self._sandbox.from_string(source)
        # Python's compiler can also fail: nesting, null bytes, numbers of a million digits.
        except Exception as ex:
            raise InvalidParameter(_words("is not valid", ex), "messages") from ex
        self._reads_tools = bool(_TOOLS.search(source))
        self._probing = Budget(_PROBE_STEPS, _PROBE_TEXT, _PROBE_SECONDS)
        self.conventions: Conventions = find_conventions(self._probe)

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
            variables: further variables for this template, such as ``enable_thinking``. If the
                template does not write ``documents``, the system message contains them.

        Raises:
            InvalidParameter: the template rejects the messages (with its own message) or fails.
            ContextLengthExceeded: the texts, or the rendered prompt, are too long for the context.
                The texts are measured before anything else is done.
        """
        variables = dict(variables or {})
        documents = variables.get("documents")
        self._check_texts(messages, [tools, documents])
        if isinstance(documents, list) and documents and not self.conventions.writes_documents:
            messages = _with_documents(messages, variables.pop("documents"))
        images = images_of(messages)
        needed = 1 + resume + bool(images)
        marks = self._scaffold.free_marks([messages, tools, variables], needed)
        if tools and self.conventions.needs_full_tools:
            tools = [completed(tool) for tool in tools]
        options = _Options(tools, ask and not resume, marks[1] if resume else "", variables)
        if not images:
            return self._write(messages, options, marks[0])
        try:
            parts = self._write(quoted(messages, marks[-1]), options, marks[0])
            return with_images(parts, marks[-1], images)
        except ContextLengthExceeded:
            raise
        except InvalidParameter:
            moved = with_moved_images(messages)
            if moved == messages:
                raise
        parts = self._write(quoted(moved, marks[-1]), options, marks[0])
        return with_images(parts, marks[-1], images)

    def _check_texts(self, messages: Sequence[Message], more: Any) -> None:
        """Refuse texts that are too long before any other work on them."""
        if self._n_ctx is not None:
            texts = [
                [value for key, value in message.items() if key not in _NOT_COUNTED]
                for message in messages
            ]
            check_text_size(_text_size([texts, more]), self._n_ctx, "messages")

    def _write(
        self, messages: Sequence[Message], options: _Options, mark: str
    ) -> tuple[PromptPart, ...]:
        messages = [_normal(message) for message in messages]
        # Keep the message, not the exception, which holds this frame and so the whole request.
        words = ""
        budget = budget_for(messages, options)
        for variant in variants(messages, self.conventions):
            try:
                return self._render(variant, options, mark, budget)
            except ContextLengthExceeded:
                raise
            except Exception as ex:  # A template can raise any exception.
                words = words or _words("does not accept these messages", ex, mark)
                if isinstance(ex, TemplateLimit) or budget.spent:
                    break
        raise InvalidParameter(words, "messages")

    def _render(
        self, messages: Sequence[Message], options: _Options, mark: str, budget: Budget
    ) -> tuple[PromptPart, ...]:
        forms = self.conventions
        if forms.text_arguments:
            messages = [_with_text_arguments(message) for message in messages]
        marked = [
            # Roles come from the API, and templates build control texts from them.
            {**self._scaffold.mark(message, mark), "role": message["role"]}
            for message in messages
        ]
        if options.end:
            marked[-1]["content"] += options.end
        for message in marked:
            _adapt(message, forms)
        variables = {
            **self._scaffold.mark(options.variables, mark),
            "messages": marked,
            "add_generation_prompt": options.ask,
        }
        if options.tools:
            variables["tools"] = self._scaffold.mark(options.tools, mark)
        text = self._text(variables, budget)
        if options.end:
            text, found, _ = text.rpartition(options.end)
            if not found:
                raise TemplateError("it changes the last message, which cannot be continued")
        return self._parts(text, mark)

    def _text(self, variables: dict[str, Any], budget: Budget) -> str:
        """Render the template. If there are no tools, they are None, as in transformers; if that
        fails, undefined, as in llama.cpp: some templates only check that they are defined."""
        variables = {**variables, **self._variables}
        if "tools" in variables:
            return self._written(variables, budget)
        try:
            none = {**variables, "tools": None}
            return self._written(none, budget)
        except TemplateLimit:
            raise
        except Exception:  # A template can raise any exception.
            if not self._reads_tools:
                raise
        return self._written(variables, budget)

    def _written(self, variables: dict[str, Any], budget: Budget) -> str:
        """Render the template; if it uses uncommon operations, in the renderer's process."""
        if not self._in_child:
            try:
                return self._sandbox.render_bounded(self._template, variables, budget)
            except Uninterruptible:
                self._in_child = True
        return RENDERER.render(self._source, variables, budget)

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

    def probe(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        *,
        ask: bool = True,
        variables: Message | None = None,
    ) -> str | None:
        """Return what the template writes for a short conversation, exactly as it is.

        No variant is tried, and texts are not marked. The work of all probes of a template is
        bounded; those after it return None.

        Args:
            messages: as for :meth:`render`.
            tools: function descriptions.
            ask: whether to write the beginning of an answer.
            variables: further variables.
        """
        written = [_normal(message) for message in messages]
        if self.conventions.text_arguments:
            written = [_with_text_arguments(message) for message in written]
        for message in written:
            _adapt(message, self.conventions)
        given = {**(variables or {}), "messages": written, "add_generation_prompt": ask}
        return self._probe({**given, "tools": tools} if tools else given)

    def _probe(self, variables: dict[str, Any]) -> str | None:
        """Return what the template writes for a short conversation; None if it refuses it."""
        if self._probing.spent:
            return None
        try:
            text = self._text(variables, self._probing)
        except Exception:  # A template can raise any exception.
            return None
        return text if len(text) <= _PROBE_OUTPUT else None


class _Options(NamedTuple):
    """Options of one rendering; ``end`` marks where the prompt must end, or is empty."""

    tools: list[dict[str, Any]] | None
    ask: bool
    end: str
    variables: Message


def _text_size(value: Any) -> int:
    """Return the UTF-8 bytes of all texts in lists and in values of objects."""
    if isinstance(value, str):
        return utf8_size(value)
    if isinstance(value, dict):
        return sum(map(_text_size, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_text_size, value))
    return 0


def _normal(message: Message) -> Message:
    role = "system" if message["role"] == "developer" else message["role"]
    return {**message, "role": role, "content": message["content"] or ""}


def _with_documents(messages: Sequence[Message], documents: Sequence[Any]) -> list[Message]:
    lines = "\n".join(json.dumps(document, ensure_ascii=False) for document in documents)
    text = _DOCUMENTS.format(documents=lines)
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]


def _with_text_arguments(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        if not isinstance(function["arguments"], str):
            text = json.dumps(function["arguments"], ensure_ascii=False)
            function = {**function, "arguments": text}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def _adapt(message: Message, forms: Conventions) -> None:
    """Bring a message into the form that the template reads, in place."""
    text = {"type": "text", "text": message["content"]}
    if forms.null_content and message.get("tool_calls") and not message["content"]:
        message["content"] = None
    elif forms.typed:
        message["content"] = [text]
    if forms.reasoning == "reasoning_content" or "reasoning_content" not in message:
        return
    reasoning = message.pop("reasoning_content")
    if forms.reasoning != REASONING_PART:
        message[forms.reasoning] = reasoning
    elif reasoning:
        thinking = {"type": "thinking", "thinking": reasoning}
        message["content"] = [thinking, text] if text["text"] else [thinking]


def _words(what: str, error: BaseException, mark: str = "") -> str:
    words = str(error).replace(mark, "") if mark else str(error)
    if len(words) > _MAX_ERROR:
        words = words[:_MAX_ERROR] + " ..."
    return f"The model's chat template {what}: {words}"
