"""The starter as an LLM, once for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import STARTER

from offgrid import LLM


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(STARTER, threads=1) as llm:
        yield llm
