"""Loads the draft model: a second, smaller model with the vocabulary of the first."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.same_vocabulary import Named, first_difference

ADVICE = "choose another draft model, or none"


class DraftFile(Model):
    """A loaded draft model. It computes logits and reads no texts."""

    def index_pieces(self) -> None:
        """Do nothing: only texts of requests need the index, which takes time and memory."""


def load_draft(load: Load, main: Model) -> DraftFile | None:
    """Load the draft model that belongs to a model; None if there is none.

    Args:
        load: the command with which the main model was loaded.
        main: that model.

    Raises:
        LoadError: the draft model does not load, its vocabulary differs, or one of the two models
            cannot be used with drafts.
    """
    if load.draft_model is None:
        return None
    own, name = Path(load.path).name, Path(load.draft_model).name
    if not main.generates:
        raise LoadError(f"it does not generate text, so it needs no draft model; {ADVICE}.")
    if not main.can_cut_tail:
        raise cannot_cut(own, own)
    try:
        draft = DraftFile(structs.replace(load.of_draft(), ctx_size=main.n_ctx))
    except LoadError as ex:
        raise LoadError(f"its draft model {name}: {ex}", lasting=ex.lasting) from None
    try:
        if not draft.generates:
            raise LoadError(
                f"its draft model {name} does not generate text; {ADVICE}.", lasting=True
            )
        check_vocabulary(Named(own, main.pointer), Named(name, draft.pointer))
        if not draft.can_cut:
            raise cannot_cut(name, own)
    except LoadError:
        draft.close()
        raise
    return draft


def check_vocabulary(main: Named, draft: Named) -> None:
    """Refuse a draft model whose vocabulary differs from that of the main model.

    Raises:
        LoadError: the message names both files and the first difference.
    """
    difference = first_difference(main, draft)
    if difference is not None:
        raise LoadError(
            f"its draft model {draft.name} has another vocabulary than {main.name}: {difference}. "
            f"Please {ADVICE}.",
            lasting=True,
        )


def cannot_cut(name: str, main: str) -> LoadError:
    """Return the error about a model of the pair whose memory keeps rejected drafts."""
    return LoadError(
        f"{main} cannot have a draft model, because the memory of {name} (recurrent or hybrid) "
        f"cannot remove rejected tokens; {ADVICE}.",
        lasting=True,
    )
