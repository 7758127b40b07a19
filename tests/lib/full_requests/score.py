"""Scores of pairs of texts."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import NOTES
from full_requests.shared.generation import INERT, STAY

_SIDES: list[Json] = [
    {"text_1": "otter", "text_2": ["river", "fox"]},
    {"data_1": ["otter"], "data_2": {"content": [{"type": "text", "text": "river"}]}},
    {"queries": "otter", "documents": ["river", "fox"]},
]


def score_requests(ranking: str) -> list[Full]:
    """The endpoint under both paths, with all names of the two sides."""
    return [
        Full(
            path,
            {"model": ranking},
            {**INERT, **NOTES, **STAY, "use_activation": False},
            (_SIDES,),
        )
        for path in ("/v1/score", "/score")
    ]
