"""Calls of a network on stacks of windows: how many go into one, and what happens when memory does not suffice.

Windows are uint8 (h, w, 3), all of a call of one shape; scores float32 (h, w).
"""

import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from cracks_jax.errors import CracksError, UsageError

# As many pixels as the largest image that is scored whole, so that a call of many windows takes no more memory than
# that one does, and on a processor's few cores no longer.
CALL_PIXELS = 2**20


class OutOfMemory(CracksError):
    """Not even one window fits."""


class NetworkCalls:
    """Calls `score` with stacks of windows.

    A program is compiled for a full stack and for a single window of each shape, and for no number between: what is
    left over is scored one by one, or fills a stack with copies of its last window where that program is there already.

    Args:
      score: (n, h, w, 3) -> (n, h, w).
      batch: windows in a stack; None: as many as CALL_PIXELS hold.
    """

    def __init__(
        self,
        score: Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n h w"]],
        batch: int | None,
    ):
        if batch is not None and batch < 1:
            raise UsageError(f"--tile-batch {batch}: expected 1 (each window by itself) or more")
        self.score, self._batch = score, batch
        self._pixels: int | None = None  # what one call may hold, known since memory did not suffice
        self._compiled: set[tuple[int, ...]] = set()  # shapes that had a full stack
        self.after_call: Callable[[], None] = lambda: None

    def batch(self, shape: Sequence[int]) -> int:
        """Windows of this (height, width) in a full stack."""
        pixels = shape[0] * shape[1]
        wanted = self._batch or max(CALL_PIXELS // pixels, 1)
        return wanted if self._pixels is None else min(wanted, max(self._pixels // pixels, 1))

    def __call__(self, windows: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[Float[np.ndarray, "h w"]]:
        """The scores of windows of one shape.

        Raises:
          OutOfMemory: a single window does not fit into memory.
        """
        scores: list[np.ndarray] = []
        while len(scores) < len(windows):
            rest = windows[len(scores) :]
            shape = rest[0].shape[:2]
            batch = self.batch(shape)
            size = batch if len(rest) >= batch or (*shape, batch) in self._compiled else 1
            try:
                scores += self._called(rest[:size], size)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                self._make_smaller(shape, size, error)
        return scores

    def _called(self, windows: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
        stack = np.stack([*windows, *[windows[-1]] * (size - len(windows))])
        scores = self.score(stack)
        if len(scores) != size:
            raise ValueError(f"{size} windows got scores of shape {scores.shape}; they must agree")
        self._compiled.add((*windows[0].shape[:2], size))
        self.after_call()
        return list(scores[: len(windows)])

    def _make_smaller(self, shape: tuple[int, ...], size: int, error: Exception) -> None:
        height, width = shape
        if size == 1:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise OutOfMemory(
                f"a window of {width}x{height} px does not fit into memory ({reason}); "
                f"take smaller tiles, for example --tile {max(64, min(shape) // 2)}"
            ) from error
        self._pixels = size // 2 * height * width
        tqdm.write(
            f"out of memory with {size} windows of {width}x{height} px in one call: {size // 2} from here on",
            file=sys.stderr,
        )
