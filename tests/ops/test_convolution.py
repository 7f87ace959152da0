"""The parity form of the transposed convolution is the same function as Flax's and PyTorch's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.layers.conv_transpose import ConvTranspose
from cracks_jax.ops.convolution import conv_transpose_parity
from tests.reference.parity import assert_parity

SHAPES = [(2, 5, 3, 4, 6), (1, 1, 1, 3, 2), (2, 4, 8, 6, 3)]


def _problem(rng, shape):
    b, h, w, i, o = shape
    x = rng.standard_normal((b, h, w, i), dtype=np.float32)
    params = {
        "kernel": rng.standard_normal((4, 4, i, o), dtype=np.float32) * 0.1,
        "bias": rng.standard_normal(o, dtype=np.float32),
    }
    return x, params, rng.standard_normal((b, 2 * h, 2 * w, o), dtype=np.float32)


def _value_and_gradients(module, x, params, weight):
    def loss(params, x):
        y = module.apply({"params": params}, x)
        return jnp.sum(y * weight), y

    (_, y), (by_params, by_x) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    return {"value": y, "input": by_x, **by_params}


@pytest.mark.parametrize("shape", SHAPES)
def test_parity_conv_transpose_equals_flax_in_value_and_gradient(rng, shape):
    """Input, kernel and bias gradients too, down to one pixel; the measure is the package's own."""
    problem = _problem(rng, shape)
    flax_module = nn.ConvTranspose(shape[-1], (4, 4), (2, 2), padding="SAME", transpose_kernel=False)
    theirs = _value_and_gradients(flax_module, *problem)
    assert_parity(_value_and_gradients(ConvTranspose(shape[-1]), *problem), theirs, tolerance=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_parity_conv_transpose_equals_pytorch_with_the_kernel_flipped(rng, shape):
    torch = pytest.importorskip("torch")
    x, params, weight = _problem(rng, shape)
    ours = _value_and_gradients(ConvTranspose(shape[-1]), x, params, weight)

    image = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    flipped = params["kernel"][::-1, ::-1].transpose(2, 3, 0, 1).copy()
    kernel, bias = torch.tensor(flipped, requires_grad=True), torch.tensor(params["bias"], requires_grad=True)
    y = torch.nn.functional.conv_transpose2d(image, kernel, bias, stride=2, padding=1)
    (y * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()
    theirs = {
        "value": y.detach().numpy().transpose(0, 2, 3, 1),
        "input": image.grad.numpy().transpose(0, 2, 3, 1),
        "kernel": kernel.grad.numpy().transpose(2, 3, 0, 1)[::-1, ::-1],
        "bias": bias.grad.numpy(),
    }
    assert_parity(ours, theirs, tolerance=2e-6)


def test_layer_has_the_parameters_of_flax():
    x = jnp.zeros((1, 2, 2, 5))
    key = jax.random.key(0)
    ours = jax.jit(ConvTranspose(7).init)(key, x)
    theirs = jax.jit(nn.ConvTranspose(7, (4, 4), (2, 2)).init)(key, x)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient_holds_no_dilated_input(rng):
    """Slow is a convolution over an input with zeros put between its pixels: value and gradient hold none.

    The same count sees them in Flax's form.
    """

    def dilations(module):
        x, params, weight = _problem(rng, SHAPES[0])
        jaxpr = jax.make_jaxpr(lambda p, x: _value_and_gradients(module, x, p, weight))(params, x)
        return str(jaxpr).count("lhs_dilation=(2, 2)"), str(jaxpr).count("conv_general_dilated[")

    dilated, convolutions = dilations(ConvTranspose(6))
    assert (dilated, convolutions) == (0, 12)
    assert dilations(nn.ConvTranspose(6, (4, 4), (2, 2)))[0] > 0


def test_compute_dtype_is_asked_for_by_name():
    x = jnp.ones((1, 2, 2, 3))
    module = ConvTranspose(2, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert y.dtype == jnp.bfloat16


def test_strict_promotion_is_kept(strict):
    x = jnp.ones((2, 3, 3, 4))
    y, _ = jax.eval_shape(ConvTranspose(2).init_with_output, jax.random.key(0), x)
    assert y.shape == (2, 6, 6, 2)


@pytest.mark.parametrize(
    ("x", "kernel", "words"),
    [((1, 4, 4, 2), (3, 3, 2, 2), "kernel has shape"), ((1, 4, 4, 3), (4, 4, 2, 2), "input has shape")],
)
def test_other_kernels_and_channels_are_refused(x, kernel, words):
    with pytest.raises(ValueError, match=words):
        conv_transpose_parity(jnp.zeros(x), jnp.zeros(kernel))
