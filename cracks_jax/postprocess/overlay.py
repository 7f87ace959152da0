"""A photograph with what was found in it: for eyes, not for measuring.

Images uint8 (h, w, 3) RGB, masks (h, w), nonzero = crack.
"""

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

# Rare on roads: neither asphalt nor white, yellow or red paint comes near magenta.
COLOUR = (255, 0, 144)
# The crack itself stays visible under the colour.
OPACITY = 0.5
# The outline is a pixel wide per so many pixels of the longer side: a whole photograph is looked at on one screen.
PIXELS_PER_OUTLINE = 1000


def overlay(rgb: UInt8[np.ndarray, "h w 3"], mask: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph with the mask tinted and, outside the mask, a solid outline around it.

    The outline makes a crack one pixel wide three pixels or more, so that it survives being shown small. Without
    crack the photograph comes back as it is; the arguments are never changed.

    Raises:
      ValueError: the mask is not of the photograph's size.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or mask.shape != rgb.shape[:2]:
        raise ValueError(f"photograph {rgb.shape} and mask {mask.shape}; expected (h, w, 3) and the same (h, w)")
    crack = (np.asarray(mask) != 0).astype(np.uint8)
    around = cv2.dilate(crack, _disc(outline_width(rgb.shape[0], rgb.shape[1]))) > crack
    out = np.where(crack[..., None], _tinted(rgb), rgb)
    out[around] = COLOUR
    return out


def _tinted(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    # A table keeps it at 8 bits: as floats, a mask that fills a large photograph would take most of a gigabyte.
    levels = (1 - OPACITY) * np.arange(256)[:, None] + OPACITY * np.asarray(COLOUR)
    return cv2.LUT(np.ascontiguousarray(rgb), np.round(levels).astype(np.uint8)[None])


def outline_width(height: int, width: int) -> int:
    """Pixels of outline on each side of a crack: 1 up to 1000 px, 4 at 4000x3000."""
    return -(-max(height, width) // PIXELS_PER_OUTLINE)


def _disc(radius: int) -> UInt8[np.ndarray, "d d"]:
    if radius == 1:
        return np.ones((3, 3), np.uint8)  # OpenCV's disc of radius 1 is a cross, which leaves diagonal cracks open
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
