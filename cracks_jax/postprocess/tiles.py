"""Images of any size through windows of one size: reflected borders, overlapping tiles, blended seams.

Images are uint8 (h, w, 3), score maps float32 (h, w). Reflection does not repeat the outermost pixel.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8


class Box(NamedTuple):
    """A rectangle of pixels: top left corner and size."""

    y: int
    x: int
    h: int
    w: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """`array[box.slices]` is the box's part of an array (h, w, ...)."""
        return slice(self.y, self.y + self.h), slice(self.x, self.x + self.w)


def pad_reflect(image: np.ndarray, multiple: int, margin: int = 0) -> tuple[np.ndarray, Box]:
    """The image with reflected borders, its sides the next multiples, and the box that holds the original.

    What is added is shared between the two sides, at least `margin` pixels on each. Where it is wider than the
    image, the reflection goes back and forth; a single row or column repeats.
    """
    if multiple < 1:
        raise ValueError(f"sides cannot be padded to multiples of {multiple}; give a positive number")
    height, width = (-(-(side + 2 * margin) // multiple) * multiple for side in image.shape[:2])
    return _pad_to(image, height, width)


def _pad_to(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, Box]:
    old_height, old_width = image.shape[:2]
    if not old_height or not old_width:
        raise ValueError(f"image has shape {image.shape}; an image without pixels cannot be padded")
    top, left = (height - old_height) // 2, (width - old_width) // 2
    pads = [(top, height - old_height - top), (left, width - old_width - left)]
    padded = np.pad(image, pads + [(0, 0)] * (image.ndim - 2), mode="reflect")
    return padded, Box(top, left, old_height, old_width)


def plan(height: int, width: int, tile: int, overlap: int) -> list[Box]:
    """Tiles of side `tile` that cover an image, row by row; neighbours share at least `overlap` pixels.

    They are spread evenly: a last tile pushed back into the image would share nearly all of its pixels.

    Raises:
      ValueError: the image is smaller than a tile, or the overlap is not below the tile.
    """
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    return [Box(y, x, tile, tile) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if not 0 <= overlap < tile:
        raise ValueError(f"tile {tile} with overlap {overlap}; the overlap must be from 0 to {tile - 1}")
    if length < tile:
        raise ValueError(f"image side {length} is below the tile {tile}; pad it or take a smaller tile")
    count = max(1, -(-(length - overlap) // (tile - overlap)))
    return [(length - tile) * i // max(1, count - 1) for i in range(count)]


def score_tiled(
    image: UInt8[np.ndarray, "h w 3"],
    score_window: Callable[[UInt8[np.ndarray, "t t 3"]], Float[np.ndarray, "t t"]],
    tile: int,
    overlap: int,
) -> Float[np.ndarray, "h w"]:
    """The score map of an image, from windows of tile x tile pixels, each scored by itself.

    The image is first surrounded by overlap // 2 reflected pixels (more where it is smaller than a tile), so
    that its border, like every seam, lies inside a window. Seams are blended with linear ramps. Tiles are
    added in the order of `plan`, whatever computes them, and their weights are whole numbers summed in
    float64: a constant stays that constant, and where tiles agree their score comes back bit for bit.
    Beside the padded image and the result, memory holds one row of tiles.

    Raises:
      ValueError: tile and overlap do not fit, or `score_window` returned another shape.
    """
    border = 2 * (overlap // 2)
    height, width = image.shape[:2]
    padded, inner = _pad_to(image, max(tile, height + border), max(tile, width + border))
    rows, columns = (_starts(side, tile, overlap) for side in padded.shape[:2])
    ramp = _ramp(tile, overlap)
    down, across = _total(padded.shape[0], rows, ramp), _total(padded.shape[1], columns, ramp)
    weight = np.outer(ramp, ramp)
    out = np.empty(padded.shape[:2], np.float32)
    band = np.zeros((tile, padded.shape[1]))
    for y, following in zip(rows, [*rows[1:], padded.shape[0]], strict=True):
        for x in columns:
            scores = score_window(padded[y : y + tile, x : x + tile])
            if scores.shape != (tile, tile):
                raise ValueError(
                    f"a window of {tile}x{tile} got scores of shape {scores.shape}; they must agree"
                )
            band[:, x : x + tile] += weight * scores
        done = following - y  # later tiles reach no row above the next one's first
        out[y:following] = band[:done] / np.outer(down[y:following], across)
        band = np.concatenate([band[done:], np.zeros_like(band[:done])])
    return np.ascontiguousarray(out[inner.slices])


def _ramp(tile: int, overlap: int) -> Float[np.ndarray, " t"]:
    """Weights along one side: 1, 2, ... up to `overlap` at most, and down again."""
    inside = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1.0
    return np.minimum(inside, max(1, overlap))


def _total(length: int, starts: list[int], ramp: Float[np.ndarray, " t"]) -> Float[np.ndarray, " n"]:
    """Sum of the tiles' weights at each position; tiles form a grid, so one vector per axis is enough."""
    total = np.zeros(length)
    for start in starts:
        total[start : start + ramp.size] += ramp
    return total
