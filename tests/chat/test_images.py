"""Checks of images before decoding: sizes against stb_image's, and refusals."""

from __future__ import annotations

import base64
import ctypes
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import llama_cpp.mtmd_cpp as mtmd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_vision import bmp, chunk, gif, jpeg, pixels, png

from offgrid.chat.images import MAX_IMAGES, MAX_SIDE, check_images, image_size, read_data_url
from offgrid.errors import InvalidParameter


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file with libmtmd: (height, width, 3)."""
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(None, buffer, len(data), False)
    assert bitmap
    try:
        size = mtmd.mtmd_bitmap_get_ny(bitmap), mtmd.mtmd_bitmap_get_nx(bitmap), 3
        values = np.ctypeslib.as_array(mtmd.mtmd_bitmap_get_data(bitmap), (int(np.prod(size)),))
        return values.reshape(size).copy()
    finally:
        mtmd.mtmd_bitmap_free(bitmap)


FORMATS: dict[str, Callable[[int, int], bytes]] = {
    "png": lambda width, height: png(pixels(1, width, height)),
    "bmp": lambda width, height: bmp(pixels(1, width, height)),
    "gif": gif,
    "jpeg": jpeg,
}


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_the_size_equals_that_of_the_decoded_image(kind: str, width: int, height: int) -> None:
    data = FORMATS[kind](width, height)
    assert image_size(data, "x") == (width, height)
    assert decode(data).shape == (height, width, 3)


@pytest.mark.parametrize("write", [png, bmp])
def test_pixels_are_decoded_unchanged(write: Callable[[NDArray[np.uint8]], bytes]) -> None:
    """The images of the other tests are valid."""
    assert np.array_equal(decode(write(pixels(3))), pixels(3))


@given(data=st.binary(max_size=200), head=st.sampled_from(
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF....WEBP",
     png(pixels(1))[:40], jpeg(9, 9)[:30]]
))  # fmt: skip
def test_any_bytes_are_an_image_or_refused(data: bytes, head: bytes) -> None:
    try:
        size = image_size(head + data, "x")
    except InvalidParameter:
        return
    assert 0 < min(size) <= max(size) <= MAX_SIDE


@pytest.mark.parametrize("whole", [png(pixels(1)), jpeg(40, 30)], ids=["png", "jpeg"])
def test_truncated_images(whole: bytes) -> None:
    for length in range(len(whole)):
        with pytest.raises(InvalidParameter):
            image_size(whole[:length], "x")


def bomb() -> bytes:
    """A PNG of 8 x 8 pixels that decompresses to 256 MiB of zeros."""
    deflate = zlib.compressobj()
    data = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(256)) + deflate.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


REFUSED = {
    "text": (b"not an image", "unsupported format"),
    "empty": (b"", "unsupported format"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
    "side": (png(pixels(1), (8193, 1)), "8193 x 1"),
    "area": (png(pixels(1), (8000, 8000)), "8000 x 8000"),
    "jpeg area": (jpeg(9, 9).replace(struct.pack(">HH", 9, 9), struct.pack(">HH", 60000, 60000)),
                  "60000 x 60000"),
    "nothing": (png(pixels(1), (0, 5)), "no pixels"),
    "no IHDR": (b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(13)), "IHDR"),
    "scans": (jpeg(64, 64, scans=101), "scans"),
    "lossless": (jpeg(9, 9).replace(b"\xff\xc0", b"\xff\xc3"), "kind"),
    "rows": (png(pixels(1, 400, 300), (40, 30)), "more data"),
    "bomb": (bomb(), "more data"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, words = REFUSED[name]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidParameter, match=words) as caught:
            image_size(data, "messages[0].content[1]")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.param == "messages[0].content[1]"
    assert most < 4 << 20


def test_too_many_images() -> None:
    image = png(pixels(1))
    check_images([(image, "x")] * MAX_IMAGES)
    with pytest.raises(InvalidParameter, match="16 images") as caught:
        check_images([(image, "x")] * MAX_IMAGES + [(image, "one too many")])
    assert caught.value.param == "one too many"


def test_too_many_pixels_together() -> None:
    with pytest.raises(InvalidParameter, match="pixels in total"):
        check_images([(jpeg(4096, 4096), "x")] * 5)


PICTURE = png(pixels(1))
ENCODED = base64.b64encode(PICTURE).decode()


@pytest.mark.parametrize(
    "head",
    ["data:image/png;base64,", "DATA:image/jpeg;BASE64,", "data:;base64,",
     "data:image/png;name=a.png;base64,"],
)  # fmt: skip
def test_data_urls(head: str) -> None:
    assert read_data_url(head + ENCODED, "x") == PICTURE


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/a.png", "fetches nothing"),
        ("file:///etc/passwd", "fetches nothing"),
        ("/etc/passwd", "fetches nothing"),
        ("", "fetches nothing"),
        ("data:image/png," + ENCODED, "form"),
        ("data:image/png;base64", "form"),
        ("data:" + "a" * 300 + ";base64," + ENCODED, "form"),
        ("data:text/html;base64," + ENCODED, "text/html"),
        ("data:image/png;base64," + ENCODED[:-3], "base64"),
        ("data:image/png;base64,%%%" + ENCODED, "base64"),
        ("data:image/png;base64,\u00e9" + ENCODED, "base64"),
    ],
)
def test_other_urls(url: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        read_data_url(url, "x")
    assert caught.value.param == "x"
