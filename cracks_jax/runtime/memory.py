"""How the process keeps its memory: a processor's programs ask for the same large buffers at every step."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h
_TOP_PAD_BYTES = 2**28


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed buffers for the next step instead of giving them back; says whether it could.

    XLA's buffers of a step come from malloc. By default each large one is mapped anew, and the kernel clears its pages
    one fault after another, a large part of a step on a processor. Kept buffers cost no memory beyond the process's own
    peak. Anything but glibc is left as it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Threads' own arenas end at 64 MiB and would be mapped again: all use the main one.
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: _TOP_PAD_BYTES, _ARENA_MAX: 1}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
