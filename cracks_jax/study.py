"""A trained run scored in every way that experiments/README.md reports, one JSON record per row.

Each record names its metric, rule, geometry, data and digest, checkpoint, software and device, and the
`cracks-jax evaluate` command that repeats it. The floor is scored by the same rules in the same geometry, tuned on
training images only: its undamaged quantile on the run's own windows, its labelled threshold on the training masks.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cracks_jax.data.datasets import Dataset, open_dataset, parse_spec
from cracks_jax.evaluate import pooled
from cracks_jax.methods.restoration import Restoration
from cracks_jax.runs import UNDAMAGED, open_run, surroundings
from cracks_jax.runtime.records import read_json, write_json
from cracks_jax.scoring import Request, open_scorings

GEOMETRIES = ("native", "resize256")
QUANTILES = ("undamaged:0.98", "undamaged:0.99", "undamaged:0.995", "undamaged:0.998")
FLOOR = "background_difference"


def score_run(run: Path, data: list[str], out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The run under its default rules in both geometries, and UP-CrackNet under the paper's and authors' presets."""
    opened = open_run(run)
    unsupervised = isinstance(opened.experiment.method, Restoration)
    rules = ("undamaged:0.995", "otsu", "validation") if unsupervised else ("0.5", "validation")
    found = []
    for spec in data:
        dataset = open_dataset(*parse_spec(spec), need_masks=True)
        for geometry in GEOMETRIES:
            found += _rows(Request(run=run, geometry=geometry), rules, dataset, spec, out, say)
        for preset in ("paper", "authors") if unsupervised else ():
            found += _rows(Request(run=run, preset=preset), ("otsu",), dataset, spec, out, say)
    return found


def score_floor(labelled: str, undamaged: Path | None, data: list[str], out: Path, say: Callable[[str], None]) -> None:
    """The floor by Otsu, by the best threshold on labelled training images, and by a run's undamaged windows."""
    for spec, geometry in itertools.product(data, GEOMETRIES):
        dataset = open_dataset(*parse_spec(spec), need_masks=True)
        request = Request(method=FLOOR, geometry=geometry, calibration=labelled)
        _rows(request, ("otsu", "validation"), dataset, spec, out, say)
        if undamaged is not None:
            windows = dataclasses.replace(request, calibration=str(undamaged / UNDAMAGED))
            _rows(windows, ("undamaged:0.995",), dataset, spec, out, say)


def factorial(run: Path, spec: str, geometry: str, out: Path, say: Callable[[str], None]) -> None:
    """Batch norm x dropout x filter x rule on one trained UP-CrackNet (40 rows); absolute error, best checkpoint."""
    dataset = open_dataset(*parse_spec(spec), need_masks=True)
    for norm, dropout, smoothing in itertools.product(("batch", "running"), (False, True), ("gaussian", "bilateral")):
        settings = (
            f"detection.batch_norm={norm}",
            f"detection.dropout={str(dropout).lower()}",
            f"detection.filter={smoothing}",
        )
        request = Request(run=run, geometry=geometry, settings=settings)
        _rows(request, ("otsu", *QUANTILES), dataset, spec, out, say)


def _rows(
    request: Request, rules: tuple[str, ...], dataset: Dataset, spec: str, out: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One pass over the images for all rules; rows that are on disk already are not made again."""
    asked = [dataclasses.replace(request, rule=rule) for rule in rules]
    missing = [one for one in asked if not _path(out, one, spec).exists()]
    if not missing:
        return []
    scorings = open_scorings(request, [one.rule for one in missing])
    rows = pooled(dataset, scorings[0].scorer, [scoring.thresholds for scoring in scorings])
    for one, scoring, row in zip(missing, scorings, rows, strict=True):
        row |= scoring.names | {
            "detection": {k: v for k, v in dataclasses.asdict(scoring.scorer.how).items() if k != "rule"},
            "command": _command(one, spec),
            **surroundings(),
        }
        path = _path(out, one, spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
        f1 = "undefined" if row["f1"] is None else f"{100 * row['f1']:.2f}"
        say(f"F1 {f1}  {path.name}")
    return rows


def _words(request: Request) -> Iterator[str]:
    if request.method is not None:
        yield f"--method {request.method}"
    for flag in ("preset", "geometry", "rule"):
        if getattr(request, flag) is not None:
            yield f"--{flag} {getattr(request, flag)}"
    if request.settings:
        yield f"--set {' '.join(request.settings)}"
    if request.calibration is not None:
        kept = Path(request.calibration)
        # A run's windows are named by the run: records hold no path of one machine.
        name = f"runs/{kept.parent.name}/{UNDAMAGED}" if kept.name == UNDAMAGED else request.calibration
        yield f"--calibration {name}"


def _command(request: Request, spec: str) -> str:
    run = [f"runs/{request.run.name}"] if request.run is not None else []
    return " ".join(["cracks-jax evaluate", *run, f"--data {spec}", *_words(request), "--json"])


def _path(out: Path, request: Request, spec: str) -> Path:
    parts = [spec, request.method, request.preset, request.geometry, request.rule]
    parts += [text.partition("=")[2] for text in request.settings]
    return out / ("-".join(part.replace(":", "_").replace("/", "_") for part in parts if part) + ".json")


def table(folder: Path) -> str:
    """The scores under a folder of records as Markdown, percent; every row names its command's file."""
    lines = [
        "| data | scored by | geometry | rule | F1 | IoU | precision | recall | best F1 (optimistic) | record |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.rglob("*.json")):
        row = read_json(path)
        if "f1" not in row:
            continue
        by = row.get("experiment") or row["method"]
        if row["preset"]:
            by += f", preset {row['preset']}"
        shown = [_percent(row[name]) for name in ("f1", "iou", "precision", "recall", "best_f1")]
        cells = [row["data"], by, row["geometry"], row["rule"], *shown, f"`{path.relative_to(folder)}`"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
