"""Whole answers, as typed objects that cannot be changed.

The API's answers (:mod:`offgrid.api.chat.shapes`, :mod:`offgrid.api.completions.shapes`) are
converted, so that an answer means the same here as over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET

from offgrid.api.chat.shapes import (
    AnswerToolCall,
    ChatChoice,
    ChatCompletion,
    ChatTokenLogprob,
)
from offgrid.api.completions.shapes import TextChoice, TextCompletion, TextLogprobs
from offgrid.api.shapes import Json, PromptLogprobs, Usage
from offgrid.api.timings import Timings
from offgrid.errors import IncompleteAnswer
from offgrid.inprocess.structure import Parse

T = TypeVar("T")


class _Parsed(Generic[T]):
    """What answers with a structure have in common."""

    text: str
    finish_reason: str
    parse: Parse | None

    @property
    def parsed(self) -> T:
        """The value of the answer, if the call had a ``schema``; None otherwise.

        Raises:
            IncompleteAnswer: ``max_tokens`` or the context ended the answer before its JSON did, or
                it called functions instead.
        """
        if self.parse is None:
            return None  # type: ignore[return-value] # T is None then
        try:
            return self.parse(self.text)  # type: ignore[no-any-return]
        except ValueError as ex:  # msgspec's, pydantic's and json's errors are ValueErrors
            raise IncompleteAnswer(_why(self.finish_reason, ex)) from ex


def _why(finish_reason: str, error: Exception) -> str:
    if finish_reason == "length":
        return (
            "The answer ended before its JSON was complete; raise max_tokens or ctx_size, or make "
            "the schema smaller (maxLength, maxItems)."
        )
    if finish_reason == "tool_calls":
        return "The answer calls functions and has no JSON; see its tool_calls."
    return f"The answer is no value of the schema's type: {error}"


@dataclass(frozen=True)
class ChatAnswerChoice(_Parsed[T]):
    """One of the ``n`` answers of a chat request.

    Attributes:
        text: what the model says to the user; empty if it only calls functions.
        reasoning: what it wrote between its reasoning markers.
        tool_calls: the functions that it calls, with arguments as JSON text.
        finish_reason: ``stop``, ``length`` or ``tool_calls``.
        logprobs: one entry for each token, if ``logprobs=True`` was given.
        message: the message, to be appended to the conversation.
    """

    text: str
    reasoning: str
    tool_calls: tuple[AnswerToolCall, ...]
    finish_reason: str
    logprobs: tuple[ChatTokenLogprob, ...]
    message: Json
    parse: Parse | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True)
class ChatAnswer(Generic[T]):
    """The answer to a chat request. The properties are those of its first choice.

    Attributes:
        choices: the ``n`` choices.
        usage: tokens of the prompt and of all choices.
        seed: the seed in force; the same seed gives the same answer again.
        timings: how long prompt and answers took.
        prompt_logprobs: as in the API, if they were asked for.
    """

    choices: tuple[ChatAnswerChoice[T], ...]
    usage: Usage
    seed: int
    timings: Timings
    prompt_logprobs: PromptLogprobs | None = None

    def __str__(self) -> str:
        """Return the text of the first choice."""
        return self.text

    @property
    def text(self) -> str:
        """What the model says to the user."""
        return self.choices[0].text

    @property
    def reasoning(self) -> str:
        """What the model wrote between its reasoning markers."""
        return self.choices[0].reasoning

    @property
    def tool_calls(self) -> tuple[AnswerToolCall, ...]:
        """The functions that the model calls."""
        return self.choices[0].tool_calls

    @property
    def finish_reason(self) -> str:
        """Why the answer ended: ``stop``, ``length`` or ``tool_calls``."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[ChatTokenLogprob, ...]:
        """One entry for each token, if ``logprobs=True`` was given."""
        return self.choices[0].logprobs

    @property
    def message(self) -> Json:
        """The message, to be appended to the conversation."""
        return self.choices[0].message

    @property
    def parsed(self) -> T:
        """The value of the answer, if the call had a ``schema``; None otherwise.

        Raises:
            IncompleteAnswer: the answer ended before its JSON did, or it calls functions.
        """
        return self.choices[0].parsed


