"""Windows: against SciPy and PyTorch in value, against finite differences and PyTorch in derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage as ndimage
from jax.test_util import check_grads

from cracks_jax.ops import windows


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("axis", "step"), [(-1, 1), (1, 1), (-1, 3)])
def test_correlate_is_the_plain_sum_in_value_and_gradient(axis, step, rng, x64, strict):
    """Uneven taps, one of them zero, so that a turned-round kernel would show."""
    x = rng.normal(size=(2, 9, 12))
    taps = (0.5, 0.0, -2.0, 1.0)
    length = x.shape[axis] - 3 * step
    expected = sum(t * np.take(x, np.arange(length) + i * step, axis) for i, t in enumerate(taps))
    np.testing.assert_allclose(windows.correlate(jnp.asarray(x), taps, axis, step), expected, atol=1e-12)
    check_grads(lambda v: windows.correlate(v, taps, axis, step) ** 2, (jnp.asarray(x),), order=1, modes=["rev"])


def test_gaussian_mean_equals_scipy_on_whole_windows(rng, x64, strict):
    x = rng.uniform(-1, 1, (2, 14, 17, 3))
    blurred = ndimage.gaussian_filter(x, 1.5, radius=5, axes=(1, 2))
    np.testing.assert_allclose(windows.gaussian_mean(jnp.asarray(x)), blurred[:, 5:-5, 5:-5], atol=1e-12)
    assert sum(windows.gaussian_taps(11, 1.5)) == pytest.approx(1, abs=1e-15)


def test_gaussian_mean_takes_any_leading_axes_and_vmap(rng):
    x = jnp.asarray(rng.uniform(-1, 1, (2, 3, 12, 12, 1)).astype(np.float32))
    whole = jax.jit(windows.gaussian_mean)(x)
    mapped = jax.jit(jax.vmap(windows.gaussian_mean))(x)
    np.testing.assert_allclose(whole, mapped, atol=1e-6)


def test_median_equals_scipy_with_zeros_outside(rng, strict):
    x = rng.normal(size=(2, 3, 7, 9)).astype(np.float32)
    expected = ndimage.median_filter(x, size=3, axes=(2, 3), mode="constant", cval=0.0)
    np.testing.assert_array_equal(windows.median_3x3(jnp.asarray(x)), expected)


def test_median_gradient_equals_pytorch_where_no_values_tie(rng):
    torch = pytest.importorskip("torch")
    from tests.reference import losses_torch

    x, weight = rng.normal(size=(2, 2, 1, 8, 9)).astype(np.float32)
    twin = torch.tensor(x, requires_grad=True)
    (losses_torch.median_3x3(twin) * torch.tensor(weight)).sum().backward()
    ours = jax.jit(jax.grad(lambda v: (windows.median_3x3(v) * weight).sum()))(jnp.asarray(x))
    np.testing.assert_allclose(ours, twin.grad.numpy(), atol=1e-6)


def test_median_gradient_of_ties_is_shared_not_lost():
    gradient = jax.jit(jax.grad(lambda v: windows.median_3x3(v)[2:-2, 2:-2].sum()))(jnp.ones((9, 9)))
    assert gradient[4, 4] == pytest.approx(1) and gradient.sum() == pytest.approx(25)


def test_repeated_border_equals_numpy_in_value_and_keeps_every_share_of_the_gradient(rng):
    x = jnp.asarray(rng.normal(size=(2, 3, 4)).astype(np.float32))
    np.testing.assert_array_equal(windows.repeat_border(x, 2), np.pad(x, [(0, 0), (2, 2), (2, 2)], mode="edge"))
    gradient = jax.jit(jax.grad(lambda v: windows.repeat_border(v, 1).sum()))(x)
    np.testing.assert_array_equal(gradient[1], np.outer([2, 1, 2], [2, 1, 1, 2]))


def test_prewitt_equals_scipy_over_three_and_a_ramp_gives_twice_its_slope(rng, strict):
    x = rng.normal(size=(2, 8, 9)).astype(np.float32)
    across, down = jax.jit(windows.prewitt)(jnp.asarray(x))
    for ours, axis in ((across, 2), (down, 1)):
        expected = np.stack([ndimage.prewitt(image, axis=axis - 1) / 3 for image in x])[:, 1:-1, 1:-1]
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    ramp = jnp.arange(6.0)[None, :] * 0.25 + jnp.zeros((5, 1))
    across, down = jax.jit(windows.prewitt)(ramp)
    np.testing.assert_allclose(across, 0.5, atol=1e-6)
    np.testing.assert_allclose(down, 0.0, atol=1e-6)


def test_halve_averages_blocks_and_refuses_odd_sides():
    x = jnp.array([[1.0, 3.0, 0.0, 4.0], [5.0, 7.0, 2.0, 2.0]])
    np.testing.assert_array_equal(windows.halve(x), [[4.0, 2.0]])
    with pytest.raises(ValueError, match="3x4 px cannot be halved"):
        windows.halve(jnp.zeros((3, 4)))


def test_a_window_longer_than_its_axis_is_refused_with_the_length_it_needs():
    with pytest.raises(ValueError, match="window of 3 taps needs an axis of at least 7 elements; axis -1 has 6"):
        windows.correlate(jnp.zeros((4, 6)), (1.0, 1.0, 1.0), -1, 3)
