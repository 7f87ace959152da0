"""A processor's forms are the plain convolution: same value and gradients; and each shape gets the form made for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cracks_jax.methods.registry import SYSTEMS
from cracks_jax.ops import cpu_convolution
from cracks_jax.ops.cpu_convolution import Geometry, form_for, transposed_form

# x, kernel, strides, padding, dilation -> the form's name (None: XLA's form).
CASES = {
    "1x1": ((2, 9, 11, 5), (1, 1, 5, 4), 1, 0, 1, "points"),
    "1x1 stride 2, odd sides": ((2, 9, 11, 5), (1, 1, 5, 4), 2, 0, 1, "points"),
    "3x3, few positions": ((1, 5, 7, 30), (3, 3, 30, 30), 1, 1, 1, "columns"),
    "3x3 stride 2, few positions": ((1, 9, 7, 30), (3, 3, 30, 30), 2, 1, 1, "columns"),
    "4x4 stride 2, few positions, odd sides": ((1, 9, 7, 6), (4, 4, 6, 5), 2, 1, 1, "columns"),
    "4x4 stride 2 of an image": ((1, 36, 40, 3), (4, 4, 3, 6), 2, 1, 1, "halved"),
    "4x4 stride 2, odd sides, wide": ((1, 37, 35, 13), (4, 4, 13, 48), 2, 1, 1, "halved"),
    "4x4 to one channel": ((1, 18, 20, 30), (4, 4, 30, 1), 1, 1, 1, "scattered"),
    "3x3 wide": ((1, 17, 18, 48), (3, 3, 48, 50), 1, 1, 1, "winograd"),
    "3x3 wide, dilation 2": ((1, 17, 18, 48), (3, 3, 48, 50), 1, 2, 2, "phases"),
    "3x3 wide, dilation 5": ((1, 17, 18, 48), (3, 3, 48, 50), 1, 5, 5, "phases"),
    "3x3 wide, dilation 2, other padding": ((1, 17, 18, 48), (3, 3, 48, 50), 1, 1, 2, None),
    "3x3 wide, stride 2": ((1, 36, 36, 48), (3, 3, 48, 50), 2, 1, 1, None),
    "3x3 between narrow and wide": ((1, 17, 18, 32), (3, 3, 32, 32), 1, 1, 1, None),
    "5x5 wide": ((1, 17, 18, 48), (5, 5, 48, 50), 1, 2, 1, "winograd"),
    "7x7 stride 2": ((1, 36, 40, 3), (7, 7, 3, 8), 2, 3, 1, None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_form_equals_lax_in_value_and_both_gradients(case, rng):
    shape, kernel_shape, stride, pad, rate, expected = case
    how = Geometry((stride, stride), ((pad, pad), (pad, pad)), (rate, rate))
    form = form_for(shape, kernel_shape, how)
    assert (form and form.name.split(',')[0]) == expected
    if form is None:
        return
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=kernel_shape))

        def outcome(conv):
            y, pull = jax.vjp(conv, x, kernel)
            return y, *pull(jnp.sin(y))

        plain = outcome(lambda x, kernel: cpu_convolution.plain(x, kernel, how))
        for ours, theirs in zip(outcome(form), plain, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


# x, kernel, strides, padding -> the form's name once the kernel is frozen (None: XLA's form).
FROZEN = {
    "3x3 wide, few positions": ((1, 5, 7, 48), (3, 3, 48, 50), 1, 1, "winograd"),
    "3x3 wide, stride 2, few positions": ((1, 9, 7, 48), (3, 3, 48, 50), 2, 1, "rows"),
    "4x4 stride 2, few positions, odd sides": ((2, 9, 7, 6), (4, 4, 6, 5), 2, 1, "rows"),
    "4x4 stride 2, between narrow and wide": ((1, 36, 36, 20), (4, 4, 20, 48), 2, 1, None),
    "4x4 stride 2, wide": ((1, 36, 36, 65), (4, 4, 65, 48), 2, 1, "halved"),
    "4x4 stride 2 of an image": ((1, 36, 40, 3), (4, 4, 3, 6), 2, 1, "halved"),
}


@pytest.mark.parametrize("case", FROZEN.values(), ids=FROZEN.keys())
def test_forms_of_frozen_kernels_equal_lax(case, rng):
    shape, kernel_shape, stride, pad, expected = case
    how = Geometry((stride, stride), ((pad, pad), (pad, pad)))
    form = form_for(shape, kernel_shape, how, frozen=True)
    assert (form and form.name.split(",")[0]) == expected
    if form is not None:
        with jax.enable_x64(True):
            x, kernel = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=kernel_shape))
            np.testing.assert_allclose(form(x, kernel), cpu_convolution.plain(x, kernel, how), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 5, 4, 6), (1, 20, 14, 8, 3), (2, 13, 11, 48, 12)])
def test_transposed_equals_lax_in_value_and_both_gradients(shape, frozen, rng):
    """Few positions, an image as output, and wide layers: three ways inside, one function."""
    b, h, w, inputs, outputs = shape
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(b, h, w, inputs)))
        kernel = jnp.asarray(rng.normal(size=(4, 4, inputs, outputs)))

        def plain(x, kernel):
            return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

        def outcome(conv):
            y, pull = jax.vjp(conv, x, kernel)
            return y, *pull(jnp.sin(y))

        form = transposed_form(x.shape, kernel.shape, frozen=frozen)
        for ours, theirs in zip(outcome(form), outcome(plain), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_space_to_depth_and_back(rng):
    x = jnp.asarray(rng.normal(size=(2, 6, 4, 3)))
    blocks = cpu_convolution.space_to_depth(x)
    np.testing.assert_array_equal(blocks[1, 2, 1], np.asarray(x[1, 4:6, 2:4]).reshape(-1))
    np.testing.assert_array_equal(cpu_convolution.depth_to_space(blocks), x)


@pytest.mark.parametrize(("system", "left"), [("upcracknet", 0), ("crackseg-r50", 3)])
def test_papers_networks_keep_few_plain_convolutions(system, left):
    """CrackSeg keeps the 7x7 stem and two strided 3x3 units; UP-CrackNet none."""
    method = SYSTEMS[system][0]
    part = "generator" if system == "upcracknet" else "network"
    network = getattr(method, part)
    image = jax.ShapeDtypeStruct((4, 256, 256, 3), jnp.float32)
    how = {"mode": "running", "dropout": False} if system == "upcracknet" else {"mode": "running"}
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(image.shape), **how))
    text = jax.jit(lambda v, x: network.apply(v, x, **how)).lower(variables, image).as_text()
    assert text.count("stablehlo.convolution(") == left
