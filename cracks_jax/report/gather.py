"""What lies under the folders that were named: runs in any state, and records of evaluations; damage is told by name.

A run is a folder with an experiment.json (or with what a run leaves behind when that is lost). A record of an
evaluation is what `scores.save` writes. Nothing is computed and no checkpoint is opened here.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError
from cracks_jax.experiment import Experiment, from_json
from cracks_jax.runs import CHECKPOINTS, EXPERIMENT, METRICS, RECORDS, UNDAMAGED
from cracks_jax.runtime.records import Records, read_json
from cracks_jax.scores import Score, load

# Folders of a run that hold no records.
_PASSED_OVER = {CHECKPOINTS, UNDAMAGED}
# A run whose last line is younger than this may well be running.
_FRESH_SECONDS = 600


@dataclass(frozen=True)
class FoundRun:
    """A run, as far as it can be read.

    Attributes:
      name: of its folder.
      description: what experiment.json holds; empty where it cannot be read.
      experiment: rebuilt from it; None where it is another version's, or lost.
      records: the readable lines of records.jsonl.
      metrics: what metrics.json holds; empty before the end.
    """

    folder: Path
    name: str
    description: dict[str, Any]
    experiment: Experiment | None
    records: tuple[dict[str, Any], ...]
    metrics: dict[str, Any]

    @property
    def step(self) -> int:
        """The last step that is on record."""
        return int(self.metrics.get("step") or max((record["step"] for record in self.records), default=0))

    @property
    def finished(self) -> bool:
        return bool(self.metrics)

    @property
    def state(self) -> str:
        """`finished`, or what the run is instead, in words."""
        if self.finished:
            return "finished"
        planned = "" if self.experiment is None else f" of {self.experiment.training.steps:,}"
        at = f"at step {self.step:,}{planned}"
        attempts = self.description.get("attempts") or [{}]
        if "to_step" in attempts[-1]:
            return f"not finished: stopped {at}; its training command goes on from there"
        age = self._seconds_since_last_line()
        if age is not None and age < _FRESH_SECONDS:
            return f"not finished: {at}, still running or killed just now"
        return f"not finished: {at}, not running; its training command goes on from its last checkpoint"

    def _seconds_since_last_line(self) -> float | None:
        try:
            return time.time() - (self.folder / RECORDS).stat().st_mtime
        except OSError:
            return None

    @property
    def has_checkpoint(self) -> bool:
        folder = self.folder / CHECKPOINTS
        return folder.is_dir() and any(path.name.isdecimal() for path in folder.iterdir())


@dataclass(frozen=True)
class Found:
    """Runs and records in the order of their paths, and what is wrong, in words."""

    runs: tuple[FoundRun, ...]
    scores: tuple[Score, ...]
    problems: tuple[str, ...]


def gather(paths: Sequence[Path]) -> Found:
    """Everything under the paths.

    Raises:
      CracksError: a path is not there, or nothing at all was found under them.
    """
    for path in paths:
        if not path.is_dir():
            raise CracksError(f"{path}: there is no such folder; name run directories, or folders that hold some")
    problems: list[str] = []
    runs, scores, seen = [], [], set()
    for folder in (one for path in paths for one in _folders(path)):
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        if _is_run(folder):
            runs.append(_run(folder, problems))
        scores += _scores(folder, problems)
    if not runs and not scores and not problems:
        raise CracksError(
            f"{', '.join(map(str, paths))}: no run and no record of an evaluation found; `cracks-jax train` makes "
            "runs, `cracks-jax evaluate --out DIR` records"
        )
    problems += [f"{run.name}: {run.state}" for run in runs if not run.finished and run.description]
    return Found(tuple(runs), tuple(scores), tuple(problems))


def _folders(path: Path) -> Iterator[Path]:
    """The folder and all below it that may hold records, in the order of their names."""
    yield path
    below = (one for one in path.iterdir() if one.is_dir() and one.name not in _PASSED_OVER)
    for one in sorted(below):
        yield from _folders(one)


def _is_run(folder: Path) -> bool:
    return (folder / EXPERIMENT).is_file() or (folder / RECORDS).is_file() or (folder / CHECKPOINTS).is_dir()


def _run(folder: Path, problems: list[str]) -> FoundRun:
    name = folder.resolve().name
    description = _object(folder / EXPERIMENT, problems)
    experiment = None
    if description:
        try:
            experiment = from_json(description, f"{name}/{EXPERIMENT}")
        except CracksError as error:
            problems.append(str(error))
    metrics = _object(folder / METRICS, problems) if (folder / METRICS).exists() else {}
    return FoundRun(folder, name, description, experiment, tuple(_records(folder, problems)), metrics)


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_json(path)
    except CracksError as error:
        problems.append(_without_folder(error, path))
        return {}


def _records(folder: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        found, damaged = Records(folder / RECORDS).readable()
    except CracksError as error:
        problems.append(_without_folder(error, folder / RECORDS))
        return []
    if damaged:
        listed = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        problems.append(f"{folder.resolve().name}/{RECORDS}: no records in line {listed}; the other lines are shown")
    return found


def _scores(folder: Path, problems: list[str]) -> list[Score]:
    """The records of evaluations that lie in this folder itself."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name in (EXPERIMENT, METRICS) or not _looks_like_a_score(path, problems):
            continue
        try:
            found.append(load(path))
        except CracksError as error:
            problems.append(_without_folder(error, path))
    return found


def _looks_like_a_score(path: Path, problems: list[str]) -> bool:
    """Other JSON files are none of the report's business; one that cannot be read is told."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.resolve().parent.name}/{path.name}: cannot be read as JSON ({error}); left out")
        return False
    return isinstance(tree, dict) and "f1" in tree and "rule" in tree


def _without_folder(error: CracksError, path: Path) -> str:
    """The message with the file's name and its run's alone: a report is shown to others."""
    return str(error).replace(str(path), f"{path.resolve().parent.name}/{path.name}")
