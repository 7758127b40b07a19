"""Prompts for filling in a text between two others, in the format of the model.

The order is prefix, suffix, middle (Bavarian et al. 2022, "Efficient training of language models to
fill in the middle"). Excerpts of other files come first, in the format of Qwen2.5-Coder and
StarCoder2 for whole projects if the model has the tokens for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.context_length import check_text_size, text_limit, utf8_size
from offgrid.engine.protocol.requests import Excerpt, GenerationRequest, Infill
from offgrid.engine.worker.llama.model import Model
from offgrid.errors import InvalidParameter

Ids = NDArray[np.int32]

_PROJECT = "myproject\n"
_FILE = "filename\n"
"""Names of what the client does not name. llama-server writes the same ones."""
_BETWEEN = "\n\n--- snippet ---\n\n"
"""Before each excerpt, if the model has no token before the name of a file."""
_NAMELESS = "tmp"
_SUFFIX_SHARE = 4
"""One part in so many is the suffix's, if prefix and suffix do not fit."""


def check_fills_in(model: Model, param: str, name: str) -> None:
    """Refuse a request to fill in if the model has no tokens for it.

    Args:
        model: the model.
        param: the request field that the error names.
        name: what is not supported, in the words of the client.

    Raises:
        InvalidParameter: it has not.
    """
    if min(model.fim_ids) < 0:
        raise InvalidParameter(
            f"This model does not support {name}: it has no fill-in-the-middle tokens. Use a model "
            "that was trained to fill in code.",
            param,
            code="unsupported_parameter",
        )


def read_infill(model: Model, request: GenerationRequest, infill: Infill) -> tuple[Ids, bool]:
    """Return the token ids of a prompt, int32, and whether a part of its text was left out.

    The most recent excerpts, and the text that is nearest to the place, have precedence.

    Raises:
        InvalidParameter: the model has no tokens for filling in.
        ContextLengthExceeded: ``typed`` has more bytes than the context allows.
    """
    check_fills_in(model, "input_prefix", "/infill")
    check_text_size(utf8_size(infill.typed), model.n_ctx, "prompt")
    before_id, after_id, middle_id = model.fim_ids
    typed = model.tokenize_plain(infill.typed)
    bos = [model.bos] if model.add_bos else []
    room = model.n_ctx - _reserve(model.n_ctx, request.max_tokens) - len(typed) - len(bos) - 3
    texts = (infill.before, infill.after)
    before, after = texts[0][-text_limit(model.n_ctx) :], texts[1][: text_limit(model.n_ctx)]
    cut = (before, after) != texts
    prefix, suffix = model.tokenize_plain(before), model.tokenize_plain(after)
    if len(prefix) + len(suffix) > max(0, room):
        cut = True
        prefix, suffix = _nearest(prefix, suffix, max(0, room))
    excerpts, left_out = _excerpts(model, infill.excerpts, room - len(prefix) - len(suffix))
    pieces: list[Ids | list[int]] = [
        bos, *excerpts, [before_id], prefix, typed, [after_id], suffix, [middle_id],
    ]  # fmt: skip
    ids = np.concatenate([np.asarray(piece, dtype=np.int32) for piece in pieces])
    return ids, cut or left_out


def _reserve(n_ctx: int, max_tokens: int | None) -> int:
    """Return how many tokens of the context are kept for the answer: half of it at most."""
    return n_ctx // 4 if max_tokens is None else min(max_tokens, n_ctx // 2)


def _nearest(prefix: Ids, suffix: Ids, room: int) -> tuple[Ids, Ids]:
    """Return the end of a prefix and the beginning of a suffix that fit together."""
    n_suffix = min(len(suffix), max(room // _SUFFIX_SHARE, room - len(prefix)))
    n_prefix = min(len(prefix), room - n_suffix)
    return prefix[len(prefix) - n_prefix :], suffix[:n_suffix]


def _excerpts(
    model: Model, excerpts: tuple[Excerpt, ...], room: int
) -> tuple[list[Ids | list[int]], bool]:
    """Return what stands before the prefix: as many excerpts as fit, from the last one on; and
    whether some are left out."""
    if not excerpts:
        return [], False
    begin: list[int] = []
    if model.fim_repository >= 0:
        begin = [model.fim_repository, *model.tokenize_plain(_PROJECT).tolist()]
    end: list[int] = []
    if model.fim_file >= 0:
        end = [model.fim_file, *model.tokenize_plain(_FILE).tolist()]
    room -= len(begin) + len(end)
    found: list[list[int]] = []
    for excerpt in reversed(excerpts):
        size = utf8_size(excerpt.text) + utf8_size(excerpt.filename)
        ids = _excerpt(model, excerpt) if size <= text_limit(max(0, room)) else None
        if ids is None or len(ids) > room:
            # What surrounds the excerpts may have no room either.
            return [begin, *reversed(found), end] if room >= 0 else [], True
        found.append(ids)
        room -= len(ids)
    return [begin, *reversed(found), end], False


def _excerpt(model: Model, excerpt: Excerpt) -> list[int]:
    name = excerpt.filename or _NAMELESS
    if model.fim_file >= 0:
        head = [model.fim_file, *model.tokenize_plain(f"{name}\n").tolist()]
    else:
        head = model.tokenize_plain(_BETWEEN).tolist()
    return [*head, *model.tokenize_plain(excerpt.text).tolist()]
