"""CrackSeg: the specification's counts, eq. 3's receptive fields, and PyTorch's outputs, averages and gradients."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.layers.norm import BatchNorm
from cracks_jax.networks.crackseg import (
    READINGS,
    VARIANTS,
    CrackSeg,
    DilatedBranch,
    MultiscaleDilatedModule,
    UpsamplingModule,
    narrowed,
)
from tests.reference.parity import QUICK_COMPILE, assert_parity

TORCH_NORM = partial(BatchNorm, unbiased_running_var=True)


def _shapes(network, shape=(1, 64, 64, 3)):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(partial(network.init_with_output, mode="batch"), jax.random.key(0), x)


def _count(network):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_shapes(network)[1]["params"]))


# --- counts


@pytest.mark.parametrize(
    ("reading", "depth", "parameters"),
    [
        ("R1", 50, 33_296_962),
        ("R1", 101, 52_289_090),
        ("R1n", 50, 56_233_538),
        ("R2", 50, 54_462_530),
        ("R3", 50, 37_298_754),
    ],
)
def test_each_reading_has_the_specified_number_of_parameters(reading, depth, parameters):
    assert _count(READINGS[reading](depth=depth)) == parameters


TRUNK = 23_508_032
BLOCK4_HEAD = 2 * 512 + 2  # a 1x1 classifier on 512 channels
# What a table's row differs by, worked by hand: 3x3 convolution and norm on 256 channels; low-level 1x1 on c channels.
CONV_3X3 = 9 * 256 * 256 + 2 * 256
R1_ON_BLOCK4 = 6_755_328 - 3 * 1024 * 256


def _low_level(channels):
    return channels * 256 + 2 * 256


@pytest.mark.parametrize(
    ("row", "parameters"),
    [
        ("table4_baseline", TRUNK + 2 * 2048 + 2),
        # 1x1 and image pooling, three 3x3, on 2048 channels with their norms; then 1280 -> 512.
        ("table4_aspp", TRUNK + (2 + 27) * 2048 * 256 + 5 * 512 + 1280 * 512 + 2 * 512 + BLOCK4_HEAD),
        ("table4_b_dilated", TRUNK + R1_ON_BLOCK4 + BLOCK4_HEAD),
        ("table4_s_dilated", TRUNK + R1_ON_BLOCK4 + BLOCK4_HEAD),
        ("table4_fusion_s_dilated", TRUNK + 6_755_328 + BLOCK4_HEAD),
        ("table5_conv1_x2", 33_296_962 - _low_level(320) + _low_level(64) - CONV_3X3),
        ("table5_conv1_x3", 33_296_962 - _low_level(320) + _low_level(64)),
        ("table5_conv1_x4", 33_296_962 - _low_level(320) + _low_level(64) + CONV_3X3),
        ("table5_block1_x3", 33_296_962 - _low_level(320) + _low_level(256)),
        ("table5_both_x3", 33_296_962),
        ("table5_both_x3_r101", 52_289_090),
    ],
)
def test_each_row_of_tables_4_and_5_is_a_variant_with_logits_at_the_inputs_size(row, parameters):
    (logits, _), variables = _shapes(VARIANTS[row]())
    assert logits.shape == (1, 64, 64, 2)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == parameters


def test_the_rows_are_all_there_and_differ_in_rates_where_their_counts_do_not():
    assert len(VARIANTS) == 11
    branches = {
        row: {name for name in _shapes(VARIANTS[row]())[1]["params"]["multiscale_dilated_module"] if "_d" in name}
        for row in ("table4_b_dilated", "table4_s_dilated")
    }
    assert branches["table4_b_dilated"] == {"branch_d6", "branch_d12", "branch_d18"}
    assert branches["table4_s_dilated"] == {"branch_d1", "branch_d3", "branch_d5"}


# --- eq. 3


def _impulse_and_gradient(module, params, side=83):
    """What one pixel reaches (its response), and what reaches one pixel (its gradient); the centre's for both."""
    centre = side // 2
    impulse = jnp.zeros((1, side, side, 1)).at[0, centre, centre, 0].set(1.0)
    shapes = jax.eval_shape(partial(module.init, mode="running"), jax.random.key(0), impulse)["batch_stats"]
    start = {"mean": np.zeros, "var": np.ones}
    stats = jax.tree_util.tree_map_with_path(lambda path, leaf: start[path[-1].key](leaf.shape, np.float32), shapes)

    def respond(x):
        return module.apply({"params": params, "batch_stats": stats}, x, mode="running")[0, :, :, 0]

    # Weights and images are positive, so no ReLU cuts and the module is linear. The gradient is taken where every
    # unit is active: it would be zero behind those that the impulse does not reach.
    gradient = jax.grad(lambda x: respond(x)[centre, centre])(jnp.ones_like(impulse))
    return np.asarray(respond(impulse)), np.asarray(gradient)[0, :, :, 0]


