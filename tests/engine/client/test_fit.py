"""How a model is loaded so that it fits into memory, and what is said if it does not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from llama_8b import AVX2, LLAMA_8B
from work import lines_run

from offgrid.engine.client.fit import Candidate, Fit, choose, measure, measure_loaded, refusal
from offgrid.engine.memory import GIB, MIB
from offgrid.engine.protocol.commands import Load

CANDIDATE = Candidate(Load("llama-8b.gguf"), sizes=LLAMA_8B)


def fit_into(free: float, *given: str, load: Load = CANDIDATE.load) -> Fit | None:
    candidate = replace(CANDIDATE, given=frozenset(given), load=load)
    return choose(candidate, int(free * GIB), repacked=AVX2)


@pytest.mark.parametrize(
    ("free", "slots", "context", "mapped"),
    [
        (16.0, 4, 4096, True), (8.0, 4, 4096, False), (6.5, 3, 4096, False),
        (5.3, 1, 4096, False), (5.0, 1, 3072, False), (4.7, 1, 1536, False),
    ],
)  # fmt: skip
def test_defaults_are_lowered_as_far_as_necessary(
    free: float, slots: int, context: int, mapped: bool
) -> None:
    fit = fit_into(free)
    assert fit is not None
    assert fit.fits
    assert (fit.load.parallel, fit.context, fit.load.use_mmap) == (slots, context, mapped)


def test_an_8b_model_in_q4_fits_into_a_cgroup_of_5_and_a_half() -> None:
    """The server itself takes 70 MiB there, and 2 percent stay free."""
    fit = fit_into(5.5 * 0.98 - 70 / 1024)
    assert fit is not None
    assert fit.context == 4096
    assert re.fullmatch(
        r"needs 5\.\d GiB with full contexts, 5\.3 GiB free; 1 slot of 4,096 tokens, "
        r"512 MiB of cache \(f16\) \(lowered to fit: parallel, use_mmap\)",
        str(fit),
    )


@pytest.mark.parametrize("given", ["parallel", "ctx_size", "use_mmap"])
def test_what_the_user_has_set_stays(given: str) -> None:
    fit = fit_into(16.0, given)
    assert fit is not None
    assert fit.load == CANDIDATE.load
    for free in (9.0, 7.0, 6.0, 5.3, 5.0):
        fit = fit_into(free, given)
        assert fit is None or getattr(fit.load, given) == getattr(CANDIDATE.load, given)
    assert fit_into(6.0, "parallel", "ctx_size", "use_mmap", load=Load("x", use_mmap=False)) is None


def test_a_mapped_file_that_the_user_wants_needs_no_free_memory() -> None:
    """The system can read the weights again and again."""
    fit = fit_into(5.9, "use_mmap")
    assert fit is not None
    assert fit.load.use_mmap
    assert fit.estimate is not None
    assert fit.needs == fit.estimate.total - fit.estimate.weights
    locked = fit_into(5.9, "use_mmap", load=Load("x", use_mlock=True))
    assert locked is None


def test_a_second_model_gets_fewer_slots_but_no_shorter_context() -> None:
    assert choose(CANDIDATE, int(5.0 * GIB), shorten=False, repacked=AVX2) is None


@pytest.mark.parametrize("load", [Load("x", gpu_layers=-1), Load("x")])
def test_models_of_which_nothing_is_known_are_loaded(load: Load) -> None:
    sizes = LLAMA_8B if load.gpu_layers else None
    fit = choose(Candidate(load, sizes=sizes), 1)
    assert fit is not None
    assert (fit.load, fit.estimate, fit.fits) == (load, None, True)
    assert str(fit)


def test_a_loaded_model_needs_what_its_worker_has_chosen() -> None:
    """With flash attention no scores; all else is as it was loaded."""
    placed = fit_into(5.3)
    assert placed is not None
    off = measure_loaded(CANDIDATE, placed, flash=False, repacked=AVX2)
    assert off == placed
    on = measure_loaded(CANDIDATE, placed, flash=True, repacked=AVX2)
    scores = 6 * 4096 * 512 * LLAMA_8B.heads
    assert 0.8 * scores < placed.needs - on.needs < scores
    assert placed.keeps - on.keeps == placed.needs - on.needs
    assert (on.load, on.free, on.lowered) == (placed.load, placed.free, placed.lowered)
    assert on.fits


def test_nothing_more_is_known_of_a_loaded_model_without_estimate() -> None:
    unknown = Candidate(Load("x"), sizes=None)
    placed = choose(unknown, GIB)
    assert placed is not None
    assert measure_loaded(unknown, placed, flash=True) is placed


def test_the_refusal_names_what_would_fit() -> None:
    candidate = replace(
        CANDIDATE, given=frozenset({"parallel", "use_mmap"}), load=Load("x", parallel=8)
    )
    text = refusal(candidate, int(5.4 * GIB), AVX2)
    needs = measure(candidate, replace_context(candidate.load, 1024), 0, AVX2).needs / GIB
    assert f"it needs {needs:.1f} GiB for 8 slots of 1,024 tokens, and 5.4 GiB of memory" in text
    assert "It fits with --parallel 1 (OFFGRID_PARALLEL=1) and --no-use-mmap" in text


def replace_context(load: Load, context: int) -> Load:
    return Load(load.path, ctx_size=context, parallel=load.parallel, use_mmap=load.use_mmap)


def test_the_refusal_of_a_model_that_never_fits() -> None:
    text = refusal(CANDIDATE, 1 * GIB, AVX2)
    assert "of memory is free. Free memory, or use a smaller model" in text
    assert "--use-mmap" not in text  # even its copies do not fit
    text = refusal(CANDIDATE, 1 * GIB, {})
    assert "--use-mmap (OFFGRID_USE_MMAP=true), --parallel 1" in text
    assert "slow" in text
    # What the text recommends works.
    chosen = re.search(r"--parallel (\d+).*--ctx-size (\d+)", text)
    assert chosen is not None
    load = Load("x", parallel=int(chosen[1]), ctx_size=int(chosen[2]))
    given = frozenset({"use_mmap", "parallel", "ctx_size"})
    assert choose(replace(CANDIDATE, load=load, given=given), 1 * GIB, repacked={}) is not None


def test_a_small_model_names_mebibytes() -> None:
    small = replace(LLAMA_8B, data=MIB, matrices={}, vocabulary=100, merges=0, keys=1, values=1)
    text = refusal(Candidate(Load("x"), sizes=small), 10 * MIB, AVX2)
    assert re.search(r"it needs \d+ MiB for 1 slot of 1,024 tokens, and 10 MiB", text)


def test_an_absurd_context_is_no_work() -> None:
    sizes = replace(LLAMA_8B, context=1 << 64)
    candidate = Candidate(Load("x", ctx_size=0), frozenset({"ctx_size"}), sizes)
    calls = lines_run(lambda: refusal(candidate, 6 * GIB, AVX2))
    assert calls < 100_000


def test_a_draft_model_needs_memory_too() -> None:
    load = Load("llama-8b.gguf", draft_model="/models/small.gguf")
    candidate = replace(CANDIDATE, load=load, draft=LLAMA_8B, name="llama-8b")
    fit = choose(candidate, 64 * GIB, repacked=AVX2)
    assert fit is not None
    assert fit.needs > 1.9 * measure(CANDIDATE, load, repacked=AVX2).needs
    assert str(fit).endswith("; draft model small.gguf")
    assert choose(candidate, 6 * GIB, repacked=AVX2) is None
    assert "It fits without its draft model" in refusal(candidate, 6 * GIB, AVX2)
    assert "draft model" not in refusal(candidate, GIB, AVX2)


def test_saved_prefixes_get_a_part_of_what_is_left() -> None:
    """They cost no slot and no token of context; a size that the user has set does."""
    auto = Load("llama-8b.gguf", cache_ram=-1)
    needed = fit_into(16.0)
    assert needed is not None
    rooms = {}
    for left in (0.2, 1.0, 2.0, 16.0):
        fit = fit_into(needed.needs / GIB + left, load=auto)
        assert fit is not None
        assert fit.estimate is not None
        assert (fit.needs, fit.lowered) == (needed.needs, ())
        assert fit.keeps == needed.keeps + fit.load.cache_ram * MIB
        assert fit.estimate.prefixes == fit.load.cache_ram * MIB
        rooms[left] = fit.load.cache_ram
    assert rooms == pytest.approx({0.2: 0, 1.0: 128, 2.0: 256, 16.0: 512}, abs=1)
    chosen = fit_into(needed.needs / GIB + 0.2, load=Load("llama-8b.gguf", cache_ram=1024))
    assert chosen is not None
    assert chosen.load.cache_ram == 1024
    assert chosen.lowered != ()
