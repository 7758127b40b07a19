cimport cython
from libc.stdint cimport int32_t

from offgrid.sampling._core cimport og_bias, og_config, og_kernels


cdef const og_kernels *find_kernels(object name) except NULL
cdef int32_t check_token(object token, int32_t n_vocab, str name) except -1


@cython.final
cdef class _Config:
    cdef og_config c
    cdef og_bias *_biases
    cdef int32_t *_ends
    cdef int32_t *_breakers
    cdef int32_t *_lengths

    cdef int set_params(self, object params) except -1
    cdef int set_biases(self, object logit_bias, object banned) except -1
    cdef int set_ends(self, object end_tokens) except -1
    cdef int set_breakers(self, object dry_breakers) except -1