def chat_answer(body: Json, seed: int, parse: Parse | None) -> ChatAnswer[Any]:
    """Return an answer of the API typed."""
    answer = msgspec.convert(body, ChatCompletion)
    pairs = zip(answer.choices, body["choices"], strict=True)
    choices = tuple(_chat_choice(choice, raw, parse) for choice, raw in pairs)
    scores = None if answer.prompt_logprobs is UNSET else answer.prompt_logprobs
    return ChatAnswer(choices, answer.usage, seed, answer.timings, scores)


def _chat_choice(choice: ChatChoice, raw: Json, parse: Parse | None) -> ChatAnswerChoice[Any]:
    message = choice.message
    return ChatAnswerChoice(
        text=message.content or "",
        reasoning="" if message.reasoning_content is UNSET else message.reasoning_content,
        tool_calls=() if message.tool_calls is UNSET else tuple(message.tool_calls),
        finish_reason=choice.finish_reason,
        logprobs=() if choice.logprobs is None else tuple(choice.logprobs.content),
        message={
            name: value for name, value in raw["message"].items() if value or name == "content"
        },
        parse=parse,
    )


@dataclass(frozen=True)
class Completion(_Parsed[T]):
    """One continuation of a text.

    Attributes:
        text: the continuation, after the prompt itself if ``echo=True`` was given.
        finish_reason: ``stop`` or ``length``.
        logprobs: four lists with an entry for each token, if ``logprobs`` was given.
        prompt_logprobs: as in the API, if they were asked for.
    """

    text: str
    finish_reason: str
    logprobs: TextLogprobs | None = None
    prompt_logprobs: PromptLogprobs | None = None
    parse: Parse | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True)
class CompletionAnswer(Generic[T]):
    """The continuations of one prompt. The properties are those of its first choice.

    Attributes:
        choices: the ``n`` choices; with ``best_of`` the best first.
        usage: tokens of all prompts and choices of the call.
        seed: the seed in force; the same seed gives the same answer again.
        timings: how long all prompts and choices of the call took.
    """

    choices: tuple[Completion[T], ...]
    usage: Usage
    seed: int
    timings: Timings

    def __str__(self) -> str:
        """Return the text of the first choice."""
        return self.text

    @property
    def text(self) -> str:
        """The continuation."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> str:
        """Why it ended: ``stop`` or ``length``."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> TextLogprobs | None:
        """Four lists with an entry for each token, if ``logprobs`` was given."""
        return self.choices[0].logprobs

    @property
    def parsed(self) -> T:
        """The value of the answer, if the call had a ``schema``; None otherwise.

        Raises:
            IncompleteAnswer: the answer ended before its JSON did.
        """
        return self.choices[0].parsed


def completion_answers(
    body: Json, n: int, seed: int, parse: Parse | None
) -> list[CompletionAnswer[Any]]:
    """Return an answer of the API typed, one for each prompt.

    Args:
        body: the answer, with ``n`` choices for each prompt.
        n: see ``body``.
        seed: the seed in force.
        parse: makes the value from a text.
    """
    answer = msgspec.convert(body, TextCompletion)
    choices = [_completion(choice, parse) for choice in answer.choices]
    return [
        CompletionAnswer(tuple(choices[begin : begin + n]), answer.usage, seed, answer.timings)
        for begin in range(0, len(choices), n)
    ]


def _completion(choice: TextChoice, parse: Parse | None) -> Completion[Any]:
    scores = None if choice.prompt_logprobs is UNSET else choice.prompt_logprobs
    return Completion(choice.text, choice.finish_reason, choice.logprobs, scores, parse)
