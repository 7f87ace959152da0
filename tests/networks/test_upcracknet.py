"""UP-CrackNet's networks: the authors' counts and shapes, and PyTorch's outputs, averages and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.layers.norm import BatchNorm
from cracks_jax.networks.upcracknet import Discriminator, Generator, depth_for
from tests.reference.parity import assert_parity

TORCH_NORM = partial(BatchNorm, unbiased_running_var=True)
KEY = jax.random.key(0)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _generator_shapes(side, **settings):
    net = Generator(**settings)
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(partial(net.init_with_output, KEY, mode="batch", dropout=False), x)


def _filled(rng, init, *images):
    """Variables of a network's shapes, quicker than its own initialisation; vectors are positive."""
    shapes = jax.eval_shape(init, KEY, *images)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.1 if leaf.ndim == 1 else -0.2, 0.2, leaf.shape).astype(leaf.dtype), shapes
    )


def _pair(rng, side, b=2):
    return [rng.uniform(-1, 1, (b, side, side, 3)).astype(np.float32) for _ in range(2)]


# --- the authors' numbers


def test_generator_has_54_419_459_parameters_and_the_maps_of_the_table():
    (restored, features), variables = _generator_shapes(256)
    assert _count(variables["params"]) == 54_419_459
    assert restored.shape == (1, 256, 256, 3)
    sizes = {name: f.shape[1:] for name, f in features.items()}
    channels = (64, 128, 256, 512, 512, 512, 512, 512)
    for i, c in enumerate(channels, 1):
        assert sizes[f"enc{i}"] == (2 ** (8 - i), 2 ** (8 - i), c)
    for i, c in enumerate((512, 512, 512, 512, 256, 128, 64, 3), 1):
        assert sizes[f"dec{i}"] == (2**i, 2**i, c)
    without_norm = {name for name, layer in variables["params"].items() if "norm" not in layer}
    assert without_norm == {"enc1", "enc8", "dec8"}


def test_discriminator_has_2_769_601_parameters_and_30x30_patches():
    x = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    (logits, features), variables = jax.eval_shape(partial(Discriminator().init_with_output, KEY, mode="batch"), x, x)
    assert _count(variables["params"]) == 2_769_601
    assert logits.shape == (2, 30, 30, 1)
    assert [f.shape[1] for f in features.values()] == [128, 64, 32, 31, 30]
    assert {name for name, layer in variables["params"].items() if "norm" not in layer} == {
        "layer1",
        "layer5",
    }


@pytest.mark.parametrize(("side", "depth"), [(128, 7), (512, 9)])
def test_other_sizes_differ_by_one_layer_of_512_channels_on_each_side(side, depth):
    """One encoder layer of 512 -> 512 and one decoder layer of 1024 -> 512, each with its norm."""
    (restored, features), variables = _generator_shapes(side, depth=depth_for(side))
    assert depth_for(side) == depth
    assert features[f"enc{depth}"].shape == (1, 1, 1, 512)
    assert restored.shape == (1, side, side, 3)
    layers = (16 * 512 * 512 + 3 * 512) + (16 * 1024 * 512 + 3 * 512)
    assert _count(variables["params"]) == 54_419_459 + (depth - 8) * layers


def test_base_width_scales_every_layer():
    _, variables = _generator_shapes(256, base=16)
    params = variables["params"]
    assert [params[f"enc{i}"]["conv"]["kernel"].shape[-1] for i in range(1, 9)] == [16, 32, 64] + 5 * [128]
    assert params["dec1"]["conv"]["kernel"].shape == (4, 4, 128, 128)
    assert params["dec2"]["conv"]["kernel"].shape == (4, 4, 256, 128)


def test_initialisation_is_the_authors():
    """Kernels N(0, 0.02); biases within PyTorch's bound and filling it, so another fan-in is seen."""
    torch = pytest.importorskip("torch")
    net = Generator(base=32, depth=4)
    init = jax.jit(partial(net.init, mode="batch", dropout=False))
    params = init(KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    assert params.keys() == {f"{part}{i}" for part in ("enc", "dec") for i in range(1, 5)}
    for name, layer in params.items():
        kernel, bias = layer["conv"]["kernel"], layer["conv"]["bias"]
        i, o = kernel.shape[2:]
        assert abs(float(jnp.std(kernel)) - 0.02) < 1e-3 and abs(float(jnp.mean(kernel))) < 1e-3
        module = torch.nn.Conv2d if name.startswith("enc") else torch.nn.ConvTranspose2d
        fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(module(i, o, 4).weight)
        largest = float(jnp.abs(bias).max()) * fan_in**0.5
        assert largest <= 1 and (o < 32 or largest > 0.8), name
        if "norm" in layer:
            np.testing.assert_array_equal(layer["norm"]["scale"], np.ones(o))
            np.testing.assert_array_equal(layer["norm"]["bias"], np.zeros(o))


# --- parity with PyTorch


def _to_torch(torch, *images):
    return [torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True) for image in images]


