"""The starter model with other metadata: the roles of its tokens, its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf

FILL_IN = {
    "tokenizer.ggml.fim_pre_token_id": 2044,
    "tokenizer.ggml.fim_suf_token_id": 2045,
    "tokenizer.ggml.fim_mid_token_id": 2046,
}
"""Declares three of the starter's tokens as the fill-in-the-middle tokens of a code model."""
BEGINS = {"tokenizer.ggml.bos_token_id": 2042, "tokenizer.ggml.add_bos_token": True}
"""Declares a token with which every prompt begins."""

_KINDS = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    str: gguf.GGUFValueType.STRING,
}


def with_metadata(source: Path, target: Path, changes: Mapping[str, int | bool | str]) -> None:
    """Write a copy of a GGUF file with some values added or replaced."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind = field.types[0]
            sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            value = changes.get(field.name, field.contents())
            writer.add_key_value(field.name, value, kind, sub_type=sub_type)
    for name, value in changes.items():
        if name not in reader.fields:
            writer.add_key_value(name, value, _KINDS[type(value)])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def with_template(source: Path, target: Path, template: str) -> None:
    """Write a copy of the starter with another chat template, which must not be longer."""
    data = source.read_bytes()
    start = data.index(b"{%- if tools %}")
    end = data.index(b"'<|im_start|>assistant\\n' }}\n{%- endif %}\n", start) + 41
    padded = (template + "{#").encode().ljust(end - start - 2) + b"#}"
    assert len(padded) == end - start
    target.write_bytes(data[:start] + padded + data[end:])
