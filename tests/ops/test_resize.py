"""Bilinear resizing is PyTorch's, in value and gradient, up and down, at odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.ops.resize import resize_bilinear


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(20, 28), (9, 3), (1, 7), (5, 16)])
def test_resizing_equals_pytorchs_interpolate_in_value_and_gradient(rng, strict, size, align_corners):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    weights = rng.normal(size=(2, *size, 3)).astype(np.float32)
    ours = resize_bilinear(x, size, align_corners=align_corners)
    gradient = jax.grad(lambda x: jnp.sum(resize_bilinear(x, size, align_corners=align_corners) * weights))(x)

    twin = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs = torch.nn.functional.interpolate(twin, size, mode="bilinear", align_corners=align_corners)
    (theirs * torch.from_numpy(weights.transpose(0, 3, 1, 2).copy())).sum().backward()
    np.testing.assert_allclose(ours, theirs.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(gradient, twin.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_the_same_size_is_the_same_image_and_the_dtype_stays():
    x = jnp.linspace(0, 1, 2 * 3 * 4).reshape(1, 2, 3, 4)
    assert resize_bilinear(x, (2, 3)) is x
    assert resize_bilinear(x.astype(jnp.bfloat16), (8, 12)).dtype == jnp.bfloat16


def test_values_stay_in_the_inputs_range(rng):
    x = jnp.asarray(rng.uniform(size=(1, 5, 7, 1)), jnp.float32)
    y = resize_bilinear(x, (64, 33))
    assert float(y.min()) >= float(x.min()) - 1e-6
    assert float(y.max()) <= float(x.max()) + 1e-6


def test_an_empty_size_is_refused():
    with pytest.raises(ValueError, match="resize to 0x4: each side must be at least 1 pixel"):
        resize_bilinear(jnp.zeros((1, 2, 2, 1)), (0, 4))
