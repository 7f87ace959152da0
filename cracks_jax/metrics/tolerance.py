"""Counts that forgive a distance, and counts of centre lines: what pixel-exact metrics punish in thin cracks.

Everything is of one decision against one mask and adds up over images. Distances are Euclidean, in pixels, from centre
to centre; a pixel is within r of a mask where some pixel of the mask is at most r away.
"""

import functools
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from cracks_jax.ops.skeleton import skeleton

Mask = Bool[np.ndarray, "h w"]


def within(mask: Mask, radius: int) -> Mask:
    """The pixels that lie at most `radius` pixels from the mask, the mask among them."""
    # A border of nothing: OpenCV's own would do as well, but is not promised to be zero for every kernel.
    return cv2.dilate(mask.astype(np.uint8), _disk(radius), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


@functools.cache
def _disk(radius: int) -> UInt8[np.ndarray, "k k"]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (y * y + x * x <= radius * radius).astype(np.uint8)


def near_counts(pred: Mask, mask: Mask, radius: int) -> Int64[np.ndarray, "2"]:
    """Predicted pixels within `radius` of a crack; crack pixels within `radius` of a prediction."""
    return np.array([_both(pred, within(mask, radius)), _both(mask, within(pred, radius))], np.int64)


def centre_line_counts(pred: Mask, mask: Mask, radius: int) -> tuple[Int64[np.ndarray, "3"], Int64[np.ndarray, "4"]]:
    """What clIoU and clDice are made of, from one skeleton of each mask.

    Returns:
      (tp, fp, fn) of the centre lines: true ones within `radius` of a predicted one, predicted ones that are within
      `radius` of no true one, true ones within `radius` of no predicted one (OmniCrack30k's reading).
      (predicted centre line, of it inside the true mask, true centre line, of it inside the prediction).
    """
    lines, truth = skeleton(pred), skeleton(mask)
    predicted, cracked = int(lines.sum()), int(truth.sum())
    found = _both(truth, within(lines, radius))
    beside = predicted - _both(lines, within(truth, radius))
    inside: list[Any] = [predicted, _both(lines, mask), cracked, _both(truth, pred)]
    return np.array([found, beside, cracked - found], np.int64), np.array(inside, np.int64)


def _both(a: Mask, b: Mask) -> int:
    return int(np.count_nonzero(a & b))
