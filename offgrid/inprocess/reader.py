"""What a model does without writing an answer: scores, vectors, ranks and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import msgspec

from offgrid.api.completions.call import CompletionCall
from offgrid.api.completions.request import MAX_PROMPTS, CompletionRequest, parse_completion
from offgrid.api.completions.shapes import TextLogprobs
from offgrid.api.embeddings import MAX_INPUTS, parse_embeddings
from offgrid.api.fields.common import check_fields
from offgrid.api.rerank import RerankResult, parse_rerank, ranking
from offgrid.api.tokens import PromptRequest, parse_detokenize, token_query
from offgrid.engine.client.client import EngineClient
from offgrid.engine.protocol.requests import TokenQuery
from offgrid.errors import InvalidParameter
from offgrid.inprocess.messages import counted_from, request_body
from offgrid.inprocess.model import Alive, OwnModel
from offgrid.inprocess.options import Prompt
from offgrid.inprocess.scores import Score, scored


def completing(request: CompletionRequest) -> Callable[[EngineClient, Alive], CompletionCall]:
    """Return a function that submits a completion request."""

    def make(engine: EngineClient, alive: Alive) -> CompletionCall:
        return CompletionCall(engine, request, alive)

    return make


class Reader:
    """The methods of :class:`~offgrid.inprocess.llm.LLM` that generate nothing."""

    _model: OwnModel

    @overload
    def score(self, text: str, continuations: None = None) -> Score: ...
    @overload
    def score(self, text: str, continuations: Sequence[str]) -> list[Score]: ...
    @overload
    def score(self, text: list[str], continuations: None = None) -> list[Score]: ...
    def score(
        self, text: str | list[str], continuations: Sequence[str] | None = None
    ) -> Score | list[Score]:
        """Return how likely the model finds a text, or each of several continuations of it.

        Args:
            text: a text, or several.
            continuations: texts that may follow ``text``; only their tokens are scored. Give the
                space before a word here, and not at the end of ``text``.

        Returns:
            The score; for a list, or continuations, the scores in its order.
        """
        if continuations is None:
            scores = self._scores([text] if isinstance(text, str) else text, 0)
            return scores[0] if isinstance(text, str) else scores
        if not isinstance(text, str):
            raise InvalidParameter("continuations need one text, not several.", "text")
        return self._scores([text + end for end in continuations], len(text))

    def _scores(self, texts: list[str], begin: int) -> list[Score]:
        scores: list[Score] = []
        for at in range(0, len(texts), MAX_PROMPTS):
            some = texts[at : at + MAX_PROMPTS]
            fields = {"prompt": some, "echo": True, "logprobs": 1, "max_tokens": 0}
            with counted_from(at, "prompt"):
                make = completing(parse_completion(request_body({}, **fields)))
                answer, _ = self._model.answer(make, self._model.alive)
            for text, choice in zip(some, answer["choices"], strict=True):
                logprobs = msgspec.convert(choice["logprobs"], TextLogprobs)
                scores.append(scored(logprobs, text, begin))
        return scores

    @overload
    def embed(self, text: Prompt, *, dimensions: int | None = None) -> list[float]: ...
    @overload
    def embed(
        self, text: list[str] | list[list[int]], *, dimensions: int | None = None
    ) -> list[list[float]]: ...
    def embed(
        self, text: Prompt | list[str] | list[list[int]], *, dimensions: int | None = None
    ) -> list[float] | list[list[float]]:
        """Return the vector of a text, of length 1, or those of several texts.

        Args:
            text: a text or token ids, or a list of several.
            dimensions: numbers to keep of each vector.
        """
        single = isinstance(text, str) or (bool(text) and isinstance(text[0], int))
        texts = [text] if single else text
        vectors: list[list[float]] = []
        for begin in range(0, len(texts), MAX_INPUTS):
            fields = {"input": texts[begin : begin + MAX_INPUTS], "dimensions": dimensions}
            with counted_from(begin, "input"), self._model.engine() as engine:
                request = parse_embeddings(request_body({}, **fields)).embedding()
                result = engine.embed(request, self._model.alive)
            vectors += [result.values(index) for index in range(len(result.vectors))]
        return vectors[0] if single else vectors

    def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None
    ) -> list[RerankResult]:
        """Return documents by their relevance to a query, the most relevant first.

        Each result has ``index``, the document's place in the list, and ``relevance_score``.
        """
        fields = {"query": query, "documents": documents, "top_n": top_n}
        request = parse_rerank(request_body({}, **fields))
        with self._model.engine() as engine:
            return [
                RerankResult(**result)
                for result in ranking(engine, request, self._model.alive)["results"]
            ]

    # --- tokens -------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the token ids of a text; names of control tokens in it become these tokens.

        Args:
            text: the text.
            add_special: whether the model's first control token (BOS) is added, if it has one.
        """
        body = request_body({}, prompt=text, add_special_tokens=add_special)
        request = check_fields(body, PromptRequest)
        with self._model.engine() as engine:
            return [*engine.look_up(token_query(engine, request), self._model.alive).tokens]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids. Bytes that are not UTF-8 become U+FFFD."""
        request = parse_detokenize(request_body({}, tokens=[*tokens]))
        query = TokenQuery(tokens=tuple(request.tokens), pieces=True, param="tokens")
        with self._model.engine() as engine:
            pieces = engine.look_up(query, self._model.alive).pieces
        return b"".join(pieces).decode("utf-8", "replace")
