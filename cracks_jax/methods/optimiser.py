"""Optimisers and learning-rate schedules of both papers, with every number traced.

Learning rate and weight decay reach the compiled step through `hyper`, so a sweep over them compiles once.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from cracks_jax.experiment import Training

PyTree = Any


def transform(name: str, *, beta1: float, beta2: float, momentum: float) -> optax.GradientTransformation:
    """The gradient's direction, before the learning rate: Adam (epsilon 1e-8, as PyTorch) or SGD with momentum."""
    if name == "adam":
        return optax.scale_by_adam(b1=beta1, b2=beta2, eps=1e-8)
    if name == "sgd":
        return optax.trace(decay=momentum)
    raise ValueError(f"optimiser {name!r}; use adam or sgd")


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


def schedule(training: "Training", steps_per_epoch: float) -> optax.Schedule:
    """The factor on every learning rate at a step.

    `exponential`: schedule_decay ** epoch, set once per epoch (UP-CrackNet; 0.99). `poly`: from 1 down to
    final/first with the given power (CrackSeg's lineage; 0.9). `constant`: 1.
    """
    if training.schedule == "constant":
        return optax.constant_schedule(1.0)
    if training.schedule == "exponential":
        return lambda step: training.schedule_decay ** int(step / steps_per_epoch)
    end = min(training.final_learning_rate / training.learning_rate, 1.0) if training.learning_rate > 0 else 1.0
    return lambda step: (1 - end) * (1 - min(step / training.steps, 1.0)) ** training.schedule_power + end


def hyper(training: "Training", factor: float) -> dict[str, jnp.ndarray]:
    """The numbers that one training step reads, all float32 scalars."""
    values = {
        "learning_rate": training.learning_rate * factor,
        "discriminator_learning_rate": training.discriminator_learning_rate * factor,
        "weight_decay": training.weight_decay,
        "colour": training.colour,
        **training.loss_weights,
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
