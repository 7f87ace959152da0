"""One image -> geometry -> score map -> filter: the same path for evaluate, detect and calibration.

A score map is float32 (h, w) in [0, 1], higher = more crack-like, in the geometry that was asked for.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.methods.detection import Detection
from cracks_jax.methods.floor import BackgroundDifference, Darkness
from cracks_jax.methods.registry import Method
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.postprocess import filters
from cracks_jax.postprocess.tiles import pad_reflect, score_tiled
from cracks_jax.runtime.randomness import device_key

PAPER_SIDE = 256
# Reflected pixels around every image at native size: a network's zero padding leaves a bright rim in the error map,
# which would be scored as crack where a side happens to be a multiple already. The papers' 256x256 has none.
MARGIN = 16
Window = Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, "h w"]]


class Scorer:
    """A trained method with one way of detection: call it with an image, get its filtered score map.

    The same image gives the same map whatever was scored before it: dropout's key is the seed's, not the position's.
    """

    def __init__(self, method: Method, state: Any, how: Detection, *, seed: int = 0):
        self.method, self.how = method, how
        self._window = window_scorer(method, state, how, seed)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
        return smooth(self.raw(in_geometry(image, self.how)), self.how)

    def raw(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
        """The unfiltered map of an image that is in the geometry already."""
        multiple = self.method.side_multiple
        if multiple == 1:
            # The floor is a filter over the whole image: windows would change what its background is.
            return self._window(image)
        margin = MARGIN if self.how.geometry == "native" else 0
        height, width = (-(-(side + 2 * margin) // multiple) * multiple for side in image.shape[:2])
        if height * width > self.how.window_pixels:
            tile = max(self.how.tile // multiple, 1) * multiple
            return score_tiled(image, self._window, tile, min(self.how.overlap, tile // 2))
        padded, box = pad_reflect(image, multiple, margin)
        return np.ascontiguousarray(self._window(padded)[box.slices])


def window_scorer(method: Method, state: Any, how: Detection, seed: int = 0) -> Window:
    """One window -> its raw score map; compiled once per window size where there is a network."""
    if isinstance(method, (Darkness, BackgroundDifference)):
        floor = method
        return lambda image: floor.score(state, image[None].astype(np.float32) / 255, None, how)[0]

    # What happens to the map afterwards does not change the network's program: one compilation serves all of it.
    asked = Detection(
        batch_norm=how.batch_norm,
        dropout=how.dropout,
        restore=how.restore,
        error=how.error,
        stretch_input=how.stretch_input,
    )
    score = _compiled(method, asked, seed)
    return lambda image: np.asarray(score(state, np.ascontiguousarray(image)), np.float32)


@lru_cache(maxsize=8)
def _compiled(network: Segmentation | Restoration, how: Detection, seed: int) -> Callable[..., jax.Array]:
    key = device_key(seed, "score", 0)

    @jax.jit
    def score(state: Any, image: jax.Array) -> jax.Array:
        return network.score(state, image[None].astype(jnp.float32) / 255, key, how)[0]

    return score


def in_geometry(image: UInt8[np.ndarray, "h w 3"], how: Detection) -> UInt8[np.ndarray, "h w 3"]:
    """The image as detection feeds it: itself, or bilinear at 256x256."""
    if how.geometry == "native":
        return image
    return cv2.resize(image, (PAPER_SIDE, PAPER_SIDE), interpolation=cv2.INTER_LINEAR)


def mask_in_geometry(mask: Bool[np.ndarray, "h w"], how: Detection) -> Bool[np.ndarray, "h w"]:
    """The mask at the size at which scores are compared with it: its own, or nearest at 256x256."""
    if how.geometry == "native":
        return mask
    size = (PAPER_SIDE, PAPER_SIDE)
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def smooth(score: Float[np.ndarray, "h w"], how: Detection) -> Float[np.ndarray, "h w"]:
    """The score map behind detection's filter; on 8 bit where the error map is the authors'."""
    if how.filter == "none":
        return score
    if how.filter == "gaussian":
        return np.clip(filters.gaussian(score, how.filter_sigma), 0, 1)
    if how.error == "authors":
        grey = np.round(score * 255).astype(np.uint8)
        return filters.bilateral_uint8(grey).astype(np.float32) / 255
    return np.clip(filters.bilateral(score), 0, 1)
