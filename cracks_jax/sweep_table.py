"""A sweep as a table: a row for each member, the mean and the spread over its seeds, and the paper's row beside.

Percent in the Markdown table, fractions in the CSV, which has one line for each run and data set scored. Where the
experiment is a paper's ablation, the columns are those of its table, by what they really hold.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.cost import size
from cracks_jax.experiment import Experiment, science
from cracks_jax.launch.job import Job
from cracks_jax.published.papers import ABLATIONS, Row, Table, printed_row
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
    revision: str | None
    scores: tuple[dict[str, Any], ...]

    @property
    def member(self) -> str:
        return self.experiment.member or self.experiment.name


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
    device, revision = described["device"]["kind"], described.get("git_revision")
    return Trained(experiment, metrics, seconds, device, revision, tuple(map(read_json, scores)))


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
        "member": run.member,
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
    if not runs:
        return "Nothing is trained yet."
    asked: list[Way | None] = [*ways(runs)]
    return "\n\n".join(_table(runs, way) for way in asked or [None])


def ways(runs: Sequence[Trained]) -> list["Way"]:
    """The ways in which runs were scored, in the order of their records."""
    return list(dict.fromkeys(way_of(score) for run in runs for score in run.scores))


Way = tuple[str, str, str, str]


def way_of(score: dict[str, Any]) -> Way:
    """What must be equal in scores that stand in one table: data, geometry, detection, rule."""
    preset = score.get("detection_preset") or score.get("preset") or "as set"
    return score["data"], score["geometry"], str(preset), score["rule"]


def by_member(runs: Iterable[Trained]) -> dict[str, list[Trained]]:
    """Runs that differ in the seed alone, by their member.

    Where a member was trained in several ways, its name has the first run's id too: no mean is taken over them.
    """
    trainings: dict[str, dict[str, list[Trained]]] = {}
    for run in runs:
        settings = json.dumps({k: v for k, v in science(run.experiment).items() if k != "seed"}, sort_keys=True)
        trainings.setdefault(run.member, {}).setdefault(settings, []).append(run)
    return {
        member if len(of_it) == 1 else f"{member} ({group[0].metrics['run_id']})": group
        for member, of_it in trainings.items()
        for group in of_it.values()
    }


def in_order(experiment: str, member: str) -> tuple[int, str]:
    """Sorts members: the rows that a paper prints as it does, others behind them by their names."""
    _, _, printed = ABLATIONS.get(experiment, ("", "", ()))
    return (printed.index(member), "") if member in printed else (len(printed), member)


def values(runs: Sequence[Trained], way: Way, key: str) -> list[float | None]:
    """A metric of the runs that were scored in this way, of each once."""
    found = (next((score for score in run.scores if way_of(score) == way), None) for run in runs)
    return [score.get(key) for score in found if score is not None]


def _table(runs: Sequence[Trained], way: Way | None) -> str:
    members = by_member(runs)
    first = runs[0].experiment
    printed = {name: printed_row(first.name, group[0].member) for name, group in members.items()}
    found = next((row for row in printed.values() if row is not None), None)
    keys = tuple(column["key"] for column in found[0].columns) if found is not None else KEYS
    metric = first.method.selection[0]
    head = ["member", "seeds", *(f"{name_of(key)} %" for key in keys)] if way else ["member", "seeds"]
    head += [f"paper's {name_of(key)}" for key in keys] if found and way else []
    head += [metric.replace("_", " "), "steps, best", "parameters", "GFLOP", "minutes"]
    rows = []
    for name, group in members.items():
        # What was not scored in this way has no part in its means.
        here = [run for run in group if way is None or any(way_of(score) == way for score in run.scores)]
        row = [name, ",".join(str(run.experiment.seed) for run in here or group)]
        row += [spread(values(here, way, key), 100, 1) for key in keys] if way else []
        row += [of_paper(printed[name], key) for key in keys] if found and way else []
        cost = _cost(here or group, way)
        row += [
            spread([run.metrics[f"best_{metric}"] for run in here or group], 1, 4),
            ", ".join(dict.fromkeys(f"{run.metrics['step']:,}, {run.metrics['best_step']:,}" for run in here or group)),
            f"{cost['parameters']:,}",
            f"{cost['gflop_256']:.1f}",
            spread([run.seconds / 60 for run in here or group], 1, 1),
        ]
        rows.append(row)
    title = "Not scored" if way is None else f"{way[0]}, {way[1]}, detection {way[2]}, rule {way[3]}"
    devices = ", ".join(sorted({f"{run.device}, {_arithmetic(run.experiment)}" for run in runs}))
    paper_words = "" if found is None else f"; paper: Table {found[0].number}, on {found[0].test}"
    return f"{title}; {first.name}:{first.form} on {first.data.name}; {devices}{paper_words}\n\n{aligned(head, rows)}"


def _arithmetic(experiment: Experiment) -> str:
    return f"{experiment.method.dtype} (matmul precision {experiment.matmul_precision})"


def _cost(runs: Sequence[Trained], way: Way | None) -> dict[str, Any]:
    """As on record, of detection in this way; counted now where nothing is on record."""
    recorded = (score.get("cost", {}) for run in runs for score in run.scores if way_of(score) == way)
    known = (cost for cost in recorded if {"parameters", "gflop_256"} <= cost.keys())
    one = runs[0].experiment
    return next(known, None) or size(one.method, one.detection)


def of_paper(printed: tuple[Table, Row] | None, key: str) -> str:
    """A printed number, to the hundredths in which CrackSeg's rows differ; `-` where the paper has no such row."""
    return "-" if printed is None else f"{printed[0].value(printed[1], key):.2f}"


def name_of(key: str) -> str:
    """A metric as tables write it."""
    return _NAMES.get(key, key)


def spread(found: Sequence[float | None], scale: float, digits: int) -> str:
    """`mean`, or `mean ± standard deviation` of several; `-` where one is undefined or there is none."""
    known = [scale * value for value in found if value is not None]
    if not known or len(known) < len(found):
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
