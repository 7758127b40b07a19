"""Converts prompts and biases to token ids, and answers token queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.context_length import (
    check_input_tokens,
    check_prompt_tokens,
    check_text_size,
    outside_vocabulary,
    text_limit,
    utf8_size,
)
from offgrid.engine.protocol.events import TokenResult
from offgrid.engine.protocol.requests import (
    Branch,
    GenerationRequest,
    NextToken,
    PromptPart,
    TokenQuery,
)
from offgrid.engine.worker.branching import BranchTokens, common_length
from offgrid.engine.worker.drafts.prediction import PredictedText
from offgrid.engine.worker.image import ImageSpan, ImageTile
from offgrid.engine.worker.infill import check_fills_in
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.vision import VisionError
from offgrid.errors import ContextLengthExceeded, InvalidParameter

T = TypeVar("T")

MAX_QUERY = 1 << 20
"""Most bytes of text, or most tokens, in one token query."""
MAX_BIASED = 4096
"""Most tokens that the biases of a request may concern: each costs a little at every draw."""
MAX_BRANCH_TOKENS = 300_000
"""Most tokens of all branches of a request together."""
_MAX_TAIL = 16
"""Most tokens before a choice with which it is tokenised together."""
_PREDICTION = "prediction.content"
"""The request field that errors about predictions name."""
_MAX_ANSWER = 16 << 20
"""Most bytes of all pieces and names that one token query returns: they must fit into a frame."""


def read_prompt(model: Model, request: GenerationRequest) -> NDArray[np.int32]:
    """Return the token ids of a request's prompt, int32.

    Raises:
        InvalidParameter: an id is outside the vocabulary, the prompt is empty, or the model does
            not support a suffix.
        ContextLengthExceeded: the prompt has more bytes or ids than the context allows.
    """
    if request.suffix is not None:
        return _read_fill_in(model, request)
    if request.tokens is not None:
        prompt = _prompt_ids(model, request.tokens, request.prompt_param)
    else:
        _check_size(model, request.parts, request.prompt_param)
        prompt = model.tokenize(request.parts)
    if len(prompt) == 0:
        raise InvalidParameter("The prompt is empty.", request.prompt_param)
    return prompt


def read_branches(
    model: Model, request: GenerationRequest, prompt_tokens: int
) -> list[BranchTokens]:
    """Return the token ids of a request's branches.

    A choice is tokenised together with the text before it, as far back as the last control token,
    because the border between the two may lie inside a token.

    Raises:
        ContextLengthExceeded: a branch does not fit into the context after the prompt, or all
            together have too many tokens.
    """
    reader = _BranchReader(model)
    branches = []
    for branch in request.branches:
        _check_size(model, branch.parts, branch.param)
        for choice in branch.choices:
            check_text_size(utf8_size(choice), model.n_ctx, branch.param, what="A choice")
        tokens = reader.read(branch)
        longest = len(tokens.stem) + max(map(len, tokens.choices))
        check_prompt_tokens(prompt_tokens + longest, model.n_ctx, branch.param)
        branches.append(tokens)
        if reader.tokens > MAX_BRANCH_TOKENS:
            raise ContextLengthExceeded(
                f"All questions of a request may have at most {MAX_BRANCH_TOKENS} tokens in total, "
                f"counting every choice; up to {branch.param} they have {reader.tokens}.",
                branch.param,
            )
    return branches


class _BranchReader:
    """Tokenises the branches of one request; texts that they have in common once.

    Attributes:
        tokens: how many tokens all branches so far have.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[tuple[str, bool], tuple[int, ...]] = {}
        self.tokens = 0

    def read(self, branch: Branch) -> BranchTokens:
        """Return the token ids of a branch."""
        before: tuple[int, ...] = ()
        for part in branch.parts:
            before += self._ids(part.text, part.special)
        stem, tail = self._tail(before)
        choices = [self._ids(tail + choice, False) for choice in branch.choices]
        if tail and not stem and not common_length(choices):
            stem, choices = before, [self._ids(choice, False) for choice in branch.choices]
        self.tokens += len(stem) + sum(map(len, choices))
        return BranchTokens(stem, choices)

    def _tail(self, before: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        """Return the tokens up to the last control token, and the text after it; no text if its
        tokens would not be the same alone."""
        begin = len(before)
        while begin and len(before) - begin < _MAX_TAIL and self._model.piece(before[begin - 1]):
            begin -= 1
        tail = b"".join(map(self._model.piece, before[begin:])).decode("utf-8", "replace")
        if not tail or self._ids(tail, False) != before[begin:]:
            return before, ""
        return before[:begin], tail

    def _ids(self, text: str, special: bool) -> tuple[int, ...]:
        known = self._known.get((text, special))
        if known is None:
            ids = self._model.tokenize_bare((PromptPart(text, special),))
            known = self._known[text, special] = tuple(ids.tolist())
        return known


def read_answer(model: Model, wanted: NextToken) -> NDArray[np.int32]:
    """Return the token ids of the answer that a request for the next token has, int32.

    Raises:
        InvalidParameter: an id is outside the vocabulary.
        ContextLengthExceeded: it has more bytes or ids than the context allows.
    """
    if isinstance(wanted.answer, str):
        check_text_size(utf8_size(wanted.answer), model.n_ctx, wanted.param, what="The answer")
        return model.tokenize_bare((PromptPart(wanted.answer, False),))
    return _prompt_ids(model, wanted.answer, wanted.param)


def read_prediction(model: Model, request: GenerationRequest) -> PredictedText | None:
    """Return the tokens of a request's prediction; None if it has none. Control tokens in it stay
    text.

    Raises:
        ContextLengthExceeded: it has more bytes or tokens than the context allows.
    """
    if not request.prediction:
        return None
    size = utf8_size(request.prediction)
    check_text_size(size, model.n_ctx, _PREDICTION, what="The prediction")
    tokens = model.tokenize_plain(request.prediction)
    check_input_tokens(len(tokens), model.n_ctx, _PREDICTION)
    return PredictedText(tokens, model.n_vocab)


def read_with_images(
    model: Model, request: GenerationRequest | TokenQuery, param: str
) -> tuple[NDArray[np.int32], tuple[ImageSpan, ...]]:
    """Return the token ids of a prompt with images, int32, and the spans of its images.

    The positions of images have the negative ids of
    :func:`offgrid.engine.worker.llama.vision.image_ids`.

    Raises:
        InvalidParameter: an image cannot be decoded, or the prompt ends with an image.
        ContextLengthExceeded: the text has more bytes than the context allows.
    """
    _check_size(model, request.parts, param)
    pieces: list[NDArray[np.int32] | ImageTile] = []
    for part in request.parts:
        if part.image < 0:
            pieces.append(model.tokenize_bare((part,)))
            continue
        try:
            pieces += model.vision().read(request.images[part.image])
        except VisionError as ex:
            raise InvalidParameter(str(ex), request.image_params[part.image]) from None
    pieces = [piece for piece in pieces if isinstance(piece, ImageTile) or len(piece)]
    if pieces and isinstance(pieces[-1], ImageTile):
        raise InvalidParameter("The prompt must contain text after the last image.", param)
    if model.add_bos and (isinstance(pieces[0], ImageTile) or pieces[0][0] != model.bos):
        pieces.insert(0, np.array([model.bos], dtype=np.int32))
    spans = []
    start = 0
    for piece in pieces:
        end = start + len(_ids(piece))
        if isinstance(piece, ImageTile):
            spans.append(ImageSpan(start, end, piece))
        start = end
    return np.concatenate([_ids(piece) for piece in pieces]), tuple(spans)


def _ids(piece: NDArray[np.int32] | ImageTile) -> NDArray[np.int32]:
    return piece.ids if isinstance(piece, ImageTile) else piece


def _read_fill_in(model: Model, request: GenerationRequest) -> NDArray[np.int32]:
    """Return a prompt in the order in which models learn to fill in: prefix, suffix, then middle.

    This is the prefix-suffix-middle format of Bavarian et al. 2022, "Efficient training of language
    models to fill in the middle". Only this function adds control tokens; their texts in the
    prompt, which code may contain, stay text.
    """
    check_fills_in(model, "suffix", "suffix")
    before, behind, middle = model.fim_ids
    suffix = (PromptPart(request.suffix or "", False),)
    plain = tuple(PromptPart(part.text, False) for part in request.parts)
    _check_size(model, (*plain, *suffix), request.prompt_param)
    if request.tokens is not None:
        prefix = _prompt_ids(model, request.tokens, request.prompt_param)
    else:
        prefix = model.tokenize_bare(plain)
    bos = [model.bos] if model.add_bos else []
    pieces = [[*bos, before], prefix, [behind], model.tokenize_bare(suffix), [middle]]
    return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in pieces])


