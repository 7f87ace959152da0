"""Smoothing of score maps before the threshold: float32 or uint8 (h, w) in, the same out.

Borders are reflected without repeating the outermost pixel (OpenCV's reflect-101).
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8


def gaussian(score: Float[np.ndarray, "h w"], sigma: float) -> Float[np.ndarray, "h w"]:
    """Gaussian blur, the kernel cut at 4 sigma (radius round(4 sigma), as SciPy); sigma 0 changes nothing.

    Args:
      score: float32.
      sigma: in pixels.

    Raises:
      ValueError: sigma is negative or not finite.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; it must be 0 (no blur) or a positive number of pixels")
    radius = int(4 * sigma + 0.5)
    score = np.ascontiguousarray(score, np.float32)
    if radius == 0:
        return score
    # The kernel's size is given: OpenCV's own choice depends on the depth of the image.
    size = (2 * radius + 1, 2 * radius + 1)
    return cv2.GaussianBlur(score, size, sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT_101)


def bilateral(
    score: Float[np.ndarray, "h w"], d: int = 25, sigma_color: float = 450.0, sigma_space: float = 15.0
) -> Float[np.ndarray, "h w"]:
    """UP-CrackNet's bilateral filter on a float32 map in [0, 1] (preset `paper`, UPCRACKNET.md 6b).

    The map is multiplied by 255, because sigma_color belongs to that scale and to a colour distance summed over three
    equal channels; a disc of diameter d takes part.
    """
    return _bilateral_grey(np.asarray(score, np.float32) * np.float32(255), d, sigma_color, sigma_space) / 255


def bilateral_uint8(
    grey: UInt8[np.ndarray, "h w"], d: int = 25, sigma_color: float = 450.0, sigma_space: float = 15.0
) -> UInt8[np.ndarray, "h w"]:
    """The same on a grey uint8 image, as the authors' code runs it (preset `authors`)."""
    if grey.dtype != np.uint8:
        raise ValueError(f"the grey image is {grey.dtype}; it must be uint8 (`bilateral` takes floats)")
    return _bilateral_grey(grey, d, sigma_color, sigma_space)


def _bilateral_grey(grey: np.ndarray, d: int, sigma_color: float, sigma_space: float) -> np.ndarray:
    # Three equal channels are three times as far apart as one: a third of sigma_color on one channel is the same, on
    # grey levels to the last bit, and six times as fast there.
    grey = np.ascontiguousarray(grey)
    return cv2.bilateralFilter(grey, d, sigma_color / 3, sigma_space, borderType=cv2.BORDER_REFLECT_101)
