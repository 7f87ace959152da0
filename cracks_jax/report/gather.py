"""What lies under the folders that were named: runs in any state, and records of evaluations; damage is told by name.

A run is a folder with an experiment.json (or with what a run leaves behind when that is lost). A record of an
evaluation is what `scores.save` writes. Nothing is computed and no checkpoint is opened here. Files are told by the
folder that was named and what is below it, never by where that lies.
"""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.errors import CracksError
from cracks_jax.experiment import Experiment, from_json
from cracks_jax.report.sound import METRICS_SHAPE, RUN_SHAPE, is_number, pruned, wrong_in_score, wrong_in_tables
from cracks_jax.runs import CHECKPOINTS, EXPERIMENT, METRICS, RECORDS, UNDAMAGED
from cracks_jax.runtime.records import Records, read_json
from cracks_jax.scores import Score, load
from cracks_jax.untrusted import parse_json

# Folders of a run that hold no records.
_PASSED_OVER = {CHECKPOINTS, UNDAMAGED}
# A run whose last line is younger than this may well be running.
_FRESH_SECONDS = 600
_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True)
class FoundRun:
    """A run, as far as it can be read.

    Attributes:
      name: of its folder, with those above where another run is called the same.
      description: what experiment.json holds; empty where it cannot be read.
      experiment: rebuilt from it; None where it is another version's, or lost.
      records: the readable lines of records.jsonl.
      metrics: what metrics.json holds; empty before the end, or where it cannot be read.
    """

    folder: Path
    name: str
    description: dict[str, Any]
    experiment: Experiment | None
    records: tuple[dict[str, Any], ...]
    metrics: dict[str, Any]

    @property
    def run_id(self) -> str | None:
        return self.description.get("run_id")

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return [one for one in self.description.get("attempts") or [] if isinstance(one, dict)]

    @property
    def step(self) -> int:
        """The last step that is on record."""
        recorded = (record["step"] for record in self.records)
        stopped = (one["to_step"] for one in self.attempts if isinstance(one.get("to_step"), int))
        return self.metrics.get("step") or max(itertools.chain(recorded, stopped), default=0)

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
        if (self.folder / METRICS).exists():
            return f"ended {at}, but its {METRICS} cannot be read"
        if not self.description:
            return f"not finished: {at}; without its {EXPERIMENT} it cannot go on"
        if "to_step" in (self.attempts or [{}])[-1]:
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


@dataclass(frozen=True)
class _Place:
    """A folder, how it is called in the report, and where to say what is wrong in it."""

    folder: Path
    name: str
    problems: list[str]

    def called(self, file: str) -> str:
        return f"{self.name}/{printable(file)}"

    def tell(self, file: str, error: Exception, remedy: str = "") -> None:
        """The message, with the files' names in the report for their paths: a report is shown to others."""
        path = self.folder / file
        said = str(error) if isinstance(error, CracksError) else f"{path}: is damaged ({type(error).__name__}: {error})"
        for one in (path, *(path.with_suffix(suffix) for suffix in (".images.csv", ".curve.csv"))):
            said = said.replace(str(one), self.called(one.name))
        self.problems.append(said + remedy)

    def is_file(self, file: str) -> bool:
        """Whether it may be opened. A pipe would never end; a folder of that name is told when it is asked for."""
        path = self.folder / file
        if path.exists() and not path.is_file():
            self.problems.append(f"{self.called(file)}: is no regular file; left out")
        return path.is_file()


def gather(paths: Sequence[Path]) -> Found:
    """Everything under the paths.

    Raises:
      CracksError: a path is not there, or nothing at all was found under them.
    """
    for path in paths:
        if path.is_file():
            raise CracksError(f"{path}: is a file; name the folder that holds it, {path.parent}")
        if not path.is_dir():
            raise CracksError(f"{path}: there is no such folder; name run directories, or folders that hold some")
    problems: list[str] = []
    runs, scores, taken = [], [], {"floor"}
    for place in _places(paths, problems):
        if _is_run(place.folder):
            runs.append(_run(place, _own_name(place, taken)))
        scores += _scores(place)
    if not runs and not scores and not problems:
        raise CracksError(
            f"{', '.join(map(str, paths))}: no run and no record of an evaluation found; `cracks-jax train` makes "
            "runs, `cracks-jax evaluate --out DIR` records"
        )
    problems += [f"{run.name}: {run.state}" for run in runs if not run.finished and run.description]
    return Found(tuple(runs), tuple(scores), tuple(problems))


