"""The floor: how far darkness alone goes. No network, no training, an empty state and every method's interface.

`background_difference` at s_bg = 60, s = 2 reaches pooled F1 80 on DeepCrack: a network below it has learned less
than darkness. Images are float (b, h, w, 3) RGB in [0, 1]; scores float32 (b, h, w) in [0, 1].
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from cracks_jax.methods.detection import Detection


@dataclass(frozen=True)
class Darkness:
    """Score = 1 - grey, smoothed by a Gaussian of `smooth` px."""

    smooth: float = 2.0

    side_multiple = 1

    def init(self, key: Any, batch: Any) -> dict[str, Any]:
        return {}

    def train_step(self, state: Any, batch: Any, hyper: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        """Nothing to learn: the state comes back as it was."""
        return state, {}

    def score(
        self, state: Any, images: Float[np.ndarray, "b h w 3"], key: Any, how: Detection
    ) -> Float[np.ndarray, "b h w"]:
        return np.stack([blur(1 - grey(image), self.smooth) for image in images])


@dataclass(frozen=True)
class BackgroundDifference:
    """Score = blur(clip(blur(grey, background) - grey, 0), smooth): darker than the surroundings (the floor)."""

    background: float = 60.0
    smooth: float = 2.0

    side_multiple = 1

    def init(self, key: Any, batch: Any) -> dict[str, Any]:
        return {}

    def train_step(self, state: Any, batch: Any, hyper: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        """Nothing to learn: the state comes back as it was."""
        return state, {}

    def score(
        self, state: Any, images: Float[np.ndarray, "b h w 3"], key: Any, how: Detection
    ) -> Float[np.ndarray, "b h w"]:
        return np.stack([self._score_one(grey(image)) for image in images])

    def _score_one(self, image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        return blur(np.clip(blur(image, self.background) - image, 0, None), self.smooth)


def grey(image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """ITU-R BT.601 luma, as OpenCV and the authors' code have it."""
    return np.asarray(image, np.float32) @ np.asarray([0.299, 0.587, 0.114], np.float32)


def blur(image: Float[np.ndarray, "h w"], sigma: float) -> Float[np.ndarray, "h w"]:
    return cv2.GaussianBlur(np.ascontiguousarray(image, np.float32), (0, 0), sigma)
