"""Which types of keys and values a model can have, and llama.cpp's numbers for them.

llama.cpp refuses some combinations without a reason that a caller can read, and ends the process at
others. So they are found here, before a context is created.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as lc

from offgrid.engine.kv_types import BLOCK, is_quantised
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.errors import LoadError

_BF16 = 30
"""``GGML_TYPE_BF16``, which the bindings do not name."""
GGML_TYPES = {
    "f16": lc.GGML_TYPE_F16,
    "f32": lc.GGML_TYPE_F32,
    "bf16": _BF16,
    "q8_0": lc.GGML_TYPE_Q8_0,
    "q5_1": lc.GGML_TYPE_Q5_1,
    "q5_0": lc.GGML_TYPE_Q5_0,
    "q4_1": lc.GGML_TYPE_Q4_1,
    "q4_0": lc.GGML_TYPE_Q4_0,
    "iq4_nl": lc.GGML_TYPE_IQ4_NL,
}
"""Name of a type -> its number in ``enum ggml_type``."""
WITHOUT_FLASH_ATTENTION = ("grok", "t5")
"""Architectures for which llama.cpp never uses flash attention."""
_SOURCES = {
    "kv_type_k": "OFFGRID_KV_TYPE_K (--kv-type-k)",
    "kv_type_v": "OFFGRID_KV_TYPE_V (--kv-type-v)",
}
_PLAIN = "f16, bf16 or f32"


def check_kv_types(model: lc.llama_model_p, load: Load) -> None:
    """Check that a model can have keys and values of the types that were set.

    Raises:
        LoadError: it cannot; the message names the setting, and what to do.
    """
    metadata = Metadata(model)
    if is_quantised(load.kv_type_v):
        if load.flash_attention == "off":
            _refuse(
                "kv_type_v", load.kv_type_v, "needs flash attention, which is off",
                f"{_PLAIN}, or OFFGRID_FLASH_ATTENTION (--flash-attention) to auto",
            )  # fmt: skip
        if metadata.architecture in WITHOUT_FLASH_ATTENTION:
            why = f"needs flash attention, which no {metadata.architecture} model has in llama.cpp"
            _refuse("kv_type_v", load.kv_type_v, why)
    for setting, kv_type, name in (
        ("kv_type_k", load.kv_type_k, "key_length"),
        ("kv_type_v", load.kv_type_v, "value_length"),
    ):
        sizes = metadata.head_sizes(name) if is_quantised(kv_type) else ()
        for size in sizes:
            if size % BLOCK:
                why = f"needs heads whose size is a multiple of {BLOCK}, and this model has {size}"
                _refuse(setting, kv_type, why)
    if load.kv_type_k != load.kv_type_v and metadata.has_one_cache:
        why = f"differs from kv_type_k {load.kv_type_k}, and this model has one cache for both"
        _refuse("kv_type_v", load.kv_type_v, why, f"{load.kv_type_k} too")


def _refuse(setting: str, kv_type: str, why: str, advice: str = _PLAIN) -> None:
    raise LoadError(f"{setting} {kv_type} {why}; set {_SOURCES[setting]} to {advice}.")


class Metadata:
    """The values of a model's metadata that decide its cache."""

    def __init__(self, model: lc.llama_model_p) -> None:
        self._model = model
        self.architecture = self._text("general.architecture")

    def _text(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(64)
        found = lc.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return "" if found < 0 else buffer.value.decode("utf-8", "replace")

    def _number(self, name: str) -> int:
        text = self._text(f"{self.architecture}.attention.{name}")
        return int(text) if text.isdecimal() else 0

    def head_sizes(self, name: str) -> tuple[int, ...]:
        """Return the sizes of heads, as llama.cpp finds them; 0 for a model without attention.

        Args:
            name: ``key_length`` or ``value_length``.
        """
        heads = int(lc.llama_model_n_head(self._model))
        if heads == 0:
            return ()
        size = self._number(name) or int(lc.llama_model_n_embd(self._model)) // heads
        return size, self._number(f"{name}_swa") or size

    @property
    def has_one_cache(self) -> bool:
        """Whether one vector is key and value (multi-head latent attention)."""
        latent = self._number("key_length_mla") > 0 and self._number("value_length_mla") > 0
        return latent or self.architecture == "deepseek4"
