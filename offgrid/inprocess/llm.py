"""The class :class:`LLM`: one model inside a Python program."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from offgrid.api.chat.call import ChatCall
from offgrid.api.chat.prompt import count_tokens
from offgrid.api.chat.request import parse_chat
from offgrid.api.completions.request import MAX_PROMPTS, CompletionRequest, parse_completion
from offgrid.errors import InvalidParameter
from offgrid.inprocess.answers import ChatAnswer, CompletionAnswer, chat_answer, completion_answers
from offgrid.inprocess.loading import open_pool
from offgrid.inprocess.messages import counted_from, is_batch, messages_of, request_body
from offgrid.inprocess.model import OwnModel
from offgrid.inprocess.options import (
    Batch,
    ChatOptions,
    CompletionOptions,
    Conversation,
    Image,
    Prompt,
    Settings,
)
from offgrid.inprocess.reader import Reader, completing
from offgrid.inprocess.stream import Running, Stream, chat_stream, text_stream
from offgrid.inprocess.structure import Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")
Schema = Mapping[str, Any] | None


class LLM(Reader):
    """A language model inside this program.

    It runs in a worker process of its own, which ends with :meth:`close`, at the end of a ``with``
    block, or with this object. All methods may be called by several threads at the same time; the
    model then computes their requests together.

    Args:
        model: an id from the models directory, an alias, or the path of a GGUF file; empty for the
            default model of the settings.
        config: a TOML file of settings, instead of the one that ``OFFGRID_CONFIG`` names.
        settings: how the model is loaded, such as ``ctx_size`` and ``parallel``.

    Raises:
        ConfigError: a setting is wrong, or the path is not that of a model.
        ModelNotFound: no model has that name; the message lists those that exist.
        ModelLoadFailed: llama.cpp cannot load it.

    All other methods raise :class:`~offgrid.errors.RequestError` if a request is wrong or fails;
    its ``param`` names the argument. After :meth:`close`, they raise ``RuntimeError``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "",
        *,
        config: str | os.PathLike[str] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self._model = OwnModel(open_pool(model, config, settings))
        self._finalizer = weakref.finalize(self, self._model.abandoned.put, None)
        with self._model.engine() as engine:
            self._name, self._info = engine.name, engine.info

    def close(self) -> None:
        """End what runs, and the worker process; its memory is free afterwards. Idempotent."""
        self._finalizer.detach()
        self._model.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """Return the model's id and whether it is closed."""
        return f"<LLM {self.name}{'' if self._model.alive() else ', closed'}>"

    @property
    def name(self) -> str:
        """The model's id."""
        return self._name

    @property
    def ctx_size(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._info.n_ctx

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens in the vocabulary."""
        return self._info.n_vocab

    @property
    def has_vision(self) -> bool:
        """Whether the model reads images."""
        return self._info.has_vision

    # --- chat ---------------------------------------------------------------------------------

    @overload
    def chat(
        self,
        messages: Conversation,
        *,
        schema: type[T],
        system: str | None = None,
        images: Sequence[Image] = (),
        **options: Unpack[ChatOptions],
    ) -> ChatAnswer[T]: ...
    @overload
    def chat(
        self,
        messages: Conversation,
        *,
        schema: Schema = None,
        system: str | None = None,
        images: Sequence[Image] = (),
        **options: Unpack[ChatOptions],
    ) -> ChatAnswer[Any]: ...
    @overload
    def chat(
        self,
        messages: Batch,
        *,
        schema: type[T],
        system: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> list[ChatAnswer[T]]: ...
    @overload
    def chat(
        self,
        messages: Batch,
        *,
        schema: Schema = None,
        system: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> list[ChatAnswer[Any]]: ...
    def chat(
        self,
        messages: Conversation | Batch,
        *,
        schema: Any = None,
        system: str | None = None,
        images: Sequence[Image] = (),
        **options: Unpack[ChatOptions],
    ) -> ChatAnswer[Any] | list[ChatAnswer[Any]]:
        """Answer a conversation, or several at the same time.

        Args:
            messages: a text of the user, or messages; or a list of several texts or conversations.
            schema: a JSON schema, or a type whose value the answer's ``parsed`` is.
            system: becomes a system message before the others.
            images: paths or contents of image files, for the last message.
            options: fields of a chat request.

        Returns:
            The answer; for a list the answers in its order.

        Raises:
            RequestError: a request is wrong or fails; of several, the others are ended.
        """
        structure = Structure(schema)

        def one(conversation: Conversation, alive: Callable[[], bool]) -> ChatAnswer[Any]:
            given = messages_of(conversation, system, images)
            request = parse_chat(request_body(options, messages=given, **structure.fields))
            body, seed = self._model.answer(
                lambda engine, alive: ChatCall(engine, request, alive), alive
            )
            return chat_answer(body, seed, structure.parse)

        if is_batch(messages):
            if images:
                raise InvalidParameter(
                    "images cannot be given for several conversations; put them into the messages.",
                    "images",
                )
            return self._model.each(one, messages)
        return one(messages, self._model.alive)  # type: ignore[arg-type] # not a batch

    @overload
    def stream(
        self,
        messages: Conversation,
        *,
        schema: type[T],
        system: str | None = None,
        images: Sequence[Image] = (),
        **options: Unpack[ChatOptions],
    ) -> Stream[ChatAnswer[T]]: ...
    @overload
    def stream(
        self,
        messages: Conversation,
        *,
        schema: Schema = None,
        system: str | None = None,
        images: Sequence[Image] = (),
        **options: Unpack[ChatOptions],
    ) -> Stream[ChatAnswer[Any]]: ...
    def stream(
        self,
        messages: Conversation,
        *,
        schema: Any = None,
        system: str | None = None,
        images: Sequence[Image] = (),
        **options: Unpack[ChatOptions],
    ) -> Stream[Any]:
        """Answer a conversation piece by piece; the arguments are those of :meth:`chat`.

        Returns:
            An iterator over the text. At its end, its ``answer`` is what :meth:`chat` returns.
        """
        structure = Structure(schema)
        given = messages_of(messages, system, images)
        request = parse_chat(
            request_body(options, messages=given, **structure.fields)
            | {"stream": True, "stream_options": {"include_usage": True}}
        )
        _check_one_choice(request.n)
        gone = threading.Event()
        call = self._model.start(
            lambda engine, alive: ChatCall(engine, request, alive), lambda: not gone.is_set()
        )
        running = Running(call.chunks(), call.group, gone)
        return chat_stream(running, structure.parse, self._model.abandoned, self)

    def count_tokens(
        self,
        messages: Conversation,
        *,
        system: str | None = None,
        images: Sequence[Image] = (),
        **options: Unpack[ChatOptions],
    ) -> int:
        """Return how many tokens the prompt of a conversation has, without computing it."""
        request = parse_chat(request_body(options, messages=messages_of(messages, system, images)))
        with self._model.engine() as engine:
            return count_tokens(engine, request, "messages", self._model.alive)

    # --- completions --------------------------------------------------------------------------

    @overload
    def complete(
        self, prompt: Prompt, *, schema: type[T], **options: Unpack[CompletionOptions]
    ) -> CompletionAnswer[T]: ...
    @overload
    def complete(
        self, prompt: Prompt, *, schema: Schema = None, **options: Unpack[CompletionOptions]
    ) -> CompletionAnswer[Any]: ...
    @overload
    def complete(
        self,
        prompt: list[str] | list[list[int]],
        *,
        schema: type[T],
        **options: Unpack[CompletionOptions],
    ) -> list[CompletionAnswer[T]]: ...
    @overload
    def complete(
        self,
        prompt: list[str] | list[list[int]],
        *,
        schema: Schema = None,
        **options: Unpack[CompletionOptions],
    ) -> list[CompletionAnswer[Any]]: ...
    def complete(
        self,
        prompt: Prompt | list[str] | list[list[int]],
        *,
        schema: Any = None,
        **options: Unpack[CompletionOptions],
    ) -> CompletionAnswer[Any] | list[CompletionAnswer[Any]]:
        """Continue a text, or several at the same time, without the model's chat template.

        Args:
            prompt: a text or token ids, or a list of several.
            schema: a JSON schema, or a type whose value the answer's ``parsed`` is.
            options: fields of a completion request.

        Returns:
            The answer; for a list the answers in its order.
        """
        structure = Structure(schema)
        single = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
        prompts = [prompt] if single else prompt
        if not prompts:
            return []
        first = _completion(options, structure, prompts[:1])
        size = max(1, MAX_PROMPTS // max(first.n, first.candidates))
        answers: list[CompletionAnswer[Any]] = []
        for begin in range(0, len(prompts), size):
            with counted_from(begin, "prompt"):
                request = _completion(options, structure, prompts[begin : begin + size])
                body, seed = self._model.answer(completing(request), self._model.alive)
            answers += completion_answers(body, request.n, seed, structure.parse)
        return answers[0] if single else answers

    @overload
    def stream_complete(
        self, prompt: Prompt, *, schema: type[T], **options: Unpack[CompletionOptions]
    ) -> Stream[CompletionAnswer[T]]: ...
    @overload
    def stream_complete(
        self, prompt: Prompt, *, schema: Schema = None, **options: Unpack[CompletionOptions]
    ) -> Stream[CompletionAnswer[Any]]: ...
    def stream_complete(
        self, prompt: Prompt, *, schema: Any = None, **options: Unpack[CompletionOptions]
    ) -> Stream[Any]:
        """Continue a text piece by piece; the arguments are those of :meth:`complete`.

        Returns:
            An iterator over the text. At its end, its ``answer`` is what :meth:`complete` returns.
        """
        structure = Structure(schema)
        request = _completion(options, structure, prompt)
        _check_one_choice(max(request.n, request.candidates))
        request = parse_completion(
            request_body(options, prompt=prompt, **structure.fields)
            | {"stream": True, "stream_options": {"include_usage": True}}
        )
        gone = threading.Event()
        call = self._model.start(completing(request), lambda: not gone.is_set())
        running = Running(call.chunks(), call.group, gone)
        return text_stream(running, structure.parse, self._model.abandoned, self)


def _completion(options: CompletionOptions, structure: Structure, prompt: Any) -> CompletionRequest:
    """Return a checked request."""
    if structure.parse is not None and options.get("echo"):
        raise InvalidParameter("echo cannot be combined with schema.", "echo")
    return parse_completion(request_body(options, prompt=prompt, **structure.fields))


def _check_one_choice(n: int) -> None:
    if n > 1:
        raise InvalidParameter("A stream has one answer; leave out n and best_of.", "n")