def printable(text: str) -> str:
    """Without what no page can show: file names may hold any byte."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _places(paths: Sequence[Path], problems: list[str]) -> Iterator[_Place]:
    """The folders and all below them that may hold records, each once, in the order of their names."""
    seen: set[str] = set()
    waiting = [(path, printable(path.resolve().name) or "/") for path in reversed(paths)]
    while waiting:
        folder, name = waiting.pop()
        real = os.path.realpath(folder)  # of two ways to a folder, links among them, one is enough
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as found:
                below = sorted(one.name for one in found if not _passed_over(one.name) and os.path.isdir(one.path))
        except OSError as error:
            problems.append(f"{name}: cannot be read ({error.strerror}); left out")
            continue
        yield _Place(folder, name, problems)
        waiting += [(folder / one, f"{name}/{printable(one)}") for one in reversed(below)]


def _passed_over(name: str) -> bool:
    return name in _PASSED_OVER or name.startswith(".")


def _own_name(place: _Place, taken: set[str]) -> str:
    short = printable(place.folder.resolve().name)
    names = itertools.chain((short, place.name), (f"{place.name} ({n})" for n in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name


def _is_run(folder: Path) -> bool:
    return (folder / EXPERIMENT).is_file() or (folder / RECORDS).is_file() or (folder / CHECKPOINTS).is_dir()


def _run(place: _Place, name: str) -> FoundRun:
    described = _object(place, EXPERIMENT) if place.is_file(EXPERIMENT) or not _there(place, EXPERIMENT) else {}
    experiment = None
    if described:
        try:
            experiment = from_json(described, place.called(EXPERIMENT))
        except _UNREADABLE as error:
            place.tell(EXPERIMENT, error)
    description = _sound(place, EXPERIMENT, described, RUN_SHAPE)
    metrics = _object(place, METRICS) if place.is_file(METRICS) else {}
    metrics = _sound(place, METRICS, metrics, METRICS_SHAPE)
    return FoundRun(place.folder, name, description, experiment, tuple(_records(place)), metrics)


def _there(place: _Place, file: str) -> bool:
    return (place.folder / file).exists()


def _object(place: _Place, file: str) -> dict[str, Any]:
    try:
        return read_json(place.folder / file)
    except _UNREADABLE as error:
        place.tell(file, error)
        return {}


def _sound(place: _Place, file: str, tree: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    """The tree without what is not of its kind, which is told."""
    wrong: list[str] = []
    kept = pruned(tree, shape, wrong)
    if wrong:
        place.problems.append(f"{place.called(file)}: {', '.join(wrong)} cannot be what was recorded; left out")
    return kept


def _records(place: _Place) -> list[dict[str, Any]]:
    if not place.is_file(RECORDS):
        return []
    try:
        found, damaged = Records(place.folder / RECORDS).readable()
    except _UNREADABLE as error:
        place.tell(RECORDS, error)
        return []
    if damaged:
        listed = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        place.problems.append(f"{place.called(RECORDS)}: no records in line {listed}; the other lines are shown")
    return [record for record in found if is_number(record["step"])]


# ------------------------------------------------------------------------------------ records of evaluations


def _scores(place: _Place) -> list[Score]:
    """The records of evaluations that lie in this folder itself."""
    names = sorted(path.name for path in place.folder.glob("*.json") if path.is_file())
    found = (_score(place, name) for name in names if name not in (EXPERIMENT, METRICS))
    return [score for score in found if score is not None]


def _score(place: _Place, file: str) -> Score | None:
    """The record; where its tables are damaged, its numbers alone. None for a JSON file that is something else."""
    path = place.folder / file
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = str(error).replace(str(path), file)
        place.problems.append(f"{place.called(file)}: cannot be read as JSON ({said}); left out")
        return None
    if not isinstance(tree, dict) or not {"f1", "rule"} <= tree.keys():
        return None
    wrong = wrong_in_score(tree)
    if wrong:
        place.problems.append(f"{place.called(file)}: {wrong}, so it is no record of an evaluation; evaluate again")
        return None
    tables = [path.with_suffix(suffix).name for suffix in (".images.csv", ".curve.csv")]
    if not all([place.is_file(table) or not _there(place, table) for table in tables]):
        return Score(path, tree, (), ())
    try:
        score = load(path)
        if wrong_in_tables(score.images, score.curve):
            raise ValueError("a place is empty")
        return score
    except _UNREADABLE as error:
        # A message of `load` names the table; what else fails does so over the first.
        place.tell(file if isinstance(error, CracksError) else tables[0], error, "; the metrics are shown without it")
        return Score(path, tree, (), ())
