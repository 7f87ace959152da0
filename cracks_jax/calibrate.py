"""Where crack begins: the threshold that a rule gives for one image's score map.

Otsu looks at the map alone. `validation` is the best single threshold on labelled images, `undamaged:Q` the Q-quantile
of the error on undamaged windows: both are fixed before the images to be scored are seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.data.datasets import Dataset
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.data.manifest import MANIFEST, read_manifest
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.metrics.curve import Curve
from cracks_jax.postprocess.thresholds import Rule, otsu, quantile_threshold
from cracks_jax.predict import PAPER_SIDE, Scorer, mask_in_geometry, smooth

# Errors this near to a border between two windows are the seam's, not the road's.
SEAM = 8
# `crack500/undamaged` windows were cut from crops of this side (its README); they carry no manifest.
UNRECORDED_PHOTO = (448, 448)


@dataclass(frozen=True)
class UndamagedWindow:
    """A crack-free window at its native size, and the (height, width) of the photograph that it was cut from."""

    image: UInt8[np.ndarray, "h w 3"]
    photo: tuple[int, int]


def undamaged_windows(folder: Path, dataset: Dataset) -> list[UndamagedWindow]:
    """The windows of a prepared folder; photographs' sizes from its manifest where it has one."""
    photos = {}
    if (folder / MANIFEST).is_file():
        photos = {item["stem"]: tuple(item["photo"]) for item in read_manifest(folder).get("items", ())}
    return [
        UndamagedWindow(read_image(record.image), photos.get(record.stem, UNRECORDED_PHOTO))
        for record in dataset.records
    ]


class Thresholds:
    """A rule made ready for one scorer: `at(score, size)` is the threshold for one score map.

    Args:
      rule: the parsed rule.
      scorer: what scores; calibration images take exactly its path.
      labelled: images with masks for `validation`.
      undamaged: windows for `undamaged`.
    """

    def __init__(
        self,
        rule: Rule,
        scorer: Scorer,
        *,
        labelled: Dataset | None = None,
        undamaged: Sequence[UndamagedWindow] = (),
    ):
        self.rule, self.scorer = rule, scorer
        self.found: dict[str, float] = {}
        if rule.kind == "undamaged" and scorer.how.error == "authors":
            raise UsageError(
                f"--rule {rule} needs absolute errors, but the preset authors stretches each image's errors to its "
                "own range; use --rule otsu or another preset"
            )
        if rule.kind == "undamaged" and not undamaged:
            raise UsageError(f"--rule {rule} needs undamaged windows; name a prepared folder with --calibration")
        if rule.kind == "validation" and labelled is None:
            raise UsageError("--rule validation needs labelled images; name a data set with --calibration")
        self._labelled, self._undamaged = labelled, undamaged
        self._finding = Lock()

    def at(self, score: Float[np.ndarray, "h w"]) -> float:
        """The threshold for this map: crack = score > threshold."""
        if self.rule.kind == "otsu":
            if self.scorer.how.error == "authors":  # their map is 8 bit: one bin per grey level
                return float(otsu(np.round(score * 255).astype(np.uint8))) / 255
            return float(otsu(score))
        if self.rule.kind == "value":
            assert self.rule.value is not None
            return self.rule.value
        with self._finding:  # threads that ask at once wait for the one that scores the calibration images
            if self.rule.kind == "validation":
                name = "all sizes"
                if name not in self.found:
                    self.found[name] = self._best_on_labelled()
            else:
                # Batch statistics depend on what a window holds, so the quantile is taken at the size that is scored.
                name = f"{score.shape[1]}x{score.shape[0]}"
                if name not in self.found:
                    self.found[name] = self._undamaged_quantile((score.shape[0], score.shape[1]))
            return self.found[name]

    def mask(self, score: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        return score > self.at(score)

    def _best_on_labelled(self) -> float:
        assert self._labelled is not None
        curve = Curve.empty()
        for record in self._labelled.records:
            if record.mask is None:
                raise CracksError(f"{record.image}: has no mask; --rule validation needs labelled images")
            curve += Curve.of(
                self.scorer(read_image(record.image)), mask_in_geometry(read_mask(record.mask), self.scorer.how)
            )
        threshold, _ = curve.best_f1()
        if threshold is None:
            raise CracksError(f"{self._labelled.name}: no labelled crack pixel, so no threshold can be chosen on it")
        return threshold

    def _undamaged_quantile(self, size: tuple[int, int]) -> float:
        assert self.rule.quantile is not None
        errors = []
        for canvas, inner in canvases(self._undamaged, size, self.scorer.how.geometry == "resize256"):
            errors.append(smooth(self.scorer.raw(canvas), self.scorer.how)[inner])
        return quantile_threshold(errors, self.rule.quantile)


def canvases(
    windows: Sequence[UndamagedWindow], size: tuple[int, int], resized: bool
) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]]:
    """For each undamaged window a picture of the size that is scored, and where no seam of it is near.

    The window is brought to the scale at which detection sees its photograph, and mirrored copies of it are laid side
    by side until the picture is full. Windows of different photographs never share a picture: batch statistics must be
    those of one photograph, as in detection, and a step in brightness between two pavements is an error that no
    photograph has (a mosaic of 30 DeepCrack windows doubled the 0.995 quantile).
    """
    for window in windows:
        cell = (_scaled(window) if resized else window.image)[: size[0], : size[1]]
        missing = ((0, size[0] - cell.shape[0]), (0, size[1] - cell.shape[1]), (0, 0))
        inner = np.ones(size, bool)
        for row in range(cell.shape[0], size[0], cell.shape[0]):
            inner[max(row - SEAM, 0) : row + SEAM] = False
        for column in range(cell.shape[1], size[1], cell.shape[1]):
            inner[:, max(column - SEAM, 0) : column + SEAM] = False
        yield np.ascontiguousarray(np.pad(cell, missing, mode="symmetric")), inner


def _scaled(window: UndamagedWindow) -> UInt8[np.ndarray, "h w 3"]:
    """The window at the scale of its photograph squashed to 256x256."""
    height = max(1, round(window.image.shape[0] * PAPER_SIDE / window.photo[0]))
    width = max(1, round(window.image.shape[1] * PAPER_SIDE / window.photo[1]))
    return cv2.resize(window.image, (width, height), interpolation=cv2.INTER_LINEAR)
