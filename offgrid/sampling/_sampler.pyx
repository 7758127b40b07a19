# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Python interface to csrc/og_sampler: checks, converts, releases the GIL and maps errors."""

import sys
from operator import index

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree
from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport strcmp

from offgrid.sampling._config cimport _Config, check_token, find_kernels
from offgrid.sampling._core cimport (
    OG_ALIGNMENT,
    OG_ERR_INFINITE,
    OG_ERR_NAN,
    OG_ERR_NO_CANDIDATE,
    OG_MAX_VOCAB,
    OG_OK,
    og_candidate,
    og_config,
    og_config_init,
    og_params_need_row,
    og_philox_block,
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
    og_sampler_restart,
    og_scratch_bytes,
    og_scratch_init,
    og_scratch_logprobs,
    og_status,
)
from offgrid.sampling._memory cimport aligned, allocate

from offgrid.errors import InvalidParameter, SamplingError
from offgrid.sampling.params import MAX_TOP_LOGPROBS, SamplingParams, shown
from offgrid.sampling.result import SampleResult

cdef enum:
    NO_LOGPROBS = -1

# Characters that struct allows before a format in native byte order.
cdef bytes _NATIVE_ORDER = b"@=<" if sys.byteorder == "little" else b"@=>!"

_MESSAGES = {
    OG_ERR_NAN: ("the logits row holds NaN", "nan_logits"),
    OG_ERR_INFINITE: ("the logits row holds +infinity", "infinite_logits"),
    OG_ERR_NO_CANDIDATE: ("no token of the row can be drawn", "no_candidate"),
}


cdef object sampling_error(og_status status):
    """Convert a return code to an exception. This is the only place that does so."""
    message, code = _MESSAGES[status]
    return SamplingError(message, code)


cdef int32_t top_count(object top_logprobs, int32_t n_vocab) except -2:
    if top_logprobs is None:
        return NO_LOGPROBS
    top_logprobs = index(top_logprobs)
    if not 0 <= top_logprobs <= MAX_TOP_LOGPROBS:
        raise InvalidParameter(
            f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}, not {shown(top_logprobs)}.",
            "top_logprobs",
        )
    return min(<int32_t>top_logprobs, n_vocab)


