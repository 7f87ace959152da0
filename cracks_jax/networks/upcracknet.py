"""UP-CrackNet (Ma et al.): a U-Net that restores corrupted road images, and the PatchGAN that judges them.

Images in [-1, 1], float32 (b, h, w, 3). The generator is pix2pix's 256-pixel U-Net with the authors' order of
operations (activation, convolution, batch norm, dropout); submodules carry the names of their code, `enc1` to
`enc8` and `dec1` to `dec8`. Every kernel is 4x4 with a bias, also in front of a batch norm.

Initialisation as in the authors' code: kernels N(0, 0.02), biases uniform in +-1/sqrt(fan_in) (PyTorch's
default, which they leave alone), batch-norm scale 1 and bias 0.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cracks_jax.layers.blocks import Conv
from cracks_jax.layers.conv_transpose import ConvTranspose, uniform_fan_in
from cracks_jax.layers.norm import BatchNorm, NormMode
from cracks_jax.ops.precision import at_least_float32

SLOPE = 0.2
DROPOUT_RATE = 0.5
DROPOUT_LAYERS = 3
KERNEL = (4, 4)
MIN_PATCH_SIDE = 24

_kernel_init = nn.initializers.normal(0.02)


def depth_for(side: int) -> int:
    """Encoder layers that take a square image of `side` pixels to 1x1: 7 for 128, 8 for 256, 9 for 512.

    Raises:
      ValueError: `side` is not a power of two of at least 16.
    """
    if side < 16 or side & (side - 1):
        below = 1 << max(side.bit_length() - 1, 4) if side > 0 else 16
        nearest = below if side - below <= 2 * below - side else 2 * below
        raise ValueError(
            f"image side {side} is not a power of two of at least 16; the generator is built for such sides"
            f" (the nearest is {nearest})"
        )
    return side.bit_length() - 1


def _convolution(
    x: Float[Array, "b h w i"], features: int, stride: int, dtype: Any
) -> Float[Array, "b h2 w2 o"]:
    """Kernel 4, padding 1, initialised as the authors do; a submodule `conv` of the block that calls."""
    return Conv(
        features,
        KERNEL,
        (stride, stride),
        padding=((1, 1), (1, 1)),
        dtype=dtype,
        kernel_init=_kernel_init,
        bias_init=uniform_fan_in(KERNEL[0] * KERNEL[1] * x.shape[-1]),
        name="conv",
    )(x)


def _side_by_side(x: Float[Array, "b h w c"], skip: Float[Array, "b h w c"]) -> Float[Array, "b h w 2*c"]:
    """Their concatenation along the channels, written so that XLA shares it among a processor's cores."""
    return jnp.stack([x, skip], -2).reshape(*x.shape[:-1], -1)


class ConvBlock(nn.Module):
    """Leaky ReLU, convolution, batch norm: one layer of the encoder or of the discriminator.

    Attributes:
      features: output channels.
      stride: 2 halves the image; 1 takes one pixel off each axis.
      activate: apply the leaky ReLU (slope 0.2) first; not in a network's first layer.
      normalise: batch norm last; not in a network's first and last layer.
    """

    features: int
    stride: int = 2
    activate: bool = True
    normalise: bool = True
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], mode: NormMode) -> Float[Array, "b h2 w2 o"]:
        if self.activate:
            x = nn.leaky_relu(x, SLOPE)
        x = _convolution(x, self.features, self.stride, self.dtype)
        return self.norm(name="norm")(x, mode) if self.normalise else x


class DecoderBlock(nn.Module):
    """ReLU, transposed convolution, batch norm, dropout: one layer of the decoder; doubles the image.

    Attributes:
      features: output channels.
      normalise: batch norm; not in the last layer.
    """

    features: int
    normalise: bool = True
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], mode: NormMode, drop: bool) -> Float[Array, "b 2*h 2*w o"]:
        x = ConvTranspose(
            self.features,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            # PyTorch counts the fan-in of a transposed kernel by its output channels.
            bias_init=uniform_fan_in(KERNEL[0] * KERNEL[1] * self.features),
            name="conv",
        )(nn.relu(x))
        if self.normalise:
            x = self.norm(name="norm")(x, mode)
        # Element by element, after the norm, and no matter which statistics the norm takes: at test time the
        # authors leave both as in training.
        return nn.Dropout(DROPOUT_RATE, name="dropout")(x, deterministic=not drop)


