"""A choice of a chat answer while it is generated: its parsed text, its stop strings, its end."""

from __future__ import annotations

from offgrid.chat.answer_parser import AnswerEvent, AnswerParser, CallStart, Content
from offgrid.engine.protocol.events import Delta
from offgrid.sampling import TextStream


class Choice:
    """One choice while it is generated.

    Args:
        parser: parses the text that the engine generates.
        stops: stop strings that act on content, but neither on reasoning nor on calls. Empty if the
            engine looks for them in the whole text.

    Attributes:
        finish_reason: None until the choice ends.
        stopped_by: the stop string that ended the choice, or an empty string.
        reasoning_tokens: number of tokens so far that are reasoning, including its markers.
    """

    def __init__(self, parser: AnswerParser, stops: tuple[str, ...] = ()) -> None:
        self._parser = parser
        self._content = TextStream(stops) if stops else None
        self._stops = stops
        self._is_fresh = True
        """Whether no content was read since the last reasoning or call."""
        self._called = False
        """Whether a call has begun, before any stop string."""
        self.finish_reason: str | None = None
        self.stopped_by = ""
        self.reasoning_tokens = 0

    def read(self, delta: Delta) -> list[AnswerEvent]:
        """Parse a delta of the engine; return the events that it adds, none after the end."""
        if self.finish_reason is not None:
            return []
        thinking = self._parser.thinking
        events = self._heed_stops(self._parser.feed(delta.text))
        if thinking or self._parser.thinking:
            self.reasoning_tokens = delta.completion_tokens
        if not self._stopped and (delta.finish_reason is not None or self._parser.done):
            events += self._heed_stops(self._parser.finish())
            events += self._rest()
            self.finish_reason = delta.finish_reason or "stop"
            self.stopped_by = delta.stopped_by
        if self._content is not None and self._content.finished:
            self.finish_reason = "stop"
            self.stopped_by = str(self._content.stop_reason or "")
        if self.finish_reason == "stop" and self._parser.calls and self._called:
            self.finish_reason = "tool_calls"
        return events

    @property
    def _stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._content is not None and self._content.finished

    def _heed_stops(self, events: list[AnswerEvent]) -> list[AnswerEvent]:
        """Cut content before a stop string; hold back text that may become one until reasoning or a
        call follows."""
        heeded: list[AnswerEvent] = []
        for event in events:
            if self._stopped:
                break
            self._called = self._called or isinstance(event, CallStart)
            if self._content is None:
                heeded.append(event)
            elif isinstance(event, Content):
                self._is_fresh = False
                text = self._content.feed(event.text.encode())
                heeded += [Content(text)] if text else []
            else:
                heeded += [*self._rest(), event]
        return heeded

    def _rest(self) -> list[AnswerEvent]:
        """Return the content that was held back: no stop string reaches beyond it."""
        if self._content is None or self._is_fresh or self._stopped:
            return []
        text, self._content = self._content.flush(), TextStream(self._stops)
        self._is_fresh = True
        return [Content(text)] if text else []
