from typing import NamedTuple

from typing_extensions import Buffer

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
