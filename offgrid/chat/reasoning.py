"""What the engine must know to limit a model's reasoning: where it begins, and how it is ended."""

from __future__ import annotations

import re
from dataclasses import dataclass

from offgrid.chat.answer_parser import AnswerForm
from offgrid.chat.formats import Channels, ReasoningFormat
from offgrid.chat.literals import MAX_HEAD
from offgrid.engine.protocol.requests import ReasoningBudget


@dataclass(frozen=True)
class ReasoningPlaces:
    """Where reasoning stands in the answers of one model.

    Attributes:
        first, later, ends, close: see :class:`~offgrid.engine.protocol.requests.ReasoningBudget`.
        content: what follows ``close`` before content, if something must. Without it, the model
            chooses between reasoning, content and a call.
        call: what follows ``close`` before the name of a function, where that is known.
    """

    first: str
    later: str
    ends: tuple[str, ...]
    close: str
    content: str = ""
    call: str = ""

    def budget(
        self, tokens: int, param: str, *, opened: bool, offered: bool, required: bool
    ) -> ReasoningBudget:
        """Return a limit of the reasoning of one answer.

        Args:
            tokens: the limit.
            param: the request field that sets it.
            opened: whether the prompt has opened reasoning.
            offered: whether the answer may call functions.
            required: whether it must.
        """
        next_message = self.call if required else self.content
        return ReasoningBudget(
            tokens,
            opened,
            self.first,
            self.ends,
            self.close if offered else self.close + self.content,
            self.later,
            self.close + next_message,
            param,
        )


def reasoning_places(form: AnswerForm, closing: str) -> ReasoningPlaces | None:
    """Return where reasoning stands in answers; None for a model without reasoning.

    Args:
        form: how the model writes answers.
        closing: what the template writes between reasoning and content; empty if not known.
    """
    if form.channels is not None:
        return _in_channels(form, form.channels) if form.channels.reasoning_begin else None
    if form.reasoning is None:
        return None
    return _between_markers(form.reasoning, closing)


def _between_markers(form: ReasoningFormat, closing: str) -> ReasoningPlaces:
    begin = re.escape(form.begin.strip())
    return ReasoningPlaces(
        rf"\s*{begin}",
        begin if form.repeated else "",
        (form.end.strip(),),
        closing or form.end + form.after,
    )


def _in_channels(form: AnswerForm, channels: Channels) -> ReasoningPlaces:
    end = re.escape(channels.header_end)
    header = f"(?:{channels.reasoning})(?:(?!{end}).){{0,{MAX_HEAD}}}{end}"
    begin = re.escape(channels.begin)
    # A header may also stand without the text that usually begins a message.
    alone = [f"(?={re.escape(text)})" for text in form.headers if text != channels.begin]
    starts = "|".join([begin, *alone])
    call = channels.call_begins[-1].partition("{name}")[0] if channels.call_begins else ""
    return ReasoningPlaces(
        f"(?:{begin})?{header}",
        f"(?:{starts}){header}",
        tuple(sorted({*channels.ends, *form.headers})),
        channels.reasoning_end,
        channels.content_begin,
        call,
    )
