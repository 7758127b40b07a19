"""A program for a new process: eight threads use every struct of the package for the first time.

It prints the number of structs. Without :func:`offgrid.startup.prepare_process` it dies of SIGSEGV.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

import offgrid.server  # noqa: F401 - defines the structs
from offgrid.startup import package_structs, prepare_process

THREADS = 8


def values(struct: type[msgspec.Struct]) -> Iterator[Any]:
    """Yield objects that make a decoder use the type of each field; few of them are valid."""
    config = struct.__struct_config__
    tag = {} if config.tag_field is None else {config.tag_field: config.tag}
    for name in struct.__struct_encode_fields__:
        for value in (None, {}, [{}]):
            yield {**tag, name: value}
    if config.array_like:
        yield [None] * len(struct.__struct_fields__)


def use(struct: type[msgspec.Struct]) -> None:
    """Decode and encode a struct in every way that the package uses."""
    for value in values(struct):
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.convert(value, struct)
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.json.decode(json.dumps(value), type=struct)
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=struct)
    made = struct(**dict.fromkeys(struct.__struct_fields__))
    msgspec.json.encode(made)
    msgspec.msgpack.encode(made)
    msgspec.to_builtins(made)


def main() -> None:
    """Prepare as the server and the worker do, then start all threads at once."""
    prepare_process()
    structs = sorted(package_structs(), key=lambda struct: struct.__qualname__)
    barrier = threading.Barrier(THREADS)

    def work() -> None:
        for struct in structs:
            barrier.wait()
            use(struct)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(structs))


if __name__ == "__main__":
    main()
