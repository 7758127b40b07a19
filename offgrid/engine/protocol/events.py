"""Events: what happens to the requests of a worker. They reach the server in a ``Step`` report."""

from __future__ import annotations

import msgspec

from offgrid.errors import ErrorCode, RequestError
from offgrid.sampling.params import SamplingParams


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token with its logprob.

    ``top`` lists the most likely tokens, best first, as ``(piece bytes, logprob)``. The piece of a
    control token is its text in the vocabulary. ``silent`` says that the token adds no text.
    ``ids`` are the token ids of ``top``, if the request asks for them.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()
    silent: bool = False
    ids: tuple[int, ...] = ()


class PromptToken(msgspec.Struct, frozen=True, array_like=True):
    """A token of the prompt with its logprob after the tokens before it.

    ``rank`` is 1 for the most likely token. ``top`` lists the most likely tokens, best first, as
    ``(token id, piece bytes, logprob)``. The first token has no ``logprob``, ``rank`` or ``top``.
    ``silent`` says that the token is not part of the prompt's text, but was added in front.
    """

    token: int
    piece: bytes
    logprob: float | None = None
    rank: int | None = None
    top: tuple[tuple[int, bytes, float], ...] = ()
    silent: bool = False


class Tokenising(msgspec.Struct, frozen=True, tag=True):
    """A thread of the worker begins to tokenise a request, so it has finished the one before.

    ``lane`` is the thread: 0 the tokeniser, 1 the compiler of grammars. ``id`` 0 stands for no
    request: the thread dropped one that was cancelled meanwhile.
    """

    id: int
    lane: int


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """The prompt was tokenised and fits. Sent once per request, before its first delta."""

    id: int
    prompt_tokens: int
    seed: int
    """The seed that is used: the request's, or a random one."""
    prompt_text: str = ""
    """The text of a prompt that came as token ids or as an :class:`Infill`, if the request needs
    it."""
    cut: bool = False
    """Whether a part of an :class:`Infill` was left out."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """The request got a slot. With ``computing``, its prefill begins with the next decode;
    otherwise it is parked, and a second event follows when its prefill begins."""

    id: int
    computing: bool = True


class Queued(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """How far a request is that has no token yet, for requests with ``report_wait``, at most once
    per second.

    In the queue: it is number ``position`` of ``waiting`` sequences, counted from 1. Afterwards
    both are 0, and ``processed`` of its prompt's tokens are computed.
    """

    id: int
    position: int = 0
    waiting: int = 0
    processed: int = 0


class BranchLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """How likely the choices of a branch are: the logprob of each, in their order.

    It is the sum over the choice's tokens and its end, in float64, of the log-softmax of the raw
    logits. Tokens that all choices of the branch have in common at their beginning are left out:
    they would change all sums alike. A choice may have -inf. If several choices of a branch consist
    of the same tokens, each gets its part of the probability.
    """

    branch: int
    logprobs: tuple[float, ...]


class LogitsRow(msgspec.Struct, frozen=True, array_like=True):
    """What the model says of the token that a request's ``next_token`` asks for, and what a sampler
    needs to draw it.

    ``logits`` are the raw row, float32 in native byte order. ``prompt`` and ``answer`` are token
    ids, int32; those of images are negative. ``sampling`` are the request's parameters, completed
    with the tokens of its texts and the seed. ``ends`` are the model's end tokens. ``state`` is the
    state of a sampler that has drawn ``answer``.
    """

    logits: bytes
    prompt: bytes
    answer: bytes
    sampling: SamplingParams
    ends: tuple[int, ...]
    state: tuple[int, float, float]


class Times(msgspec.Struct, frozen=True, array_like=True):
    """How long a choice has taken, in milliseconds: its prompt, from the beginning of its
    computation to the first token of the answer, and from that to the latest one."""

    prompt_ms: float
    answer_ms: float


class PromptProgress(msgspec.Struct, frozen=True, array_like=True):
    """How many tokens of a prompt are computed or were cached, and the milliseconds since its
    computation began."""

    processed: int
    ms: float


class Delta(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Progress of one choice: its next token, or its end. One step may bring several.

    ``text`` may be empty (held back for a stop string or an unfinished character).
    ``finish_reason`` is set once per choice, in its last delta: ``"stop"``, ``"length"`` or
    ``"content_filter"``.
    ``completion_tokens`` is the number of tokens of the choice so far, ``cached_tokens`` the number
    of prompt tokens that a slot already held. ``prompt`` has the next tokens of the prompt with
    their logprobs; deltas with it come first, for choice 0 only, and contain nothing else. So do
    those with ``progress``. ``times`` is in the last delta, and in all if the request asks for it.
    So are the numbers of tokens that were ``drafted`` for the choice so far, that is proposed and
    decoded, and of those of them that are in the answer (``draft_accepted``).
    ``prediction_accepted`` is the number of tokens of the request's prediction that the choice
    contains so far, ``prediction_rejected`` that of the others. ``stopped_by`` is the stop string
    that ended the choice, in its last delta. ``slot`` is -1 unless the request asks for it.
    ``branches`` are those of which all
    logprobs are known now; ``completion_tokens`` is then the number of tokens of choices that were
    computed. ``row`` is in the only delta of a request with ``next_token``.
    """

    id: int
    choice: int
    text: str
    completion_tokens: int
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    prompt: tuple[PromptToken, ...] = ()
    times: Times | None = None
    progress: PromptProgress | None = None
    drafted: int = 0
    draft_accepted: int = 0
    prediction_accepted: int = 0
    prediction_rejected: int = 0
    stopped_by: str = ""
    slot: int = -1
    branches: tuple[BranchLogprobs, ...] = ()
    row: LogitsRow | None = None


class TokenResult(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The result of a ``TokenQuery``; ``pieces`` and ``names`` only if it asks for them."""

    id: int
    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """The result for one input of an ``EmbeddingRequest``.

    ``vector`` holds little-endian float32: an embedding of length 1, or a single score. ``left``
    is the number of inputs whose results are still to come; 0 ends the request.
    """

    id: int
    index: int
    vector: bytes
    left: int


class Failed(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The request has failed. ``error`` is the name of a class in :mod:`offgrid.errors`."""

    id: int
    error: str
    message: str
    param: str | None = None
    code: ErrorCode | None = None

    @classmethod
    def of(cls, id: int, error: RequestError) -> Failed:
        """Return the event that ends a request with an error."""
        return cls(id, type(error).__name__, error.message, error.param, error.code)


EngineEvent = Tokenising | Accepted | Queued | Started | Delta | Embedded | TokenResult | Failed
