"""Reads the header of a GGUF file: metadata and shapes of tensors, without loading the model.

The file may come from anywhere, so nothing in it is trusted. Every count and length is compared
with a limit before it is used, no memory is allocated by a size that the file names, only the
values of :data:`_KEPT` are kept, and the whole work is bounded: bytes read, values and tensors. The
file is read and not mapped, because a mapped file that another program cuts off kills the process
that reads it.

Descriptions of models come from here. Prompts do not: they are made with the chat template that
llama.cpp reads (``engine/worker/llama/chat_templates.py``).

The format is described in ``docs/gguf.md`` of the ggml project. Version 1, whose lengths have 32
bits, is as old as 2023 and refused by llama.cpp as well.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
_MAX_PAIRS = 1 << 16
"""Most metadata values. Files have about 40."""
_MAX_TENSORS = 1 << 16
"""Most tensors. The largest models have about 3,000."""
_MAX_KEY = 1 << 16
"""Most bytes of a key (GGUF: 65,535)."""
_MAX_NAME = 63
"""Most bytes of a tensor's name (``GGML_MAX_NAME`` without the zero at its end)."""
_MAX_ELEMENTS = 1 << 22
"""Most elements of all arrays of strings. A vocabulary of 260,000 tokens has twice as many, with
its merges."""
_MAX_BYTES = 1 << 28
"""Most bytes of a header. That of a vocabulary of 260,000 tokens has 15 MB."""
_MAX_KEPT = 1 << 20
"""Most bytes of a text that is kept."""
_MAX_DIMENSIONS = 4
_MAX_PARAMETERS = 1 << 53
"""Most elements of a tensor, and most parameters of a file: JSON represents them exactly."""
_MAX_ALIGNMENT = 1 << 16
_BLOCK = 1 << 18
"""Bytes that are read at a time."""

_SCALARS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""Number of a type of values -> its form (``enum gguf_type``)."""
_STRING, _ARRAY = 8, 9
_WHOLE: Final = frozenset("<B <b <H <h <I <i <Q <q <?".split())

TENSOR_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1),
    25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Number of a type of tensors -> name, elements of a block, bytes of a block (``enum ggml_type``).
The size of a tensor of another type is not known, so its end is not compared with the file's."""

FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""``general.file_type`` -> name (``enum llama_ftype``)."""

_KEPT = ("general.", "adapter.type", "split.", "tokenizer.chat_template", "tokenizer.ggml.model",
         "tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id")  # fmt: skip
_KEPT_ENDINGS = (
    ".context_length", ".pooling_type", ".block_count", ".embedding_length", ".attention.causal",
    ".feed_forward_length", ".expert_feed_forward_length", ".expert_used_count",
    ".nextn_predict_layers", ".rope.dimension_count", ".token_shift_count", ".wkv.head_size",
    ".kda.head_dim", ".shortconv.l_cache", ".ssm.conv_kernel", ".ssm.inner_size",
    ".ssm.state_size", ".ssm.group_count", ".attention.head_count", ".attention.head_count_kv",
    ".attention.key_length", ".attention.value_length", ".attention.key_length_mla",
    ".attention.kv_lora_rank", ".attention.shared_kv_layers", ".attention.sliding_window",
    ".attention.sliding_window_pattern",
)  # fmt: skip
"""Beginnings and ends of the keys whose values are kept."""
_MAX_VALUES = 256
"""Most values that are kept."""
_MAX_LIST = 1024
"""Most numbers of a list that is kept: one for each layer. Most bytes of all of them: 2 MB."""
_MAX_TEXTS = 1 << 22
"""Most bytes of all texts that are kept."""

Value = int | float | bool | str


class BadHeader(ValueError):
    """The file is not a model that llama.cpp can read; the message says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file.

    Attributes:
        name: its name, such as ``blk.0.attn_k.weight``.
        type: the name of its type; ``type <number>`` if that is not known.
        shape: its dimensions, the length of a row first, as in ggml.
        size: bytes; 0 if its type is not known.
        offset: where it begins, in bytes after the beginning of the tensors.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself.

    Attributes:
        metadata: scalar values and texts of the keys that describe the model.
        parameters: elements of all tensors of this file.
        tensors: number of tensors.
        types: name of each type of tensors -> elements of the tensors of that type.
        shapes: all tensors, in the order of the file.
        lists: the lists of whole numbers among the values of the keys that describe the model.
        texts: key of each list of texts -> number of its texts.
        data_size: bytes from the first tensor to the end of the last one.
        data_start: where the tensors begin in the file.
    """

    metadata: dict[str, Value]
    parameters: int
    tensors: int
    types: dict[str, int] = field(default_factory=dict)
    shapes: tuple[Tensor, ...] = ()
    lists: dict[str, tuple[int, ...]] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    data_size: int = 0
    data_start: int = 0

    def text(self, key: str) -> str | None:
        """Return a value if it is a text, else None."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Return a value if it is a whole number that is not negative, else None."""
        value = self.metadata.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return None
        return value


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file.

    Args:
        path: a regular file.

    Raises:
        BadHeader: the file is not a GGUF, is damaged or is cut off.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return header_of(file)


