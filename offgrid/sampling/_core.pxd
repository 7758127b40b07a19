# Declares everything in csrc, once. This file is not compiled into a module.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "bool"


cdef extern from "og_status.h" nogil:
    enum og_status:
        OG_OK
        OG_ERR_NAN
        OG_ERR_INFINITE
        OG_ERR_NO_CANDIDATE


cdef extern from "og_philox.h" nogil:
    void og_philox_block(const uint32_t *counter, const uint32_t *key, uint32_t *out)


cdef extern from "og_kernels.h" nogil:
    ctypedef struct og_penalties:
        float repetition
        float frequency
        float presence

    ctypedef struct og_kernels:
        const char *name

    const og_kernels *og_kernels_best()
    const og_kernels *og_kernels_named(const char *name)


cdef extern from "og_memory.h" nogil:
    enum:
        OG_ALIGNMENT


cdef extern from "og_dry.h" nogil:
    ctypedef struct og_dry_params:
        float multiplier
        float base
        int32_t allowed_length
        int32_t last_n


cdef extern from "og_config.h" nogil:
    enum:
        OG_MAX_VOCAB

    ctypedef struct og_params:
        float temperature
        float dynatemp_range
        float dynatemp_exponent
        float top_n_sigma
        float typical_p
        float top_p
        float min_p
        float xtc_probability
        float xtc_threshold
        float mirostat_tau
        float mirostat_eta
        float adaptive_target
        float adaptive_decay
        int32_t mirostat
        int32_t top_k
        int32_t min_keep
        int32_t min_tokens
        int32_t repeat_last_n
        c_bool p_less
        og_penalties penalties
        og_dry_params dry

    ctypedef struct og_bias:
        int32_t token
        float bias

    ctypedef struct og_config:
        int32_t n_vocab
        og_params params
        uint64_t seed
        uint32_t choice
        const og_kernels *kernels
        const og_bias *biases
        const int32_t *ends
        const int32_t *breakers
        const int32_t *breaker_lengths
        int32_t n_biases
        int32_t n_ends
        int32_t n_breakers

    void og_config_init(og_config *config, int32_t n_vocab)
    c_bool og_params_need_row(const og_params *params)


cdef extern from "og_sampler.h" nogil:
    ctypedef struct og_sampler:
        const og_kernels *kernels
        int32_t n_vocab
        uint64_t seed
        uint32_t choice
        uint64_t position
        uint32_t rewinds
        double mu
        double adaptive_mean

    ctypedef struct og_scratch:
        float *row

    ctypedef struct og_candidate:
        int32_t token
        float logprob

    size_t og_sampler_bytes(const og_config *config)
    void og_sampler_init(og_sampler *s, const og_config *config, void *memory)
    c_bool og_sampler_is_full(const og_sampler *s)
    size_t og_sampler_reserve_bytes(const og_sampler *s, int32_t tokens)
    void og_sampler_reserve(og_sampler *s, int32_t tokens, void *memory)
    int32_t og_sampler_lookback(const og_sampler *s)
    void og_sampler_accept_prompt(og_sampler *s, int32_t token)
    void og_sampler_accept(og_sampler *s, int32_t token)
    void og_sampler_restart(og_sampler *s)
    size_t og_scratch_bytes(int32_t n_vocab, c_bool with_row)
    void og_scratch_init(og_scratch *scratch, void *memory, int32_t n_vocab, c_bool with_row)
    og_status og_sampler_draw(og_sampler *s, og_scratch *scratch, const float *logits,
                              const uint32_t *mask, int32_t *token)
    og_status og_sampler_draws(og_sampler *s, og_scratch *scratch, const float *logits,
                               const uint32_t *mask, int32_t n, int32_t *tokens)
    og_status og_sampler_follow(og_sampler *s, og_scratch *scratch, const float *logits,
                                const uint32_t *mask, int32_t token)
    og_status og_sampler_distribution(og_sampler *s, og_scratch *scratch, const float *logits,
                                      const uint32_t *mask, double *probabilities,
                                      float *temperature)
    void og_sampler_logprobs(const og_sampler *s, og_scratch *scratch, const float *logits,
                             int32_t token, float *logprob, og_candidate *top, int32_t n_top)
    og_status og_sampler_score(const og_sampler *s, og_scratch *scratch, const float *logits,
                               int32_t token, float *logprob, int32_t *rank, og_candidate *top,
                               int32_t n_top)
    void og_scratch_logprobs(const og_scratch *scratch, int32_t token, float *logprob,
                             og_candidate *top, int32_t n_top)


