"""Colour as the pretrained networks want it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_standardise(x: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """RGB in [0, 1] to zero mean and unit deviation over ImageNet, channel by channel; the dtype stays."""
    if x.shape[-1] != 3:
        raise ValueError(f"image has {x.shape[-1]} channels; standardising wants RGB in the last axis")
    shape = (1,) * (x.ndim - 1) + (3,)
    mean = jnp.asarray(IMAGENET_MEAN, x.dtype).reshape(shape)
    std = jnp.asarray(IMAGENET_STD, x.dtype).reshape(shape)
    return (x - mean) / std
