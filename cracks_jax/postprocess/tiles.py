"""Images of any size through windows of one size: reflected borders, overlapping tiles, blended seams.

Images are uint8 (h, w, 3), score maps float32 (h, w). Reflection does not repeat the outermost pixel.

`Whole` and `Tiles` are the two ways of cutting an image into windows of one shape. Both give their windows, take the
windows' scores back in the same order, each when it is there, and hold the image's score map in the end.
"""

from collections.abc import Iterator
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


class Whole:
    """An image as one window: reflected borders of at least `margin`, the sides multiples of `multiple`."""

    def __init__(self, image: UInt8[np.ndarray, "h w 3"], multiple: int, margin: int):
        self._window, self._box = pad_reflect(image, multiple, margin)
        self.shape = self._window.shape[:2]

    def windows(self) -> Iterator[UInt8[np.ndarray, "t u 3"]]:
        yield self._window

    def add(self, scores: Float[np.ndarray, "t u"]) -> bool:
        """The window's scores; True: the map is complete."""
        _check_shape(scores, self.shape)
        self.scores = np.ascontiguousarray(scores[self._box.slices])
        return True


class Tiles:
    """An image as overlapping tiles of tile x tile pixels, each scored by itself.

    The image is first surrounded by overlap // 2 reflected pixels (more where it is smaller than a tile), so
    that its border, like every seam, lies inside a window. Seams are blended with linear ramps. Tiles are
    added in the order of `plan`, whatever computes them, and their weights are whole numbers summed in
    float64: a constant stays that constant, and where tiles agree their score comes back bit for bit.
    Beside the padded image and the result, memory holds one row of tiles.

    Raises:
      ValueError: tile and overlap do not fit.
    """

    def __init__(self, image: UInt8[np.ndarray, "h w 3"], tile: int, overlap: int):
        border = 2 * (overlap // 2)
        height, width = image.shape[:2]
        self._padded, self._inner = _pad_to(image, max(tile, height + border), max(tile, width + border))
        self._boxes = plan(self._padded.shape[0], self._padded.shape[1], tile, overlap)
        self._rows, self._columns = (_starts(side, tile, overlap) for side in self._padded.shape[:2])
        self.shape = (tile, tile)
        ramp = _ramp(tile, overlap)
        sides = zip(self._padded.shape[:2], (self._rows, self._columns), strict=True)
        self._down, self._across = (_total(side, starts, ramp) for side, starts in sides)
        self._weight = np.outer(ramp, ramp)
        self._map = np.empty(self._padded.shape[:2], np.float32)
        self._band = np.zeros((tile, self._padded.shape[1]))
        self._added = 0

    def windows(self) -> Iterator[UInt8[np.ndarray, "t t 3"]]:
        """Every tile, row by row."""
        for box in self._boxes:
            yield self._padded[box.slices]

    def add(self, scores: Float[np.ndarray, "t t"]) -> bool:
        """The scores of the next tile; True: it was the last one, the map is complete."""
        _check_shape(scores, self.shape)
        row, column = divmod(self._added, len(self._columns))
        x = self._columns[column]
        self._band[:, x : x + scores.shape[1]] += self._weight * scores
        self._added += 1
        if column == len(self._columns) - 1:
            self._finish_row(row)
        return self._added == len(self._boxes)

    def _finish_row(self, row: int) -> None:
        """Later tiles reach no row above the next one's first: what lies there is done."""
        y, following = [*self._rows, self._padded.shape[0]][row : row + 2]
        done = following - y
        self._map[y:following] = self._band[:done] / np.outer(self._down[y:following], self._across)
        self._band = np.concatenate([self._band[done:], np.zeros_like(self._band[:done])])

    @property
    def scores(self) -> Float[np.ndarray, "h w"]:
        """The image's score map, complete once `add` said so."""
        return np.ascontiguousarray(self._map[self._inner.slices])


def _check_shape(scores: np.ndarray, shape: tuple[int, ...]) -> None:
    if scores.shape != shape:
        found = "x".join(map(str, shape))
        raise ValueError(f"a window of {found} got scores of shape {scores.shape}; they must agree")


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
