# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The Python face of csrc/og_sampler: check, convert, drop the GIL, map errors."""

import math
import os
import secrets
import sys
from operator import index

cimport cython
from cython.parallel cimport prange
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport strcmp

from offgrid.sampling._core cimport (
    OG_ALIGNMENT,
    OG_ERR_INFINITE,
    OG_ERR_NAN,
    OG_ERR_NO_CANDIDATE,
    OG_MAX_VOCAB,
    OG_OK,
    og_bias,
    og_candidate,
    og_config,
    og_config_init,
    og_kernels,
    og_kernels_best,
    og_kernels_named,
    og_params,
    og_params_need_row,
    og_philox_block,
    og_sampler,
    og_sampler_accept,
    og_sampler_accept_prompt,
    og_sampler_bytes,
    og_sampler_draw,
    og_sampler_init,
    og_sampler_is_full,
    og_sampler_logprobs,
    og_sampler_lookback,
    og_sampler_reserve,
    og_sampler_reserve_bytes,
    og_sampler_score,
    og_scratch,
    og_scratch_bytes,
    og_scratch_init,
    og_scratch_logprobs,
    og_status,
)

from offgrid.errors import ConfigError, InvalidParameter, SamplingError
from offgrid.sampling.params import MAX_TOP_LOGPROBS, SamplingParams
from offgrid.sampling.result import SampleResult, TokenScore

cdef enum:
    NO_LOGPROBS = -1

INSTRUCTION_SETS = ("scalar", "sse2", "avx2", "avx512", "neon")
"""Names of all kernels that there may be; instruction_sets() tells which can run here."""

# What may stand before a format in native byte order (see struct).
cdef bytes _NATIVE_ORDER = b"@=<" if sys.byteorder == "little" else b"@=>!"

_MESSAGES = {
    OG_ERR_NAN: ("the logits row holds NaN", "nan_logits"),
    OG_ERR_INFINITE: ("the logits row holds +infinity", "infinite_logits"),
    OG_ERR_NO_CANDIDATE: ("no token of the row can be drawn", "no_candidate"),
}


cdef object _error(og_status status):
    """The one place where a return code becomes an exception."""
    message, code = _MESSAGES[status]
    return SamplingError(message, code)


cdef void *_allocate(size_t size) except NULL:
    cdef void *memory = PyMem_RawMalloc(size if size > 0 else 1)
    if memory == NULL:
        raise MemoryError
    return memory


cdef void *_aligned(void *memory) noexcept:
    """The first aligned address in a block that was allocated with OG_ALIGNMENT bytes to spare."""
    return <void *>((<uintptr_t>memory + OG_ALIGNMENT - 1) & ~<uintptr_t>(OG_ALIGNMENT - 1))


def instruction_sets():
    """Return the names of the kernels that this machine can run. All give the same tokens."""
    return tuple(name for name in INSTRUCTION_SETS if og_kernels_named(name.encode()) != NULL)


cdef const og_kernels *_find_kernels(object name) except NULL:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"isa must be a name, not {type(name).__name__}")
    wanted = name or os.environ.get("OFFGRID_ISA")
    if not wanted:
        return og_kernels_best()
    cdef const og_kernels *kernels = og_kernels_named(wanted.encode())
    if kernels == NULL:
        source = "isa" if name else "OFFGRID_ISA"
        raise ConfigError(
            f"{source}: {wanted!r} cannot run here; {', '.join(instruction_sets())} can"
        )
    return kernels


cdef int32_t _top_count(object top_logprobs, int32_t n_vocab) except -2:
    if top_logprobs is None:
        return NO_LOGPROBS
    top_logprobs = index(top_logprobs)
    if not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidParameter(
            f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}, not {top_logprobs}.",
            "top_logprobs",
        )
    return min(<int32_t>top_logprobs, n_vocab)


cdef int32_t _check_token(object token, int32_t n_vocab, str name) except -1:
    token = index(token)
    if not 0 <= token < n_vocab:
        raise InvalidParameter(
            f"Token id {token} is outside the vocabulary (0 to {n_vocab - 1}).", name
        )
    return <int32_t>token


