"""Forms of a convolution that are fast on a processor, each with both gradients; all compute the same sums.

XLA's own convolutions keep a processor's cores at half to three quarters of their rate forward, and at a tenth to a
third in the gradients of strided and of wide layers. These forms are matrix products with a little rearranging:

  points     1x1 kernels: one product
  winograd   2x2 to 5x5 kernels between many channels: fewer multiplications (ops/winograd.py)
  columns    few input channels, or few positions: all that an output sees side by side, then one product
  scattered  few output channels: all that an input gives by one product, then added up

Strided kernels become stride 1 by `halved`, dilated ones dilation 1 by `phases`. Channels last.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from cracks_jax.ops import winograd

Pads = tuple[tuple[int, int], tuple[int, int]]
Form = Callable[[Array, Array], Array]


class Geometry(NamedTuple):
    """How a kernel moves over an image: strides, padding, dilation; and the precision of the products."""

    strides: tuple[int, int]
    pads: Pads
    rates: tuple[int, int] = (1, 1)
    precision: Any = None


# Measured on two cores with AVX-512, values and both gradients together, batch 4: EXPERIMENT in experiments/README.md.
_NARROW_INPUT = 24
_NARROW_OUTPUT = 12
_FEW_POSITIONS = 256
_WIDE = 48


def form_for(x: tuple[int, ...], kernel: tuple[int, ...], how: Geometry) -> Form | None:
    """The fastest form known for these shapes; None where it is XLA's own."""
    side = kernel[0]
    if kernel[1] != side or how.strides[0] != how.strides[1] or how.rates[0] != how.rates[1]:
        return None
    if side == 1:
        return functools.partial(points, how=how)
    if how.rates == (1, 1) and _few(x, how):
        return functools.partial(columns, how=how)
    if how.strides == (2, 2) and side == 4 and how.rates == (1, 1):
        inner = _at_stride_1((2, 2, 4 * kernel[2], kernel[3]), Geometry((1, 1), _NO_PADS, precision=how.precision))
        return None if inner is None else functools.partial(_halved, form=inner, how=how)
    if how.strides != (1, 1):
        return None
    if how.rates == (1, 1):
        return _at_stride_1(kernel, how)
    padded = all(pad == (how.rates[0] * (side - 1) // 2,) * 2 for pad in how.pads)
    if side in winograd.OUTPUTS and side % 2 and padded and min(kernel[2:]) >= _WIDE:
        return functools.partial(_phases, how=how)
    return None


def _at_stride_1(kernel: tuple[int, ...], how: Geometry) -> Form | None:
    side, _, inputs, outputs = kernel
    if inputs <= _NARROW_INPUT:
        return functools.partial(columns, how=how)
    if outputs <= _NARROW_OUTPUT:
        return functools.partial(scattered, how=how)
    if side in winograd.OUTPUTS and min(inputs, outputs) >= _WIDE:
        return functools.partial(winograd.convolve, pads=how.pads, precision=how.precision)
    return None


def _few(x: tuple[int, ...], how: Geometry) -> bool:
    return x[0] * x[1] * x[2] <= _FEW_POSITIONS * how.strides[0] * how.strides[1]


# ------------------------------------------------------------------------------------------------ forms


def points(x: Array, kernel: Array, how: Geometry) -> Array:
    """1x1 kernels at any stride: (b, h, w, in) times (in, out)."""
    x = jnp.pad(x, ((0, 0), *how.pads, (0, 0)))[:, :: how.strides[0], :: how.strides[1]]
    return _product(x, kernel[0, 0], how.precision)


def columns(x: Array, kernel: Array, how: Geometry) -> Array:
    """The pixels that each output sees, side by side, times the kernel as one matrix. At any stride."""
    k, m, inputs, outputs = kernel.shape
    down, across = how.strides
    x = jnp.pad(x, ((0, 0), *how.pads, (0, 0)))
    bottom, right = x.shape[1] - k + 1, x.shape[2] - m + 1
    seen = [x[:, i : i + bottom : down, j : j + right : across] for i in range(k) for j in range(m)]
    return _product(jnp.concatenate(seen, -1), kernel.reshape(k * m * inputs, outputs), how.precision)


def scattered(x: Array, kernel: Array, how: Geometry) -> Array:
    """What each pixel gives to the outputs around it, by one product, then added where it belongs. Stride 1."""
    k, m, inputs, outputs = kernel.shape
    x = jnp.pad(x, ((0, 0), *how.pads, (0, 0)))
    height, width = x.shape[1] - k + 1, x.shape[2] - m + 1
    given = _product(x, kernel.transpose(2, 0, 1, 3).reshape(inputs, -1), how.precision)
    corners = [(i, j) for i in range(k) for j in range(m)]
    parts = [
        given[:, i : i + height, j : j + width, n * outputs : (n + 1) * outputs] for n, (i, j) in enumerate(corners)
    ]
    return functools.reduce(jnp.add, parts)


_NO_PADS = ((0, 0), (0, 0))


def _halved(x: Array, kernel: Array, form: Form, how: Geometry) -> Array:
    """4x4 kernels at stride 2 as 2x2 kernels at stride 1: each 2x2 block is a pixel of four times the channels."""
    _, _, inputs, outputs = kernel.shape
    zero, padding = jnp.zeros((), x.dtype), [(0, 0, 0)]
    for length, (low, high) in zip(x.shape[1:3], how.pads, strict=True):
        blocks = (length + low + high) // 2  # a last row that fills no block is seen by no output
        padding.append((low, 2 * blocks - low - length, 0))
    x = lax.pad(x, zero, [*padding, (0, 0, 0)])
    kernel = kernel.reshape(2, 2, 2, 2, inputs, outputs).transpose(0, 2, 1, 3, 4, 5)
    return form(space_to_depth(x), kernel.reshape(2, 2, 4 * inputs, outputs))


def _phases(x: Array, kernel: Array, how: Geometry) -> Array:
    """Dilation r as dilation 1: the pixels of one phase, r apart, are an image of their own."""
    b, h, w, c = x.shape
    r, reach = how.rates[0], (kernel.shape[0] - 1) // 2
    down, across = -(-h // r), -(-w // r)
    x = jnp.pad(x, ((0, 0), (0, down * r - h), (0, across * r - w), (0, 0)))
    x = x.reshape(b, down, r, across, r, c).transpose(0, 2, 4, 1, 3, 5).reshape(b * r * r, down, across, c)
    y = winograd.convolve(x, kernel, ((reach, reach), (reach, reach)), how.precision)
    y = y.reshape(b, r, r, down, across, -1).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(b, down * r, across * r, -1)[:, :h, :w]


def transposed(x: Array, kernel: Array, precision: Any = None) -> Array:
    """Transposed convolution, kernel 4x4 and stride 2: a 2x2 kernel with four times the outputs.

    Place q, between the pixels q - 1 and q of the padded image, decides the output rows 2q - 1 and 2q, and columns
    alike: every tap of the kernel falls to one pixel of that block.
    """
    b, h, w, inputs = x.shape
    outputs = kernel.shape[-1]
    # Tap 2a + p of an axis meets input a and writes parity p; parity 1 comes first in a block.
    taps = kernel.reshape(2, 2, 2, 2, inputs, outputs)
    how = Geometry((1, 1), ((1, 1), (1, 1)), precision=precision)
    if _few(x.shape, how):
        return _parity_columns(x, taps, precision)
    blocks = taps[:, ::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, 4 * outputs)
    form = _at_stride_1(blocks.shape, how) or functools.partial(plain, how=how)
    return depth_to_space(form(x, blocks))[:, 1 : 2 * h + 1, 1 : 2 * w + 1]


def _parity_columns(x: Array, taps: Array, precision: Any) -> Array:
    """The same for few positions, each parity by itself: rearranging a large kernel would take longer than using it."""
    parities = [
        columns(x, taps[:, p, :, q], Geometry((1, 1), ((1 - p, p), (1 - q, q)), precision=precision))
        for p in (0, 1)
        for q in (0, 1)
    ]
    return depth_to_space(jnp.concatenate(parities, -1))


# ---------------------------------------------------------------------------------------------- helpers


def plain(x: Array, kernel: Array, how: Geometry) -> Array:
    """XLA's own form."""
    return lax.conv_general_dilated(
        x,
        kernel,
        how.strides,
        how.pads,
        rhs_dilation=how.rates,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=how.precision,
    )


def space_to_depth(x: Array) -> Array:
    """(b, 2h, 2w, c) -> (b, h, w, 4c): each 2x2 block row by row."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def depth_to_space(x: Array) -> Array:
    """(b, h, w, 4c) -> (b, 2h, 2w, c): the inverse."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


def _product(x: Array, matrix: Array, precision: Any) -> Array:
    rows = x.reshape(-1, x.shape[-1])
    return lax.dot_general(rows, matrix, (((1,), (0,)), ((), ())), precision).reshape(*x.shape[:-1], -1)
