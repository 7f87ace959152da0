"""CrackSeg (Song et al. 2020): dilated ResNet, multiscale dilated module, upsampling module.

Images in, logits out: float32 (b, h, w, 3) ImageNet-standardised RGB -> (b, h, w, 2), channel 1 for crack.
Any size of at least 32 pixels a side. `READINGS` holds the readings of what the paper leaves open about
Figure 3, `VARIANTS` the rows of its Tables 4 and 5; the default is reading R1 and Table 5's "Conv1 and
Block1, x3".

Every convolution but the classifier is without bias and followed by batch norm and ReLU; kernels are drawn He
normal (fan out), the classifier's LeCun normal.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cracks_jax.layers.blocks import Conv, ConvNormAct
from cracks_jax.layers.norm import BatchNorm, NormMode
from cracks_jax.networks.backbones.resnet import ResNet
from cracks_jax.ops.precision import at_least_float32
from cracks_jax.ops.resize import resize_bilinear

LEAST_SIDE = 32


class Branch(nn.Module):
    """One branch of Figure 3 read as a receptive field block (Liu et al. 2018): a kernel, then a dilated 3x3.

    1x1 to `width`; kernel x kernel (left out for kernel 1 behind the 1x1); 3x3 with dilation `rate`.

    Attributes:
      width: channels.
      kernel: side of the standard convolution.
      rate: dilation of the last one, which then spans 3 + 2 (rate - 1) pixels (eq. 3).
      reduce: False takes the standard convolution straight to the input's channels, without the 1x1 (reading
        R1n).
    """

    width: int
    kernel: int
    rate: int
    reduce: bool = True
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b h w d"]:
        block = partial(ConvNormAct, self.width, norm=self.norm, dtype=self.dtype)
        if self.reduce:
            x = block(1, name="reduce")(x, mode)
        if self.kernel > 1 or not self.reduce:
            x = block(self.kernel, name="standard")(x, mode)
        return block(3, rate=self.rate, name="dilated")(x, mode)


class DilatedBranch(nn.Module):
    """One branch of Figure 3 read as a single convolution whose kernel is itself dilated (reading R2)."""

    width: int
    kernel: int
    rate: int
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b h w d"]:
        block = ConvNormAct(
            self.width, self.kernel, rate=self.rate, norm=self.norm, dtype=self.dtype, name="dilated"
        )
        return block(x, mode)


class MultiscaleDilatedModule(nn.Module):
    """Figure 3: three branches with growing kernels and dilations, merged by a 1x1 convolution.

    Attributes:
      width: channels of each branch (256 in Figure 3).
      out_width: channels after the merge (512 in Table 1).
      kernels: side of each branch's standard convolution.
      rates: dilation of each branch's last convolution ({1, 3, 5}; {6, 12, 18} in Table 4).
      branch: makes a branch.
    """

    width: int = 256
    out_width: int = 512
    kernels: tuple[int, ...] = (1, 3, 5)
    rates: tuple[int, ...] = (1, 3, 5)
    branch: Callable[..., nn.Module] = Branch
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b h w d"]:
        common = {"norm": self.norm, "dtype": self.dtype}
        branches = [
            self.branch(self.width, kernel, rate, name=f"branch_d{rate}", **common)(x, mode)
            for kernel, rate in zip(self.kernels, self.rates, strict=True)
        ]
        return ConvNormAct(self.out_width, name="merge", **common)(jnp.concatenate(branches, -1), mode)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017), Table 4's competitor of the multiscale dilated
    module.

    1x1, a 3x3 for each rate, and the image's mean through a 1x1, merged by a 1x1. With batch norm in mode
    `window` the mean has one position only and is normalised away; the other branches are not touched by
    that.
    """

    width: int = 256
    out_width: int = 512
    rates: tuple[int, ...] = (6, 12, 18)
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mode: NormMode) -> Float[Array, "b h w d"]:
        block = partial(ConvNormAct, norm=self.norm, dtype=self.dtype)
        branches = [block(self.width, name="branch_1x1")(x, mode)]
        branches += [block(self.width, 3, rate=rate, name=f"branch_d{rate}")(x, mode) for rate in self.rates]
        image = block(self.width, name="image_pooling")(jnp.mean(x, (1, 2), keepdims=True), mode)
        branches.append(jnp.broadcast_to(image, branches[0].shape))
        return block(self.out_width, name="merge")(jnp.concatenate(branches, -1), mode)


class UpsamplingModule(nn.Module):
    """Table 1's decoder: low-level maps through a 1x1, high-level ones enlarged, then 3x3 convolutions.

    Attributes:
      width: channels of the low-level path and of the 3x3 convolutions (256).
      convolutions: number of the latter (3; 2 to 4 in Table 5).
    """

    width: int = 256
    convolutions: int = 3
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(
        self, high: Float[Array, "b H W c"], low: list[Array], size: tuple[int, int], mode: NormMode
    ) -> Float[Array, "b h w d"]:
        """Everything is resized to `size`, a quarter of the image's."""
        block = partial(ConvNormAct, self.width, norm=self.norm, dtype=self.dtype)
        joined = jnp.concatenate([resize_bilinear(x, size) for x in low], -1)
        x = jnp.concatenate([resize_bilinear(high, size), block(1, name="low_level")(joined, mode)], -1)
        for index in range(self.convolutions):
            x = block(3, name=f"conv_{index + 1}")(x, mode)
        return x


