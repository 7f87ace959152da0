"""The fast kernel gradient is the plain one: same value, same gradients, whatever the stride and dilation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cracks_jax.ops.kernel_gradient import conv_general_dilated

CASES = {
    "1x1": (1, 1, 1, 5, 0),
    "1x1 stride 2, odd side": (1, 2, 1, 5, 0),
    "3x3 wide": (3, 1, 1, 192, 1),
    "3x3 wide, stride 2": (3, 2, 1, 192, 1),
    "3x3 wide, dilation 5": (3, 1, 5, 192, 5),
    "5x5 wide, too little padding": (5, 1, 1, 192, 1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_fast_kernel_gradient_equals_lax_in_value_and_both_gradients(case, rng):
    side, stride, rate, channels, pad = case
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, 9, 11, channels)))
        kernel = jnp.asarray(rng.normal(size=(side, side, channels, 4)))
        how = {"rhs_dilation": (rate, rate), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        pads = ((pad, pad), (pad, pad))

        def outcome(conv):
            y, pull = jax.vjp(lambda x, k: conv(x, k, (stride, stride), pads, **how), x, kernel)
            return y, *pull(jnp.sin(y))

        for ours, plain in zip(outcome(conv_general_dilated), outcome(lax.conv_general_dilated), strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-10)


def test_fast_kernel_gradient_has_no_convolution_for_the_kernel_on_a_cpu():
    """A 1x1 layer's gradient holds one convolution forward and one for its input; the kernel's is a product."""
    layer = nn.Conv(4, (1, 1), padding=((0, 0), (0, 0)), conv_general_dilated=conv_general_dilated)
    x = jnp.ones((1, 8, 8, 3))
    variables = layer.init(jax.random.key(0), x)
    text = jax.jit(jax.grad(lambda v, x: jnp.sum(layer.apply(v, x) ** 2), (0, 1))).lower(variables, x).as_text()
    assert text.count("stablehlo.convolution") == 2
    assert "dot_general" in text


def test_fast_kernel_gradient_lowers_for_tpu_with_its_own_form():
    kernel = jax.ShapeDtypeStruct((1, 1, 3, 4), jnp.float32)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    step = jax.jit(jax.grad(lambda k, x: jnp.sum(conv_general_dilated(x, k, (1, 1), ((0, 0), (0, 0))) ** 2)))
    text = jax.export.export(step, platforms=["tpu"])(kernel, x).mlir_module()
    assert "dot_general" not in text
