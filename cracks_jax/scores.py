"""The record of one evaluation on disk, in open formats: what `evaluate --out` and studies write and `report` reads.

  NAME.json         every metric, and what it is of: data, digest, rule, geometry, detection, software, device, command
  NAME.images.csv   image by image: threshold, tp, fp, fn, tn, f1, iou (empty: 0/0)
  NAME.curve.csv    threshold, precision, recall, at up to 200 thresholds (0/0 left out)

A record holds names and digests, never a folder of the machine that made it.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cracks_jax.data.datasets import Dataset
from cracks_jax.errors import CracksError
from cracks_jax.evaluate import Judged, judge
from cracks_jax.metrics.curve import THRESHOLDS, Curve
from cracks_jax.runs import UNDAMAGED
from cracks_jax.runtime.records import read_json, write_json, write_text
from cracks_jax.scoring import Request, Scoring, open_scorings
from cracks_jax.surroundings import surroundings

_POINTS = 200
_COUNTS = ("tp", "fp", "fn", "tn")


@dataclass(frozen=True)
class Score:
    """A record as read: `row` is the JSON object, `images` and `curve` are empty where their files are not there."""

    path: Path
    row: dict[str, Any]
    images: tuple[dict[str, Any], ...]
    curve: tuple[tuple[float, float, float], ...]


def save(path: Path, judged: Judged, scoring: Scoring, command: str, calibration: str | None = None) -> None:
    """Writes the three files of the record whose JSON file `path` is; the JSON last, so that it is never alone.

    Args:
      command: that repeats it (`command_of`).
      calibration: the images that fixed the threshold, where they are not the run's own (`calibration_of`).

    Raises:
      CracksError: the folder cannot be written.
    """
    row = judged.metrics | {
        "detection": {k: v for k, v in dataclasses.asdict(scoring.scorer.how).items() if k != "rule"},
        "calibration": calibration,
        "command": command,
        **surroundings(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CracksError(f"{path.parent}: cannot be made ({error.strerror}); name another folder") from error
    write_text(path.with_suffix(".images.csv"), _csv(judged.images))
    points = curve_points(judged.curve)
    columns = ("threshold", "precision", "recall")
    write_text(path.with_suffix(".curve.csv"), _csv([dict(zip(columns, point, strict=True)) for point in points]))
    write_json(path, row)


def keep_scores(
    request: Request, rules: Sequence[str | None], dataset: Dataset, spec: str, out: Path, say: Callable[[str], None]
) -> None:
    """Scores `dataset`, asked for as `spec`, under every rule in one pass, and saves the records in `out`.

    Records that are there already are not made again.
    """
    asked = [dataclasses.replace(request, rule=rule) for rule in rules]
    missing = [one for one in asked if not (out / file_name(one, spec)).exists()]
    if not missing:
        return
    scorings = open_scorings(request, [one.rule for one in missing])
    for one, scoring, judged in zip(missing, scorings, judge(dataset, scorings), strict=True):
        path = out / file_name(one, spec)
        save(path, judged, scoring, command_of(one, spec), calibration_of(one))
        f1 = judged.metrics["f1"]
        say(f"F1 {'undefined' if f1 is None else f'{100 * f1:.2f}'}  {path.name}")


def load(path: Path) -> Score:
    """The record whose JSON file `path` is.

    Raises:
      CracksError: a file of it is damaged, or the JSON is no record of an evaluation.
    """
    row = read_json(path)
    missing = [name for name in ("f1", "iou", "data", "rule", "geometry", "images") if name not in row]
    if missing:
        raise CracksError(f"{path}: has no {missing[0]!r}, so it is no record of an evaluation; evaluate again")
    images = tuple(_of_image(line) for line in _lines(path.with_suffix(".images.csv")))
    points = _lines(path.with_suffix(".curve.csv"))
    curve = tuple((line["threshold"], line["precision"], line["recall"]) for line in points)
    return Score(path, row, images, curve)


def curve_points(curve: Curve) -> list[tuple[float, float, float]]:
    """(threshold, precision, recall) from the lowest threshold up; where many are alike in recall, some of them."""
    tp, fp, fn, _ = (part.astype(np.float64) for part in curve.counts.T)
    defined = np.flatnonzero((tp + fp > 0) & (tp + fn > 0))
    if not defined.size:
        return []
    tp, fp, fn = tp[defined], fp[defined], fn[defined]
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    # Equal steps along the drawn line, so that no bend is cut.
    along = np.append(0, np.cumsum(np.hypot(np.diff(precision), np.diff(recall))))
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _POINTS)).clip(0, len(along) - 1))
    return [(float(THRESHOLDS[defined[i]]), float(precision[i]), float(recall[i])) for i in kept]


def file_name(request: Request, spec: str) -> str:
    """The record's name by what was asked for: data, method or preset, geometry, rule, calibration, settings."""
    parts = [_named(spec), request.method, request.preset, request.geometry, request.rule, calibration_of(request)]
    parts += [text.partition("=")[2] for text in request.settings]
    return "-".join(part.replace(":", "_").replace("/", "_") for part in parts if part) + ".json"


def calibration_of(request: Request) -> str | None:
    """The images that fixed the threshold, where they were named: a data set, or a run's undamaged windows."""
    if request.calibration is None:
        return None
    kept = Path(request.calibration)
    own = f"runs/{kept.resolve().parent.name}/{UNDAMAGED}"
    return own if kept.name == UNDAMAGED else _named(request.calibration)


def command_of(request: Request, spec: str) -> str:
    """The `cracks-jax evaluate` command that repeats a record, without any folder of this machine."""
    run = [f"runs/{request.run.resolve().name}"] if request.run is not None else []
    return " ".join(["cracks-jax evaluate", *run, f"--data {_named(spec)}", *_words(request), "--json"])


def _words(request: Request) -> Iterator[str]:
    if request.method is not None:
        yield f"--method {request.method}"
    for flag in ("preset", "geometry", "rule", "tile"):
        if getattr(request, flag) is not None:
            yield f"--{flag} {getattr(request, flag)}"
    if request.checkpoint != "best":
        yield f"--checkpoint {request.checkpoint}"
    if request.settings:
        yield f"--set {' '.join(request.settings)}"
    if request.calibration is not None:
        yield f"--calibration {calibration_of(request)}"


def _named(spec: str) -> str:
    """A data set as asked for; of a path its last part alone."""
    return spec.rpartition("/")[2] or spec


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _lines(path: Path) -> list[dict[str, Any]]:
    """A CSV file's lines, numbers as numbers and empty places as None; none where there is no file."""
    if not path.exists():
        return []
    try:
        return [_numbers(line) for line in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))]
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise CracksError(f"{path}: cannot be read as a record's table ({error}); evaluate again") from error


def _numbers(line: Mapping[str, str]) -> dict[str, Any]:
    return {name: text if name == "image" else (float(text) if text else None) for name, text in line.items()}


def _of_image(line: dict[str, Any]) -> dict[str, Any]:
    return line | {name: int(line[name]) for name in _COUNTS}
