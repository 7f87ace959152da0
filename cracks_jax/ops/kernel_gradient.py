"""Ordinary convolution whose kernel gradient is fast on a CPU too.

XLA writes a convolution's kernel gradient as a convolution with the whole image for a kernel. On a CPU that runs at 8
to 25 GFLOP/s a core for 1x1 kernels and for wide layers on large maps, where one matrix product per tap reaches 60.
The values are the same sums in another order. Other platforms keep XLA's form. Channels last.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_NHWC = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]

# From so many input channels on, products per tap beat XLA's form for kernels larger than 1x1 (measured on two cores:
# 64 channels 46 against 26 ms, 256 channels 227 against 614 ms).
_WIDE = 192


def conv_general_dilated(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k l i o"],
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    **others: Any,
) -> Float[Array, "b H W o"]:
    """`jax.lax.conv_general_dilated` for `flax.linen.Conv(conv_general_dilated=...)`: same value, same gradients.

    Explicitly padded two-dimensional convolutions without groups or input dilation get the fast kernel gradient; all
    others are passed on as they are.
    """
    rates = tuple(rhs_dilation or (1, 1))
    plain = x.ndim == 4 and feature_group_count == 1 and set(lhs_dilation or (1,)) == {1}
    if not plain or isinstance(padding, str) or not _worthwhile(kernel.shape):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
            **others,
        )
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _conv(x, kernel, tuple(window_strides), pads, rates, precision)


def _worthwhile(shape: tuple[int, ...]) -> bool:
    return shape[:2] == (1, 1) or shape[2] >= _WIDE


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _conv(
    x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads, rates: tuple[int, ...], precision: Any
) -> Array:
    return lax.conv_general_dilated(
        x, kernel, strides, pads, rhs_dilation=rates, dimension_numbers=_NHWC, precision=precision
    )


def _forward(x: Array, kernel: Array, *how: Any) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, *how), (x, kernel)


def _backward(
    strides: tuple[int, ...],
    pads: Pads,
    rates: tuple[int, ...],
    precision: Any,
    saved: tuple[Array, Array],
    dy: Array,
) -> tuple[Array, Array]:
    x, kernel = saved
    plain = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        rhs_dilation=rates,
        dimension_numbers=_NHWC,
        precision=precision,
    )
    (dx,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(dy)

    def by_xla(x: Array, dy: Array) -> Array:
        return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(dy)[0]

    def by_products(x: Array, dy: Array) -> Array:
        return _products(x, dy, kernel.shape, strides, pads, rates, precision)

    return dx, lax.platform_dependent(x, dy, cpu=by_products, default=by_xla)


_conv.defvjp(_forward, _backward)


def _products(
    x: Array,
    dy: Array,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    pads: Pads,
    rates: tuple[int, ...],
    precision: Any,
) -> Array:
    """For each tap of the kernel, the inputs that it saw times the output's gradient."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    (_, height, width, features), channels = dy.shape, shape[2]
    flat = dy.reshape(-1, features)
    taps = []
    for row in range(shape[0]):
        for column in range(shape[1]):
            top, left = row * rates[0], column * rates[1]
            bottom, right = top + strides[0] * (height - 1) + 1, left + strides[1] * (width - 1) + 1
            seen = x[:, top : bottom : strides[0], left : right : strides[1]].reshape(-1, channels)
            taps.append(lax.dot_general(seen, flat, (((0,), (0,)), ((), ())), precision=precision))
    return jnp.stack(taps).reshape(shape)
