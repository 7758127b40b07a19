"""The messages between the server process and a worker process.

A frame is a 4-byte little-endian length and that many bytes of MessagePack. The server writes
``Command`` frames to the worker's standard input; the worker writes ``Report`` frames to a
duplicate of its standard output. Only plain data crosses: no logits, no pickles. A checked JSON
schema crosses as text.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from types import MappingProxyType
from typing import IO, Any

import msgspec

from offgrid.engine.kv_types import PLAIN
from offgrid.errors import ErrorCode
from offgrid.grammar.checked import CheckedSchema
from offgrid.sampling.params import SamplingParams

MAX_FRAME = 64 * 1024 * 1024
"""Bytes. No process writes a longer frame. A header with a larger length means that reader and
writer are out of step, and the pipe is abandoned."""


MAX_DRAFT_BATCH = 64
"""Most tokens that a draft model computes at once."""


class FrameTooLarge(ValueError):
    """A message does not fit into a frame; no part of it was written."""


class PromptPart(msgspec.Struct, frozen=True, array_like=True):
    """A part of a prompt: text or an image.

    ``special`` is true for the text of a chat template: only there do the texts of control tokens,
    such as ``<|im_end|>``, become those tokens. Text that came from a user has ``special`` false
    and stays text. A part with an ``image``, the index of one of the request's images, stands for
    that image and has no text.
    """

    text: str
    special: bool
    image: int = -1


class Grammar(msgspec.Struct, frozen=True):
    """The grammar that an answer must follow.

    ``kind`` is the language of ``source``: ``"lark"`` (llguidance's dialect), ``"gbnf"``
    (llama.cpp's), ``"regex"`` or ``"choice"`` (a JSON list of texts). ``"json_schema"`` has no
    source, but one element in ``schemas``. ``"answer"`` is Lark that the server has written; a rule
    ``schema_0`` in it stands for the first of ``schemas``. ``param`` is the request field that
    error messages name.
    """

    kind: str
    source: str
    param: str
    schemas: tuple[CheckedSchema, ...] = ()

    @classmethod
    def of_schema(cls, schema: CheckedSchema) -> Grammar:
        """Return the grammar of all answers that a schema allows."""
        return cls("json_schema", "", schema.param, (schema,))


class ReasoningBudget(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many tokens of reasoning an answer may have, and how its format marks reasoning.

    ``tokens`` is the limit of all reasoning of the answer together. ``opened`` says that the prompt
    has opened reasoning. ``first`` and ``later`` are regular expressions: what opens reasoning at
    the beginning of an answer, and later; nothing may do so later if that is empty. ``ends`` are
    the texts that end it. When the limit is reached, ``close`` is written; if reasoning begins
    again after that, ``insist``. ``param`` is the request field that error messages name.
    """

    tokens: int
    opened: bool
    first: str
    ends: tuple[str, ...]
    close: str
    later: str = ""
    insist: str = ""
    param: str = "reasoning_budget_tokens"


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One prompt and how to continue it.

    Exactly one of ``parts`` and ``tokens`` is the prompt. ``images`` are the files to which parts
    refer, with the request field of each in ``image_params``. ``max_tokens`` of ``None`` means
    until the model ends its answer or the context is full. ``top_logprobs`` of ``None`` means no
    logprobs; 0 or more means those of the sampled token and of that many alternatives. They are of
    the model's own distribution or, with ``post_sampling``, of the one that the draw used.
    """

    parts: tuple[PromptPart, ...] = ()
    tokens: tuple[int, ...] | None = None
    sampling: SamplingParams = SamplingParams()
    text_bias: dict[str, float] = {}
    """Text -> the bias of each of its tokens. The worker, which knows the vocabulary, adds them to
    the biases of ``sampling``."""
    dry_breakers: tuple[str, ...] = ()
    """DRY's sequence breakers. The worker converts them to the token sequences in ``sampling``."""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    ignore_eos: bool = False
    cache_prompt: bool = True
    """Whether prefixes of other requests may be used for this one, and its prefixes for others."""
    top_logprobs: int | None = None
    post_sampling: bool = False
    end_logprob: bool = False
    """Whether the end token of an answer, which has no text, gets logprobs too."""
    prompt_logprobs: int | None = None
    """As ``top_logprobs``, for the tokens of the prompt; always of the model's own distribution."""
    echo: bool = False
    """Whether the client needs the text of a prompt given as ``tokens``."""
    timings: bool = False
    """Whether every delta has the times of its choice, not only the last."""
    return_progress: bool = False
    """Whether deltas say how far the prefill of the prompt is."""
    suffix: str | None = None
    """Text after the answer: the model fills in the text between the prompt and it. The prompt is
    then plain text."""
    grammar: Grammar | None = None
    """Tokens that would violate it are never sampled."""
    reasoning_budget: ReasoningBudget | None = None
    visible: tuple[str, ...] = ()
    """Texts of the control tokens that appear as text in the answer; all others do not."""
    prompt_param: str = "prompt"
    """The request field that error messages about the prompt name."""
    images: tuple[bytes, ...] = ()
    image_params: tuple[str, ...] = ()
    prediction: str | None = None
    """A text that the answer is expected to repeat in large parts; it only saves time."""


class EmbeddingRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Inputs to be turned into one vector each, or documents to be scored against a query.

    An input is text, in which nothing becomes a control token, or token ids, which are used
    unchanged. With ``query`` the result for each input is one number: how well it fits the query.
    Vectors keep only their first ``dimensions`` entries.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    query: str | None = None
    dimensions: int | None = None
    params: tuple[str, ...] = ()
    """The request field that error messages about each input name."""


class TokenQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """A query to the tokeniser: the token ids of ``parts``, or the pieces or names of ``tokens``.

    ``param`` is the request field that error messages name.
    """

    parts: tuple[PromptPart, ...] = ()
    tokens: tuple[int, ...] | None = None
    add_bos: bool = False
    """Whether to put BOS in front, if the model expects it."""
    pieces: bool = False
    """Whether to return the bytes of each token."""
    names: bool = False
    """Whether to return how each token is written in the vocabulary."""
    param: str = "prompt"
    images: tuple[bytes, ...] = ()
    """As for a :class:`GenerationRequest`. Their positions have negative ids."""
    image_params: tuple[str, ...] = ()


# --- server to worker -------------------------------------------------------------------------


class Adapter(msgspec.Struct, frozen=True, array_like=True):
    """A file with a LoRA adapter, and the factor by which its effect is multiplied."""

    path: str
    scale: float


class Load(msgspec.Struct, frozen=True, tag=True):
    """The first command: which file to serve and how. Sizes are in tokens.

    ``ctx_size`` is the context of one sequence, 0 for the context with which the model was trained;
    ``parallel`` is the number of slots; with ``threads`` 0 the number is found by measuring;
    ``gpu_layers`` -1 means all; ``flash_attention`` is auto, on or off; ``kv_type_k`` and
    ``kv_type_v`` are types of :mod:`offgrid.engine.kv_types`; ``swa_full`` keeps all tokens of
    layers with a sliding window; ``checkpoints_mb`` is the budget of checkpoints in MiB;
    ``open_objects`` lets the objects of answers have members that their schemas do not describe;
    ``drafts`` lets steps decode proposed tokens; ``projector`` is the projector's file, if there is
    one; ``adapters`` act on all requests; ``draft_model`` is the file of the draft model, if there
    is one. ``cache_ram`` and ``cache_disk`` are MiB for saved prefixes in memory and in the folder
    ``cache_dir`` (-1 for the disk: the worker decides); ``sha256`` is the file's hash, if it is
    known. With ``examine`` the file is only examined: the worker reports :class:`Examined` or
    :class:`LoadFailed`, and ends.
    """

    path: str
    ctx_size: int = 4096
    parallel: int = 4
    batch_size: int = 512
    threads: int = 0
    gpu_layers: int = 0
    flash_attention: str = "auto"
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    use_mmap: bool = True
    use_mlock: bool = False
    swa_full: bool = False
    checkpoints_mb: int = 256
    open_objects: bool = False
    drafts: bool = True
    projector: str | None = None
    adapters: tuple[Adapter, ...] = ()
    draft_model: str | None = None
    examine: bool = False
    cache_ram: int = 0
    cache_dir: str | None = None
    cache_disk: int = 0
    sha256: str = ""

    def of_draft(self) -> Load:
        """Return the command that would serve the draft model alone: with the same slots. It
        computes few tokens at once, so that no step waits long for it."""
        return msgspec.structs.replace(
            self,
            path=self.draft_model or "",
            batch_size=max(self.parallel, min(self.batch_size, MAX_DRAFT_BATCH)),
            kv_type_k=PLAIN,
            kv_type_v=PLAIN,
            swa_full=True,  # rejected tokens and other prefixes are cut off anywhere
            checkpoints_mb=0,
            projector=None,
            adapters=(),
            draft_model=None,
            cache_ram=0,
            cache_disk=0,
            sha256="",
        )


class Submit(msgspec.Struct, frozen=True, tag=True):
    id: int
    request: GenerationRequest


class Embed(msgspec.Struct, frozen=True, tag=True):
    id: int
    request: EmbeddingRequest


class LookUp(msgspec.Struct, frozen=True, tag=True):
    id: int
    query: TokenQuery


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Cancel a request, of which no further event comes, or end one ``choice`` of it, whose last
    delta follows. Idempotent. An unknown id is no error, because the request may just have ended.
    """

    id: int
    choice: int | None = None


class Ping(msgspec.Struct, frozen=True, tag=True):
    number: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the process. The server has already ended the running requests.

    ``seconds`` is the time for writing prefixes to disk before; 0 for none.
    """

    seconds: float = 0.0


Command = Load | Submit | Embed | LookUp | Cancel | Ping | Stop

# --- worker to server -------------------------------------------------------------------------


class ModelInfo(msgspec.Struct, frozen=True):
    """The properties of a loaded model. Sizes are in tokens unless stated otherwise."""

    path: str
    description: str
    n_vocab: int
    n_ctx: int
    """Context of one sequence: prompt plus answer."""
    n_ctx_train: int
    n_params: int
    size_bytes: int
    n_parallel: int
    kv_bytes: int
    chat_template: str | None
    bos_text: str
    eos_text: str
    pad_text: str
    add_bos: bool
    control_texts: tuple[str, ...]
    """Texts of all control tokens. Text from a user must not become one of these tokens."""
    fingerprint: str
    """Hash of everything that can change the logits: build, file, context, setting of threads."""
    metadata: dict[str, str]
    pooling: str = "mean"
    """How the states of an input's tokens become its vector: one of :data:`POOLINGS`."""
    generates: bool = True
    """Whether it generates text; models made for embedding or ranking do not."""
    control_ids: dict[str, int] = {}
    """Ids of the ``control_texts``."""
    has_vision: bool = False
    """Whether there is a projector for images."""
    n_threads: int = 1
    """Threads at the beginning; the number changes unless the settings fix it."""
    chat_templates: dict[str, str] = {}
    """Further templates of the file by name, such as ``tool_use``."""
    flash_attention: bool = False
    """Whether its sequences are computed with flash attention."""
    attention_reason: str = ""
    """Why, in words for the log."""

    @property
    def is_base(self) -> bool:
        """Whether it generates text and has no chat template."""
        return self.generates and not (self.chat_template or "").strip()


POOLINGS = ("mean", "cls", "last", "rank")
"""Mean of all states, the first, the last, or the score that a classification head computes."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token with its logprob.

    ``top`` lists the most likely tokens, best first, as ``(piece bytes, logprob)``. The piece of a
    control token is its text in the vocabulary. ``silent`` says that the token adds no text.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()
    silent: bool = False


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
    """The text of a prompt that came as token ids, if the request needs it."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """The request got a slot. With ``computing``, its prefill begins with the next decode;
    otherwise it is parked, and a second event follows when its prefill begins."""

    id: int
    computing: bool = True


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
    ``finish_reason`` is set once per choice, in its last delta: ``"stop"`` or ``"length"``.
    ``completion_tokens`` is the number of tokens of the choice so far, ``cached_tokens`` the number
    of prompt tokens that a slot already held. ``prompt`` has the next tokens of the prompt with
    their logprobs; deltas with it come first, for choice 0 only, and contain nothing else. So do
    those with ``progress``. ``times`` is in the last delta, and in all if the request asks for it.
    So are the numbers of tokens that were ``drafted`` for the choice so far, that is proposed and
    decoded, and of those of them that are in the answer (``draft_accepted``).
    ``prediction_accepted`` is the number of tokens of the request's prediction that the choice
    contains so far, ``prediction_rejected`` that of the others.
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


class TokenResult(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The result of a :class:`TokenQuery`; ``pieces`` and ``names`` only if it asks for them."""

    id: int
    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """The result for one input of an :class:`EmbeddingRequest`.

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


class Loading(msgspec.Struct, frozen=True, tag=True):
    """The weights are being loaded. ``progress``: the part that is loaded, 0 to 1."""

    progress: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    info: ModelInfo


class Examined(msgspec.Struct, frozen=True, tag=True):
    """The file can be loaded, as far as that can be known without loading its weights."""


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """``lasting``: the file itself is at fault, so loading will fail until it is replaced."""

    message: str
    lasting: bool = False


class Pong(msgspec.Struct, frozen=True, tag=True):
    """Response to a Ping. ``busy_for``: seconds that the loop has been in its current step.
    ``threads``: the numbers of threads in use for decode and for prefill; empty while the model is
    being loaded."""

    number: int
    busy_for: float
    running: int
    waiting: int
    threads: tuple[int, ...] = ()


EngineEvent = Tokenising | Accepted | Started | Delta | Embedded | TokenResult | Failed


class Step(msgspec.Struct, frozen=True, tag=True):
    """Events in one frame: those of one step of the loop, or those of another thread."""

    events: tuple[EngineEvent, ...]


Report = Step | Loading | Ready | Examined | LoadFailed | Pong

# --- frames -----------------------------------------------------------------------------------

_HEADER = struct.Struct("<I")
_READ_SIZE = 1 << 16


def _plain(value: Any) -> Any:
    if isinstance(value, MappingProxyType):  # the biases of SamplingParams
        return dict(value)
    raise TypeError(f"{type(value).__name__} does not cross the pipe")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_command_decoder = msgspec.msgpack.Decoder(Command)
_report_decoder = msgspec.msgpack.Decoder(Report)


def encode_frame(message: Command | Report) -> bytes:
    """Return the whole frame of a message.

    Raises:
        FrameTooLarge: its body would be longer than :data:`MAX_FRAME`.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise FrameTooLarge(f"{len(body)} bytes are more than the {MAX_FRAME} of a frame")
    return _HEADER.pack(len(body)) + body


def _check_length(length: int) -> None:
    if length > MAX_FRAME:
        raise ValueError(f"frame of {length} bytes: the pipe is out of step")


def _read_body(stream: IO[bytes]) -> bytes | None:
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    _check_length(length)
    body = stream.read(length)
    return body if len(body) == length else None


def read_command(stream: IO[bytes]) -> Command | None:
    """Return the next command, or None at the end of the pipe (also inside a frame)."""
    body = _read_body(stream)
    return None if body is None else _command_decoder.decode(body)


def read_reports(stream: IO[bytes]) -> Iterator[list[Report]]:
    """Yield the reports that came since the last yield, at least one, until the pipe ends.

    Args:
        stream: a pipe that no other code reads from.

    Raises:
        ValueError, msgspec.DecodeError: the pipe is out of step.
    """
    fd = stream.fileno()
    buffer = bytearray()
    while data := os.read(fd, _READ_SIZE):
        buffer += data
        if reports := take_reports(buffer):
            yield reports


def take_reports(buffer: bytearray) -> list[Report]:
    """Remove all complete frames from a buffer and return their reports.

    Raises:
        ValueError, msgspec.DecodeError: the buffer does not begin with a frame.
    """
    reports: list[Report] = []
    at = 0
    while len(buffer) - at >= _HEADER.size:
        (length,) = _HEADER.unpack_from(buffer, at)
        _check_length(length)
        end = at + _HEADER.size + length
        if end > len(buffer):
            break
        reports.append(_report_decoder.decode(memoryview(buffer)[at + _HEADER.size : end]))
        at = end
    del buffer[:at]
    return reports
