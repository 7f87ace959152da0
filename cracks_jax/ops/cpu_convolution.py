"""Forms of a convolution that are fast on a processor, each with both gradients; all compute the same sums.

XLA's own convolutions keep a processor's cores at half to three quarters of their rate forward, and at a tenth to a
third in the gradients of strided and of wide layers. These forms are matrix products with a little rearranging:

  points     1x1 kernels: one product
  winograd   2x2 to 5x5 kernels between many channels: fewer multiplications (ops/winograd.py)
  columns    few input channels, or few positions: all that an output sees side by side, then one product
  rows       the same for a frozen kernel and few positions: the kernel on the left of the product
  scattered  few output channels: all that an input gives by one product, then added up

Strided kernels become stride 1 by `halved`, dilated ones dilation 1 by `phases`. Channels last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from cracks_jax.ops import winograd

Pads = tuple[tuple[int, int], tuple[int, int]]
_NO_PADS: Pads = ((0, 0), (0, 0))


class Geometry(NamedTuple):
    """How a kernel moves over an image: strides, padding, dilation; and the precision of the products."""

    strides: tuple[int, int]
    pads: Pads
    rates: tuple[int, int] = (1, 1)
    precision: Any = None


@dataclass(frozen=True)
class Form:
    """A convolution in two halves: what needs the kernel alone, once where it is frozen, and the rest."""

    name: str
    prepare: Callable[[Array], Any]
    apply: Callable[[Array, Any], Array]

    def __call__(self, x: Array, kernel: Array) -> Array:
        return self.apply(x, self.prepare(kernel))


# Where one form overtakes another, values and both gradients together: `tools/benchmark.py forms` measures every layer.
_NARROW_INPUT = 24
_NARROW_OUTPUT = 12
_FEW_POSITIONS = 256
_WIDE = 48
# Forward alone, XLA's strided form overtakes ours up to this many input channels.
_NARROW_FROZEN = 64


def form_for(x: tuple[int, ...], kernel: tuple[int, ...], how: Geometry, *, frozen: bool = False) -> Form | None:
    """The fastest form known for inputs and kernels of these shapes; None where it is XLA's own.

    What counts is value and both gradients together; of a frozen kernel the value alone, and its preparation is free.
    """
    side, _, inputs, outputs = kernel
    if kernel[1] != side or how.strides[0] != how.strides[1] or how.rates[0] != how.rates[1]:
        return None
    if side == 1:
        return Form("points", lambda kernel: kernel[0, 0], partial(_points, how=how))
    if how.rates == (1, 1) and _few(x, how) and not (frozen and how.strides == (1, 1) and _by_winograd(kernel)):
        return _rows(side, how) if frozen else _columns(side, how)
    if how.strides == (2, 2) and side == 4 and how.rates == (1, 1):
        if frozen and _NARROW_INPUT < 4 * inputs and inputs <= _NARROW_FROZEN:
            return None
        halves = (x[0], (x[1] + sum(how.pads[0])) // 2, (x[2] + sum(how.pads[1])) // 2, 4 * inputs)
        inner = _at_stride_1(halves, (2, 2, 4 * inputs, outputs), Geometry((1, 1), _NO_PADS, precision=how.precision))
        return None if inner is None else _halved(inner, how)
    if how.strides != (1, 1):
        return None
    if how.rates == (1, 1):
        return _at_stride_1(x, kernel, how)
    padded = all(pad == (how.rates[0] * (side - 1) // 2,) * 2 for pad in how.pads)
    return _phases_form(x, side, how) if side % 2 and padded and _by_winograd(kernel) else None


def transposed_form(
    x: tuple[int, ...], kernel: tuple[int, ...], precision: Any = None, *, frozen: bool = False
) -> Form:
    """Transposed convolution with kernels of 4x4 at stride 2, as a 2x2 kernel with four times the outputs.

    Place q, between the pixels q - 1 and q of the padded image, decides the output rows 2q - 1 and 2q, and columns
    alike: every tap of the kernel falls to one pixel of that block.
    """
    how = Geometry((1, 1), ((1, 1), (1, 1)), precision=precision)
    if _few(x, how):
        if frozen:
            return Form("parity rows", _kernel_rows, partial(_parity_rows, precision=precision))
        return Form("parity columns", _parities, partial(_parity_columns, precision=precision))
    return blocks_form(_at_stride_1(x, (2, 2, kernel[2], 4 * kernel[3]), how) or plain_form(how))


def blocks_form(inner: Form) -> Form:
    """The transposed convolution by any form of a 2x2 kernel with one pixel of padding."""

    def apply(x: Array, prepared: Any) -> Array:
        _, h, w, _ = x.shape
        return depth_to_space(inner.apply(x, prepared))[:, 1 : 2 * h + 1, 1 : 2 * w + 1]

    return Form(f"blocks, {inner.name}", lambda kernel: inner.prepare(_blocks(kernel)), apply)


def plain_form(how: Geometry) -> Form:
    """XLA's own."""
    return Form("plain", lambda kernel: kernel, partial(plain, how=how))


