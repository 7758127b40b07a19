"""Which models fit next to each other. A simulated machine; workers are in test_pool_memory.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from llama_8b import LLAMA_8B

from offgrid.engine.client.budget import Budget
from offgrid.engine.client.fit import UNLIMITED, Candidate, Fit, choose, measure
from offgrid.engine.client.spread import Lent
from offgrid.engine.memory import GIB, MIB
from offgrid.engine.protocol.commands import Load
from offgrid.errors import ModelLoadFailed
from offgrid.rpc.endpoint import RpcServer

SMALL = replace(LLAMA_8B, data=GIB, matrices={}, keys=1024, values=1024, padded_values=1024)
CANDIDATE = Candidate(Load("small.gguf"), sizes=SMALL, name="small")
NEEDS = measure(CANDIDATE, CANDIDATE.load).needs
LEAST = measure(CANDIDATE, Load("x", parallel=1)).needs


@dataclass
class Model:
    """A loaded model, whose worker holds ``pid`` bytes."""

    fit: Fit
    pid: int | None
    pinned: bool = False
    ready_since: float | None = None


def loaded(held: int | None) -> Model:
    fit = choose(CANDIDATE, UNLIMITED)
    assert fit is not None
    return Model(fit, held)


def budget(free: float, limit: float | None = None) -> Budget:
    size = None if limit is None else int(limit)
    return Budget(size, free=lambda: int(free), held=lambda pid: pid)


def test_memory_that_a_loading_model_will_need_is_not_free() -> None:
    assert budget(2 * NEEDS).place(CANDIDATE, [loaded(0)], False) is not None
    fit = budget(2 * NEEDS - MIB).place(CANDIDATE, [loaded(0)], False)
    assert fit is not None
    assert fit.lowered
    # A model that has started holds its memory already, and the rest is promised to it.
    fit = budget(1.5 * NEEDS).place(CANDIDATE, [loaded(NEEDS // 2)], False)
    assert fit is not None
    assert fit.free == int(1.5 * NEEDS) - (NEEDS - NEEDS // 2)


def test_another_model_is_unloaded_rather_than_the_context_gets_shorter() -> None:
    free = LEAST - MIB
    assert budget(free).place(CANDIDATE, [loaded(NEEDS)], False) is None
    fit = budget(free).place(CANDIDATE, [], False)
    assert fit is not None
    assert fit.lowered == ("ctx_size", "parallel")


def test_no_model_is_unloaded_for_one_that_can_never_fit() -> None:
    large = replace(CANDIDATE, sizes=replace(SMALL, data=8 * GIB))
    with pytest.raises(ModelLoadFailed, match="The model small cannot be loaded: it needs 8") as ex:
        budget(GIB).place(large, [loaded(GIB)], False)
    assert "and 2.0 GiB of memory is free" in str(ex.value)


def test_the_memory_of_pinned_models_is_never_free() -> None:
    pinned = replace(loaded(NEEDS), pinned=True)
    with pytest.raises(ModelLoadFailed, match="and 100 MiB of memory is free"):
        budget(100 * MIB).place(CANDIDATE, [pinned], False)
    # No other model could make room: the context gets shorter.
    fit = budget(LEAST - MIB).place(CANDIDATE, [pinned], False)
    assert fit is not None
    assert "ctx_size" in fit.lowered
    with pytest.raises(ModelLoadFailed):
        budget(64 * GIB, 1.1 * NEEDS).place(CANDIDATE, [pinned], False)


def test_nothing_is_decided_while_memory_is_being_freed() -> None:
    assert budget(0).place(CANDIDATE, [], True) is None
    assert budget(2 * NEEDS).place(CANDIDATE, [], True) is not None
    assert budget(64 * GIB, 2 * NEEDS).place(CANDIDATE, [], True) is None


@pytest.mark.parametrize("free", [2 * NEEDS, 64 * GIB])
def test_a_budget_limits_what_models_need_together(free: int) -> None:
    one = budget(free, 1.5 * NEEDS)
    assert one.place(CANDIDATE, [], False) is not None
    fixed = replace(CANDIDATE, given=frozenset({"parallel"}))
    assert one.place(fixed, [loaded(NEEDS)], False) is None
    with pytest.raises(ModelLoadFailed):
        budget(free, 0.5 * LEAST).place(CANDIDATE, [], False)


def test_a_budget_is_no_promise_of_free_memory() -> None:
    with pytest.raises(ModelLoadFailed, match="100 MiB of memory is free"):
        budget(100 * MIB, 64 * GIB).place(CANDIDATE, [], False)


def test_without_a_limit_nothing_is_compared() -> None:
    fit = budget(0, 0).place(CANDIDATE, [loaded(NEEDS)], False)
    assert fit is not None
    assert fit.lowered == ()
    assert "free" not in str(fit)


def test_a_mapped_file_that_the_user_wants_is_not_kept() -> None:
    chosen = measure(replace(CANDIDATE, given=frozenset({"use_mmap"})), CANDIDATE.load)
    assert chosen.keeps == chosen.needs == NEEDS - SMALL.data


def test_a_preview_shows_what_would_happen() -> None:
    assert budget(16 * GIB).preview(CANDIDATE).fits
    instead = budget(0).preview(CANDIDATE, [loaded(2 * NEEDS)])
    assert instead.fits
    never = budget(MIB).preview(CANDIDATE)
    assert not never.fits
    assert never.load == CANDIDATE.load


# --- memory of other machines ---------------------------------------------------------------------

ANN = RpcServer("ann", ("10.0.0.1",), 11613, "PEM")
TUNNEL = RpcServer("127.0.0.1:50052", ("127.0.0.1",), 50052)
LARGE = replace(LLAMA_8B, layers=(300 * MIB,) * 32, data=32 * 300 * MIB, matrices={})
HERE, THERE = 4 * GIB, 12 * GIB
ASKED = 100.0
"""When the server was asked what it lends."""


def large(free: int, server: RpcServer = ANN, problem: str = "") -> Candidate:
    """A model that needs other machines: this one has room for a third of it."""
    lent = Lent(server, free, problem, ASKED)
    return Candidate(Load("large.gguf"), sizes=LARGE, name="large", lent=(lent,))


def borrowing(ready_since: float | None, server: RpcServer = ANN, pinned: bool = False) -> Model:
    """A model that borrows more than half of what the server has."""
    fit = choose(large(THERE, server), HERE)
    assert fit is not None
    [part] = fit.borrowed
    assert THERE / 2 < part.size < THERE
    return Model(fit, fit.keeps, pinned, ready_since)


@pytest.mark.parametrize("ready_since", [ASKED - 1, ASKED + 1, None])
def test_a_model_gives_back_what_it_has_borrowed(ready_since: float | None) -> None:
    """So it can be unloaded for another one that needs as much there."""
    model = borrowing(ready_since)
    left = THERE - model.fit.borrowed[0].size
    one = budget(HERE - model.fit.keeps)
    assert one.place(large(left), [model], False) is None
    assert one.preview(large(left), [model]).fits
    with pytest.raises(ModelLoadFailed, match="The RPC worker ann has"):
        one.place(large(left), [replace(model, pinned=True)], False)
    larger = replace(LARGE, layers=(600 * MIB,) * 32, data=32 * 600 * MIB)
    with pytest.raises(ModelLoadFailed, match="The RPC worker ann has"):
        one.place(replace(large(left), sizes=larger), [model], False)


def test_ggmls_own_server_answers_nobody_while_a_model_uses_it() -> None:
    model = borrowing(ASKED - 1, TUNNEL)
    silent = large(0, TUNNEL, "the RPC server 127.0.0.1:50052: it has not answered")
    assert budget(0).place(silent, [model], False) is None
    with pytest.raises(ModelLoadFailed, match="it has not answered"):
        budget(HERE).place(silent, [], False)


def test_lent_memory_is_promised_once() -> None:
    """A server counts only the models that were loaded when it was asked."""
    one, wanted = budget(HERE), large(THERE)
    counted = borrowing(ASKED - 1, pinned=True)
    found = one.place(wanted, [counted], False)
    assert found is not None
    assert found.borrowed
    for since in (ASKED + 1, None):
        promised = replace(borrowing(since, pinned=True), pid=counted.fit.keeps)
        with pytest.raises(ModelLoadFailed, match="The RPC worker ann has"):
            one.place(wanted, [promised], False)


def test_nothing_is_lowered_while_lent_memory_is_given_back() -> None:
    one, short, few = budget(HERE), int(6.5 * GIB), 7 * GIB
    for free in (GIB, short, few):
        assert one.place(large(free), [], False, returning=True) is None
    with pytest.raises(ModelLoadFailed):
        one.place(large(GIB), [], False)
    for free, lowered in ((short, ("ctx_size", "parallel")), (few, ("parallel",))):
        fit = one.place(large(free), [], False)
        assert fit is not None
        assert fit.lowered == lowered
    fit = one.place(large(THERE), [], False, returning=True)
    assert fit is not None
    assert fit.lowered == ()
