"""A transposed convolution with the parameters of Flax's and the speed of ordinary convolutions."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from cracks_jax.ops.convolution import KERNEL, conv_transpose


class ConvTranspose(nn.Module):
    """Transposed convolution, kernel 4 and stride 2: (b, h, w, in) -> (b, 2h, 2w, features).

    The same function of the same parameters as `nn.ConvTranspose(features, (4, 4), (2, 2), padding="SAME")`.
    `kernel` (4, 4, in, features) and `bias` (features,).

    Attributes:
      features: output channels.
      dtype: compute dtype; None keeps what input and parameters promote to.
      kernel_init, bias_init: initialisers of the two parameters.
    """

    features: int
    dtype: Any = None
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b 2*h 2*w o"]:
        kernel = self.param(
            "kernel", self.kernel_init, (KERNEL, KERNEL, x.shape[-1], self.features), jnp.float32
        )
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return conv_transpose(x, kernel) + bias.reshape(1, 1, 1, -1)


def uniform_fan_in(fan_in: int) -> Callable[..., Array]:
    """PyTorch's default for the biases of convolutions: uniform in +-1/sqrt(fan_in).

    PyTorch counts `fan_in` on the kernel as it stores it: kernel area times the input channels of a
    convolution, but times the *output* channels of a transposed one.
    """
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
