# cython: language_level=3, boundscheck=False, wraparound=False
"""Python interface to csrc/og_find: finds many texts at once in a prompt."""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.string cimport memcpy

from offgrid.sampling._core cimport (
    OG_FIND_END,
    OG_FIND_MAX_BYTES,
    OG_FIND_MAX_LENGTH,
    c_bool,
    og_find,
    og_find_place_marks,
    og_find_sort,
    og_find_split,
    og_trie,
    og_trie_bytes,
    og_trie_init,
    og_trie_nodes,
)
from offgrid.sampling._gil cimport LONG

cdef enum:
    WINDOW = 1 << 16


cdef class TextSet:
    """Finds many texts at once, in one pass over the searched text. Thread-safe.

    Args:
        texts: the texts to find; none may be empty.

    Raises:
        ValueError: a text has more than 256 bytes, or all together have more than 4 MiB of UTF-8.

    The time of a search depends on the length of the searched text, not on the number of texts.
    Long searches release the GIL. Definitions: ``csrc/og_find.h``.
    """

    cdef og_find _find
    cdef bytes _block
    cdef bytes _turned
    cdef void *_memory[3]
    cdef readonly size_t memory

    def __init__(self, texts):
        if self._block is not None:
            raise RuntimeError("a set of texts is initialised once")
        encoded = set()
        for text in texts:
            encoded.add(text.encode("utf-8", "surrogatepass"))
            if len(encoded) % 4096 == 0:
                with nogil:  # Let other threads run: there may be very many texts.
                    pass
        if b"" in encoded:
            raise ValueError("a text to look for is empty")
        longest = max(map(len, encoded), default=0)
        if longest > OG_FIND_MAX_LENGTH:
            raise ValueError(f"a text of {longest} bytes is too long to look for")
        end = bytes([OG_FIND_END])
        self._block = b"".join([text + end for text in encoded])
        if len(self._block) > OG_FIND_MAX_BYTES:
            raise ValueError(f"texts of {len(self._block)} bytes together are too long to look for")
        self._turned = b"".join([text[::-1] + end for text in encoded])
        cdef int32_t n = len(encoded)
        self._find.longest = longest
        self._find.bytes = <const uint8_t *><const char *>self._block
        self._memory[0] = _build(&self._find.ahead, self._block, n, &self.memory)
        self._memory[1] = _build(&self._find.back, self._turned, n, &self.memory)
        self._sort_suffixes()

    def __dealloc__(self):
        for i in range(3):
            PyMem_RawFree(self._memory[i])

    cdef int _sort_suffixes(self) except -1:
        cdef size_t n = len(self._block)
        cdef const uint8_t *block = self._find.bytes
        cdef size_t i
        cdef int32_t *order = <int32_t *>PyMem_RawMalloc((n + 1) * sizeof(int32_t))
        cdef int32_t count = 0
        if order == NULL:
            raise MemoryError
        self._memory[2] = order
        self.memory += (n + 1) * sizeof(int32_t)
        with nogil:
            for i in range(n):
                # Only suffixes that begin with a whole character.
                if block[i] != OG_FIND_END and (block[i] & 0xC0) != 0x80:
                    order[count] = <int32_t>i
                    count += 1
            og_find_sort(block, order, count)
        self._find.suffixes = order
        self._find.n_suffixes = count
        return 0

    def mark(self, str text not None, str mark not None):
        """Return a copy that holds none of the texts and cannot form one with neighbouring text.

        The mark is put after the first character of every occurrence of the texts, of every ending
        of ``text`` that begins one of them, and of ``text`` itself if it could be the end or the
        middle of one.

        Returns:
            The marked text (the same object if there is nothing to mark), and whether ``text``
            holds one of the texts.
        """
        data = text.encode("utf-8", "surrogatepass")
        sign = mark.encode("utf-8", "surrogatepass")
        cdef size_t n = len(data)
        if n == 0:
            return text, False
        cdef c_bool whole = False
        cdef size_t n_sign = len(sign)
        cdef size_t count
        cdef const uint8_t *source = <const uint8_t *><const char *>data
        cdef const uint8_t *sign_bytes = <const uint8_t *><const char *>sign
        cdef uint8_t *places = <uint8_t *>PyMem_RawMalloc(n + 1)
        cdef uint8_t *target = NULL
        if places == NULL:
            raise MemoryError
        try:
            if n < LONG:
                count = og_find_place_marks(&self._find, source, n, places, &whole)
            else:
                with nogil:
                    count = og_find_place_marks(&self._find, source, n, places, &whole)
            if count == 0:
                return text, False
            target = <uint8_t *>PyMem_RawMalloc(n + count * n_sign)
            if target == NULL:
                raise MemoryError
            if n < LONG:
                _write(target, source, n, places, sign_bytes, n_sign)
            else:
                with nogil:
                    _write(target, source, n, places, sign_bytes, n_sign)
            marked = PyUnicode_DecodeUTF8(
                <const char *>target, n + count * n_sign, "surrogatepass"
            )
            return marked, bool(whole)
        finally:
            PyMem_RawFree(places)
            PyMem_RawFree(target)

    def split(self, str text not None, str mark not None, most):
        """Cut a text at every occurrence of the texts that no mark follows, and remove the marks.

        Occurrences are taken from left to right; at each place the longest one wins.

        Args:
            text: at most 2 GiB.
            mark: not empty.
            most: how many occurrences ``text`` may hold.

        Returns:
            The pieces in order, none of them empty, each with whether it is one of the texts. None
            if there are more than ``most`` occurrences.
        """
        data = text.encode("utf-8", "surrogatepass")
        sign = mark.encode("utf-8", "surrogatepass")
        cdef size_t n = len(data)
        if n > 0x7FFFFFFF or not sign:
            raise ValueError("a text of up to 2 GiB and a mark are needed")
        cdef size_t n_sign = len(sign)
        cdef size_t capacity = min(n, most)
        cdef size_t count
        cdef const uint8_t *source = <const uint8_t *><const char *>data
        cdef const uint8_t *sign_bytes = <const uint8_t *><const char *>sign
        cdef int32_t *found = <int32_t *>PyMem_RawMalloc((2 * capacity + 1) * sizeof(int32_t))
        cdef uint16_t *lengths = <uint16_t *>PyMem_RawMalloc(WINDOW * sizeof(uint16_t))
        try:
            if found == NULL or lengths == NULL:
                raise MemoryError
            if n < LONG:
                count = og_find_split(&self._find, source, n, sign_bytes, n_sign, lengths, WINDOW,
                                      found, capacity)
            else:
                with nogil:
                    count = og_find_split(&self._find, source, n, sign_bytes, n_sign, lengths,
                                          WINDOW, found, capacity)
            if count > capacity:
                return None
            pieces = []
            at = 0
            for i in range(count):
                if found[2 * i] > at:
                    pieces.append((_plain(data[at:found[2 * i]], sign), False))
                at = found[2 * i + 1]
                pieces.append((data[found[2 * i]:at].decode("utf-8", "surrogatepass"), True))
            if at < n:
                pieces.append((_plain(data[at:], sign), False))
            return pieces
        finally:
            PyMem_RawFree(found)
            PyMem_RawFree(lengths)


