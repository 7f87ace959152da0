"""A sweep as a table: a row for each member, the mean and the spread over its seeds, and the paper's row beside.

Percent in the Markdown table, fractions in the CSV, which has one line for each run and data set scored. Where the
experiment is a paper's ablation, the columns are those of its table, by what they really hold.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.cost import size
from cracks_jax.experiment import Experiment
from cracks_jax.launch.job import Job
from cracks_jax.published.papers import printed_row
from cracks_jax.runs import EXPERIMENT, METRICS
from cracks_jax.runtime.records import read_json

KEYS = ("f1", "iou", "precision", "recall")
_SCORED = ("data", "geometry", "detection_preset", "rule", *KEYS, "accuracy", "miou")
_NAMES = {"f1": "F1", "iou": "IoU", "miou": "mIoU"}


@dataclass(frozen=True)
class Trained:
    """One trained run of a member: its records, each of a data set that it was scored on."""

    experiment: Experiment
    metrics: dict[str, Any]
    seconds: float
    device: str
    scores: tuple[dict[str, Any], ...]


def trained_of(job: Job) -> Trained | None:
    """What a job has on disk; None where it is not trained."""
    if not job.trained:
        return None
    paths = [job.score_path(spec) for spec in job.tests]
    return read_trained(job.experiment, job.folder, [path for path in paths if path.is_file()])


def read_trained(experiment: Experiment, folder: Path, scores: Iterable[Path]) -> Trained:
    described = read_json(folder / EXPERIMENT)
    seconds = sum(attempt.get("seconds", 0.0) for attempt in described["attempts"])
    metrics = read_json(folder / METRICS)
    device = described["device"]["kind"]
    return Trained(experiment, metrics, seconds, device, tuple(map(read_json, scores)))


def as_csv(runs: Sequence[Trained]) -> str:
    """One line for each run and data set."""
    lines = [line for run in runs for line in _lines(run)]
    text = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(run: Trained) -> Iterable[dict[str, Any]]:
    one, metric = run.experiment, run.experiment.method.selection[0]
    about = {
        "member": one.member or one.name,
        "seed": one.seed,
        "run_id": one.run_id,
        "steps": run.metrics["step"],
        "best_step": run.metrics["best_step"],
        f"best_{metric}": run.metrics[f"best_{metric}"],
        "seconds": round(run.seconds, 1),
        **size(one.method, one.detection),
        "state_sha256": run.metrics["state_sha256"],
    }
    for score in run.scores or ({},):
        yield about | {name: score.get(name) for name in _SCORED}


def as_markdown(runs: Sequence[Trained]) -> str:
    """The table of a sweep, one for each way in which its runs were scored."""
    ways: list[tuple[str, ...] | None] = list(dict.fromkeys(_way(score) for run in runs for score in run.scores))
    parts = [_table(runs, way) for way in ways or [None]]
    return "\n\n".join(part for part in parts if part) or "Nothing is trained yet."


def _way(score: dict[str, Any]) -> tuple[str, ...]:
    """What must be equal in scores that stand in one table."""
    preset = score.get("detection_preset") or score.get("preset") or "as set"
    return score["data"], score["geometry"], str(preset), score["rule"]


def _table(runs: Sequence[Trained], way: tuple[str, ...] | None) -> str:
    members: dict[str, list[Trained]] = {}
    for run in runs:
        members.setdefault(run.experiment.member or run.experiment.name, []).append(run)
    if not members:
        return ""
    first = runs[0].experiment
    printed = {name: printed_row(first.name, name) for name in members}
    found = next((row for row in printed.values() if row is not None), None)
    keys = tuple(column["key"] for column in found[0].columns) if found is not None else KEYS
    metric = first.method.selection[0]
    head = ["member", "seeds", *(f"{_name(key)} %" for key in keys)] if way else ["member", "seeds"]
    head += [f"paper's {_name(key)}" for key in keys] if found and way else []
    head += [metric.replace("_", " "), "parameters", "GFLOP", "minutes"]
    rows = []
    for name, group in members.items():
        scores = [score for run in group for score in run.scores if _way(score) == way]
        row = [name, ",".join(str(run.experiment.seed) for run in group)]
        row += [_spread([score[key] for score in scores], 100, 1) for key in keys] if way else []
        if found and way:
            paper = printed[name]
            row += ["-" if paper is None else f"{paper[0].value(paper[1], key):.1f}" for key in keys]
        cost = size(group[0].experiment.method, group[0].experiment.detection)
        row += [
            _spread([run.metrics[f"best_{metric}"] for run in group], 1, 4),
            f"{cost['parameters']:,}",
            f"{cost['gflop_256']:.1f}",
            _spread([run.seconds / 60 for run in group], 1, 1),
        ]
        rows.append(row)
    title = "Not scored" if way is None else f"{way[0]}, {way[1]}, detection {way[2]}, rule {way[3]}"
    devices = ", ".join(sorted({run.device for run in runs}))
    paper_words = "" if found is None else f"; paper: Table {found[0].number}, on {found[0].test}"
    return f"{title}; {first.name}:{first.form} on {first.data.name}; {devices}{paper_words}\n\n{aligned(head, rows)}"


def _name(key: str) -> str:
    return _NAMES.get(key, key)


def _spread(values: Sequence[float | None], scale: float, digits: int) -> str:
    """`mean`, or `mean ± standard deviation` of several; `-` where one is undefined or there is none."""
    known = [scale * value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand under each other, the first on the left."""
    widths = [max(len(line[place]) for line in (head, *rows)) for place in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    return "\n".join(map(line, (head, rule, *rows)))
