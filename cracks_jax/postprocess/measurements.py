"""What a mask measures: area, number, length and mean width of cracks, in pixels and in millimetres."""

import math
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool

from cracks_jax.errors import UsageError
from cracks_jax.ops.skeleton import skeleton

SQRT2 = math.sqrt(2)
# One of each pair of opposite neighbours, (dy, dx), so that each step between two pixels is counted once.
STRAIGHT = ((0, 1), (1, 0))
DIAGONAL = ((1, 1), (1, -1))
_MOST_MM = 1e6


def measure(mask: Bool[np.ndarray, "h w"], mm_per_px: float | None = None) -> dict[str, Any]:
    """Measurements of one mask; anything but 0 is crack.

    Keys: `crack_share` (of all pixels), `area_px`, `components` (8-connected), `length_px` (of the skeleton:
    see `skeleton_length`), `mean_width_px` (area / length; None without crack), and with `mm_per_px` also
    `area_mm2`, `length_mm`, `mean_width_mm`.

    A skeleton ends about half a width before the crack does, so a crack that is not thin is measured shorter,
    by about one width in all, and correspondingly wider.

    Raises:
      ValueError: the mask is not (h, w), or has no pixels.
      UsageError: mm_per_px is not a positive number, or more than a kilometre.
    """
    if mm_per_px is not None and not 0 < mm_per_px <= _MOST_MM:
        raise UsageError(
            f"mm-per-px is {mm_per_px}; it must be a positive number of millimetres (such as 0.5), at most {_MOST_MM:g}"
        )
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"mask has shape {mask.shape}; measurements need (h, w) with at least one pixel")
    mask = np.asarray(mask, bool)
    area = int(np.count_nonzero(mask))
    length = skeleton_length(_thin(mask)) if area else 0.0
    width = area / length if length else None
    result: dict[str, Any] = {
        "crack_share": area / mask.size,
        "area_px": area,
        "components": cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1,
        "length_px": length,
        "mean_width_px": width,
    }
    if mm_per_px is not None:
        result["area_mm2"] = area * mm_per_px**2
        result["length_mm"] = length * mm_per_px
        result["mean_width_mm"] = None if width is None else width * mm_per_px
    return result


def _thin(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Skeleton of the part of the mask that holds crack: most of a photograph does not."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return skeleton(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def skeleton_length(skeleton: Bool[np.ndarray, "h w"]) -> float:
    """Length in pixels of lines one pixel wide.

    Neighbouring pixels are joined by steps: 1 along a row or column, sqrt(2) along a diagonal. A diagonal
    step across a corner whose two straight steps are there is left out, or the corner would count twice. A
    line reaches half a step beyond the centre of its last pixel, so a straight line of n pixels is n long
    (a diagonal one n sqrt(2)), a closed ring as long as its steps; a lone pixel is 1 long.
    """
    padded = np.pad(np.asarray(skeleton, bool), 1)
    steps = np.zeros(padded.shape, np.uint8)  # at each pixel, how many steps meet there
    diagonals = np.zeros(padded.shape, np.uint8)  # and how many of these are diagonal
    straight, diagonal = 0, 0
    for dy, dx in STRAIGHT + DIAGONAL:
        joined = padded & _shifted(padded, dy, dx)
        if dy and dx:
            joined &= ~(_shifted(padded, dy, 0) | _shifted(padded, 0, dx))
            diagonal += int(np.count_nonzero(joined))
        else:
            straight += int(np.count_nonzero(joined))
        both = joined.astype(np.uint8) + _shifted(joined, -dy, -dx)
        steps += both
        diagonals += both if dy and dx else 0
    alone = np.count_nonzero(padded & (steps == 0))
    ends = padded & (steps == 1)
    diagonal_ends = np.count_nonzero(ends & (diagonals == 1))
    straight_ends = np.count_nonzero(ends) - diagonal_ends
    return float(straight + straight_ends / 2 + alone) + SQRT2 * float(diagonal + diagonal_ends / 2)


def _shifted(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """The neighbour at (dy, dx) of every pixel; the outermost pixels, all empty here, wrap around."""
    return np.roll(image, (-dy, -dx), axis=(0, 1))
