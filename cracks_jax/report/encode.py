"""Pictures at a size that keeps the report small: every row of a figure gets its share of a budget of bytes.

Photographs are uint8 (h, w, 3) RGB, masks bool (h, w), maps float (h, w).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.report.model import Picture

# (longer side in pixels, JPEG quality): the first that fits a row's share is taken.
LADDER = (
    (640, 85), (512, 82), (416, 80), (336, 78), (272, 76), (224, 73), (176, 70), (144, 66), (116, 62), (96, 60),
    (80, 55), (64, 50), (48, 40),
)  # fmt: skip
# Shown smaller, a pixel has its case's colour where that case covers this share of it, or half of what a line of one
# pixel covers: hairlines must not vanish, wherever they fall between the larger pixels.
_COVERED, _HAIRLINE = 0.2, 0.45
# Letters of the page around a picture; how much more than its part a row may take.
_AROUND, _UNEVEN = 700, 1.5
# Found, false alarm, missed: pure colours, which the page maps to the palette that is asked for.
_GREEN, _BLUE, _RED = (0, 255, 0), (0, 0, 255), (255, 0, 0)
_HEAT = matplotlib.colormaps["magma"]


@dataclass(frozen=True)
class Scale:
    """A rung of the ladder."""

    side: int
    quality: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after shrinking; nothing is enlarged."""
        factor = min(1.0, self.side / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))

    def photograph(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes:
        return self._jpeg(self._shrunk(image))

    def picture(self, image: UInt8[np.ndarray, "h w 3"], alt: str) -> Picture:
        height, width = self.size(*image.shape[:2])
        return Picture(alt, width, height, self.photograph(image))

    def photo(self, shape: tuple[int, ...], name: str, alt: str) -> Picture:
        """A place where the shared photograph is shown as it is."""
        height, width = self.size(*shape[:2])
        return Picture(alt, width, height, photo=name)

    def mask(self, mask: Bool[np.ndarray, "h w"], alt: str) -> Picture:
        """White on black."""
        height, width = self.size(*mask.shape)
        return Picture(alt, width, height, _png(np.where(self._covers(mask), 255, 0).astype(np.uint8)))

    def heat(self, values: Float[np.ndarray, "h w"], alt: str) -> Picture:
        """From 0 in black to the map's own greatest value in light yellow."""
        shown = _HEAT(values / max(float(values.max()), 1e-12))[..., :3]
        return self.picture(np.round(shown * 255).astype(np.uint8), alt)

    def answer(
        self, found: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], photo: str, alt: str
    ) -> Picture:
        """The three cases on nothing, to be laid on the photograph of that name."""
        height, width = self.size(*truth.shape)
        cases = np.stack([self._covered(found & truth), self._covered(found & ~truth), self._covered(truth & ~found)])
        colours = np.array([_GREEN, _BLUE, _RED], np.uint8)[cases.argmax(0)]
        # What is crack or was called crack is shown wherever it suffices together; its greatest part gives the colour.
        rgba = np.dstack([colours, np.where(self._covers(found | truth), 255, 0).astype(np.uint8)])
        rgba[rgba[..., 3] == 0] = 0
        return Picture(alt, width, height, _png(cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA)), photo, answer=True)

    def _covers(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "H W"]:
        return self._covered(mask) > min(_COVERED, _HAIRLINE * self.side / max(mask.shape))

    def _covered(self, mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "H W"]:
        return self._shrunk(mask.astype(np.float32))

    def _shrunk(self, image: np.ndarray) -> np.ndarray:
        height, width = self.size(*image.shape[:2])
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    def _jpeg(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes:
        how = [cv2.IMWRITE_JPEG_QUALITY, self.quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        return cv2.imencode(".jpg", image[..., ::-1], how)[1].tobytes()


def _png(image: np.ndarray) -> bytes:
    # The highest compression is a tenth smaller, but takes minutes where an answer is full of specks.
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes()


class Budget:
    """Bytes of the page for the pictures of a figure, shared between its rows.

    Args:
      total: never exceeded, unless the smallest scale does not suffice.
      rows: how many come at most.
    """

    def __init__(self, total: int, rows: int):
        self._left, self._rows, self._rung = total, max(rows, 1), 0

    def fit(
        self, make: Callable[[Scale], tuple[Sequence[Picture | None], dict[str, bytes]]]
    ) -> tuple[Sequence[Picture | None], dict[str, bytes]]:
        """What `make` draws of one row, (pictures, photographs), at the largest scale that fits the row's share.

        A row starts at the scale of the row before it, so a figure is of one size but for rows that need a smaller.
        Rows differ: one may take half as much again as an equal part of what is left, so that it does not make all
        that follow smaller. Even if all did, something would be left for the last.
        """
        share = min(self._left, _UNEVEN * self._left / self._rows)
        while True:
            pictures, photos = make(Scale(*LADDER[self._rung]))
            taken = in_page(pictures, photos)
            if taken <= share or self._rung == len(LADDER) - 1:
                self._left, self._rows = max(0, self._left - taken), max(1, self._rows - 1)
                return pictures, photos
            self._rung += 1


def in_page(pictures: Sequence[Picture | None], photos: dict[str, bytes]) -> int:
    """Bytes that they take in the page: four letters for three bytes, and what stands around each."""
    parts = [one.image or b"" for one in pictures if one is not None] + list(photos.values())
    return sum(-(-len(part) // 3) * 4 + _AROUND for part in parts)
