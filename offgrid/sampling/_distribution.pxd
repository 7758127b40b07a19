cimport cython
from libc.stdint cimport int32_t


@cython.final
cdef class Distribution:
    cdef double *_p
    cdef readonly int32_t n_vocab
    cdef readonly float temperature
    cdef readonly int32_t kept
    cdef readonly double total
    cdef readonly double entropy

    cdef int _count(self) except -1
    cdef Distribution _like(self)
