# cython: language_level=3, boundscheck=False, wraparound=False
"""Python interface to csrc/og_stops and csrc/og_utf8: converts the bytes of tokens to text, cuts it
before a stop string, and finds strings in such bytes."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy, memmove

from offgrid.sampling._core cimport og_stops, og_stops_feed, og_stops_init, og_utf8_unfinished

from offgrid.errors import InvalidParameter

MAX_STOP_BYTES = 1 << 20


@cython.final
cdef class StringScanner:
    """Finds the first of some strings in a stream of bytes, however the stream was split.

    Args:
        strings: what is looked for (str, or bytes for parts of characters).
        what: how error messages name one of them.
        param: the request field that errors name.

    Attributes:
        matched: length in bytes of the string that was found; 0 if none was.
        held: how many bytes at the end of the stream may still become one of the strings.

    Raises:
        InvalidParameter: a string is empty or not text, or all together have over 1 MiB.

    The match that ends first wins; of several, the longest. Definitions: ``csrc/og_stops.h``. Only
    one thread may use a scanner at a time.
    """

    cdef og_stops _stops
    cdef tuple _texts
    cdef bytes _bytes
    cdef int32_t *_memory
    cdef readonly int32_t matched
    cdef readonly int32_t held
    cdef int32_t _index

    def __init__(self, strings, *, what="stop string", param="stop"):
        if self._memory != NULL:
            raise RuntimeError("a scanner is initialised once")
        self._texts = tuple(strings)
        encoded = [_encode(text, what, param) for text in self._texts]
        self._bytes = b"".join(encoded)
        cdef size_t total = len(self._bytes)
        if total > MAX_STOP_BYTES:
            raise InvalidParameter(f"The {what}s have {total} bytes; 1 MiB is allowed.", param)
        cdef int32_t n = len(encoded)
        # One block: offsets (n + 1), failure (total), state (n).
        self._memory = <int32_t *>PyMem_RawMalloc((2 * n + 1 + total) * sizeof(int32_t))
        if self._memory == NULL:
            raise MemoryError
        self._memory[0] = 0
        for i in range(n):
            self._memory[i + 1] = self._memory[i] + <int32_t>len(encoded[i])
        self._stops.n_stops = n
        self._stops.bytes = <const uint8_t *><const char *>self._bytes
        self._stops.offset = self._memory
        self._stops.failure = self._memory + n + 1
        self._stops.state = self._memory + n + 1 + total
        og_stops_init(&self._stops)

    def __dealloc__(self):
        PyMem_RawFree(self._memory)

    def feed(self, const uint8_t[::1] data not None):
        """Follow the next bytes; return how many were read: all, or those up to the end of a match.

        After a match, nothing is read until :meth:`restore` is called.
        """
        if data.shape[0] == 0:
            return 0
        return self._feed(&data[0], data.shape[0])

    cdef size_t _feed(self, const uint8_t *data, size_t n) noexcept:
        cdef int32_t held = 0
        if self.matched:
            return 0
        cdef size_t taken = og_stops_feed(&self._stops, data, n, &self._index, &held)
        if self._index >= 0:
            self.matched = held
            self.held = 0
        else:
            self.held = held
        return taken

    @property
    def state(self):
        """What the stream so far has left, for :meth:`restore`. Read it before a match."""
        return PyBytes_FromStringAndSize(
            <const char *>self._stops.state, self._stops.n_stops * sizeof(int32_t)
        )

    def restore(self, bytes state not None):
        """Go back to the place of the stream where :attr:`state` was read."""
        cdef Py_ssize_t size = self._stops.n_stops * sizeof(int32_t)
        if PyBytes_GET_SIZE(state) != size:
            raise ValueError("this is not the state of such a scanner")
        memcpy(self._stops.state, PyBytes_AS_STRING(state), size)
        self.matched = self.held = 0
        for i in range(self._stops.n_stops):
            self.held = max(self.held, self._stops.state[i])


@cython.final
cdef class TextStream:
    """Converts the bytes of tokens to text, up to a stop string.

    Args:
        stop: stop strings (str, or bytes for parts of characters).

    Raises:
        InvalidParameter: a stop string is empty or not text, or all together have over 1 MiB.

    Only bytes that may still become a stop string or a whole character are held back. The text is
    the same however the bytes were split. Definitions: ``csrc/og_stops.h``. Only one thread may use
    a stream at a time.
    """

    cdef StringScanner _scanner
    cdef uint8_t *_held
    cdef size_t _n_held
    cdef size_t _capacity
    cdef readonly bint finished
    cdef readonly object stop_reason

    def __init__(self, stop=()):
        if self._scanner is not None:
            raise RuntimeError("a text stream is initialised once")
        self._scanner = StringScanner(stop)

    def __dealloc__(self):
        PyMem_RawFree(self._held)

    def feed(self, const uint8_t[::1] data not None):
        """Take the bytes of a token; return the text that may be shown now, possibly empty.

        After a stop string has matched, ``finished`` is true and ``stop_reason`` is that string.
        Bytes fed after a match or after ``flush`` are ignored.
        """
        if self.finished or data.shape[0] == 0:
            return ""
        cdef StringScanner scanner = self._scanner
        if scanner is None:
            raise RuntimeError("the text stream was not initialised")
        cdef size_t taken = scanner._feed(&data[0], data.shape[0])
        self._append(&data[0], taken)
        cdef size_t ready = self._n_held - scanner.held - scanner.matched
        if scanner.matched:
            self.finished = True
            self.stop_reason = scanner._texts[scanner._index]
            text = PyUnicode_DecodeUTF8(<const char *>self._held, ready, "replace")
            self._n_held = 0
            return text
        ready -= og_utf8_unfinished(self._held, ready)
        return self._release(ready)

    def flush(self):
        """Return all text held back, when the answer has ended without a stop string.

        An unfinished character becomes U+FFFD. ``finished`` is then true, and ``stop_reason`` stays
        None if no stop string had matched.
        """
        # The held-back text is returned, so a later match could no longer remove it.
        self.finished = True
        return self._release(self._n_held)

    cdef int _append(self, const uint8_t *data, size_t n) except -1:
        cdef uint8_t *larger
        cdef size_t needed = self._n_held + n
        if needed > self._capacity:
            larger = <uint8_t *>PyMem_RawRealloc(self._held, 2 * needed)
            if larger == NULL:
                raise MemoryError
            self._held = larger
            self._capacity = 2 * needed
        memcpy(self._held + self._n_held, data, n)
        self._n_held = needed
        return 0

    cdef object _release(self, size_t n):
        if n == 0:
            return ""
        text = PyUnicode_DecodeUTF8(<const char *>self._held, n, "replace")
        self._n_held -= n
        memmove(self._held, self._held + n, self._n_held)
        return text


cdef bytes _encode(object text, str what, str param):
    if not isinstance(text, (str, bytes)) or not text:
        raise InvalidParameter(f"A {what} must be text and not empty.", param)
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidParameter(f"A {what} is not valid Unicode.", param) from None
