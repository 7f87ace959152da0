"""The report's figures of photographs, by the names of the papers' figures; each picture fits its share of a budget."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.data.datasets import Dataset, Record
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.ops.corruption import multiscale_squares
from cracks_jax.postprocess.tiles import pad_reflect
from cracks_jax.predict import MARGIN
from cracks_jax.report.encode import Budget, Scale
from cracks_jax.report.entries import Entry
from cracks_jax.report.judges import Judge, Verdict, read, verdict
from cracks_jax.report.model import Picture, PictureRow, Pictures
from cracks_jax.runtime.randomness import device_key

# Bytes of the page for method-grid and for each of the three other figures: a report stays below 30 MB.
GRID_BYTES, OTHER_BYTES = 15_000_000, 4_000_000
_LAYERS = {"conv1": "Conv1", "block1": "Block1", "block2": "Block2", "block3": "Block3", "block4": "Block4"}
# Figures that compute more than a score map show few images, and no larger a part of one than this:
# with its margin it is one window of detection.
FEW, FAILURES, _PART = 3, 6, 992

Photo = UInt8[np.ndarray, "h w 3"]
Watched = Callable[[str, Sequence[Record]], Iterable[Record]]  # shows progress


@dataclass(frozen=True)
class _Drawing:
    """A row before it is drawn: behind the photograph, what `draw` makes at a scale."""

    stem: str
    note: str
    photo: Photo
    draw: Callable[[Scale], list[Picture]]


def _figure(name: str, columns: Sequence[str], caption: str, budget: Budget, drawings: Iterable[_Drawing]) -> Pictures:
    rows: list[PictureRow] = []
    photos: dict[str, bytes] = {}
    for one in drawings:
        pictures, photo = budget.fit(functools.partial(_drawn, one))
        photos |= photo
        rows.append(PictureRow(one.stem, tuple(pictures), one.note))
    kind, _, who = name.partition(" ")
    title = f"{kind}: {who}" if who else kind
    return Pictures(name.replace(" ", "-"), title, tuple(columns), tuple(rows), caption, photos)


def _drawn(one: _Drawing, scale: Scale) -> tuple[list[Picture], dict[str, bytes]]:
    first = scale.photo(one.photo.shape, one.stem, f"photograph {one.stem}")
    return [first, *one.draw(scale)], {one.stem: scale.photograph(one.photo)}


# ---------------------------------------------------------------------------------------------- method-grid


def method_grid(judges: Sequence[Judge], records: Sequence[Record], watched: Watched) -> Pictures:
    """Images in rows, everyone's answer side by side (CrackSeg Figures 5, 6, 8; UP-CrackNet Figures 2, 3)."""
    rows = (_grid_row(judges, record) for record in watched("method-grid", records))
    columns = ["photograph", "labelled", *(f"{judge.name} ({judge.scoring.thresholds.rule})" for judge in judges)]
    caption = "Each method by its own rule; beside the image's name everyone's F1 on it alone."
    return _figure("method-grid", columns, caption, Budget(GRID_BYTES, len(records)), rows)


def _grid_row(judges: Sequence[Judge], record: Record) -> _Drawing:
    image, truth = read(record)
    found = [(judge.name, verdict(judge, record)) for judge in judges]

    def draw(scale: Scale) -> list[Picture]:
        labelled = scale.mask(truth, f"labelled crack of {record.stem}")
        return [labelled, *(_answer(scale, one, name, record.stem, truth.shape) for name, one in found)]

    return _Drawing(record.stem, "; ".join(f"{name} {one.words}" for name, one in found), image, draw)


def _answer(scale: Scale, one: Verdict, who: str, stem: str, shape: tuple[int, ...]) -> Picture:
    """At the photograph's proportions, even where detection squashed it."""
    found, truth = (_to(mask, shape) for mask in (one.found, one.truth))
    return scale.answer(found, truth, stem, f"{who} on {stem}: {one.words}")


