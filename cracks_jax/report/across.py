"""Trained on one data set, tested on another: the matrix of UP-CrackNet's Tables V to VIII."""

from collections import defaultdict
from collections.abc import Sequence

from cracks_jax.published import papers
from cracks_jax.report.entries import FLOOR, UPCRACKNET, Entry
from cracks_jax.report.model import Cell, Column, Row, Table
from cracks_jax.report.results import (
    PAPER_GEOMETRY,
    PAPER_TESTS,
    comparisons,
    definition,
    kind,
    percent,
    printed_value,
    spread,
    who,
)


def across(found: Sequence[Entry]) -> list[Table]:
    """Trained on A, tested on B: one table for each geometry; none where everything was tested on one data set."""
    tables = []
    for geometry in sorted({entry.geometry for entry in found}):
        here = [entry for entry in found if entry.geometry == geometry and entry.trained_on]
        tests = list(dict.fromkeys(entry.data for entry in here))
        if len(tests) > 1 and any(entry.method != FLOOR for entry in here):
            tables.append(_across(geometry, here, tests))
    return tables


def _across(geometry: str, found: Sequence[Entry], tests: Sequence[str]) -> Table:
    metrics = ("f1", "iou", "precision", "recall")
    lines: dict[tuple[str, ...], dict[str, Entry]] = defaultdict(dict)
    for entry in found:
        lines[entry.method, entry.who, entry.trained_on, entry.detection, entry.rule][entry.data] = entry
    rows = []
    for by_test in lines.values():
        first = next(iter(by_test.values()))
        cells = [_drop(by_test, test, key) for key in metrics for test in tests]
        rows.append(Row((*who(first), *cells), kind(first)))
    if geometry == PAPER_GEOMETRY:
        rows += _printed_across(tests, metrics)
    columns = [Column(name) for name in ("method", "trained on", "detection", "rule")]
    columns += [Column(test, key, definition(key), key) for key in metrics for test in tests]
    caption = (
        f"{geometry}, percent, pooled. Small: the 95 % interval over images, and the drop from in-domain, which is the "
        "same row's number on the test split of the data set that it was trained on less this one. The floor's row is "
        "'trained' on the images that its threshold was taken from."
    )
    return Table(f"across-{geometry}", f"Trained on one data set, tested on another ({geometry})", tuple(columns),
                 tuple(rows), caption, metrics)  # fmt: skip


def _drop(by_test: dict[str, Entry], test: str, key: str) -> Cell:
    """A number with its interval and how far it is below the same row's in-domain number."""
    entry = by_test.get(test)
    if entry is None or (value := entry.value(key)) is None:
        return Cell("-")
    notes = [spread(entry, key)]
    home = by_test.get(f"{_set(entry.trained_on)}:test")
    own = None if home is None else home.value(key)
    if own is not None and home is not entry:
        notes.append(f"drop {100 * (own - value):.1f}")
    elif home is entry:
        notes.append("in-domain")
    return Cell(percent(value), value, "; ".join(note for note in notes if note))


def _set(spec: str) -> str:
    return spec.partition(":")[0]


def _printed_across(tests: Sequence[str], metrics: Sequence[str]) -> list[Row]:
    """Tables III to VIII as one matrix, a row for each method and training set."""
    rows: list[Row] = []
    for train in dict.fromkeys(table.train for table in comparisons()):
        by_test = {table.test: table for table in comparisons() if table.train == train}
        numbers = ", ".join(table.number for table in by_test.values())
        for row in next(iter(by_test.values())).rows:
            cells = [_printed_drop(by_test, str(train), row.name, PAPER_TESTS.get(test, ""), key)
                     for key in metrics for test in tests]  # fmt: skip
            if all(cell.value is None for cell in cells):
                continue  # none of these data sets is theirs
            rule = "otsu" if row.name == UPCRACKNET else "as printed"
            head = (Cell(row.name, row.name, f"Ma et al. 2024, Tables {numbers}"),
                    *(Cell(word, word) for word in (str(train), "paper", rule)))  # fmt: skip
            rows.append(Row((*head, *cells), "paper"))
    return rows


def _printed_drop(by_test: dict[str, papers.Table], train: str, name: str, test: str, key: str) -> Cell:
    value, own = (_of(by_test.get(where), name, key) for where in (test, train))
    if value is None:
        return Cell("-")
    note = "in-domain" if test == train else "" if own is None else f"drop {own - value:.1f}"
    return Cell(f"{value:.1f}", value / 100, note)


def _of(table: papers.Table | None, name: str, key: str) -> float | None:
    """A method's printed number; None where the table does not have it."""
    row = None if table is None else next((row for row in table.rows if row.name == name), None)
    return None if table is None or row is None else printed_value(table, row, key)
