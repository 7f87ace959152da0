"""The two convolutions are the same functions as Flax's and PyTorch's; the platform decides their form."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.layers.conv_transpose import ConvTranspose
from cracks_jax.ops.convolution import (
    conv_general_dilated,
    conv_transpose,
    conv_transpose_parity,
    prepare_kernels,
    with_kernels,
)
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


def test_parity_form_holds_no_dilated_input(rng):
    """Slow is a convolution over an input with zeros put between its pixels: value and gradient hold none.

    The same count sees them in Flax's form.
    """
    x, params, weight = _problem(rng, SHAPES[0])

    def dilations(conv):
        def loss(kernel, x):
            return jnp.sum(conv(x, kernel) * weight)

        jaxpr = str(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(params["kernel"], x))
        return jaxpr.count("lhs_dilation=(2, 2)"), jaxpr.count("conv_general_dilated[")

    assert dilations(conv_transpose_parity) == (0, 12)
    assert dilations(lambda x, kernel: jax.lax.conv_transpose(x, kernel, (2, 2), "SAME"))[0] > 0


def _convolutions(platform, dtype=jnp.float32):
    """How many convolutions and products the gradients of a 1x1 layer and of a transposed one hold on a platform."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), dtype)
    one, four = jax.ShapeDtypeStruct((1, 1, 3, 4), dtype), jax.ShapeDtypeStruct((4, 4, 4, 4), dtype)

    def loss(one, four, x):
        y = conv_general_dilated(x, one, (1, 1), ((0, 0), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(conv_transpose(y, four) ** 2)

    step = jax.jit(jax.grad(loss, (0, 1, 2)))
    text = jax.export.export(step, platforms=[platform])(one, four, x).mlir_module()
    return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")


def test_platform_that_the_program_is_lowered_for_decides_the_form():
    """A processor gets products, a TPU its own convolutions: lowered on the same machine, from the same call."""
    assert _convolutions("cpu")[0] == 0 and _convolutions("cpu")[1] > 0
    assert _convolutions("tpu")[0] > 0 and _convolutions("tpu")[1] == 0
    assert _convolutions("cuda")[0] > 0 and _convolutions("cuda")[1] == 0


def test_half_precision_keeps_the_plain_form():
    convolutions, products = _convolutions("cpu", jnp.bfloat16)
    assert convolutions > 0 and products == 0


def test_unusual_convolutions_are_passed_on(rng):
    """Named padding, groups and input dilation: the value of jax.lax."""
    x = jnp.asarray(rng.normal(size=(1, 8, 8, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 6)), jnp.float32)
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2}
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **how)
    np.testing.assert_array_equal(conv_general_dilated(x, kernel, (1, 1), "SAME", **how), expected)


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
        conv_transpose(jnp.zeros(x), jnp.zeros(kernel))


def test_frozen_kernels_give_the_same_value_and_are_not_prepared_again(rng):
    """A layer of each kind of form; the program that takes prepared kernels does nothing with the weights."""
    shapes = {"wide": (3, 3, 48, 80), "down": (4, 4, 80, 48), "up": (4, 4, 48, 3), "point": (1, 1, 3, 8)}
    weights = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(1, 40, 40, 48)), jnp.float32)
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def forward(weights, x):
        x = conv_general_dilated(x, weights["wide"], (1, 1), ((1, 1), (1, 1)), **how)
        x = conv_general_dilated(x, weights["down"], (2, 2), ((1, 1), (1, 1)), **how)
        x = conv_transpose(x, weights["up"])
        return conv_general_dilated(x, weights["point"], (1, 1), "VALID", **how)

    prepared = jax.jit(lambda weights, x: prepare_kernels(forward, weights, x))(weights, x)
    frozen = jax.jit(lambda prepared, weights, x: with_kernels(prepared, forward, weights, x))
    expected = jax.jit(forward)(weights, x)
    assert float(jnp.abs(frozen(prepared, weights, x) - expected).max() / jnp.abs(expected).max()) < 1e-5
    used = jax.tree.map(jnp.zeros_like, weights)
    np.testing.assert_array_equal(frozen(prepared, used, x), frozen(prepared, weights, x))
    assert len(prepared) == len(weights)


def test_frozen_network_mapped_over_windows_takes_the_forms_of_all_of_them(rng):
    """A map of 8x8 is few positions, 16 of them are not; the value is that of one window after the other."""
    weights = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 3, 48, 48), (4, 4, 48, 48))]
    x = jnp.asarray(rng.normal(size=(16, 1, 8, 8, 48)), jnp.float32)
    how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def forward(weights, x):
        x = conv_general_dilated(x, weights[0], (1, 1), ((1, 1), (1, 1)), **how)
        return conv_transpose(x, weights[1])

    over_all = jax.vmap(forward, in_axes=(None, 0))

    def prepared(windows):
        return jax.jit(lambda w, x: prepare_kernels(forward, w, x[0], mapped=windows))(weights, x)

    one, all_of_them = prepared(1), prepared(16)
    assert jax.tree.structure(one[1]) != jax.tree.structure(all_of_them[1])  # one matrix; a grid of points
    frozen = jax.jit(lambda kernels, w, x: with_kernels(kernels, over_all, w, x, mapped=16))
    found, expected = frozen(all_of_them, weights, x), jnp.stack([forward(weights, window) for window in x])
    assert float(jnp.abs(found - expected).max() / jnp.abs(expected).max()) < 1e-5
    single = jax.jit(lambda kernels, w, x: with_kernels(kernels, forward, w, x))(one, weights, x[0])
    assert float(jnp.abs(single - expected[0]).max() / jnp.abs(expected).max()) < 1e-5
