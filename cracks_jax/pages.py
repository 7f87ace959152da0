"""The tables of README.md and experiments/README.md, made of committed records; none of their figures is typed by hand.

A page holds `<!-- NAME: begin -->` and `<!-- NAME: end -->`; what is between them is written anew, all else is kept.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cracks_jax import identity, quickstart, robustness
from cracks_jax.errors import CracksError
from cracks_jax.experiment import from_json
from cracks_jax.published.papers import ABLATIONS, printed_row, tables
from cracks_jax.report.across import across
from cracks_jax.report.entries import FLOOR, Entry, entries, of_place, trained_on
from cracks_jax.report.gather import Found, FoundRun, gather
from cracks_jax.report.judges import FLOOR_METHOD
from cracks_jax.report.model import Table
from cracks_jax.report.plots import lines
from cracks_jax.report.results import PAPER_GEOMETRY, papers_of, percent, printed_value, spread
from cracks_jax.runs import EXPERIMENT, METRICS
from cracks_jax.runtime.records import read_json, write_text
from cracks_jax.study import QUANTILES, SCORES, SWEEPS
from cracks_jax.sweep_table import (
    Trained,
    aligned,
    as_markdown,
    by_member,
    in_order,
    name_of,
    of_paper,
    read_trained,
    values,
    ways,
)
from cracks_jax.sweep_table import spread as over_seeds

_MARKED = re.compile(r"<!-- (?P<name>[a-z]+): begin -->.*?<!-- (?P=name): end -->", re.DOTALL)
_HEAD = ("F1", "IoU", "precision", "recall", "best F1")
_KEYS = ("f1", "iou", "precision", "recall", "best_f1")
# What the short table shows: each method by its default rule, and the floor by rules with and without labels.
_SHORT = (("default", "value:0.5"), ("default", "undamaged:0.995"), ("hidden", "undamaged:0.995"),
          ("default", "validation"))  # fmt: skip
_DRAWING = "robustness.svg"
_NOTHING = "Nothing is on record yet."
_PAPERS = {"upcracknet": "UP-CrackNet", "crackseg": "CrackSeg"}


def write_tables(records: Path, pages: Sequence[Path]) -> None:
    """Every marked block of the pages anew, and the drawing beside experiments/README.md.

    Raises:
      CracksError: a page has no block, or one of another name.
    """
    for page in pages:
        text = page.read_text(encoding="utf-8")
        names = [found["name"] for found in _MARKED.finditer(text)]
        if not names:
            raise CracksError(f"{page}: has no lines <!-- NAME: begin --> and <!-- NAME: end --> around a table; names "
                              f"are {', '.join(_BLOCKS)}")  # fmt: skip
        blocks = {name: _block(name, records, page) for name in names}
        if "robustness" in names:
            _draw(records, page.parent / "pictures" / _DRAWING)
        write_text(page, _MARKED.sub(functools.partial(_replaced, blocks), text))


def _replaced(blocks: dict[str, str], found: re.Match[str]) -> str:
    return blocks[found["name"]]


def _block(name: str, records: Path, page: Path) -> str:
    if name not in _BLOCKS:
        raise CracksError(f"{page}: there is no table {name!r}; expected one of {', '.join(_BLOCKS)}")
    return f"<!-- {name}: begin -->\n\n{_BLOCKS[name](records)}\n\n<!-- {name}: end -->"


# ------------------------------------------------------------------------------------------------ README.md


def drawn(records: Path) -> str:
    """What the quickstart found, and on what."""
    found = read_json(records / "quickstart" / "results.json")
    software, device = found["software"], found["device"]["kind"]
    return (
        f"{quickstart.table(found['rows'])}\n\nRecorded in `experiments/records/quickstart/results.json`: seed "
        f"{found['seed']}, drawn data {found['data_digest'][:16]}, cracks-jax {software['cracks-jax']}, Python "
        f"{software['python']}, jax {software['jax']}, {device}."
    )


def short(records: Path) -> str:
    """Trained on one data set, tested on another: F1 at the papers' 256x256 by the default rules."""
    found = [entry for entry in entries(_gathered(records)) if (entry.detection, entry.rule) in _SHORT]
    # Trainings of earlier revisions, without intervals, stand in experiments/README.md alone.
    chosen = [one for one in found if spread(one, "f1") and (one.rule != "validation" or one.method == FLOOR)]
    return "\n\n".join(_matrix(table) for table in across(chosen) if table.name == f"across-{PAPER_GEOMETRY}")


