"""Vision models with random weights: a small llama with a LLaVA projector, a Qwen2-VL, a Gemma 3.

In llama and Gemma every image has 4 positions (of patches of 14 x 14 pixels), which attend to each
other in Gemma. In Qwen2-VL an image has one position for each 28 x 28 pixels, in rows and columns.
Image files are written here too, byte by byte in their formats, so that tests know every byte.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from numpy.typing import NDArray

gguf = tiny_models.models.gguf
SIDE, PATCH, WIDTH, LAYERS = 28, 14, 32, 2
POSITIONS = (SIDE // PATCH) ** 2


def make_seeing(folder: Path, name: str = "seeing") -> tuple[Path, Path]:
    """Return new files: ``<name>.gguf`` and ``mmproj-<name>.gguf``."""
    model = tiny_models.make("llama", folder)
    model = model.rename(folder / f"{name}.gguf")
    return model, make_projector(folder / f"mmproj-{name}.gguf")


def make_qwen(folder: Path) -> tuple[Path, Path]:
    """Return new files of a model that places images in two dimensions (M-RoPE)."""
    shape = tiny_models.models.RECIPES["small-llama"].shape
    path = folder / "qwen.gguf"
    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    tiny_models.models.llama(writer, "qwen", shape)
    return tiny_models.finish(writer, path), make_projector(
        folder / "mmproj-qwen.gguf", kind="qwen2vl_merger"
    )


def make_gemma(folder: Path) -> tuple[Path, Path]:
    """Return new files of a model in which the positions of an image attend to each other."""
    model = tiny_models.make("gemma3", folder)
    model = model.rename(folder / "gemma.gguf")
    return model, make_projector(folder / "mmproj-gemma.gguf", kind="gemma3", side=56)


def make_projector(path: Path, width: int = 64, kind: str = "mlp", side: int = SIDE) -> Path:
    """Return a new projector file for models whose embeddings have ``width`` entries."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "image_size": side, "patch_size": PATCH, "embedding_length": WIDTH,
        "feed_forward_length": 2 * WIDTH, "block_count": LAYERS, "projection_dim": width,
        "attention.head_count": 2,
    }.items():  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    if kind == "gemma3":
        writer.add_uint32("clip.vision.projector.scale_factor", 2)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.25, 0.25, 0.25])
    tensors = tiny_models.models.Tensors(writer, gguf.GGMLQuantizationType.F32, 3)
    _projector_tensors(tensors, width, kind, (side // PATCH) ** 2)
    return tiny_models.finish(writer, path)


def _projector_tensors(tensors: Any, width: int, kind: str, patches: int) -> None:
    def linear(name: str, rows: int, columns: int) -> None:
        tensors.matrix(name, rows, columns)
        tensors.filled(f"{name}.bias", 0.1, rows)

    def norm(name: str) -> None:
        tensors.filled(f"{name}.weight", 1.0, WIDTH)
        tensors.filled(f"{name}.bias", 0.0, WIDTH)

    tensors.plain("v.patch_embd.weight", tensors.normal(WIDTH, 3, PATCH, PATCH))
    if kind == "gemma3":
        tensors.matrix("v.position_embd", patches, WIDTH)
        norm("v.post_ln")
        tensors.matrix("mm.input_projection", WIDTH, width)
        tensors.filled("mm.soft_emb_norm.weight", 4.0, WIDTH)
    elif kind == "mlp":
        tensors.plain("v.class_embd", tensors.normal(WIDTH))
        tensors.matrix("v.position_embd", patches + 1, WIDTH)
        norm("v.pre_ln")
    else:
        tensors.plain("v.patch_embd.weight.1", tensors.normal(WIDTH, 3, PATCH, PATCH))
        norm("v.post_ln")
    for layer in range(LAYERS):
        block = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"{block}.{part}", WIDTH, WIDTH)
        norm(f"{block}.ln1")
        norm(f"{block}.ln2")
        linear(f"{block}.ffn_up", 2 * WIDTH, WIDTH)
        linear(f"{block}.ffn_down", WIDTH, 2 * WIDTH)
    if kind != "gemma3":
        linear("mm.0", width, WIDTH if kind == "mlp" else 4 * WIDTH)
        linear("mm.2", width, width)


# --- pictures -----------------------------------------------------------------------------------


def pixels(seed: int, width: int = 40, height: int = 30) -> NDArray[np.uint8]:
    """Coloured stripes, (height, width, 3); each seed gives a different image."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    return np.broadcast_to(colours[np.arange(width) * 5 // width], (height, width, 3)).copy()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(image: NDArray[np.uint8], size: tuple[int, int] | None = None) -> bytes:
    """A PNG of RGB pixels; ``size`` (width, height) falsifies the size in its header."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp(image: NDArray[np.uint8]) -> bytes:
    """A Windows bitmap, rows from the top."""
    height, width, _ = image.shape
    rows = b"".join(row[:, ::-1].tobytes() + b"\0" * (-3 * width % 4) for row in image)
    header = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54) + header + rows


def jpeg(width: int, height: int, scans: int = 1) -> bytes:
    """A grey JPEG: one component, and one code for "as before" in each table."""

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data

    one_code = bytes([1] + [0] * 15) + b"\0"
    blocks = -(-width // 8) * -(-height // 8)
    scan = segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + bytes(-(-2 * blocks // 8))
    parts = [
        segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        segment(0xDB, b"\0" + bytes([1] * 64)),
        segment(0xC0, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])),
        segment(0xC4, b"\x00" + one_code),
        segment(0xC4, b"\x10" + one_code),
        *[scan] * scans,
    ]
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def gif(width: int, height: int) -> bytes:
    """A black GIF with 8-bit codes; the table is cleared before the codes would grow."""
    count = width * height
    codes = b"".join(b"\x80" + bytes(min(100, count - at)) for at in range(0, count, 100)) + b"\x81"
    blocks = b"".join(
        bytes([len(part)]) + part
        for part in (codes[at : at + 255] for at in range(0, len(codes), 255))
    )
    screen = struct.pack("<HHBBB", width, height, 0xF6, 0, 0) + bytes(3 * 128)
    return (
        b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x07" + blocks + b"\0;"
    )  # fmt: skip
