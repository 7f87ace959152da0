"""Records of evaluations as tables and plots want them: by whom, trained on what, detected how; seeds together."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cracks_jax.metrics.uncertainty import over_seeds
from cracks_jax.report.gather import Found, FoundRun
from cracks_jax.scores import Score

FLOOR, CRACKSEG, UPCRACKNET = "floor", "CrackSeg", "UP-CrackNet"
METHODS = {"segmentation": CRACKSEG, "restoration": UPCRACKNET}


@dataclass(frozen=True)
class Entry:
    """Evaluations that differ in the training's seed alone.

    Attributes:
      method: `CrackSeg`, `UP-CrackNet` or `floor`.
      who: the experiment, with its first run's id where trainings of other settings are called the same; or the filter
        of the floor.
      trained_on: data set with its split; for the floor what its threshold was taken from; "" where unknown.
      detection: the preset, or the settings that were changed.
      rule, data, geometry: as recorded.
      digest: of the images and masks.
      seeds: of the trainings, in the order of `scores`; None where unknown.
    """

    method: str
    who: str
    trained_on: str
    detection: str
    rule: str
    data: str
    geometry: str
    digest: str
    seeds: tuple[int | None, ...]
    scores: tuple[Score, ...]

    @property
    def row(self) -> dict[str, Any]:
        """The first seed's record."""
        return self.scores[0].row

    def value(self, key: str) -> float | None:
        """A metric, its mean over seeds; None where it is 0/0 or was not recorded."""
        found = self.values(key)
        return over_seeds(found)[0] if found else None

    def deviation(self, key: str) -> float | None:
        """The sample standard deviation over seeds; None of one."""
        found = self.values(key)
        return over_seeds(found)[1] if found else None

    def interval(self, key: str) -> tuple[float, float] | None:
        """Over images, of a single seed."""
        ends = self.row.get("intervals", {}).get(key)
        return tuple(ends) if len(self.scores) == 1 and ends is not None else None

    def values(self, key: str) -> list[float]:
        """A metric by seed, those left out where it is 0/0 or was not recorded."""
        found = [score.row.get(key) for score in self.scores]
        return [float(value) for value in found if isinstance(value, (int, float))]


def entries(found: Found) -> tuple[Entry, ...]:
    """The floor first, then by experiment, detection and rule; within a data set's table."""
    runs = {run.run_id: run for run in reversed(found.runs) if run.run_id}
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[int | None, Score]]] = defaultdict(list)
    for score in found.scores:
        run = runs.get(score.row.get("run_id", ""))
        groups[_training(score.row, run), _identity(score.row, run)].append((_seed(run), score))
    trainings: dict[str, set[str]] = defaultdict(set)
    for training, (_, who, *_) in groups:
        trainings[who].add(training)
    made = []
    for (_, identity), members in groups.items():
        members.sort(key=lambda one: (one[0] is None, one[0] or 0, str(one[1].path)))
        # The same evaluation kept twice is one.
        distinct = {(seed, score.row.get("run_id")): (seed, score) for seed, score in members}.values()
        seeds, scores = tuple(seed for seed, _ in distinct), tuple(score for _, score in distinct)
        method, who, trained, detection, rule, data, geometry, digest = identity
        if len(trainings[who]) > 1:
            who += f" ({scores[0].row.get('run_id')})"
        made.append(Entry(method, who, trained, detection, rule, data, geometry, digest, seeds, scores))
    return tuple(sorted(made, key=_order))


def differing_images(found: Sequence[Entry]) -> list[str]:
    """Data sets that were not the same images in every evaluation, in words."""
    digests: dict[str, set[str]] = defaultdict(set)
    for entry in found:
        digests[entry.data].add(entry.digest[:8])
    return [
        f"{data}: its evaluations are not all of the same images (digests {', '.join(sorted(several))}), so their rows "
        "do not compare"
        for data, several in digests.items() if len(several) > 1
    ]  # fmt: skip


def _order(entry: Entry) -> tuple[Any, ...]:
    return (entry.data, entry.geometry, entry.method != FLOOR, entry.who, entry.trained_on, entry.detection, entry.rule,
            entry.digest)  # fmt: skip


def _identity(row: dict[str, Any], run: FoundRun | None) -> tuple[str, ...]:
    where = (row["rule"], row["data"], row["geometry"], row.get("data_digest", ""))
    if "experiment" not in row:
        calibrated = row["rule"].startswith(("validation", "undamaged"))
        trained = str(row.get("calibration") or _asked(row, "calibration")) if calibrated else ""
        return (FLOOR, str(row.get("method") or "predictions"), trained, "default", *where)
    label = row["experiment"]
    method = method_of(run) or (CRACKSEG if label.startswith("crackseg") else UPCRACKNET)
    return (method, label, trained_on(run), _detection(row), *where)


def _training(row: dict[str, Any], run: FoundRun | None) -> str:
    """All that was trained but the seed; of a run that is not at hand its id, for its settings are not known."""
    science = {} if run is None else run.description.get("science", {})
    if not science:
        return str(row.get("run_id"))
    return json.dumps({name: value for name, value in science.items() if name != "seed"}, sort_keys=True)


def method_of(run: FoundRun | None) -> str:
    """By what a run was trained; "" where that is not known."""
    kind = {} if run is None else run.description.get("science", {}).get("method", {})
    return METHODS.get(kind.get("kind", ""), "")


def trained_on(run: FoundRun | None) -> str:
    """The data set with its split that a run was trained on; "" where that is not known."""
    data = {} if run is None else run.description.get("science", {}).get("data", {})
    return ":".join(part for part in (data.get("name"), data.get("split")) if part)


def _seed(run: FoundRun | None) -> int | None:
    return None if run is None else run.description.get("science", {}).get("seed")


def _detection(row: dict[str, Any]) -> str:
    """The preset that detected, and what was set by hand."""
    settings = [word.removeprefix("detection.") for word in _asked(row, "set").split()]
    settings += [f"{name} {_asked(row, name)}" for name in ("tile", "checkpoint") if _asked(row, name)]
    own = str(row.get("preset") or ("" if settings else row.get("detection_preset") or "default"))
    return ", ".join([own, *settings] if own else settings)


def _asked(row: dict[str, Any], flag: str) -> str:
    """What the recorded command says behind a flag."""
    return row.get("command", "").partition(f" --{flag} ")[2].partition(" --")[0]


def of_place(found: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """(data, geometry) -> entries, in order."""
    places: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in found:
        places[entry.data, entry.geometry].append(entry)
    return places
