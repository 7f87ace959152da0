"""How a trained method's scores become masks: settings that are chosen after training, for one evaluation.

They are an argument of `score`, not fields of the method, because one trained state is scored in many ways.
"""

from dataclasses import dataclass
from typing import Literal

from cracks_jax.errors import UsageError
from cracks_jax.postprocess.thresholds import parse_rule

# Its kernel is eight times as wide: beyond this there is no crack left, and OpenCV fails.
MOST_SIGMA = 1000


@dataclass(frozen=True)
class Detection:
    """From an image to a mask.

    Attributes:
      geometry: `native` (padded by reflection or tiled, scored at the mask's own size) or `resize256` (the papers').
      rule: threshold rule: otsu, validation, undamaged[:Q] or a number in [0, 1] (crack = score > threshold).
      batch_norm: `batch` takes each window's own statistics, `running` the averages of training.
      dropout: dropout active while scoring (UP-CrackNet, the authors' code).
      restore: what UP-CrackNet restores: the `whole` image, nothing hidden (the paper), or the `hidden` parts alone:
        under each of the six training masks the removed squares are restored from what is kept, so that every pixel is
        judged without having been seen, once for each size of square; the mean of the three is the restored image.
      error: UP-CrackNet's error map: `absolute` difference of greys, `darker` (only what is darker than restored: a
        crack is, a bright stone is not), `square` (eq. 1), or `authors` (each grey and the difference stretched to its
        own range, 8 bit).
      stretch_input: stretch each image to the full range before the network sees it (the authors' code).
      filter: none, gaussian (`filter_sigma` px) or bilateral (d 25, sigma colour 450, sigma space 15).
      tile: side of a window where an image is larger than `window_pixels`; its multiple is the network's business.
      overlap: pixels that neighbouring tiles share; seams are blended over them.
      window_pixels: images up to this many pixels (after padding) are one window.
    """

    geometry: Literal["native", "resize256"] = "native"
    rule: str = "0.5"
    batch_norm: Literal["batch", "running"] = "running"
    dropout: bool = False
    restore: Literal["whole", "hidden"] = "whole"
    error: Literal["absolute", "darker", "square", "authors"] = "absolute"
    stretch_input: bool = False
    filter: Literal["none", "gaussian", "bilateral"] = "none"
    filter_sigma: float = 2.0
    tile: int = 1024
    overlap: int = 128
    window_pixels: int = 2**20

    def __post_init__(self) -> None:
        parse_rule(self.rule)
        if self.tile < 64:
            raise UsageError(f"detection.tile is {self.tile}; a tile has at least 64 px (1024 is the default)")
        if not 0 <= self.overlap < self.tile:
            raise UsageError(f"detection.overlap is {self.overlap}; expected 0 to below the tile's {self.tile} px")
        if self.window_pixels < 1:
            raise UsageError(f"detection.window_pixels is {self.window_pixels}; expected at least 1")
        if not 0 < self.filter_sigma <= MOST_SIGMA:
            raise UsageError(
                f"detection.filter_sigma is {self.filter_sigma}; expected more than 0, and at most {MOST_SIGMA} px"
            )
