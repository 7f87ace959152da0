"""How a process keeps its memory, whose steps ask for the same large buffers again and again, and how it lets go."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_TOP_PAD_BYTES = 2**28
_ASYNCHRONOUS = "jax_cpu_enable_async_dispatch"


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed buffers for the next step instead of giving them back; says whether it could.

    XLA's buffers of a step come from malloc. By default each large one is mapped anew, and the kernel clears its pages
    one fault after another, a large part of a step on a processor. Kept buffers cost no memory beyond the process's own
    peak. Anything but glibc is left as it is.

    To be called before jax first looks for devices: a program then runs in the thread that calls it, as the buffers
    of other threads than the main one are mapped anew beyond 64 MiB. JAX_CPU_ENABLE_ASYNC_DISPATCH in the environment
    says otherwise. (One heap for all threads would keep every buffer as well, but XLA's workers wait for its lock: a
    fifth of a step of CrackSeg where the compiler has left many small pieces behind.)
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    if _ASYNCHRONOUS.upper() not in os.environ:
        os.environ[_ASYNCHRONOUS.upper()] = "false"  # without importing jax, which `--help` does not need
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(_ASYNCHRONOUS, False)
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: _TOP_PAD_BYTES}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def give_back_freed_memory() -> bool:
    """Gives every freed page back to the system, kept ones too; says whether it could.

    Between two trainings of one process: what one has freed lies in pieces that the next one's larger buffers do not
    fit into, so that the process would grow with each (on an H100's host by 0.7 to 1.5 GB a member of a sweep).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    return trim is not None and trim(0) == 1
