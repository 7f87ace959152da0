"""Colour augmentation on the device: dm-pix, vmapped over split keys so that each image gets its own draw.

Images are RGB, float32 in [0, 1], NHWC, and leave as they came. The draws are uniform. dm-pix draws one
number for whatever it is given, hence the vmap. `dm_pix.random_saturation` raises under strict dtype
promotion: keep it out of strict fixtures.
"""

from dataclasses import dataclass

import dm_pix as pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Colour:
    """How far colours move: CrackSeg's "color enhancement" (the amounts are our reading).

    Attributes:
      brightness: largest shift added to every channel, in units of the [0, 1] range.
      contrast: the distance to the channel's mean is multiplied by a factor in [1 - contrast, 1 + contrast).
      saturation: the HSV saturation is multiplied by a factor in [1 - saturation, 1 + saturation).
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"colour {name} is {value!r}; it must lie between 0 (off) and 1")


def jitter_colour(
    key: Array, images: Float[Array, "b h w 3"], strength: Colour | None = None
) -> Float[Array, "b h w 3"]:
    """Brightness, then contrast, then saturation, then one clip to [0, 1]; a strength of 0 skips its step.

    The clip comes last, as dm-pix asks for, so that no step loses what the next would bring back.
    """
    chosen = Colour() if strength is None else strength
    keys = jax.random.split(key, images.shape[0])
    return jax.vmap(lambda k, image: _jitter_one(k, image, chosen))(keys, images)


def _jitter_one(key: Array, image: Float[Array, "h w 3"], strength: Colour) -> Float[Array, "h w 3"]:
    # Three keys whatever is on: switching one step off leaves the other draws as they were.
    brightness, contrast, saturation = jax.random.split(key, 3)
    if strength.brightness:
        image = pix.random_brightness(brightness, image, strength.brightness)
    if strength.contrast:
        image = pix.random_contrast(contrast, image, 1 - strength.contrast, 1 + strength.contrast)
    if strength.saturation:
        image = pix.random_saturation(saturation, image, 1 - strength.saturation, 1 + strength.saturation)
    return jnp.clip(image, 0.0, 1.0)