def reliable(records: Path) -> str:
    """What `tools/reliability.py` measured: claim, figures, at which revision and on what."""
    found = sorted(map(read_json, (records.parent / "reliability").glob("*.json")), key=lambda one: one["place"])
    if not found:
        return _NOTHING
    rows = [
        (one["claim"], one["shown"] if one["holds"] else f"**does not hold:** {one['shown']}", one["git_revision"][:7])
        for one in found
    ]
    made = {(one["device"]["kind"], one["software"]["python"], one["software"]["jax"]) for one in found}
    on = "; ".join(f"{device}, Python {python}, jax {jax}" for device, python, jax in sorted(made))
    table = _markdown(("what must hold", "measured", "revision"), rows)
    return f"{table}\n\nRecorded in `experiments/reliability/`: {on}."


# --------------------------------------------------------------------------------------- experiments/README.md


def everything(records: Path) -> str:
    """Trainings, then every evaluation by data and geometry, the matrix across data sets, the factorial.

    The papers' ablations have a block of their own.
    """
    found = _gathered(records)
    scored = entries(found)
    grids = [entry for entry in scored if _of_factorial(entry)]
    rest = [entry for entry in scored if not _of_factorial(entry)]
    parts = [_trainings(found.runs)]
    parts += [_scores(*place, rows) for place, rows in sorted(of_place(rest).items(), key=lambda one: _by_data(one[0]))]
    parts += [f"**{table.title}: F1**\n\n{_matrix(table)}" for table in across(rest)]
    parts += [_grid(rows) for rows in of_place(grids).values()]
    return "\n\n".join(parts)


def _gathered(records: Path) -> Found:
    """All that is on record but the papers' ablations."""
    found = gather([records])
    ablated = {run.folder for run in found.runs if run.description.get("name") in ABLATIONS}
    return dataclasses.replace(
        found,
        runs=tuple(run for run in found.runs if run.folder not in ablated),
        scores=tuple(score for score in found.scores if ablated.isdisjoint(score.path.parents)),
    )


def _of_factorial(entry: Entry) -> bool:
    return any("factorial" in part for part in entry.scores[0].path.parts[-2:])


def _trainings(runs: Sequence[FoundRun]) -> str:
    rows = []
    for run in runs:
        metrics, device = run.metrics, run.description["device"]["kind"]
        name = next(name for name in metrics if name.startswith("best_") and name != "best_step")
        seconds = [attempt.get("seconds") for attempt in run.description["attempts"]]
        minutes = "-" if None in seconds else f"{sum(seconds) / 60:.0f}"
        shown = f"{name.removeprefix('best_').replace('_', ' ')} {metrics[name]:.4f}"
        where = f"{device}, jax {run.description['software']['jax']}"
        seed = run.description["science"]["seed"]
        rows.append((f"`{run.name}`", trained_on(run), seed, f"{metrics['step']:,}", minutes, where,
                     f"{metrics['best_step']:,}", shown))  # fmt: skip
    head = ("run", "trained on", "seed", "steps", "minutes", "device", "best checkpoint", "validation")
    return "**Trainings**\n\n" + _markdown(head, rows)


def _by_data(place: tuple[str, str]) -> tuple[bool, str, str]:
    return (not place[0].startswith("deepcrack"), *place)


def _scores(data: str, geometry: str, found: Sequence[Entry]) -> str:
    rows: list[Sequence[Any]] = [(*_who(entry), *_numbers(entry)) for entry in found]
    for table, row in papers_of(data, geometry):
        if row.more.get("proposed"):
            values = (printed_value(table, row, key) for key in _KEYS)
            shown = ("-" if value is None else f"{value:.1f}" for value in values)
            cells = (f"paper, Table {table.number}", table.train, "paper", "otsu", *shown)
            rows.append([f"*{cell}*" for cell in cells])
    images = found[0].row["images"]
    head = ("scored by", "trained on", "detection", "rule", *_HEAD)
    return f"**{data}, {images} images, {geometry}**\n\n" + _markdown(head, rows)


def _who(entry: Entry) -> tuple[str, ...]:
    seeds = ", ".join(str(seed) for seed in entry.seeds if seed is not None)
    name = FLOOR if entry.method == FLOOR else f"{entry.who}{f', seed {seeds}' if seeds else ''}"
    return name, entry.trained_on or "-", entry.detection, entry.rule


def _numbers(entry: Entry) -> list[str]:
    """F1 with its interval, the others as they are."""
    shown = [percent(entry.value(key)) for key in _KEYS]
    ends = spread(entry, "f1")
    return [f"{shown[0]} ({ends})" if ends else shown[0], *shown[1:]]


