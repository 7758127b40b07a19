# When the GIL is worth dropping.
cdef enum:
    # Bytes of a text from which on other threads may run meanwhile: getting the lock back costs more
    # than the work on a shorter one.
    LONG = 1 << 14
