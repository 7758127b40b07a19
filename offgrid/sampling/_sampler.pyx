# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The Python face of csrc/og_sampler: check, convert, drop the GIL, map errors."""

import math
import secrets

cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t

from offgrid.sampling._core cimport (
    OG_ERR_INFINITE,
    OG_ERR_NAN,
    OG_ERR_NO_CANDIDATE,
    OG_OK,
    og_bias,
    og_candidate,
    og_history_add,
    og_history_full,
    og_history_grow,
    og_history_init,
    og_logprobs,
    og_philox4x32,
    og_sampler,
    og_sampler_draw,
    og_seen,
)

from offgrid.errors import InvalidParameter, SamplingError
from offgrid.sampling.params import MAX_TOP_LOGPROBS, SamplingParams
from offgrid.sampling.result import SampleResult

cdef int32_t _NO_LOGPROBS = -1
cdef int32_t _FIRST_CAPACITY = 64

_MESSAGES = {
    OG_ERR_NAN: ("the logits row holds NaN", "nan_logits"),
    OG_ERR_INFINITE: ("the logits row holds +infinity", "infinite_logits"),
    OG_ERR_NO_CANDIDATE: ("no token of the row can be drawn", "no_candidate"),
}


cdef object _error(int status):
    """The one place where a return code becomes an exception."""
    message, code = _MESSAGES[status]
    return SamplingError(message, code)


cdef void *_allocate(size_t size) except NULL:
    cdef void *memory = PyMem_RawMalloc(size if size > 0 else 1)
    if memory == NULL:
        raise MemoryError
    return memory


cdef int32_t _top_count(object top_logprobs, int32_t n_vocab) except -2:
    if top_logprobs is None:
        return _NO_LOGPROBS
    if not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidParameter(
            f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}, not {top_logprobs}.",
            "top_logprobs",
        )
    return min(<int32_t>top_logprobs, n_vocab)


