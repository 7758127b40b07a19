# Declares all of csrc, once. Nothing here is compiled into a module of its own.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "og_status.h" nogil:
    enum:
        OG_OK
        OG_ERR_NAN
        OG_ERR_INFINITE
        OG_ERR_NO_CANDIDATE


cdef extern from "og_philox.h" nogil:
    void og_philox4x32(const uint32_t *counter, const uint32_t *key, uint32_t *out)
    double og_philox_uniform(uint64_t seed, uint32_t choice, uint64_t position)


cdef extern from "og_history.h" nogil:
    ctypedef struct og_seen:
        int32_t token
        int32_t generated
        int32_t window

    ctypedef struct og_history:
        og_seen *seen
        int32_t n_seen
        int32_t capacity
        int32_t *table
        int32_t *ring

    void og_history_init(og_history *h, og_seen *seen, int32_t capacity, int32_t *table,
                         uint32_t table_size, int32_t *ring, int32_t last_n)
    void og_history_grow(og_history *h, og_seen *seen, int32_t capacity, int32_t *table,
                         uint32_t table_size)
    bint og_history_full(const og_history *h)
    void og_history_add(og_history *h, int32_t token, bint generated)


cdef extern from "og_sampler.h" nogil:
    ctypedef struct og_bias:
        int32_t token
        float value

    ctypedef struct og_params:
        float temperature
        float top_p
        float min_p
        float frequency_penalty
        float presence_penalty
        float repetition_penalty
        int32_t top_k

    ctypedef struct og_sampler:
        int32_t n_vocab
        og_params params
        const og_bias *bias
        int32_t n_bias
        og_history history
        uint64_t seed
        uint32_t choice
        uint64_t position
        float *adjusted
        float *weights

    ctypedef struct og_candidate:
        int32_t token
        float logprob

    int og_sampler_draw(og_sampler *s, const float *logits, const uint32_t *mask, int32_t *token)
    void og_logprobs(const float *logits, int32_t n, int32_t token, float *logprob,
                     og_candidate *top, int32_t n_top)


cdef extern from "og_text.h" nogil:
    ctypedef struct og_stops:
        int32_t n_stops
        const uint8_t *bytes
        const int32_t *offset
        int32_t *failure
        int32_t *state

    void og_stops_init(og_stops *s)
    size_t og_stops_feed(og_stops *s, const uint8_t *data, size_t n, int32_t *matched,
                         int32_t *held)
    size_t og_utf8_unfinished(const uint8_t *data, size_t n)
