"""How a model is divided among machines, and when: simulated machines with a model of 8 B."""

from __future__ import annotations

from dataclasses import replace

import pytest
from llama_8b import AVX2, LLAMA_8B
from msgspec import structs

from offgrid.engine.client.fit import Candidate, Fit, choose, measure, refusal
from offgrid.engine.client.spread import AUTOMATIC, Demand, Lent, spread
from offgrid.engine.memory import GIB, MIB
from offgrid.engine.protocol.commands import Load
from offgrid.rpc.endpoint import Placed, RpcServer

ANN, BOB, CAT = (RpcServer(name, ("10.0.0.1",), 11613, "PEM") for name in ("ann", "bob", "cat"))
DEMAND = Demand(32, 100 * MIB, 200 * MIB)
SIZES = replace(LLAMA_8B, layers=(120 * MIB,) * 32)
CANDIDATE = Candidate(Load("llama-8b.gguf"), sizes=SIZES)


def room(server: RpcServer, layers: float) -> Lent:
    """A machine with room for so many layers."""
    return Lent(server, int(DEMAND.compute + 64 * MIB + layers * DEMAND.layer))


def given(
    lent: list[Lent], asked: int = AUTOMATIC, need: int = 1, demand: Demand = DEMAND
) -> dict[str, int] | None:
    """Server -> layers, if this machine can do without ``need`` layers or more."""
    placed = spread(demand, lent, asked, lambda count: count >= need)
    return None if placed is None else {one.server.name: one.layers for one in placed}


def test_others_get_only_the_layers_that_have_no_room_here() -> None:
    lent = [room(ANN, 10), room(BOB, 20)]
    assert given(lent, need=5) == {"bob": 5}
    assert given(lent, need=20) == {"bob": 20}
    assert given(lent, need=23) == {"bob": 20, "ann": 3}
    assert given(lent, need=31) is None


def test_a_number_of_layers_is_shared_as_memory_allows() -> None:
    lent = [room(ANN, 10), room(BOB, 30)]
    assert given(lent, asked=8) == {"ann": 2, "bob": 6}
    assert given(lent, asked=100_000) == {"ann": 8, "bob": 24}
    assert given([room(ANN, 10)], asked=11) is None
    assert given(lent, asked=4, need=5) is None
    assert given(lent, asked=0) is None


def test_parts_are_whole_and_within_the_rooms() -> None:
    for rooms in ((1, 1, 1), (1, 2, 5), (7, 1, 3), (11, 0, 4)):
        lent = [room(server, size) for server, size in zip((ANN, BOB, CAT), rooms, strict=True)]
        for asked in range(1, sum(rooms) + 1):
            parts = given(lent, asked=asked)
            assert parts is not None
            assert sum(parts.values()) == asked
            for one, size in zip(lent, rooms, strict=True):
                assert parts.get(one.server.name, 0) <= size


def test_machines_that_cannot_be_used_get_nothing() -> None:
    lent = [Lent(ANN, 100 * GIB, "the RPC worker ann cannot be reached"), room(BOB, 4)]
    assert given(lent, need=4) == {"bob": 4}
    assert given(lent, need=5) is None


def test_without_sizes_the_number_is_believed() -> None:
    lent = [Lent(ANN, 0), Lent(BOB, 0)]
    assert given(lent, asked=6, demand=Demand(0, 0, 0)) == {"ann": 3, "bob": 3}


# --- with the memory of this machine --------------------------------------------------------------


def fit_into(free: float, lent: float, asked: int = AUTOMATIC, **fields: bool) -> Fit | None:
    lender = (Lent(ANN, int(lent * GIB)),) if lent else ()
    candidate = replace(CANDIDATE, lent=lender, remote_layers=asked)
    return choose(candidate, int(free * GIB), repacked=AVX2, **fields)


def layers(fit: Fit | None) -> int:
    assert fit is not None
    assert fit.fits
    return fit.load.remote_layers


def test_a_model_that_has_room_here_stays_here() -> None:
    for free in (16.0, 8.0, 6.5, 5.3):
        assert layers(fit_into(free, 64.0)) == 0