def _at_stride_1(x: tuple[int, ...], kernel: tuple[int, ...], how: Geometry) -> Form | None:
    side, _, inputs, outputs = kernel
    if inputs <= _NARROW_INPUT:
        return _columns(side, how)
    if outputs <= _NARROW_OUTPUT:
        return Form("scattered", _per_input, partial(_scattered, side=side, how=how))
    if _by_winograd(kernel):
        tiles = winograd.outputs_for(side, x[0], *winograd.sides_of(x, side, how.pads))
        apply = partial(winograd.convolve, side=side, pads=how.pads, precision=how.precision)
        return Form("winograd", partial(winograd.evaluate, outputs=tiles), apply)
    return None


def _by_winograd(kernel: tuple[int, ...]) -> bool:
    side, _, inputs, outputs = kernel
    return side in winograd.OUTPUTS and min(inputs, outputs) >= _WIDE


def _few(x: tuple[int, ...], how: Geometry) -> bool:
    return x[0] * x[1] * x[2] <= _FEW_POSITIONS * how.strides[0] * how.strides[1]


# ------------------------------------------------------------------------------------------------ forms


def _points(x: Array, matrix: Array, how: Geometry) -> Array:
    """1x1 kernels at any stride: (b, h, w, in) times (in, out)."""
    x = jnp.pad(x, ((0, 0), *how.pads, (0, 0)))[:, :: how.strides[0], :: how.strides[1]]
    return _product(x, matrix, how.precision)


def _columns(side: int, how: Geometry) -> Form:
    return Form(
        "columns", lambda kernel: kernel.reshape(-1, kernel.shape[-1]), partial(_side_by_side, side=side, how=how)
    )


def _side_by_side(x: Array, matrix: Array, side: int, how: Geometry) -> Array:
    """The pixels that each output sees, side by side, times the kernel as one matrix. At any stride."""
    return _product(_seen(x, side, how), matrix, how.precision)


def _seen(x: Array, side: int, how: Geometry) -> Array:
    """(b, H, W, k x k x in): the pixels that each output sees."""
    down, across = how.strides
    x = jnp.pad(x, ((0, 0), *how.pads, (0, 0)))
    bottom, right = x.shape[1] - side + 1, x.shape[2] - side + 1
    seen = [x[:, i : i + bottom : down, j : j + right : across] for i in range(side) for j in range(side)]
    return jnp.concatenate(seen, -1)


def _rows(side: int, how: Geometry) -> Form:
    """`columns` with the kernel on the left: read row by row it comes faster, where it is most of what is read."""

    def apply(x: Array, matrix: Array) -> Array:
        seen = _seen(x, side, how)
        sums = _kernel_first(matrix, seen, how.precision)
        return sums.T.reshape(*seen.shape[:-1], -1)

    return Form("rows", lambda kernel: kernel.reshape(-1, kernel.shape[-1]).T, apply)


def _per_input(kernel: Array) -> Array:
    """(k, k, in, out) -> (in, k x k x out)."""
    return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)


def _scattered(x: Array, matrix: Array, side: int, how: Geometry) -> Array:
    """What each pixel gives to the outputs around it, by one product, then added where it belongs. Stride 1."""
    outputs = matrix.shape[1] // side**2
    x = jnp.pad(x, ((0, 0), *how.pads, (0, 0)))
    height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
    given = _product(x, matrix, how.precision)
    corners = [(i, j) for i in range(side) for j in range(side)]
    return reduce(
        jnp.add,
        [given[:, i : i + height, j : j + width, n * outputs : (n + 1) * outputs] for n, (i, j) in enumerate(corners)],
    )


