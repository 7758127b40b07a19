cimport cython
from libc.stdint cimport int32_t, uint32_t

from offgrid.sampling._core cimport (
    og_candidate,
    og_config,
    og_sampler,
    og_scratch,
    og_status,
)


cdef object sampling_error(og_status status)
cdef int32_t top_count(object top_logprobs, int32_t n_vocab) except -2


@cython.final
cdef class Sampler:
    cdef og_sampler _s
    cdef og_scratch _scratch
    cdef void *_memory
    cdef void *_scratch_memory
    cdef readonly object params
    cdef bint _begun
    cdef bint _busy
    cdef bint _ready

    cdef int _allocate_memory(self, const og_config *config) except -1
    cdef int _accept_prompt(self, object prompt_tokens) except -1
    cdef int _make_room(self) except -1
    cdef int _check_ready(self) except -1
    cdef int _take(self) except -1
    cdef int _accept(self, int32_t token) except -1


@cython.final
cdef class _Draw:
    cdef Sampler sampler
    cdef og_sampler *state
    cdef og_scratch *scratch
    cdef const float *logits
    cdef const uint32_t *mask
    cdef og_candidate *top
    cdef int32_t n_top
    cdef bint post_sampling
    cdef int32_t token
    cdef float logprob
    cdef og_status status

    cdef void run(self) noexcept nogil
    cdef object result(self)


cdef _Draw new_draw(Sampler sampler, const float *logits, const uint32_t *mask, int32_t n_top,
                   bint post_sampling)