def _to(mask: Bool[np.ndarray, "h w"], shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    if mask.shape == shape:
        return mask
    return cv2.resize(mask.astype(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST) > 0


# ------------------------------------------------------------------------------------------------- failures


def failures(
    judges: Sequence[Judge], dataset: Dataset, found: Sequence[Entry], watched: Watched
) -> Iterator[Pictures]:
    """Each method's worst images by F1 (UP-CrackNet Figure 4), as its record of this data set ranks them."""
    ranked = {judge.name: (judge, _worst(judge, dataset, found)) for judge in judges}
    budget = OTHER_BYTES // max(len(ranked), 1)
    for name, (judge, worst) in ranked.items():
        if worst:
            rows = (_failure(judge, record) for record in watched(f"failures of {name}", worst))
            caption = f"The {len(worst)} images of {dataset.label} with the lowest F1 of this method, the worst first."
            columns = ("photograph", "score", "labelled", "answer")
            yield _figure(f"failures {name}", columns, caption, Budget(budget, len(worst)), rows)


def _failure(judge: Judge, record: Record) -> _Drawing:
    one = verdict(judge, record)

    def draw(scale: Scale) -> list[Picture]:
        return [
            scale.heat(one.score, f"score of {judge.name} on {record.stem}"),
            scale.mask(one.truth, f"labelled crack of {record.stem}"),
            _answer(scale, one, judge.name, record.stem, one.truth.shape),
        ]

    return _Drawing(record.stem, one.words, one.image, draw)


def _worst(judge: Judge, dataset: Dataset, found: Sequence[Entry]) -> list[Record]:
    """By the record on this data set that was judged most like this judge does: by run, then geometry and rule."""
    how, rule, names = judge.scoring.scorer.how, str(judge.scoring.thresholds.rule), judge.scoring.names
    mine = [
        score for entry in found for score in entry.scores
        if entry.data == dataset.label and score.images
        and all(score.row.get(name) == names.get(name) for name in ("run_id", "method"))
    ]  # fmt: skip
    if not mine:
        return []
    chosen = max(mine, key=lambda score: (score.row["geometry"] == how.geometry, score.row["rule"] == rule))
    ranked = sorted((one["f1"], one["image"]) for one in chosen.images if one["f1"] is not None)
    by_stem = {record.stem: record for record in dataset}
    return [by_stem[stem] for _, stem in ranked[:FAILURES] if stem in by_stem]


# ---------------------------------------------------------------------------------------------- restoration


def restoration(judges: Sequence[Judge], records: Sequence[Record], watched: Watched) -> Iterator[Pictures]:
    """From the photograph to the mask, step by step, of each UP-CrackNet (its Figure 1)."""
    restoring = [judge for judge in judges if isinstance(judge.method, Restoration)]
    for judge in restoring:
        show = _shower(judge)
        rows = (_restored(judge, show, record) for record in watched(f"restoration by {judge.name}", records[:FEW]))
        whole = judge.scoring.scorer.how.restore == "whole"
        caption = (
            f"Detection restores the {'whole image' if whole else 'squares while they are hidden'}; the error is "
            "between the input and the fourth picture, the score is the error behind the filter, both from 0 (black) "
            "to their greatest value in the picture."
        )
        columns = ("input", "corrupted", "that, restored", "restored for detection", "error", "score", "mask",
                   "labelled")  # fmt: skip
        budget = Budget(OTHER_BYTES // len(restoring), FEW)
        yield _figure(f"restoration {judge.name}", columns, caption, budget, rows)


Shower = Callable[[Photo], dict[str, Photo]]


def _restored(judge: Judge, show: Shower, record: Record) -> _Drawing:
    one, stem = _part(verdict(judge, record)), record.stem
    steps, raw = show(one.image), judge.scoring.scorer.raw(one.image)

    def draw(scale: Scale) -> list[Picture]:
        return [
            *(scale.picture(steps[name], f"{stem}, {name}") for name in ("corrupted", "filled", "restored")),
            scale.heat(raw, f"restoration error of {stem}"),
            scale.heat(one.score, f"score of {stem}"),
            scale.mask(one.found, f"mask that was found in {stem}"),
            scale.mask(one.truth, f"labelled crack of {stem}"),
        ]

    return _Drawing(stem, one.words, one.image, draw)


def _shower(judge: Judge) -> Shower:
    """Photograph -> what the generator sees and answers, in the windows of detection."""
    scorer = judge.scoring.scorer
    method, how = judge.method, scorer.how
    key = device_key(0, "score", 0)
    run = jax.jit(lambda state, x, keep: method.shown(state, x, keep, key, how))

    def show(image: Photo) -> dict[str, Photo]:
        window, box = pad_reflect(image, method.side_multiple, MARGIN if how.geometry == "native" else 0)
        side = max(method.side_multiple, 16)
        tiles = [-(-length // side) for length in window.shape[:2]]
        # The middle squares, as training lays them.
        keep = np.tile(multiscale_squares(side)[2], (*tiles, 1))[: window.shape[0], : window.shape[1]]
        found = run(scorer.state, jnp.asarray(window[None]) / 255, jnp.asarray(keep, jnp.float32))
        shown = {name: np.round(np.clip(np.asarray(x)[0], 0, 1) * 255).astype(np.uint8) for name, x in found.items()}
        return {name: x[box.slices] for name, x in shown.items()}

    return show


def _part(one: Verdict) -> Verdict:
    """The upper left part of a very large photograph: enough to see."""
    cut = (slice(0, _PART), slice(0, _PART))
    return Verdict(one.image[cut], one.truth[cut], one.score[cut], one.found[cut])


# --------------------------------------------------------------------------------------------- feature-maps


def feature_maps(judges: Sequence[Judge], records: Sequence[Record], watched: Watched) -> Iterator[Pictures]:
    """What each part of CrackSeg's trunk answers to (its Figure 4): the mean over channels, and the liveliest one."""
    segmenting = [judge for judge in judges if isinstance(judge.method, Segmentation)]
    for judge in segmenting:
        run = jax.jit(judge.method.features)
        shown = watched(f"feature maps of {judge.name}", records[:FEW])
        rows = (drawing for record in shown for drawing in _activations(judge, run, record))
        caption = (
            "Absolute activations, each map from 0 (black) to its own greatest value. The liveliest channel is that "
            "with the greatest variance over the image."
        )
        budget = Budget(OTHER_BYTES // len(segmenting), 2 * FEW)
        columns = ("photograph", *_LAYERS.values())
        yield _figure(f"feature-maps {judge.name}", columns, caption, budget, rows)


def _activations(judge: Judge, run: Callable[..., dict[str, jax.Array]], record: Record) -> Iterator[_Drawing]:
    image = _part(verdict(judge, record)).image
    window, box = pad_reflect(image, judge.method.side_multiple)
    found = run(judge.scoring.scorer.state, jnp.asarray(window[None]) / 255)
    for what, reduce in (("mean of channels", _mean), ("liveliest channel", _liveliest)):
        maps = {name: _enlarged(reduce(np.asarray(found[layer])[0]), window.shape)[box.slices]
                for layer, name in _LAYERS.items()}  # fmt: skip

        def draw(scale: Scale, maps: dict[str, np.ndarray] = maps, what: str = what) -> list[Picture]:
            return [scale.heat(x, f"{name}, {what}, of {record.stem}") for name, x in maps.items()]

        yield _Drawing(record.stem, what, image, draw)


def _mean(maps: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w"]:
    return np.abs(maps).mean(-1)


def _liveliest(maps: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w"]:
    return np.abs(maps[..., maps.var((0, 1)).argmax()])


def _enlarged(values: Float[np.ndarray, "h w"], shape: tuple[int, ...]) -> Float[np.ndarray, "H W"]:
    """At the window's size, each of its own pixels a square."""
    return cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