cdef str _plain(bytes data, bytes sign):
    return data.replace(sign, b"").decode("utf-8", "surrogatepass")


cdef void *_build(og_trie *trie, bytes texts, int32_t n, size_t *memory) except NULL:
    """Build the automaton of n different texts, each with its end byte; return its memory."""
    cdef const uint8_t *block = <const uint8_t *><const char *>texts
    cdef int32_t size = len(texts)
    cdef int32_t *order = <int32_t *>PyMem_RawMalloc((n + 1) * sizeof(int32_t))
    cdef int32_t i, nodes, count = 0, begin = 0
    cdef void *result = NULL
    if order == NULL:
        raise MemoryError
    with nogil:
        for i in range(size):
            if block[i] == OG_FIND_END:
                order[count] = begin
                begin = i + 1
                count += 1
        og_find_sort(block, order, n)
        nodes = og_trie_nodes(block, order, n)
        result = PyMem_RawMalloc(og_trie_bytes(nodes))
        if result != NULL:
            og_trie_init(trie, result, nodes, block, order, n)
        PyMem_RawFree(order)
    if result == NULL:
        raise MemoryError
    memory[0] += og_trie_bytes(nodes)
    return result


cdef void _write(uint8_t *target, const uint8_t *source, size_t n, const uint8_t *places,
                 const uint8_t *sign, size_t n_sign) noexcept nogil:
    cdef size_t i
    for i in range(n + 1):
        if places[i]:
            memcpy(target, sign, n_sign)
            target += n_sign
        if i < n:
            target[0] = source[i]
            target += 1
