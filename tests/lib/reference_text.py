"""The readable definition of the text stream: stop strings and UTF-8 (Unicode 15, section 3.9).

Nothing here is fast, and nothing here uses our C code, which must give exactly the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CHARACTER_BEGINNINGS = {
    chr(code).encode()[:k]
    # The last byte holds six bits, so every 64th character gives all beginnings.
    for code in range(0x80, 0x110000, 64)
    if not 0xD800 <= code <= 0xDFFF
    for k in range(1, len(chr(code).encode()))
}
"""Bytes that begin a character and need more bytes to complete it. (Python's incremental decoder
would also hold back beginnings of surrogates, which never become a character.)"""


def first_stop(data: bytes, stops: Sequence[bytes]) -> tuple[int, int] | None:
    """Return (start of the match, index of the stop) of the match that ends first.

    If several end there, take the longest.
    """
    for end in range(1, len(data) + 1):
        ending = [i for i, stop in enumerate(stops) if data[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=lambda i: len(stops[i]))
            return end - len(stops[longest]), longest
    return None


def whole_text(data: bytes, stops: Sequence[bytes]) -> str:
    """Return the text of a stream that has ended."""
    match = first_stop(data, stops)
    return (data if match is None else data[: match[0]]).decode("utf-8", "replace")


def shown_text(data: bytes, stops: Sequence[bytes]) -> str:
    """Return the text that may be shown after ``data`` while more may follow."""
    if first_stop(data, stops) is not None:
        return whole_text(data, stops)
    held = max(
        (k for stop in stops for k in range(len(stop)) if data.endswith(stop[:k])), default=0
    )
    ready = data[: len(data) - held]
    ends = (ready[-k:] for k in (1, 2, 3))
    unfinished = max((len(end) for end in ends if end in CHARACTER_BEGINNINGS), default=0)
    return ready[: len(ready) - unfinished].decode("utf-8", "replace")


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Yield every way to cut ``data`` into pieces."""
    for cuts in range(1 << max(0, len(data) - 1)):
        pieces, begin = [], 0
        for at in range(1, len(data)):
            if cuts >> (at - 1) & 1:
                pieces.append(data[begin:at])
                begin = at
        yield [*pieces, data[begin:]]
