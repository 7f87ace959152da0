"""Adversarial losses: against PyTorch's BCE on sigmoid maps, by hand, and where a sigmoid would have saturated."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.losses import adversarial

FORMS = ("non_saturating", "minimax")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def test_discriminator_loss_equals_pytorch_in_value_and_gradient(rng, x64, strict):
    torch = pytest.importorskip("torch")
    from tests.reference import losses_torch

    logits = rng.normal(scale=3, size=(2, 2, 5, 4, 1))
    twins = [torch.tensor(x, requires_grad=True) for x in logits]
    expected = losses_torch.discriminator_loss(*twins)
    expected.backward()
    value, gradients = jax.value_and_grad(adversarial.discriminator_loss, (0, 1))(*map(jnp.asarray, logits))
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    for ours, twin in zip(gradients, twins, strict=True):
        np.testing.assert_allclose(ours, twin.grad.numpy(), atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_generator_loss_equals_pytorch_in_value_and_gradient(form, rng, x64, strict):
    torch = pytest.importorskip("torch")
    from tests.reference import losses_torch

    logits = rng.normal(scale=3, size=(2, 5, 4, 1))
    twin = torch.tensor(logits, requires_grad=True)
    expected = losses_torch.generator_loss(twin, form)
    expected.backward()
    value, gradient = jax.value_and_grad(partial(adversarial.generator_loss, form=form))(jnp.asarray(logits))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, twin.grad.numpy(), atol=1e-14)


def test_an_undecided_discriminator_by_hand(strict):
    """D = 1/2 everywhere: log 2 for each of its two terms; log 2 and -log 2 for the generator's two forms."""
    zero = jnp.zeros((1, 2, 2, 1))
    assert float(adversarial.discriminator_loss(zero, zero)) == pytest.approx(2 * np.log(2))
    assert float(adversarial.generator_loss(zero, "non_saturating")) == pytest.approx(np.log(2))
    assert float(adversarial.generator_loss(zero, "minimax")) == pytest.approx(-np.log(2))


def test_gradients_where_the_discriminator_is_sure(strict):
    """Logit -200: its sigmoid rounds to 0, so BCE on it would be infinite. Non-saturating keeps slope -1."""
    fake = jnp.full((4,), -200.0)
    for form, value, slope in (("non_saturating", 200.0, -1.0), ("minimax", 0.0, 0.0)):
        loss, gradient = jax.value_and_grad(partial(adversarial.generator_loss, form=form))(fake)
        assert float(loss) == pytest.approx(value)
        np.testing.assert_allclose(gradient, slope / 4, atol=1e-7)


@pytest.mark.parametrize("size", [0.0, 200.0, 1e30])
def test_a_zero_weight_gives_a_zero_gradient_at_any_finite_logit(size, strict):
    logits = jnp.array([-size, size])

    @jax.jit
    @partial(jax.grad, argnums=1)
    def gradient(weight, logits):
        generator = sum(adversarial.generator_loss(logits, form) for form in FORMS)
        return weight * (generator + adversarial.discriminator_loss(logits, logits))

    assert jnp.isfinite(gradient(jnp.float32(1), logits)).all()
    assert (gradient(jnp.float32(0), logits) == 0).all()


def test_both_forms_push_a_restoration_the_same_way_and_half_precision_is_raised(strict):
    logits = jnp.array([-2.0, 0.5], jnp.bfloat16)
    for form in FORMS:
        assert adversarial.generator_loss(logits, form).dtype == jnp.float32
        assert (jax.grad(partial(adversarial.generator_loss, form=form))(logits) < 0).all()


def test_another_form_is_refused_with_the_forms_there_are():
    with pytest.raises(ValueError, match="'hinge' is not known; use one of non_saturating, minimax"):
        adversarial.generator_loss(jnp.zeros(2), "hinge")
