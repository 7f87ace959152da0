"""Restoration losses: against PyTorch twins, scikit-image and dm-pix, finite differences, and by hand."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from cracks_jax.losses import restoration

AUTHORS_SSIM = {"data_range": 1.0, "padding": 5}
AUTHORS_MSGMS = {"median": True, "padding": 0}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def _images(rng, shape=(2, 24, 32, 3), dtype=np.float64):
    """A smooth image, so that structures matter, and a disturbed copy; both in [-1, 1]."""
    a = np.cumsum(np.cumsum(rng.normal(size=shape), 1), 2)
    a = a / abs(a).max()
    b = np.clip(a + rng.normal(scale=0.1, size=shape), -1, 1)
    return a.astype(dtype), b.astype(dtype)


CASES = [
    ("mae", {}),
    ("ssim", {}),
    ("ssim", AUTHORS_SSIM),
    ("msgms_loss", {}),
    ("msgms_loss", AUTHORS_MSGMS),
]


@functools.cache
def _compiled(name, settings):
    """(weight, a, b) -> the weighted loss and the gradients of both images; compiled once for all tests."""
    loss = partial(getattr(restoration, name), **dict(settings))
    return jax.jit(jax.value_and_grad(lambda weight, a, b: weight * loss(a, b), (1, 2)))


def _single(name, settings, a, b, weight=1.0):
    return _compiled(name, tuple(settings.items()))(*(jnp.asarray(x, jnp.float32) for x in (weight, a, b)))


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_losses_equal_pytorch_in_value_and_gradient(name, settings, rng, strict):
    """In float64, where nothing but the formula can differ, and float32 beside it; some pixels are equal."""
    torch = pytest.importorskip("torch")
    from tests.reference import losses_torch

    a, b = _images(rng)
    b[:, 3:5] = a[:, 3:5]
    twins = [torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True) for x in (a, b)]
    expected = getattr(losses_torch, name)(*twins, **settings)
    expected.backward()
    loss = partial(getattr(restoration, name), **settings)
    with jax.enable_x64(True):
        double = jax.jit(jax.value_and_grad(loss, (0, 1)))(jnp.asarray(a), jnp.asarray(b))
        assert double[0].dtype == jnp.float64
    single = _single(name, settings, a, b)
    for (value, gradients), rtol in ((double, 1e-9), (single, 2e-4)):
        np.testing.assert_allclose(value, expected.item(), rtol=rtol)
        for ours, twin in zip(gradients, twins, strict=True):
            theirs = twin.grad.numpy().transpose(0, 2, 3, 1)
            np.testing.assert_allclose(ours, theirs, atol=rtol * abs(theirs).max())


@pytest.mark.parametrize("name", ["mae", "ssim", "msgms_loss"])
def test_half_precision_is_raised_and_the_wider_of_two_dtypes_wins(name, strict):
    loss = getattr(restoration, name)
    shape = (1, 16, 16, 3)
    with jax.enable_x64(True):
        for pair, expected in (("bb", "f"), ("bf", "f"), ("ff", "f"), ("fd", "d"), ("db", "d")):
            dtypes = {"b": jnp.bfloat16, "f": jnp.float32, "d": jnp.float64}
            arguments = (jax.ShapeDtypeStruct(shape, dtypes[letter]) for letter in pair)
            assert jax.eval_shape(loss, *arguments) == jax.ShapeDtypeStruct((), dtypes[expected])


@pytest.mark.parametrize("data_range", [2.0, 1.0])
def test_ssim_equals_scikit_image_on_whole_windows(data_range, rng, x64):
    metrics = pytest.importorskip("skimage.metrics")
    a, b = _images(rng)
    maps = [
        metrics.structural_similarity(
            *pair,
            data_range=data_range,
            gaussian_weights=True,
            use_sample_covariance=False,
            channel_axis=-1,
            full=True,
        )[1]
        for pair in zip(a, b, strict=True)
    ]
    expected = np.mean([m[5:-5, 5:-5] for m in maps])
    ours = jax.jit(partial(restoration.ssim, data_range=data_range))(jnp.asarray(a), jnp.asarray(b))
    assert float(ours) == pytest.approx(expected, abs=1e-12)


def test_ssim_equals_dm_pix(rng):
    dm_pix = pytest.importorskip("dm_pix")
    a, b = _images(rng)
    expected = jax.jit(partial(dm_pix.ssim, max_val=2.0))(jnp.asarray(a), jnp.asarray(b)).mean()
    assert float(_single("ssim", {}, a, b)[0]) == pytest.approx(float(expected), abs=2e-5)


def test_ssim_of_two_flat_images_by_hand(x64):
    """Without variance only luminance is left: (2 p q + C1) / (p^2 + q^2 + C1) with C1 = (0.01 L)^2."""
    p, q = 0.5, -0.25
    a, b = (jnp.full((1, 12, 11, 1), v) for v in (p, q))
    similarity = jax.jit(lambda data_range: restoration.ssim(a, b, data_range=data_range))
    for data_range in (2.0, 1.0):
        c1 = (0.01 * data_range) ** 2
        expected = (2 * p * q + c1) / (p * p + q * q + c1)
        assert float(similarity(data_range)) == pytest.approx(expected, abs=1e-12)


def test_msgms_of_a_ramp_against_a_flat_image_by_hand(x64):
    """A ramp of slope s has Prewitt gradients 2 s, doubled at each halving; padding 0 leaves no border."""
    s, c = 0.01, 0.0026
    a = jnp.broadcast_to(jnp.arange(32.0)[None, None, :, None] * s, (1, 32, 32, 1))
    distances = [f * f / (f * f + c) for f in (2 * s, 4 * s, 8 * s, 16 * s)]
    for scales, rtol in ((4, 5e-3), (1, 5e-2)):  # the 1e-8 under the root tells most where a gradient is small
        loss = jax.jit(partial(restoration.msgms_loss, padding=0, scales=scales))
        assert float(loss(a, jnp.zeros_like(a))) == pytest.approx(np.mean(distances[:scales]), rel=rtol)


@pytest.mark.parametrize("settings", [{}, AUTHORS_SSIM])
def test_ssim_gradient_equals_finite_differences(settings, rng, x64):
    a, b = (jnp.asarray(x) for x in _images(rng, (1, 12, 13, 2)))
    check_grads(jax.jit(partial(restoration.ssim, **settings)), (a, b), order=1, modes=["rev"])


def test_msgms_gradient_equals_finite_differences(rng, x64):
    a, b = (jnp.asarray(x) for x in _images(rng, (1, 16, 16, 2)))
    # A smaller step than usual: the square root bends sharply where a gradient is near zero.
    check_grads(jax.jit(restoration.msgms_loss), (a, b), order=1, modes=["rev"], eps=1e-7, rtol=1e-3)


@pytest.mark.parametrize("kind", ["flat", "flat_and_other", "equal", "removed_to_zero"])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_gradients_are_finite_on_degenerate_images_and_a_zero_weight_gives_zero(name, settings, kind, rng):
    """The weight is traced, so 0 times infinity would show as NaN."""
    a, b = _images(rng)
    if kind.startswith("flat"):
        a[:] = 0.3
    if kind == "flat":
        b[:] = 0.3
    if kind == "equal":
        b = a
    if kind == "removed_to_zero":
        a[:, :16] = 0
    value, gradients = _single(name, settings, a, b)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
    value, gradients = _single(name, settings, a, b, weight=0.0)
    assert value == 0 and all((np.asarray(g) == 0).all() for g in gradients)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_equal_images_have_the_best_value(name, settings, rng):
    """And nothing to learn: the gradient is zero there, to rounding."""
    a, b = _images(rng)
    best = 1.0 if name == "ssim" else 0.0
    value, gradients = _single(name, settings, a, a)
    assert float(value) == pytest.approx(best, abs=1e-6)
    assert max(abs(np.asarray(g)).max() for g in gradients) < 1e-5
    other, swapped = _single(name, settings, a, b)[0], _single(name, settings, b, a)[0]
    assert abs(float(other) - best) > 1e-3
    assert float(other) == pytest.approx(float(swapped), abs=1e-6)


def test_style_loss_equals_pytorch_in_value_and_gradient(rng, x64, strict):
    torch = pytest.importorskip("torch")
    from tests.reference import losses_torch

    shapes = [(2, 8, 6, 5), (2, 4, 3, 7)]
    ours = [[rng.normal(size=s) for s in shapes] for _ in range(2)]
    twins = [[torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True) for x in side] for side in ours]
    expected = losses_torch.style_loss(*twins)
    expected.backward()
    value, gradients = jax.jit(jax.value_and_grad(restoration.style_loss, (0, 1)))(*ours)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    for side, twin_side in zip(gradients, twins, strict=True):
        for gradient, twin in zip(side, twin_side, strict=True):
            np.testing.assert_allclose(gradient, twin.grad.numpy().transpose(0, 2, 3, 1), atol=1e-14)


def test_gram_by_hand_and_style_of_equal_features_is_zero_with_zero_gradient(strict):
    """Two positions, two channels: F = [[1, 3], [2, -1]], F F^T = [[10, -1], [-1, 5]], over c h w = 4."""
    features = jnp.array([[[[1.0, 2.0], [3.0, -1.0]]]])
    np.testing.assert_allclose(restoration.gram(features), [[[2.5, -0.25], [-0.25, 1.25]]])
    value, gradient = jax.value_and_grad(lambda f: restoration.style_loss([f], [features]))(features)
    assert value == 0 and (gradient == 0).all()


def test_losses_stay_on_the_devices_that_hold_the_images(rng):
    """Sharded by batch, no image travels, and the value is that of one device."""
    if jax.device_count() < 2:
        pytest.skip("one device only")
    a, b = (jnp.asarray(x) for x in _images(rng, (2, 16, 16, 3), np.float32))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in (a, b)]

    loss = jax.jit(jax.value_and_grad(lambda a, b: 1 - restoration.ssim(a, b) + restoration.msgms_loss(a, b)))
    compiled = loss.lower(*spread).compile()
    program = compiled.as_text()
    assert not any(word in program for word in ("all-gather", "all-to-all", "collective-permute"))
    assert float(compiled(*spread)[0]) == pytest.approx(float(loss(a, b)[0]), abs=1e-5)


def test_images_too_small_for_a_window_or_the_scales_are_refused_with_the_size_that_works():
    def images(h, w):
        return (jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32),) * 2

    def refused(loss, h, w, message):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(loss, *images(h, w))

    ssim, msgms_loss = restoration.ssim, restoration.msgms_loss
    refused(ssim, 10, 64, r"ssim: images are 10x64 px.* padding 0 .*at least 11 px")
    jax.eval_shape(ssim, *images(11, 64))
    jax.eval_shape(partial(ssim, padding=5), *images(1, 1))
    refused(msgms_loss, 20, 64, r"msgms_loss: images are 20x64 px.*multiples of 8 .* such as 24x64")
    refused(partial(msgms_loss, padding=0), 16, 16, r"16x16 px.*padding 0 .*at least 24 px, such as 24x24")
    jax.eval_shape(msgms_loss, *images(8, 8))
    jax.eval_shape(partial(msgms_loss, padding=0), *images(24, 24))
    refused(partial(msgms_loss, scales=0), 16, 16, "scales is 0")


@pytest.mark.parametrize("name", ["mae", "ssim", "msgms_loss"])
def test_images_that_would_only_fit_by_broadcasting_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name}: shapes \(1, 16, 16, 3\) and \(1, 16, 16, 1\) differ"):
        getattr(restoration, name)(jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 1)))


def test_style_without_layers_or_with_unequal_layers_is_refused():
    layer = jnp.zeros((1, 4, 4, 2))
    for pair in (([], []), ([layer], [layer, layer])):
        with pytest.raises(ValueError, match="same number, at least one"):
            restoration.style_loss(*pair)
    with pytest.raises(ValueError, match="style_loss: shapes"):
        restoration.style_loss([layer], [layer[..., :1]])
