"""A polite stop: the first SIGTERM or SIGINT asks, a second one leaves at once.

A Python signal handler cannot run while the main thread is inside a compilation or a long step. So the interpreter only
writes each signal's number into a pipe, and a thread that reads the pipe decides. That thread waits for nothing else:
what it says, and what is done before leaving, other threads do.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import Any

STOPPED = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_END = b"\0"  # no signal has the number 0
# Seconds that the last line may take: standard error may be a pipe that nobody reads.
_PATIENCE = 1.0
_GO_ON = "run the same command again to go on from what is saved"


class Stopped(Exception):
    """A signal asked training to stop; everything is saved and the same command goes on."""


class Stop:
    """Whether a stop was asked for.

    `before_leaving` is called before the process leaves at once while something long is under way: what it does is
    bounded by a second signal only.
    """

    def __init__(self) -> None:
        self.asked = False
        self.before_leaving: Callable[[], None] = lambda: None
        self._long: str | None = None
        self._leaving = False
        self._lock = Lock()  # what is under way and whether a stop was asked for are looked at together

    @contextmanager
    def at_once(self, what: str) -> Iterator[None]:
        """While this takes long and changes nothing on disk (compiling, say), a first signal ends the process."""
        with self._lock:
            if self.asked:
                raise Stopped(f"stopped before {what}; run the same command again to go on")
            self._long = what
        try:
            yield
        finally:
            with self._lock:
                self._long, leaving = None, self._leaving
            if leaving:  # another thread is about to end the process: nothing may be begun, or said, any more
                Event().wait()

    def _signalled(self) -> None:
        with self._lock:
            first, self.asked = not self.asked, True
            what = self._long if first else None
            self._leaving = self._leaving or what is not None
        if not first:
            _leave(f"stopped at once; {_GO_ON}")
        elif what is None:
            _in_a_thread(lambda: _say("stopping after this step; once more to stop at once"))
        else:
            _in_a_thread(lambda: self._leave(what))

    def _leave(self, what: str) -> None:
        try:
            self.before_leaving()
        finally:
            _leave(f"stopped during {what}; {_GO_ON}")


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Signals mean a `Stop` inside; elsewhere than in the main thread, whoever started it handles signals."""
    stop, old = Stop(), {}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        for number in _SIGNALS:
            old[number] = signal.signal(number, _heard)
        pipe_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    except ValueError:  # not in the main thread
        os.close(reading)
        os.close(writing)
        yield stop
        return
    listener = Thread(target=_listen, args=(reading, stop), name="signals", daemon=True)
    listener.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(pipe_before)
        for number, previous in old.items():
            signal.signal(number, previous)
        os.write(writing, _END)
        listener.join()
        os.close(reading)
        os.close(writing)


def _heard(_number: int, _frame: Any) -> None:
    """Nothing: that there is a handler makes the interpreter write the number into the pipe."""


def _listen(reading: int, stop: Stop) -> None:
    numbers = {bytes([number]) for number in _SIGNALS}
    while (heard := os.read(reading, 1)) != _END:
        if heard in numbers:
            stop._signalled()


def _in_a_thread(what: Callable[[], None]) -> None:
    Thread(target=what, daemon=True).start()


def _leave(last_words: str) -> None:
    """Without tidying up: compiled code runs in other threads, and an interpreter that ends under it crashes."""
    try:
        speaking = Thread(target=_say, args=(last_words,), daemon=True)
        speaking.start()
        speaking.join(_PATIENCE)
    finally:
        os._exit(STOPPED)


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # standard error may be gone, with the terminal that it was
        print(text, file=sys.stderr, flush=True)
