"""Records of evaluations as tables and plots want them: by whom, trained on what, detected how; seeds together."""

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
      who: the experiment, or the filter of the floor.
      trained_on: data set with its split; for the floor what its threshold was taken from; "" where unknown.
      detection: the preset, or the settings that were changed.
      rule, data, geometry: as recorded.
      seeds: of the trainings, in the order of `scores`; None where unknown.
    """

    method: str
    who: str
    trained_on: str
    detection: str
    rule: str
    data: str
    geometry: str
    seeds: tuple[int | None, ...]
    scores: tuple[Score, ...]

    @property
    def row(self) -> dict[str, Any]:
        """The first seed's record."""
        return self.scores[0].row

    def value(self, key: str) -> float | None:
        """A metric, its mean over seeds; None where it is 0/0 or was not recorded."""
        found = self._values(key)
        return over_seeds(found)[0] if found else None

    def deviation(self, key: str) -> float | None:
        """The sample standard deviation over seeds; None of one."""
        found = self._values(key)
        return over_seeds(found)[1] if found else None

    def interval(self, key: str) -> tuple[float, float] | None:
        """Over images, of a single seed."""
        ends = self.row.get("intervals", {}).get(key)
        return tuple(ends) if len(self.scores) == 1 and ends is not None else None

    def _values(self, key: str) -> list[float]:
        values = [score.row.get(key) for score in self.scores]
        return [float(value) for value in values if isinstance(value, (int, float))]


def entries(found: Found) -> tuple[Entry, ...]:
    """The floor first, then by experiment, detection and rule; within a data set's table."""
    runs = {run.description.get("run_id"): run for run in found.runs if run.description}
    groups: dict[tuple[str, ...], list[tuple[int | None, Score]]] = defaultdict(list)
    for score in found.scores:
        run = runs.get(score.row.get("run_id"))
        groups[_identity(score.row, run)].append((_seed(run), score))
    made = []
    for identity, members in groups.items():
        members.sort(key=lambda one: (one[0] is None, one[0] or 0, str(one[1].path)))
        # The same evaluation kept twice is one.
        distinct = {(seed, score.row.get("run_id")): (seed, score) for seed, score in members}.values()
        method, who, trained, detection, rule, data, geometry = identity
        seeds, scores = tuple(seed for seed, _ in distinct), tuple(score for _, score in distinct)
        made.append(Entry(method, who, trained, detection, rule, data, geometry, seeds, scores))
    return tuple(sorted(made, key=_order))


def _order(entry: Entry) -> tuple[Any, ...]:
    return (entry.data, entry.geometry, entry.method != FLOOR, entry.who, entry.trained_on, entry.detection, entry.rule)


def _identity(row: dict[str, Any], run: FoundRun | None) -> tuple[str, ...]:
    where = (str(row["rule"]), str(row["data"]), str(row["geometry"]))
    if "experiment" not in row:
        filtered = str(row.get("method") or "predictions")
        return (FLOOR, filtered, str(row.get("calibration") or ""), "default", *where)
    label = str(row["experiment"])
    method = method_of(run) or (CRACKSEG if label.startswith("crackseg") else UPCRACKNET)
    return (method, label, trained_on(run), _detection(row), *where)


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
    """The preset that detected, or else what was set by hand."""
    asked = str(row.get("command", "")).partition(" --set ")[2].partition(" --")[0]
    if asked:
        return ", ".join(word.removeprefix("detection.") for word in asked.split())
    return str(row.get("preset") or row.get("detection_preset") or "default")


def of_place(found: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """(data, geometry) -> entries, in order."""
    places: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in found:
        places[entry.data, entry.geometry].append(entry)
    return places
