"""The reader of GGUF headers on good, damaged and hostile files."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_models

from offgrid.engine.client.estimate import estimate
from offgrid.engine.client.fit import Candidate, refusal
from offgrid.engine.protocol.commands import Load
from offgrid.store import gguf_header
from offgrid.store.gguf_header import FILE_TYPES, TENSOR_TYPES, BadHeader, Tensor, read_header
from offgrid.store.sizes import sizes_of

BIG = (1 << 64) - 1
Write = Callable[..., Path]


def text(value: str | bytes, length: int | None = None) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data) if length is None else length) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def number(key: str, value: int) -> bytes:
    return pair(key, 4, struct.pack("<I", value))


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    form = f"<I{len(shape)}QIQ"
    return text(name) + struct.pack(form, len(shape), *shape, kind, offset)


def header(
    pairs: list[bytes],
    tensors: list[bytes],
    *,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
    version: int = 3,
    data: int = 1 << 10,
) -> bytes:
    counts = (
        len(tensors) if n_tensors is None else n_tensors,
        len(pairs) if n_pairs is None else n_pairs,
    )
    start = b"GGUF" + struct.pack("<IQQ", version, *counts)
    return start + b"".join([*pairs, *tensors]) + b"\0" * data


LLAMA = pair("general.architecture", 8, text("llama"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


def test_the_tables_are_those_of_ggml() -> None:
    for number, (name, block, size) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (block, size))
    for number, name in FILE_TYPES.items():
        assert gguf.LlamaFileType(number).name.split("_", 1)[1] == name


@pytest.mark.parametrize("made", ["starter", "llama", "gemma3", "mamba", "bert"])
def test_it_reads_what_the_gguf_package_reads(
    starter_path: Path, tmp_path: Path, made: str
) -> None:
    if made == "starter":
        path = starter_path
    elif made == "bert":
        path = tiny_models.make_bert(tmp_path, "MEAN")
    else:
        path = tiny_models.make(made, tmp_path)
    reader = gguf.GGUFReader(path)
    found = read_header(path)
    assert found.tensors == len(reader.tensors)
    assert found.parameters == sum(int(one.n_elements) for one in reader.tensors)
    assert found.text("general.architecture")
    for key, value in found.metadata.items():
        assert reader.fields[key].contents() == value
    names = {one.tensor_type.name for one in reader.tensors}
    assert set(found.types) == names


def test_a_file_that_is_cut_off_anywhere(starter_path: Path, write: Write) -> None:
    content = starter_path.read_bytes()
    path = write(content)
    assert read_header(path).tensors
    end = len(content) - 1
    for cut in (*range(end, 200, -60_007), *range(200, -1, -1)):
        os.truncate(path, cut)
        with pytest.raises(BadHeader, match=r"cut off|empty|bytes|begins"):
            read_header(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"GG", "only 2 bytes"),
        (b"# Offline", "begins with '# Of'"),
        (b"\x1b[2J....", r"begins with '\\x1b\[2J'"),
        (header([LLAMA], [], version=1), "version 1 is not known"),
        (header([LLAMA], [], version=99), "version 99 is not known"),
        (b"GGUF\0\0\0\x03" + b"\0" * 100, "big-endian"),
        (header([LLAMA], [], n_tensors=BIG), "tensors"),
        (header([LLAMA], [], n_pairs=BIG), "metadata values"),
        (header([LLAMA], [], n_pairs=60_000), "cut off|unknown type"),
        (header([text(b"", BIG)], []), "a name in its header claims"),
        (header([text(b"", 1 << 40)], []), "a name in its header claims"),
        (header([text(b"x", 60_000)], []), "cut off"),
        (header([pair("general.name", 8, text(b"", BIG))], []), "cut off"),
        (header([pair("general.name", 8, text(b"", 1 << 30))], []), "cut off"),
        (header([pair("x", 8, text(b"", BIG))], []), "cut off"),
        (header([pair("x", 99, b"")], []), "'x' has the unknown type 99"),
        (header([pair("x", 9, array(4, BIG))], []), "cut off"),
        (header([pair("x", 9, array(4, BIG // 4 + 1))], []), "cut off"),
        (header([pair("x", 9, array(8, BIG))], []), "lists of"),
        (header([pair("x", 9, array(8, 1 << 22, text(b"", BIG)))], []), "cut off"),
        (header([pair("x", 9, array(8, 1, text(""))), pair("y", 9, array(8, 1 << 22))], []),
         "lists of"),
        (header([pair("x", 9, array(9, 1, array(9, 1)))], []), "unknown type 9"),
        (header([], [text(b"", BIG)]), "a name in its header claims"),
        (header([], [tensor("t" * 64, (1,))]), "a name in its header claims to have 64 bytes"),
        (header([], [text("t") + struct.pack("<I", 1 << 31)]), "dimensions"),
        (header([], [tensor("t", (BIG, BIG, BIG, BIG))]), "elements"),
        (header([], [tensor("t", (1 << 52,), offset=0)]), "cut off"),
        (header([], [tensor("t", (4,), offset=BIG)]), "cut off"),
        (header([], [tensor("t", (1 << 52,), 99), tensor("u", (1 << 52,), 99),
                     tensor("v", (1,), 99)]), "parameters"),
        (header([], [tensor("t", (33,), 2)]), "not whole Q4_0 blocks"),
        (header([number("general.alignment", 0)], []), "alignment"),
        (header([number("general.alignment", 1 << 31)], []), "alignment"),
        (header([pair("general.alignment", 8, text("x"))], []), "alignment"),
    ],
)  # fmt: skip
def test_hostile_files(write: Write, content: bytes, reason: str) -> None:
    """Each is refused with its reason, without the memory that it claims to need."""
    path = write(content)
    tracemalloc.start()
    try:
        with pytest.raises(BadHeader, match=reason):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_only_few_values_are_kept(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [number(f"general.{index}", 1) for index in range(1000)]
    large = text("y" * (1 << 20))
    pairs += [pair(f"tokenizer.chat_template.{index}", 8, large) for index in range(10)]
    content = header([*pairs[-10:], *pairs[:-10], LLAMA], [])
    found = read_header(write(content))
    kept = [value for value in found.metadata.values() if isinstance(value, str)]
    assert sum(map(len, kept)) <= gguf_header._MAX_TEXTS
    assert len(found.metadata) <= gguf_header._MAX_VALUES
    monkeypatch.setattr(gguf_header, "_MAX_BYTES", 1 << 20)
    with pytest.raises(BadHeader, match="header is larger than 1 MiB"):
        read_header(write(content))


def test_values_of_all_types(write: Write) -> None:
    kinds: list[tuple[int, str, Any]] = [
        (0, "<B", 255), (1, "<b", -1), (2, "<H", 9), (3, "<h", -9), (4, "<I", 9), (5, "<i", -9),
        (6, "<f", 0.5), (7, "<?", True), (10, "<Q", BIG), (11, "<q", -1), (12, "<d", 0.1),
    ]  # fmt: skip
    pairs = [pair(f"general.{kind}", kind, struct.pack(form, v)) for kind, form, v in kinds]
    lists = [
        pair(f"x{kind}", 9, array(kind, 3, struct.pack(form, v) * 3)) for kind, form, v in kinds
    ]
    lists.append(pair("tokens", 9, array(8, 3, text("a") + text("") + text(b"\xff" * 300_000))))
    found = read_header(write(header([*lists, *pairs, LLAMA], [tensor("t", (3, 5), 99)])))
    assert [found.metadata[f"general.{kind}"] for kind, _, _ in kinds] == [v for _, _, v in kinds]
    assert (found.parameters, found.types) == (15, {"type 99": 15})
    assert found.number("general.1") is None
    assert found.number("general.7") is None
    assert found.number("general.0") == 255
    assert found.text("general.0") is None


def test_lists_of_numbers_and_texts(write: Write) -> None:
    """Numbers of layers are kept, of texts only how many there are."""
    heads = array(4, 3, struct.pack("<3I", 2, 0, 1))
    pairs = [
        pair("llama.attention.head_count_kv", 9, heads),
        pair("llama.attention.head_count", 9, array(6, 1, struct.pack("<f", 1.5))),
        pair("llama.feed_forward_length", 9, array(4, 2000, b"\0" * 8000)),
        pair("tokenizer.ggml.scores", 9, heads),
        pair("tokenizer.ggml.tokens", 9, array(8, 2, text("a") + text("bc"))),
    ]
    found = read_header(write(header([*pairs, LLAMA], [tensor("t", (32, 5), 2, 64)])))
    assert found.lists == {"llama.attention.head_count_kv": (2, 0, 1)}
    assert found.texts == {"tokenizer.ggml.tokens": 2}
    assert found.shapes == (Tensor("t", "Q4_0", (32, 5), 90, offset=64),)
    assert found.data_size == 64 + 90
    assert found.data_start % 32 == 0


def test_mutated_headers_raise_nothing_else(starter_path: Path, write: Write) -> None:
    """300 files with a few bytes or a count replaced. Whatever the others say of their sizes, their
    memory can be estimated."""
    content, size = starter_path.read_bytes()[: 1 << 17], starter_path.stat().st_size
    assert b"output_norm.weight" in content  # the last name of the header
    places = random.Random(16)
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(places.choice((1, 1, 4))):
            at = places.randrange(0, 1200 if places.random() < 0.7 else 60_000)
            new = places.choice((b"\xff" * 8, b"\0" * 8, places.randbytes(1), b"\xff\xff\xff\x7f"))
            changed[at : at + len(new)] = new
        path = write(bytes(changed))
        os.truncate(path, size)
        try:
            found = read_header(path)
        except BadHeader:
            refused += 1
        else:
            sizes = sizes_of([found])
            assert estimate(sizes, Load("x"), {"Q8_0": 8}).total > 0
            assert refusal(Candidate(Load("x"), sizes=sizes), 1)
    assert refused > 100
