"""Where XLA's worker threads run: on a processor, each on a core of its own."""

import os
import sys
from pathlib import Path

import jax

_TASKS = Path("/proc/self/task")
_WORKER = "tf_XLAEigen"


def spread_workers() -> bool:
    """Keeps each of XLA's worker threads to one of the process's cores; says whether it did.

    A thread that slept is woken where its waker runs. Between two calls of a network all workers sleep, so that they
    start on one core together and share it until the kernel moves one. Only XLA's own threads are kept; whatever else
    runs in the process goes where there is room. Elsewhere than on Linux, and where there are more or fewer workers
    than cores, everything is left as it is.
    """
    if not sys.platform.startswith("linux") or jax.default_backend() != "cpu":
        return False
    cores = sorted(os.sched_getaffinity(0))
    workers = sorted(int(task.name) for task in _TASKS.iterdir() if _name(task) == _WORKER)
    if len(workers) != len(cores):
        return False
    try:
        for worker, core in zip(workers, cores, strict=True):
            os.sched_setaffinity(worker, {core})
    except OSError:  # a sandbox may forbid it
        return False
    return True


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it ended in the meantime
        return ""
