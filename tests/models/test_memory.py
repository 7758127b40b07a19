"""The estimate of a real model's memory, beside the memory of its worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.estimate import estimate
from offgrid.engine.client.processor import repacked_types
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import GenerationRequest, Grammar
from offgrid.sampling import SamplingParams
from offgrid.store.description import describe

pytestmark = pytest.mark.models

CONTEXT, SLOTS, ANSWER = 1024, 2, 4


@pytest.fixture(params=["on", "off"])
def client(smollm2: Path, request: pytest.FixtureRequest) -> Iterator[EngineClient]:
    load = Load(
        str(smollm2), ctx_size=CONTEXT, parallel=SLOTS, flash_attention=request.param, threads=1
    )
    client = EngineClient(load, queue_size=1, load_timeout=600, stall_timeout=600, name="real")
    client.start()
    client.wait_ready()
    yield client
    client.close()


def ask(client: EngineClient, first: int, tokens: int, grammar: Grammar | None = None) -> int:
    """Let a model answer a prompt; return the resident bytes of its worker afterwards."""
    ids = tuple(10 + (first + 7 * index) % 200 for index in range(tokens - ANSWER))
    sampling = SamplingParams(temperature=0.0)
    generation = client.submit(
        GenerationRequest(
            tokens=ids, sampling=sampling, max_tokens=ANSWER, ignore_eos=grammar is None,
            grammar=grammar,
        )
    )  # fmt: skip
    while not generation.finished:
        generation.next(60.0)
    assert not generation.failed
    assert client.pid is not None
    return int(psutil.Process(client.pid).memory_info().rss)


def test_the_estimate_is_what_full_contexts_take(client: EngineClient) -> None:
    """An idle model takes less: its slots take memory as they fill."""
    sizes = describe([Path(client.load.path)]).sizes
    assert sizes is not None
    found = estimate(sizes, client.load, repacked_types())
    idle = ask(client, 0, 16, Grammar("regex", "[a-z ]{4,64}", "regex"))  # prepares for grammars
    full = max(ask(client, slot + 1, CONTEXT) for slot in range(SLOTS))
    assert found.total == pytest.approx(full, rel=0.1)
    if sys.platform == "linux":
        assert full - idle > found.cache
