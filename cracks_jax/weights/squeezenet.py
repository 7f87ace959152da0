"""A pretrained SqueezeNet 1.1 -> the tree of `networks.backbones.squeezenet.SqueezeNetFeatures`. NumPy only.

The file is Gluon's (MXNet's) `squeezenet1.1`: `squeezenet0_conv<i>_weight` (out, in, h, w) and `_bias`, i
counted in forward order: 0 the stem, three for each of fire 2 to 9 (squeeze, 1x1, 3x3), 25 the classifier.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cracks_jax.weights.files import Loaded, convolution_kernel, loaded_from, take

_SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)
_EXPAND = (64, 64, 128, 128, 192, 192, 256, 256)
_CLASSES = 1000


def mxnet_squeezenet(tensors: Mapping[str, np.ndarray], *, classifier: bool = False) -> Loaded:
    """Gluon's `squeezenet1.1` as the extractor's parameters.

    Args:
      tensors: as `read_tensors` gives them.
      classifier: also `conv25`, for `SqueezeNetFeatures(classifier=True)`.

    Raises:
      CracksError: a tensor is missing or has another shape; names file and tensor.
    """
    params: dict[str, Any] = {"conv0": _convolution(tensors, 0, (3, 3, 3, 64))}
    inputs = 64
    for i, (squeeze, expand) in enumerate(zip(_SQUEEZE, _EXPAND, strict=True)):
        params[f"fire{i + 2}"] = {
            "squeeze": _convolution(tensors, 3 * i + 1, (1, 1, inputs, squeeze)),
            "expand1x1": _convolution(tensors, 3 * i + 2, (1, 1, squeeze, expand)),
            "expand3x3": _convolution(tensors, 3 * i + 3, (3, 3, squeeze, expand)),
        }
        inputs = 2 * expand
    if classifier:
        params["conv25"] = _convolution(tensors, 25, (1, 1, inputs, _CLASSES))
    return loaded_from(params, {})


def _convolution(
    tensors: Mapping[str, np.ndarray], index: int, shape: tuple[int, int, int, int]
) -> dict[str, np.ndarray]:
    """Kernel and bias of the file's convolution `index`; `shape` in Flax's order."""
    name = f"squeezenet0_conv{index}"
    return {
        "kernel": convolution_kernel(tensors, f"{name}_weight", shape),
        "bias": take(tensors, f"{name}_bias", shape[-1:]),
    }
