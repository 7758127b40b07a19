"""Reads the header of a GGUF file: metadata and shapes of tensors, without loading the model.

The file may come from anywhere, so nothing in it is trusted. Every count and length is compared
with a limit before it is used, no memory is allocated by a size that the file names, only the
values of :data:`_KEPT` are kept, and the whole work is bounded: bytes read, values and tensors. The
file is read and not mapped, because a mapped file that another program cuts off kills the process
that reads it.

The format is described in ``docs/gguf.md`` of the ggml project. Version 1, whose lengths have 32
bits, is as old as 2023 and refused by llama.cpp as well.
"""

from __future__ import annotations

import io
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
"""Most bytes of a key or of a tensor's name (GGUF: 65,535 for a key)."""
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

_KEPT = ("general.", "split.", "tokenizer.chat_template", "tokenizer.ggml.model")
_KEPT_ENDINGS = (
    ".context_length", ".pooling_type", ".block_count", ".embedding_length", ".attention.causal",
)  # fmt: skip
_MAX_VALUES = 256
"""Most values that are kept."""
_MAX_TEXTS = 1 << 22
"""Most bytes of all texts that are kept."""

Value = int | float | bool | str


class BadHeader(ValueError):
    """The file is not a model that llama.cpp can read; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself.

    Attributes:
        metadata: scalar values and texts of the keys that describe the model.
        parameters: elements of all tensors of this file.
        tensors: number of tensors.
        types: name of each type of tensors -> elements of the tensors of that type.
    """

    metadata: dict[str, Value]
    parameters: int
    tensors: int
    types: dict[str, int] = field(default_factory=dict)

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
    metadata = _metadata(reader, pairs)
    parameters, end, types = 0, 0, dict[str, int]()
    for name, elements, offset, length in _tensors(reader, tensors):
        parameters += elements
        types[name] = types.get(name, 0) + elements
        end = max(end, offset + length)
    if parameters > _MAX_PARAMETERS:
        raise BadHeader(f"it claims to have {parameters} parameters")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= _MAX_ALIGNMENT:
        raise BadHeader(f"its alignment {alignment!r} is not valid")
    data = -(-reader.position // alignment) * alignment
    if tensors and data + end > size:
        raise BadHeader(f"the file is cut off: it has {size:,} of {data + end:,} bytes")
    return Header(metadata, parameters, tensors, types)


def begins(head: bytes) -> str:
    """Return the first bytes of a file in quotes, as visible ASCII characters."""
    return f"'{head.decode('latin-1').encode('unicode_escape').decode('ascii')}'"


def _metadata(reader: _Reader, pairs: int) -> dict[str, Value]:
    kept: dict[str, Value] = {}
    elements = texts = 0
    for _ in range(pairs):
        key = _key(reader)
        known = key.startswith(_KEPT) or key.endswith(_KEPT_ENDINGS)
        keep = known and len(kept) < _MAX_VALUES
        kind = reader.word()
        if kind in _SCALARS:
            value = reader.scalar(_SCALARS[kind])
            if keep:
                kept[key] = value
        elif kind == _STRING:
            length = reader.count()
            if keep and length <= min(_MAX_KEPT, _MAX_TEXTS - texts):
                texts += length
                kept[key] = reader.take(length).decode("utf-8", "replace")
            else:
                reader.skip(length)
        elif kind == _ARRAY:
            kind, count = reader.word(), reader.count()
            if kind in _SCALARS:
                reader.skip(count * struct.calcsize(_SCALARS[kind]))
            elif kind == _STRING:
                elements += count
                if elements > _MAX_ELEMENTS:
                    raise BadHeader(f"it claims to have lists of {elements} texts")
                reader.skip_strings(count)
            else:
                raise BadHeader(f"the list {_short(key)} has values of the unknown type {kind}")
        else:
            raise BadHeader(f"the metadata value {_short(key)} has the unknown type {kind}")
    return kept


def _tensors(reader: _Reader, count: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield type, number of elements, offset and length in bytes of each tensor."""
    for _ in range(count):
        name = _key(reader)
        dimensions = reader.word()
        if dimensions > _MAX_DIMENSIONS:
            raise BadHeader(f"the tensor {_short(name)} has {dimensions} dimensions")
        elements = row = 1
        for index in range(dimensions):
            width = reader.count()
            row = width if index == 0 else row
            elements *= width
        if elements > _MAX_PARAMETERS:
            raise BadHeader(f"the tensor {_short(name)} claims to have {elements} elements")
        kind, offset = reader.word(), reader.count()
        if kind not in TENSOR_TYPES:
            yield f"type {kind}", elements, offset, 0
            continue
        label, block, size = TENSOR_TYPES[kind]
        if row % block:
            raise BadHeader(f"the rows of the tensor {_short(name)} are not whole {label} blocks")
        yield label, elements, offset, elements // block * size


def _key(reader: _Reader) -> str:
    length = reader.count()
    if length > _MAX_KEY:
        raise BadHeader(f"a name in its header claims to have {length} bytes")
    return reader.take(length).decode("utf-8", "replace")


def _short(name: str) -> str:
    return repr(name if len(name) <= 64 else f"{name[:64]}...")
