"""The dilated trunks: published counts and geometry, and PyTorch's maps, averages and gradients."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.layers.norm import BatchNorm
from cracks_jax.networks.backbones.resnet import ResNet
from tests.reference.parity import QUICK_COMPILE, assert_parity

TORCH_NORM = partial(BatchNorm, unbiased_running_var=True)


def _shapes(network, side=64):
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    (_, maps), variables = jax.eval_shape(partial(network.init_with_output, mode="batch"), jax.random.key(0), x)
    return {name: value.shape[1:] for name, value in maps.items()}, variables


def _count(variables):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("depth", "version", "parameters"),
    [(50, 1, 23_508_032), (101, 1, 42_500_160), (50, 2, 23_500_480), (101, 2, 42_492_608)],
)
def test_trunk_has_the_published_number_of_parameters(depth, version, parameters):
    assert _count(_shapes(ResNet(depth=depth, version=version))[1]) == parameters


@pytest.mark.parametrize(("output_stride", "block3", "block4"), [(8, 16, 16), (16, 8, 8), (32, 8, 4)])
@pytest.mark.parametrize("version", [1, 2])
def test_maps_are_nowhere_coarser_than_the_output_stride(version, output_stride, block3, block4):
    maps, _ = _shapes(ResNet(version=version, output_stride=output_stride), side=128)
    assert maps == {
        "conv1": (64, 64, 64),
        "block1": (32, 32, 256),
        "block2": (16, 16, 512),
        "block3": (block3, block3, 1024),
        "block4": (block4, block4, 2048),
    }


@pytest.mark.parametrize("output_stride", [8, 32])
def test_every_output_stride_gives_pytorchs_maps_at_an_odd_size(rng, output_stride):
    torch = pytest.importorskip("torch")
    from tests.reference.resnet_torch import ResNetV1, draw, to_flax

    twin = draw(ResNetV1(output_stride=output_stride, narrow=16)).eval()
    x = rng.normal(size=(1, 75, 49, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = {name: value.numpy().transpose(0, 2, 3, 1) for name, value in twin(_nchw(torch, x)).items()}
    network = ResNet(output_stride=output_stride, narrow=16)
    run = jax.jit(partial(network.apply, mode="running"), compiler_options=QUICK_COMPILE)
    _, ours = run(to_flax(twin.state_dict()), x)
    assert_parity(ours, theirs)


def test_version_2_in_training_has_pytorchs_maps_averages_and_gradients(rng):
    torch = pytest.importorskip("torch")
    from tests.reference.resnet_torch import ResNetV2, draw, gradients, to_flax

    twin = draw(ResNetV2()).train()
    x = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 4, 4, 2048)).astype(np.float32) / 64
    variables = jax.tree.map(np.array, to_flax(twin.state_dict()))  # copies: PyTorch updates its averages in place
    network = ResNet(version=2, input_norm=True, norm=TORCH_NORM)

    def loss(params):
        (out, maps), updates = network.apply(variables | {"params": params}, x, mode="batch", mutable=["batch_stats"])
        return jnp.sum(out * weights), (maps, updates["batch_stats"])

    grad = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK_COMPILE)
    ours, (maps, averages) = grad(variables["params"])
    theirs = twin(_nchw(torch, x))
    (theirs["block4"] * _nchw(torch, weights)).sum().backward()

    assert_parity(maps, {name: value.detach().numpy().transpose(0, 2, 3, 1) for name, value in theirs.items()})
    assert_parity(averages, to_flax(twin.state_dict())["batch_stats"])
    assert_parity(ours, to_flax(gradients(twin))["params"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 34}, r"depth 34; use one of \[50, 101\]"),
        ({"version": 3}, "version 3; use 1, or 2"),
        ({"output_stride": 4}, r"output stride 4; use one of \[8, 16, 32\]"),
        ({"input_norm": True}, "leave it off for version 1"),
    ],
)
def test_settings_that_do_not_exist_are_refused_with_those_that_do(settings, message):
    with pytest.raises(ValueError, match=message):
        _shapes(ResNet(**settings))


def _nchw(torch, x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
