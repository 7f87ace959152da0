"""Does UP-CrackNet copy what it sees? Its restoration error on crack and on background, seen and hidden.

One trained run and one labelled data set, at native size, with the batch norm and dropout of the run's detection. The
error is the absolute difference of greys in [0, 1], before any filter or threshold, pooled over all images:

  whole     nothing is hidden, as detection does it
  visible   multi-scale squares are hidden; errors where pixels are kept
  masked    the same answers; errors where pixels are hidden

Of the six masks each pixel is kept by one and hidden by one for each size of square, so `visible` and `masked` count
every pixel three times. A network that learned the identity has no error where it sees, on cracks as little as
anywhere; what it answers where it does not see is a matter of its own.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8
from tqdm import tqdm

from cracks_jax.data.datasets import Dataset
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.restoration import Restoration, State
from cracks_jax.metrics.curve import Curve
from cracks_jax.ops.corruption import multiscale_squares
from cracks_jax.predict import Scorer
from cracks_jax.runs import open_run
from cracks_jax.runtime.records import read_json, write_json
from cracks_jax.scoring import Request, open_scoring
from cracks_jax.surroundings import surroundings
from cracks_jax.sweep_table import aligned, in_order, spread

STUDY = "identity"
SIZES = 3  # of squares, each in two complementary masks
# Which of the maps below are of which input.
INPUTS = {"whole": slice(0, 1), "visible": slice(1, 1 + SIZES), "masked": slice(1 + SIZES, 1 + 2 * SIZES)}
MAPS = 1 + 2 * SIZES
LEGEND = (
    "Error: the mean absolute difference of greys, in percent of their range, unfiltered; AUROC: of the error as a "
    "crack score; copied: 1 - error / error of the best constant, each image's own median grey everywhere (100: the "
    "identity; below 0: worse than that constant). Whole: nothing is hidden, as detection does it; visible and masked: "
    "under the six masks of multi-scale squares, at the pixels that are kept and at those that are hidden."
)


class Probe(Restoration):
    """A restoration whose score is seven maps of its error: whole, visible and masked by size of square."""

    @classmethod
    def of(cls, method: Restoration) -> "Probe":
        return cls(**{one.name: getattr(method, one.name) for one in dataclasses.fields(method)})

    def score(
        self, state: State, images: Float[Array, "b h w 3"], key: PRNGKeyArray, how: Detection
    ) -> Float[Array, "b 7 h w"]:
        """Absolute differences of greys in [0, 1]; squares as `restore_hidden` hides them."""
        x = self._to_network(images)
        height, width = x.shape[1:3]
        squares = multiscale_squares(self.window)
        repeats = -(-height // self.window), -(-width // self.window)
        masks = np.tile(squares, (1, *repeats, 1))[:, :height, :width] > 0
        keep = jnp.asarray(np.concatenate([np.ones_like(masks[:1]), masks]))

        def one(image: Array) -> Array:
            restored = self.restore(state, jnp.where(keep, image, -1.0), key, how)
            # The grey of the difference: of two equal images exactly 0. Rounding must not take white on black above 1.
            error = jnp.minimum(jnp.abs(self._grey(image - restored)) / 2, 1.0)
            phases = error[1:].reshape(SIZES, 2, height, width)
            kept = keep[1:, ..., 0].reshape(phases.shape)
            visible = jnp.where(kept, phases, 0.0).sum(1)
            masked = jnp.where(kept, 0.0, phases).sum(1)
            return jnp.concatenate([error[:1], visible, masked])

        # One image after another: its seven inputs are a batch already.
        return jnp.stack([one(image) for image in x])

    @property
    def window(self) -> int:
        """Side of the window that squares are of, repeated over the image; px."""
        return max(self.side_multiple, 16)


class Errors(Scorer):
    """The seven maps of an image: padded or tiled, and put together again, as its score map would be."""

    def maps(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "7 h w"]:
        cuts = [self._cut(image) for _ in range(MAPS)]
        for window in cuts[0].windows():
            (found,) = self.calls([window])
            for cut, one in zip(cuts, found, strict=True):
                cut.add(one)
        return np.stack([cut.scores for cut in cuts])


@dataclass
class Pooled:
    """Errors of one input, of all images so far."""

    curve: Curve = field(default_factory=Curve.empty)
    crack: float = 0.0
    background: float = 0.0

    def add(self, errors: Float[np.ndarray, "n h w"], mask: Bool[np.ndarray, "h w"]) -> None:
        for one in errors:
            self.curve += Curve.of(one, mask)
            self.crack += float(one[mask].sum(dtype=np.float64))
            self.background += float(one[~mask].sum(dtype=np.float64))

    def row(self) -> dict[str, Any]:
        """Means, ratio, AUROC and numbers of pixels; None for what is 0/0 or divided by 0."""
        crack, background = int(self.curve.crack.sum()), int(self.curve.background.sum())
        on_crack, on_background = _ratio(self.crack, crack), _ratio(self.background, background)
        return {
            "error_crack": on_crack,
            "error_background": on_background,
            "ratio": None if on_crack is None or on_background is None else _ratio(on_crack, on_background),
            "auroc": auroc(self.curve),
            "pixels_crack": crack,
            "pixels_background": background,
        }


def auroc(curve: Curve) -> float | None:
    """The chance that a crack pixel's score is above a background pixel's, a tie counted half; None without either.

    Scores of one bin are ties.
    """
    crack, background = curve.crack.astype(np.float64), curve.background.astype(np.float64)
    pairs = crack.sum() * background.sum()
    below = np.cumsum(background) - background
    return float((crack * (below + background / 2)).sum() / pairs) if pairs else None


def measured(dataset: Dataset, errors: Errors) -> dict[str, Any]:
    """What a record says of a labelled data set: by input the errors, and how much of the contrast is copied.

    `contrast_*` is the error of the best constant image, each image's own median grey everywhere; `copied_*` is
    1 - error / contrast: 1 for the identity, 0 for a network that answers that constant, below 0 where it is worse.

    Raises:
      CracksError: an image without mask, or a mask of another size than its image.
    """
    inputs = {name: Pooled() for name in INPUTS}
    constant = Pooled()
    for image, mask in tqdm(_pairs(dataset), "restoring", len(dataset), unit="image", file=sys.stderr, mininterval=5):
        maps = errors.maps(image)
        for name, places in INPUTS.items():
            inputs[name].add(maps[places], mask)
        grey = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2GRAY)
        constant.add(np.minimum(np.abs(grey - np.median(grey)), 1)[None], mask)
    rows = {name: pooled.row() for name, pooled in inputs.items()}
    contrast = constant.row()
    for row in rows.values():
        for part in ("crack", "background"):
            least = contrast[f"error_{part}"]
            row[f"copied_{part}"] = 1 - row[f"error_{part}"] / least if least else None
    return {
        "data": dataset.label,
        "data_digest": dataset.digest(),
        "images": len(dataset),
        "contrast_crack": contrast["error_crack"],
        "contrast_background": contrast["error_background"],
        "inputs": rows,
    }


def _pairs(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for record in dataset:
        if record.mask is None:
            raise CracksError(f"{record.image}: has no mask; errors on crack and on background need labels")
        image, mask = read_image(record.image), read_mask(record.mask)
        if mask.shape != image.shape[:2]:
            raise CracksError(
                f"{record.mask}: mask is {mask.shape[1]}x{mask.shape[0]} but its image is {image.shape[1]}x"
                f"{image.shape[0]}; masks must have their image's size (`cracks-jax data check` lists every such pair)"
            )
        yield image, mask


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def record_of(run: Path, dataset: Dataset, every: int = 1) -> dict[str, Any]:
    """The record of a run's best checkpoint on a labelled data set, or on each `every`-th image by name.

    Raises:
      UsageError: the run is not UP-CrackNet's.
    """
    opened = open_run(run)
    if not isinstance(opened.experiment.method, Restoration):
        raise UsageError(f"{run}: restores nothing; an error of restoration is of UP-CrackNet runs alone")
    described = opened.description
    scoring = open_scoring(Request(run=run, geometry="native", rule="otsu"))  # the rule is not used
    scorer = scoring.scorer
    probe = Probe.of(opened.experiment.method)
    errors = Errors(probe, scorer.state, scorer.how, seed=described["science"]["seed"])
    return {
        "study": STUDY,
        **measured(dataset.subset(dataset.stems[::every]), errors),
        "every": every,
        "name": described["name"],
        "form": described["form"],
        "member": described["member"],
        "seed": described["science"]["seed"],
        "run_id": described["run_id"],
        "checkpoint": scoring.names["checkpoint"],
        "geometry": "native",
        "batch_norm": scorer.how.batch_norm,
        "dropout": scorer.how.dropout,
        "squares_px": [probe.window // 2 ** (1 + size) for size in range(SIZES)],
        "command": f"python tools/study.py identity runs/{run.resolve().name} --data {dataset.label}{_every(every)} "
        "--out DIR",
        **surroundings(),
    }


def keep(
    runs: Sequence[Path], dataset: Dataset, out: Path, say: Callable[[str], None], every: int = 1
) -> list[dict[str, Any]]:
    """The records of finished runs, one file each in `out`; those that are there are not made again."""
    if every < 1:
        raise UsageError(f"--every {every}: expected 1 (all images) or more (one in so many)")
    found = []
    for run in runs:
        words = run.resolve().name, dataset.label.replace(":", "_"), f"every{every}" if every > 1 else ""
        path = out / f"{'-'.join(filter(None, words))}.json"
        if not path.is_file():
            say(path.name)
            record = record_of(run, dataset, every)
            out.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
        found.append(read_json(path))
    return found


def _every(every: int) -> str:
    return "" if every == 1 else f" --every {every}"


def as_markdown(records: Iterable[dict[str, Any]]) -> str:
    """A table for each experiment and data set: a row for each member and input, means and deviations over seeds."""
    tables: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in records:
        asked = ("name", "form", "data", "data_digest", "batch_norm", "dropout")
        tables.setdefault(tuple(one[name] for name in asked), []).append(one)
    return "\n\n".join(_table(rows) for rows in tables.values())


def _table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    members: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(records, key=lambda one: (in_order(one["name"], one["member"] or ""), one["seed"])):
        members.setdefault(one["member"] or one["name"], []).append(one)
    rows = []
    for name, group in members.items():
        seeds = ",".join(str(one["seed"]) for one in group)
        for part in INPUTS:
            found = [one["inputs"][part] for one in group]
            errors = (spread([row[key] for row in found], 100, 2) for key in ("error_crack", "error_background"))
            others = (spread([row[key] for row in found], 1, digits) for key, digits in (("ratio", 2), ("auroc", 3)))
            copied = (spread([row[key] for row in found], 100, 0) for key in ("copied_crack", "copied_background"))
            rows.append([name, part, seeds, *errors, *others, *copied])
    head = ["member", "input", "seeds", "error on crack %", "on background %", "ratio", "AUROC",
            "copied of crack %", "of background %"]  # fmt: skip
    how = f"batch norm {first['batch_norm']}, dropout {'on' if first['dropout'] else 'off'}"
    devices = ", ".join(sorted({one["device"]["kind"] for one in records}))
    each = f" (one in {first['every']})" if first["every"] > 1 else ""
    title = (
        f"Restoration error, {first['data']}, {first['images']} images{each}, native, {how}; "
        f"{first['name']}:{first['form']}; {devices}"
    )
    return f"{title}\n\n{aligned(head, rows)}"