@cython.final
cdef class Sampler:
    """Draws the tokens of one sequence.

    Args:
        n_vocab: length of every logits row.
        params: how to draw; SamplingParams() when omitted.
        prompt_tokens: ids of the prompt, for the repetition penalty.
        choice: which of several choices of one request this is; each has its own random stream.
        banned: ids that are never drawn.

    Raises:
        InvalidParameter: an id outside the vocabulary.

    A sampler belongs to one thread at a time; using it from two at once raises RuntimeError and
    damages nothing. Different samplers run in parallel, without the GIL.
    """

    cdef og_sampler _s
    cdef og_bias *_bias
    cdef int32_t *_ring
    cdef readonly object params
    cdef bint _busy

    def __init__(self, n_vocab, params=None, prompt_tokens=(), *, choice=0, banned=()):
        if self._s.n_vocab:
            raise RuntimeError("a sampler is initialised once")
        if not 1 <= n_vocab < (1 << 31):
            raise InvalidParameter(f"n_vocab must be at least 1, not {n_vocab}.", "n_vocab")
        if not 0 <= choice < (1 << 32):
            raise InvalidParameter(f"choice must fit 32 bits, not {choice}.", "choice")
        self.params = params = SamplingParams() if params is None else params
        self._s.n_vocab = n_vocab
        self._s.choice = choice
        self._s.seed = (secrets.randbits(64) if params.seed is None else params.seed) & (2**64 - 1)
        self._s.params.temperature = params.temperature
        self._s.params.top_p = params.top_p
        self._s.params.min_p = params.min_p
        self._s.params.frequency_penalty = params.frequency_penalty
        self._s.params.presence_penalty = params.presence_penalty
        self._s.params.repetition_penalty = params.repetition_penalty
        self._s.params.top_k = params.top_k
        self._s.adjusted = <float *>_allocate(n_vocab * sizeof(float))
        self._s.weights = <float *>_allocate(n_vocab * sizeof(float))
        self._init_bias(params.logit_bias or {}, banned)
        self._init_history(prompt_tokens)

    def __dealloc__(self):
        PyMem_RawFree(self._s.adjusted)
        PyMem_RawFree(self._s.weights)
        PyMem_RawFree(self._bias)
        PyMem_RawFree(self._ring)
        PyMem_RawFree(self._s.history.seen)
        PyMem_RawFree(self._s.history.table)

    cdef int _init_bias(self, object logit_bias, object banned) except -1:
        biases = {token: (-math.inf if value is False else value)
                  for token, value in logit_bias.items()}
        biases.update((token, -math.inf) for token in banned)
        self._bias = <og_bias *>_allocate(len(biases) * sizeof(og_bias))
        self._s.bias = self._bias
        for i, (token, value) in enumerate(sorted(biases.items())):
            self._bias[i].token = self._check_token(token, "logit_bias")
            self._bias[i].value = value
        self._s.n_bias = len(biases)
        return 0

    cdef int _init_history(self, object prompt_tokens) except -1:
        # The window only counts when something reads it.
        cdef int32_t last_n = 0
        if self._s.params.repetition_penalty != 1.0:
            last_n = self.params.repeat_last_n
        if last_n > 0:
            self._ring = <int32_t *>_allocate(last_n * sizeof(int32_t))
        cdef og_seen *seen = <og_seen *>_allocate(_FIRST_CAPACITY * sizeof(og_seen))
        self._s.history.seen = seen
        cdef int32_t *table = <int32_t *>_allocate(2 * _FIRST_CAPACITY * sizeof(int32_t))
        og_history_init(&self._s.history, seen, _FIRST_CAPACITY, table, 2 * _FIRST_CAPACITY,
                        self._ring, last_n)
        if last_n != 0:
            tokens = prompt_tokens if last_n < 0 else prompt_tokens[-last_n:]
            for token in tokens:
                self._count(self._check_token(token, "prompt_tokens"), False)
        return 0

    cdef int32_t _check_token(self, object token, str name) except -1:
        if not 0 <= token < self._s.n_vocab:
            raise InvalidParameter(
                f"Token id {token} is outside the vocabulary (0 to {self._s.n_vocab - 1}).", name
            )
        return <int32_t>token

    cdef int _count(self, int32_t token, bint generated) except -1:
        if og_history_full(&self._s.history):
            self._grow()
        og_history_add(&self._s.history, token, generated)
        return 0

    cdef int _grow(self) except -1:
        cdef int32_t capacity = 2 * self._s.history.capacity
        cdef og_seen *old_seen = self._s.history.seen
        cdef int32_t *old_table = self._s.history.table
        cdef og_seen *seen = <og_seen *>_allocate(capacity * sizeof(og_seen))
        cdef int32_t *table = <int32_t *>PyMem_RawMalloc(2 * capacity * sizeof(int32_t))
        if table == NULL:
            PyMem_RawFree(seen)
            raise MemoryError
        og_history_grow(&self._s.history, seen, capacity, table, 2 * capacity)
        PyMem_RawFree(old_seen)
        PyMem_RawFree(old_table)
        return 0

    @property
    def n_vocab(self):
        """Length of every logits row."""
        return self._s.n_vocab

    @property
    def seed(self):
        """The seed in force, also when it was drawn at random."""
        return self._s.seed

    @property
    def choice(self):
        """Which of several choices this is."""
        return self._s.choice

    @property
    def position(self):
        """Tokens drawn so far: the counter of the random stream."""
        return self._s.position

    def sample(self, logits, top_logprobs=None, mask=None):
        """Draw a token; its being drawn counts for penalties only once it is accepted.

        Args:
            logits: ``n_vocab`` float32 values (any C-contiguous buffer), or the address of such,
                as ``llama_get_logits_ith`` returns it. Never written to.
            top_logprobs: None for the token id alone; else a SampleResult with that many
                alternatives (0 gives the token's own logprob).
            mask: None, or ``(n_vocab + 31) // 32`` uint32 words with a bit for every allowed token.

        Raises:
            SamplingError: the row holds NaN or +infinity, or leaves no candidate; ``code`` says
                which. The sampler is as it was.
            ValueError, TypeError: a buffer of another length or type.
        """
        cdef const float[::1] row
        cdef const float *address
        cdef const uint32_t[::1] words
        cdef const uint32_t *mask_address = NULL
        if isinstance(logits, int):
            address = <const float *><uintptr_t>logits
            if address == NULL:
                raise ValueError("the logits' address is NULL")
        elif logits is None:
            raise TypeError("logits must be a buffer of float32 or an address, not None")
        else:
            row = logits
            if row.shape[0] != self._s.n_vocab:
                raise ValueError(f"expected {self._s.n_vocab} logits, got {row.shape[0]}")
            address = &row[0]
        if mask is not None:
            words = mask
            if words.shape[0] != (self._s.n_vocab + 31) // 32:
                raise ValueError(
                    f"expected {(self._s.n_vocab + 31) // 32} mask words, got {words.shape[0]}"
                )
            mask_address = &words[0]
        cdef int32_t n_top = _top_count(top_logprobs, self._s.n_vocab)
        cdef _Draw draw = _new_draw(self, address, mask_address, n_top)
        self._take()
        try:
            with nogil:
                draw.run()
        finally:
            self._busy = False
        if draw.status != OG_OK:
            raise _error(draw.status)
        return draw.token if n_top == _NO_LOGPROBS else draw.result()

    cdef int _take(self) except -1:
        # The GIL is held here, so test and set are one.
        if self._busy:
            raise RuntimeError("the sampler is in use by another thread")
        self._busy = True
        return 0

    def accept(self, token):
        """Count a token as generated.

        Raises:
            InvalidParameter: an id outside the vocabulary.
        """
        cdef int32_t checked = self._check_token(token, "token")
        self._take()
        try:
            self._count(checked, True)
        finally:
            self._busy = False


