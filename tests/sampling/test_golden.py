"""Seeds keep their tokens: draws recorded from another implementation (tests/golden)."""

from __future__ import annotations

import csv
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from offgrid.sampling import Sampler, SamplingParams, instruction_sets

PATH = Path(__file__).parent.parent / "golden" / "draws.csv"


def read_cases() -> list[dict[str, str]]:
    with PATH.open(newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=64)
def logits(n_vocab: int, spread: int, step: int) -> np.ndarray:
    """The row defined in the docstring of ``make_golden.py``."""
    token = np.arange(n_vocab, dtype=np.int64)
    h = (token * 2654435761 + step * 2246822519) % 2**32
    return (((h >> 16) / 2**12 - 8) * 2.0**spread).astype(np.float32)


def mask_of(n_vocab: int, every: int) -> np.ndarray | None:
    if not every:
        return None
    bits = np.zeros((n_vocab + 31) // 32 * 32, np.uint8)
    bits[:n_vocab:every] = 1
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def numbers(joined: str) -> list[int]:
    return [int(number) for number in joined.split("-")] if joined else []


def more_of(case: dict[str, str]) -> dict[str, str]:
    """Return the last column, which most lines lack."""
    return dict(entry.split("=") for entry in (case["more"] or "").split())


def rare_params(more: dict[str, str]) -> dict[str, object]:
    types = {field.name: field.type for field in fields(SamplingParams)}
    params: dict[str, object] = {
        name: int(value) if types[name] == "int" else float(value)
        for name, value in more.items()
        if name not in ("dry_breakers", "end_tokens")
    }
    if more.get("dry_breakers"):
        params["dry_breakers"] = [numbers(breaker) for breaker in more["dry_breakers"].split("/")]
    return params


def sampler_of(case: dict[str, str], isa: str) -> Sampler:
    more = more_of(case)
    pairs = (entry.split(":") for entry in case["logit_bias"].split())
    params = SamplingParams(
        temperature=float(case["temperature"]),
        top_p=float(case["top_p"]),
        top_k=int(case["top_k"]),
        min_p=float(case["min_p"]),
        frequency_penalty=float(case["frequency_penalty"]),
        presence_penalty=float(case["presence_penalty"]),
        repetition_penalty=float(case["repetition_penalty"]),
        repeat_last_n=int(case["repeat_last_n"]),
        logit_bias={int(token): float(bias) for token, bias in pairs},
        seed=int(case["seed"]),
        **rare_params(more),
    )
    prompt = [int(token) for token in case["prompt"].split()]
    return Sampler(
        int(case["n_vocab"]),
        params,
        prompt,
        choice=int(case["choice"]),
        end_tokens=numbers(more.get("end_tokens", "")),
        isa=isa,
    )


@pytest.mark.parametrize("case", read_cases(), ids=lambda case: case["name"])
def test_seed_gives_the_tokens_that_it_always_gave(case):
    n_vocab, spread = int(case["n_vocab"]), int(case["spread"])
    mask = mask_of(n_vocab, int(case["mask_every"]))
    samplers = {isa: sampler_of(case, isa) for isa in instruction_sets()}
    for step, written in enumerate(case["tokens"].split()):
        token = int(written.lstrip("~"))
        drawn = {
            isa: sampler.sample(logits(n_vocab, spread, step), mask=mask)
            for isa, sampler in samplers.items()
        }
        assert len(set(drawn.values())) == 1, (step, drawn)
        if not written.startswith("~"):
            assert drawn == dict.fromkeys(drawn, token), step
        for sampler in samplers.values():
            sampler.accept(token)
