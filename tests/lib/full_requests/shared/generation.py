"""Sampling, and the other fields of requests that generate."""

from __future__ import annotations

from support import Json

from offgrid.sampling.params import RANGES, Range

_CACHE = {
    "mode": "implicit", "ttl": "30m", "comparison_response_id": "resp_1", "prewarm": False
}  # fmt: skip
INERT: Json = {
    "metadata": {"trip": "1"},
    "moderation": {"model": "none", "policy": {"a": 1}},
    "prompt_cache_key": "key",
    "prompt_cache_options": _CACHE,
    "prompt_cache_retention": "24h",
    "safety_identifier": "somebody",
    "store": True,
    "user": "somebody",
    "verbosity": "low",
}


def _another(limits: Range) -> float:
    """A value that a request may have and that is not the default."""
    if limits.kind is bool:
        return not limits.api_default
    step = (limits.api_most - limits.api_default) / 2 or (limits.api_least - limits.api_default) / 2
    return limits.kind(limits.api_default + (min(step, 1) if limits.kind is int else step))


SAMPLING: Json = {
    **{name: _another(limits) for name, limits in RANGES.items() if name != "repetition_penalty"},
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.01,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repeat_last_n": 32,
    "logit_bias": {"5": -1, "the": False},
    "seed": 7,
    "stop": ["###"],
    "banned_strings": ["a testament to"],
    "ignore_eos": True,
    "cache_prompt": False,
    "top_n_sigma": 3.0,
    "typical_p": 0.99,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.2,
    "dynatemp_range": 0.1,
    "dynatemp_exponent": 1.5,
    "mirostat": 2,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "dry_multiplier": 0.5,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n"],
    "min_tokens": 1,
    "min_keep": 2,
    "post_sampling_probs": True,
}
STAY: Json = {"keep_alive": 300, "ttl": 300}
"""How long the model stays loaded, under two names."""
GENERATION: Json = {
    **INERT,
    **SAMPLING,
    **STAY,
    "max_tokens": 24,
    "n": 2,
    "service_tier": "default",
    "priority": 1,
    "cache_salt": "salt",
    "samplers": ["penalties", "dry", "temperature", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "t_max_predict_ms": 60_000,
    "n_indent": 1,
}
REPETITION: list[Json] = [{"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "rep_pen": 1.1}]
_OPTIONS = {
    "include_usage": True, "include_obfuscation": True, "continuous_usage_stats": False
}  # fmt: skip
STREAM: list[Json] = [
    {"stream": True, "stream_options": _OPTIONS},
    {"stream": False, "prompt_logprobs": 1},
]
