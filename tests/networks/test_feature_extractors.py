"""The feature extractors of the style loss compute what PyTorch computes from the same weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.networks.backbones.squeezenet import SqueezeNetFeatures
from cracks_jax.networks.backbones.vgg import VGG19Features
from cracks_jax.weights.squeezenet import mxnet_squeezenet
from cracks_jax.weights.vgg import torchvision_vgg19
from tests.reference.parity import assert_parity

KEY = jax.random.key(0)


def _image(rng, h, w):
    return rng.standard_normal((2, h, w, 3), dtype=np.float32)


def _squeezenet_tensors(rng):
    """Drawn weights under the names of the file, in PyTorch's layout; activations keep their size."""
    from tests.reference.squeezenet_torch import FIRES

    shapes = [(64, 3, 3, 3)]
    for inputs, squeeze, expand in FIRES:
        shapes += [(squeeze, inputs, 1, 1), (expand, squeeze, 1, 1), (expand, squeeze, 3, 3)]
    tensors = {}
    for i, (o, *fan) in enumerate([*shapes, (1000, 512, 1, 1)]):
        kernel = rng.standard_normal((o, *fan), dtype=np.float32) * (2 / np.prod(fan)) ** 0.5
        tensors[f"squeezenet0_conv{i}_weight"] = kernel.astype(np.float32)
        tensors[f"squeezenet0_conv{i}_bias"] = rng.uniform(-0.1, 0.1, o).astype(np.float32)
    return tensors


def _squeezenet_torch(torch, tensors, image):
    """The twin with these weights, and the file's last convolution behind it."""
    from tests.reference.squeezenet_torch import FEATURES, SqueezeNet

    twin = SqueezeNet()
    parts = ("weight", "bias")
    named = [{part: torch.tensor(tensors[f"squeezenet0_conv{i}_{part}"]) for part in parts} for i in range(26)]
    for conv, weights in zip((m for m in twin.modules() if isinstance(m, torch.nn.Conv2d)), named[:-1], strict=True):
        conv.load_state_dict(weights)
    with torch.no_grad():
        maps = twin(torch.tensor(image.transpose(0, 3, 1, 2)))
        outputs = {f"fire{number}": found for number, found in zip(FEATURES, maps, strict=True)}
        outputs["conv25"] = torch.relu(torch.nn.functional.conv2d(maps[-1], **named[-1]))
    return {name: output.numpy().transpose(0, 2, 3, 1) for name, output in outputs.items()}


@pytest.mark.parametrize(("h", "w"), [(17, 18), (39, 61)])
def test_squeezenet_equals_pytorch_whatever_the_size_leaves_over_at_the_poolings(rng, h, w):
    torch = pytest.importorskip("torch")
    tensors, image = _squeezenet_tensors(rng), _image(rng, h, w)
    params = mxnet_squeezenet(tensors, classifier=True).params
    ours = jax.jit(SqueezeNetFeatures(classifier=True).apply)({"params": params}, image)
    theirs = _squeezenet_torch(torch, tensors, image)
    assert ours.keys() == {"fire3", "fire5", "fire8", "fire9", "conv25"}
    for name, features in ours.items():
        assert_parity(features, theirs[name])


def test_squeezenet_computes_its_classifier_only_when_asked():
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    plain, variables = jax.eval_shape(SqueezeNetFeatures().init_with_output, KEY, x)
    assert {name: f.shape[1:] for name, f in plain.items()} == {
        "fire3": (15, 15, 128),
        "fire5": (7, 7, 256),
        "fire8": (3, 3, 512),
        "fire9": (3, 3, 512),
    }
    _, with_classifier = jax.eval_shape(SqueezeNetFeatures(classifier=True).init_with_output, KEY, x)
    assert with_classifier["params"].keys() - variables["params"].keys() == {"conv25"}
    # 1,235,496 is SqueezeNet 1.1's published size, its 512 x 1000 classifier included.
    assert sum(leaf.size for leaf in jax.tree.leaves(with_classifier)) == 1_235_496


@pytest.mark.parametrize(("h", "w"), [(16, 16), (35, 49)])
def test_vgg19_equals_its_pytorch_twin(rng, h, w):
    """Outputs, and the gradient by the image, which is what the style loss takes from it."""
    torch = pytest.importorskip("torch")
    from tests.reference.vgg_torch import VGG19

    torch.manual_seed(0)
    twin, image = VGG19().eval(), _image(rng, h, w)
    params = torchvision_vgg19({name: t.numpy() for name, t in twin.state_dict().items()}).params

    def total(x):
        features = VGG19Features().apply({"params": params}, x)
        return sum(jnp.mean(jnp.abs(f)) for f in features.values()), features

    (_, ours), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(image)
    tensor = torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = {name: f for name, f in twin(tensor).items() if name in ours}
    sum(f.abs().mean() for f in theirs.values()).backward()
    assert ours.keys() == theirs.keys() == {"relu2_2", "relu3_4", "relu4_4", "relu5_2"}
    for name, features in theirs.items():
        assert_parity(ours[name], features.detach().numpy().transpose(0, 2, 3, 1))
    assert_parity(gradient, tensor.grad.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("network", "least"), [(SqueezeNetFeatures(), 17), (VGG19Features(), 16)], ids=["squeezenet", "vgg19"]
)
def test_the_least_side_works_and_less_is_refused_by_naming_it(strict, network, least):
    def features(*shape):
        return jax.eval_shape(partial(network.init_with_output, KEY), jnp.zeros(shape))[0]

    assert all(min(f.shape) >= 1 for f in features(1, least, 2 * least, 3).values())
    with pytest.raises(ValueError, match=f"at least {least}"):
        features(1, 2 * least, least - 1, 3)
    with pytest.raises(ValueError, match="takes .b, h, w, 3."):
        features(1, 32, 32, 1)
