"""A trained run scored in every way that experiments/README.md reports, one JSON record per row.

Each record names its metric, rule, geometry, data and digest, checkpoint, software and device, and the
`cracks-jax evaluate` command that repeats it. The floor is scored by the same rules in the same geometry, tuned on
training images only: its undamaged quantile on the run's own windows, its labelled threshold on the training masks.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cracks_jax.data.datasets import Dataset, open_dataset, parse_spec
from cracks_jax.errors import CracksError
from cracks_jax.evaluate import judge
from cracks_jax.methods.restoration import Restoration
from cracks_jax.runs import UNDAMAGED, open_run
from cracks_jax.runtime.records import read_json
from cracks_jax.scores import file_name, save
from cracks_jax.scoring import Request, open_scorings

BEGIN, END = "<!-- records: begin -->", "<!-- records: end -->"
GEOMETRIES = ("native", "resize256")
QUANTILES = ("undamaged:0.98", "undamaged:0.99", "undamaged:0.995", "undamaged:0.998")
FLOOR = "background_difference"
# UP-CrackNet's rows as printed, precision and recall exchanged back (UPCRACKNET.md section 0), percent.
PRINTED = {
    ("deepcrack:test", "resize256"): ("paper, Table IV", "paper", "otsu", "74.0", "58.7", "88.9", "63.4", "-"),
    ("cfd:without042", "resize256"): ("paper, Table VII (200 patches)", "paper", "otsu", 46.8, 30.5, 42.3, 52.4, "-"),
}


def score_run(
    run: Path, data: list[str], out: Path, say: Callable[[str], None], labelled: str | None = None
) -> None:
    """The run under its rules in both geometries; UP-CrackNet also by preset hidden, the paper's and the authors'.

    The labelled threshold comes from the photographs that the run held out, or from `labelled` (a run on pictures
    without masks has none of its own).
    """
    opened = open_run(run)
    unsupervised = isinstance(opened.experiment.method, Restoration)
    rules = ("undamaged:0.995", "otsu") if unsupervised else ("0.5",)
    for spec in data:
        dataset = open_dataset(*parse_spec(spec), need_masks=True)
        for geometry, preset in itertools.product(GEOMETRIES, (None, "hidden") if unsupervised else (None,)):
            request = Request(run=run, preset=preset, geometry=geometry)
            if labelled is None:
                _rows(request, (*rules, "validation"), dataset, spec, out, say)
            else:
                _rows(request, rules, dataset, spec, out, say)
                _rows(dataclasses.replace(request, calibration=labelled), ("validation",), dataset, spec, out, say)
        for preset in ("paper", "authors") if unsupervised else ():
            _rows(Request(run=run, preset=preset), ("otsu",), dataset, spec, out, say)


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
) -> None:
    """One pass over the images for all rules; rows that are on disk already are not made again."""
    asked = [dataclasses.replace(request, rule=rule) for rule in rules]
    missing = [one for one in asked if not (out / file_name(one, spec)).exists()]
    if not missing:
        return
    scorings = open_scorings(request, [one.rule for one in missing])
    for one, scoring, judged in zip(missing, scorings, judge(dataset, scorings), strict=True):
        path = out / file_name(one, spec)
        save(path, judged, scoring, one, spec)
        f1 = judged.metrics["f1"]
        say(f"F1 {'undefined' if f1 is None else f'{100 * f1:.2f}'}  {path.name}")


def table(folder: Path) -> str:
    """What lies under a folder of records, as Markdown: trainings, then scores by data and geometry, in percent.

    Best F1 is at the best threshold of the scored images themselves, so it is optimistic. A row that the papers print
    stands beside ours where data and geometry are theirs.
    """
    runs = {path.parent: read_json(path) for path in sorted(folder.glob("*/experiment.json"))}
    scores = {path: read_json(path) for path in sorted(folder.rglob("*.json"))}
    rows = [_row(path, row, runs) for path, row in scores.items() if "f1" in row]
    parts = [_trainings(runs)] if runs else []
    for place in sorted({row["place"] for row in rows if not row["grid"]}, key=_by_data):
        found = [row for row in rows if row["place"] == place and not row["grid"]]
        parts.append(_scores(place, sorted(found, key=lambda row: row["order"])))
    for path in sorted({row["folder"] for row in rows if row["grid"]}):
        parts.append(_grid([row for row in rows if row["folder"] == path]))
    return "\n\n".join(parts)


def write_table(folder: Path, page: Path) -> None:
    """The table of `folder` between the page's two markers; the rest of the page stays as it is."""
    text = page.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise CracksError(f"{page}: has no lines {BEGIN} and {END}; add both where the table belongs")
    page.write_text(f"{head}{BEGIN}\n\n{table(folder)}\n\n{END}{tail}")