def header_of(file: io.FileIO) -> Header:
    """Read the header of an open GGUF file; see :func:`read_header`."""
    size = os.fstat(file.fileno()).st_size
    return _parse(_Reader(file, size), size)


class _Reader:
    """The bytes of a header in order, with a bound on their number."""

    def __init__(self, file: io.FileIO, size: int) -> None:
        self._file = file
        self._size = min(size, _MAX_BYTES)
        self._cut = size <= _MAX_BYTES
        self._buffer = b""
        self._start = 0
        """Place in the file of the first byte of the buffer."""
        self._at = 0
        """Place in the buffer of the next byte."""

    @property
    def position(self) -> int:
        """Place in the file of the next byte."""
        return self._start + self._at

    def take(self, length: int) -> bytes:
        """Return the next bytes; the caller has compared their number with a limit."""
        if self._at + length > len(self._buffer):
            self._fill(length)
        self._at += length
        return self._buffer[self._at - length : self._at]

    def skip(self, length: int) -> None:
        """Pass over bytes."""
        self._check(length)
        self._at += length
        if self._at > len(self._buffer):
            self._start += self._at
            self._at = 0
            self._buffer = b""

    def skip_strings(self, count: int) -> None:
        """Pass over strings, each with its length before it."""
        unpack = struct.Struct("<Q").unpack_from
        buffer, at = self._buffer, self._at
        for _ in range(count):
            if at + 8 <= len(buffer):
                (length,) = unpack(buffer, at)
                end = at + 8 + length
                if end <= len(buffer):
                    at = end
                    continue
            self._at = at
            (length,) = unpack(self.take(8))
            self.skip(length)
            buffer, at = self._buffer, self._at
        self._at = at

    def scalar(self, form: str) -> Value:
        """Return the next value of a fixed size."""
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value  # type: ignore[no-any-return]

    def count(self) -> int:
        """Return the next 64-bit number."""
        (number,) = struct.unpack("<Q", self.take(8))
        return int(number)

    def word(self) -> int:
        """Return the next 32-bit number."""
        (number,) = struct.unpack("<I", self.take(4))
        return int(number)

    def _check(self, length: int) -> None:
        if self.position + length > self._size:
            if self._cut:
                raise BadHeader("the file is cut off: it ends within its header")
            raise BadHeader(f"its header is larger than {_MAX_BYTES >> 20} MiB")

    def _fill(self, length: int) -> None:
        self._check(length)
        self._start += self._at
        self._at = 0
        self._file.seek(self._start)
        parts, missing = [], max(length, _BLOCK)
        while missing > 0:
            part = self._file.read(missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self._buffer = b"".join(parts)
        if len(self._buffer) < length:  # the file has become shorter
            raise BadHeader("the file is cut off: it ends within its header")


def _parse(reader: _Reader, size: int) -> Header:
    if size == 0:
        raise BadHeader("the file is empty")
    if size < len(MAGIC):
        raise BadHeader(f"not a GGUF file: it has only {size} bytes")
    magic = reader.take(len(MAGIC))
    if magic != MAGIC:
        raise BadHeader(f"not a GGUF file: it begins with {begins(magic)}")
    version = reader.word()
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise BadHeader("its numbers are big-endian, for another kind of processor")
        raise BadHeader(f"its GGUF version {version} is not known")
    tensors, pairs = reader.count(), reader.count()
    if tensors > _MAX_TENSORS:
        raise BadHeader(f"it claims to have {tensors} tensors")
    if pairs > _MAX_PAIRS:
        raise BadHeader(f"it claims to have {pairs} metadata values")
    values = _metadata(reader, pairs)
    metadata = values.scalars
    parameters, end, types, shapes = 0, 0, dict[str, int](), list[Tensor]()
    for tensor, elements, offset in _tensors(reader, tensors):
        parameters += elements
        types[tensor.type] = types.get(tensor.type, 0) + elements
        end = max(end, offset + tensor.size)
        shapes.append(tensor)
    if parameters > _MAX_PARAMETERS:
        raise BadHeader(f"it claims to have {parameters} parameters")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT:
        raise BadHeader(f"its alignment {alignment!r} is not valid")
    data = -(-reader.position // alignment) * alignment
    if tensors and data + end > size:
        raise BadHeader(f"the file is cut off: it has {size:,} of {data + end:,} bytes")
    return Header(
        metadata, parameters, tensors, types, tuple(shapes), values.lists, values.texts, end, data
    )


def begins(head: bytes) -> str:
    """Return the first bytes of a file in quotes, as visible ASCII characters."""
    return f"'{head.decode('latin-1').encode('unicode_escape').decode('ascii')}'"


@dataclass(slots=True)
class _Values:
    """The metadata that is kept."""

    scalars: dict[str, Value] = field(default_factory=dict)
    lists: dict[str, tuple[int, ...]] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    size_of_texts: int = 0
    """Bytes of the texts among the scalars."""
    elements: int = 0
    """Number of texts in all lists, kept or not."""


def _metadata(reader: _Reader, pairs: int) -> _Values:
    kept = _Values()
    for _ in range(pairs):
        key = _key(reader, _MAX_KEY)
        known = key.startswith(_KEPT) or key.endswith(_KEPT_ENDINGS)
        keep = known and len(kept.scalars) + len(kept.lists) < _MAX_VALUES
        kind = reader.word()
        if kind in _SCALARS:
            value = reader.scalar(_SCALARS[kind])
            if keep:
                kept.scalars[key] = value
        elif kind == _STRING:
            _read_text(reader, key, kept, keep)
        elif kind == _ARRAY:
            _read_list(reader, key, kept, keep)
        else:
            raise BadHeader(f"the metadata value {_short(key)} has the unknown type {kind}")
    return kept


def _read_text(reader: _Reader, key: str, kept: _Values, keep: bool) -> None:
    length = reader.count()
    if not keep or length > min(_MAX_KEPT, _MAX_TEXTS - kept.size_of_texts):
        reader.skip(length)
        return
    kept.size_of_texts += length
    kept.scalars[key] = reader.take(length).decode("utf-8", "replace")


def _read_list(reader: _Reader, key: str, kept: _Values, keep: bool) -> None:
    kind, count = reader.word(), reader.count()
    if kind in _SCALARS:
        form = _SCALARS[kind]
        size = struct.calcsize(form)
        if keep and count <= _MAX_LIST and form in _WHOLE:
            kept.lists[key] = struct.unpack(f"<{count}{form[1:]}", reader.take(count * size))
        else:
            reader.skip(count * size)
    elif kind == _STRING:
        kept.elements += count
        if kept.elements > _MAX_ELEMENTS:
            raise BadHeader(f"it claims to have lists of {kept.elements} texts")
        if len(kept.texts) < _MAX_VALUES and len(key) <= _MAX_NAME:
            kept.texts[key] = count
        reader.skip_strings(count)
    else:
        raise BadHeader(f"the list {_short(key)} has values of the unknown type {kind}")


def _tensors(reader: _Reader, count: int) -> Iterator[tuple[Tensor, int, int]]:
    """Yield each tensor with its number of elements and its offset in bytes."""
    for _ in range(count):
        name = _key(reader, _MAX_NAME)
        dimensions = reader.word()
        if dimensions > _MAX_DIMENSIONS:
            raise BadHeader(f"the tensor {_short(name)} has {dimensions} dimensions")
        shape = tuple(reader.count() for _ in range(dimensions))
        elements = math.prod(shape)
        if elements > _MAX_PARAMETERS:
            raise BadHeader(f"the tensor {_short(name)} claims to have {elements} elements")
        kind, offset = reader.word(), reader.count()
        label, block, size = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        if shape and shape[0] % block:
            raise BadHeader(f"the rows of the tensor {_short(name)} are not whole {label} blocks")
        yield Tensor(name, label, shape, elements // block * size, offset), elements, offset


def _key(reader: _Reader, most: int) -> str:
    length = reader.count()
    if length > most:
        raise BadHeader(f"a name in its header claims to have {length} bytes")
    return reader.take(length).decode("utf-8", "replace")


def _short(name: str) -> str:
    return repr(name if len(name) <= 64 else f"{name[:64]}...")
