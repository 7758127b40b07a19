"""Signatures of reasoning, by which a block that comes back is known to be unchanged.

A signature is base64 of the name of the key, a message authentication code (HMAC-SHA256) of the
text and, if the block does not show its text, the text itself. It hides nothing: it lets a client
keep reasoning that it does not want to see.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable

_BEGIN = "og1."
"""Begins every signature that an OffGrid server has made."""
_NAME, _CODE = 8, 32
"""Bytes of the name of a key, and of a code."""
_MOST = 1 << 24
"""Bytes of a text that is packed into a signature."""


class Forged(Exception):
    """A block has a signature of this server, and another text."""


class Signer:
    """Signs texts and checks signatures. Thread-safe.

    Args:
        key: returns the key; called once for each signature, since the key may be replaced.
    """

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key

    def sign(self, text: str, *, packed: bool = False) -> str:
        """Return the signature of a text; with ``packed``, it holds the text too."""
        data = text.encode("utf-8", "surrogatepass")
        key = self._key()
        signed = _name(key) + _code(key, data) + (zlib.compress(data) if packed else b"")
        return _BEGIN + base64.b64encode(signed).decode()

    def opened(self, text: str, signature: str) -> str | None:
        """Return the text of a block; None if no signature of this server is in it.

        Args:
            text: the text of the block; empty if it is in the signature.
            signature: of the block.

        Raises:
            Forged: this server has signed another text.
        """
        if not signature.startswith(_BEGIN):
            return None
        try:
            signed = base64.b64decode(signature[len(_BEGIN) :], validate=True)
        except (binascii.Error, ValueError):
            return None
        name, code, packed = signed[:_NAME], signed[_NAME : _NAME + _CODE], signed[_NAME + _CODE :]
        key = self._key()
        if not hmac.compare_digest(name, _name(key)):
            return None
        data = text.encode("utf-8", "surrogatepass")
        if packed and not text:
            data = _unpacked(packed)
        if not hmac.compare_digest(code, _code(key, data)):
            raise Forged
        return data.decode("utf-8", "surrogatepass")


def _name(key: bytes) -> bytes:
    return hashlib.sha256(b"name" + key).digest()[:_NAME]


def _code(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _unpacked(packed: bytes) -> bytes:
    """Return packed data, of bounded size: a client can send any."""
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(packed, _MOST)
    except zlib.error:
        raise Forged from None
    if not unpack.eof:
        raise Forged
    return data
