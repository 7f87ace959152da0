"""Bilinear resizing without antialiasing, as PyTorch's `interpolate` does it. Channels last, any dtype."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bilinear(
    x: Float[Array, "b h w c"], size: tuple[int, int], *, align_corners: bool = False
) -> Float[Array, "b H W c"]:
    """Resizes to `size` = (height, width); the values stay in the range of the input's.

    Args:
      align_corners: True puts the corner pixels' centres on each other; False (the default) the images'
        edges.
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"cannot resize to {height}x{width}: each side must be at least 1 pixel")
    # Two small matrix products: gathering would cost a scatter in the gradient, which is slow on every
    # device.
    precision = jax.lax.Precision.HIGHEST
    if height != x.shape[1]:
        rows = jnp.asarray(_weights(x.shape[1], height, align_corners), x.dtype)
        x = jnp.einsum("bhwc,Hh->bHwc", x, rows, precision=precision)
    if width != x.shape[2]:
        columns = jnp.asarray(_weights(x.shape[2], width, align_corners), x.dtype)
        x = jnp.einsum("bhwc,Ww->bhWc", x, columns, precision=precision)
    return x


def _weights(old: int, new: int, align_corners: bool) -> np.ndarray:
    """The (new, old) matrix of one axis: two weights a row that sum to one."""
    at = np.arange(new, dtype=np.float64)
    if align_corners:
        at = at * ((old - 1) / (new - 1)) if new > 1 else at
    else:
        at = (at + 0.5) * (old / new) - 0.5
    at = np.clip(at, 0, old - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, old - 1)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(new), high), at - low)
    return matrix
