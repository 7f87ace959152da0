"""SqueezeNet 1.1 (Iandola et al. 2016) as a frozen extractor of features for the style loss.

Images in: RGB, standardised with the ImageNet mean and deviation (`ops.colour.imagenet_standardise`).
Submodules: `conv0`, `fire2` to `fire9` (each `squeeze`, `expand1x1`, `expand3x3`), `conv25` the classifier.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cracks_jax.layers.blocks import Conv

SQUEEZE = {2: 16, 3: 16, 4: 32, 5: 32, 6: 48, 7: 48, 8: 64, 9: 64}
EXPAND = {2: 64, 3: 64, 4: 128, 5: 128, 6: 192, 7: 192, 8: 256, 9: 256}
FEATURES = ("fire3", "fire5", "fire8", "fire9")
CLASSES = 1000
MIN_SIDE = 17

_POOLED = (3, 5)  # a pooling follows these fires, and the stem


class Fire(nn.Module):
    """Squeeze with 1x1, then 1x1 and 3x3 side by side, 1x1 first; a ReLU after each convolution.

    Attributes:
      squeeze: channels of the 1x1 squeeze.
      expand: channels of each of the two expansions; the output has twice as many.
    """

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        x = nn.relu(Conv(self.squeeze, (1, 1), name="squeeze")(x))
        ones = nn.relu(Conv(self.expand, (1, 1), name="expand1x1")(x))
        threes = nn.relu(Conv(self.expand, (3, 3), padding=1, name="expand3x3")(x))
        return jnp.concatenate([ones, threes], -1)


class SqueezeNetFeatures(nn.Module):
    """Activations after fire 3, 5, 8 and 9, at about 1/8, 1/16, 1/16 and 1/16 of the image.

    Attributes:
      classifier: also give `conv25`, the map of class scores after its ReLU (b, h', w', 1000); the published
        network classifies by their mean over the image.
    """

    classifier: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b _ _ _"]]:
        """Standardised RGB -> {"fire3": (b, h', w', 128), "fire5": 256, "fire8": 512, "fire9": 512}.

        Raises:
          ValueError: not (b, h, w, 3), or smaller than 17 pixels, where a pooling has no window.
        """
        if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < MIN_SIDE:
            raise ValueError(
                f"image has shape {x.shape}; SqueezeNet takes (b, h, w, 3) with sides of at least {MIN_SIDE}"
                " pixels (resize the image)"
            )
        features: dict[str, Array] = {}
        x = nn.relu(Conv(64, (3, 3), (2, 2), padding="VALID", name="conv0")(x))
        x = _pool(x)
        for fire in SQUEEZE:
            name = f"fire{fire}"
            x = Fire(SQUEEZE[fire], EXPAND[fire], name=name)(x)
            if name in FEATURES:
                features[name] = x
            if fire in _POOLED:
                x = _pool(x)
        if self.classifier:
            features["conv25"] = nn.relu(Conv(CLASSES, (1, 1), name="conv25")(x))
        return features


def _pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """3x3 stride-2 maximum that rounds the size up: the last window may hang over the end."""
    over = [(side - 3) % 2 for side in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), padding=[(0, extra) for extra in over])
