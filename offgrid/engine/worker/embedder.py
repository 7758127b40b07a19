"""Embeddings and ranking in the worker: tokenise, pack inputs into batches, pool, normalise.

Inputs of all requests share the batches, one input of each caller in turn, and of each request of a
caller, so that a request with thousands of inputs does not delay a request with one. Each step of
the loop computes one batch of inputs beside the streams. If inputs may be computed in chunks, the
batch is as short as a chunk of a prompt.
"""

from __future__ import annotations

import heapq
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.context_length import check_input_tokens, check_text_size, utf8_size
from offgrid.engine.protocol.events import Embedded, EngineEvent, Failed, Started
from offgrid.engine.protocol.requests import EmbeddingRequest, PromptPart
from offgrid.engine.worker.llama.embedding import EmbeddingContext
from offgrid.engine.worker.llama.errors import DecodeError, LoadError
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prompts import token_ids
from offgrid.engine.worker.threads.control import Kind
from offgrid.engine.worker.threads.loop import LoopThreads
from offgrid.engine.worker.turns import Turns
from offgrid.errors import ContextLengthExceeded, EngineFault, InvalidParameter

log = logging.getLogger(__name__)

TokenIds = NDArray[np.int32]

MAX_INPUT_TOKENS = 300_000
"""Most tokens of all inputs of a request together, as in the OpenAI API."""
_OTHER_IDS = (
    "If your client tokenises for another model, send text (LangChain: "
    "check_embedding_ctx_length=False)."
)
RANK_TEMPLATE = "tokenizer.chat_template.rerank"
"""Metadata key of the template that combines query and document; some models have one."""


@dataclass(slots=True, eq=False)
class Input:
    """One input and the progress of its computation."""

    job: EmbeddingJob
    index: int
    tokens: TokenIds
    done: int = 0
    """Number of tokens that are computed."""
    sequence: int = -1
    pooled: NDArray[np.float64] | None = None
    """Its vector so far: the sum of the states, or one of them."""


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """An embedding request in the worker."""

    id: int
    request: EmbeddingRequest
    waiting: deque[Input] = field(default_factory=deque)
    left: int = 0
    """Number of inputs whose results were not emitted yet."""
    prompt_tokens: int = 0
    started: bool = False


@dataclass(frozen=True, slots=True)
class _InputSpan:
    input: Input
    count: int
    first: int
    """Batch index of its first token."""


