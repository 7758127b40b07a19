# cython: language_level=3, boundscheck=False, wraparound=False
"""Python interface to csrc/og_json: counts the contents of a JSON text before it is parsed."""

from typing import NamedTuple

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint8_t

from offgrid.sampling._core cimport og_json, og_json_count, og_json_cut
from offgrid.sampling._gil cimport LONG


class JsonCounts(NamedTuple):
    """The contents of a JSON text.

    ``fields`` counts the keys of the outermost object, ``long_integers`` the integers of more than
    19 digits. ``constant`` is the offset of the first NaN or infinity, -1 for none.
    """

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


def count_json(const uint8_t[::1] data not None):
    """Count the contents of a JSON text without building objects; long texts release the GIL.

    If a text is JSON only up to some byte, the contents before that byte are counted correctly.
    Definitions: ``csrc/og_json.h``.
    """
    cdef og_json counts
    cdef size_t n = data.shape[0]
    if n == 0:
        return JsonCounts(0, 0, 0, 0, 0, 0, 0, 0, 0, -1)
    if n < LONG:
        og_json_count(&data[0], n, &counts)
    else:
        with nogil:
            og_json_count(&data[0], n, &counts)
    return JsonCounts(
        counts.scalars, counts.strings, counts.keys, counts.fields, counts.lists, counts.objects,
        counts.depth, counts.long_integers, counts.longest_number,
        -1 if counts.constant == n else counts.constant,
    )


def cut_json(const uint8_t[::1] data not None, size_t least):
    """Return where to cut a JSON list, so that its pieces can be parsed one after another.

    Args:
        data: a list that is known to be valid JSON.
        least: bytes of a piece, at least 1; a single item longer than this is a piece by itself.

    Returns:
        Offsets of commas between items, in order.
    """
    cdef size_t n = data.shape[0]
    if n == 0 or least == 0:
        raise ValueError("there is nothing to cut")
    cdef size_t capacity = 2 * (n // least + 1)
    cdef size_t *cuts = <size_t *>PyMem_RawMalloc(capacity * sizeof(size_t))
    cdef size_t count
    if cuts == NULL:
        raise MemoryError
    try:
        with nogil:
            count = og_json_cut(&data[0], n, least, cuts, capacity)
        return [cuts[i] for i in range(count)]
    finally:
        PyMem_RawFree(cuts)
