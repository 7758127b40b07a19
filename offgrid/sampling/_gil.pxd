# When releasing the GIL is worth its cost.
cdef enum:
    # Release the GIL for texts of at least this many bytes: for shorter ones, getting the lock back
    # costs more than the work.
    LONG = 1 << 14
