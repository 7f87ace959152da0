"""Work that overlaps: a thread that reads ahead, and threads that finish behind, both with a bound on what they hold.

What an item weighs is the caller's measure (pixels, say); limits are in the same measure. One item may always be held,
however heavy it is.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


@contextmanager
def ahead(items: Iterator[Item], weight: Callable[[Item], int], limit: int) -> Iterator[Iterator[Item]]:
    """The same items in the same order, made by a thread until those that nobody took yet weigh more than `limit`.

    What stops the thread, be it an error or a KeyboardInterrupt, is raised where its item would have been taken.
    """
    reader = _Reader(items, weight, limit)
    thread = Thread(target=reader.read, name="reader", daemon=True)
    thread.start()
    try:
        yield reader.taken()
    finally:
        reader.stop()
        thread.join()


class _Reader(Generic[Item]):
    def __init__(self, items: Iterator[Item], weight: Callable[[Item], int], limit: int):
        self._items, self._weight, self._limit = items, weight, limit
        self._changed = Condition()
        self._ready: deque[tuple[Item, int]] = deque()
        self._held = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def read(self) -> None:
        try:
            for item in self._items:
                heavy = self._weight(item)
                with self._changed:
                    self._ready.append((item, heavy))
                    self._held += heavy
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._held <= self._limit or self._stopped)
                    if self._stopped:
                        return
        except BaseException as error:  # raised again by whoever takes the items
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def taken(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._ended)
                if not self._ready:
                    break
                item, heavy = self._ready.popleft()
                self._held -= heavy
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _AtOnce(Executor):
    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments, **named))
        return done


class Behind:
    """Finishes work in threads and hands the results on, in the order of the work, in the thread that gave it.

    Whatever ends the `with` block, work that was given is finished and handed on; only where finishing or handing on
    itself fails, what comes after is dropped.

    Args:
      threads: how many work at a time; 0: the giving thread itself does, at once.
      limit: what is given and not handed on weighs no more than this, or is one item.
      hand_on: takes each result.
    """

    def __init__(self, threads: int, limit: int, hand_on: Callable[[Any], None]):
        self._pool: Executor = ThreadPoolExecutor(threads, thread_name_prefix="writer") if threads else _AtOnce()
        self._limit, self._hand_on = limit, hand_on
        self._given: deque[tuple[Future[Any], int]] = deque()
        self._failed = False

    def give(self, heavy: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Waits until there is room, then returns while the work goes on."""
        while self._given and (self._given[0][0].done() or self._held + heavy > self._limit):
            self._next()
        self._given.append((self._pool.submit(work, *arguments), heavy))

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            while self._given and not self._failed:
                self._next()
        except Exception:
            if kind is None:  # otherwise what went wrong first is what must be said
                raise
        finally:
            self._pool.shutdown(cancel_futures=True)

    @property
    def _held(self) -> int:
        return sum(heavy for _, heavy in self._given)

    def _next(self) -> None:
        future, _ = self._given.popleft()
        try:
            self._hand_on(future.result())
        except Exception:
            self._failed = True
            raise
