"""A choice of a chat answer while it comes: its text taken apart, its stop strings, its end."""

from __future__ import annotations

from offgrid.chat.parser import AnswerParser, Content, Event
from offgrid.engine.protocol import Delta
from offgrid.sampling import TextStream


class Choice:
    """One choice while it comes.

    Attributes:
        finish_reason: None as long as there is more to come.
        reasoning_tokens: tokens so far that are reasoning, its markers included.
    """

    def __init__(self, parser: AnswerParser, stops: tuple[str, ...] = ()) -> None:
        self._parser = parser
        self._content = TextStream(stops) if stops else None
        self._stops = stops
        self.finish_reason: str | None = None
        self.reasoning_tokens = 0

    def read(self, delta: Delta) -> list[Event]:
        """Take in a delta of the engine; return what it adds. After the end that is nothing."""
        if self.finish_reason is not None:
            return []
        thinking = self._parser.thinking
        events = self._heed_stops(self._parser.feed(delta.text))
        if thinking or self._parser.thinking:
            self.reasoning_tokens = delta.completion_tokens
        if self._content is not None and self._content.finished:
            self.finish_reason = "stop"
        elif delta.finish_reason is not None or self._parser.done:
            events += self._heed_stops(self._parser.finish())
            events += self._rest()
            self.finish_reason = delta.finish_reason or "stop"
            if self.finish_reason == "stop" and self._parser.calls:
                self.finish_reason = "tool_calls"
        return events

    def _heed_stops(self, events: list[Event]) -> list[Event]:
        """Cut content before a stop string; what may become one is held back, up to a call."""
        if self._content is None:
            return events
        heeded: list[Event] = []
        for event in events:
            if self._content.finished:
                break
            if isinstance(event, Content):
                text = self._content.feed(event.text.encode())
                heeded += [Content(text)] if text else []
            else:
                heeded += [*self._rest(), event]
        return heeded

    def _rest(self) -> list[Event]:
        """Content that was held back."""
        if self._content is None or self._content.finished:
            return []
        text, self._content = self._content.flush(), TextStream(self._stops)
        return [Content(text)] if text else []
