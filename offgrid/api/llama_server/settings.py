"""``generation_settings`` of answers and of ``/props``: parameters under llama-server's names."""

from __future__ import annotations

import math
from typing import Any

from offgrid.api.fields.sampling import DRY_BREAKERS
from offgrid.api.llama_server.request import NativeFields
from offgrid.api.shapes import Json
from offgrid.engine.protocol.requests import GenerationRequest
from offgrid.sampling.params import SamplingParams

SAMPLERS = ["penalties", "dry", "temperature", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p",
            "xtc"]  # fmt: skip
"""In the order in which they act here."""
RANDOM_SEED = 0xFFFFFFFF
"""What llama-server shows if each request draws its own."""


def sampling_settings(params: SamplingParams) -> Json:
    """Return sampling parameters under llama-server's names."""
    biases = params.logit_bias or {}
    return {
        "temperature": params.temperature,
        "dynatemp_range": params.dynatemp_range,
        "dynatemp_exponent": params.dynatemp_exponent,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "top_n_sigma": params.top_n_sigma,
        "xtc_probability": params.xtc_probability,
        "xtc_threshold": params.xtc_threshold,
        "typical_p": params.typical_p,
        "repeat_last_n": params.repeat_last_n,
        "repeat_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "dry_multiplier": params.dry_multiplier,
        "dry_base": params.dry_base,
        "dry_allowed_length": params.dry_allowed_length,
        "dry_penalty_last_n": params.dry_penalty_last_n,
        "mirostat": params.mirostat,
        "mirostat_tau": params.mirostat_tau,
        "mirostat_eta": params.mirostat_eta,
        "min_keep": params.min_keep,
        "logit_bias": [[token, False if math.isinf(bias) else bias]
                       for token, bias in biases.items()],
    }  # fmt: skip


def generation_settings(
    params: SamplingParams, generation: GenerationRequest, request: NativeFields, seed: int
) -> Json:
    """Return the settings with which a request was answered.

    Args:
        params: its sampling parameters.
        generation: what the engine got.
        request: its fields.
        seed: the seed that was used.
    """
    limit = -1 if generation.max_tokens is None else generation.max_tokens
    names = SAMPLERS if request.chosen is None else [*request.chosen.names]
    more: dict[str, Any] = {
        "n_predict": limit,
        "max_tokens": limit,
        "seed": seed,
        "dry_sequence_breakers": [*generation.dry_breakers],
        "stop": [*generation.stop],
        "n_keep": 0,
        "n_discard": 0,
        "n_indent": generation.n_indent,
        "t_max_predict_ms": generation.t_max_predict_ms,
        "ignore_eos": generation.ignore_eos,
        "stream": request.stream,
        "n_probs": request.n_probs,
        "grammar": "" if generation.grammar is None else generation.grammar.source,
        "samplers": names,
        "timings_per_token": request.timings_per_token,
        "post_sampling_probs": generation.post_sampling,
        "lora": [],
    }
    return {**sampling_settings(params), **more}


def default_settings(params: SamplingParams) -> Json:
    """Return the settings of a request that sets nothing."""
    return {
        **sampling_settings(params),
        "n_predict": -1,
        "max_tokens": -1,
        "seed": RANDOM_SEED,
        "dry_sequence_breakers": [*DRY_BREAKERS],
        "stop": [],
        "n_keep": 0,
        "n_discard": 0,
        "n_indent": 0,
        "t_max_predict_ms": 0,
        "ignore_eos": False,
        "stream": False,
        "n_probs": 0,
        "grammar": "",
        "samplers": SAMPLERS,
        "timings_per_token": False,
        "post_sampling_probs": False,
        "lora": [],
    }