class Embedder:
    """Computes embeddings for many requests at once on one model.

    :meth:`prepare` may be called from another thread than all other methods.

    Args:
        model: computes the inputs.
        emit: emits events that must not wait for the end of a step.
        threads: says how many threads compute a batch; None to leave that alone.

    Attributes:
        failures: number of decodes that failed in a row.
    """

    def __init__(
        self,
        model: Model,
        emit: Callable[[tuple[EngineEvent, ...]], None] = lambda events: None,
        threads: LoopThreads | None = None,
    ) -> None:
        self._model = model
        self._emit = emit
        self._threads = threads
        self._jobs: Turns[EmbeddingJob] = Turns()
        self._active: list[Input] = []
        self._free: list[int] = []
        self._context: EmbeddingContext | None = None
        self.failures = 0

    # --- from another thread ------------------------------------------------------------------

    def prepare(self, job: EmbeddingJob) -> Iterator[None]:
        """Tokenise and check the inputs of a job; yield after each, so that others get a turn.

        Raises:
            InvalidParameter: the model does not support the request, a token id is outside the
                vocabulary, an input is empty, or ``dimensions`` is too large.
            ContextLengthExceeded: an input does not fit into the context, or all together have too
                many tokens.
        """
        self._check(job.request)
        pair = self._pairs(job.request.query)
        for index, (given, param) in enumerate(
            zip(job.request.inputs, job.request.params, strict=True)
        ):
            if isinstance(given, str):
                self._check_size(given, param)
                tokens = pair(given) if pair else self._model.tokenize_input(given)
            else:
                tokens = self._ids(given, param)
            if len(tokens) == 0:
                raise InvalidParameter(f"{param} is empty.", param)
            check_input_tokens(len(tokens), self._model.n_ctx, param, paired=pair is not None)
            job.prompt_tokens += len(tokens)
            if job.prompt_tokens > MAX_INPUT_TOKENS:
                raise ContextLengthExceeded(
                    f"The inputs of a request may have at most {MAX_INPUT_TOKENS} tokens in total; "
                    f"up to {param} they have {job.prompt_tokens}.",
                    param,
                )
            job.waiting.append(Input(job, index, tokens))
            yield
        job.left = len(job.waiting)

    def _check(self, request: EmbeddingRequest) -> None:
        ranks = self._model.pooling == "rank"
        if request.query is not None and not ranks:
            raise InvalidParameter(
                "This model does not rank documents; use a rerank model with /v1/rerank.",
                "model",
                code="unsupported_model",
            )
        if request.query is None and ranks:
            raise InvalidParameter(
                "This model only ranks documents and has no embeddings; use /v1/rerank, or an "
                "embedding model.",
                "model",
                code="unsupported_model",
            )
        size = self._model.n_embd
        if request.dimensions is not None and request.dimensions > size:
            raise InvalidParameter(
                f"dimensions must be at most {size} for this model, not {request.dimensions}.",
                "dimensions",
            )

    def _check_size(self, text: str, param: str) -> None:
        check_text_size(utf8_size(text), self._model.n_ctx, param, what=param)

    def _ids(self, given: tuple[int, ...], param: str) -> TokenIds:
        check_input_tokens(len(given), self._model.n_ctx, param)
        return token_ids(given, self._model.n_vocab, param, _OTHER_IDS)

    def _pairs(self, query: str | None) -> _Pairs | None:
        if query is None:
            return None
        self._check_size(query, "query")
        return _Pairs(self._model, query)

    # --- the loop's thread --------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether another :meth:`step` has something to compute."""
        return bool(self._jobs or self._active)

    def submit(self, job: EmbeddingJob) -> None:
        """Append a prepared job to the queue."""
        self._jobs.append(job.request.owner, job)

    def cancel(self, id: int) -> None:
        """Remove a job and all its inputs. Unknown ids are ignored."""
        self._jobs.remove(lambda job: job.id == id)
        for item in [item for item in self._active if item.job.id == id]:
            self._leave(item)

    def step(self, budget: int | None = None) -> list[EngineEvent]:
        """Compute one batch.

        Args:
            budget: most tokens of the batch; ignored if inputs must be computed whole.

        Returns:
            The events of the step.
        """
        try:
            context = self._open()
        except LoadError as ex:
            log.error("no context for embeddings: %s", ex)
            return self._fail([job.id for job in self._jobs], f"No room for embeddings: {ex}")
        spans = self._fill(context, budget)
        events: list[EngineEvent] = []
        begun: list[EngineEvent] = []
        for job in {span.input.job.id: span.input.job for span in spans}.values():
            if not job.started:
                job.started = True
                begun.append(Started(job.id))
        if begun:
            # The server must know whose inputs are computed now before they can end the process.
            self._emit(tuple(begun))
        if self._threads is not None and spans:
            tokens = sum(span.count for span in spans)
            context.use_threads(self._threads.begin(Kind.EMBED, tokens, 0))
        try:
            context.decode()
            answers = [
                answer for span in spans if (answer := self._take(context, span)) is not None
            ]
            if self._threads is not None:
                self._threads.end()
        except DecodeError as ex:
            log.error("decode of %d inputs failed: %s", len(spans), ex)
            self.failures += 1
            ids = dict.fromkeys(span.input.job.id for span in spans)
            return events + self._fail(list(ids), "The model failed to compute this request.")
        self.failures = 0
        for item, vector in answers:
            if item in self._active:  # else another input has just failed their request
                events += self._answer(item, vector)
        return events

    def _open(self) -> EmbeddingContext:
        if self._context is None:
            self._context = self._model.embedding_context()
            self._free = list(range(self._context.n_sequences))
        return self._context

    def _fail(self, ids: list[int], message: str) -> list[EngineEvent]:
        error = EngineFault(message)
        for id in ids:
            self.cancel(id)
        return [Failed(id, "EngineFault", error.message, code=error.code) for id in ids]

    def _fill(self, context: EmbeddingContext, budget: int | None) -> list[_InputSpan]:
        """Fill the batch: first with inputs that are begun, then with new ones while they fit."""
        context.batch.clear()
        room = context.capacity
        if budget is not None and not context.needs_whole_input:
            room = min(room, max(1, budget))
        spans: list[_InputSpan] = []
        for item in self._active:
            room -= self._add(context, item, room, spans)
        cells = context.n_cells - sum(len(item.tokens) for item in self._active)
        while room > 0 and self._jobs and self._free:
            job = self._jobs.first()
            item = job.waiting[0]
            size = len(item.tokens)
            # No input overtakes one that waits for room, or that one might wait for ever.
            if size > cells or (context.needs_whole_input and size > room):
                break
            job.waiting.popleft()
            self._jobs.pop()
            if job.waiting:
                self._jobs.append(job.request.owner, job)
            item.sequence = heapq.heappop(self._free)
            self._active.append(item)
            cells -= size
            room -= self._add(context, item, room, spans)
        return spans

    @staticmethod
    def _add(context: EmbeddingContext, item: Input, room: int, spans: list[_InputSpan]) -> int:
        count = min(room, len(item.tokens) - item.done)
        if count > 0:
            tokens = item.tokens[item.done : item.done + count]
            last = context.batch.add(item.sequence, item.done, tokens, True)
            spans.append(_InputSpan(item, count, last + 1 - count))
        return count

    def _take(
        self, context: EmbeddingContext, span: _InputSpan
    ) -> tuple[Input, NDArray[np.float64]] | None:
        """Add the computed states of an input; return its raw vector once it is complete."""
        item = span.input
        item.done += span.count
        finished = item.done == len(item.tokens)
        if context.needs_whole_input:
            return item, context.pooled(item.sequence).astype(np.float64)
        states = context.states(span.first, span.count)
        pooling = self._model.pooling
        if pooling == "mean":
            total = states.sum(axis=0, dtype=np.float64)
            item.pooled = total if item.pooled is None else item.pooled + total
        elif pooling == "last" or item.pooled is None:
            item.pooled = states[-1 if pooling == "last" else 0].astype(np.float64)
        return (item, item.pooled) if finished else None

    def _answer(self, item: Input, vector: NDArray[np.float64]) -> list[EngineEvent]:
        self._leave(item)
        job = item.job
        if self._model.pooling != "rank":
            vector = _unit(vector[: job.request.dimensions])
        if not np.isfinite(vector).all():
            return self._fail([job.id], "The model computed values that are not finite.")
        job.left -= 1
        return [Embedded(job.id, item.index, vector.astype("<f4").tobytes(), job.left)]

    def _leave(self, item: Input) -> None:
        """Release the sequence of an input."""
        assert self._context is not None
        self._active.remove(item)
        self._context.forget(item.sequence)
        heapq.heappush(self._free, item.sequence)