def _matrix(table: Table) -> str:
    """Of a report's matrix the columns of F1; a paper's rows for its own method alone."""
    places = [place for place, column in enumerate(table.columns) if column.group in ("", "f1")]
    rows = []
    for row in table.rows:
        if row.kind == "paper" and row.cells[0].text != "UP-CrackNet":
            continue
        cells = [row.cells[place] for place in places]
        texts = [f"{cell.text} ({cell.note})" if cell.note else cell.text for cell in cells]
        rows.append([f"*{text}*" for text in texts] if row.kind == "paper" else texts)
    return _markdown([table.columns[place].label for place in places], rows)


def _grid(found: Sequence[Entry]) -> str:
    """The factorial: a line for each detection, a column for each rule."""
    rules = ("otsu", *QUANTILES)
    rows = []
    for how in dict.fromkeys(entry.detection for entry in found):
        by_rule = {entry.rule: entry for entry in found if entry.detection == how}
        shown = [percent(by_rule[rule].value("f1")) if rule in by_rule else "-" for rule in rules]
        rows.append((how, *shown, percent(next(iter(by_rule.values())).value("best_f1"))))
    first = found[0]
    title = f"**Factorial, {first.who}, {first.data}, {first.geometry}: F1**\n\n"
    return title + _markdown(("detection", *rules, "best F1"), rows)


def ablations(records: Path) -> str:
    """The papers' ablations, each member beside its printed row and the floor; who copies what it sees below them."""
    copies = [read_json(path) for path in sorted((records / identity.STUDY).glob("*.json"))]
    parts = []
    for name, forms in _ablated(records).items():
        for form, runs in forms.items():
            revisions = ", ".join(sorted({(run.revision or "unknown")[:7] for run in runs}))
            parts += [f"**{_printed_as(name)}**, `{name}.py:{form}`, revision {revisions}", as_markdown(runs)]
            parts += [*_floor(records, name, runs), *_our_reading(name, runs), *_swept(records, f"{name}-{form}-")]
        if not forms:
            parts.append(f"**{_printed_as(name)}**, `{name}.py`: {_NOTHING}")
        if here := [one for one in copies if one["name"] == name]:
            parts += [identity.as_markdown(here), identity.LEGEND]
    return "\n\n".join(parts)


def _floor(records: Path, name: str, runs: Sequence[Trained]) -> list[str]:
    """What no network gets where these runs were scored, by every rule on record."""
    key, lines = _first_of(name), []
    rows = [read_json(path) for path in sorted((records / "floor").glob("*.json"))]
    for data, geometry in dict.fromkeys(way[:2] for way in ways(runs)):
        here = [row for row in rows if (row["data"], row["geometry"]) == (data, geometry)]
        words = [f"{percent(row.get(key))} by {row['rule']}{_calibrated(row)}" for row in here]
        lines += [f"The floor there ({data}, {geometry}): {name_of(key)} {', '.join(words)}."] if words else []
    return lines


def _calibrated(row: dict[str, Any]) -> str:
    return f" of {row['calibration']}" if row.get("calibration") else ""


def _our_reading(name: str, runs: Sequence[Trained]) -> list[str]:
    """Which printed rows are not sure to be of these settings."""
    printed = {run.member: printed_row(name, run.member) for run in runs}
    read = [member for member, found in printed.items() if found and "settings_inferred" in found[1].more]
    return [f"The scan lost ticks: which printed row is of {', '.join(read)} is our reading."] if read else []


def _swept(records: Path, label: str) -> list[str]:
    """What the sweeps of these members took beside their steps and the compiling."""
    starts = [start for path in sorted((records / SWEEPS).glob("*.json")) for start in read_json(path)["starts"]]
    trained = [
        (start["jobs"], one["seconds"]["train"], one["spent"])
        for start in starts
        for one in start["members"].values()
        if one.get("run", "").startswith(label) and one["state"] == "done" and one["spent"]
    ]
    if not trained:
        return []
    seconds = sum(whole - spent["evaluation"] - spent["checkpoint"] for _, whole, spent in trained)
    steps, compiling = (sum(spent[part] for _, _, spent in trained) for part in ("step", "compile"))
    at_once = " or ".join(str(jobs) for jobs in sorted({jobs for jobs, _, _ in trained}))
    return [
        f"Swept with {at_once} at a time: {len(trained)} trainings took {seconds:,.0f} s, validations and checkpoints "
        f"apart, {seconds / (steps + compiling):.3f} times their steps ({steps:,.0f} s) and all compiling "
        f"({compiling:,.0f} s)."
    ]


def ablated(records: Path) -> str:
    """The same in short: F1, or mIoU where the paper has no F1, a column for each way of scoring."""
    parts = [
        _in_short(name, form, runs)
        for name, forms in _ablated(records).items()
        for form, runs in forms.items()
        if ways(runs)
    ]
    return "\n\n".join(parts) or _NOTHING