def test_memory_of_others_comes_before_a_shorter_context() -> None:
    alone, lent = fit_into(4.7, 0), fit_into(4.7, 64.0)
    assert alone is not None
    assert lent is not None
    assert (alone.context, lent.context) == (1536, 4096)
    assert lent.load.parallel == CANDIDATE.load.parallel
    assert 0 < layers(lent) < 32


@pytest.mark.slow
@pytest.mark.parametrize("free", [1.0, 2.0, 3.0])
def test_a_model_that_is_larger_than_this_machine_is_divided(free: float) -> None:
    assert fit_into(free, 0) is None
    fit = fit_into(free, 64.0)
    one_less = replace_layers(fit, layers(fit) - 1)
    assert not one_less.fits  # no more than necessary
    assert fit_into(free, 1.0) is None  # not even with both


def replace_layers(fit: Fit | None, count: int) -> Fit:
    assert fit is not None
    load = structs.replace(fit.load, rpc=(Placed(ANN, count),))
    return measure(CANDIDATE, load, fit.free, AVX2)


def test_the_less_is_free_the_more_layers_go() -> None:
    counts = [layers(fit_into(free, 64.0)) for free in (3.0, 2.5, 2.0, 1.5, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_another_model_is_unloaded_rather_than_memory_is_borrowed() -> None:
    assert fit_into(3.0, 64.0, shorten=False, borrow=False) is None


def test_the_setting_divides_models_that_have_room_here() -> None:
    assert layers(fit_into(64.0, 64.0, asked=7)) == 7
    assert layers(fit_into(64.0, 64.0, asked=100_000)) == 32
    assert layers(fit_into(64.0, 64.0, asked=0)) == 0
    assert layers(fit_into(64.0, 64.0, asked=7, shorten=False)) == 7
    assert fit_into(64.0, 0.5, asked=7) is None


def test_layers_on_a_gpu_are_those_that_are_left() -> None:
    load = Load("x", gpu_layers=-1)
    candidate = replace(CANDIDATE, load=load, lent=(Lent(ANN, 64 * GIB),), remote_layers=10)
    fit = choose(candidate, GIB, repacked=AVX2)
    assert fit is not None
    assert (fit.load.remote_layers, fit.load.gpu_layers) == (10, 22)
    alone = choose(replace(candidate, remote_layers=AUTOMATIC), GIB, repacked=AVX2)
    assert alone is not None
    assert (alone.load.remote_layers, alone.load.gpu_layers) == (0, -1)


def test_a_server_with_gpus_gives_others_layers_as_their_memory_allows() -> None:
    """Nothing is known of the memory of this machine's GPUs."""
    load = Load("x", gpu_layers=-1, ctx_size=4096)
    lent = (Lent(ANN, GIB), Lent(BOB, 3 * GIB))
    candidate = replace(CANDIDATE, load=load, lent=lent, remote_layers=8)
    fit = choose(candidate, 0, repacked=AVX2)
    assert fit is not None
    parts = {one.server.name: one.layers for one in fit.load.rpc}
    assert sum(parts.values()) == 8
    assert parts["ann"] < parts["bob"]
    for one, part in zip(lent, fit.borrowed, strict=True):
        assert one.server == part.server
        assert 0 < part.size < one.free
    assert choose(replace(candidate, remote_layers=32), 0, repacked=AVX2) is None


def test_the_messages_name_the_machines() -> None:
    fit = fit_into(2.0, 64.0)
    assert f"; {layers(fit)} layers on ann" in str(fit)
    lent = (Lent(ANN, GIB), Lent(BOB, problem="the RPC worker bob cannot be reached"))
    message = refusal(replace(CANDIDATE, lent=lent), GIB, AVX2)
    assert "The RPC worker ann has 1.0 GiB free; the RPC worker bob cannot be reached." in message
    message = refusal(replace(CANDIDATE, lent=lent, remote_layers=7), 64 * GIB, AVX2)
    assert message.startswith("rpc_layers puts layers on other machines")
    assert message.endswith("the RPC worker bob cannot be reached.")
    wrong = (Lent(BOB, problem="rpc_servers: 'bob' is not a peer"),)
    message = refusal(replace(CANDIDATE, lent=wrong), GIB, AVX2)
    assert " rpc_servers: 'bob' is not a peer. " in message
