"""Lines one pixel wide in the middle of a mask, in time that grows with its pixels however thick it is.

scikit-image's `skeletonize` takes a layer of pixels off at a time and looks at the whole picture for each layer: cheap
for cracks, minutes for a large photograph that is crack almost everywhere. Such a mask is thinned first by looking only
at pixels whose neighbours have changed, and scikit-image has the last word there too.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from skimage.morphology import skeletonize

# A mask with more crack than this, and crack on more than this share of it, is no picture of cracks.
MANY_PIXELS = 2**19
LARGE_SHARE = 0.25
# Clockwise from above, (dy, dx): neighbour k is bit k of a pixel's code.
_AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def skeleton(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The skeleton of a mask: scikit-image's, pixel for pixel, unless the mask is large and full."""
    padded = np.pad(np.asarray(mask, np.uint8), 1)
    area = np.count_nonzero(padded)
    if area > MANY_PIXELS and area > LARGE_SHARE * mask.size:
        _thin(padded)
    return skeletonize(padded[1:-1, 1:-1] > 0)


def _thin(mask: UInt8[np.ndarray, "h w"]) -> None:
    """Thins a mask in place by the two passes of Zhang and Suen (1984) until nothing goes; its border is empty."""
    flat = mask.reshape(-1)
    around = np.array([dy * mask.shape[1] + dx for dy, dx in _AROUND])
    # A pixel with all its neighbours goes in neither pass.
    edge = np.flatnonzero(mask > cv2.erode(mask, np.ones((3, 3), np.uint8)))
    waiting = [edge, edge]  # for each pass, the pixels whose neighbours have changed since it last looked at them
    while waiting[0].size or waiting[1].size:
        for now, goes in enumerate(_GOES):
            looked = waiting[now]
            gone = looked[(flat[looked] > 0) & goes[_codes(flat, looked, around)]]
            flat[gone] = 0
            touched = (gone[:, None] + around).reshape(-1)
            touched = np.unique(touched[flat[touched] > 0])
            waiting[now] = touched
            waiting[1 - now] = np.union1d(waiting[1 - now], touched)


def _codes(
    flat: UInt8[np.ndarray, " n"], places: Int[np.ndarray, " k"], around: Int[np.ndarray, " 8"]
) -> UInt8[np.ndarray, " k"]:
    """The eight neighbours of each place as bits."""
    codes = np.zeros(places.size, np.uint8)
    for bit, step in enumerate(around):
        codes |= flat[places + step] << np.uint8(bit)
    return codes


def _goes(first_pass: bool) -> Bool[np.ndarray, " 256"]:
    """Which codes go in a pass: pixels of an edge seen from two sides, none that joins two parts or ends a line."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    up, right, down, left = bits[:, 0], bits[:, 2], bits[:, 4], bits[:, 6]
    count = bits.sum(1)
    joins_nothing = (bits < np.roll(bits, -1, 1)).sum(1) == 1  # from 0 to 1 once on the way around
    sides = (up & right & down, right & down & left) if first_pass else (up & right & left, up & down & left)
    return (count >= 2) & (count <= 6) & joins_nothing & (sides[0] == 0) & (sides[1] == 0)


_GOES = (_goes(True), _goes(False))
