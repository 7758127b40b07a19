"""The answer to a ``/v1/messages`` request: content blocks that grow, and the events that report
them.

One writer serves both forms: a stream sends the events; a whole answer is the message that they
have built.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import msgspec

from offgrid.api.anthropic.request import ChatForm
from offgrid.api.anthropic.signature import Signer
from offgrid.api.chat.answer import read_choices
from offgrid.api.chat.choice import Choice
from offgrid.api.chat.prompt import ChatPrompt
from offgrid.api.fields.bounds import answer_limit
from offgrid.api.fields.tiers import Tier
from offgrid.api.generation import GenerationGroup, Total
from offgrid.api.http.sse import Chunk
from offgrid.api.shapes import Json
from offgrid.chat.answer_parser import AnswerEvent, CallArguments, CallStart, Content, Reasoning
from offgrid.errors import RequestError

_TIERS: dict[Tier, str] = {"priority": "priority", "default": "standard", "flex": "batch"}
_REFUSED = "The answer contained text that the content filter of this server does not allow."


class MessageWriter:
    """Writes one message.

    Args:
        form: the request in the form of a chat request.
        model: id of the model.
        context: tokens of its context.
        prompt: the conversation in the model's dialect.
        group: its generation, with one choice.
        signer: signs reasoning.

    Attributes:
        message: the message in its current state.
    """

    def __init__(
        self,
        form: ChatForm,
        model: str,
        context: int,
        prompt: ChatPrompt,
        group: GenerationGroup,
        signer: Signer,
    ) -> None:
        self._form = form
        self._prompt = prompt
        self._group = group
        self._signer = signer
        self._total = Total()
        (self._choice,) = prompt.choices()
        self._limit = answer_limit(form.chat.token_limit)
        self._context = context
        self._text: list[str] = []
        """The text of the open block."""
        self._open: Json | None = None
        self.message: Json = {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {},
        }

    def complete(self) -> Json:
        """Wait for the answer and return the finished message.

        Raises:
            RequestError: the model could not finish the answer.
        """
        for _ in self._events(whole=True):
            pass
        self._group.cancel()
        return self.message

    def stream(self) -> Iterator[Chunk]:
        """Yield the events of a stream.

        Raises:
            RequestError: the model could not finish the answer.
        """
        try:
            yield from self._events()
        except RequestError as ex:
            raise self._form.renamed(ex) from ex
        end = {"stop_reason": self.message["stop_reason"],
               "stop_sequence": self.message["stop_sequence"]}  # fmt: skip
        if "stop_details" in self.message:
            end["stop_details"] = self.message["stop_details"]
        last = {"type": "message_delta", "delta": end, "usage": self.message["usage"]}
        if "context_management" in self.message:
            last["context_management"] = self.message["context_management"]
        yield last
        yield {"type": "message_stop"}

    def _events(self, *, whole: bool = False) -> Iterator[Chunk]:
        """Yield the events before the end of the message; None if no delta came lately."""
        choice = self._choice
        begun = False
        for item in read_choices(self._prompt, self._group, self._total, [choice], whole=whole):
            if item is None:
                yield None
                continue
            _, delta, events = item
            if not begun:
                begun = True
                self.message["usage"] = self._usage(delta.cached_tokens)
                shown = {**self.message, "content": []}
                yield {"type": "message_start", "message": shown}
            for event in events:
                yield from self._add(event)
        yield from self._close()
        self.message["usage"] = self._usage(self._cached)
        self._end(choice)

    @property
    def _cached(self) -> int:
        details = self._total.usage(0)["prompt_tokens_details"]
        assert isinstance(details, dict)
        return int(details["cached_tokens"])

    def _usage(self, cached: int) -> Json:
        """Return the tokens so far. Every new token of a prompt is cached without being asked."""
        usage = self._total.usage(0)
        return {
            "input_tokens": self._group.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"thinking_tokens": self._choice.reasoning_tokens},
            "service_tier": _TIERS[self._form.chat.tier],
        }

    def _end(self, choice: Choice) -> None:
        """Note why the message has ended."""
        message, reason = self.message, choice.finish_reason
        if reason == "tool_calls":
            message["stop_reason"] = "tool_use"
        elif reason == "length":
            tokens = message["usage"]["output_tokens"]
            # Anthropic's API has no reason for other limits, such as t_max_predict_ms.
            asked = self._limit is not None and tokens >= self._limit
            full = not asked and self._group.prompt_tokens + tokens >= self._context
            message["stop_reason"] = "model_context_window_exceeded" if full else "max_tokens"
        elif reason == "content_filter":
            message["stop_reason"] = "refusal"
            details = {"type": "refusal", "category": None, "explanation": _REFUSED}
            message["stop_details"] = details
        elif choice.stopped_by:
            message["stop_reason"] = "stop_sequence"
            message["stop_sequence"] = choice.stopped_by
        else:
            message["stop_reason"] = "end_turn"
        if self._form.request.context_management is not None:
            message["context_management"] = {"applied_edits": []}

    def _add(self, event: AnswerEvent) -> Iterator[Json]:
        """Add an event's text to the open block, or begin a new block with it."""
        request = self._form.request
        if isinstance(event, Reasoning) and not request.thinks:
            return
        if isinstance(event, CallStart):
            id = f"toolu_{secrets.token_hex(12)}"
            yield from self._begin({"type": "tool_use", "id": id, "name": event.name, "input": {}})
            return
        if isinstance(event, CallArguments):
            delta = {"type": "input_json_delta", "partial_json": event.text}
        elif isinstance(event, Content):
            if not event.text:
                return
            if self._open is None or self._open["type"] != "text":
                yield from self._begin({"type": "text", "text": ""})
            delta = {"type": "text_delta", "text": event.text}
        else:
            if self._open is None or self._open["type"] != "thinking":
                yield from self._begin({"type": "thinking", "thinking": "", "signature": ""})
            delta = {"type": "thinking_delta", "thinking": event.text}
        self._text.append(event.text)
        if event.text and not (isinstance(event, Reasoning) and request.hides_thinking):
            yield self._event("content_block_delta", delta=delta)

    def _begin(self, block: Json) -> Iterator[Json]:
        yield from self._close()
        self._open = block
        self.message["content"].append(block)
        yield self._event("content_block_start", content_block={**block})

    def _close(self) -> Iterator[Json]:
        """Finish the open block."""
        block, text = self._open, "".join(self._text)
        if block is None:
            return
        if block["type"] == "text":
            block["text"] = text
        elif block["type"] == "tool_use":
            block["input"] = _input(text)
        else:
            hidden = self._form.request.hides_thinking
            block["thinking"] = "" if hidden else text
            block["signature"] = self._signer.sign(text, packed=hidden)
            delta = {"type": "signature_delta", "signature": block["signature"]}
            yield self._event("content_block_delta", delta=delta)
        yield self._event("content_block_stop")
        self._open, self._text = None, []

    def _event(self, kind: str, **fields: Json) -> Json:
        return {"type": kind, "index": len(self.message["content"]) - 1, **fields}


def _input(text: str) -> Json:
    """Return the arguments of a call; empty if the answer was cut within them."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
