"""Small sliding windows over images: weighted sums along one axis, Gaussian mean, median, Prewitt, halving.

Everything is built from shifted slices, not from convolutions: with one or three channels XLA's depthwise and
one-channel convolutions run 5 to 20 times slower on a CPU, and the tensor cores of an accelerator, which
would round float32 images to TF32 or bfloat16, have no part in it. Values keep their dtype; nothing is padded
unless it says so.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def correlate(x: Float[Array, "..."], taps: tuple[float, ...], axis: int, step: int = 1) -> Float[Array, "..."]:
    """Sum of `taps[i] * x[position + i * step]` along `axis`, at the positions where every tap meets a value.

    The result is shorter by (len(taps) - 1) * step. Differentiable in reverse mode only: the derivative is
    given by hand, as the same sum with the taps turned round, because the derivative of a sum of slices is a
    sum of padded arrays, several times slower on a CPU.

    Args:
      taps: at least one of them not zero.
      axis: the axis along which the window slides.
      step: distance between the elements that two neighbouring taps meet; c walks the pixels of a row of
        w * c elements.
    """
    length = x.shape[axis] - (len(taps) - 1) * step
    if length < 1:
        raise ValueError(
            f"a window of {len(taps)} taps needs an axis of at least {(len(taps) - 1) * step + 1} elements; "
            f"axis {axis} has {x.shape[axis]}"
        )
    return _total(
        tap * jax.lax.slice_in_dim(x, i * step, i * step + length, axis=axis) for i, tap in enumerate(taps) if tap
    )


def _correlate_forward(x: Array, taps: tuple[float, ...], axis: int, step: int) -> tuple[Array, None]:
    return correlate(x, taps, axis, step), None


def _correlate_backward(taps: tuple[float, ...], axis: int, step: int, _: None, g: Array) -> tuple[Array]:
    padding = [(0, 0)] * g.ndim
    padding[axis] = ((len(taps) - 1) * step,) * 2
    # Without the barrier the compiler computes what leads to g again inside the padding, at several times the cost.
    padded = jnp.pad(jax.lax.optimization_barrier(g), padding)
    return (correlate(padded, taps[::-1], axis, step),)


correlate.defvjp(_correlate_forward, _correlate_backward)


def gaussian_taps(size: int, sigma: float) -> tuple[float, ...]:
    """The `size` weights of a sampled Gaussian around its middle, with sum 1; `sigma` in pixels."""
    weights = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return tuple(weight / sum(weights) for weight in weights)


def gaussian_mean(x: Float[Array, "... h w c"], size: int = 11, sigma: float = 1.5) -> Float[Array, "... i j c"]:
    """Gaussian-weighted mean of every whole `size` x `size` window, per channel; `size` - 1 px smaller."""
    *lead, h, w, c = x.shape
    taps = gaussian_taps(size, sigma)
    # Pixels and channels as one axis: three channels alone are too short a row for vector instructions, and
    # moving them to the front costs more than the sums.
    rows = correlate(x.reshape(*lead, h, w * c), taps, -1, c)
    return correlate(rows, taps, -2).reshape(*lead, h - size + 1, w - size + 1, c)


def halve(x: Float[Array, "... h w"]) -> Float[Array, "... h/2 w/2"]:
    """Mean of every 2x2 block; h and w must be even."""
    *lead, h, w = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"{h}x{w} px cannot be halved; both sides must be even")
    return x.reshape(*lead, h // 2, 2, w // 2, 2).mean((-3, -1))


@jax.custom_vjp
def median_3x3(x: Float[Array, "... h w"]) -> Float[Array, "... h w"]:
    """Median of the 3x3 window around each pixel, with zeros outside the image (as kornia's MedianBlur).

    Its derivative (reverse mode only) goes to the pixels that are the median, shared where several are.
    """
    h, w = x.shape[-2:]
    # Each column of three is sorted once and serves three windows. Of nine values in three sorted columns,
    # the median is the median of: the greatest minimum, the middle of the middles, the least maximum.
    low, middle, high = _sort3(*_shifts(_frame(x), range(3), (0,), h, w + 2))
    greatest_low = _sort3(*_shifts(low, (0,), range(3), h, w))[2]
    middle_middle = _sort3(*_shifts(middle, (0,), range(3), h, w))[1]
    least_high = _sort3(*_shifts(high, (0,), range(3), h, w))[0]
    # Without the barrier the compiler repeats the sorting inside every later window that reads the median.
    return jax.lax.optimization_barrier(_sort3(greatest_low, middle_middle, least_high)[1])


def _median_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    median = median_3x3(x)
    return median, (x, median)


def _median_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array]:
    # The derivative of nineteen minima and maxima is five times slower than finding the medians again.
    x, median = saved
    h, w = x.shape[-2:]
    ties = _total((v == median).astype(g.dtype) for v in _shifts(_frame(x), range(3), range(3), h, w))
    share, median = jax.lax.optimization_barrier((_frame(g / ties), _frame(median)))
    around = zip(*(_shifts(part, range(3), range(3), h, w) for part in (share, median)), strict=True)
    return (_total(jnp.where(value == x, part, jnp.zeros_like(part)) for part, value in around),)


median_3x3.defvjp(_median_forward, _median_backward)


def _total(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _frame(x: Array) -> Array:
    """One row or column of zeros on each side."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)])


def _shifts(x: Array, down: Iterable[int], across: Iterable[int], h: int, w: int) -> list[Array]:
    """The h x w pieces of x that start at each of the given rows and columns."""
    return [x[..., i : i + h, j : j + w] for i, j in itertools.product(down, across)]


def _sort3(a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    a, b = jnp.minimum(a, b), jnp.maximum(a, b)
    b, c = jnp.minimum(b, c), jnp.maximum(b, c)
    a, b = jnp.minimum(a, b), jnp.maximum(a, b)
    return a, b, c


def repeat_border(x: Float[Array, "... h w"], width: int) -> Float[Array, "... i j"]:
    """The outermost rows and columns repeated outwards: i = h + 2 width, j = w + 2 width.

    `jnp.pad` in edge mode is the same function, but its derivative moves data between devices.
    """
    for axis in (-2, -1):
        end = x.shape[axis]
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, end - 1, end, axis=axis)
        x = jnp.concatenate([first] * width + [x] + [last] * width, axis)
    return x


def prewitt(x: Float[Array, "... h w"]) -> tuple[Float[Array, "... i j"], Float[Array, "... i j"]]:
    """Prewitt derivatives divided by 3, across the columns and down the rows: i = h - 2, j = w - 2.

    A ramp of slope s per pixel gives 2 s: the divisor is the published one, 3, not 6.
    """
    smooth = (1 / 3, 1 / 3, 1 / 3)
    difference = (-1.0, 0.0, 1.0)
    across = correlate(correlate(x, difference, -1), smooth, -2)
    down = correlate(correlate(x, smooth, -1), difference, -2)
    return across, down
