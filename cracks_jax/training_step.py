"""The training step around a method's own, and its numbers: colour, guard, the vote, placement over devices.

One program serves every training of a process that differs in numbers alone: those are `hyper`, arguments of the step.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cracks_jax.data.augment import Colour, jitter_colour
from cracks_jax.experiment import Experiment
from cracks_jax.group.vote import with_vote
from cracks_jax.methods.guard import SKIPS_LEFT, guarded
from cracks_jax.runtime.parallel import Parallel, Program, Shard

_NO_SKIPS = np.int32(0)


@lru_cache(maxsize=8)
def program(method: Any, colour: float, strategy: str, chosen: tuple[jax.Device, ...], shard: Shard) -> Program:
    """One program for every training in this process that differs in numbers alone."""
    parallel = Parallel(strategy, chosen, shard)
    method = dataclasses.replace(method, axis_name=parallel.axis_name)
    return parallel.program(with_vote(whole_step(method, colour)))


def whole_step(method: Any, colour: float) -> Callable[..., tuple[Any, Any]]:
    """A batch of uint8 images to the next state, or to the same where the step's numbers are not finite."""
    return guarded(with_augmentation(method, colour))


def with_augmentation(method: Any, amount: float) -> Callable[..., tuple[Any, Any]]:
    """uint8 batches to [0, 1], colour drawn anew for each image, then the method's step."""
    colour = Colour(amount, amount, amount)

    def step(state: Any, batch: Any, rates: Any, key: jax.Array) -> tuple[Any, Any]:
        colour_key, step_key = jax.random.split(key)
        # float32; float64 where jax is told to use it, as proofs of equality do.
        wide = jnp.result_type(float)
        batch = {k: v if k == "mask" else v.astype(wide) / 255 for k, v in batch.items() if k != "keep"}
        if amount:
            if method.axis_name is not None:
                colour_key = jax.random.fold_in(colour_key, jax.lax.axis_index(method.axis_name))
            batch["image"] = jitter_colour(colour_key, batch["image"], colour)
        return method.train_step(state, batch, rates, step_key)

    return step


def hyper(experiment: Experiment, factor: float, skips_left: Any = _NO_SKIPS) -> dict[str, Any]:
    """The traced numbers of one step: float32 rates times the schedule's factor, decay, loss weights; int32 skips."""
    training = experiment.training
    values = {
        "learning_rate": training.learning_rate * factor,
        "discriminator_learning_rate": training.discriminator_learning_rate * factor,
        "weight_decay": training.weight_decay,
        **training.loss_weights,
    }
    numbers: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return {**numbers, SKIPS_LEFT: skips_left}