cdef class Sampler:
    """Samples the tokens of one sequence.

    Args:
        n_vocab: length of every row.
        params: how to sample; SamplingParams() if omitted.
        prompt_tokens: ids of the prompt, for the repetition penalty and DRY.
        choice: index among the choices of a request; each choice has its own random stream.
        banned: ids that are never sampled.
        end_tokens: ids that end an answer, for ``min_tokens``.
        isa: which kernels to use (see instruction_sets). If omitted, the environment variable
            OFFGRID_ISA names them, or the fastest are used. All give the same tokens.

    Raises:
        InvalidParameter: an id is outside the vocabulary.
        ConfigError: these kernels cannot run here.

    Only one thread may use a sampler at a time; using it from two at once raises RuntimeError and
    damages nothing. Different samplers run in parallel, without the GIL. All memory that sampling
    needs is allocated here; later allocations are made only by ``accept`` when there are many
    different tokens, and for returned results.
    """

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
            raise InvalidParameter(
                f"n_vocab must be 1 to {OG_MAX_VOCAB}, not {shown(n_vocab)}.", "n_vocab"
            )
        if not 0 <= choice < (1 << 32):
            raise InvalidParameter(f"choice must fit 32 bits, not {shown(choice)}.", "choice")
        self.params = SamplingParams() if params is None else params
        cdef _Config config = _Config.__new__(_Config)
        og_config_init(&config.c, n_vocab)
        config.c.kernels = find_kernels(isa)
        config.c.choice = choice
        config.set_params(self.params)
        config.set_biases(self.params.logit_bias, banned)
        config.set_ends(end_tokens)
        config.set_breakers(self.params.dry_breakers)
        self._allocate_memory(&config.c)
        og_sampler_init(&self._s, &config.c, aligned(self._memory))
        self._accept_prompt(prompt_tokens)
        self._ready = True

    def __dealloc__(self):
        PyMem_RawFree(self._memory)
        PyMem_RawFree(self._scratch_memory)

    cdef int _allocate_memory(self, const og_config *config) except -1:
        cdef bint with_row = og_params_need_row(&config.params)
        self._scratch_memory = allocate(
            og_scratch_bytes(config.n_vocab, with_row) + OG_ALIGNMENT
        )
        og_scratch_init(&self._scratch, aligned(self._scratch_memory), config.n_vocab, with_row)
        self._memory = allocate(og_sampler_bytes(config) + OG_ALIGNMENT)
        return 0

    cdef int _accept_prompt(self, object prompt_tokens) except -1:
        cdef int32_t lookback = og_sampler_lookback(&self._s)
        if lookback == 0:
            return 0
        if 0 < lookback < len(prompt_tokens):
            prompt_tokens = prompt_tokens[-lookback:]
        for token in prompt_tokens:
            checked = check_token(token, self._s.n_vocab, "prompt_tokens")
            self._make_room()
            og_sampler_accept_prompt(&self._s, checked)
        return 0

    cdef int _make_room(self) except -1:
        """Make room for one more token."""
        if not og_sampler_is_full(&self._s):
            return 0
        cdef void *larger = allocate(og_sampler_reserve_bytes(&self._s, 1) + OG_ALIGNMENT)
        og_sampler_reserve(&self._s, 1, aligned(larger))
        PyMem_RawFree(self._memory)
        self._memory = larger
        return 0

    @property
    def n_vocab(self):
        """Length of every row."""
        return self._s.n_vocab

    @property
    def seed(self):
        """The seed in use, including one that was drawn at random."""
        return self._s.seed

    @property
    def choice(self):
        """Index among the choices of a request."""
        return self._s.choice

    @property
    def position(self):
        """Tokens sampled so far, which is also the counter of the random stream."""
        return self._s.position

    @property
    def mu(self):
        """Mirostat's state in bits."""
        return self._s.mu

    @property
    def state(self):
        """What the draws so far have left, besides the counts of tokens: for :meth:`rewind`, or for
        a sampler that goes on where another one is."""
        return (self._s.position, self._s.mu, self._s.adaptive_mean)

    @state.setter
    def state(self, value):
        cdef uint64_t position
        cdef double mu, adaptive_mean
        position, mu, adaptive_mean = value
        self._take()
        self._s.position = position
        self._s.mu = mu
        self._s.adaptive_mean = adaptive_mean
        self._busy = False

    @property
    def isa(self):
        """Name of the kernels in use."""
        self._check_ready()
        return self._s.kernels.name.decode()

    def sample(self, logits, top_logprobs=None, mask=None, *, post_sampling=False):
        """Sample a token. It counts for penalties only after it is accepted.

        Args:
            logits: ``n_vocab`` float32 values (any C-contiguous buffer), or their address, such as
                the result of ``llama_get_logits_ith``. They are never written to.
            top_logprobs: None returns the token id alone; a number returns a SampleResult with that
                many alternatives (0 gives the token's own logprob).
            mask: None, or ``(n_vocab + 31) // 32`` uint32 words with a bit for every allowed token.
            post_sampling: whether the logprobs describe the distribution that the token was sampled
                from (after bias, penalties, temperature and truncation) instead of the model's own.

        Raises:
            SamplingError: the row holds NaN or +infinity, or leaves no candidate; ``code`` says
                which. The sampler is unchanged.
            ValueError, TypeError: a buffer has another length or type.
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
            n_top = top_count(top_logprobs, self._s.n_vocab)
            draw = new_draw(self, address, mask_address, n_top, post_sampling)
            _run_one(draw)
            return (<_Draw>draw).result()
        self._take()
        with nogil:
            status = og_sampler_draw(&self._s, &self._scratch, address, mask_address, &token)
        self._busy = False
        if status != OG_OK:
            raise sampling_error(status)
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
            InvalidParameter: the id is outside the vocabulary.
        """
        cdef int32_t checked = check_token(token, self._s.n_vocab, "token")
        self._take()
        try:
            self._accept(checked)
        finally:
            self._busy = False

    def rewind(self, state, prompt_tokens, tokens):
        """Go back to an earlier place, as if nothing had been sampled after it.

        Only the random numbers differ from those of the first time: each rewind begins new streams,
        so that what is sampled now does not depend on what is taken back. They follow from the seed
        and the number of rewinds.

        Args:
            state: the sampler's :attr:`state` at that place.
            prompt_tokens: ids of the prompt.
            tokens: ids that were accepted before that place.

        Raises:
            InvalidParameter: an id is outside the vocabulary.
        """
        cdef uint64_t position
        cdef double mu, adaptive_mean
        position, mu, adaptive_mean = state
        self._take()
        try:
            og_sampler_restart(&self._s)
            self._accept_prompt(prompt_tokens)
            for token in tokens:
                self._accept(check_token(token, self._s.n_vocab, "tokens"))
            self._s.position = position
            self._s.mu = mu
            self._s.adaptive_mean = adaptive_mean
            self._s.rewinds += 1
        finally:
            self._busy = False

    cdef int _accept(self, int32_t token) except -1:
        self._make_room()
        og_sampler_accept(&self._s, token)
        return 0


@cython.final
@cython.freelist(64)
cdef class _Buffer:
    """Holds a buffer while its address is in use."""

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
        # On platforms where both have 4 bytes, "L" and "I" are the same type.
        if not (given != NULL and format == b"I" and given == b"L" and buffer.view.itemsize == 4):
            raise ValueError(f"{what} must be of format {format.decode()!r} (see struct)")
    if buffer.view.ndim != 1 or buffer.view.shape[0] != length:
        raise ValueError(f"expected {length} {what}, got {buffer.view.len // buffer.view.itemsize}")
    return buffer


@cython.freelist(64)
cdef class _Draw:
    """One row of a call: its arguments and its result."""

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
            raise sampling_error(self.status)
        if self.n_top < 0:
            return SampleResult(self.token)
        top = [(self.top[i].token, self.top[i].logprob) for i in range(self.n_top)
               if self.top[i].token >= 0]
        return SampleResult(self.token, self.logprob, tuple(top))


cdef _Draw new_draw(Sampler sampler, const float *logits, const uint32_t *mask, int32_t n_top,
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
        draw.top = <og_candidate *>allocate(n_top * sizeof(og_candidate))
    return draw


cdef int _run_one(_Draw draw) except -1:
    draw.sampler._take()
    with nogil:
        draw.run()
    draw.sampler._busy = False
    return 0


def philox4x32(counter, key):
    """The block function of the random generator, for tests and other implementations.

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
