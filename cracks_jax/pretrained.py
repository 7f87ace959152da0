"""The state that a training begins with: fresh arrays, and pretrained ones from the files that the experiment names.

Files are named by the experiment and found under $CRACKS_WEIGHTS, or by a path; records hold their last part only.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import Experiment
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.runtime.randomness import device_key
from cracks_jax.weights.files import Loaded, read_tensors
from cracks_jax.weights.resnet import gluon_resnet50v2, torchvision_resnet
from cracks_jax.weights.squeezenet import mxnet_squeezenet
from cracks_jax.weights.vgg import torchvision_vgg19

VARIABLE = "CRACKS_WEIGHTS"


def find_weights(name: str) -> Path | None:
    """The file called `name`, as a path or under $CRACKS_WEIGHTS; None where it is in neither place."""
    root = os.environ.get(VARIABLE)
    for path in (Path(name), *([Path(root) / name] if root else [])):
        if path.is_file():
            return path
    return None


def resolve_weights(experiment: Experiment, say: Callable[[str], None]) -> Experiment:
    """The experiment as it can be trained here: without the style extractor's file the style term is off, and said so.

    A trunk's missing file is an error: training from scratch instead would be another experiment.
    """
    method, training = experiment.method, experiment.training
    if isinstance(method, Restoration) and method.style_extractor != "none":
        file = training.style_weights
        if file is None or find_weights(file) is None:
            why = "no training.style_weights is named" if file is None else f"{file} is not here nor under ${VARIABLE}"
            say(f"style loss is off: {why}")
            experiment = dataclasses.replace(
                experiment,
                method=dataclasses.replace(method, style_extractor="none"),
                training=dataclasses.replace(training, style_weights=None),
            )
    if training.pretrained is not None and find_weights(training.pretrained) is None:
        raise CracksError(
            f"{training.pretrained}: pretrained weights not found, neither as a path nor under ${VARIABLE}; name a "
            "file with --set training.pretrained=FILE, or train another member (--member imagenet_v2 starts from a "
            "pre-activation trunk, --member scratch from random weights)"
        )
    return experiment


def adopt(experiment: Experiment, state: Any, say: Callable[[str], None]) -> tuple[Any, list[str]]:
    """The state with every pretrained array in the place of the drawn one, and the names of those arrays."""
    method, training = experiment.method, experiment.training
    names: list[str] = []
    if isinstance(method, Segmentation) and training.pretrained is not None:
        loaded = _trunk(training.pretrained, method)
        state = {**state, "network": loaded.over(state["network"], within="resnet")}
        names += [f"network/{name}" for name in loaded.names]
        say(f"{training.pretrained}: {len(loaded.names)} arrays loaded" + _drawn(loaded))
    if isinstance(method, Restoration) and method.style_extractor != "none":
        assert training.style_weights is not None
        loaded = _extractor(training.style_weights, method.style_extractor)
        state = {**state, "style": loaded.over(state["style"])}
        names += [f"style/{name}" for name in loaded.names]
        say(f"style loss: {method.style_extractor} from {training.style_weights}")
    return state, names


def initial_state(experiment: Experiment, say: Callable[[str], None]) -> tuple[Any, list[str]]:
    """The method's fresh state with pretrained arrays in place, and the names of what was loaded."""
    state = _init(experiment.method, experiment.data.pipeline.crop)(device_key(experiment.seed, "init", 0))
    return adopt(experiment, state, say)


def state_like(experiment: Experiment) -> Any:
    """Shapes and dtypes of the state, on one device; nothing is computed."""
    init = _init(experiment.method, experiment.data.pipeline.crop)
    like = init.eval_shape(device_key(experiment.seed, "init", 0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like)


@lru_cache(maxsize=8)
def _init(method: Any, side: int) -> Any:
    """Key -> fresh state; traced and compiled once in a process, however many trainings begin or are scored there."""
    shape = {"image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)}
    return jax.jit(lambda key: method.init(key, shape))


def weights_digests(experiment: Experiment) -> dict[str, str]:
    """SHA-256 of every pretrained file that the experiment reads, by the file's name."""
    names = [experiment.training.pretrained, experiment.training.style_weights]
    files = [path for name in names if name is not None and (path := find_weights(name)) is not None]
    return {path.name: _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _trunk(name: str, method: Segmentation) -> Loaded:
    path = find_weights(name)
    assert path is not None
    tensors = read_tensors(path)
    if method.version == 2:
        if method.network.depth != 50:
            raise UsageError("pretrained pre-activation weights are read for ResNet-50 only; use method.version=1")
        return gluon_resnet50v2(tensors)
    return torchvision_resnet(tensors, method.network.depth)


def _extractor(name: str, kind: str) -> Loaded:
    path = find_weights(name)
    assert path is not None
    tensors = read_tensors(path)
    return torchvision_vgg19(tensors) if kind == "vgg19" else mxnet_squeezenet(tensors)


def _drawn(loaded: Loaded) -> str:
    return f", {len(loaded.missing)} are not in it and start random" if loaded.missing else ""
