"""How much dark line a window holds, by its pixels alone: what chooses windows where no annotation exists.

A crack is darker than both its sides and goes on for a while. An oriented second derivative, long along the
line and short across it, answers to that and hardly to stones or stains; it is applied at four octaves, so
that lines from about 2 to 30 pixels are seen. Each octave is divided by its median over the photograph: a
window's score says how far its strongest line stands out of the photograph's own texture.
"""

from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.data.windows import Box, sides

# Windows lie on a grid of this many pixels, which is also the coarsest octave's scale.
GRID = 16
OCTAVES = (2, 4, 8, 16)
DIRECTIONS = 8
# Standard deviations of the filter across and along a line, in pixels of its octave.
ACROSS, ALONG = 1.0, 5.0
# Keeps the ratio finite on flat (drawn, blank) images; grey runs from 0 to 1.
LEAST_TEXTURE = 1e-3

# Per window side the scores of all windows on the grid.
Scores = dict[int, Float[np.ndarray, "rows cols"]]


def line_scores(image: UInt8[np.ndarray, "h w 3"], smallest: int, largest: int) -> Scores:
    """Scores of the windows of every side from `largest` to `smallest`, which must be multiples of 16.

    Entry (i, j) belongs to the window whose upper left corner is (16 i, 16 j). A window scores the sum over
    octaves of its strongest line, each in units of the photograph's median. Sides that do not fit are left
    out.
    """
    height, width = (length // GRID * GRID for length in image.shape[:2])
    if min(height, width) < smallest:
        return {}
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:height, :width].astype(np.float32) / 255
    responses = {}
    for octave in OCTAVES:
        small = cv2.resize(grey, (width // octave, height // octave), interpolation=cv2.INTER_AREA)
        response = _dark_lines(small)
        responses[octave] = response / (np.median(response) + LEAST_TEXTURE)
    fitting = [side for side in sides(smallest, largest) if side <= min(height, width)]
    return {
        side: np.sum([_strongest(r, side // o, GRID // o) for o, r in responses.items()], axis=0)
        for side in fitting
    }


def limit(best: Float[np.ndarray, " photos"], tolerance: float) -> float:
    """The highest score to accept: the median of the photographs' best windows, and so many deviations more.

    The deviation is the median absolute one, scaled to agree with the standard deviation of a normal sample.
    """
    centre = np.median(best)
    return float(centre + tolerance * 1.4826 * np.median(np.abs(best - centre)))


def calm_windows(scores: Scores, highest: float, count: int) -> list[tuple[Box, float]]:
    """At most `count` disjoint windows that score at most `highest`, and their scores.

    Each is of the largest side that serves, and the calmest of that side.
    """
    chosen: list[tuple[Box, float]] = []
    taken: list[Box] = []
    while len(chosen) < count:
        for side, grid in scores.items():
            free = np.where(_apart(grid.shape, side, taken), grid, np.inf)
            i, j = np.unravel_index(int(free.argmin()), free.shape)
            if free[i, j] <= highest:
                box = (int(i) * GRID, int(j) * GRID, side, side)
                taken.append(box)
                chosen.append((box, float(free[i, j])))
                break
        else:
            break
    return chosen


def _dark_lines(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The strongest answer over all directions; about the line's depth in units of grey."""
    return np.maximum.reduce(
        [cv2.filter2D(grey, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101) for kernel in _kernels()]
    )


@cache
def _kernels() -> list[Float[np.ndarray, "k k"]]:
    reach = int(3 * ALONG)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    kernels = []
    for angle in np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        kernel = ((across / ACROSS) ** 2 - 1) * np.exp(-((across / ACROSS) ** 2 + (along / ALONG) ** 2) / 2)
        kernel -= kernel.mean()
        kernels.append((kernel / np.abs(kernel).sum()).astype(np.float32))
    return kernels


def _strongest(response: Float[np.ndarray, "h w"], side: int, step: int) -> Float[np.ndarray, "rows cols"]:
    """The maximum over every window of `side`, corners `step` apart."""
    highest = cv2.dilate(response, np.ones((side, side), np.uint8), anchor=(0, 0))
    rows, columns = response.shape[0] - side + 1, response.shape[1] - side + 1
    return highest[:rows:step, :columns:step]


def _apart(shape: tuple[int, ...], side: int, taken: list[Box]) -> Bool[np.ndarray, "rows cols"]:
    """Which windows of `side` on the grid touch none of the boxes taken."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    y, x = y * GRID, x * GRID
    apart = np.ones(shape, bool)
    for top, left, h, w in taken:
        apart &= (y + side <= top) | (y >= top + h) | (x + side <= left) | (x >= left + w)
    return apart
