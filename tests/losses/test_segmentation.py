"""Cross-entropy: against PyTorch and optax, by hand, and finite where a logarithm of a probability is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cracks_jax.losses import segmentation


def test_cross_entropy_equals_pytorch_in_value_and_gradient(rng, strict):
    torch = pytest.importorskip("torch")
    from tests.reference import losses_torch

    logits, mask = rng.normal(scale=3, size=(2, 5, 7, 2)), rng.integers(0, 2, (2, 5, 7))
    twin = torch.tensor(logits, requires_grad=True)
    expected = losses_torch.cross_entropy(twin.permute(0, 3, 1, 2), torch.tensor(mask))
    expected.backward()
    with jax.enable_x64(True):
        ours = jax.value_and_grad(segmentation.cross_entropy)(jnp.asarray(logits), jnp.asarray(mask))
        assert ours[0].dtype == jnp.float64
        np.testing.assert_allclose(ours[0], expected.item(), rtol=1e-12)
        np.testing.assert_allclose(ours[1], twin.grad.numpy(), atol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bool_, jnp.int32])
def test_cross_entropy_equals_optax_for_every_type_of_mask(dtype, rng):
    logits, mask = rng.normal(size=(2, 4, 4, 2)).astype(np.float32), rng.integers(0, 2, (2, 4, 4))
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(mask)).mean()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        ours = segmentation.cross_entropy(jnp.asarray(logits), jnp.asarray(mask, dtype))
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


def test_cross_entropy_by_hand(strict):
    """p(crack) = 3/4 on two pixels, one of them crack: -(log 3/4 + log 1/4) / 2."""
    logits = jnp.broadcast_to(jnp.array([0.0, np.log(3.0)], jnp.float32), (1, 1, 2, 2))
    ours = segmentation.cross_entropy(logits, jnp.array([[[1, 0]]], jnp.uint8))
    assert float(ours) == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, rel=1e-6)


def test_sure_background_is_not_rewarded_as_the_printed_equation_would(strict):
    """As printed, a sure background pixel adds log p - 1, far below zero; read as cross-entropy it adds nothing."""
    logits = jnp.array([[[[50.0, -50.0]]]])
    value, gradient = jax.value_and_grad(segmentation.cross_entropy)(logits, jnp.zeros((1, 1, 1), jnp.uint8))
    assert 0 <= float(value) < 1e-12 and abs(gradient).max() < 1e-12


@pytest.mark.parametrize("size", [0.0, 500.0, 1e30])
def test_a_zero_weight_gives_a_zero_gradient_at_any_finite_logit(size, strict):
    logits = jnp.array([[[[-size, size], [size, -size]]]])
    mask = jnp.zeros((1, 1, 2), jnp.uint8)

    def gradient(weight):
        return jax.grad(lambda x: jnp.float32(weight) * segmentation.cross_entropy(x, mask))(logits)

    assert jnp.isfinite(gradient(1)).all()
    assert (gradient(0) == 0).all()


def test_half_precision_logits_are_raised(strict):
    logits = jnp.zeros((1, 2, 2, 2), jnp.bfloat16)
    assert segmentation.cross_entropy(logits, jnp.zeros((1, 2, 2), bool)).dtype == jnp.float32


@pytest.mark.parametrize(("logits", "mask"), [((1, 4, 4, 3), (1, 4, 4)), ((1, 4, 4, 2), (1, 4, 5))])
def test_wrong_channels_or_sizes_are_refused(logits, mask):
    with pytest.raises(ValueError, match=r"logits must be \(b, h, w, 2\)"):
        segmentation.cross_entropy(jnp.zeros(logits), jnp.zeros(mask, jnp.uint8))
