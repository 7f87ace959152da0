"""VGG-19 (Simonyan & Zisserman 2014) as a frozen extractor of features for the style loss.

Images in: RGB, standardised with the ImageNet mean and deviation (`ops.colour.imagenet_standardise`).
Submodules `conv1_1` to `conv5_2`: the later convolutions and the classifier give nothing that is asked for.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from cracks_jax.layers.blocks import Conv

# Channels and convolutions of each block.
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 2))
FEATURES = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")
MIN_SIDE = 16


class VGG19Features(nn.Module):
    """Activations after the ReLUs 2_2, 3_4, 4_4 and 5_2, at 1/2, 1/4, 1/8 and 1/16 of the image."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b _ _ _"]]:
        """Standardised RGB -> {"relu2_2": (b, h//2, w//2, 128), "relu3_4": 256, "relu4_4": 512,
        "relu5_2": 512}.

        Raises:
          ValueError: not (b, h, w, 3), or smaller than 16 pixels, where a pooling has no window.
        """
        if x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < MIN_SIDE:
            raise ValueError(
                f"image has shape {x.shape}; VGG-19 takes (b, h, w, 3) with sides of at least {MIN_SIDE}"
                " pixels (resize the image)"
            )
        features: dict[str, Array] = {}
        for block, (width, convolutions) in enumerate(BLOCKS, 1):
            if block > 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for i in range(1, convolutions + 1):
                x = nn.relu(Conv(width, (3, 3), padding=1, name=f"conv{block}_{i}")(x))
                if f"relu{block}_{i}" in FEATURES:
                    features[f"relu{block}_{i}"] = x
        return features