class CrackSeg(nn.Module):
    """The whole network of Figure 2; returns logits at the input's size and the feature maps by name.

    The maps are the trunk's (see `ResNet`), `multiscale` (the module's output) and, with low-level features,
    `upsampling`.

    Attributes:
      depth, version, output_stride, input_norm, narrow: of the trunk `resnet`.
      high_level: trunk maps that are fused by concatenation (they share one size).
      context: makes the multiscale module; None leaves it out.
      per_block: gives each high-level map a module of its own and fuses behind them (reading R3).
      low_level: trunk maps for the decoder, resized to block1's size; () means no decoder: the classifier
        works at the output stride and its logits are enlarged at once (Table 4's bilinear x16).
      decoder: makes the upsampling module.
      classes: logits per pixel.
      norm: makes every batch norm; dtype: of the computation, None follows the input and the parameters.
    """

    depth: int = 50
    version: int = 1
    output_stride: int = 16
    input_norm: bool = False
    narrow: int = 1
    high_level: tuple[str, ...] = ("block3", "block4")
    context: Callable[..., nn.Module] | None = MultiscaleDilatedModule
    per_block: bool = False
    low_level: tuple[str, ...] = ("conv1", "block1")
    decoder: Callable[..., nn.Module] = UpsamplingModule
    classes: int = 2
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], *, mode: NormMode
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        size = (x.shape[1], x.shape[2])
        _check_size(size)
        trunk = ResNet(
            depth=self.depth,
            version=self.version,
            output_stride=self.output_stride,
            input_norm=self.input_norm,
            narrow=self.narrow,
            norm=self.norm,
            dtype=self.dtype,
            name="resnet",
        )
        _, features = trunk(x, mode=mode)
        y = features["multiscale"] = self._high_level(features, mode)
        if self.low_level:
            quarter = features["block1"].shape[1:3]
            decoder = self.decoder(norm=self.norm, dtype=self.dtype, name="upsampling_module")
            y = decoder(y, [features[name] for name in self.low_level], quarter, mode)
            features["upsampling"] = y
        logits = Conv(self.classes, (1, 1), dtype=self.dtype, name="classifier")(y)
        # Half precision ends here: enlarging and the softmax are cheap, and thresholds need the digits.
        logits = at_least_float32(logits)
        return resize_bilinear(logits, size), features

    def _high_level(self, features: dict[str, Array], mode: NormMode) -> Array:
        maps = [features[name] for name in self.high_level]
        if self.context is None:
            return jnp.concatenate(maps, -1)
        context = partial(self.context, norm=self.norm, dtype=self.dtype)
        if not self.per_block:
            return context(name="multiscale_dilated_module")(jnp.concatenate(maps, -1), mode)
        return jnp.concatenate(
            [
                context(name=f"multiscale_dilated_module_{name}")(x, mode)
                for name, x in zip(self.high_level, maps, strict=True)
            ],
            -1,
        )


def _check_size(size: tuple[int, int]) -> None:
    if min(size) < LEAST_SIDE:
        height, width = (max(side, LEAST_SIDE) for side in size)
        raise ValueError(
            f"image is {size[0]}x{size[1]}; CrackSeg needs at least {LEAST_SIDE} pixels a side"
            f" (pad it to {height}x{width})"
        )


def narrowed(network: CrackSeg, by: int) -> CrackSeg:
    """The network with every channel count divided by `by`: trunk, multiscale module and decoder (small forms)."""
    if by == 1:
        return network
    parts = {"context": network.context, "decoder": network.decoder}
    divided: dict[str, Any] = {
        name: partial(make, **_divided(make, by)) for name, make in parts.items() if make is not None
    }
    return network.clone(narrow=network.narrow * by, **divided)


def _divided(make: Callable[..., nn.Module], by: int) -> dict[str, int]:
    """The widths that `make` would give its module, divided."""
    module = make()
    return {name: getattr(module, name) // by for name in ("width", "out_width") if hasattr(module, name)}


# How Figure 3 can be read (experiments/README.md argues for R1).
READINGS: dict[str, Callable[..., CrackSeg]] = {
    "R1": CrackSeg,
    "R1n": partial(CrackSeg, context=partial(MultiscaleDilatedModule, branch=partial(Branch, reduce=False))),
    "R2": partial(CrackSeg, context=partial(MultiscaleDilatedModule, branch=DilatedBranch)),
    "R3": partial(CrackSeg, context=partial(MultiscaleDilatedModule, out_width=256), per_block=True),
}

_block4_alone = partial(CrackSeg, high_level=("block4",), low_level=())
_large_rates = partial(MultiscaleDilatedModule, rates=(6, 12, 18))

# The rows of Table 4 (no low-level features, bilinear x16) and of Table 5 (low-level maps x 3x3
# convolutions).
VARIANTS: dict[str, Callable[..., CrackSeg]] = {
    "table4_baseline": partial(_block4_alone, context=None),
    "table4_aspp": partial(_block4_alone, context=ASPP),
    "table4_b_dilated": partial(_block4_alone, context=_large_rates),
    "table4_s_dilated": _block4_alone,
    "table4_fusion_s_dilated": partial(CrackSeg, low_level=()),
    "table5_conv1_x2": partial(
        CrackSeg, low_level=("conv1",), decoder=partial(UpsamplingModule, convolutions=2)
    ),
    "table5_conv1_x3": partial(CrackSeg, low_level=("conv1",)),
    "table5_conv1_x4": partial(
        CrackSeg, low_level=("conv1",), decoder=partial(UpsamplingModule, convolutions=4)
    ),
    "table5_block1_x3": partial(CrackSeg, low_level=("block1",)),
    "table5_both_x3": CrackSeg,
    "table5_both_x3_r101": partial(CrackSeg, depth=101),
}
