"""The prompt of decisions: the input, and where questions and answers stand in it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from offgrid.api.chat.dialects import DIALECTS
from offgrid.api.chat.prompt import ChatPrompt, chat_prompt
from offgrid.api.chat.request import ChatRequest, parse_chat
from offgrid.api.decisions.wording import Wording
from offgrid.api.shapes import Json
from offgrid.engine.client.client import EngineClient
from offgrid.engine.protocol.requests import Branch, GenerationRequest, PromptPart
from offgrid.errors import InvalidParameter

Parts = tuple[PromptPart, ...]


class Frame(NamedTuple):
    """A prompt in which questions are put one after another.

    Attributes:
        chat: the conversation, for the fields that all requests have.
        before: what the model reads before a question: the input.
        after: what it reads between a question and its answer.
        lead: what it writes before an answer.
        end: what it writes after an answer; empty if that is an end token.
        images: the image files; ``image_params`` names the field of each in the chat request.
        plain: whether the model has no chat template.
    """

    chat: ChatRequest
    before: Parts
    after: Parts
    lead: str = ""
    end: str = ""
    images: tuple[bytes, ...] = ()
    image_params: tuple[str, ...] = ()
    plain: bool = False

    def branch(self, wording: Wording, param: str) -> Branch:
        """Return a question in the engine's form; ``param`` is the field that errors name."""
        text = f"Question: {wording.text}" if self.plain else wording.text
        answers = tuple(f"{self.lead}{answer}{self.end}" for answer in wording.answers)
        return Branch((PromptPart(text, False), *self.after), answers, param)

    def generation(
        self, engine: EngineClient, branches: Sequence[Branch], image_params: tuple[str, ...]
    ) -> GenerationRequest:
        """Return the request for the engine. ``image_params`` are the fields of the images that
        errors name."""
        return self.chat.generation(
            engine.defaults.sampling,
            parts=self.before,
            prompt_param="input",
            images=self.images,
            image_params=image_params,
            branches=tuple(branches),
            branches_end=not self.end,
        )


def make_frame(engine: EngineClient, messages: Sequence[Json], fields: Json) -> Frame:
    """Return the prompt of a conversation that is followed by questions.

    Args:
        engine: the model.
        messages: the conversation, as in a chat request.
        fields: other fields of the chat request.

    Raises:
        InvalidParameter: the model's template does not accept the messages; ``param`` is that of
            a chat request.
        ContextLengthExceeded: the conversation is longer than the context can take.
    """
    question, answer = f"q{secrets.token_hex(12)}", f"a{secrets.token_hex(12)}"
    asked = _with_question(messages, question)
    chat = parse_chat({**fields, "messages": asked, "reasoning_effort": "none"})
    if engine.info.is_base and not chat.images:
        return _plain(chat, messages)
    answered = [*asked, {"role": "assistant", "content": answer}]
    try:
        # Templates know how they write an answer: after reasoning, in a channel, after a space.
        prompt = chat_prompt(
            engine,
            parse_chat({
                **fields,
                "messages": answered,
                "reasoning_effort": "none",
                "continue_final_message": True,
            }),
        )  # fmt: skip
        before, after = _split(prompt, question)
        after = _without_end(after, answer)
    except InvalidParameter:
        prompt = chat_prompt(engine, chat)
        before, after = _split(prompt, question)
        after += _end_of_reasoning(engine, prompt)
    return Frame(chat, before, after, images=prompt.images, image_params=prompt.image_params)


def _with_question(messages: Sequence[Json], question: str) -> list[Json]:
    """Return a conversation whose last message is the user's and ends with a question."""
    last = messages[-1]
    if last["role"] != "user":
        return [*messages, {"role": "user", "content": question}]
    content = last["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{question}" if content else question
    else:
        content = [*content, {"type": "text", "text": f"\n{question}"}]
    return [*messages[:-1], {**last, "content": content}]


def _plain(chat: ChatRequest, messages: Sequence[Json]) -> Frame:
    """Return the prompt for a model without a chat template: text that it continues with the
    answer, and then with a new line."""
    texts = [str(message["content"]) for message in messages]
    if len(messages) > 1:
        roles = [message["role"].capitalize() for message in messages]
        texts = [f"{role}: {text}" for role, text in zip(roles, texts, strict=True)]
    before = PromptPart("\n".join(texts) + "\n\n", False)
    return Frame(chat, (before,), (PromptPart("\nAnswer:", False),), lead=" ", end="\n", plain=True)


def _split(prompt: ChatPrompt, mark: str) -> tuple[Parts, Parts]:
    """Return the parts of a prompt before and after a mark."""
    parts = prompt.rendered.parts
    for index in reversed(range(len(parts))):
        part = parts[index]
        head, found, tail = part.text.rpartition(mark)
        if found:
            before = (*parts[:index], *_part(head, part.special))
            return before, (*_part(tail, part.special), *parts[index + 1 :])
    raise InvalidParameter(
        "The chat template of this model leaves out the last message, which asks the questions.",
        "messages",
    )


def _part(text: str, special: bool) -> Parts:
    return (PromptPart(text, special),) if text else ()


def _without_end(parts: Parts, answer: str) -> Parts:
    """Return the parts without the text of the answer at their end."""
    head, found, tail = parts[-1].text.rpartition(answer) if parts else ("", "", "")
    if not found or tail:
        raise InvalidParameter("The chat template changes the answer.", "messages")
    return (*parts[:-1], *_part(head, parts[-1].special))


def _end_of_reasoning(engine: EngineClient, prompt: ChatPrompt) -> Parts:
    """Return what must stand before an answer if the prompt has opened reasoning."""
    places = DIALECTS.of(engine.info).reasoning_places
    if places is None or not prompt.thinking:
        return ()
    return (PromptPart(places.close + places.content, True),)