@cython.final
cdef class _Config:
    """An og_config made of Python's values, and the arrays that it points to."""

    cdef og_config c
    cdef og_bias *_biases
    cdef int32_t *_ends
    cdef int32_t *_breakers
    cdef int32_t *_lengths

    def __dealloc__(self):
        PyMem_RawFree(self._biases)
        PyMem_RawFree(self._ends)
        PyMem_RawFree(self._breakers)
        PyMem_RawFree(self._lengths)

    cdef int set_params(self, object params) except -1:
        cdef og_params *p = &self.c.params
        seed = secrets.randbits(64) if params.seed is None else params.seed
        self.c.seed = seed & (2**64 - 1)
        p.temperature = params.temperature
        p.dynatemp_range = params.dynatemp_range
        p.dynatemp_exponent = params.dynatemp_exponent
        p.top_n_sigma = params.top_n_sigma
        p.typical_p = params.typical_p
        p.top_p = params.top_p
        p.min_p = params.min_p
        p.xtc_probability = params.xtc_probability
        p.xtc_threshold = params.xtc_threshold
        p.mirostat = params.mirostat
        p.mirostat_tau = params.mirostat_tau
        p.mirostat_eta = params.mirostat_eta
        p.top_k = params.top_k
        p.min_keep = params.min_keep
        p.min_tokens = params.min_tokens
        p.repeat_last_n = params.repeat_last_n
        p.penalties.repetition = params.repetition_penalty
        p.penalties.frequency = params.frequency_penalty
        p.penalties.presence = params.presence_penalty
        p.dry.multiplier = params.dry_multiplier
        p.dry.base = params.dry_base
        p.dry.allowed_length = params.dry_allowed_length
        p.dry.last_n = params.dry_penalty_last_n
        return 0

    cdef int set_biases(self, object logit_bias, object banned) except -1:
        biases = {token: (-math.inf if value is False else value)
                  for token, value in (logit_bias or {}).items()}
        for token in biases:
            _check_token(token, self.c.n_vocab, "logit_bias")
        biases.update((_check_token(token, self.c.n_vocab, "banned"), -math.inf)
                      for token in banned)
        self._biases = <og_bias *>_allocate(len(biases) * sizeof(og_bias))
        for i, (token, bias) in enumerate(biases.items()):
            self._biases[i].token = token
            self._biases[i].bias = bias
        self.c.biases = self._biases
        self.c.n_biases = <int32_t>len(biases)
        return 0

    cdef int set_ends(self, object end_tokens) except -1:
        ends = {_check_token(token, self.c.n_vocab, "end_tokens") for token in end_tokens}
        self._ends = <int32_t *>_allocate(len(ends) * sizeof(int32_t))
        for i, token in enumerate(ends):
            self._ends[i] = token
        self.c.ends = self._ends
        self.c.n_ends = <int32_t>len(ends)
        return 0

    cdef int set_breakers(self, object dry_breakers) except -1:
        breakers = sorted({tuple(breaker) for breaker in dry_breakers})
        self._lengths = <int32_t *>_allocate(len(breakers) * sizeof(int32_t))
        self._breakers = <int32_t *>_allocate(sum(map(len, breakers)) * sizeof(int32_t))
        cdef Py_ssize_t n = 0
        for i, breaker in enumerate(breakers):
            self._lengths[i] = <int32_t>len(breaker)
            for token in breaker:
                self._breakers[n] = token
                n += 1
        self.c.breakers = self._breakers
        self.c.breaker_lengths = self._lengths
        self.c.n_breakers = <int32_t>len(breakers)
        return 0


