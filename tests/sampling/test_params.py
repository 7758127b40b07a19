"""SamplingParams: one table, checked and then frozen; every refusal names its field."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from offgrid.sampling import InvalidParameter, SamplingParams
from offgrid.sampling.params import RANGES, Range

ROOT = Path(__file__).parents[2]


def fields_of(struct: str, file: str) -> list[str]:
    """Return the fields of a C struct, in order, as a header or ``_core.pxd`` declares it."""
    source = (ROOT / file).read_text(encoding="utf-8")
    body = re.search(rf"typedef struct {struct}(?: \{{|:)\n((?: +.*\n)+)", source)
    return re.findall(r"^ +[a-z]\w+ (\w+);?(?: .*)?$", body[1], re.MULTILINE)


def test_every_parameter_has_a_readable_definition():
    source = (ROOT / "tests/lib/reference.py").read_text(encoding="utf-8")
    assert set(RANGES) <= set(re.findall(r"params\.([a-z_]+)", source))


def test_every_parameter_has_a_field_in_c():
    """Fields of the same name are copied; ``_config.pyx`` names those of the inner structs."""
    fields = set(fields_of("og_params", "csrc/og_config.h"))
    source = (ROOT / "offgrid/sampling/_config.pyx").read_text(encoding="utf-8")
    named = set(re.findall(r'"[a-z_]+": params\.([a-z_]+)', source))
    assert fields - set(RANGES) == {"penalties", "dry"}
    assert set(RANGES) - fields == named


@pytest.mark.parametrize(
    ("struct", "header"),
    [("og_params", "og_config.h"), ("og_penalties", "og_kernels.h"), ("og_dry_params", "og_dry.h")],
)
def test_cython_declares_every_field(struct, header):
    """A field that it does not declare would not be set."""
    fields = fields_of(struct, f"csrc/{header}")
    assert len(fields) >= 3
    assert fields_of(struct, "offgrid/sampling/_core.pxd") == fields


def test_the_table_has_a_row_for_every_parameter():
    """All parameters except those that are not a single number or are None by default."""
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert names - set(RANGES) == {"logit_bias", "seed", "dry_breakers"}


def test_a_parameter_that_is_on_or_off():
    limits = Range(bool, 0, 1, False, 0, 1, True)
    limits.check("field", True)
    assert limits.of_api(True) is True
    for wrong in (1, 0.0, None, "true"):
        with pytest.raises(InvalidParameter, match="field must be true or false, not"):
            limits.check("field", wrong)


def test_the_api_accepts_no_value_that_the_library_refuses():
    for name, limits in RANGES.items():
        for value in (limits.api_least, limits.api_most, limits.api_default, limits.default):
            SamplingParams(**{name: limits.of_api(value)})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("temperature", [-0.1, math.nan, math.inf, "1", None, True]),
        ("top_p", [-0.01, 1.01, math.nan, "x"]),
        ("min_p", [-0.01, 1.01, math.nan]),
        ("top_k", [-1, 1.5, 2**31, True, None]),
        ("frequency_penalty", [-2.1, 2.1, math.nan]),
        ("presence_penalty", [-2.1, 2.1, math.nan]),
        ("repetition_penalty", [0, -1, math.inf, math.nan]),
        ("repeat_last_n", [-2, 0.5, 2**31]),
        ("seed", [2**64, -(2**63) - 1, 1.0, "7"]),
        ("logit_bias", [{-1: 0}, {2**31: 0}, {1: 101}, {1: math.nan}, {1: math.inf}, {"1": 1}]),
        ("top_n_sigma", [-0.1, math.nan, "1"]),
        ("typical_p", [-0.01, 1.01, math.nan]),
        ("xtc_probability", [-0.01, 1.01, math.nan, True]),
        ("xtc_threshold", [-0.01, 1.01, math.nan]),
        ("dynatemp_range", [-0.1, math.inf]),
        ("dynatemp_exponent", [-0.1, 100.5, math.nan]),
        ("mirostat", [-1, 3, 1.0, True]),
        ("mirostat_tau", [-0.1, 100.5, math.nan]),
        ("mirostat_eta", [-0.1, 10.5, math.nan]),
        ("adaptive_target", [-1.1, 1.1, math.nan, True]),
        ("adaptive_decay", [-0.1, 1.0, math.nan]),
        ("p_less", [1, None, "true"]),
        ("dry_multiplier", [-0.1, 100.5, math.nan]),
        ("dry_base", [0.9, 100.5, math.nan]),
        ("dry_allowed_length", [-1, 2.0, 2**31]),
        ("dry_penalty_last_n", [-2, 2.0, 2**31]),
        ("dry_breakers", [[[]], [[-1]], [[1.0]], [[2**31]], [[1] * 22]]),
        ("min_tokens", [-1, 1.5, 2**31]),
        ("min_keep", [-1, 1.5, 2**31]),
        ("logit_bias", [{1: True}, {1: None}, {1.5: 0}]),
    ],
)
def test_refusals_name_the_field(field, wrong):
    for value in wrong:
        with pytest.raises(InvalidParameter) as error:
            SamplingParams(**{field: value})
        assert error.value.param == field
        assert error.value.status == 400


@pytest.mark.parametrize(
    "number", [10**20, -(10**20), 10**5000, -(10**5000)], ids=["large", "small", "huge", "tiny"]
)
def test_numbers_that_python_does_not_write(number):
    """The errors name the parameter and describe the number."""
    for name, limits in RANGES.items():
        words = "true or false" if limits.kind is bool else "not a number of more than 20 digits"
        with pytest.raises(InvalidParameter, match=f"^{name} .*{words}") as error:
            SamplingParams(**{name: number})
        assert error.value.param == name
    for name, value in (
        ("seed", number), ("logit_bias", {1: number}), ("logit_bias", {number: 1}),
        ("dry_breakers", [[number]]),
    ):  # fmt: skip
        with pytest.raises(InvalidParameter, match=f"^{name} .*more than 20 digits") as error:
            SamplingParams(**{name: value})
        assert error.value.param == name


def test_the_ends_of_the_ranges_are_allowed():
    SamplingParams(temperature=0, top_p=0, min_p=1, top_k=0, seed=2**64 - 1, repeat_last_n=-1)
    SamplingParams(top_p=1, frequency_penalty=-2, presence_penalty=2, seed=-(2**63))
    SamplingParams(logit_bias={0: 100, 1: -100, 2: False, 3: -math.inf})


def test_the_sampler_copies_the_callers_values():
    bias, breakers = {1: 0.5}, [[1, 2]]
    params = SamplingParams(logit_bias=bias, dry_breakers=breakers)
    bias[2] = math.nan
    breakers[0].clear()
    assert dict(params.logit_bias) == {1: 0.5}
    assert params.dry_breakers == ((1, 2),)
    with pytest.raises(TypeError):
        params.logit_bias[2] = 1.0


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 2
