"""A trace of a few steps by jax's profiler, to be looked at with `xprof DIR` (or TensorBoard's profile plugin).

Operations are named by the modules that they belong to (`Generator/enc3/conv`) and by their loss.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from cracks_jax.errors import CracksError


@contextmanager
def profile(folder: Path | None, first: int, last: int, what: str = "step") -> Iterator[Callable[..., None]]:
    """Yields what must be called after each step, with the step's results: it traces steps `first` to `last`.

    The steps before compile and warm up. Without a folder nothing is traced.

    Args:
      what: one step in words, for whoever has too few of them.
    """
    if folder is None:
        yield lambda results=None: None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CracksError(f"{folder}: cannot be written ({error.strerror}); give another --profile") from error
    done, tracing = 0, False

    def after(results: Any = None) -> None:
        nonlocal done, tracing
        done += 1
        if done in (first - 1, last):
            jax.block_until_ready(results)  # what was asked for before belongs before, and the last step inside
        if done == first - 1:
            jax.profiler.start_trace(str(folder))
            tracing = True
        elif tracing and done == last:
            jax.profiler.stop_trace()
            tracing = False

    try:
        yield after
    finally:
        if tracing:
            jax.profiler.stop_trace()
        if done < first:
            said = f"--profile traces from {what} {first} on, and there were {done}: nothing was traced"
            print(said, file=sys.stderr, flush=True)