@cython.final
cdef class Sampler:
    """Draws the tokens of one sequence.

    Args:
        n_vocab: length of every logits row.
        params: how to draw; SamplingParams() when omitted.
        prompt_tokens: ids of the prompt, for the repetition penalty and DRY.
        choice: which of several choices of one request this is; each has its own random stream.
        banned: ids that are never drawn.
        end_tokens: ids that end an answer, for ``min_tokens``.
        isa: which kernels to use (see instruction_sets); the fastest, or those that the environment
            variable OFFGRID_ISA names, when omitted. All give the same tokens.

    Raises:
        InvalidParameter: an id outside the vocabulary.
        ConfigError: these kernels cannot run here.

    A sampler belongs to one thread at a time; using it from two at once raises RuntimeError and
    damages nothing. Different samplers run in parallel, without the GIL. All memory that drawing
    needs is allocated here; afterwards only ``accept`` of many different tokens, and the results
    that are handed out, take more.
    """

    cdef og_sampler _s
    cdef og_scratch _scratch
    cdef void *_memory
    cdef void *_scratch_memory
    cdef readonly object params
    cdef bint _begun
    cdef bint _busy
    cdef bint _ready

    def __init__(
        self,
        n_vocab,
        params=None,
        prompt_tokens=(),
        *,
        choice=0,
        banned=(),
        end_tokens=(),
        isa=None,
    ):
        if self._begun:
            raise RuntimeError("a sampler is initialised once")
        self._begun = True
        n_vocab, choice = index(n_vocab), index(choice)
        if params is not None and not isinstance(params, SamplingParams):
            raise TypeError(f"params must be SamplingParams, not {type(params).__name__}")
        if not 1 <= n_vocab <= OG_MAX_VOCAB:
            raise InvalidParameter(f"n_vocab must be 1 to {OG_MAX_VOCAB}, not {n_vocab}.", "n_vocab")
        if not 0 <= choice < (1 << 32):
            raise InvalidParameter(f"choice must fit 32 bits, not {choice}.", "choice")
        self.params = SamplingParams() if params is None else params
        cdef _Config config = _Config.__new__(_Config)
        og_config_init(&config.c, n_vocab)
        config.c.kernels = _find_kernels(isa)
        config.c.choice = choice
        config.set_params(self.params)
        config.set_biases(self.params.logit_bias, banned)
        config.set_ends(end_tokens)
        config.set_breakers(self.params.dry_breakers)
        self._allocate_memory(&config.c)
        og_sampler_init(&self._s, &config.c, _aligned(self._memory))
        self._accept_prompt(prompt_tokens)
        self._ready = True

    def __dealloc__(self):
        PyMem_RawFree(self._memory)
        PyMem_RawFree(self._scratch_memory)

    cdef int _allocate_memory(self, const og_config *config) except -1:
        cdef bint with_row = og_params_need_row(&config.params)
        self._scratch_memory = _allocate(
            og_scratch_bytes(config.n_vocab, with_row) + OG_ALIGNMENT
        )
        og_scratch_init(&self._scratch, _aligned(self._scratch_memory), config.n_vocab, with_row)
        self._memory = _allocate(og_sampler_bytes(config) + OG_ALIGNMENT)
        return 0

    cdef int _accept_prompt(self, object prompt_tokens) except -1:
        cdef int32_t lookback = og_sampler_lookback(&self._s)
        if lookback == 0:
            return 0
        if 0 < lookback < len(prompt_tokens):
            prompt_tokens = prompt_tokens[-lookback:]
        for token in prompt_tokens:
            checked = _check_token(token, self._s.n_vocab, "prompt_tokens")
            self._make_room()
            og_sampler_accept_prompt(&self._s, checked)
        return 0

    cdef int _make_room(self) except -1:
        """For one more token."""
        if not og_sampler_is_full(&self._s):
            return 0
        cdef void *larger = _allocate(og_sampler_reserve_bytes(&self._s, 1) + OG_ALIGNMENT)
        og_sampler_reserve(&self._s, 1, _aligned(larger))
        PyMem_RawFree(self._memory)
        self._memory = larger
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

    @property
    def mu(self):
        """Mirostat's state in bits."""
        return self._s.mu

    @property
    def isa(self):
        """Name of the kernels in use."""
        self._check_ready()
        return self._s.kernels.name.decode()

    def sample(self, logits, top_logprobs=None, mask=None, *, post_sampling=False):
        """Draw a token; its being drawn counts for penalties only once it is accepted.

        Args:
            logits: ``n_vocab`` float32 values (any C-contiguous buffer), or the address of such,
                as ``llama_get_logits_ith`` returns it. Never written to.
            top_logprobs: None for the token id alone; else a SampleResult with that many
                alternatives (0 gives the token's own logprob).
            mask: None, or ``(n_vocab + 31) // 32`` uint32 words with a bit for every allowed token.
            post_sampling: logprobs of the distribution that was drawn from (after bias, penalties,
                temperature and truncation) instead of the model's own.

        Raises:
            SamplingError: the row holds NaN or +infinity, or leaves no candidate; ``code`` says
                which. The sampler is as it was.
            ValueError, TypeError: a buffer of another length or type.
        """
        cdef _Buffer row, words
        cdef const float *address
        cdef const uint32_t *mask_address = NULL
        cdef int32_t token, n_top
        cdef og_status status
        self._check_ready()
        if type(logits) is int:
            address = <const float *><uintptr_t>logits
            if address == NULL:
                raise ValueError("the logits' address is NULL")
            row = None
        else:
            row = _open_buffer(logits, "logits", b"f", self._s.n_vocab)
            address = <const float *>row.view.buf
        if mask is not None:
            words = _open_buffer(mask, "mask words", b"I", (self._s.n_vocab + 31) // 32)
            mask_address = <const uint32_t *>words.view.buf
        if top_logprobs is not None:
            n_top = _top_count(top_logprobs, self._s.n_vocab)
            draw = _new_draw(self, address, mask_address, n_top, post_sampling)
            _run_one(draw)
            return (<_Draw>draw).result()
        self._take()
        with nogil:
            status = og_sampler_draw(&self._s, &self._scratch, address, mask_address, &token)
        self._busy = False
        if status != OG_OK:
            raise _error(status)
        return token

    cdef int _check_ready(self) except -1:
        if not self._ready:
            raise RuntimeError("the sampler was not initialised, or not to the end")
        return 0

    cdef int _take(self) except -1:
        self._check_ready()
        if self._busy:
            raise RuntimeError("the sampler is in use by another thread")
        self._busy = True
        return 0

    def accept(self, token):
        """Count a token as generated.

        Raises:
            InvalidParameter: an id outside the vocabulary.
        """
        cdef int32_t checked = _check_token(token, self._s.n_vocab, "token")
        self._take()
        try:
            self._accept(checked)
        finally:
            self._busy = False

    cdef int _accept(self, int32_t token) except -1:
        self._make_room()
        og_sampler_accept(&self._s, token)
        return 0


@cython.final
@cython.freelist(64)
cdef class _Buffer:
    """Holds a buffer as long as its address is in use."""

    cdef Py_buffer view
    cdef bint held

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef _Buffer _open_buffer(object source, str what, bytes format, Py_ssize_t length):
    cdef _Buffer buffer = _Buffer.__new__(_Buffer)
    if source is None:
        raise TypeError(f"{what} must be a buffer or an address, not None")
    PyObject_GetBuffer(source, &buffer.view, PyBUF_ND | PyBUF_FORMAT)
    buffer.held = True
    cdef const char *given = buffer.view.format
    if given != NULL and given[0] in _NATIVE_ORDER:
        given += 1
    if given == NULL or strcmp(given, format) != 0:
        # On platforms where both have 4 bytes, "L" is "I" by another name.
        if not (given != NULL and format == b"I" and given == b"L" and buffer.view.itemsize == 4):
            raise ValueError(f"{what} must be of format {format.decode()!r} (see struct)")
    if buffer.view.ndim != 1 or buffer.view.shape[0] != length:
        raise ValueError(f"expected {length} {what}, got {buffer.view.len // buffer.view.itemsize}")
    return buffer


@cython.final
@cython.freelist(64)
cdef class _Draw:
    """One row of a call: where it is, and what came of it."""

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

    def __cinit__(self):
        self.top = NULL

    def __dealloc__(self):
        PyMem_RawFree(self.top)

    cdef void run(self) noexcept nogil:
        self.status = og_sampler_draw(self.state, self.scratch, self.logits, self.mask, &self.token)
        if self.status != OG_OK or self.n_top < 0:
            return
        if self.post_sampling:
            og_scratch_logprobs(self.scratch, self.token, &self.logprob, self.top, self.n_top)
        else:
            og_sampler_logprobs(self.state, self.scratch, self.logits, self.token, &self.logprob,
                                self.top, self.n_top)

    cdef object result(self):
        if self.status != OG_OK:
            raise _error(self.status)
        if self.n_top < 0:
            return SampleResult(self.token)
        top = [(self.top[i].token, self.top[i].logprob) for i in range(self.n_top)
               if self.top[i].token >= 0]
        return SampleResult(self.token, self.logprob, tuple(top))


cdef _Draw _new_draw(Sampler sampler, const float *logits, const uint32_t *mask, int32_t n_top,
                     bint post_sampling):
    cdef _Draw draw = _Draw.__new__(_Draw)
    draw.sampler = sampler
    draw.state = &sampler._s
    draw.scratch = &sampler._scratch
    draw.logits = logits
    draw.mask = mask
    draw.n_top = n_top
    draw.post_sampling = post_sampling
    if n_top > 0:
        draw.top = <og_candidate *>_allocate(n_top * sizeof(og_candidate))
    return draw


cdef int _run_one(_Draw draw) except -1:
    draw.sampler._take()
    with nogil:
        draw.run()
    draw.sampler._busy = False
    return 0


cdef list _new_draws(object addresses, object samplers, object top_logprobs, object masks,
                     object post_sampling):
    """Check the arguments of sample_rows; return a _Draw for each row."""
    cdef Py_ssize_t n = len(samplers)
    for name, given in (("address", addresses), ("top_logprobs", top_logprobs), ("mask", masks),
                        ("post_sampling", post_sampling)):
        if given is not None and len(given) != n:
            raise ValueError(f"every row needs one sampler and one {name}")
    cdef Sampler sampler
    draws = []
    for i in range(n):
        if not isinstance(samplers[i], Sampler):
            raise TypeError(f"expected a Sampler, not {type(samplers[i]).__name__}")
        sampler = samplers[i]
        sampler._check_ready()
        if not addresses[i]:
            raise ValueError("the logits' address is NULL")
        wanted = None if top_logprobs is None or top_logprobs[i] < 0 else top_logprobs[i]
        mask = 0 if masks is None else masks[i] or 0
        draws.append(_new_draw(sampler, <const float *><uintptr_t>addresses[i],
                               <const uint32_t *><uintptr_t>mask,
                               _top_count(wanted, sampler._s.n_vocab),
                               post_sampling is not None and post_sampling[i]))
    if len(set(samplers)) != n:
        raise ValueError("a sampler can draw for one row of a step only")
    return draws


cdef int _share_scratch(list draws) except -1:
    """Let rows that are computed in turn use the first one's scratch where it fits: it stays in
    the cache then."""
    cdef _Draw first, draw
    if not draws:
        return 0
    first = draws[0]
    for draw in draws:
        if draw.state.n_vocab == first.state.n_vocab and (
            first.scratch.row != NULL or draw.scratch.row == NULL
        ):
            draw.scratch = first.scratch
    return 0


cdef void _run_all(void **draws, Py_ssize_t n, int threads) noexcept nogil:
    """Rows in blocks, one for each thread. Without OpenMP the blocks follow each other."""
    cdef Py_ssize_t i
    cdef int block
    if threads <= 1:
        for i in range(n):
            (<_Draw>draws[i]).run()
        return
    for block in prange(threads, num_threads=threads, schedule="static", chunksize=1):
        _run_block(draws, n * block // threads, n * (block + 1) // threads)


cdef void _run_block(void **draws, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, end):
        (<_Draw>draws[i]).run()


def sample_rows(addresses, samplers, *, top_logprobs=None, masks=None, post_sampling=None,
                accept=True, threads=1):
    """Draw one token for every row of a step, all in one call without the GIL.

    Args:
        addresses: of each row's ``n_vocab`` float32 logits; they must stay valid during the call.
        samplers: one for each row, no sampler twice.
        top_logprobs: None, or for each row the number of alternatives, -1 for no logprobs.
        masks: None, or for each row the address of its ``(n_vocab + 31) // 32`` uint32 words, 0 for
            none.
        post_sampling: None, or for each row whether its logprobs are those of the distribution that
            was drawn from.
        accept: count each drawn token as generated.
        threads: to share the rows among, where the library was built with OpenMP; the tokens are
            the same for any number. After a call with more than one, a forked child must not make
            such a call.

    Returns:
        A list with a SampleResult for each row, or a SamplingError in the place of a row from
        which nothing can be drawn; the others are not affected by it.

    Raises:
        ValueError: lengths differ, an address is NULL, a sampler comes twice, no threads.
        RuntimeError: a sampler is in use by another thread.
    """
    cdef list jobs = _new_draws(addresses, samplers, top_logprobs, masks, post_sampling)
    cdef Py_ssize_t n = len(jobs)
    cdef Py_ssize_t i, taken = 0
    cdef _Draw draw
    if threads < 1:
        raise ValueError("threads must be at least 1")
    cdef int n_threads = min(threads, max(n, 1))
    cdef void **draws = <void **>_allocate(n * sizeof(void *))
    for i in range(n_threads):
        _share_scratch(jobs[n * i // n_threads : n * (i + 1) // n_threads])
    try:
        for draw in jobs:
            draw.sampler._take()
            draws[taken] = <void *>draw
            taken += 1
        with nogil:
            _run_all(draws, n, n_threads)
        results = []
        for draw in jobs:
            if draw.status != OG_OK:
                results.append(_error(draw.status))
                continue
            if accept:
                draw.sampler._accept(draw.token)
            results.append(draw.result())
        return results
    finally:
        for i in range(taken):
            draw = jobs[i]
            draw.sampler._busy = False
        PyMem_RawFree(draws)


def score_rows(Sampler sampler not None, addresses, tokens, top_logprobs=0):
    """Return how likely given tokens are, one for each row, without drawing: for prompts.

    Nothing of the sampler changes; its memory is used, and its parameters play no part.

    Args:
        sampler: of the rows' length.
        addresses: of each row's ``n_vocab`` float32 logits; they must stay valid during the call.
        tokens: the id that follows each row.
        top_logprobs: number of alternatives.

    Returns:
        A list with a TokenScore for each row.

    Raises:
        SamplingError: a row holds NaN or +infinity, or nothing but -infinity.
        ValueError: lengths differ, an address is NULL.
        InvalidParameter: an id outside the vocabulary.
        RuntimeError: the sampler is in use by another thread.
    """
    cdef const float *row
    cdef int32_t token, rank, n_top = _top_count(top_logprobs, sampler._s.n_vocab)
    cdef float logprob
    cdef og_status status
    if len(addresses) != len(tokens) or n_top < 0:
        raise ValueError("every row needs one token, and a number of alternatives")
    sampler._take()
    cdef og_candidate *top = NULL
    try:
        top = <og_candidate *>_allocate(n_top * sizeof(og_candidate))
        results = []
        for address, following in zip(addresses, tokens):
            token = _check_token(following, sampler._s.n_vocab, "tokens")
            row = <const float *><uintptr_t>address
            if row == NULL:
                raise ValueError("the logits' address is NULL")
            with nogil:
                status = og_sampler_score(&sampler._s, &sampler._scratch, row, token, &logprob,
                                          &rank, top, n_top)
            if status != OG_OK:
                raise _error(status)
            results.append(TokenScore(
                token, logprob, rank, tuple([(top[i].token, top[i].logprob) for i in range(n_top)])
            ))
        return results
    finally:
        PyMem_RawFree(top)
        sampler._busy = False


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
    if len(counter) != 4 or len(key) != 2:
        raise ValueError("a counter has four words, a key two")
    for i in range(4):
        words[i] = counter[i]
    for i in range(2):
        key_words[i] = key[i]
    og_philox_block(words, key_words, words)
    return (words[0], words[1], words[2], words[3])
