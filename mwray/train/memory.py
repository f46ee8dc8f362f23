"""Memory of the C library: let the process keep what a training step frees, since the next step asks for it again."""

from __future__ import annotations

import ctypes
import os

SWITCH = "MWRAY_KEEP_FREED_MEMORY"
"""Environment variable; "0" leaves the C library as it is."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # M_... of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the rest of the process; returns whether it does.

    By default glibc gives a large block back to the system when it is freed, and the system clears every page of it
    again when the next step asks for it. On a CPU that is some 10 % of the time of a step of ResNet-32, plain or not
    (RESULTS.md). Kept memory counts as the process's until it ends; its most is what one step needs in any case. Calls
    after the first change nothing. Without glibc (macOS, Windows, musl), or with `MWRAY_KEEP_FREED_MEMORY=0`, nothing
    happens.
    """
    if os.environ.get(SWITCH) == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; no handle to the process's own library
        return False
    # The threshold of mmap has an upper limit of 32 MiB in some versions. The padding is for training in a thread, as
    # under Ray: the heaps of a thread are returned whole unless they are smaller than it.
    kept = mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25)
    return bool(kept and mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_TOP_PAD, 2**28))
