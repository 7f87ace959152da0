"""Convolution at stride 1 with fewer multiplications (Winograd 1980; Lavin & Gray 2016), for processors.

An image is cut into overlapping tiles, tiles and kernel are evaluated at a few points along each axis, multiplied
point by point as matrices over the channels, and interpolated back. A 2x2 kernel takes 16 products for 9 outputs
instead of 36, a 3x3 kernel 36 for 16 outputs instead of 144, a 4x4 kernel 36 for 9 instead of 144, a 5x5 kernel 36 for
4 instead of 100. Both gradients go through the same products. Channels last: (b, h, w, c), kernels (k, k, in, out).
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]
Matrix = tuple[tuple[float, ...], ...]
Grid = list[list[Array]]  # one array for each pair of points (down, across)

# Outputs along one side of a tile that may be chosen, by the kernel's side. No side has more than six points: those
# beyond 0, 1, -1 and infinity cost digits, most of them as 2 and -2 together (2e-5 of the largest value at 5x5);
# 1/2 and -2 keep 7e-6.
OUTPUTS = {2: (3,), 3: (2, 4), 4: (3,), 5: (2,)}
_POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))


class Transforms(NamedTuple):
    """The matrices of y = A^T [(G g) * (B^T d)] for m outputs and a kernel of k taps, n = m + k - 1."""

    output: Matrix  # A^T, (m, n)
    kernel: Matrix  # G, (n, k)
    tile: Matrix  # B^T, (n, n)


# Fewer rows than these make a product hardly faster, and more of them make a program that takes longer to compile.
_ROWS = 128


def outputs_for(side: int, images: int, height: int, width: int) -> int:
    """The outputs along a tile's side that take the least work for maps of this size."""

    def work(outputs: int) -> int:
        tiles = images * -(-height // outputs) * -(-width // outputs)
        return max(tiles, _ROWS) * (outputs + side - 1) ** 2

    return min(OUTPUTS[side], key=work)


def evaluate(kernel: Float[Array, "k k i o"], outputs: int) -> Grid:
    """A kernel of 2x2 to 5x5 at n x n points, n = outputs + k - 1: matrices (in, out), as `convolve` takes them."""
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] not in OUTPUTS:
        sides = ", ".join(f"{side}x{side}" for side in OUTPUTS)
        raise ValueError(f"kernel has shape {kernel.shape}; this form is for (k, k, in, out) with k x k one of {sides}")
    return _evaluate(kernel, kernel.shape[0], outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _evaluate(kernel: Array, side: int, outputs: int) -> Grid:
    matrix = _transforms(side, outputs).kernel
    rows = [_combine(matrix, [kernel[r, s] for s in range(side)]) for r in range(side)]
    columns = [_combine(matrix, list(column)) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _evaluate_backward(side: int, outputs: int, _: None, d_taps: Grid) -> tuple[Array]:
    """G^T dU G. By hand, because the derivative of a slice of a large kernel is a kernel of zeros around it."""
    back = _transpose(_transforms(side, outputs).kernel)
    rows = [_combine(back, row) for row in d_taps]
    columns = [_combine(back, list(column)) for column in zip(*rows, strict=True)]
    return (jnp.stack([jnp.stack(list(row)) for row in zip(*columns, strict=True)]),)


_evaluate.defvjp(lambda kernel, side, outputs: (_evaluate(kernel, side, outputs), None), _evaluate_backward)


def sides_of(shape: tuple[int, ...], side: int, pads: Pads) -> tuple[int, int]:
    """Height and width of the result for an image of shape (b, h, w, c)."""
    height, width = (length + sum(pad) - side + 1 for length, pad in zip(shape[1:3], pads, strict=True))
    return height, width


def convolve(
    x: Float[Array, "b h w i"], taps: Grid, side: int, pads: Pads, precision: Any = None
) -> Float[Array, "b H W o"]:
    """Stride-1 convolution with a kernel of side x side that `evaluate` has evaluated, in tiles of as many outputs.

    The same sums as `lax.conv_general_dilated` in another order: in float32 it differs by up to 1e-5 of the largest
    output.
    """
    return _convolve(x, taps, x.shape, side, pads, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _convolve(x: Array, taps: Grid, shape: tuple[int, ...], side: int, pads: Pads, precision: Any) -> Array:
    return _forward(x, taps, shape, side, pads, precision)[0]


def _forward(
    x: Array, taps: Grid, shape: tuple[int, ...], side: int, pads: Pads, precision: Any
) -> tuple[Array, tuple[Grid, Grid]]:
    outputs = len(taps) - side + 1
    matrices = _transforms(side, outputs)
    height, width = sides_of(shape, side, pads)
    points = _evaluate_tiles(x, pads, (height, width), outputs, matrices.tile)
    products = _each(lambda p, t: _product(p, t, 0, precision), points, taps)
    return _interpolate(products, matrices.output)[:, :height, :width], (points, taps)


def _backward(
    shape: tuple[int, ...], side: int, pads: Pads, precision: Any, saved: tuple[Grid, Grid], dy: Array
) -> tuple[Array, Grid]:
    points, taps = saved
    outputs = len(taps) - side + 1
    matrices = _transforms(side, outputs)
    errors = _evaluate_outputs(dy, outputs, matrices.output)
    d_taps = _each(lambda p, e: _sum_of_products(p, e, precision), points, errors)
    d_points = _each(lambda e, t: _product(e, t, 1, precision), errors, taps)
    return _overlap(d_points, outputs, matrices.tile, shape, pads), d_taps


_convolve.defvjp(_forward, _backward)


# ------------------------------------------------------------------------------------------ transforms


@functools.cache
def _transforms(side: int, outputs: int) -> Transforms:
    """Toom and Cook's evaluation and interpolation at the first n - 1 points and at infinity, in exact arithmetic."""
    points = _POINTS[: outputs + side - 2]

    def powers(count: int) -> list[list[Fraction]]:
        return [[p**j for j in range(count)] for p in points] + [[Fraction(0)] * (count - 1) + [Fraction(1)]]

    scales = [_product_of(p - q for q in points if q != p) for p in points] + [Fraction(1)]
    kernel = [[v / scale for v in row] for row, scale in zip(powers(side), scales, strict=True)]
    tile = [_polynomial([q for q in points if q != p]) for p in points] + [_polynomial(points)]
    return Transforms(_floats(zip(*powers(outputs), strict=True)), _floats(kernel), _floats(tile, len(points) + 1))


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), from the constant term on."""
    found = [Fraction(1)]
    for root in roots:
        found = [a - root * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


def _product_of(values: Any) -> Fraction:
    return functools.reduce(lambda a, b: a * b, values, Fraction(1))


def _floats(rows: Any, width: int = 0) -> Matrix:
    return tuple(tuple(map(float, row)) + (0.0,) * (width - len(row)) for row in rows)


# --------------------------------------------------------------------------------- along rows and columns


def _evaluate_tiles(x: Array, pads: Pads, sides: tuple[int, int], outputs: int, matrix: Matrix) -> Grid:
    """B^T d B of every tile: n x n arrays (b, tiles down, tiles across, c)."""
    n = len(matrix)
    down, across = (-(-side // outputs) for side in sides)
    reach = [tiles * outputs + n - outputs for tiles in (down, across)]
    ends = [want - low - have for want, have, (low, _) in zip(reach, x.shape[1:3], pads, strict=True)]
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [(0, 0, 0), (pads[0][0], ends[0], 0), (pads[1][0], ends[1], 0), (0, 0, 0)])
    rows = _combine(matrix, [_every(x, 1, r, down, outputs) for r in range(n)])
    return [_combine(matrix, [_every(row, 2, r, across, outputs) for r in range(n)]) for row in rows]


def _evaluate_outputs(dy: Array, outputs: int, matrix: Matrix) -> Grid:
    """A dy A^T of every tile: the transpose of `_interpolate`."""
    down, across = (-(-side // outputs) for side in dy.shape[1:3])
    ends = [tiles * outputs - side for tiles, side in zip((down, across), dy.shape[1:3], strict=True)]
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), (0, ends[0], 0), (0, ends[1], 0), (0, 0, 0)])
    points = _transpose(matrix)
    rows = _combine(points, [_every(dy, 1, r, down, outputs) for r in range(outputs)])
    return [_combine(points, [_every(row, 2, r, across, outputs) for r in range(outputs)]) for row in rows]


def _interpolate(products: Grid, matrix: Matrix) -> Array:
    """A^T M A of every tile, side by side: (b, tiles down x m, tiles across x m, c)."""
    rows = [_combine(matrix, list(column)) for column in zip(*products, strict=True)]
    tiles = [_combine(matrix, list(row)) for row in zip(*rows, strict=True)]
    return _interleave([_interleave(row, 2) for row in tiles], 1)


def _overlap(d_points: Grid, outputs: int, matrix: Matrix, shape: tuple[int, ...], pads: Pads) -> Array:
    """The transpose of `_evaluate_tiles`: overlapping tiles added where they were cut."""
    rows = [_overlap_axis(row, outputs, matrix, 2) for row in d_points]
    x = _overlap_axis(rows, outputs, matrix, 1)
    (top, _), (left, _) = pads
    return lax.slice(x, (0, top, left, 0), (shape[0], top + shape[1], left + shape[2], shape[3]))


def _overlap_axis(parts: list[Array], outputs: int, matrix: Matrix, axis: int) -> Array:
    """Position r of tile t is pixel m t + r, so what a pixel gets comes from one tile or from a few before it."""
    n = len(matrix)
    positions = _combine(_transpose(matrix), parts)
    before = -(-n // outputs) - 1
    residues = []
    for r in range(outputs):
        total = None
        for lag, part in enumerate(positions[r::outputs]):
            padding = [(0, 0)] * part.ndim
            padding[axis] = (lag, before - lag)
            shifted = jnp.pad(part, padding)
            total = shifted if total is None else total + shifted
        residues.append(total)
    return _interleave(residues, axis)


def _interleave(parts: list[Any], axis: int) -> Array:
    """m arrays (b, h, w, c) -> one with m times the length: entry m t + r along `axis` (1 or 2) from part r."""
    b, h, w, c = parts[0].shape
    if axis == 2:
        return jnp.concatenate(parts, -1).reshape(b, h, len(parts) * w, c)
    return jnp.concatenate([part.reshape(b, h, w * c) for part in parts], -1).reshape(b, len(parts) * h, w, c)


def _every(x: Array, axis: int, start: int, count: int, step: int) -> Array:
    return lax.slice_in_dim(x, start, start + (count - 1) * step + 1, step, axis)


def _combine(matrix: Matrix, parts: list[Array]) -> list[Array]:
    """matrix @ parts, without the zeros and ones."""
    return [_weighted(row, parts) for row in matrix]


def _weighted(weights: Sequence[float], parts: list[Array]) -> Array:
    # The first term is a positive one where there is one: a sum that starts with a negation costs a pass more.
    terms = sorted(((w, p) for w, p in zip(weights, parts, strict=True) if w), key=lambda term: term[0] < 0)
    total: Array | None = None
    for weight, part in terms:
        scaled = part if abs(weight) == 1 else abs(weight) * part
        if total is None:
            total = -scaled if weight < 0 else scaled
        else:
            total = total - scaled if weight < 0 else total + scaled
    assert total is not None
    return total


def _transpose(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _each(function: Any, a: Grid, b: Grid) -> Grid:
    return [[function(p, q) for p, q in zip(one, two, strict=True)] for one, two in zip(a, b, strict=True)]


def _product(tiles: Array, matrix: Array, axis: int, precision: Any) -> Array:
    """(b, h, w, c) times a matrix whose `axis` is c."""
    rows = tiles.reshape(-1, tiles.shape[-1])
    return lax.dot_general(rows, matrix, (((1,), (axis,)), ((), ())), precision).reshape(*tiles.shape[:-1], -1)


def _sum_of_products(a: Array, b: Array, precision: Any) -> Array:
    """(b, h, w, c) and (b, h, w, d) -> (c, d), summed over all tiles."""
    rows = [tiles.reshape(-1, tiles.shape[-1]) for tiles in (a, b)]
    return lax.dot_general(rows[0], rows[1], (((0,), (0,)), ((), ())), precision)
