"""Winograd's convolution is the plain one: same value and gradients, whatever the sides and the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cracks_jax.ops import winograd

PADS = {
    2: (((1, 0), (0, 1)), ((0, 0), (0, 0)), ((1, 1), (1, 1))),
    3: (((1, 1), (1, 1)), ((0, 0), (2, 1))),
    4: (((1, 1), (1, 1)), ((1, 2), (0, 0))),
    5: (((2, 2), (2, 2)), ((1, 3), (2, 2))),
}
SIZES = ((5, 7), (8, 6), (4, 4), (13, 5))
TILES = [(side, outputs) for side, choices in winograd.OUTPUTS.items() for outputs in choices]
CASES = [(side, outputs, pads, size) for side, outputs in TILES for pads in PADS[side] for size in SIZES]


def _convolve(x, kernel, pads, outputs):
    return winograd.convolve(x, winograd.evaluate(kernel, outputs), kernel.shape[0], pads)


def _outcome(conv, x, kernel):
    y, pull = jax.vjp(conv, x, kernel)
    return y, *pull(jnp.sin(y))


@pytest.mark.parametrize(("side", "outputs"), TILES)
def test_transforms_compute_every_output_exactly(side, outputs, rng):
    """One tile in whole numbers, against NumPy's correlation: a wrong fraction would show in the first digit."""
    matrices = winograd._transforms(side, outputs)
    taps = rng.integers(-9, 10, side).astype(float)
    tile = rng.integers(-9, 10, outputs + side - 1).astype(float)
    found = np.array(matrices.output) @ ((np.array(matrices.kernel) @ taps) * (np.array(matrices.tile) @ tile))
    np.testing.assert_allclose(found, np.correlate(tile, taps, "valid"), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("side", "outputs", "pads", "size"), CASES)
def test_winograd_equals_lax_in_value_and_both_gradients(side, outputs, pads, size, rng):
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, *size, 3)))
        kernel = jnp.asarray(rng.normal(size=(side, side, 3, 5)))

        def plain(x, kernel):
            return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

        fast = _outcome(lambda x, kernel: _convolve(x, kernel, pads, outputs), x, kernel)
        for ours, theirs in zip(fast, _outcome(plain, x, kernel), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("side", "outputs"), TILES)
def test_winograd_keeps_float32_digits_with_many_channels(side, outputs, rng):
    """Against float64: at most 1e-5 of the largest value, in value and gradients, where sums have 256 x k x k terms."""
    x = rng.standard_normal((1, 12, 12, 256), dtype=np.float32)
    kernel = rng.standard_normal((side, side, 256, 64), dtype=np.float32)
    pads = ((1, 1), (1, 1))
    found = _outcome(lambda x, kernel: _convolve(x, kernel, pads, outputs), jnp.asarray(x), jnp.asarray(kernel))
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64), jnp.asarray(kernel, jnp.float64)

        def plain(x, kernel):
            return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

        y, pull = jax.vjp(plain, *wide)
        expected = (y, *pull(jnp.asarray(np.sin(np.asarray(found[0])), jnp.float64)))
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1e-5 * np.abs(np.asarray(theirs)).max()


def test_winograd_holds_products_only(rng):
    """16 products for a 3x3 kernel and 2x2 outputs forward, 16 for each gradient; no convolution is left."""
    x, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 4, 8))
    step = jax.grad(lambda x, k: jnp.sum(_convolve(x, k, ((1, 1), (1, 1)), 2) ** 2), (0, 1))
    text = str(jax.make_jaxpr(step)(x, kernel))
    assert text.count("dot_general[") == 48
    assert "conv_general_dilated" not in text


@pytest.mark.parametrize(
    ("images", "side", "outputs"), [(1, 64, 4), (4, 32, 4), (1, 32, 2), (4, 16, 2), (9, 6, 2), (1, 2, 2)]
)
def test_tiles_of_a_3x3_kernel_take_the_least_work(images, side, outputs):
    """By hand: 256 x 36 against 1024 x 16, and so on; 64 tiles count as 128: 128 x 36 against 256 x 16."""
    assert winograd.outputs_for(3, images, side, side) == outputs


@pytest.mark.parametrize("shape", [(7, 7, 3, 4), (3, 2, 3, 4), (3, 3, 4)])
def test_other_kernels_are_refused(shape):
    with pytest.raises(ValueError, match="one of 2x2, 3x3, 4x4, 5x5"):
        winograd.evaluate(jnp.zeros(shape), 2)


def test_strict_promotion_is_kept(strict):
    x, kernel = jnp.ones((1, 6, 6, 3)), jnp.ones((4, 4, 3, 2))
    y, pull = jax.vjp(lambda x, k: _convolve(x, k, ((1, 1), (1, 1)), 3), x, kernel)
    assert y.dtype == jnp.float32 and [g.shape for g in pull(y)] == [x.shape, kernel.shape]
