"""What the best checkpoint is selected by: masked restoration of undamaged windows, or crack IoU at argmax.

A validator is made once for a training, and maps a state to named numbers; `method.selection` says which one counts.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cracks_jax.data.datasets import Dataset
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.data.pipeline import windows
from cracks_jax.experiment import Experiment
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.restoration import Restoration
from cracks_jax.metrics.counts import Counts
from cracks_jax.ops.corruption import multiscale_squares
from cracks_jax.predict import Scorer
from cracks_jax.runtime.randomness import device_key

Validator = Callable[[Any], dict[str, float | None]]
# Windows that are restored in one call.
_MOST = 32


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
    size = -(-len(images) // -(-len(images) // _MOST))  # as few calls as _MOST allows, all of one size
    terms = _restoration_terms(method, experiment.detection)
    key = device_key(experiment.seed, "validation", 0)

    def validate(state: Any) -> dict[str, float | None]:
        needed = {"generator": state["generator"]}
        sums = {"mae": 0.0, "ssim": 0.0, "msgms": 0.0}
        for first in range(0, len(images), size):
            chunk = images[first : first + size]
            # The last one is filled up with copies that do not count: another size would be another program.
            full = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
            for keep in masks:
                for name, values in terms(needed, full, keep, key).items():
                    sums[name] += float(np.asarray(values, np.float64)[: len(chunk)].sum()) / (len(images) * len(masks))
        return {"restoration_loss": sum(sums.values()), **sums}

    return validate


@lru_cache(maxsize=8)
def _restoration_terms(method: Restoration, how: Detection) -> Callable[..., dict[str, jax.Array]]:
    """(state, uint8 windows, mask, key) -> each term of each window; one program for all validations of a process."""

    @jax.jit
    def terms(state: Any, chunk: jax.Array, keep: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        return method.validation_terms(state, chunk.astype(jnp.float32) / 255, keep, key, how)

    return terms


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
