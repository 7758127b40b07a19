"""Whether a model is computed with flash attention, as far as nothing has to be measured for it.

Flash attention computes keys, scores and values in one pass, so that no scores are kept in memory.
Server and worker apply the same rules: the server to estimate the memory, the worker to load.
"""

from __future__ import annotations

from dataclasses import dataclass

from offgrid.engine.kv_types import is_quantised
from offgrid.engine.memory import MIB, written
from offgrid.engine.protocol.commands import Load

MAX_SCORES = 512 * MIB
"""Most bytes of the scores of one call without flash attention, unless a setting asks for it."""
_SCORE = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether flash attention is on, and the reason in words for the log."""

    on: bool
    reason: str

    def __str__(self) -> str:
        return f"flash attention {'on' if self.on else 'off'} ({self.reason})"


def fixed_choice(
    load: Load, context: int, tokens: int, heads: int, *, values: str | None = None
) -> Choice | None:
    """Return the choice that needs no measurement; None if both ways are possible.

    Args:
        load: how the model is loaded.
        context: tokens of a slot.
        tokens: most tokens that llama.cpp computes at once.
        heads: heads of a layer.
        values: type of the values, if it is not the one of ``load``.
    """
    values = load.kv_type_v if values is None else values
    if is_quantised(values):
        return Choice(True, f"{values} values need it")
    if load.flash_attention != "auto":
        return Choice(load.flash_attention == "on", "as set")
    if load.gpu_layers != 0:
        return Choice(True, "layers on a GPU")
    if load.rpc:
        return Choice(True, "layers on other machines")
    scores = _SCORE * context * tokens * heads
    if scores > MAX_SCORES:
        return Choice(True, f"scores would take {written(scores)}")
    return None
