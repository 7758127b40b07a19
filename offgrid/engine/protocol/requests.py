"""What the server asks of a model: to generate, to embed or to tokenise."""

from __future__ import annotations

import msgspec

from offgrid.filters.program import FilterProgram
from offgrid.grammar.checked import CheckedSchema
from offgrid.sampling.params import SamplingParams

INTERACTIVE, NORMAL, BATCH = range(3)
"""Classes of requests: ``engine/worker/scheduler/queue.py`` says what they mean."""


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


class Excerpt(msgspec.Struct, frozen=True, array_like=True):
    """A part of another file of a project, as context for filling in."""

    filename: str
    text: str


class Infill(msgspec.Struct, frozen=True, omit_defaults=True):
    """The text around the place where an answer is filled in; no text in it becomes a control
    token.

    ``typed`` is the end of the text before the place, which is never cut. If the whole does not fit
    into the context, the oldest ``excerpts`` are left out first, then the beginning of ``before``
    and the end of ``after``.
    """

    before: str
    after: str
    typed: str = ""
    excerpts: tuple[Excerpt, ...] = ()
    """The most relevant one last."""


class Branch(msgspec.Struct, frozen=True, array_like=True):
    """A continuation of a request's prompt, and the texts of which one may follow it.

    ``parts`` follow the prompt; the last of them ends where an answer begins. ``choices`` are
    plain text: nothing in them becomes a control token. ``param`` is the request field that error
    messages name.
    """

    parts: tuple[PromptPart, ...]
    choices: tuple[str, ...]
    param: str = "prompt"


class NextToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """Asks for the logits of one token: the one that follows the prompt and a part of an answer.

    ``answer`` is what the answer has so far: token ids, or a text in which nothing becomes a
    control token. ``param`` is the request field that error messages about it name.
    """

    answer: str | tuple[int, ...] = ()
    param: str = "continuation"


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One prompt and how to continue it.

    With ``branches`` nothing is generated. Each branch continues the prompt, and the logprob of
    each of its choices is computed: see
    :class:`~offgrid.engine.protocol.events.BranchLogprobs`. Nor is it with ``next_token``, which
    needs ``max_tokens`` 0: see :class:`~offgrid.engine.protocol.events.LogitsRow`.

    Exactly one of ``parts``, ``tokens`` and ``infill`` is the prompt. ``images`` are the files to
    which parts refer, with the request field of each in ``image_params``. ``max_tokens`` of
    ``None`` means until the model ends its answer or the context is full. ``top_logprobs`` of
    ``None`` means no logprobs; 0 or more means those of the sampled token and of that many
    alternatives. They are of the model's own distribution or, with ``post_sampling``, of the one
    that the draw used.
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
    banned_strings: tuple[str, ...] = ()
    """None of them appears in the text of the answer."""
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
    infill: Infill | None = None
    t_max_predict_ms: int = 0
    """Milliseconds from the first token of the answer after which the answer ends with its next
    line end; 0 for no limit."""
    n_indent: int = 0
    """Spaces or tabs with which each line of the answer but the first must begin: the answer ends
    before the first line that does not."""
    ids: bool = False
    """Whether logprobs have the ids of alternatives, and deltas the slot."""
    grammar: Grammar | None = None
    """Tokens that would violate it are never sampled."""
    reasoning_budget: ReasoningBudget | None = None
    visible: tuple[str, ...] = ()
    """Texts of the control tokens that appear as text in the answer; all others do not."""
    prompt_param: str = "prompt"
    """The request field that error messages about the prompt name."""
    images: tuple[bytes, ...] = ()
    image_params: tuple[str, ...] = ()
    filter: FilterProgram | None = None
    """The content filter. On the pipe it is only named: see ``UseFilter``."""
    prediction: str | None = None
    """A text that the answer is expected to repeat in large parts; it only saves time."""
    label: str = ""
    """The id of the request that its client knows, for log lines."""
    owner: str = ""
    """The caller. Slots, prefill and places in the queue are shared by caller."""
    priority: int = NORMAL
    """Its class: :data:`INTERACTIVE`, :data:`NORMAL` or :data:`BATCH`."""
    partition: str = ""
    """Whose prefixes it may use, and who may use its prefixes: requests with the same text."""
    cache_salt: str = ""
    """The same, chosen by the client, within ``partition``."""
    report_wait: bool = False
    """Whether ``Queued`` events tell how long it has to wait."""
    branches: tuple[Branch, ...] = ()
    branches_end: bool = True
    """Whether an end token must follow each choice of a branch."""
    next_token: NextToken | None = None


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
    label: str = ""
    """As for a :class:`GenerationRequest`."""
    owner: str = ""
    """The caller. Requests of each caller in turn are computed."""


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
    owner: str = ""
    """The caller. Queries of each caller in turn are answered."""
