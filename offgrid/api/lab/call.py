"""A lab request that its model has accepted, and its answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from offgrid.api.chat.prompt import ChatPrompt, chat_prompt, texts_of
from offgrid.api.fields.bounds import bounds
from offgrid.api.generation import GenerationGroup
from offgrid.api.http.caller import caller
from offgrid.api.http.owner import owner
from offgrid.api.lab.report import Pieces, Report, answer_of, listed_counts, samples
from offgrid.api.lab.request import LabRequest
from offgrid.api.lab.steps import Pipeline, trace
from offgrid.api.screening import check_prompt, program_in_force
from offgrid.api.shapes import Json
from offgrid.engine.client.client import ClientGone, EngineClient
from offgrid.engine.client.pending import POLL
from offgrid.engine.context_length import text_limit
from offgrid.engine.protocol.events import LogitsRow
from offgrid.engine.protocol.requests import GenerationRequest, NextToken, PromptPart, TokenQuery
from offgrid.errors import EngineFault, InvalidParameter, SamplingError
from offgrid.sampling import draws

_PIECES_AT_ONCE = 4096
AT_ONCE = 2
"""Requests whose distributions are in memory at a time. Those of one request have 8 bytes for each
token of the vocabulary and step: about 40 MB with 256,000 tokens and all steps."""
_turns = threading.BoundedSemaphore(AT_ONCE)


@contextlib.contextmanager
def turn(alive: Callable[[], bool]) -> Iterator[None]:
    """Wait until few other requests are being answered.

    Raises:
        ClientGone: ``alive`` returned False meanwhile.
    """
    while not _turns.acquire(timeout=POLL):
        if not alive():
            raise ClientGone
    try:
        yield
    finally:
        _turns.release()


class LabCall:
    """A request that is being answered.

    Args:
        engine: the model.
        request: a checked request.
        alive: whether the client still waits for the answer.

    Attributes:
        group: the computation of the row; the caller that gives up the answer cancels it.

    Raises:
        ContentRefused: the content filter does not accept the request.
        RequestError: the model does not accept it; nothing is left running.
    """

    def __init__(
        self, engine: EngineClient, request: LabRequest, alive: Callable[[], bool]
    ) -> None:
        check_prompt(_texts(request))
        self._engine = engine
        self._request = request
        self._alive = bounds().within(alive)
        self._cached = 0
        self.group = GenerationGroup(engine, [generation_of(engine, request)], alive)

    def whole(self) -> Json:
        """Return the answer when it is complete.

        Raises:
            EngineFault: nothing can be sampled from the row.
        """
        row = self._row()
        with turn(self._alive):
            return self._shown(row)

    def _shown(self, row: LogitsRow) -> Json:
        pipeline = Pipeline(row, ignore_eos=self._request.ignore_eos)
        try:
            report = Report(
                pipeline,
                [*trace(pipeline)],
                self._request.top,
                self._request.sampling.dry_breakers,
            )
            tokens = draws(pipeline.sampler(), pipeline.logits, max(1, self._request.samples))
        except SamplingError as ex:
            raise EngineFault(
                f"No token can be sampled from the logits of the model: {ex}"
            ) from None
        return self._answer(row, report, tokens)

    def _row(self) -> LogitsRow:
        row = None
        for _, delta in self.group.by_prompt():
            row, self._cached = delta.row, delta.cached_tokens
        assert row is not None
        return row

    def _answer(self, row: LogitsRow, report: Report, tokens: Sequence[int]) -> Json:
        request, answer = self._request, answer_of(row)
        counted = listed_counts(tokens, report.final, request.top) if request.samples else []
        pieces = self._pieces(report.ids(answer, [tokens[0], *counted]))
        return {
            "object": "lab.distribution",
            "model": self._engine.name,
            "vocabulary": len(row.logits) // 4,
            "prompt_tokens": len(row.prompt) // 4,
            "cached_tokens": self._cached,
            "continuation": [pieces.of(token) for token in answer],
            "seed": self.group.seed,
            "steps": report.steps(pieces),
            "final": report.final_tokens(pieces),
            "drawn": report.token(pieces, tokens[0]),
            "samples": samples(tokens, report.final, counted, pieces) if request.samples else None,
        }

    def _pieces(self, ids: Iterable[int]) -> Pieces:
        """Ask the worker, which knows the vocabulary."""
        pieces, left = Pieces(), sorted(ids)
        most = min(_PIECES_AT_ONCE, text_limit(self._engine.info.n_ctx))
        while left:
            some, left = left[:most], left[most:]
            query = TokenQuery(tokens=tuple(some), pieces=True, param="top", owner=owner())
            found = self._engine.look_up(query, self._alive)
            pieces.update(zip(some, found.pieces, strict=True))
        return pieces


def _texts(request: LabRequest) -> Iterator[tuple[Any, str]]:
    """Yield the texts of a request, each with its field."""
    if request.chat is not None:
        yield from texts_of(request.chat)
    yield request.prompt, "prompt"
    if isinstance(request.continuation, str):
        yield request.continuation, "continuation"


def generation_of(engine: EngineClient, request: LabRequest) -> GenerationRequest:
    """Return the request for the engine.

    Raises:
        InvalidParameter: the model's template does not accept the messages, or their tools would
            constrain the answer.
    """
    who = caller()
    given = request.continuation
    wanted = NextToken(given if isinstance(given, str) else tuple(given))
    return GenerationRequest(
        **_prompt(engine, request),
        sampling=request.sampling.with_defaults(engine.defaults.sampling),
        text_bias=request.sampling.text_bias,
        dry_breakers=request.sampling.dry_breakers,
        max_tokens=0,
        ignore_eos=request.ignore_eos,
        cache_prompt=request.cache_prompt,
        owner=owner(),
        priority=request.level,
        partition=who.id if who.has_key else "",
        cache_salt=request.cache_salt,
        filter=program_in_force(),
        next_token=wanted,
    )


def _prompt(engine: EngineClient, request: LabRequest) -> dict[str, Any]:
    """Return the fields of the engine's request that hold the prompt."""
    if request.chat is not None:
        prompt = chat_prompt(engine, request.chat)
        _check_free(prompt)
        return {
            "parts": prompt.rendered.parts,
            "images": prompt.images,
            "image_params": prompt.image_params,
            "prompt_param": "messages",
        }
    if request.tokens is not None:
        return {"tokens": tuple(request.tokens), "prompt_param": "tokens"}
    # Parse control tokens in the text: the author of a raw prompt writes them too.
    return {"parts": (PromptPart(request.prompt or "", True),)}


def _check_free(prompt: ChatPrompt) -> None:
    if prompt.grammar is not None:
        raise InvalidParameter(
            "tools: strict functions constrain the answer by a grammar, which this endpoint does "
            "not show; leave strict out.",
            "tools",
            code="unsupported_parameter",
        )
