"""What the best checkpoint is selected by: masked restoration of undamaged windows, or crack IoU at argmax.

A validator is made once for a training, and maps a state to named numbers; `method.selection` says which one counts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cracks_jax.data.datasets import Dataset
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.data.pipeline import windows
from cracks_jax.experiment import Experiment
from cracks_jax.methods.restoration import Restoration
from cracks_jax.metrics.counts import Counts
from cracks_jax.ops.corruption import multiscale_squares
from cracks_jax.predict import Scorer
from cracks_jax.runtime.randomness import device_key

Validator = Callable[[Any], dict[str, float | None]]


def validator(experiment: Experiment, validation: Dataset) -> Validator:
    """The validator that belongs to an experiment's method."""
    if isinstance(experiment.method, Restoration):
        return _restoration_validator(experiment, experiment.method, validation)
    return _segmentation_validator(experiment, validation)


def _restoration_validator(experiment: Experiment, method: Restoration, validation: Dataset) -> Validator:
    """Masked restoration of undamaged windows, over the six square masks (DESIGN: splits)."""
    side = experiment.data.pipeline.crop
    images = windows(validation, side)
    masks = multiscale_squares(side)
    how = experiment.detection
    key = device_key(experiment.seed, "validation", 0)

    @jax.jit
    def terms(state: Any, chunk: jax.Array, keep: jax.Array) -> dict[str, jax.Array]:
        return method.validation_terms(state, chunk.astype(jnp.float32) / 255, keep, key, how)

    def validate(state: Any) -> dict[str, float | None]:
        needed = {k: state[k] for k in ("generator",)}
        sums: dict[str, float] = {"mae": 0.0, "ssim": 0.0, "msgms": 0.0}
        for first in range(0, len(images), 32):
            chunk = images[first : first + 32]
            for keep in masks:
                for name, value in terms(needed, chunk, keep).items():
                    sums[name] += float(value) * len(chunk) / (len(images) * len(masks))
        return {"restoration_loss": sum(sums.values()), **sums}

    return validate


def _segmentation_validator(experiment: Experiment, validation: Dataset) -> Validator:
    """Crack IoU at argmax on whole validation images, pooled."""
    pairs = [(read_image(r.image), read_mask(r.mask)) for r in validation if r.mask is not None]
    method, how = experiment.method, dataclasses.replace(experiment.detection, rule="0.5")

    def validate(state: Any) -> dict[str, float | None]:
        scorer = Scorer(method, state, how, seed=experiment.seed)
        counts = Counts()
        for image, mask in pairs:
            counts += Counts.of(scorer(image) > 0.5, mask)
        return {name: counts.metrics()[name] for name in ("precision", "recall", "f1", "iou")}

    return validate
