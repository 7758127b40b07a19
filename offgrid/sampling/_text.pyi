from collections.abc import Iterable
from typing import NamedTuple, final

from typing_extensions import Buffer

MAX_STOP_BYTES: int

@final
class TextStream:
    def __init__(self, stop: Iterable[str | bytes] = ()) -> None: ...
    @property
    def finished(self) -> bool: ...
    @property
    def stop_reason(self) -> str | bytes | None: ...
    def feed(self, data: Buffer) -> str: ...
    def flush(self) -> str: ...

class TextSet:
    def __init__(self, texts: Iterable[str]) -> None: ...
    @property
    def memory(self) -> int: ...
    def mark(self, text: str, mark: str) -> tuple[str, bool]: ...
    def split(self, text: str, mark: str, most: int) -> list[tuple[str, bool]] | None: ...

class JsonCounts(NamedTuple):
    scalars: int
    strings: int
    keys: int
    fields: int
    lists: int
    objects: int
    depth: int
    long_integers: int
    longest_number: int
    constant: int

def count_json(data: Buffer) -> JsonCounts: ...
def cut_json(data: Buffer, least: int) -> list[int]: ...
