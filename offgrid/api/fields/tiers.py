"""The class of a request: OpenAI's ``service_tier``, which vLLM's ``priority`` may set too."""

from __future__ import annotations

from typing import Literal

from offgrid.engine.protocol.requests import BATCH, INTERACTIVE, NORMAL

ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]
Tier = Literal["priority", "default", "flex"]
"""What a response says."""
LEVELS: dict[str, int] = {
    "flex": BATCH, "priority": INTERACTIVE, "fast": INTERACTIVE, "ultrafast": INTERACTIVE,
}  # fmt: skip
"""Tier -> class. The others leave the choice to ``priority``."""
TIERS: dict[int, Tier] = {INTERACTIVE: "priority", NORMAL: "default", BATCH: "flex"}


def level_of(tier: str, priority: int) -> int:
    """Return the class of a request: its tier decides, or else vLLM's ``priority``."""
    by_priority = INTERACTIVE if priority < 0 else BATCH if priority > 0 else NORMAL
    return LEVELS.get(tier, by_priority)