class Generator(nn.Module):
    """The restoring U-Net: enc1 to enc`depth`, dec1 to dec`depth`, every encoder map but the last skipped.

    With the defaults and 256x256 images it is the authors' network: 54,419,459 parameters. Depth 7 (for 128
    pixels) has one layer of 8 x base channels less on each side, depth 9 (for 512) one more; channels of the
    encoder are min(base * 2**i, 8 * base). Fully convolutional: sides may be any multiple of `side_multiple`.

    Attributes:
      base: channels of enc1 (ngf, 64).
      depth: encoder layers, each halving the image (8 for 256 pixels; `depth_for`).
      out: output channels.
      norm: called with `name=`; a batch norm that takes (x, mode).
      dtype: compute dtype; None keeps that of input and parameters. The output is at least float32.
    """

    base: int = 64
    depth: int = 8
    out: int = 3
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @property
    def side_multiple(self) -> int:
        """What height and width must be multiples of, in pixels."""
        return 2**self.depth

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, mode: NormMode, dropout: bool
    ) -> tuple[Float[Array, "b h w out"], dict[str, Float[Array, "b _ _ _"]]]:
        """Corrupted image in [-1, 1] -> (restored image in [-1, 1], every layer's map by name).

        Args:
          mode: statistics of the batch norms (`BatchNorm`).
          dropout: drop half of the elements after dec1, dec2 and dec3; needs the random stream `dropout`. It
            is the network's only noise.

        Raises:
          ValueError: a side is not a multiple of `side_multiple`, or the settings make no network.
        """
        self._check(x.shape)
        features: dict[str, Array] = {}
        blocks = {"norm": self.norm, "dtype": self.dtype}
        widths = [self.base * min(2**i, 8) for i in range(self.depth)]
        last = self.depth - 1

        for i, width in enumerate(widths):
            name = f"enc{i + 1}"
            x = ConvBlock(width, activate=i > 0, normalise=0 < i < last, name=name, **blocks)(x, mode)
            features[name] = x

        for i in range(last):
            drop = dropout and i < DROPOUT_LAYERS
            x = DecoderBlock(widths[last - 1 - i], name=f"dec{i + 1}", **blocks)(x, mode, drop)
            features[f"dec{i + 1}"] = x
            # Decoder first: the order of the authors' concatenation, and so of the kernel's input channels.
            x = _side_by_side(x, features[f"enc{last - i}"])

        x = DecoderBlock(self.out, normalise=False, name=f"dec{self.depth}", **blocks)(x, mode, False)
        features[f"dec{self.depth}"] = x
        return jnp.tanh(at_least_float32(x)), features

    def _check(self, shape: tuple[int, ...]) -> None:
        if self.base < 1 or self.depth < 2 or self.out < 1:
            raise ValueError(
                f"generator with base {self.base}, depth {self.depth}, out {self.out}; needs base and out of"
                " at least 1 and depth of at least 2"
            )
        if len(shape) != 4:
            raise ValueError(f"input has shape {shape}; the generator takes (b, h, w, 3)")
        sides = shape[1:3]
        # At least one multiple, so that a size of zero is refused as well.
        fits = [max(-(-side // self.side_multiple), 1) * self.side_multiple for side in sides]
        if list(sides) != fits:
            raise ValueError(
                f"image is {sides[0]}x{sides[1]}; a generator of depth {self.depth} takes sides that are"
                f" multiples of {self.side_multiple} (pad to {fits[0]}x{fits[1]})"
            )


class Discriminator(nn.Module):
    """The 70x70 PatchGAN: judges each patch of an image beside its corrupted form. 2,769,601 parameters.

    Attributes:
      base: channels of the first layer (64).
      norm: called with `name=`; a batch norm that takes (x, mode).
      dtype: compute dtype; None keeps that of input and parameters. The output is at least float32.
    """

    base: int = 64
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(
        self, corrupted: Float[Array, "b h w c"], image: Float[Array, "b h w c"], *, mode: NormMode
    ) -> tuple[Float[Array, "b h2 w2 1"], dict[str, Float[Array, "b _ _ _"]]]:
        """Corrupted and real or restored image, both in [-1, 1] -> (one logit per patch, every layer's map).

        The paper's output in (0, 1) is `jax.nn.sigmoid` of the logits: the sigmoid is left to the loss, which
        then stays finite where the discriminator is sure. A side of h gives h // 8 - 2 patches: 30 at 256.

        Raises:
          ValueError: the two images differ in shape, or are smaller than 24 pixels, where no patch is left.
        """
        if corrupted.shape != image.shape or image.ndim != 4:
            raise ValueError(
                f"corrupted image has shape {corrupted.shape}, the other {image.shape}; expected the same"
                " (b, h, w, c) twice"
            )
        if min(image.shape[1:3]) < MIN_PATCH_SIDE:
            raise ValueError(
                f"image is {image.shape[1]}x{image.shape[2]}; the discriminator needs sides of at least"
                f" {MIN_PATCH_SIDE} pixels (resize or pad to {MIN_PATCH_SIDE}x{MIN_PATCH_SIDE})"
            )
        x = jnp.concatenate([corrupted, image], -1)
        features: dict[str, Array] = {}
        base = self.base
        layers = ((base, 2), (2 * base, 2), (4 * base, 2), (8 * base, 1), (1, 1))
        for i, (width, stride) in enumerate(layers):
            inner = 0 < i < len(layers) - 1
            name = f"layer{i + 1}"
            x = ConvBlock(
                width, stride, activate=i > 0, normalise=inner, norm=self.norm, dtype=self.dtype, name=name
            )(x, mode)
            features[name] = x
        return at_least_float32(x), features
