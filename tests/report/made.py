"""Run directories and records of evaluations made by hand, every number known; and the tables that come of them."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

from cracks_jax.experiment import Experiment, load_file, to_json
from cracks_jax.metrics.definitions import METRICS
from cracks_jax.report.entries import entries
from cracks_jax.report.gather import Found, gather
from cracks_jax.report.model import Cell, Report, Row, Table

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
# A value of its own for each metric, as a fraction.
VALUES = {name: 0.1 + 0.017 * place for place, name in enumerate(METRICS)}
COST = {"parameters": 57_189_060, "gflop_256": 36.25, "images_per_second": 1.5, "peak_memory_mib": 900,
        "seconds_per_image": {"network": 0.5}}  # fmt: skip
CURVE = ((0.1, 0.2, 0.9), (0.4, 0.5, 0.6), (0.8, 0.9, 0.1))
IMAGES = (("a", 0.5, 30, 20, 10, 40), ("b", 0.25, 10, 80, 0, 10), ("c", 0.5, 0, 0, 0, 100))


def smoke(file: str = "upcracknet_deepcrack", member: str | None = None, **changes: Any) -> Experiment:
    """The smoke form of an experiment, with other settings: `method__base=8` or `seed=1`."""
    found = load_file(f"{EXPERIMENTS / file}.py:smoke", member)
    for path, value in changes.items():
        found = _with(found, path.split("__"), value)
    return found


def _with(part: Any, path: list[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _with(getattr(part, path[0]), path[1:], value)
    return dataclasses.replace(part, **{path[0]: inner})


def run(folder: Path, experiment: Experiment, *, steps: int = 4, finished: bool = True, **attempt: Any) -> Path:
    """A run directory of `steps` recorded steps; `attempt`: what is known of its only attempt besides its start."""
    folder.mkdir(parents=True)
    described = {
        "run_id": experiment.run_id, "name": experiment.name, "form": experiment.form, "member": experiment.member,
        **to_json(experiment),
        "software": {"cracks-jax": "0.1.0", "python": "3.11.7", "jax": "0.10.2", "jaxlib": "0.10.2"},
        "device": {"kind": "x86_64 CPU, 2 cores", "count": 1, "platform": "cpu"},
        "git_revision": "0123456789abcdef0123456789abcdef01234567+changes",
        "data": {"digest": "90c05d7eada1ce90" * 4, "train": 10, "validation": ["v1", "v2"]},
        "weights": {}, "loaded": [],
        "attempts": [{"from_step": 0, **({"to_step": steps, "seconds": 2520} if finished else {}), **attempt}],
    }  # fmt: skip
    (folder / "experiment.json").write_text(json.dumps(described, indent=2))
    lines = [{"event": "train", "step": step, "epoch": 0, "loss": 5 - step, "mae": 1 / step}
             for step in range(1, steps + 1)]  # fmt: skip
    lines.append({"event": "validation", "step": steps, "iou": 0.5})
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        metrics = {"run_id": experiment.run_id, "step": steps, "best_step": 2, "best_iou": 0.51234,
                   "state_sha256": "2bb78befe5443a47" * 4}  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def score(folder: Path, name: str, by: Experiment | None = None, *, tables: bool = True, **changes: Any) -> Path:
    """A record of an evaluation by a run, or by the floor; None as a change leaves a field out."""
    folder.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {
        **VALUES, "images": 3, "rule": "otsu", "geometry": "native", "data": "deepcrack:test", "data_digest": "d" * 64,
        "intervals": {key: [value - 0.01, value + 0.02] for key, value in VALUES.items()}, "cost": dict(COST),
        "command": "cracks-jax evaluate --data deepcrack:test --json",
    }  # fmt: skip
    if by is None:
        row["method"] = "background_difference"
    else:
        row |= {"run_id": by.run_id, "experiment": by.label, "checkpoint": 4, "preset": None,
                "detection_preset": "default"}  # fmt: skip
    row |= changes
    (folder / f"{name}.json").write_text(json.dumps({key: value for key, value in row.items() if value is not None}))
    if tables:
        _table(folder / f"{name}.images.csv", ("image", "threshold", "tp", "fp", "fn", "tn", "f1", "iou"), _images())
        _table(folder / f"{name}.curve.csv", ("threshold", "precision", "recall"), CURVE)
    return folder / f"{name}.json"


def _images() -> list[tuple[Any, ...]]:
    """Image by image; the last holds no crack and nothing was found in it: 0/0."""
    rows = []
    for image, threshold, tp, fp, fn, tn in IMAGES:
        whole = tp + fp + fn
        f1, iou = (2 * tp / (whole + tp), tp / whole) if whole else ("", "")
        rows.append((image, threshold, tp, fp, fn, tn, f1, iou))
    return rows


def _table(path: Path, columns: tuple[str, ...], rows: Any) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


# ----------------------------------------------------------------------------------------- what comes of them


def found(*folders: Path) -> tuple[Found, tuple]:
    """What lies there, and its entries."""
    all_of_it = gather(folders)
    return all_of_it, entries(all_of_it)


def cells(table: Table, row: Row) -> dict[str, Cell]:
    """Each cell of a row by its column's key, or its label; the first of several."""
    named: dict[str, Cell] = {}
    for column, cell in zip(table.columns, row.cells, strict=True):
        named.setdefault(column.key or column.label, cell)
    return named


def rows(table: Table, kind: str | None = None, **words: str) -> list[dict[str, Cell]]:
    """The rows of a kind whose cells say these words: `rule="otsu"`."""
    shown = [cells(table, row) for row in table.rows if kind in (None, row.kind)]
    return [row for row in shown if all(row[name.replace("_", " ")].text == word for name, word in words.items())]


def empty_report(*figures: Any) -> Report:
    """A report that holds figures alone."""
    return Report("Title", "Lead.", (), (), (), figures, ())
