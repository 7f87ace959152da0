"""Adversarial losses of UP-CrackNet (eq. 8) on logits: the discriminator's output before its sigmoid.

The paper and the authors' code apply the sigmoid in the discriminator and take logarithms of it afterwards,
which gives infinity, and infinite gradients, once it rounds to 0 or 1. Here the sigmoid is part of the loss
(softplus), so value and gradient are finite for every finite logit. Logits have any shape: a patch
discriminator gives (b, h, w, 1), and all patches count alike.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cracks_jax.ops.precision import at_least_float32

GeneratorForm = Literal["non_saturating", "minimax"]


@jax.named_scope("discriminator_loss")
def discriminator_loss(real_logits: Float[Array, "..."], fake_logits: Float[Array, "..."]) -> Float[Array, ""]:
    """Binary cross-entropy, real as 1 plus restored as 0: mean(-log D(real)) + mean(-log(1 - D(fake))).

    The negative of what the discriminator maximises in eq. 8. The authors' code halves the sum: that factor
    is a loss weight, so it belongs to the caller.
    """
    return jnp.mean(_softplus(-real_logits)) + jnp.mean(_softplus(fake_logits))


@jax.named_scope("generator_loss")
def generator_loss(fake_logits: Float[Array, "..."], form: GeneratorForm) -> Float[Array, ""]:
    """What the generator minimises on the discriminator's logits for its restorations.

    Args:
      form: `minimax` is eq. 8 as printed, mean(log(1 - D(fake))): at most 0, unbounded below, and its
        gradient vanishes when the discriminator is sure. `non_saturating` is the authors' code,
        mean(-log D(fake)).

    Raises:
      ValueError: for any other form.
    """
    if form == "non_saturating":
        return jnp.mean(_softplus(-fake_logits))
    if form == "minimax":
        return -jnp.mean(_softplus(fake_logits))
    raise ValueError(f"generator loss {form!r} is not known; use one of {', '.join(get_args(GeneratorForm))}")


def _softplus(x: Array) -> Array:
    """In at least float32; softplus(-x) is -log sigmoid(x), softplus(x) is -log(1 - sigmoid(x))."""
    return jax.nn.softplus(at_least_float32(x))
