# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""All rows of a step in one call: sampling from them, and scoring given tokens."""

from cpython.mem cimport PyMem_RawFree
from cython.parallel cimport prange
from libc.stdint cimport int32_t, uint32_t, uintptr_t

from offgrid.sampling._config cimport check_token
from offgrid.sampling._core cimport OG_OK, og_candidate, og_sampler_score, og_status
from offgrid.sampling._memory cimport allocate
from offgrid.sampling._sampler cimport _Draw, Sampler, new_draw, sampling_error, top_count

from offgrid.sampling.result import TokenScore


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
        draws.append(new_draw(sampler, <const float *><uintptr_t>addresses[i],
                              <const uint32_t *><uintptr_t>mask,
                              top_count(wanted, sampler._s.n_vocab),
                              post_sampling is not None and post_sampling[i]))
    if len(set(samplers)) != n:
        raise ValueError("a sampler can draw for one row of a step only")
    return draws


cdef int _share_scratch(list draws) except -1:
    """Let rows that one thread computes in turn share the first row's scratch where it fits, so
    that it stays in the cache."""
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
    """Run the rows in blocks, one block per thread. Without OpenMP the blocks run in turn."""
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
    """Sample one token from every row of a step, in one call without the GIL.

    Args:
        addresses: the address of each row's ``n_vocab`` float32 logits, which must stay valid
            during the call.
        samplers: one for each row; no sampler may occur twice.
        top_logprobs: None, or for each row the number of alternatives, -1 for no logprobs.
        masks: None, or for each row the address of its ``(n_vocab + 31) // 32`` uint32 words, 0 for
            no mask.
        post_sampling: None, or for each row whether its logprobs describe the distribution that the
            token was sampled from.
        accept: whether to count each sampled token as generated.
        threads: number of threads that share the rows, if the library was built with OpenMP. The
            tokens are the same for any number. After a call with more than one thread, a forked
            child must not make such a call.

    Returns:
        A list with a SampleResult for each row. If nothing can be sampled from a row, its place
        holds a SamplingError; the other rows are not affected.

    Raises:
        ValueError: lengths differ, an address is NULL, a sampler occurs twice, or threads < 1.
        RuntimeError: a sampler is in use by another thread.
    """
    cdef list jobs = _new_draws(addresses, samplers, top_logprobs, masks, post_sampling)
    cdef Py_ssize_t n = len(jobs)
    cdef Py_ssize_t i, taken = 0
    cdef _Draw draw
    if threads < 1:
        raise ValueError("threads must be at least 1")
    cdef int n_threads = min(threads, max(n, 1))
    cdef void **draws = <void **>allocate(n * sizeof(void *))
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
                results.append(sampling_error(draw.status))
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
    """Return how likely given tokens are, one for each row, without sampling. Used for prompts.

    The call uses the sampler's memory but changes no state, and ignores its parameters.

    Args:
        sampler: any sampler for rows of this length.
        addresses: the address of each row's ``n_vocab`` float32 logits, which must stay valid
            during the call.
        tokens: the id that follows each row.
        top_logprobs: number of alternatives.

    Returns:
        A list with a TokenScore for each row.

    Raises:
        SamplingError: a row holds NaN or +infinity, or nothing but -infinity.
        ValueError: lengths differ or an address is NULL.
        InvalidParameter: an id is outside the vocabulary.
        RuntimeError: the sampler is in use by another thread.
    """
    cdef const float *row
    cdef int32_t token, rank, n_top = top_count(top_logprobs, sampler._s.n_vocab)
    cdef float logprob
    cdef og_status status
    if len(addresses) != len(tokens) or n_top < 0:
        raise ValueError("every row needs one token, and a number of alternatives")
    sampler._take()
    cdef og_candidate *top = NULL
    try:
        top = <og_candidate *>allocate(n_top * sizeof(og_candidate))
        results = []
        for address, following in zip(addresses, tokens):
            token = check_token(following, sampler._s.n_vocab, "tokens")
            row = <const float *><uintptr_t>address
            if row == NULL:
                raise ValueError("the logits' address is NULL")
            with nogil:
                status = og_sampler_score(&sampler._s, &sampler._scratch, row, token, &logprob,
                                          &rank, top, n_top)
            if status != OG_OK:
                raise sampling_error(status)
            results.append(TokenScore(
                token, logprob, rank, tuple([(top[i].token, top[i].logprob) for i in range(n_top)])
            ))
        return results
    finally:
        PyMem_RawFree(top)
        sampler._busy = False
