"""Losses of supervised segmentation, on logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from cracks_jax.ops.precision import at_least_float32


@jax.named_scope("cross_entropy")
def cross_entropy(
    logits: Float[Array, "b h w 2"], mask: Bool[Array, "b h w"] | Integer[Array, "b h w"]
) -> Float[Array, ""]:
    """Two-class softmax cross-entropy, mean over all pixels, without class weights (CrackSeg, eq. 2).

    The paper prints -1/n sum[y log p + (1 - y)(1 - log p)]. Read literally, a background pixel adds
    log p - 1, which falls without bound as p goes to 0 and has an exploding gradient: training on it
    diverges. It is taken as a slip for log(1 - p), which makes eq. 2 the ordinary cross-entropy.

    Computed as softplus(wrong logit - right logit), which is the same for two classes and finite, with its
    gradient, for every finite logit; in at least float32.

    Args:
      logits: channel 0 background, channel 1 crack.
      mask: crack where not 0.

    Raises:
      ValueError: when the channels are not two, or mask and logits differ in size.
    """
    if logits.shape[-1] != 2 or logits.shape[:-1] != mask.shape:
        raise ValueError(
            f"cross_entropy: logits {logits.shape} and mask {mask.shape} do not fit; "
            f"logits must be (b, h, w, 2), the mask (b, h, w)"
        )
    logits = at_least_float32(logits)
    crack_over_background = logits[..., 1] - logits[..., 0]
    wrong_over_right = jnp.where(mask.astype(bool), -crack_over_background, crack_over_background)
    return jnp.mean(jax.nn.softplus(wrong_over_right))
