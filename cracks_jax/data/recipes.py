"""The papers' training sets as plans: which boxes of which photographs, decided before a pixel is written.

A recipe is a frozen dataclass of settings and a function (dataset, settings, progress) -> Plan. Planning
reads masks (or, where a recipe works without any annotation, images); `prepare.py` cuts and writes what was
planned.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
from jaxtyping import Bool

from cracks_jax.data import darklines, windows
from cracks_jax.data.datasets import Dataset, Record
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.data.windows import Box
from cracks_jax.errors import CracksError, UsageError

# progress(done, total), called after every photograph.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """One window: its file's stem, the photograph it is cut from (its stem and [h, w]) and its box."""

    stem: str
    source: str
    photo: tuple[int, int]
    box: Box
    score: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to cut. `counts` says what was seen and left out; with `masks`, masks are cut as well."""

    items: list[Item]
    counts: dict[str, Any]
    masks: bool = False


@dataclass(frozen=True)
class Undamaged:
    """UP-CrackNet: crack-free windows cut from labelled images.

    Attributes:
      min_side, max_side: each window is the largest of max_side, 16 less, ..., min_side that fits.
      clearance: pixels between a window and the nearest labelled pixel.
      per_image: at most so many windows of one photograph, disjoint.
      seed: draws the position among those that serve.
    """

    min_side: int = 128
    max_side: int = 192
    clearance: int = 8
    per_image: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, min_side=1, max_side=self.min_side, clearance=0, per_image=1)


def undamaged(dataset: Dataset, settings: Undamaged, progress: Progress | None = None) -> Plan:
    """Crack-free windows by the masks (UP-CrackNet takes 300 from DeepCrack's training images).

    The paper states neither size nor method. On DeepCrack 192 px works for 243 of the 300 training images,
    128 px for all of them.
    """
    items: list[Item] = []
    without: list[str] = []
    for record, mask in _masks(dataset, "undamaged", progress):
        boxes = windows.clear_windows(
            mask,
            smallest=settings.min_side,
            largest=settings.max_side,
            clearance=settings.clearance,
            count=settings.per_image,
            rng=windows.generator(settings.seed, "undamaged", record.stem),
        )
        items += [_item(record, mask.shape, box, number) for number, box in enumerate(boxes)]
        if not boxes:
            without.append(record.stem)
    if not items:
        raise CracksError(
            f"{dataset.name}: none of {len(without)} images holds a window of {settings.min_side} px that"
            f" keeps {settings.clearance} px from every labelled pixel; lower min_side or clearance"
        )
    return Plan(items, {**_window_counts(items), "photographs_without_window": without})


@dataclass(frozen=True)
class UndamagedUnlabelled:
    """UP-CrackNet without any annotation: windows of photographs whose dark lines are the least outlying.

    Attributes:
      min_side, max_side: each window is the largest of max_side, 16 less, ..., min_side that is calm enough.
      per_image: at most so many windows of one photograph, disjoint.
      tolerance: a window is calm enough up to the median of all photographs' best windows of min_side and so
        many (median absolute) deviations more.
    """

    min_side: int = 128
    max_side: int = 192
    per_image: int = 1
    tolerance: float = 2.0

    def __post_init__(self) -> None:
        _check(self, min_side=1, max_side=self.min_side, per_image=1, tolerance=0)
        for name in ("min_side", "max_side"):
            if getattr(self, name) % darklines.GRID:
                raise UsageError(
                    f"{name} is {getattr(self, name)}; it must be a multiple of {darklines.GRID}"
                )


def undamaged_unlabelled(
    dataset: Dataset, settings: UndamagedUnlabelled, progress: Progress | None = None
) -> Plan:
    """Windows free of dark lines, chosen by pixels alone; masks, where there are any, are not opened.

    UP-CrackNet trains "without any annotation" but its undamaged images were selected somehow; this is a
    selection that needs nobody. In each photograph the windows whose strongest dark line stands out least are
    taken, and across photographs those that are outliers all the same are rejected. `measure_contamination`
    tells, where masks exist, how often it is wrong.
    """
    found: list[tuple[Record, tuple[int, int], darklines.Scores]] = []
    for number, record in enumerate(dataset.records):
        image = read_image(record.image)
        scores = darklines.line_scores(image, settings.min_side, settings.max_side)
        found.append((record, (image.shape[0], image.shape[1]), scores))
        if progress is not None:
            progress(number + 1, len(dataset.records))
    best = [float(scores[settings.min_side].min()) for _, _, scores in found if scores]
    if not best:
        raise CracksError(
            f"{dataset.name}: no image reaches {settings.min_side} px on both sides; lower min_side"
        )
    highest = darklines.limit(np.array(best), settings.tolerance)
    items: list[Item] = []
    without: list[str] = []
    for record, photo, scores in found:
        calm = darklines.calm_windows(scores, highest, settings.per_image)
        for number, (box, score) in enumerate(calm):
            items.append(Item(f"{record.stem}_{number}", record.stem, photo, box, score))
        if not calm:
            without.append(record.stem)
    counts = {
        **_window_counts(items),
        "highest_score": round(highest, 6),
        "photographs_without_window": without,
    }
    return Plan(items, counts)


@dataclass(frozen=True)
class Blocks:
    """CrackSeg: square blocks on a grid, most of the empty ones left out.

    Attributes:
      side: side of a block in pixels (256 in the paper).
      keep_empty: share of the blocks without a crack that stays, rounded to whole blocks.
      seed: draws which of them.
    """

    side: int = 256
    keep_empty: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, side=1, keep_empty=0)
        if self.keep_empty > 1:
            raise UsageError(f"keep_empty is {self.keep_empty}; it is a share between 0 and 1")


def crackseg_blocks(dataset: Dataset, settings: Blocks, progress: Progress | None = None) -> Plan:
    """Blocks of labelled images, as CrackSeg trains on; how many empty ones the paper leaves out is ours."""
    cracked: list[Item] = []
    empty: list[Item] = []
    for record, mask in _masks(dataset, "crackseg-blocks", progress):
        _check_large_enough(record, mask, settings.side, "side")
        for number, box in enumerate(windows.grid_blocks(*_photo(mask), settings.side)):
            kind = cracked if _crack_pixels(mask, box) else empty
            kind.append(_item(record, mask.shape, box, number))
    by_hash = sorted(empty, key=lambda item: windows.fraction(settings.seed, "crackseg-blocks", item.stem))
    kept = by_hash[: round(settings.keep_empty * len(empty))]
    items = sorted(cracked + kept, key=lambda item: (item.source, item.box))
    counts = {
        "blocks": len(cracked) + len(empty),
        "cracked": len(cracked),
        "empty": len(empty),
        "empty_kept": len(kept),
    }
    return Plan(items, counts, masks=True)


@dataclass(frozen=True)
class Crack500:
    """Crack500: each original in `parts` x `parts` crops, those with more than `min_crack_pixels` kept."""

    parts: int = 4
    min_crack_pixels: int = 1000

    def __post_init__(self) -> None:
        _check(self, parts=1, min_crack_pixels=0)


def crack500(dataset: Dataset, settings: Crack500, progress: Progress | None = None) -> Plan:
    """Crops of Crack500's originals (Yang et al. 2019; as UP-CrackNet uses it).

    The paper says that the originals have 2000x1500 pixels; the names of the published 640x360 crops carry
    offsets that make them 2560x1440. The recipe takes whatever size they have. Crops are named as the
    published ones are, by the original's stem and the crop's first column and row, counted from 1.
    """
    items: list[Item] = []
    crops = undamaged_crops = 0
    for record, mask in _masks(dataset, "crack500", progress):
        _check_large_enough(record, mask, settings.parts, "parts")
        for box in windows.even_crops(*_photo(mask), settings.parts):
            pixels = _crack_pixels(mask, box)
            crops += 1
            undamaged_crops += pixels == 0
            if pixels > settings.min_crack_pixels:
                y, x, _, _ = box
                items.append(Item(f"{record.stem}_{x + 1}_{y + 1}", record.stem, _photo(mask), box))
    return Plan(items, {"crops": crops, "without_crack": int(undamaged_crops)}, masks=True)


@dataclass(frozen=True)
class CFD200:
    """CFD: `count` patches of `side` pixels from the corners of its images."""

    count: int = 200
    side: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, count=1, side=1)


def cfd200(dataset: Dataset, settings: CFD200, progress: Progress | None = None) -> Plan:
    """200 patches of the 118 images of CFD (as UP-CrackNet uses it).

    The paper does not say how they were selected. Ours: of the four corner windows of an image those that
    hold a crack, in an order drawn by hash; the first of every image is taken, then second ones, and so on,
    images in hash order, until there are enough. On 118 images that is 118 first and 82 second patches.
    """
    rounds: list[list[Item]] = [[] for _ in range(4)]
    for record, mask in _masks(dataset, "cfd200", progress):
        _check_large_enough(record, mask, settings.side, "side")
        boxes = [box for box in windows.corners(*_photo(mask), settings.side) if _crack_pixels(mask, box)]
        boxes.sort(key=lambda box: windows.fraction(settings.seed, "cfd200", record.stem, *box))
        for number, box in enumerate(boxes):
            rounds[number].append(_item(record, mask.shape, box, number))
    for patches in rounds:
        patches.sort(key=lambda item: windows.fraction(settings.seed, "cfd200", item.source))
    order = [item for patches in rounds for item in patches]
    if len(order) < settings.count:
        raise CracksError(
            f"{dataset.name}: {len(order)} corner windows of {settings.side} px hold a crack,"
            f" {settings.count} were asked for; set count={len(order)} or a smaller side"
        )
    items = sorted(order[: settings.count], key=lambda item: (item.source, item.stem))
    counts = {
        f"patch_{n + 1}_of_its_image": sum(item.stem.endswith(f"_{n}") for item in items) for n in range(4)
    }
    return Plan(items, {"candidates": len(order), **counts}, masks=True)


@dataclass(frozen=True)
class Recipe:
    """A recipe: the dataclass of its settings, the function that plans it, and whether masks are opened for it."""

    settings: type
    plan: Callable[[Dataset, Any, Progress | None], Plan]
    masks: bool = True


# Of pixels or windows: no photograph has more on a side.
_MOST = 2**20


def _check(settings: Any, **least: float) -> None:
    for name, bound in least.items():
        value = getattr(settings, name)
        if not bound <= value <= _MOST:
            raise UsageError(f"{name} is {value}; it must be at least {bound}, and at most {_MOST}")


def _masks(
    dataset: Dataset, recipe: str, progress: Progress | None
) -> Iterator[tuple[Record, Bool[np.ndarray, "h w"]]]:
    for number, record in enumerate(dataset.records):
        if record.mask is None:
            raise CracksError(
                f"{record.image.name}: no mask, and the recipe {recipe} needs one for every image; add the"
                " masks, or use the recipe undamaged-unlabelled, which reads images alone"
            )
        yield record, read_mask(record.mask)
        if progress is not None:
            progress(number + 1, len(dataset.records))


def _photo(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    return mask.shape[0], mask.shape[1]


def _item(record: Record, photo: tuple[int, ...], box: Box, number: int) -> Item:
    return Item(f"{record.stem}_{number}", record.stem, (photo[0], photo[1]), box)


def _crack_pixels(mask: Bool[np.ndarray, "h w"], box: Box) -> int:
    y, x, h, w = box
    return int(mask[y : y + h, x : x + w].sum())


def _check_large_enough(record: Record, mask: Bool[np.ndarray, "h w"], least: int, setting: str) -> None:
    if min(mask.shape) < least:
        h, w = mask.shape
        raise CracksError(
            f"{record.image.name}: the image is {w}x{h}, smaller than {least} px; set {setting}={min(h, w)}"
            " or leave the image out"
        )


def _window_counts(items: list[Item]) -> dict[str, Any]:
    found = [item.box[2] for item in items]
    return {"sides": {str(side): found.count(side) for side in sorted(set(found), reverse=True)}}


RECIPES: dict[str, Recipe] = {
    "undamaged": Recipe(Undamaged, undamaged),
    "undamaged-unlabelled": Recipe(UndamagedUnlabelled, undamaged_unlabelled, masks=False),
    "crackseg-blocks": Recipe(Blocks, crackseg_blocks),
    "crack500": Recipe(Crack500, crack500),
    "cfd200": Recipe(CFD200, cfd200),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; UsageError lists them."""
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}; the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]


def make_settings(recipe: str, values: dict[str, Any]) -> Any:
    """The recipe's settings with `values` set; each is checked by name and type (UsageError)."""
    kind = RECIPES[recipe].settings
    known = get_type_hints(kind)
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"recipe {recipe} has no setting {name}; it has {', '.join(known)}")
        expected = known[name]
        fits = isinstance(value, int | float) if expected is float else isinstance(value, int)
        if isinstance(value, bool) or not fits:
            raise UsageError(f"recipe {recipe}: {name} is {value!r}; expected {expected.__name__}")
    return kind(**{name: known[name](value) for name, value in values.items()})
