# cython: language_level=3, boundscheck=False, wraparound=False
"""Python interface to csrc/og_filter: the phrases and patterns of a content filter."""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from offgrid.sampling._core cimport (
    OG_FILTER_ASCII,
    OG_FILTER_BEFORE,
    OG_FILTER_NONE,
    OG_FIND_END,
    OG_FIND_MAX_BYTES,
    OG_FIND_MAX_LENGTH,
    OG_KIND_DIGIT,
    OG_KIND_SPACE,
    OG_KIND_WORD,
    og_class,
    og_filter,
    og_filter_begin,
    og_filter_end,
    og_filter_held,
    og_filter_prime,
    og_filter_state,
    og_filter_step,
    og_find_sort,
    og_trie,
    og_trie_bytes,
    og_trie_init,
    og_trie_nodes,
)
from offgrid.sampling._gil cimport LONG


cdef extern from "Python.h" nogil:
    bint Py_UNICODE_ISALNUM(Py_UCS4 c)
    bint Py_UNICODE_ISDECIMAL(Py_UCS4 c)
    bint Py_UNICODE_ISSPACE(Py_UCS4 c)


cdef extern from "Python.h":
    Py_UCS4 *PyUnicode_AsUCS4Copy(object text) except NULL


cdef inline uint32_t _kinds(Py_UCS4 c) noexcept nogil:
    """The kinds of a character, as Python's regular expressions define them."""
    cdef uint32_t kinds = 0
    if Py_UNICODE_ISALNUM(c) or c == u"_":
        kinds = OG_KIND_WORD
        if Py_UNICODE_ISDECIMAL(c):
            kinds |= OG_KIND_DIGIT
    elif Py_UNICODE_ISSPACE(c):
        kinds = OG_KIND_SPACE
    return kinds