def _positive(rng, module):
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    shapes = jax.eval_shape(partial(module.init, mode="running"), jax.random.key(0), x)["params"]

    def fill(path, leaf):
        bias = path[-1].key == "bias"
        return np.zeros(leaf.shape, np.float32) if bias else rng.uniform(0.5, 1, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def _span(response):
    rows, columns = np.nonzero(response)
    assert np.ptp(rows) == np.ptp(columns)
    return int(np.ptp(rows)) + 1


@pytest.mark.parametrize("rates", [(1, 3, 5), (6, 12, 18)])
def test_impulse_response_of_each_branch_confirms_the_receptive_fields_of_eq_3(rng, rates):
    """k + (k - 1)(d - 1) for the dilated 3x3, on top of the standard kernel before it; forward and backward."""
    module = MultiscaleDilatedModule(width=1, out_width=1, rates=rates)
    params = _positive(rng, module)
    for index, (kernel, rate) in enumerate(zip((1, 3, 5), rates, strict=True)):
        # The merge picks one branch, so each is measured inside the module as the network has it.
        picked = params["merge"] | {"conv": {"kernel": np.eye(3, dtype=np.float32)[index].reshape(1, 1, 3, 1)}}
        response, gradient = _impulse_and_gradient(module, params | {"merge": picked})
        effective = 3 + (3 - 1) * (rate - 1)
        assert _span(response) == (kernel - 1) + effective
        assert _span(gradient) == (kernel - 1) + effective
        if kernel == 1:
            assert np.count_nonzero(response) == 9
        # The gradient of one output is the response mirrored at the centre.
        np.testing.assert_allclose(gradient, response[::-1, ::-1], rtol=1e-5)


@pytest.mark.parametrize(("kernel", "rate", "span"), [(1, 1, 1), (3, 3, 7), (5, 5, 21)])
def test_reading_r2_dilates_the_kernel_itself(rng, kernel, rate, span):
    module = DilatedBranch(width=1, kernel=kernel, rate=rate)
    response, gradient = _impulse_and_gradient(module, _positive(rng, module))
    assert _span(response) == _span(gradient) == span
    assert np.count_nonzero(response) == kernel**2


# --- against PyTorch


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_crackseg_has_pytorchs_logits_averages_and_gradients(rng, mode):
    """ResNet-50, reading R1, all 33,296,962 parameters."""
    torch = pytest.importorskip("torch")
    from tests.reference.crackseg_torch import CrackSeg as Twin
    from tests.reference.crackseg_torch import crackseg_to_flax
    from tests.reference.resnet_torch import draw, gradients

    twin = draw(Twin()).train(mode == "batch")
    x = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 64, 64, 2)).astype(np.float32) / 64
    variables = jax.tree.map(np.array, crackseg_to_flax(twin.state_dict()))
    ours, logits, averages = _gradients(CrackSeg(norm=TORCH_NORM), variables, x, weights, mode)
    theirs = twin(_nchw(torch, x))
    (theirs * _nchw(torch, weights)).sum().backward()

    assert_parity(logits, theirs.detach().numpy().transpose(0, 2, 3, 1))
    assert_parity(averages, crackseg_to_flax(twin.state_dict())["batch_stats"])
    assert_parity(ours, crackseg_to_flax(gradients(twin))["params"])


@pytest.mark.parametrize("reading", ["R1n", "R2", "R3"])
def test_the_other_readings_have_pytorchs_logits_averages_and_gradients(rng, reading):
    """Few channels and an odd size; the gradients are those of everything behind the trunk."""
    torch = pytest.importorskip("torch")
    from tests.reference.crackseg_torch import CrackSeg as Twin
    from tests.reference.crackseg_torch import crackseg_to_flax
    from tests.reference.resnet_torch import draw, gradients

    twin = draw(Twin(reading, narrow=16, width=8, out_width=16)).train()
    context = partial(READINGS[reading].keywords.get("context"), width=8, out_width=8 if reading == "R3" else 16)
    network = READINGS[reading](narrow=16, context=context, decoder=partial(UpsamplingModule, width=8), norm=TORCH_NORM)
    x = rng.normal(size=(2, 75, 49, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 75, 49, 2)).astype(np.float32) / 64
    variables = jax.tree.map(np.array, crackseg_to_flax(twin.state_dict()))
    ours, logits, averages = _gradients(network, variables, x, weights, "batch", frozen=("resnet",))
    theirs = twin(_nchw(torch, x))
    (theirs * _nchw(torch, weights)).sum().backward()

    assert_parity(logits, theirs.detach().numpy().transpose(0, 2, 3, 1))
    assert_parity(averages, crackseg_to_flax(twin.state_dict())["batch_stats"])
    expected = crackseg_to_flax(gradients(twin))["params"]
    assert_parity(ours, {name: tree for name, tree in expected.items() if name != "resnet"})