def prompt_text(model: Model, tokens: Iterable[int]) -> str:
    """Return the text of tokens; bytes that are not UTF-8 become U+FFFD."""
    return b"".join(map(model.piece_with_special, tokens)).decode("utf-8", "replace")


def has_added_bos(model: Model, request: GenerationRequest) -> bool:
    """Whether the prompt's first token is a BOS that the request did not contain."""
    if request.tokens is not None or not model.add_bos:
        return False
    return not "".join(part.text for part in request.parts).startswith(model.name(model.bos))


def read_bias(
    model: Model, biases: Mapping[int, float], texts: Mapping[str, float]
) -> dict[int, float]:
    """Return the bias of each token; the bias of a text applies to each of its tokens.

    Biases of several texts add up. A bias that names a token by its id replaces those of texts.

    Raises:
        InvalidParameter: an id is outside the vocabulary, or there are too many biased tokens.
    """
    result: dict[int, float] = {}
    for text, bias in texts.items():
        for token in dict.fromkeys(model.tokenize_bare((PromptPart(text, True),)).tolist()):
            total = result.get(token, 0.0) + bias
            # The sum of several biases may be out of range.
            result[token] = total if math.isinf(total) else max(-100.0, min(100.0, total))
    token_ids(tuple(biases), model.n_vocab, "logit_bias")
    result |= biases
    if len(result) > MAX_BIASED:
        raise InvalidParameter(
            f"The texts in logit_bias have {len(result)} tokens; the maximum is {MAX_BIASED}.",
            "logit_bias",
        )
    return result