def _to_numpy(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def _in_front_of_norm(variables):
    """Names of the biases whose gradient a batch norm makes zero; they are compared absolutely."""
    return lambda name: name.endswith("conv/bias") and "norm" in variables["params"][name.split("/")[0]]


def _step(apply, variables, images, target):
    """Output, averages after, gradients of a squared error by parameters and by the first image."""

    def loss(params, first):
        output, updated = apply({**variables, "params": params}, first, *images[1:])
        return jnp.mean(jnp.square(output - target)), (output, updated.get("batch_stats", {}))

    grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (by_params, by_image), (output, averages) = grad(variables["params"], images[0])
    return output, averages, by_params, by_image


def _assert_step_parity(reference, torch, twin, net_apply, images, target):
    """One step of ours and of the twin, which is in train or eval mode already, from the same weights."""
    variables = reference.variables(twin)
    output, averages, by_params, by_image = _step(net_apply, variables, images, target)
    tensors = _to_torch(torch, *images)
    theirs = twin(*tensors)
    torch.mean((theirs - torch.tensor(target.transpose(0, 3, 1, 2))) ** 2).backward()
    assert_parity(output, _to_numpy(theirs))
    if twin.training:
        assert_parity(averages, reference.variables(twin)["batch_stats"])
    absolute = _in_front_of_norm(variables) if twin.training else None
    assert_parity(by_params, reference.gradients(twin), absolute=absolute)
    assert_parity(by_image, _to_numpy(tensors[0].grad))


@pytest.mark.parametrize("mode", ["batch", "running"])
@pytest.mark.parametrize("depth", [5, 7])
def test_generator_equals_its_pytorch_twin(rng, depth, mode):
    """Dropout off in both. Depth 7 has the layers of 8 x base channels that depth 5 has only once."""
    torch = pytest.importorskip("torch")
    from tests.reference import upcracknet_torch as reference

    torch.manual_seed(depth)
    twin = reference.Generator(base=8, depth=depth, dropout=False).train(mode == "batch")
    reference.draw_norms(twin, seed=1)
    net = Generator(base=8, depth=depth, norm=TORCH_NORM)

    def apply(variables, x):
        (restored, _), updated = net.apply(variables, x, mode=mode, dropout=False, mutable=["batch_stats"])
        return restored, updated

    image, target = _pair(rng, 2**depth)
    _assert_step_parity(reference, torch, twin, apply, [image], target)


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_discriminator_equals_its_pytorch_twin(rng, mode):
    torch = pytest.importorskip("torch")
    from tests.reference import upcracknet_torch as reference

    torch.manual_seed(3)
    twin = reference.Discriminator(base=8).train(mode == "batch")
    reference.draw_norms(twin, seed=1)
    net = Discriminator(base=8, norm=TORCH_NORM)

    def apply(variables, corrupted, image):
        (logits, _), updated = net.apply(variables, corrupted, image, mode=mode, mutable=["batch_stats"])
        return logits, updated

    target = rng.standard_normal((2, 6, 6, 1), dtype=np.float32)
    _assert_step_parity(reference, torch, twin, apply, _pair(rng, 64), target)


def test_window_mode_restores_each_window_as_the_authors_do_alone(rng):
    """The authors test one image at a time in train mode: what shares the batch must not matter."""
    torch = pytest.importorskip("torch")
    from tests.reference import upcracknet_torch as reference

    torch.manual_seed(4)
    twin = reference.Generator(base=4, depth=5, dropout=False).train()
    variables = reference.variables(twin)
    image, _ = _pair(rng, 64)
    restored, _ = jax.jit(partial(Generator(base=4, depth=5).apply, mode="window", dropout=False))(variables, image)
    alone = [_to_numpy(twin(tensor[None])) for tensor in _to_torch(torch, image)[0]]
    assert_parity(restored, np.concatenate(alone))


# --- dropout


def test_dropout_takes_half_of_the_elements_of_the_first_three_decoder_layers(rng):
    """Element by element: no channel or position is dropped or kept as one; what stays is doubled."""
    net = Generator(base=8, depth=5)
    image, _ = _pair(rng, 64)
    variables = _filled(rng, partial(net.init, mode="running", dropout=False), image)
    apply = jax.jit(partial(net.apply, mode="window"), static_argnames="dropout")
    _, plain = apply(variables, image, dropout=False)
    restored, dropped = apply(variables, image, dropout=True, rngs={"dropout": KEY})
    again, _ = apply(variables, image, dropout=True, rngs={"dropout": jax.random.key(1)})

    kept = np.asarray(dropped["dec1"]) != 0
    np.testing.assert_allclose(dropped["dec1"], np.where(kept, 2 * np.asarray(plain["dec1"]), 0), rtol=1e-5, atol=1e-6)
    for name in ("dec1", "dec2", "dec3"):
        assert not (np.asarray(plain[name]) == 0).any()
        zero = np.asarray(dropped[name]) == 0
        assert abs(zero.mean() - 0.5) < 0.03, name
        by_channel, by_position = zero.mean((1, 2)), zero.mean(3)
        assert 0 < by_position.min() and by_position.max() < 1
        assert 0 < by_channel.min() and by_channel.max() < 1
    for name in ("dec4", "dec5"):
        assert not (np.asarray(dropped[name]) == 0).any()
    assert float(jnp.abs(restored - again).max()) > 0


# --- sizes, range, dtypes


def test_generator_is_fully_convolutional(rng):
    net = Generator(base=2, depth=4)
    x = rng.uniform(-1, 1, (1, 48, 80, 3)).astype(np.float32)
    variables = _filled(rng, partial(net.init, mode="batch", dropout=False), x)
    restored, features = jax.jit(partial(net.apply, mode="window", dropout=False))(variables, x)
    assert net.side_multiple == 16
    assert restored.shape == x.shape and float(jnp.abs(restored).max()) <= 1
    assert features["enc4"].shape == (1, 3, 5, 16)


@pytest.mark.parametrize(
    ("settings", "shape", "words"),
    [
        ({}, (1, 250, 256, 3), "250x256.*multiples of 256.*256x256"),
        ({"depth": 5}, (1, 64, 65, 3), "64x65.*multiples of 32.*64x96"),
        ({"depth": 5}, (1, 0, 32, 3), "0x32.*32x32"),
        ({}, (256, 256, 3), "takes"),
        ({"depth": 1}, (1, 64, 64, 3), "depth of at least 2"),
        ({"base": 0}, (1, 256, 256, 3), "base 0"),
    ],
)
def test_generator_refuses_a_size_by_naming_one_that_works(settings, shape, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(
            partial(Generator(**settings).init, KEY, mode="batch", dropout=False),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )


@pytest.mark.parametrize(("side", "nearest"), [(250, 256), (100, 128), (90, 64), (8, 16), (0, 16), (-4, 16)])
def test_a_side_without_a_depth_is_refused_with_the_nearest_that_has_one(side, nearest):
    with pytest.raises(ValueError, match=f"side {side} .*nearest is {nearest}"):
        depth_for(side)


def test_discriminator_needs_24_pixels_and_two_images_of_one_shape():
    net = Discriminator(base=2)
    small, least, wide = (jnp.zeros((1, 24 - i, 24, 3)) for i in (1, 0, -8))
    init = partial(net.init_with_output, KEY, mode="running")
    (logits, _), _ = jax.eval_shape(init, least, least)
    assert logits.shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="23x24.*at least 24"):
        jax.eval_shape(init, small, small)
    with pytest.raises(ValueError, match="same"):
        jax.eval_shape(init, least, wide)


def test_networks_keep_strict_promotion_in_every_mode(strict, rng):
    image, other = (jnp.asarray(x) for x in _pair(rng, 32))
    generator, discriminator = Generator(base=2, depth=3), Discriminator(base=2)
    variables = jax.eval_shape(partial(generator.init, mode="batch", dropout=False), KEY, image)
    judge = jax.eval_shape(partial(discriminator.init, mode="batch"), KEY, image, other)
    for mode in ("batch", "running", "window"):
        settings = {"mode": mode, "mutable": ["batch_stats"]}
        jax.eval_shape(
            lambda v, x, s=settings: generator.apply(v, x, dropout=True, rngs={"dropout": KEY}, **s),
            variables,
            image,
        )
        jax.eval_shape(lambda v, x, y, s=settings: discriminator.apply(v, x, y, **s), judge, image, other)


def test_output_is_float32_when_the_layers_compute_in_bfloat16():
    net = Generator(base=2, depth=2, dtype=jnp.bfloat16)
    x = jnp.zeros((1, 8, 8, 3))
    init = partial(net.init_with_output, mode="batch", dropout=False)
    (restored, features), variables = jax.eval_shape(init, KEY, x)
    assert restored.dtype == jnp.float32 and features["dec1"].dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
