"""Convolution, normalisation and activation as one block. Channels last.

Padding is PyTorch's, so that odd sizes agree: every convolution here has an odd kernel, keeps the size at
stride 1 and gives ceil(size / stride) otherwise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from cracks_jax.layers.norm import BatchNorm, NormMode
from cracks_jax.ops.convolution import conv_general_dilated

# Flax's convolution in the form that is fastest on the platform.
Conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)

# He et al. 2015, eq. 14 for the backward pass; what torchvision draws its ResNets from.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    rate: int = 1,
    use_bias: bool = False,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Module:
    """A convolution with He normal (fan out) kernels, padded by rate x (kernel - 1) / 2 on each side."""
    pad = rate * (kernel - 1) // 2
    return Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        kernel_dilation=(rate, rate),
        use_bias=use_bias,
        kernel_init=he_normal_fan_out,
        dtype=dtype,
        name=name,
    )


class ConvNormAct(nn.Module):
    """Convolution without bias (`conv`), batch norm (`norm`), ReLU.

    Attributes:
      features: output channels.
      kernel, stride, rate: side, stride and dilation of the convolution.
      act: False leaves the ReLU out.
      norm: makes the batch norm.
      dtype: of the computation; None follows the input and the parameters.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    rate: int = 1
    act: bool = True
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b H W d"]:
        x = convolution(
            self.features, self.kernel, stride=self.stride, rate=self.rate, dtype=self.dtype, name="conv"
        )(x)
        x = self.norm(name="norm")(x, mode)
        return nn.relu(x) if self.act else x


def max_pool_3x3_s2(x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Maximum over 3x3 at stride 2 with one pixel of padding: ceil(size / 2)."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
