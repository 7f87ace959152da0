"""How worker processes begin and end: they hear no signal to stop, and none outlives the process that started it.

A terminal sends Ctrl-C, and a cluster SIGTERM, to every process of a training. Only the training itself is to hear
it: a worker that died of it may leave half a message in a pipe, which would be waited for for ever. And a training that
is killed, or leaves at once, closes nothing: its workers must see by themselves that it is gone.

When a training closes its input, nobody reads any more what a worker is writing. Python would wait for that at the
worker's end, and grain for the worker: 25 seconds for each, until it kills it.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import current_process, parent_process, resource_tracker, util
from queue import Empty, Full
from threading import Thread
from typing import Any

_STOP = (signal.SIGTERM, signal.SIGINT)
_LAST = "no more"
_A_MOMENT = 1.0  # seconds; a busy machine may need some of it to begin to write


@contextmanager
def deaf_processes() -> Iterator[None]:
    """Processes that are started meanwhile, by this thread or by one that it starts, hear no signal to stop."""
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(_worker: int, _workers: int) -> None:
    """In a worker: it ends with the process that started it, and does not wait for a reader that has closed."""
    parent = parent_process()
    if parent is not None:
        Thread(target=_leave_with, args=(parent,), name="parent", daemon=True).start()
    util.Finalize(None, _read_what_is_left, exitpriority=20)  # before the queues are closed, and waited for


def _leave_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # its main thread may wait for room in a pipe that nobody reads any more


def _read_what_is_left() -> None:
    """Where grain asked the worker to stop; one that ends by an error still has that to send.

    Read it must be, and whole: half a message in the pipe would be waited for at the other end.
    """
    given = getattr(current_process(), "_kwargs", {})
    buffer, stop = given.get("buffer"), given.get("should_stop")
    if buffer is None or stop is None or not stop.is_set():
        return
    with suppress(Empty):  # the other end has read it
        while not _put(buffer, _LAST):
            buffer.get(timeout=_A_MOMENT)
        while buffer.get(timeout=_A_MOMENT) != _LAST:
            pass


def _put(buffer: Any, message: str) -> bool:
    with suppress(Full):
        buffer.put_nowait(message)
        return True
    return False


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
