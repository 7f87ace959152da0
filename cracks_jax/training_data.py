"""What a training learns from: an experiment's data opened, drawn or cut, looked through for bad images, and split.

Pavements are drawn and a recipe's windows cut once, into the machine's cache. Images are looked through only where
`data.bad_images` says what to do with bad ones: then no bad photograph is cut, none is validated on, and those of the
training part keep their numbers, which the order of the records needs.
"""

import hashlib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.data.bad_images import BadImage, find_bad, naming_remedy, numbers_of
from cracks_jax.data.datasets import Dataset, open_dataset, split_validation
from cracks_jax.data.manifest import MANIFEST
from cracks_jax.data.order import records_per_epoch
from cracks_jax.data.prepare import prepare
from cracks_jax.data.recipes import find_recipe
from cracks_jax.data.synthetic import draw_dataset
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import Data, Experiment
from cracks_jax.methods.segmentation import Segmentation

# The data set that needs no download; `data.recipe_settings` say how many pictures, and of which size.
DRAWN = "drawn"
_DRAWN_DEFAULTS: dict[str, Any] = {"seed": 0, "train": 96, "test": 32, "undamaged": 96, "size": (192, 192)}


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and what the best checkpoint is selected on.

    Attributes:
      train: the training records, bad ones among them.
      validation: the validation records, none of them bad.
      folder: of a prepared data set, with its manifest.
      digest: of all files of the data set, bad ones too.
      records_per_epoch: how many positions an epoch of the training has.
      bad_records: numbers of the bad records of `train`.
      bad: every bad file that was found, in the training part, among what was held out, and of a recipe's photographs.
    """

    train: Dataset
    validation: Dataset
    folder: Path | None
    digest: str
    records_per_epoch: int
    bad_records: tuple[int, ...] = ()
    bad: tuple[BadImage, ...] = ()


def open_training_data(experiment: Experiment) -> TrainingData:
    """The training and validation records; a recipe's windows are cut first, once, into the machine's cache."""
    settings, cache = experiment.data, Path(experiment.machine.cache)
    labelled = isinstance(experiment.method, Segmentation)
    name, folder = settings.name, None
    bad: tuple[BadImage, ...] = ()
    if name == DRAWN:
        name = str(_drawn(settings, cache))
        dataset = open_dataset(name, settings.split)
    elif settings.recipe is None:
        # A missing mask is said before anything is compiled.
        dataset = open_dataset(name, settings.split, need_masks=labelled)
    else:
        folder, bad = _cut(settings, settings.recipe, cache)
        dataset = open_dataset(folder)
    with naming_remedy(dataset, settings.bad_images):
        train_set, validation, bad_records, found = _split(name, dataset, settings, labelled)
        digest = dataset.digest(tolerant=settings.bad_images != "fail")
    per_epoch = records_per_epoch(len(train_set), bad_records, settings.bad_images)
    return TrainingData(train_set, validation, folder, digest, per_epoch, bad_records, bad + found)


def _cut(settings: Data, recipe: str, cache: Path) -> tuple[Path, tuple[BadImage, ...]]:
    """The folder of a recipe's windows, cut once, and the bad photographs that it does without."""
    source = open_dataset(settings.name, settings.split)
    bad = _look_through(source, settings, masks=find_recipe(recipe).masks)
    without = None if settings.bad_images == "fail" else {one.stem for one in bad}
    if without and len(without) == len(source):
        raise _all_bad(source, bad)
    with naming_remedy(source, settings.bad_images):
        digest = source.digest(tolerant=without is not None)
        tags = (_tag(settings.recipe_settings), digest[:8], _without(without))
        folder = cache / "-".join(p for p in (source.name, source.split, recipe, *tags) if p)
        if not (folder / MANIFEST).is_file():
            _say(f"cutting the {recipe} windows of {source.label}")
            folder.parent.mkdir(parents=True, exist_ok=True)
        prepare(recipe, settings.name, folder, split=settings.split, without=without, **settings.recipe_settings)
    return folder, bad


def _split(
    name: str, dataset: Dataset, settings: Data, labelled: bool
) -> tuple[Dataset, Dataset, tuple[int, ...], tuple[BadImage, ...]]:
    """Training part, validation part without its bad images, the bad ones' numbers in the former, and all bad files."""
    bad = _look_through(dataset, settings, masks=labelled)
    own = _own_validation(name, dataset)
    if own is None:
        unreadable = {one.stem for one in bad if one.role == "image"}
        paths = {record.image for record in dataset if record.stem in unreadable}
        train_set, held_out = split_validation(dataset, settings.validation, unreadable=paths)
        bad_held_out, all_bad = bad, bad
    else:
        train_set, held_out = dataset, own
        bad_held_out = _look_through(own, settings, masks=labelled)
        all_bad = bad + bad_held_out
    validation = held_out.subset(set(held_out.stems) - {one.stem for one in bad_held_out})
    bad_records = numbers_of(train_set, bad)
    for part, left, found in (
        (train_set, len(train_set) - len(bad_records), bad),
        (held_out, len(validation), bad_held_out),
    ):
        if len(part) and not left:
            raise _all_bad(part, found)
    return train_set, validation, bad_records, all_bad


def _look_through(dataset: Dataset, settings: Data, *, masks: bool) -> tuple[BadImage, ...]:
    """The bad files of a data set; none is looked for where a bad one is to end the training."""
    if settings.bad_images == "fail":
        return ()
    what = "image and mask" if masks else "image"
    _say(f"reading every {what} of {dataset.label} once, because data.bad_images is {settings.bad_images}")
    bad = find_bad(dataset, masks=masks)
    if bad:
        names = ", ".join(one.file for one in bad[:3]) + (", ..." if len(bad) > 3 else "")
        _say(f"{dataset.label}: {len(bad)} bad file{'s' * (len(bad) > 1)}: {names}")
    return bad


def _all_bad(part: Dataset, bad: Collection[BadImage]) -> CracksError:
    stems = set(part.stems)
    first = next(one for one in bad if one.stem in stems)
    return CracksError(
        f"{part.label}: all {len(part)} images are bad, the first ({first.role} {first.file}) because {first.reason}; "
        "`cracks-jax data check` lists what is wrong with a data set"
    )


def _without(stems: Collection[str] | None) -> str:
    """The photographs left out, as part of a folder's name."""
    return "without" + hashlib.sha256("\0".join(sorted(stems)).encode()).hexdigest()[:8] if stems else ""


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


def test_split(experiment: Experiment) -> str | None:
    """The labelled `test` split of what an experiment trains on, as NAME:SPLIT; None where it has none."""
    data = experiment.data
    name = str(_drawn(data, Path(experiment.machine.cache))) if data.name == DRAWN else data.name
    try:
        open_dataset(name, "test", need_masks=True)
    except CracksError:
        return None
    return f"{name}:test"


def _tag(settings: dict[str, Any]) -> str:
    """Recipe settings as part of a folder's name."""
    return "-".join(f"{k}{_word(v)}" for k, v in sorted(settings.items()))


def _word(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _own_validation(name: str, dataset: Dataset) -> Dataset | None:
    """The data set's own `val` split, beside its `train`, where it has one."""
    if dataset.split != "train":
        return None
    try:
        return open_dataset(name, "val")
    except CracksError:
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
