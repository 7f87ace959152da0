"""Optimisers and learning-rate schedules of both papers, with every number traced.

Learning rate and weight decay reach the compiled step through `hyper`, so a sweep over them compiles once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from cracks_jax.errors import UsageError

PyTree = Any


def transform(name: str, *, beta1: float, beta2: float, momentum: float) -> optax.GradientTransformation:
    """The gradient's direction, before the learning rate: Adam (epsilon 1e-8, as PyTorch) or SGD with momentum."""
    if name == "adam":
        return optax.scale_by_adam(b1=beta1, b2=beta2, eps=1e-8)
    if name == "sgd":
        return optax.trace(decay=momentum)
    raise ValueError(f"optimiser {name!r}; use adam or sgd")


def layer_dtype(name: str) -> Any:
    """What a network's layers take as `dtype`; float32 is None: what inputs and parameters are, float64 in tests."""
    return None if name == "float32" else jnp.dtype(name)


def check_shares(settings: Any, *names: str) -> None:
    """UsageError unless each of these fields, the share of an old average that is kept at a step, is in [0, 1)."""
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise UsageError(f"method.{name} is {value}; expected a share from 0 to below 1")


@jax.named_scope("optimiser")
def update(
    tx: optax.GradientTransformation,
    gradients: PyTree,
    state: PyTree,
    params: PyTree,
    learning_rate: Float[Array, ""],
    weight_decay: Float[Array, ""] | None = None,
) -> tuple[PyTree, PyTree]:
    """One step: (params, state). `weight_decay` is coupled L2, w * ||kernel||^2 / 2 in the loss, kernels only."""
    if weight_decay is not None:
        gradients = jax.tree.map(
            lambda g, p: g + weight_decay.astype(p.dtype) * p if p.ndim > 1 else g, gradients, params
        )
    steps, state = tx.update(gradients, state, params)
    params = jax.tree.map(lambda p, s: p - learning_rate.astype(p.dtype) * s, params, steps)
    return params, state


def schedule(
    kind: str, *, steps: int, steps_per_epoch: float, decay: float, power: float, end: float
) -> Callable[[int], float]:
    """The factor on every learning rate at a step.

    `exponential`: decay ** epoch, set once per epoch (UP-CrackNet; 0.99). `poly`: from 1 down to `end` with the given
    power (CrackSeg's lineage; 0.9). `constant`: 1.
    """
    if kind == "constant":
        return lambda step: 1.0
    if kind == "exponential":
        return lambda step: decay ** int(step / steps_per_epoch)
    if kind == "poly":
        return lambda step: (1 - end) * (1 - min(step / steps, 1.0)) ** power + end
    raise ValueError(f"schedule {kind!r}; use constant, exponential or poly")
