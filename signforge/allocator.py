"""What the C library does with memory that tensors on the CPU give back."""

import ctypes

KEPT_BYTES = 2**30
"""glibc gives memory back to the system above this much of it that is free."""
_MAPPED_BYTES = 2**25
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Lets glibc keep ``KEPT_BYTES`` of freed memory in this process; whether it agreed.

    A step of training frees its activations and asks for as many again. glibc gives them back to
    the system in between, which then has to clear each page anew. Blocks of 32 MiB or more, such
    as whole data sets, go back as before. Elsewhere (musl, macOS, Windows) nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; TypeError is Windows'
        return False
    settings = ((_M_MMAP_THRESHOLD, _MAPPED_BYTES), (_M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(name, value) for name, value in settings)
