"""Dilated ResNet-50 and ResNet-101 (He et al. 2016), as a trunk of feature maps without a classifier.

Images in: float32 (b, h, w, 3), ImageNet-standardised RGB. Version 1 has torchvision's geometry: a
bottleneck's stride is on its 3x3 convolution, and 23,508,032 (50) or 42,500,160 (101) parameters. Version 2
is the pre-activation network as in Gluon's `resnet50_v2`. Every convolution is drawn He normal (fan out) and
has no bias. Padding is PyTorch's, so every stride gives ceil(size / 2) for odd sizes too.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from cracks_jax.layers.blocks import ConvNormAct, convolution, max_pool_3x3_s2
from cracks_jax.layers.norm import BatchNorm, NormMode

UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
# Output stride -> stride and dilation of blocks 1 to 4: past the output stride, a block dilates instead.
STRIDES_AND_RATES = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


class BottleneckV1(nn.Module):
    """1x1, 3x3, 1x1 with the norm and ReLU after each convolution, and after the sum.

    Attributes:
      width: channels of the 3x3 convolution; the output has four times as many.
      stride, rate: of the 3x3 convolution (multi-grid 1, 1, 1: the same rate in every unit of a block).
      project: the shortcut is a 1x1 convolution with norm (a block's first unit).
    """

    width: int
    stride: int = 1
    rate: int = 1
    project: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b H W d"]:
        common = {"norm": self.norm, "dtype": self.dtype}
        out = self.width * EXPANSION
        y = ConvNormAct(self.width, name="conv1", **common)(x, mode)
        y = ConvNormAct(self.width, 3, self.stride, self.rate, name="conv2", **common)(y, mode)
        y = ConvNormAct(out, act=False, name="conv3", **common)(y, mode)
        if self.project:
            x = ConvNormAct(out, stride=self.stride, act=False, name="shortcut", **common)(x, mode)
        return nn.relu(x + y)


class BottleneckV2(nn.Module):
    """Pre-activation: norm and ReLU before each of 1x1, 3x3, 1x1; nothing after the sum (He et al. 2016b).

    As in Gluon, the projection reads the activated input, and only units with a projection do.
    """

    width: int
    stride: int = 1
    rate: int = 1
    project: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b H W d"]:
        out = self.width * EXPANSION
        y = nn.relu(self.norm(name="norm1")(x, mode))
        if self.project:
            x = convolution(out, 1, stride=self.stride, dtype=self.dtype, name="shortcut")(y)
        y = convolution(self.width, 1, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y, mode))
        y = convolution(self.width, 3, stride=self.stride, rate=self.rate, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(self.norm(name="norm3")(y, mode))
        y = convolution(out, 1, dtype=self.dtype, name="conv3")(y)
        return x + y


class Block(nn.Module):
    """A run of bottlenecks, `unit1`, `unit2`, ...; the first projects and takes the stride."""

    bottleneck: Callable[..., nn.Module]
    width: int
    units: int
    stride: int = 1
    rate: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b H W d"]:
        for index in range(self.units):
            x = self.bottleneck(
                self.width,
                stride=self.stride if index == 0 else 1,
                rate=self.rate,
                project=index == 0,
                norm=self.norm,
                dtype=self.dtype,
                name=f"unit{index + 1}",
            )(x, mode)
        return x


class ResNet(nn.Module):
    """The trunk; returns block4's features and all five maps by their names.

    The maps: `conv1` at h/2 with 64 channels, `block1` at h/4 with 256, `block2` at h/8 with 512, `block3`
    with 1024 and `block4` with 2048 at h/16 and h/32, but nowhere coarser than `output_stride`. In version 2,
    `conv1` is taken after its norm and ReLU, blocks 1 to 3 are the raw sums, and block4 has passed the final
    norm and ReLU.

    Attributes:
      depth: 50 or 101.
      version: 1, or 2 for pre-activation.
      output_stride: 8, 16 or 32.
      input_norm: a batch norm on the image (Gluon's `batchnorm0`, whose scale and offset Gluon fixes at 1 and
        0; here they are trained); version 2 only.
      narrow: divides every channel count; 1 is the published network, 2 to 16 make small forms of it.
      norm, dtype: as in `ConvNormAct`.
    """

    depth: int = 50
    version: int = 1
    output_stride: int = 16
    input_norm: bool = False
    narrow: int = 1
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, mode: NormMode
    ) -> tuple[Float[Array, "b H W c"], dict[str, Array]]:
        self._check()
        common = {"norm": self.norm, "dtype": self.dtype}
        features: dict[str, Array] = {}
        if self.input_norm:
            x = self.norm(name="input_norm")(x, mode)
        features["conv1"] = x = ConvNormAct(64 // self.narrow, 7, 2, name="conv1", **common)(x, mode)
        x = max_pool_3x3_s2(x)
        strides, rates = STRIDES_AND_RATES[self.output_stride]
        for index, units in enumerate(UNITS[self.depth]):
            name = f"block{index + 1}"
            x = Block(
                BottleneckV1 if self.version == 1 else BottleneckV2,
                WIDTHS[index] // self.narrow,
                units,
                stride=strides[index],
                rate=rates[index],
                name=name,
                **common,
            )(x, mode)
            features[name] = x
        if self.version == 2:
            features["block4"] = x = nn.relu(self.norm(name="final_norm")(x, mode))
        return x, features

    def _check(self) -> None:
        if self.depth not in UNITS:
            raise ValueError(f"ResNet depth {self.depth}; use one of {sorted(UNITS)}")
        if self.version not in (1, 2):
            raise ValueError(f"ResNet version {self.version}; use 1, or 2 for pre-activation")
        if self.output_stride not in STRIDES_AND_RATES:
            raise ValueError(f"output stride {self.output_stride}; use one of {sorted(STRIDES_AND_RATES)}")
        if self.input_norm and self.version != 2:
            raise ValueError(
                "input_norm belongs to version 2 (Gluon's resnet50_v2); leave it off for version 1"
            )
