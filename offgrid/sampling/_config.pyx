# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Builds csrc's og_config from SamplingParams and other Python values."""

import math
import os
import secrets
from operator import index

from cpython.mem cimport PyMem_RawFree
from libc.stdint cimport int32_t

from offgrid.sampling._core cimport (
    og_bias,
    og_config,
    og_kernels,
    og_kernels_best,
    og_kernels_named,
)
from offgrid.sampling._memory cimport allocate

from offgrid.errors import ConfigError, InvalidParameter
from offgrid.sampling.params import RANGES, shown

INSTRUCTION_SETS = ("scalar", "sse2", "avx2", "avx512", "neon")
"""Names of all existing kernels; instruction_sets() returns those that can run here."""

def instruction_sets():
    """Return the names of the kernels that this machine can run. All give the same tokens."""
    return tuple(name for name in INSTRUCTION_SETS if og_kernels_named(name.encode()) != NULL)


cdef const og_kernels *find_kernels(object name) except NULL:
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


cdef int32_t check_token(object token, int32_t n_vocab, str name) except -1:
    token = index(token)
    if not 0 <= token < n_vocab:
        raise InvalidParameter(
            f"Token id {shown(token)} is outside the vocabulary (0 to {n_vocab - 1}).", name
        )
    return <int32_t>token


cdef class _Config:
    """An og_config built from Python values, and the arrays that it points to."""

    def __dealloc__(self):
        PyMem_RawFree(self._biases)
        PyMem_RawFree(self._ends)
        PyMem_RawFree(self._breakers)
        PyMem_RawFree(self._lengths)

    cdef int set_params(self, object params) except -1:
        seed = secrets.randbits(64) if params.seed is None else params.seed
        self.c.seed = seed & (2**64 - 1)
        values = {name: getattr(params, name) for name in RANGES}
        values["penalties"] = {
            "repetition": params.repetition_penalty,
            "frequency": params.frequency_penalty,
            "presence": params.presence_penalty,
        }
        values["dry"] = {
            "multiplier": params.dry_multiplier,
            "base": params.dry_base,
            "allowed_length": params.dry_allowed_length,
            "last_n": params.dry_penalty_last_n,
        }
        # Cython converts the dictionary. It must hold every field that _core.pxd declares, and
        # _core.pxd must declare all of them.
        self.c.params = values
        return 0

    cdef int set_biases(self, object logit_bias, object banned) except -1:
        biases = dict(logit_bias or {})
        for token in biases:
            check_token(token, self.c.n_vocab, "logit_bias")
        biases.update((check_token(token, self.c.n_vocab, "banned"), -math.inf)
                      for token in banned)
        self._biases = <og_bias *>allocate(len(biases) * sizeof(og_bias))
        for i, (token, bias) in enumerate(biases.items()):
            self._biases[i].token = token
            self._biases[i].bias = bias
        self.c.biases = self._biases
        self.c.n_biases = <int32_t>len(biases)
        return 0

    cdef int set_ends(self, object end_tokens) except -1:
        ends = {check_token(token, self.c.n_vocab, "end_tokens") for token in end_tokens}
        self._ends = <int32_t *>allocate(len(ends) * sizeof(int32_t))
        for i, token in enumerate(ends):
            self._ends[i] = token
        self.c.ends = self._ends
        self.c.n_ends = <int32_t>len(ends)
        return 0

    cdef int set_breakers(self, object dry_breakers) except -1:
        if self.c.params.dry.multiplier == 0.0:
            return 0  # Not needed, and there may be many breakers.
        breakers = sorted({tuple(breaker) for breaker in dry_breakers})
        self._lengths = <int32_t *>allocate(len(breakers) * sizeof(int32_t))
        self._breakers = <int32_t *>allocate(sum(map(len, breakers)) * sizeof(int32_t))
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