cdef extern from "og_stops.h" nogil:
    ctypedef struct og_stops:
        int32_t n_stops
        const uint8_t *bytes
        const int32_t *offset
        int32_t *failure
        int32_t *state

    void og_stops_init(og_stops *s)
    size_t og_stops_feed(og_stops *s, const uint8_t *data, size_t n, int32_t *matched,
                         int32_t *held)


cdef extern from "og_utf8.h" nogil:
    size_t og_utf8_unfinished(const uint8_t *data, size_t n)


cdef extern from "og_find.h" nogil:
    enum:
        OG_FIND_END
        OG_FIND_MAX_LENGTH
        OG_FIND_MAX_BYTES

    ctypedef struct og_trie:
        int32_t n_nodes
        int32_t *child
        int32_t *fail
        uint16_t *depth
        uint16_t *longest
        uint8_t *label

    ctypedef struct og_find:
        og_trie ahead
        og_trie back
        const uint8_t *bytes
        const int32_t *suffixes
        int32_t n_suffixes
        int32_t longest

    void og_find_sort(const uint8_t *bytes, int32_t *order, int32_t n)
    int32_t og_trie_nodes(const uint8_t *bytes, const int32_t *order, int32_t n)
    size_t og_trie_bytes(int32_t n_nodes)
    void og_trie_init(og_trie *t, void *memory, int32_t n_nodes, const uint8_t *bytes,
                      const int32_t *order, int32_t n)
    size_t og_find_place_marks(const og_find *f, const uint8_t *data, size_t n, uint8_t *places,
                               c_bool *whole)
    size_t og_find_split(const og_find *f, const uint8_t *data, size_t n, const uint8_t *mark,
                         size_t n_mark, uint16_t *lengths, size_t window, int32_t *found,
                         size_t capacity)


cdef extern from "og_json.h" nogil:
    ctypedef struct og_json:
        size_t scalars
        size_t strings
        size_t keys
        size_t fields
        size_t lists
        size_t objects
        size_t depth
        size_t long_integers
        size_t longest_number
        size_t constant

    void og_json_count(const uint8_t *data, size_t n, og_json *counts)
    size_t og_json_cut(const uint8_t *data, size_t n, size_t least, size_t *cuts, size_t capacity)


cdef extern from "og_filter.h" nogil:
    enum:
        OG_KIND_WORD
        OG_KIND_DIGIT
        OG_KIND_SPACE
        OG_FILTER_ASCII
        OG_FILTER_NONE
        OG_FILTER_HERE
        OG_FILTER_BEFORE

    ctypedef struct og_class:
        pass

    ctypedef struct og_filter:
        const og_trie *phrases
        const uint16_t *characters
        const uint16_t *phrase
        const uint32_t *folds
        int32_t n_folds
        int32_t n_states
        const int32_t *edge_begin
        const int32_t *edge_target
        const uint8_t *edge_when
        const int32_t *state_class
        const uint8_t *state_end
        const og_class *classes
        const uint32_t *ranges
        const int32_t *first_begin
        const int32_t *first_edge

    ctypedef struct og_filter_state:
        int32_t node
        uint32_t kinds
        int32_t n_active
        int32_t *active
        int32_t *length
        int32_t *next
        int32_t *next_length
        int32_t *slot

    void og_filter_begin(og_filter_state *s)
    int og_filter_step(const og_filter *f, og_filter_state *s, uint32_t character, uint32_t kinds,
                       int32_t *length)
    void og_filter_prime(const og_filter *f, og_filter_state *s, uint32_t character, uint32_t kinds)
    c_bool og_filter_end(const og_filter *f, const og_filter_state *s, int32_t *length)
    int32_t og_filter_held(const og_filter *f, const og_filter_state *s)
