# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Whole distributions: how likely a sampler is to draw each token, and what a draw would change."""

from operator import index

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree
from libc.math cimport log2
from libc.stdint cimport int32_t, uintptr_t

from offgrid.sampling._config cimport check_token
from offgrid.sampling._core cimport (
    OG_OK,
    og_sampler_distribution,
    og_sampler_draws,
    og_sampler_follow,
    og_status,
)
from offgrid.sampling._memory cimport allocate
from offgrid.sampling._sampler cimport Sampler, sampling_error


cdef class Distribution:
    """How likely each token of a vocabulary is. :func:`distribution` makes them.

    All calls release the GIL while they read the vocabulary.

    Attributes:
        n_vocab: number of tokens.
        temperature: the one that made it, as ``dynatemp_range`` moved it; 0 if the draw is greedy.
        kept: number of tokens that can be drawn.
        total: sum of the probabilities: 1 within rounding, less for the result of :meth:`lost`.
        entropy: in bits; of the probabilities divided by their total.
    """

    def __cinit__(self):
        self._p = NULL

    def __init__(self, *args, **kwargs):
        raise TypeError("distribution() makes distributions")

    def __dealloc__(self):
        PyMem_RawFree(self._p)

    cdef Distribution _like(self):
        """Return one of the same size, whose probabilities are not set."""
        cdef Distribution other = Distribution.__new__(Distribution)
        other._p = <double *>allocate(self.n_vocab * sizeof(double))
        other.n_vocab = self.n_vocab
        other.temperature = self.temperature
        return other

    cdef int _count(self) except -1:
        with nogil:
            count(self._p, self.n_vocab, &self.kept, &self.total, &self.entropy)
        return 0

    def __getitem__(self, token):
        """The probability of a token."""
        return self._p[check_token(token, self.n_vocab, "token")]

    def tobytes(self):
        """Return all probabilities as float64 in native byte order."""
        return PyBytes_FromStringAndSize(<char *>self._p, self.n_vocab * sizeof(double))

    def top(self, n):
        """Return the ``n`` most likely tokens as (id, probability), best first, ties lowest id
        first; fewer if fewer can be drawn. O(n_vocab * log n)."""
        cdef int32_t size = max(0, min(index(n), self.kept)), i
        cdef int32_t *heap = <int32_t *>allocate(size * sizeof(int32_t))
        try:
            with nogil:
                select(self._p, self.n_vocab, heap, size)
            return [(heap[i], self._p[heap[i]]) for i in range(size)]
        finally:
            PyMem_RawFree(heap)

    def lost(self, Distribution after not None):
        """Return what a step has removed: the probabilities of the tokens that can be drawn from
        this distribution and not from ``after``. They are not divided by their total."""
        cdef Distribution gone = self._like()
        cdef int32_t i
        check_size(self, after)
        with nogil:
            for i in range(self.n_vocab):
                gone._p[i] = 0.0 if after._p[i] > 0.0 else self._p[i]
        gone._count()
        return gone

    def mixed(self, Distribution other not None, share):
        """Return the distribution of a draw that is from ``other`` with the probability ``share``,
        and else from this one."""
        cdef Distribution mixture = self._like()
        cdef double part = share
        cdef int32_t i
        check_size(self, other)
        with nogil:
            for i in range(self.n_vocab):
                mixture._p[i] = (1.0 - part) * self._p[i] + part * other._p[i]
        mixture._count()
        return mixture


cdef int check_size(Distribution one, Distribution other) except -1:
    if one.n_vocab != other.n_vocab:
        raise ValueError("the distributions are of different vocabularies")
    return 0


cdef void count(const double *p, int32_t n, int32_t *kept, double *total,
                double *entropy) noexcept nogil:
    cdef double sum = 0.0, moment = 0.0
    cdef int32_t i
    kept[0] = 0
    for i in range(n):
        if p[i] > 0.0:
            kept[0] += 1
            sum += p[i]
            moment += p[i] * log2(p[i])
    total[0] = sum
    entropy[0] = max(0.0, log2(sum) - moment / sum) if sum > 0.0 else 0.0


cdef inline bint worse(const double *p, int32_t a, int32_t b) noexcept nogil:
    """Whether token a comes after token b."""
    return p[a] < p[b] or (p[a] == p[b] and a > b)