def _ablated(records: Path) -> dict[str, dict[str, list[Trained]]]:
    """Experiment -> form -> its finished runs on record: members in the paper's order, seeds rising."""
    found: dict[str, dict[str, list[Trained]]] = {name: {} for name in ABLATIONS}
    for path in sorted(records.glob(f"*/{EXPERIMENT}")):
        described = read_json(path)
        if described.get("name") in found and (path.parent / METRICS).is_file():
            experiment = from_json(described, str(path))
            run = read_trained(experiment, path.parent, sorted((path.parent / SCORES).glob("*.json")))
            found[experiment.name].setdefault(experiment.form, []).append(run)
    for name, forms in found.items():
        for runs in forms.values():
            runs.sort(key=lambda run: (in_order(name, run.member), run.experiment.seed, run.metrics["run_id"]))
    return {name: dict(sorted(forms.items())) for name, forms in found.items()}


def _printed_as(name: str) -> str:
    paper, number, _ = ABLATIONS[name]
    return f"{_PAPERS[paper]}, Table {number}: {tables()[paper, number].title}"


def _first_of(name: str) -> str:
    """The metric that tells most of what a paper prints: F1, else mIoU."""
    keys = [column["key"] for column in tables()[ABLATIONS[name][:2]].columns]
    return "f1" if "f1" in keys else "miou"


def _in_short(name: str, form: str, runs: Sequence[Trained]) -> str:
    key, asked = _first_of(name), ways(runs)
    rows = [
        (member, ",".join(str(run.experiment.seed) for run in group),
         *(over_seeds(values(group, way, key), 100, 1) for way in asked),
         of_paper(printed_row(name, group[0].member), key))
        for member, group in by_member(runs).items()
    ]  # fmt: skip
    head = ("member", "seeds", *(", ".join(way) for way in asked), f"paper, {tables()[ABLATIONS[name][:2]].test}")
    steps = " or ".join(dict.fromkeys(f"{run.metrics['step']:,}" for run in runs))
    trained = f"`{name}.py:{form}`, {steps} steps on {runs[0].experiment.data.name}"
    return f"**{_printed_as(name)}**: {name_of(key)} in percent; {trained}\n\n{aligned(head, rows)}"


def robust(records: Path) -> str:
    """F1 on sound images and the area under F1 against severity, by kind and in the mean."""
    record = read_json(records / robustness.NAME)
    curves = robustness.curves(record)
    rows = []
    for name in dict.fromkeys(name for found in curves.values() for name in found):
        areas = [robustness.area(found[name]) for found in curves.values()]
        sound = next(iter(curves.values()))[name][0]
        rows.append((_called(name), percent(sound), *(percent(one) for one in areas), percent(sum(areas) / len(areas))))
    rows.sort(key=lambda row: -float(row[-1]))
    head = ("scored by, rule", "sound", *map(_words, curves), "mean area")
    told = (
        f"{record['data']}, {record['images']} images{_each(record['every'])}, {record['geometry']}, percent; "
        f"degradations of seed {record['seed']}; {record['device']['kind']}, jax {record['software']['jax']}, numpy "
        f"{record['software']['numpy']}."
    )
    picture = f"![F1 against severity, a panel for each degradation](pictures/{_DRAWING})"
    return f"{_markdown(head, rows)}\n\n{told}\n\n{picture}"


def _draw(records: Path, path: Path) -> None:
    """F1 against severity, a panel for each kind."""
    record = read_json(records / robustness.NAME)
    panels = {
        _words(kind): {_called(name): _line(f1s) for name, f1s in by.items()}
        for kind, by in robustness.curves(record).items()
    }
    drawing = lines(panels, "robustness", "robustness", "F1 in percent against severity; 0 is sound.", "severity")
    path.parent.mkdir(exist_ok=True)
    # A file of its own has no page to take its colour from.
    write_text(path, drawing.svg.replace("currentColor", "#57606a") + "\n")


def _line(f1s: Sequence[float]) -> list[tuple[float, float]]:
    """(severity, F1 in percent)."""
    return [(float(severity), 100 * f1) for severity, f1 in enumerate(f1s)]


def _called(judge: str) -> str:
    return judge.replace(FLOOR_METHOD, FLOOR)


def _each(every: int) -> str:
    return "" if every == 1 else f" (one in {every})"


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _markdown(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    listed = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in listed)


_BLOCKS: dict[str, Callable[[Path], str]] = {
    "quickstart": drawn,
    "short": short,
    "reliability": reliable,
    "records": everything,
    "ablations": ablations,
    "ablated": ablated,
    "robustness": robust,
}
