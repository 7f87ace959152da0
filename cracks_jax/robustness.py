"""How much worse a method gets as photographs get worse: F1 against severity, and the area under it.

Every photograph is degraded at its own size (`data/degradations.py`), then detected as ever: thresholds stay those of
sound photographs. Both papers claim robustness, and neither measures any.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cracks_jax.data.datasets import Dataset, open_dataset, parse_spec
from cracks_jax.data.degradations import KINDS, SEVERITIES, degrade
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.experiment import Experiment
from cracks_jax.methods.restoration import Restoration
from cracks_jax.metrics.counts import Counts
from cracks_jax.metrics.uncertainty import interval_of_counts
from cracks_jax.predict import mask_in_geometry
from cracks_jax.report.judges import FLOOR_METHOD
from cracks_jax.runs import UNDAMAGED
from cracks_jax.runtime.records import read_json, write_json
from cracks_jax.scores import command_of
from cracks_jax.scoring import Request, Scoring, open_scorings
from cracks_jax.study import keep_records, trained
from cracks_jax.surroundings import surroundings

NAME = "robustness.json"
NONE = "none"
Row = dict[str, Any]


@dataclass(frozen=True)
class Robustness:
    """A study of both methods and the floor on degraded photographs of one data set.

    Attributes:
      trainings: judged by their own rules, UP-CrackNet also by its preset `hidden`.
      test: labelled data, NAME:SPLIT.
      labelled: training images that fix the floor's threshold.
      geometry: at which all are scored.
      seed: of the degradations.
      every: 1 for all images of `test`, n for each n-th in the order of their names.
    """

    trainings: tuple[Experiment, ...]
    test: str
    labelled: str
    geometry: str = "resize256"
    seed: int = 0
    every: int = 1

    def carry_out(self, runs: Path, out: Path, say: Callable[[str], None]) -> None:
        """Writes out/robustness.json, row by row: started again it goes on."""
        folders = [trained(experiment, runs, say) for experiment in self.trainings]
        for folder in folders:
            keep_records(folder, out / folder.name)
        judges = self._judges(folders)
        dataset = open_dataset(*parse_spec(self.test), need_masks=True)
        dataset = dataset.subset(dataset.stems[:: self.every])
        record = self._record(out / NAME, dataset)
        for kind, severity in [(NONE, 0), *((kind, severity) for kind in KINDS for severity in SEVERITIES)]:
            here = [row for row in record["rows"] if (row["kind"], row["severity"]) == (kind, severity)]
            done = {(row["method"], row["rule"]) for row in here}
            missing = [judge for judge in judges if not {(judge.name, rule) for rule in judge.rules} <= done]
            if missing:
                record["rows"] += _judged(missing, dataset, kind, severity, self.seed)
                write_json(out / NAME, record)
                say(f"{kind} {severity}: {_told(record['rows'], kind, severity)}")

    def _record(self, path: Path, dataset: Dataset) -> dict[str, Any]:
        """The record that is there, if it is of these images, degradations and this geometry; else a new one."""
        asked = {"study": "robustness", "data": self.test, "data_digest": dataset.digest(), "images": len(dataset),
                 "every": self.every, "geometry": self.geometry, "seed": self.seed}  # fmt: skip
        if path.is_file():
            found = read_json(path)
            if {name: found.get(name) for name in asked} == asked:
                return found
        return {**asked, **surroundings(), "rows": []}

    def _judges(self, folders: Sequence[Path]) -> list["Judge"]:
        floor = Request(method=FLOOR_METHOD, geometry=self.geometry, calibration=self.labelled)
        judges = [_judge(FLOOR_METHOD, floor, ("validation",))]
        for folder, experiment in zip(folders, self.trainings, strict=True):
            request = Request(run=folder, geometry=self.geometry)
            if not isinstance(experiment.method, Restoration):
                judges.append(_judge(experiment.label, request, (experiment.detection.rule,)))
                continue
            windows = Request(method=FLOOR_METHOD, geometry=self.geometry, calibration=str(folder / UNDAMAGED))
            judges.append(_judge(FLOOR_METHOD, windows, ("undamaged:0.995",)))
            for preset in ("default", "hidden"):
                asked = Request(run=folder, geometry=self.geometry, preset=preset)
                judges.append(_judge(f"{experiment.label}, {preset}", asked, ("undamaged:0.995", "otsu")))
        return judges


@dataclass(frozen=True)
class Judge:
    """A scorer under its rules; opened when it is first asked."""

    name: str
    request: Request
    rules: tuple[str, ...]
    open: Callable[[], list[Scoring]]


def _judge(name: str, request: Request, rules: tuple[str, ...]) -> Judge:
    return Judge(name, request, rules, functools.cache(lambda: open_scorings(request, rules)))


def _judged(judges: Sequence[Judge], dataset: Dataset, kind: str, severity: int, seed: int) -> list[Row]:
    """One row for each judge and rule; every photograph is degraded once for all of them."""
    counts: dict[tuple[str, str], list[Counts]] = {(j.name, rule): [] for j in judges for rule in j.rules}
    often = 0.2 if sys.stderr.isatty() else 15
    for record in tqdm(dataset, desc=f"{kind} {severity}", unit="image", file=sys.stderr, mininterval=often):
        assert record.mask is not None  # `need_masks`
        image, truth = read_image(record.image), read_mask(record.mask)
        if kind != NONE:
            image = degrade(image, kind, severity, key=record.stem, seed=seed)
        for one in judges:
            scorings = one.open()
            score = scorings[0].scorer(image)
            mask = mask_in_geometry(truth, scorings[0].scorer.how)
            for rule, scoring in zip(one.rules, scorings, strict=True):
                counts[one.name, rule].append(Counts.of(scoring.thresholds.mask(score), mask))
    return [
        _row(one, scoring, rule, counts[one.name, rule], dataset) | {"kind": kind, "severity": severity}
        for one in judges
        for rule, scoring in zip(one.rules, one.open(), strict=True)
    ]


def _row(one: Judge, scoring: Scoring, rule: str, counts: Sequence[Counts], dataset: Dataset) -> Row:
    total = sum(counts, Counts())
    found = {name: getattr(total, name) for name in ("f1", "iou", "precision", "recall")}
    table = np.array([(c.tp, c.fp, c.fn, c.tn) for c in counts], np.float64)
    return {
        "method": one.name,
        "rule": rule,
        **{name: scoring.names.get(name) for name in ("run_id", "checkpoint", "detection_preset")},
        **found,
        "f1_interval": interval_of_counts("f1", dataset.stems, table),
        "command_on_sound_images": command_of(one.request, dataset.label),
    }


def _told(rows: Sequence[Row], kind: str, severity: int) -> str:
    here = [row for row in rows if (row["kind"], row["severity"]) == (kind, severity)]
    return ", ".join(f"{row['method']} {row['rule']} {100 * (row['f1'] or 0):.1f}" for row in here)


def curves(record: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Kind -> "method, rule" -> F1 at severity 0 (sound) to the worst, of the kinds that are complete."""
    by_place: dict[tuple[str, int], dict[str, float]] = {}
    for row in record["rows"]:
        by_place.setdefault((row["kind"], row["severity"]), {})[f"{row['method']}, {row['rule']}"] = row["f1"] or 0.0
    sound = by_place.get((NONE, 0), {})
    found: dict[str, dict[str, list[float]]] = {}
    for kind in KINDS:
        steps = [sound, *(by_place.get((kind, severity), {}) for severity in SEVERITIES)]
        found[kind] = {name: [step[name] for step in steps] for name in sound if all(name in step for step in steps)}
    return {kind: lines for kind, lines in found.items() if lines}


def area(line: Sequence[float]) -> float:
    """The area under F1 against severity by trapezoids, divided by the greatest severity: F1 where nothing hurts."""
    return float(np.trapezoid(line) / (len(line) - 1))
