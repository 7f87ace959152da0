"""Where on a photograph a window may lie: arithmetic on masks and sizes, no files.

A box is (y, x, h, w) in pixels of the photograph. Everything chosen at random is drawn from a generator keyed
by the seed and the photograph's name, so that one photograph's windows do not depend on which others there
are.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

Box = tuple[int, int, int, int]

# Sides are tried from the largest to the smallest in steps of this many pixels.
SIDE_STEP = 16


def fraction(seed: int, *parts: str | int) -> float:
    """A number in [0, 1) that depends on the seed and the parts alone."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """A random generator that depends on the seed and the parts alone."""
    text = "/".join(str(part) for part in (seed, *parts))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))


def box_sums(mask: Bool[np.ndarray, "h w"], side: int, margin: int = 0) -> Int[np.ndarray, "rows cols"]:
    """How many set pixels each window holds, `margin` pixels beyond its edges included.

    Entry (y, x) belongs to the window of `side` pixels whose upper left corner is (y, x); windows lie wholly
    inside the mask, their margins need not. Empty where the mask is smaller than the window.
    """
    height, width = mask.shape
    if min(height, width) < side:
        return np.zeros((max(0, height - side + 1), max(0, width - side + 1)), np.int64)
    total = np.pad(np.pad(mask, margin).cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    reach = side + 2 * margin
    return total[reach:, reach:] - total[:-reach, reach:] - total[reach:, :-reach] + total[:-reach, :-reach]


def sides(smallest: int, largest: int) -> list[int]:
    """The window sides to try, largest first: `largest`, 16 less, ... and `smallest`."""
    return [*range(largest, smallest, -SIDE_STEP), smallest]


def clear_windows(
    mask: Bool[np.ndarray, "h w"],
    *,
    smallest: int,
    largest: int,
    clearance: int,
    count: int,
    rng: np.random.Generator,
) -> list[Box]:
    """At most `count` windows without a crack, disjoint, each the largest that still fits.

    No labelled pixel lies inside a window or within `clearance` pixels of its edges (rows and columns alike,
    so diagonally too). Among the positions that serve, `rng` draws one.
    """
    taken = np.zeros_like(mask)
    boxes: list[Box] = []
    while len(boxes) < count:
        for side in sides(smallest, largest):
            free = (box_sums(mask, side, clearance) == 0) & (box_sums(taken, side) == 0)
            positions = np.flatnonzero(free)
            if positions.size:
                y, x = divmod(int(positions[rng.integers(positions.size)]), free.shape[1])
                taken[y : y + side, x : x + side] = True
                boxes.append((y, x, side, side))
                break
        else:
            return boxes
    return boxes


def grid_blocks(height: int, width: int, side: int) -> Iterator[Box]:
    """Square blocks that cover an image; the last of a row or column is shifted inwards until it fits.

    Both sides of the image must reach `side`.
    """
    for y in _starts(height, side):
        for x in _starts(width, side):
            yield y, x, side, side


def _starts(length: int, side: int) -> list[int]:
    return [min(i * side, length - side) for i in range(-(-length // side))]


def even_crops(height: int, width: int, parts: int) -> Iterator[Box]:
    """`parts` x `parts` equal crops side by side; a remainder of less than `parts` pixels is left out."""
    h, w = height // parts, width // parts
    for row in range(parts):
        for column in range(parts):
            yield row * h, column * w, h, w


def corners(height: int, width: int, side: int) -> list[Box]:
    """The windows in the four corners, fewer where an image is no larger than the window."""
    places = {(y, x) for y in (0, height - side) for x in (0, width - side)}
    return [(y, x, side, side) for y, x in sorted(places)]
