"""Who judges pictures in a report: the floor, and each run whose checkpoint is at hand, by its own detection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.data.datasets import Record
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.errors import CracksError
from cracks_jax.methods.restoration import Restoration
from cracks_jax.metrics.counts import Counts
from cracks_jax.predict import in_geometry, mask_in_geometry
from cracks_jax.report.entries import FLOOR
from cracks_jax.report.gather import FoundRun
from cracks_jax.scoring import Request, Scoring, open_scoring

FLOOR_METHOD = "background_difference"


@dataclass(frozen=True)
class Judge:
    """A scorer with its rule, and the run behind it (None: the floor)."""

    name: str
    run: FoundRun | None
    scoring: Scoring

    @property
    def method(self) -> Any:
        return self.scoring.scorer.method


@dataclass(frozen=True)
class Verdict:
    """What a judge makes of one photograph, all in the judge's geometry."""

    image: UInt8[np.ndarray, "h w 3"]
    truth: Bool[np.ndarray, "h w"]
    score: Float[np.ndarray, "h w"]
    found: Bool[np.ndarray, "h w"]

    @property
    def f1(self) -> float | None:
        return Counts.of(self.found, self.truth).f1

    @property
    def words(self) -> str:
        return "F1 undefined" if self.f1 is None else f"F1 {100 * self.f1:.1f}"


def open_judges(runs: Sequence[FoundRun], preset: str | None, problems: list[str]) -> list[Judge]:
    """The floor first. A run that cannot judge is told among the problems."""
    judges = [Judge(FLOOR, None, open_scoring(Request(method=FLOOR_METHOD)))]
    for run in runs:
        if run.experiment is None:
            continue
        if not run.has_checkpoint:
            problems.append(f"{run.name}: no checkpoint is at hand, so no picture shows it")
            continue
        own = preset if isinstance(run.experiment.method, Restoration) else None
        try:
            judges.append(Judge(run.name, run, open_scoring(Request(run=run.folder, preset=own))))
        except CracksError as error:
            problems.append(f"{run.name}: cannot be shown in pictures: {error}".replace(str(run.folder), run.name))
    return judges


def verdict(judge: Judge, record: Record) -> Verdict:
    """Scores one labelled photograph; CracksError where it cannot be read or scored."""
    image, truth = read(record)
    scorer = judge.scoring.scorer
    experiment = None if judge.run is None else judge.run.experiment
    # Runs may differ in it, and the last that was opened would decide for all.
    with jax.default_matmul_precision("highest" if experiment is None else experiment.matmul_precision):
        score = scorer(image)
        found = judge.scoring.thresholds.mask(score)
    return Verdict(in_geometry(image, scorer.how), mask_in_geometry(truth, scorer.how), score, found)


def read(record: Record) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """A labelled photograph and its mask."""
    if record.mask is None:
        raise CracksError(f"{record.image}: has no mask; the report's pictures need labelled images")
    image, truth = read_image(record.image), read_mask(record.mask)
    if truth.shape != image.shape[:2]:
        raise CracksError(f"{record.mask}: is not of its image's size; `cracks-jax data check` lists every such pair")
    return image, truth