@cython.final
cdef class Filter:
    """The phrases and patterns of a content filter. Thread-safe.

    Args:
        phrases: texts, case-folded with ``folds``; none may be empty.
        folds: uint32 pairs: a character and what it is folded to, ascending.
        tables: the automaton of the patterns, nine arrays in the order of ``struct og_filter`` from
            ``edge_begin``; empty without patterns. Made by :mod:`offgrid.filters.automaton`, which
            is responsible for their consistency.

    Raises:
        ValueError: a phrase has more than 256 bytes, or all together have more than 4 MiB of UTF-8.

    Definitions: ``csrc/og_filter.h``.
    """

    cdef og_filter _filter
    cdef og_trie _trie
    cdef tuple _kept
    cdef void *_memory
    cdef uint16_t *_characters

    def __init__(self, phrases, bytes folds not None, tables=()):
        if self._kept is not None:
            raise RuntimeError("a filter is initialised once")
        end = bytes([OG_FIND_END])
        encoded = {text.encode("utf-8", "surrogatepass") for text in phrases}
        if b"" in encoded or max(map(len, encoded), default=0) > OG_FIND_MAX_LENGTH:
            raise ValueError(f"a phrase must have 1 to {OG_FIND_MAX_LENGTH} bytes")
        block = b"".join([text + end for text in sorted(encoded)])
        if len(block) > OG_FIND_MAX_BYTES:
            raise ValueError(f"phrases of {len(block)} bytes together are too long")
        self._kept = (block, folds, *tables)
        self._filter.folds = <const uint32_t *><const char *>folds
        self._filter.n_folds = <int32_t>(len(folds) // 8)
        if encoded:
            self._build(block, <int32_t>len(encoded))
        if tables:
            self._set(tables)

    cdef int _build(self, bytes block, int32_t n) except -1:
        cdef const uint8_t *source = <const uint8_t *><const char *>block
        cdef int32_t *order = <int32_t *>PyMem_RawMalloc(n * sizeof(int32_t))
        cdef int32_t nodes, v, c, begin = 0, count = 0, i
        if order == NULL:
            raise MemoryError
        for i in range(<int32_t>len(block)):
            if source[i] == OG_FIND_END:
                order[count] = begin
                begin = i + 1
                count += 1
        og_find_sort(source, order, n)
        nodes = og_trie_nodes(source, order, n)
        self._memory = PyMem_RawMalloc(og_trie_bytes(nodes))
        self._characters = <uint16_t *>PyMem_RawCalloc(2 * <size_t>nodes, sizeof(uint16_t))
        if self._memory != NULL and self._characters != NULL:
            og_trie_init(&self._trie, self._memory, nodes, source, order, n)
        PyMem_RawFree(order)
        if self._memory == NULL or self._characters == NULL:
            raise MemoryError
        cdef uint16_t *characters = self._characters
        cdef uint16_t *phrase = characters + nodes
        for v in range(nodes):  # level by level: a node that another fails to comes first
            for c in range(self._trie.child[v], self._trie.child[v + 1]):
                characters[c] = characters[v] + ((self._trie.label[c] & 0xC0) != 0x80)
            if v > 0 and self._trie.longest[v] == self._trie.depth[v]:
                phrase[v] = characters[v]
            elif v > 0:
                phrase[v] = phrase[self._trie.fail[v]]
        self._filter.phrases = &self._trie
        self._filter.characters = characters
        self._filter.phrase = phrase
        return 0

    cdef int _set(self, tables) except -1:
        cdef bytes edge_begin, edge_target, edge_when, state_class, state_end
        cdef bytes classes, ranges, first_begin, first_edge
        (edge_begin, edge_target, edge_when, state_class, state_end, classes, ranges, first_begin,
         first_edge) = tables
        self._filter.n_states = <int32_t>len(state_end)
        if (len(edge_begin) != 4 * (self._filter.n_states + 2)
                or len(state_class) != 4 * self._filter.n_states
                or len(first_begin) != 4 * (OG_FILTER_ASCII + 1)
                or len(edge_target) != 4 * len(edge_when)):
            raise ValueError("the tables of the patterns do not fit together")
        self._filter.edge_begin = <const int32_t *><const char *>edge_begin
        self._filter.edge_target = <const int32_t *><const char *>edge_target
        self._filter.edge_when = <const uint8_t *><const char *>edge_when
        self._filter.state_class = <const int32_t *><const char *>state_class
        self._filter.state_end = <const uint8_t *><const char *>state_end
        self._filter.classes = <const og_class *><const char *>classes
        self._filter.ranges = <const uint32_t *><const char *>ranges
        self._filter.first_begin = <const int32_t *><const char *>first_begin
        self._filter.first_edge = <const int32_t *><const char *>first_edge
        return 0

    def __dealloc__(self):
        PyMem_RawFree(self._memory)
        PyMem_RawFree(self._characters)

    def found(self, str text not None):
        """Whether a phrase or pattern occurs in a text. Long searches release the GIL."""
        stream = FilterStream(self)
        cdef FilterStream state = stream
        cdef Py_UCS4 *characters = PyUnicode_AsUCS4Copy(text)
        cdef Py_ssize_t n = len(text)
        cdef bint result
        if n < LONG:
            result = state._search(characters, n)
        else:
            with nogil:
                result = state._search(characters, n)
        PyMem_Free(characters)
        return result


@cython.final
cdef class FilterStream:
    """Passes a text on, up to the first match of a filter.

    Args:
        filter: the filter.

    Only characters that may still become a match are held back. The text is the same however it was
    split. ``finished`` is true after a match, or after :meth:`flush`; ``matched`` only after a
    match. Only one thread may use a stream at a time.
    """

    cdef Filter _filter
    cdef og_filter_state _state
    cdef int32_t *_memory
    cdef str _held
    cdef readonly bint finished
    cdef readonly bint matched

    def __init__(self, Filter filter not None):
        if self._filter is not None:
            raise RuntimeError("a filter's stream is initialised once")
        cdef size_t n = filter._filter.n_states
        self._memory = <int32_t *>PyMem_RawCalloc(5 * n + 1, sizeof(int32_t))
        if self._memory == NULL:
            raise MemoryError
        self._filter = filter
        self._held = ""
        self._state.active = self._memory
        self._state.length = self._memory + n
        self._state.next = self._memory + 2 * n
        self._state.next_length = self._memory + 3 * n
        self._state.slot = self._memory + 4 * n
        og_filter_begin(&self._state)

    def __dealloc__(self):
        PyMem_RawFree(self._memory)

    @property
    def holds(self):
        """Number of characters that are held back."""
        return len(self._held)

    cdef bint _search(self, const Py_UCS4 *text, Py_ssize_t n) noexcept nogil:
        cdef int32_t length = 0
        cdef Py_ssize_t i
        for i in range(n):
            if og_filter_step(&self._filter._filter, &self._state, text[i], _kinds(text[i]),
                              &length) != OG_FILTER_NONE:
                return True
        return og_filter_end(&self._filter._filter, &self._state, &length)

    def prime(self, str text not None):
        """Follow text that comes before the stream and has been sent. Matches that end in it do not
        count; a match may begin in it."""
        cdef Py_UCS4 c
        for c in text:
            og_filter_prime(&self._filter._filter, &self._state, c, _kinds(c))

    def feed(self, str text not None):
        """Take more text; return the text that may be sent now, possibly empty. Text that is fed
        after the end is ignored."""
        if self.finished or not text:
            return ""
        cdef str data = self._held + text
        cdef Py_ssize_t at = len(self._held)
        cdef int32_t length = 0
        cdef int result
        cdef Py_UCS4 c
        for c in text:
            result = og_filter_step(&self._filter._filter, &self._state, c, _kinds(c), &length)
            if result != OG_FILTER_NONE:
                return self._cut(data, at + (result != OG_FILTER_BEFORE) - length)
            at += 1
        cdef Py_ssize_t held = og_filter_held(&self._filter._filter, &self._state)
        if held >= len(data):
            self._held = data
            return ""
        self._held = data[len(data) - held:]
        return data[:len(data) - held]

    def flush(self):
        """Return the text that was held back, up to a match that ends with the text."""
        cdef int32_t length = 0
        if self.finished:
            return ""
        if og_filter_end(&self._filter._filter, &self._state, &length):
            return self._cut(self._held, len(self._held) - length)
        self.finished = True
        text, self._held = self._held, ""
        return text

    cdef str _cut(self, str data, Py_ssize_t begin):
        self.finished = True
        self.matched = True
        self._held = ""
        return data[:max(begin, 0)]
