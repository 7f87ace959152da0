"""The papers' ablation tables in their own row order, with what was trained here in its place."""

from collections.abc import Callable, Sequence
from typing import Any

from cracks_jax.experiment import Experiment
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.networks.crackseg import VARIANTS
from cracks_jax.published import papers
from cracks_jax.report.entries import CRACKSEG, UPCRACKNET, Entry
from cracks_jax.report.gather import FoundRun
from cracks_jax.report.model import Cell, Column, Row, Table
from cracks_jax.report.results import definition, percent, spread

# UP-CrackNet's Table I by the losses beside MAE, Table II by the shape of what is hidden, in the papers' row order.
_TABLE_1: tuple[set[str], ...] = (
    set(), {"ssim"}, {"msgms"}, {"style"}, {"adversarial"}, {"ssim", "msgms"}, {"ssim", "msgms", "style"},
    {"ssim", "msgms", "adversarial"}, {"ssim", "msgms", "style", "adversarial"},
)  # fmt: skip
_TABLE_2 = ("jumbled", "stripes", "squares")


def ablations(runs: Sequence[FoundRun], found: Sequence[Entry]) -> list[Table]:
    """The tables of which at least one row was trained here and scored."""
    experiments = {run.run_id: run.experiment for run in runs if run.run_id and run.experiment is not None}
    places: tuple[tuple[str, str, Callable[[Experiment], int | None]], ...] = (
        ("crackseg", "4", lambda one: _variant(one, "table4_")),
        ("crackseg", "5", lambda one: _variant(one, "table5_")),
        ("upcracknet", "I", _losses),
        ("upcracknet", "II", _shape),
    )
    tables = []
    for paper, number, place in places:
        by_row: dict[int, list[Entry]] = {}
        for entry in found:
            experiment = experiments.get(entry.row.get("run_id", ""))
            row = None if experiment is None else place(experiment)
            if row is not None:
                by_row.setdefault(row, []).append(entry)
        if by_row:
            tables.append(_table(papers.tables()[paper, number], by_row))
    return tables


def _table(table: papers.Table, by_row: dict[int, list[Entry]]) -> Table:
    keys = [column["key"] for column in table.columns if column["key"]]
    rows = []
    for place, printed in enumerate(table.rows):
        values = [table.value(printed, key) for key in keys]
        name = Cell(f"{place + 1}. {printed.name}", f"{place:02}")
        head = (name, Cell("printed"), Cell(table.train or "-"), Cell(table.test))
        rows.append(Row((*head, *(Cell(f"{value:.1f}", value / 100) for value in values)), "paper"))
        rows += [_ours(place, printed.name, entry, keys) for entry in by_row.get(place, [])]
    columns = [Column(name) for name in ("row of the paper", "by", "trained on", "tested on, geometry, rule")]
    columns += [Column(key, key, definition(key)) for key in keys]
    missing = len(table.rows) - len(by_row)
    caption = f"{table.title}. Percent, pooled; the papers' columns by what they really hold."
    caption += f" Of its {len(table.rows)} rows {missing} were not trained here." if missing else ""
    title = f"{CRACKSEG if table.paper == 'crackseg' else UPCRACKNET}, Table {table.number}"
    return Table(f"ablation-{table.paper}-{table.number}", title, tuple(columns), tuple(rows), caption)


def _ours(place: int, name: str, entry: Entry, keys: Sequence[str]) -> Row:
    where = f"{entry.data}, {entry.geometry}, {entry.rule}"
    detection = "" if entry.detection == "default" else f"detection {entry.detection}"
    cells = [_cell(entry, key) for key in keys]
    row = Cell(f"{place + 1}. {name}", f"{place:02}")
    head = (row, Cell(entry.who, entry.who, detection), Cell(entry.trained_on or "-"), Cell(where))
    return Row((*head, *cells))


def _cell(entry: Entry, key: str) -> Cell:
    value: Any = entry.value(key)
    return Cell("-") if value is None else Cell(percent(value), value, spread(entry, key))


def _variant(experiment: Experiment, prefix: str) -> int | None:
    """The row of CrackSeg's Table 4 or 5; another reading of Figure 3 is no row of either."""
    method = experiment.method
    rows = [name for name in VARIANTS if name.startswith(prefix)]
    return rows.index(method.variant) if isinstance(method, Segmentation) and method.variant in rows else None


def _losses(experiment: Experiment) -> int | None:
    """The row of UP-CrackNet's Table I: trained with its squares."""
    used = _used(experiment)
    return _TABLE_1.index(used) if experiment.data.pipeline.corruption == _TABLE_2[-1] and used in _TABLE_1 else None


def _shape(experiment: Experiment) -> int | None:
    """The row of UP-CrackNet's Table II: trained with all five losses."""
    shape = experiment.data.pipeline.corruption
    return _TABLE_2.index(shape) if shape in _TABLE_2 and _used(experiment) == _TABLE_1[-1] else None


def _used(experiment: Experiment) -> set[str] | None:
    """The losses beside MAE; None where it is not UP-CrackNet, or MAE is off."""
    method, weights = experiment.method, experiment.training.loss_weights
    # `restoration` multiplies all but the adversarial one.
    if not isinstance(method, Restoration) or not weights.get("mae") or not weights.get("restoration"):
        return None
    used = {name for name in ("ssim", "msgms", "style", "adversarial") if weights.get(name)}
    return used - {"style"} if method.style_extractor == "none" else used
