"""How worker processes begin and end: they hear no signal to stop, and none outlives the process that started it.

A terminal sends Ctrl-C, and a cluster SIGTERM, to every process of a training. Only the training itself is to hear
it: a worker that died of it may leave half a message in a pipe, which would be waited for for ever. And a training that
is killed, or leaves at once, closes nothing: its workers must see by themselves that it is gone.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from threading import Thread

_STOP = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def deaf_processes() -> Iterator[None]:
    """Processes that are started meanwhile, by this thread or by one that it starts, hear no signal to stop."""
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_with_parent(_worker: int, _workers: int) -> None:
    """In a worker: it ends with the process that started it, whatever it is doing and however that one ends."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: object) -> None:
    parent.join()  # type: ignore[attr-defined]
    os._exit(1)  # its main thread may wait for room in a pipe that nobody reads any more


def _start_tracker() -> None:
    """Starts the process that unlinks semaphores once all who used them are gone.

    Before signals are blocked, as starting it unblocks them; and told to be silent about what a killed training left.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker:UserWarning")))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before
