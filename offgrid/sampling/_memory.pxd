# Memory for csrc, which never allocates.
from cpython.mem cimport PyMem_RawMalloc
from libc.stdint cimport uintptr_t

from offgrid.sampling._core cimport OG_ALIGNMENT


cdef inline void *allocate(size_t size) except NULL:
    cdef void *memory = PyMem_RawMalloc(size if size > 0 else 1)
    if memory == NULL:
        raise MemoryError
    return memory


cdef inline void *aligned(void *memory) noexcept:
    """The first aligned address in a block that was allocated with OG_ALIGNMENT bytes to spare."""
    return <void *>((<uintptr_t>memory + OG_ALIGNMENT - 1) & ~<uintptr_t>(OG_ALIGNMENT - 1))