def _halved(inner: Form, how: Geometry) -> Form:
    """4x4 kernels at stride 2 as 2x2 kernels at stride 1: each 2x2 block is a pixel of four times the channels."""

    def prepare(kernel: Array) -> Any:
        _, _, inputs, outputs = kernel.shape
        kernel = kernel.reshape(2, 2, 2, 2, inputs, outputs).transpose(0, 2, 1, 3, 4, 5)
        return inner.prepare(kernel.reshape(2, 2, 4 * inputs, outputs))

    def apply(x: Array, prepared: Any) -> Array:
        padding = [(0, 0, 0)]
        for length, (low, high) in zip(x.shape[1:3], how.pads, strict=True):
            blocks = (length + low + high) // 2  # a last row that fills no block is seen by no output
            padding.append((low, 2 * blocks - low - length, 0))
        x = lax.pad(x, jnp.zeros((), x.dtype), [*padding, (0, 0, 0)])
        return inner.apply(space_to_depth(x), prepared)

    return Form(f"halved, {inner.name}", prepare, apply)


def _phases_form(x: tuple[int, ...], side: int, how: Geometry) -> Form:
    rate = how.rates[0]
    tiles = winograd.outputs_for(side, x[0] * rate**2, -(-x[1] // rate), -(-x[2] // rate))
    return Form("phases", partial(winograd.evaluate, outputs=tiles), partial(_phases, side=side, how=how))


def _phases(x: Array, taps: Any, side: int, how: Geometry) -> Array:
    """Dilation r as dilation 1: the pixels of one phase, r apart, are an image of their own."""
    b, h, w, c = x.shape
    r, reach = how.rates[0], (side - 1) // 2
    down, across = -(-h // r), -(-w // r)
    x = jnp.pad(x, ((0, 0), (0, down * r - h), (0, across * r - w), (0, 0)))
    x = x.reshape(b, down, r, across, r, c).transpose(0, 2, 4, 1, 3, 5).reshape(b * r * r, down, across, c)
    y = winograd.convolve(x, taps, side, ((reach, reach), (reach, reach)), how.precision)
    y = y.reshape(b, r, r, down, across, -1).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(b, down * r, across * r, -1)[:, :h, :w]


def _blocks(kernel: Array) -> Array:
    """The 4x4 kernel of a transposed convolution as (2, 2, in, 4 out).

    Tap 2a + p of an axis meets input a and writes parity p; parity 1 comes first in a block.
    """
    _, _, inputs, outputs = kernel.shape
    taps = kernel.reshape(2, 2, 2, 2, inputs, outputs)[:, ::-1, :, ::-1]
    return taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, 4 * outputs)


def _parities(kernel: Array) -> tuple[Array, ...]:
    """The same kernel as one matrix (4 in, out) for each parity of output row and column."""
    _, _, inputs, outputs = kernel.shape
    taps = kernel.reshape(2, 2, 2, 2, inputs, outputs)
    return tuple(taps[:, p, :, q].reshape(4 * inputs, outputs) for p in (0, 1) for q in (0, 1))


def _parity_columns(x: Array, matrices: tuple[Array, ...], precision: Any) -> Array:
    """For few positions, each parity by itself: rearranging a large kernel would take longer than using it."""
    found = [
        _side_by_side(x, matrix, 2, Geometry((1, 1), ((1 - p, p), (1 - q, q)), precision=precision))
        for matrix, (p, q) in zip(matrices, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
    ]
    return depth_to_space(jnp.concatenate(found, -1))


def _kernel_rows(kernel: Array) -> Array:
    """The same kernel as one matrix (16 out, in): rows in the order of (row, column, out), both axes turned."""
    return kernel[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, kernel.shape[2])


def _parity_rows(x: Array, matrix: Array, precision: Any) -> Array:
    """For few positions and a frozen kernel, on the left as in `rows`: what an input gives, added where it belongs.

    Row 2a + p of the turned kernel writes the output rows 2 (i + a) + p - 1, columns alike.
    """
    b, h, w, _ = x.shape
    given = _kernel_first(matrix, x, precision).reshape(2, 2, 2, 2, -1, b, h, w).transpose(0, 2, 5, 6, 1, 7, 3, 4)
    images = given.reshape(2, 2, b, 2 * h, 2 * w, -1)
    places = {0: (0, 2), 1: (2, 0)}
    moved = [jnp.pad(images[i, j], ((0, 0), places[i], places[j], (0, 0))) for i in (0, 1) for j in (0, 1)]
    return reduce(jnp.add, moved)[:, 1 : 2 * h + 1, 1 : 2 * w + 1]


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


def _kernel_first(matrix: Array, x: Array, precision: Any) -> Array:
    """(rows, c) times the transpose of (..., c): a row for each of the kernel's, a column for each position."""
    return lax.dot_general(matrix, x.reshape(-1, x.shape[-1]), (((1,), (1,)), ((), ())), precision)