class _Pairs:
    """Combines a query with documents in the form on which a rank model was trained.

    It uses the template in the model's file if there is one, else BERT's ``[CLS] query [SEP]
    document [SEP]``, which XLM-RoBERTa writes as ``<s> query </s></s> document </s>``. Neither
    query nor document can produce a control token.
    """

    def __init__(self, model: Model, query: str) -> None:
        self._model = model
        self._query = query
        self._template = model.metadata.get(RANK_TEMPLATE)
        if self._template is None:
            end = [model.eos] if model.eos >= 0 else []
            between = [model.sep] if model.sep >= 0 else []
            start = [model.bos] if model.add_bos else []
            self._before = [_array(start), self._plain(query), _array(end + between)]
            self._after = _array(end or between)

    def __call__(self, document: str) -> TokenIds:
        """Return the token ids of the query with a document."""
        if self._template is None:
            return np.concatenate([*self._before, self._plain(document), self._after])
        texts = {"{query}": self._query, "{document}": document}
        parts = [
            PromptPart(texts.get(text, text), text not in texts)
            for text in re.split(r"(\{query\}|\{document\})", self._template)
        ]
        return self._model.tokenize(parts)

    def _plain(self, text: str) -> TokenIds:
        return self._model.tokenize_plain(text)


def _array(ids: list[int]) -> TokenIds:
    return np.array(ids, dtype=np.int32)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a vector scaled to length 1; a vector of zeros stays as it is."""
    length = float(np.sqrt(vector @ vector))
    return vector / length if length else vector