@cython.final
@cython.freelist(32)
cdef class _Draw:
    """One row of a call: where it is, and what came of it."""

    cdef Sampler sampler
    cdef og_sampler *state
    cdef const float *logits
    cdef const uint32_t *mask
    cdef og_candidate *top
    cdef int32_t n_top
    cdef int32_t token
    cdef float logprob
    cdef int status

    def __cinit__(self):
        self.top = NULL

    def __dealloc__(self):
        PyMem_RawFree(self.top)

    cdef void run(self) noexcept nogil:
        self.status = og_sampler_draw(self.state, self.logits, self.mask, &self.token)
        if self.status == OG_OK and self.n_top >= 0:
            og_logprobs(self.logits, self.state.n_vocab, self.token, &self.logprob, self.top,
                        self.n_top)

    cdef object result(self):
        if self.n_top < 0:
            return SampleResult(self.token)
        return SampleResult(
            self.token,
            self.logprob,
            tuple([(self.top[i].token, self.top[i].logprob) for i in range(self.n_top)]),
        )


cdef _Draw _new_draw(Sampler sampler, const float *logits, const uint32_t *mask, int32_t n_top):
    cdef _Draw draw = _Draw.__new__(_Draw)
    draw.sampler = sampler
    draw.state = &sampler._s
    draw.logits = logits
    draw.mask = mask
    draw.n_top = n_top
    if n_top > 0:
        draw.top = <og_candidate *>_allocate(n_top * sizeof(og_candidate))
    return draw


def sample_rows(addresses, samplers, *, top_logprobs=None, accept=True):
    """Draw one token for every row of a step, all in one call without the GIL.

    Args:
        addresses: of each row's ``n_vocab`` float32 logits; they must stay valid during the call.
        samplers: one for each row, no sampler twice.
        top_logprobs: None, or for each row the number of alternatives, -1 for no logprobs.
        accept: count each drawn token as generated.

    Returns:
        A list with a SampleResult for each row, or a SamplingError in the place of a row from
        which nothing can be drawn; the others are not affected by it.

    Raises:
        ValueError: lengths differ, an address is NULL, a sampler comes twice.
        RuntimeError: a sampler is in use by another thread.
    """
    cdef int n = len(samplers)
    cdef int i
    cdef _Draw draw
    cdef Sampler sampler
    cdef void **draws
    if len(addresses) != n or (top_logprobs is not None and len(top_logprobs) != n):
        raise ValueError("every row needs one address, one sampler and one top_logprobs")
    jobs = []
    for i in range(n):
        sampler = samplers[i]
        if not addresses[i]:
            raise ValueError("the logits' address is NULL")
        wanted = None if top_logprobs is None or top_logprobs[i] < 0 else top_logprobs[i]
        jobs.append(_new_draw(sampler, <const float *><uintptr_t>addresses[i], NULL,
                              _top_count(wanted, sampler._s.n_vocab)))
    if len(set(samplers)) != n:
        raise ValueError("a sampler can draw for one row of a step only")
    draws = <void **>_allocate(n * sizeof(void *))
    taken = 0
    try:
        for i in range(n):
            draw = jobs[i]
            draw.sampler._take()
            taken += 1
            draws[i] = <void *>draw
        with nogil:
            for i in range(n):
                (<_Draw>draws[i]).run()
        results = []
        for i in range(n):
            draw = jobs[i]
            if draw.status != OG_OK:
                results.append(_error(draw.status))
                continue
            if accept:
                draw.sampler._count(draw.token, True)
            results.append(draw.result())
        return results
    finally:
        for i in range(taken):
            draw = jobs[i]
            draw.sampler._busy = False
        PyMem_RawFree(draws)


def philox4x32(counter, key):
    """The block function of the random generator, for tests and for other implementations.

    Args:
        counter: four 32-bit words.
        key: two 32-bit words.

    Returns:
        Four 32-bit words.
    """
    cdef uint32_t[4] words
    cdef uint32_t[2] key_words
    for i in range(4):
        words[i] = counter[i]
    for i in range(2):
        key_words[i] = key[i]
    og_philox4x32(words, key_words, words)
    return (words[0], words[1], words[2], words[3])
