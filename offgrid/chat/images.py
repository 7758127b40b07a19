"""Images in a conversation: data URLs to image files whose size is known before they are decoded.

libmtmd decodes images with stb_image, so only stb_image's formats are accepted, and only after the
header has been checked for the number of pixels: a file of a few kilobytes can decode to gigabytes.
The formats: PNG (W3C, third edition), JPEG (ITU T.81), GIF89a, and the Windows bitmap.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from typing import NamedTuple

from offgrid.errors import InvalidParameter

MAX_IMAGES = 16
"""Images in one request."""
MAX_SIDE = 8192
MAX_PIXELS = 1 << 24
"""Pixels of one image: 16.8 million."""
MAX_TOTAL_PIXELS = 1 << 26
MAX_TOTAL_BYTES = 32 << 20
"""Bytes of all image files in a request, which go to the worker in one frame."""
_MAX_SCANS = 100
"""Scans of a JPEG: each pass over the pixels takes time, however few bytes it has."""
_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*?)(;base64)?,", re.IGNORECASE)
_MAX_HEAD = 256
"""Characters of a data URL before its data."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive, all with Huffman coding."""
_INFLATE_STEP = 1 << 16


class Size(NamedTuple):
    width: int
    height: int


class _BadImage(Exception):
    """The message completes "This image ..."."""


def read_data_url(url: str, param: str) -> bytes:
    """Return the image file in a data URL.

    Raises:
        InvalidParameter: another kind of URL, not base64, or not an image. ``param`` names the
            request field.
    """
    scheme = url[:_MAX_HEAD].partition(":")[0].strip().lower()
    if scheme != "data":
        raise InvalidParameter(
            "Images must be sent as data: URLs with base64; this server fetches nothing from a "
            "network and opens no files.",
            param,
            code="unsupported_parameter",
        )
    match = _DATA_URL.match(url, 0, _MAX_HEAD)
    if match is None or match[3] is None:
        raise InvalidParameter("The data: URL must have the form data:image/...;base64,...", param)
    kind = match[1].strip().lower()
    if kind and not kind.startswith("image/"):
        raise InvalidParameter(f"The data: URL contains {kind}, not an image.", param)
    return _decoded(url[match.end() :], "The image", param)


def read_encoded(text: str, param: str) -> bytes:
    """Return the image file in a text that is base64, or a data URL.

    Raises:
        InvalidParameter: it is neither. ``param`` names the request field.
    """
    if text[:5].lower() == "data:":
        return read_data_url(text, param)
    return _decoded(text, param, param)


def _decoded(text: str, name: str, param: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as ex:
        raise InvalidParameter(f"{name} is not valid base64: {ex}.", param) from None


def check_images(images: list[tuple[bytes, str]]) -> None:
    """Check all images of a request.

    Args:
        images: files, each with the request field that error messages name.

    Raises:
        InvalidParameter: an image cannot be decoded within the limits, or there are too many.
    """
    pixels = size = 0
    for count, (data, param) in enumerate(images, 1):
        if count > MAX_IMAGES:
            raise InvalidParameter(f"A request may contain at most {MAX_IMAGES} images.", param)
        width, height = image_size(data, param)
        pixels += width * height
        size += len(data)
        if size > MAX_TOTAL_BYTES:
            raise InvalidParameter(
                f"The images of a request may have at most {MAX_TOTAL_BYTES >> 20} MiB in total.",
                param,
            )
        if pixels > MAX_TOTAL_PIXELS:
            raise InvalidParameter(
                f"The images of a request may have at most {MAX_TOTAL_PIXELS} pixels in total.",
                param,
            )


def image_size(data: bytes, param: str) -> Size:
    """Return the size of an image in pixels, without decoding it.

    Raises:
        InvalidParameter: not an image, an unsupported format, or more pixels than allowed.
    """
    try:
        size = _read_size(data)
        if min(size) < 1:
            raise _BadImage("has no pixels")
        if max(size) > MAX_SIDE or size.width * size.height > MAX_PIXELS:
            raise _BadImage(
                f"has {size.width} x {size.height} pixels; at most {MAX_SIDE} per side and "
                f"{MAX_PIXELS} in total are supported"
            )
        if data.startswith(_PNG):
            _check_png(data, size)
    except _BadImage as ex:
        raise InvalidParameter(f"This image {ex}.", param) from None
    except (struct.error, IndexError):
        raise InvalidParameter("The image file is truncated.", param) from None
    return size


def _read_size(data: bytes) -> Size:
    if data.startswith(_PNG):
        length, kind, width, height = struct.unpack_from(">I4sII", data, len(_PNG))
        if (length, kind) != (13, b"IHDR"):
            raise _BadImage("is not a valid PNG: it does not begin with IHDR")
        return Size(width, height)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return Size(*struct.unpack_from("<HH", data, 6))
    if data.startswith(b"BM"):
        return _bmp_size(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        raise _BadImage("is a WebP, which is not supported; send PNG, JPEG, GIF or BMP")
    raise _BadImage("has an unsupported format; PNG, JPEG, GIF and BMP are supported")


def _bmp_size(data: bytes) -> Size:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        return Size(*struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)
    return Size(abs(width), abs(height))  # The height is negative if the top row comes first.


def _jpeg_size(data: bytes) -> Size:
    """Return the size in the frame header, found segment by segment as stb_image finds it."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise IndexError
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        if marker in _JPEG_FRAMES:
            break
        if not (0xE0 <= marker <= 0xEF or marker in (0xC4, 0xDB, 0xDD, 0xFE)):
            raise _BadImage("is a JPEG of an unsupported kind")
        (length,) = struct.unpack_from(">H", data, at + 1)
        at += 1 + max(2, length)
    height, width = struct.unpack_from(">HH", data, at + 4)
    scans, last = data.count(b"\xff\xda", at), data.rfind(b"\xff\xda", at)
    if scans > _MAX_SCANS:
        raise _BadImage(f"has more than {_MAX_SCANS} scans")
    # Reject truncated files: stb_image would leave uninitialised memory in the missing pixels.
    if scans == 0 or data.find(b"\xff\xd9", last) < 0:
        raise IndexError
    return Size(width, height)


def _check_png(data: bytes, size: Size) -> None:
    """Check that the compressed rows are complete and no longer than the size allows."""
    depth, colour = data[24], data[25]
    if colour not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise _BadImage("is not a valid PNG: its colour type does not exist")
    row = 2 + size.width * depth * _PNG_CHANNELS[colour] // 8
    left = 2 * row * size.height + 4096  # Interlaced images have more and shorter rows.
    inflate = zlib.decompressobj()
    at = len(_PNG)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        begin, at = at + 8, at + 12 + length
        if at > len(data):
            raise IndexError
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            left = _inflate(inflate, memoryview(data)[begin : begin + length], left)
    if not inflate.eof:
        raise IndexError


def _inflate(inflate: zlib._Decompress, data: memoryview, left: int) -> int:
    """Decompress a part of the rows, at most ``left`` bytes; return the bytes still allowed."""
    for at in range(0, len(data), _INFLATE_STEP):
        pending: bytes | memoryview = data[at : at + _INFLATE_STEP]
        while pending and not inflate.eof:
            try:
                left -= len(inflate.decompress(pending, _INFLATE_STEP))
            except zlib.error:
                raise _BadImage("is not a valid PNG: its data cannot be decompressed") from None
            if left < 0:
                raise _BadImage("contains more data than its size allows")
            pending = inflate.unconsumed_tail
    return left