def answer(model: Model, id: int, query: TokenQuery) -> TokenResult:
    """Answer a token query.

    Raises:
        InvalidParameter: an id is outside the vocabulary, or the result is too long.
        ContextLengthExceeded: the query has more text or tokens than :func:`text_limit
            <offgrid.engine.context_length.text_limit>` or ``MAX_QUERY`` allows.
    """
    if query.images:
        tokens = tuple(read_with_images(model, query, query.param)[0].tolist())
    elif query.tokens is None:
        _check_size(model, query.parts, query.param, MAX_QUERY)
        tokens = tuple(_read_query(model, query).tolist())
    else:
        limit = min(MAX_QUERY, text_limit(model.n_ctx))
        if len(query.tokens) > limit:
            raise ContextLengthExceeded(
                f"The request has {len(query.tokens)} tokens; the maximum is {limit}.", query.param
            )
        tokens = tuple(token_ids(query.tokens, model.n_vocab, query.param).tolist())
    # Look up each distinct token once, because texts repeat tokens.
    pieces = _of_each(model.piece_with_special, tokens) if query.pieces else ()
    names = _of_each(model.name, tokens) if query.names else ()
    if sum(map(len, pieces)) + 4 * sum(map(len, names)) > _MAX_ANSWER:
        raise InvalidParameter("The text of these tokens is too long.", query.param)
    return TokenResult(id, tokens, pieces, names)


def _read_query(model: Model, query: TokenQuery) -> NDArray[np.int32]:
    """Return the token ids of a query's text; with ``add_bos``, those that a request would have: a
    prompt, or an input if the model only embeds or ranks."""
    if not query.add_bos:
        return model.tokenize_bare(query.parts)
    return model.tokenize(query.parts) if model.generates else model.tokenize_around(query.parts)


def _of_each(look_up: Callable[[int], T], tokens: tuple[int, ...]) -> tuple[T, ...]:
    found = {token: look_up(token) for token in set(tokens)}
    return tuple(map(found.__getitem__, tokens))


def _prompt_ids(model: Model, tokens: Sequence[int], param: str) -> NDArray[np.int32]:
    """Check a prompt given as token ids: first its length, as a request may hold millions."""
    check_prompt_tokens(len(tokens), model.n_ctx, param)
    return token_ids(tokens, model.n_vocab, param)


def token_ids(
    tokens: Sequence[int], n_vocab: int, param: str, advice: str = ""
) -> NDArray[np.int32]:
    """Return token ids of a request as int32.

    Args:
        tokens: the ids as the client sent them.
        n_vocab: number of tokens of the model's vocabulary.
        param: the request field that the error names.
        advice: a sentence of the error that tells the client what to do.

    Raises:
        InvalidParameter: one is outside the vocabulary.
    """
    try:
        ids = np.fromiter(tokens, dtype=np.int64, count=len(tokens))
        outside = bool(np.any((ids < 0) | (ids >= n_vocab)))
    except OverflowError:
        outside = True
    if outside:
        token = next(token for token in tokens if not 0 <= token < n_vocab)
        raise outside_vocabulary(token, n_vocab, param, advice)
    return ids.astype(np.int32)


def _check_size(
    model: Model, parts: Iterable[PromptPart], param: str, most: int | None = None
) -> None:
    size = sum(utf8_size(part.text) for part in parts)
    check_text_size(size, model.n_ctx, param, most)
