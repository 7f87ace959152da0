"""Batch normalisation with the three ways of taking statistics that crack detection needs.

Channels last, any number of leading axes. Statistics are computed in at least float32.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cracks_jax.ops.precision import at_least_float32

NormMode = Literal["batch", "running", "window"]


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (`batch`), or over each sample's own height and width (`window`).

    Modes: `batch` normalises by the statistics of the whole batch and updates the running averages (training);
    `running` uses the averages; `window` uses each sample's own statistics and updates nothing, so that a score never
    depends on which other windows share its batch (DESIGN: batch norm at scoring).

    Attributes:
      momentum: share of the old average that is kept at each update (PyTorch's 0.1 is 0.9 here).
      epsilon: added to the variance.
      unbiased_running_var: average n/(n-1) times the batch variance, as PyTorch does.
      debias: divide out the initial value (as Adam does), so that averages with a decay of 0.9997 are usable early;
        keeps a `count` beside `mean` and `var`.
      axis_name: mapped axis over which statistics are averaged (pmap); under jit a sharded batch needs none.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_running_var: bool = False
    debias: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... c"], mode: NormMode) -> Float[Array, "... c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean_avg = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var_avg = self.variable("batch_stats", "var", jnp.ones, (channels,))
        count = self.variable("batch_stats", "count", jnp.zeros, ()) if self.debias else None

        if mode == "running":
            mean, var = mean_avg.value, var_avg.value
        elif mode == "window":
            mean, var = _moments(x, tuple(range(1, x.ndim - 1)), None, keepdims=True)
        elif mode == "batch":
            axes = tuple(range(x.ndim - 1))
            mean, var = _moments(x, axes, None if self.is_initializing() else self.axis_name, keepdims=False)
            if not self.is_initializing():
                rate = jnp.asarray(1 - self.momentum, mean_avg.value.dtype)
                if count is not None:
                    count.value = count.value + 1
                    rate = rate / (1 - self.momentum**count.value)
                observed = var * _bessel(x, self.axis_name) if self.unbiased_running_var else var
                mean_avg.value += rate * (mean.astype(mean_avg.value.dtype) - mean_avg.value)
                var_avg.value += rate * (observed.astype(var_avg.value.dtype) - var_avg.value)
        else:
            raise ValueError(f"batch norm mode is {mode!r}; use 'batch', 'running' or 'window'")

        # Folding scale and mean into one multiply and one add saves two passes over the activations.
        lead = (1,) * (x.ndim - 1) + (channels,)
        if mode != "window":
            mean, var = mean.reshape(lead), var.reshape(lead)
        gain = scale.reshape(lead) * jax.lax.rsqrt(var + self.epsilon)
        shift = bias.reshape(lead) - mean * gain
        return (x * gain.astype(x.dtype) + shift.astype(x.dtype)).astype(x.dtype)


def _moments(x: Array, axes: tuple[int, ...], axis_name: str | None, *, keepdims: bool) -> tuple[Array, Array]:
    """Mean and biased variance over `axes`, and over the mapped axis where one is named."""
    x = at_least_float32(x)
    mean = jnp.mean(x, axes, keepdims=True)
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    # Two passes: E[x^2] - E[x]^2 loses float32 digits where the mean is large against the spread.
    var = jnp.mean(jnp.square(x - mean), axes, keepdims=True)
    if axis_name is not None:
        var = jax.lax.pmean(var, axis_name)
    return (mean, var) if keepdims else (mean.reshape(-1), var.reshape(-1))


def _bessel(x: Array, axis_name: str | None) -> float:
    """n / (n - 1) for the number of positions that the statistics cover; 1 where there is only one."""
    n = x.size // x.shape[-1]
    if axis_name is not None:
        n *= jax.lax.axis_size(axis_name)
    return n / (n - 1) if n > 1 else 1.0
