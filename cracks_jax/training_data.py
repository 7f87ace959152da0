"""What a training learns from: an experiment's data opened, drawn or cut, and split.

Pavements are drawn and a recipe's windows cut once, into the machine's cache.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.data.datasets import Dataset, open_dataset, split_validation
from cracks_jax.data.manifest import MANIFEST
from cracks_jax.data.prepare import prepare
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import Data, Experiment
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation

# The data set that needs no download; `data.recipe_settings` say how many pictures, and of which size.
DRAWN = "drawn"
_DRAWN_DEFAULTS: dict[str, Any] = {"seed": 0, "train": 96, "test": 32, "undamaged": 96, "size": (192, 192)}


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and what the best checkpoint is selected on."""

    train: Dataset
    validation: Dataset
    folder: Path | None  # of a prepared data set, with its manifest
    digest: str


def open_training_data(experiment: Experiment) -> TrainingData:
    """The training and validation records; a recipe's windows are cut first, once, into the machine's cache."""
    settings = experiment.data
    folder = None
    name = settings.name
    if name == DRAWN:
        name = str(_drawn(settings, Path(experiment.machine.cache)))
        dataset = open_dataset(name, settings.split)
    elif settings.recipe is None:
        # A missing mask is said before anything is compiled.
        labelled = isinstance(experiment.method, Segmentation)
        dataset = open_dataset(name, settings.split, need_masks=labelled)
    else:
        source = open_dataset(name, settings.split)
        tag = _tag(settings.recipe_settings)
        label = "-".join(p for p in (source.name, source.split, settings.recipe, tag, source.digest()[:8]) if p)
        folder = Path(experiment.machine.cache) / label
        if not (folder / MANIFEST).is_file():
            _say(f"cutting the {settings.recipe} windows of {source.label}")
            folder.parent.mkdir(parents=True, exist_ok=True)
        prepare(settings.recipe, name, folder, split=settings.split, **settings.recipe_settings)
        dataset = open_dataset(folder)
    if isinstance(experiment.method, Restoration) and (settings.pipeline.corruption is None):
        raise UsageError("data.pipeline.corruption is none; UP-CrackNet learns from squares, stripes or jumbled")
    train_set, validation = _own_validation(name, dataset) or split_validation(dataset, settings.validation)
    return TrainingData(train_set, validation, folder, dataset.digest())


def _drawn(settings: Data, cache: Path) -> Path:
    """The folder of the drawn data set of these settings, drawn once into the cache."""
    if settings.recipe is not None:
        raise UsageError(
            f"data.recipe is {settings.recipe!r} but data.name is {DRAWN!r}: drawn pavements have an undamaged split "
            "of their own; use data.split=undamaged without a recipe"
        )
    wanted = {**_DRAWN_DEFAULTS, **settings.recipe_settings}
    if unknown := sorted(set(wanted) - set(_DRAWN_DEFAULTS)):
        raise UsageError(f"data.recipe_settings.{unknown[0]}: drawn data take {', '.join(_DRAWN_DEFAULTS)}")
    folder = cache / "-".join(p for p in (DRAWN, _tag(wanted)) if p)
    draw_dataset(folder, **wanted)
    return folder


def _tag(settings: dict[str, Any]) -> str:
    """Recipe settings as part of a folder's name."""
    return "-".join(f"{k}{_word(v)}" for k, v in sorted(settings.items()))


def _word(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _own_validation(name: str, dataset: Dataset) -> tuple[Dataset, Dataset] | None:
    """The data set's own `val` split beside its `train`, where it has one."""
    if dataset.split != "train":
        return None
    try:
        return dataset, open_dataset(name, "val")
    except CracksError:
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