def _trainings(runs: dict[Path, dict[str, Any]]) -> str:
    lines = ["**Trainings**", "", _line("run", "seed", "steps", "minutes", "device", "best checkpoint", "validation")]
    lines.append(_line(*["---"] * 7))
    for path, described in runs.items():
        metrics = read_json(path / "metrics.json")
        name = next(name for name in metrics if name.startswith("best_") and name != "best_step")
        seconds = [attempt.get("seconds") for attempt in described["attempts"]]
        minutes = "-" if None in seconds else f"{sum(seconds) / 60:.0f}"
        shown = f"{name.removeprefix('best_').replace('_', ' ')} {metrics[name]:.4f}"
        device = f"{described['device']['kind']}, jax {described['software']['jax']}"
        steps = f"{metrics['step']:,}"
        seed = described["science"]["seed"]
        lines.append(_line(f"`{path.name}`", seed, steps, minutes, device, f"{metrics['best_step']:,}", shown))
    return "\n".join(lines)


def _row(path: Path, row: dict[str, Any], runs: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """A score, with what a table wants to know of it."""
    by = row.get("experiment")
    described = runs.get(path.parents[1])
    who = "floor" if by is None else by + (f", seed {described['science']['seed']}" if described else "")
    words = row["command"].partition(" --set ")[2].partition(" --")[0]
    how = row["preset"] or ", ".join(word.removeprefix("detection.") for word in words.split()) or "default"
    order = (by is not None, who, how != "default", how, row["rule"])
    place = (row["data"], row["images"], row["geometry"])
    grid = path.parent.name.startswith("factorial")
    return row | {"who": who, "how": how, "order": order, "place": place, "grid": grid, "folder": path.parent}


def _by_data(place: tuple[str, int, str]) -> tuple[bool, str, int, str]:
    """DeepCrack, on whose images was trained, before what was never seen."""
    return (not place[0].startswith("deepcrack"), *place)


def _scores(place: tuple[str, int, str], rows: list[dict[str, Any]]) -> str:
    data, images, geometry = place
    lines = [f"**{data}, {images} images, {geometry}**", ""]
    lines.append(_line("scored by", "detection", "rule", "F1", "IoU", "precision", "recall", "best F1"))
    lines.append(_line(*["---"] * 8))
    for row in rows:
        shown = [_percent(row[name]) for name in ("f1", "iou", "precision", "recall", "best_f1")]
        lines.append(_line(row["who"], row["how"], row["rule"], *shown))
    return "\n".join(lines + [_line(*(f"*{cell}*" for cell in PRINTED[key])) for key in PRINTED if key == place[::2]])


def _grid(rows: list[dict[str, Any]]) -> str:
    """The factorial: one line for each detection, one column for each rule."""
    rules = ["otsu", *QUANTILES]
    lines = [f"**Factorial, {rows[0]['who']}, {rows[0]['data']}, {rows[0]['geometry']}: F1**", ""]
    lines += [_line("detection", *rules, "best F1"), _line(*["---"] * (len(rules) + 2))]
    for how in sorted({row["how"] for row in rows}):
        by_rule = {row["rule"]: row for row in rows if row["how"] == how}
        shown = [_percent(by_rule[rule]["f1"]) if rule in by_rule else "-" for rule in rules]
        lines.append(_line(how, *shown, _percent(next(iter(by_rule.values()))["best_f1"])))
    return "\n".join(lines)


def _line(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