cdef void sink(const double *p, int32_t *heap, int32_t size, int32_t at) noexcept nogil:
    """Restore the heap, whose root is the worst token, below a place."""
    cdef int32_t child, token = heap[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and worse(p, heap[child + 1], heap[child]):
            child += 1
        if not worse(p, heap[child], token):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = token


cdef void select(const double *p, int32_t n, int32_t *heap, int32_t size) noexcept nogil:
    """Write the best tokens, best first. 0 <= size <= n."""
    cdef int32_t i, last
    if size == 0:
        return
    for i in range(size):
        heap[i] = i
    for i in range(size // 2 - 1, -1, -1):
        sink(p, heap, size, i)
    for i in range(size, n):
        if worse(p, heap[0], i):
            heap[0] = i
            sink(p, heap, size, 0)
    for last in range(size - 1, 0, -1):
        heap[0], heap[last] = heap[last], heap[0]
        sink(p, heap, last, 0)


cdef class _Row:
    """A row of logits, whose buffer is held if there is one."""

    cdef const float[::1] held
    cdef const float *address


cdef _Row open_row(Sampler sampler, object logits):
    cdef _Row row = _Row.__new__(_Row)
    if type(logits) is int:
        row.address = <const float *><uintptr_t>logits
        if row.address == NULL:
            raise ValueError("the logits' address is NULL")
        return row
    row.held = logits
    if row.held.shape[0] != sampler._s.n_vocab:
        raise ValueError(f"expected {sampler._s.n_vocab} logits, got {row.held.shape[0]}")
    row.address = &row.held[0]
    return row


def distribution(Sampler sampler not None, logits):
    """Return the distribution from which a sampler would draw its next token, now.

    It is after bias, penalties, temperature, truncation and adaptive-p. XTC acts as it would in
    this draw. The sampler is unchanged.

    Args:
        sampler: any sampler.
        logits: ``n_vocab`` float32 values (any C-contiguous buffer), or their address.

    Raises:
        SamplingError: the row is unusable; see :meth:`Sampler.sample`.
        ValueError: the buffer has another length or type.
        RuntimeError: the sampler is in use by another thread.
    """
    cdef og_status status
    sampler._check_ready()
    cdef _Row row = open_row(sampler, logits)
    cdef const float *address = row.address
    cdef Distribution result = Distribution.__new__(Distribution)
    result.n_vocab = sampler._s.n_vocab
    result._p = <double *>allocate(result.n_vocab * sizeof(double))
    sampler._take()
    with nogil:
        status = og_sampler_distribution(&sampler._s, &sampler._scratch, address, NULL, result._p,
                                         &result.temperature)
    sampler._busy = False
    if status != OG_OK:
        raise sampling_error(status)
    result._count()
    return result


def follow(Sampler sampler not None, logits, token):
    """Change a sampler as if it had drawn a token from a row, and count the token as generated.

    A token that it could not have drawn changes neither mirostat's nor adaptive-p's state.

    Raises:
        InvalidParameter: the id is outside the vocabulary; nothing has changed.
        SamplingError, ValueError, RuntimeError: see :func:`distribution`; nothing has changed.
    """
    cdef og_status status
    sampler._check_ready()
    cdef int32_t drawn = check_token(token, sampler._s.n_vocab, "token")
    cdef _Row row = open_row(sampler, logits)
    cdef const float *address = row.address
    sampler._take()
    try:
        with nogil:
            status = og_sampler_follow(&sampler._s, &sampler._scratch, address, NULL, drawn)
        if status != OG_OK:
            raise sampling_error(status)
        sampler._accept(drawn)
    finally:
        sampler._busy = False


def draws(Sampler sampler not None, logits, n):
    """Return ``n`` tokens that a sampler draws from a row, without accepting any.

    The first is the one that :meth:`Sampler.sample` would return; each later one is drawn at the
    next position of the random streams, with everything else unchanged. The sampler is unchanged
    too. The row is read once or twice, however many tokens are drawn.

    Raises:
        SamplingError, ValueError, RuntimeError: see :func:`distribution`.
    """
    cdef int32_t i, size = max(0, index(n))
    cdef og_status status
    sampler._check_ready()
    cdef _Row row = open_row(sampler, logits)
    cdef const float *address = row.address
    cdef int32_t *tokens = <int32_t *>allocate(size * sizeof(int32_t))
    try:
        sampler._take()
        with nogil:
            status = og_sampler_draws(&sampler._s, &sampler._scratch, address, NULL, size, tokens)
        sampler._busy = False
        if status != OG_OK:
            raise sampling_error(status)
        return [tokens[i] for i in range(size)]
    finally:
        PyMem_RawFree(tokens)
