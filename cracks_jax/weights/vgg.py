"""A pretrained VGG-19 file -> the tree of `networks.backbones.vgg.VGG19Features`. NumPy only.

The file is torchvision's `vgg19` without batch norm: `features.<i>.weight` (out, in, h, w) and `.bias`, i the
place in its sequence, where every ReLU and every pooling counts as one.
"""

from collections.abc import Mapping

import numpy as np

from cracks_jax.weights.files import Loaded, convolution_kernel, loaded_from, take

# Place in torchvision's sequence, our name, input and output channels; what comes later is not used.
_CONVOLUTIONS = (
    (0, "conv1_1", 3, 64),
    (2, "conv1_2", 64, 64),
    (5, "conv2_1", 64, 128),
    (7, "conv2_2", 128, 128),
    (10, "conv3_1", 128, 256),
    (12, "conv3_2", 256, 256),
    (14, "conv3_3", 256, 256),
    (16, "conv3_4", 256, 256),
    (19, "conv4_1", 256, 512),
    (21, "conv4_2", 512, 512),
    (23, "conv4_3", 512, 512),
    (25, "conv4_4", 512, 512),
    (28, "conv5_1", 512, 512),
    (30, "conv5_2", 512, 512),
)


def torchvision_vgg19(tensors: Mapping[str, np.ndarray]) -> Loaded:
    """torchvision's `vgg19` as the extractor's parameters; tensors after conv5_2 are left aside.

    Args:
      tensors: as `read_tensors` gives them.

    Raises:
      CracksError: a tensor is missing or has another shape (VGG-16, or a VGG with batch norm); names both.
    """
    params = {
        ours: {
            "kernel": convolution_kernel(tensors, f"features.{place}.weight", (3, 3, inputs, outputs)),
            "bias": take(tensors, f"features.{place}.bias", (outputs,)),
        }
        for place, ours, inputs, outputs in _CONVOLUTIONS
    }
    return loaded_from(params, {})
