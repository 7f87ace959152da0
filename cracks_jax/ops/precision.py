"""How narrow a float may be where sums are taken."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Half precision raised to float32; float32 and float64 as they are.

    Decided by the width of the dtype, since `jnp.promote_types` refuses two different ones under strict promotion.
    """
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
