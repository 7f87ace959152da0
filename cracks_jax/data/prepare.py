"""`data prepare`: a paper's data recipe carried out, from a data set to a folder with a manifest.

The folder holds `images/` (and `masks/`) in the open layout, and `manifest.json`: recipe, settings, source,
counts, one entry for every file, and `digest`, SHA-256 of all pixels written.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from cracks_jax.data.datasets import Dataset, open_dataset
from cracks_jax.data.images import read_image, read_mask, write_image, write_mask
from cracks_jax.data.manifest import filled_aside, finished, read_manifest, write_manifest
from cracks_jax.data.recipes import Item, Plan, Progress, find_recipe, make_settings
from cracks_jax.errors import CracksError

# Names that a recipe's settings cannot have: they are arguments of `prepare` itself.
RESERVED = frozenset({"recipe", "root", "out", "split", "progress", "without"})


def prepare(
    recipe: str,
    root: str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    progress: Progress | None = None,
    without: Collection[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Carries out a recipe and returns its manifest; where `out` already holds the same one, only returns it.

    Args:
      recipe: a name in `RECIPES`.
      root: the data set, by name or path.
      out: folder to make; must not exist, or be empty, or hold this very preparation.
      split: the data set's split.
      progress: called with (photographs done, photographs), first while planning, then while cutting.
      without: stems of photographs that are known to be bad and left out; None where no file may be bad.
      **settings: the recipe's settings by name; those left out have its defaults.

    Raises:
      UsageError: unknown recipe or setting, or `out` holds something else.
      CracksError: the data does not serve the recipe, or cannot be read or written.
    """
    plan_of = find_recipe(recipe).plan
    chosen = make_settings(recipe, settings)
    dataset = open_dataset(str(root), split)
    source: dict[str, Any] = {"dataset": dataset.name, "split": dataset.split}
    source["digest"] = dataset.digest(tolerant=without is not None)
    if without:
        source["without"] = sorted(without)
        dataset = dataset.subset(set(dataset.stems) - set(without))
    head = {"recipe": recipe, "settings": dataclasses.asdict(chosen), "source": source}
    out = Path(out)
    found = finished(out, head)
    if found is not None:
        return found
    plan = plan_of(dataset, chosen, progress)
    if not plan.items:
        raise CracksError(
            f"{dataset.name}: recipe {recipe} keeps nothing of its {len(dataset.records)} images with the"
            f" settings {head['settings']}; loosen them"
        )
    return _write(out, dataset, head, plan, progress)


def measure_contamination(out: str | Path, root: str | Path, *, split: str | None = None) -> dict[str, float]:
    """How much crack a prepared folder's windows hold, by the masks of the data set that they were cut from.

    For windows chosen without annotation. Returns `windows`, `windows_with_crack` and `pixels_of_crack`, the
    latter two as shares of all windows and of all their pixels.
    """
    items = read_manifest(out)["items"]
    masks = {record.stem: record.mask for record in open_dataset(str(root), split, need_masks=True).records}
    cracked = crack_pixels = pixels = 0
    for source, group in itertools.groupby(items, key=lambda item: item["source"]):
        path = masks.get(source)
        if path is None:
            raise CracksError(
                f"{source}: {root} has no mask of it; name the data set that {out} was cut from"
            )
        mask = read_mask(path)
        for item in group:
            count = int(_cut(mask, item["box"]).sum())
            cracked += count > 0
            crack_pixels += count
            pixels += item["box"][2] * item["box"][3]
    return {
        "windows": len(items),
        "windows_with_crack": cracked / len(items),
        "pixels_of_crack": crack_pixels / pixels,
    }


def _write(
    out: Path, dataset: Dataset, head: dict[str, Any], plan: Plan, progress: Progress | None
) -> dict[str, Any]:
    """Cuts and writes a plan, the manifest last."""
    digest = hashlib.sha256()
    with filled_aside(out) as folder:
        for item, image, mask in _windows(dataset, plan, progress):
            write_image(folder / "images" / f"{item.stem}.png", image)
            _update(digest, item.stem, image)
            if mask is not None:
                write_mask(folder / "masks" / f"{item.stem}.png", mask)
                _update(digest, item.stem, mask)
        manifest = {
            **head,
            "counts": {"photographs": len(dataset.records), "windows": len(plan.items), **plan.counts},
            "digest": digest.hexdigest(),
            "items": [_entry(item) for item in plan.items],
        }
        write_manifest(folder, manifest)
    return manifest


def _windows(
    dataset: Dataset, plan: Plan, progress: Progress | None
) -> Iterator[tuple[Item, UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"] | None]]:
    """The planned windows in order; each photograph is read once."""
    records = {record.stem: record for record in dataset.records}
    groups = [
        (source, list(group)) for source, group in itertools.groupby(plan.items, key=lambda item: item.source)
    ]
    for number, (source, items) in enumerate(groups):
        record = records[source]
        image = read_image(record.image)
        if image.shape[:2] != items[0].photo:
            h, w = items[0].photo
            raise CracksError(
                f"{record.image}: the image is {image.shape[1]}x{image.shape[0]}, its mask {w}x{h};"
                " masks must have their image's size (`cracks-jax data check` lists every such pair)"
            )
        mask = read_mask(record.mask) if plan.masks and record.mask is not None else None
        for item in items:
            yield item, _cut(image, item.box), None if mask is None else _cut(mask, item.box)
        if progress is not None:
            progress(number + 1, len(groups))


def _cut(array: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    y, x, h, w = box
    return array[y : y + h, x : x + w]


def _update(digest: Any, stem: str, array: np.ndarray) -> None:
    digest.update(f"{stem} {array.shape} {array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())


def _entry(item: Item) -> dict[str, Any]:
    """An item as the manifest holds it; `scale` is 1 because windows keep their native resolution."""
    entry = {
        "stem": item.stem,
        "source": item.source,
        "photo": list(item.photo),
        "box": list(item.box),
        "scale": 1.0,
    }
    return entry if item.score is None else {**entry, "score": round(item.score, 6)}