def _gradients(network, variables, x, weights, mode, frozen=()):
    """Of sum(logits * weights) by the parameters that are not frozen; beside it logits and averages."""
    held = {name: variables["params"][name] for name in frozen}

    def loss(free):
        inputs = {"params": held | free, "batch_stats": variables["batch_stats"]}
        (logits, _), updates = network.apply(inputs, x, mode=mode, mutable=["batch_stats"])
        return jnp.sum(logits * weights), (logits, updates["batch_stats"])

    free = {name: tree for name, tree in variables["params"].items() if name not in frozen}
    gradients, (logits, averages) = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK_COMPILE)(free)
    return gradients, logits, averages


def _nchw(torch, x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


# --- modes, sizes, dtypes


def test_window_mode_scores_an_image_by_itself_and_running_mode_by_the_averages(rng):
    """Window mode: the batch is as its images one by one, each with its own statistics, and updates nothing."""
    network = CrackSeg(narrow=16, context=partial(MultiscaleDilatedModule, width=8, out_width=16))
    x = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    shapes = _shapes(network)[1]
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.ones(leaf.shape, np.float32)
            if path[-1].key in ("scale", "var")
            else rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        ),
        shapes,
    )

    def run(images, mode):
        apply = partial(network.apply, mode=mode, mutable=["batch_stats"])
        (logits, _), updates = jax.jit(apply, compiler_options=QUICK_COMPILE)(variables, images)
        return np.asarray(logits), updates["batch_stats"]

    together, updates = run(x, "window")
    for old, new in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updates), strict=True):
        np.testing.assert_array_equal(old, new)
    # One image in a batch of its own has the same statistics in training mode.
    assert_parity(together[:1], run(x[:1], "batch")[0], tolerance=1e-3)
    running = run(x, "running")[0]
    assert np.isfinite(running).all()
    assert not np.allclose(running, together, rtol=0.1)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (250, 511)])
def test_sizes_from_32_up_are_handled(size):
    (logits, features), _ = _shapes(CrackSeg(), (1, *size, 3))
    assert logits.shape == (1, *size, 2)
    assert features["upsampling"].shape == (1, *(math.ceil(side / 4) for side in size), 256)
    assert features["multiscale"].shape == (1, *(math.ceil(side / 16) for side in size), 512)


def test_a_smaller_image_is_refused_with_the_size_that_works():
    with pytest.raises(ValueError, match=r"image is 31x200; CrackSeg needs at least 32 .* \(pad it to 32x200\)"):
        _shapes(CrackSeg(), (1, 31, 200, 3))


def test_dtypes_and_ranks_are_strict(strict):
    (logits, features), variables = _shapes(CrackSeg())
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, features, variables))} == {jnp.dtype(jnp.float32)}


def test_half_precision_ends_at_the_logits_and_never_reaches_the_parameters():
    (logits, features), variables = _shapes(CrackSeg(dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert {value.dtype for value in features.values()} == {jnp.dtype(jnp.bfloat16)}
    assert logits.dtype == jnp.float32


def test_double_precision_parameters_give_double_precision_logits():
    variables = _shapes(CrackSeg())[1]
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float64), variables)
        x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float64)
        logits, features = jax.eval_shape(partial(CrackSeg().apply, mode="running"), double, x)
        assert logits.dtype == jnp.float64
        assert {value.dtype for value in features.values()} == {jnp.dtype(jnp.float64)}


def test_every_convolution_but_the_classifier_is_without_bias():
    params = _shapes(CrackSeg())[1]["params"]
    biased = [
        "/".join(key.key for key in path[:-1])
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "bias" and not path[-2].key.startswith("norm")
    ]
    assert biased == ["classifier"]


@pytest.mark.parametrize("name", ["table5_both_x3", "table4_aspp", "table4_baseline"])
def test_narrowed_divides_every_channel_count_and_keeps_the_output(name):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)

    def shapes(network):
        return jax.eval_shape(lambda key, x: network.init(key, x, mode="running"), jax.random.key(0), image)

    full, small = (shapes(narrowed(VARIANTS[name](), by))["params"] for by in (1, 4))
    sizes = [(a.shape[-1], b.shape[-1]) for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(small), strict=True)]
    assert {a / b for a, b in sizes if a != 2} == {4.0}
    assert [a for a, b in sizes if a == b] == [2] * 2  # the classifier's kernel and bias
