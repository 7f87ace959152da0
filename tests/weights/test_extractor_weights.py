"""Weight files of the feature extractors: the mapping is complete, and another network's file is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.errors import CracksError
from cracks_jax.networks.backbones.squeezenet import SqueezeNetFeatures
from cracks_jax.networks.backbones.vgg import VGG19Features
from cracks_jax.ops.colour import IMAGENET_MEAN, IMAGENET_STD
from cracks_jax.weights.files import read_tensors
from cracks_jax.weights.squeezenet import mxnet_squeezenet
from cracks_jax.weights.vgg import torchvision_vgg19

SQUEEZENET_FILE = "squeezenet1.1_nchw.npz"


def _shapes(network):
    """The network's own parameters, as it would draw them."""
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)


def _loaded_shapes(loaded):
    return jax.tree.map(lambda array: (array.shape, array.dtype), loaded.params)


def test_squeezenet_file_gives_the_check_values_that_came_with_it(cracks_weights):
    """Computed with PyTorch by those who stored the file."""
    loaded = mxnet_squeezenet(read_tensors(cracks_weights / SQUEEZENET_FILE), classifier=True)
    network = SqueezeNetFeatures(classifier=True)
    assert _loaded_shapes(loaded) == _shapes(network)
    x = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32).transpose(0, 2, 3, 1)
    standardised = (x - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    features = jax.jit(network.apply)({"params": loaded.params}, standardised)
    for name, mean in {"fire3": 3.273464, "fire5": 10.737187, "fire8": 9.090039, "fire9": 1.339096}.items():
        np.testing.assert_allclose(jnp.mean(features[name]), mean, rtol=3e-6, err_msg=name)
    scores = jnp.mean(features["conv25"], (0, 1, 2))
    np.testing.assert_allclose(scores[:4], [9.131817, 7.499529, 13.468174, 15.994893], rtol=3e-6)
    assert int(jnp.argmax(scores)) == 574


def test_squeezenet_loads_without_its_classifier(cracks_weights):
    loaded = mxnet_squeezenet(read_tensors(cracks_weights / SQUEEZENET_FILE))
    assert _loaded_shapes(loaded) == _shapes(SqueezeNetFeatures())
    assert loaded.batch_stats == {} and loaded.missing == ()
    assert len(loaded.names) == 50 and "params/fire2/squeeze/kernel" in loaded.names


def test_squeezenet_refuses_another_file_by_the_name_of_what_is_missing():
    with pytest.raises(CracksError, match="'squeezenet0_conv0_weight' is missing"):
        mxnet_squeezenet({"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)})


@pytest.fixture(scope="module")
def twin():
    torch = pytest.importorskip("torch")
    from tests.reference.vgg_torch import VGG19

    torch.manual_seed(0)
    return VGG19()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_vgg19_loads_from_a_file(twin, suffix, tmp_path):
    """With tensors of the classifier beside the features, as torchvision has them; arrays are the twin's."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = dict(twin.state_dict()) | {"classifier.6.bias": torch.zeros(1000)}
    path = tmp_path / f"vgg19{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    loaded = torchvision_vgg19(read_tensors(path))
    assert _loaded_shapes(loaded) == _shapes(VGG19Features())
    assert len(loaded.names) == 28 and loaded.missing == ()
    convolutions = [layer for layer in twin.features if isinstance(layer, torch.nn.Conv2d)]
    for name, theirs in zip(sorted(loaded.params), convolutions, strict=False):
        ours = loaded.params[name]
        np.testing.assert_array_equal(ours["kernel"], theirs.weight.detach().numpy().transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(ours["bias"], theirs.bias.detach().numpy())


def test_a_vgg_of_another_depth_is_refused_with_file_and_tensor(twin, tmp_path):
    """VGG-16 has a pooling where VGG-19 has its fourth convolution of block 3."""
    from safetensors.numpy import save_file

    wanted = {name: t.numpy() for name, t in twin.state_dict().items() if int(name.split(".")[1]) < 16}
    save_file(wanted, tmp_path / "vgg16.safetensors")
    with pytest.raises(CracksError, match=r"vgg16\.safetensors: tensor 'features\.16\.weight' is missing"):
        torchvision_vgg19(read_tensors(tmp_path / "vgg16.safetensors"))
