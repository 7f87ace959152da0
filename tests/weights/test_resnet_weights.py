"""Pretrained ResNet files: every tensor at its place, against the twins, and wrong files refused."""

from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cracks_jax.errors import CracksError
from cracks_jax.networks.backbones.resnet import ResNet
from cracks_jax.weights.files import read_tensors
from cracks_jax.weights.resnet import gluon_resnet50v2, torchvision_resnet
from tests.reference.parity import QUICK_COMPILE, assert_parity, flatten

torch = pytest.importorskip("torch")

from tests.reference.resnet_torch import ResNetV1, ResNetV2, draw, to_flax, to_gluon  # noqa: E402

GLUON_FILE = "resnet50v2_stages1to3_nchw.npz"


def _same(ours, theirs):
    a, b = flatten(ours), flatten(theirs)
    assert a.keys() == b.keys()
    for name, tensor in b.items():
        assert a[name].dtype == np.float32
        np.testing.assert_array_equal(a[name], tensor, err_msg=name)


def _maps(network, variables, x):
    run = jax.jit(partial(network.apply, mode="running"), compiler_options=QUICK_COMPILE)
    return run(variables, x)[1]


def _twins_maps(twin, x):
    with torch.no_grad():
        maps = twin.eval()(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    return {name: value.numpy().transpose(0, 2, 3, 1) for name, value in maps.items()}


def _with_classifier(twin):
    return dict(twin.state_dict()) | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(("depth", "suffix"), [(50, ".pth"), (101, ".safetensors")])
def test_torchvisions_file_gives_torchvisions_features(rng, tmp_path, depth, suffix):
    """Tensor by tensor, and after block4 in version 1; the classifier in the file does not matter."""
    twin = draw(ResNetV1(depth))
    path = tmp_path / f"resnet{depth}{suffix}"
    if suffix == ".pth":
        torch.save(_with_classifier(twin), path)
    else:
        save_file({name: tensor.numpy() for name, tensor in _with_classifier(twin).items()}, path)
    loaded = torchvision_resnet(read_tensors(path), depth)
    _same({"params": loaded.params, "batch_stats": loaded.batch_stats}, to_flax(twin.state_dict()))
    assert loaded.missing == ()

    network = ResNet(depth=depth)
    x = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
    drawn = jax.eval_shape(partial(network.init, mode="running"), jax.random.key(0), x)
    variables = loaded.over(drawn)  # no shape is left over: every array of the network was in the file
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
    assert_parity(_maps(network, variables, x), _twins_maps(twin, x))


def test_a_complete_gluon_file_gives_every_tensor_of_version_2():
    twin = draw(ResNetV2())
    loaded = gluon_resnet50v2(to_gluon(twin.state_dict()) | {"resnetv24_dense0_bias": np.zeros(1000)})
    _same({"params": loaded.params, "batch_stats": loaded.batch_stats}, to_flax(twin.state_dict()))
    assert loaded.missing == ()
    assert len(loaded.names) == len(flatten(to_flax(twin.state_dict())))


def test_the_gluon_file_at_hand_gives_stages_1_to_3_and_draws_block4(rng, cracks_weights):
    """Real weights: the twin that reads the same file by its own names has the same features, and they are sane."""
    tensors = read_tensors(cracks_weights / GLUON_FILE)
    loaded = gluon_resnet50v2(tensors)
    drawn_part = ("block4/", "final_norm/")
    paths = {name: name.split("/", 1)[1] for name in (*loaded.names, *loaded.missing)}
    assert all(not paths[name].startswith(drawn_part) for name in loaded.names)
    assert all(paths[name].startswith(drawn_part) for name in loaded.missing)
    assert "params/block3/unit6/conv3/kernel" in loaded.names
    assert "batch_stats/input_norm/var" in loaded.names
    # Stem: 1 convolution, 2 norms. 3 + 4 + 6 units of 3 convolutions and 3 norms, 3 projections.
    assert len(loaded.names) == (1 + 13 * 3 + 3) + 4 * (2 + 13 * 3)

    twin = draw(ResNetV2())
    variables = loaded.over(to_flax(twin.state_dict()))
    theirs = twin.state_dict()
    for name, tensor in tensors.items():
        module, leaf = name.removeprefix("resnetv24_").split("_", 1)
        if not name.startswith(("resnetv24_stage4", "resnetv24_dense0", "resnetv24_batchnorm2")):
            if module.startswith("stage"):
                second, leaf = leaf.split("_", 1)
                module = f"{module}_{second}"
            leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
            theirs[f"{module}.{leaf}"].copy_(torch.from_numpy(tensor.astype(np.float32)))
    _same(variables, to_flax(theirs))

    # A drawn photograph: ImageNet-standardised smooth noise.
    x = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
    ours = _maps(ResNet(version=2, input_norm=True), variables, x)
    assert_parity(ours, _twins_maps(twin, x))
    assert all(0.02 < float(np.std(value)) < 5 for value in ours.values())


# --- refusals


def _refused(read, *words):
    with pytest.raises(CracksError) as caught:
        read()
    for word in words:
        assert word in str(caught.value)


@pytest.fixture(scope="module")
def state():
    return {name: tensor.numpy() for name, tensor in ResNetV1().state_dict().items()}


@pytest.mark.parametrize("wrong", ["missing", "shape", "other depth", "other network"])
def test_a_wrong_torchvision_file_is_refused_by_file_and_tensor(tmp_path, state, wrong):
    tensors, words = dict(state), ["layer3.4.bn2.running_var"]
    if wrong == "missing":
        del tensors["layer3.4.bn2.running_var"]
        words += ["is missing", "(256,)"]
    elif wrong == "shape":
        tensors["layer3.4.bn2.running_var"] = np.ones(255, np.float32)
        words += ["(255,)", "(256,)"]
    elif wrong == "other depth":  # ResNet-101 has every tensor of ResNet-50, and more
        tensors["layer3.6.conv1.weight"] = np.zeros((256, 1024, 1, 1), np.float32)
        words = ["'layer3.6.conv1.weight'", "torchvision's resnet50", "another depth"]
    else:
        tensors, words = {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}, ["'conv1.weight'", "missing"]
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path)
    _refused(lambda: torchvision_resnet(read_tensors(path), 50), str(path), *words)


def test_resnet_50s_file_for_resnet_101_is_refused(state):
    _refused(lambda: torchvision_resnet(state, 101), "'layer3.6.conv1.weight'", "missing")


def test_a_wrong_gluon_file_is_refused_by_file_and_tensor(tmp_path):
    tensors = to_gluon(ResNetV2().state_dict())
    for change, words in (
        ({"resnetv24_stage3_conv7_weight": None}, ["resnetv24_stage3_conv7_weight", "missing"]),
        ({"resnetv24_stage2_batchnorm3_gamma": np.ones(7, np.float32)}, ["batchnorm3_gamma", "(7,)", "(512,)"]),
        ({"resnetv24_stage3_conv19_weight": np.ones(7, np.float32)}, ["stage3_conv19_weight", "resnet50_v2"]),
        ({"resnetv24_conv0_weight": None}, ["conv0_weight", "stem"]),
    ):
        path = tmp_path / "wrong.npz"
        np.savez(path, **{name: tensor for name, tensor in (tensors | change).items() if tensor is not None})
        _refused(lambda path=path: gluon_resnet50v2(read_tensors(path)), str(path), *words)
