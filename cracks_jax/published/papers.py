"""What the two papers print: every row of their tables, and every sentence with a result, with a verdict.

`tables.json` holds the numbers as printed, in the papers' order of rows and columns; each column says what it really
holds (`means`) and which of our metrics compares with it (`key`). UP-CrackNet's tables exchange Precision and Recall;
what was inferred instead of read is marked. `claims.json` holds the sentences, each with a verdict from the papers' own
tables and, where it can be computed, the check that computes it. Percent throughout.
"""

import functools
import json
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

PAPERS = ("crackseg", "upcracknet")


# Experiment files that are a printed ablation: paper, table, and the members that are its rows, in its order.
ABLATIONS = {
    "upcracknet_table1": (
        "upcracknet", "I",
        ("mae", "mae_ssim", "mae_msgms", "mae_style", "mae_adv", "mae_ssim_msgms", "mae_ssim_msgms_style",
         "mae_ssim_msgms_adv", "all"),
    ),
    "upcracknet_table2": ("upcracknet", "II", ("jumbled", "striped", "squares")),
    "crackseg_table4": ("crackseg", "4", ("baseline", "aspp", "b_dilated", "s_dilated", "fusion_s_dilated")),
    "crackseg_table5": (
        "crackseg", "5", ("conv1_x2", "conv1_x3", "conv1_x4", "block1_x3", "both_x3", "both_x3_r101"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One printed row.

    Attributes:
      method: as printed; "" where a row has settings instead.
      group: what kind of method, or the printed settings of an ablation.
      values: as printed, in the order of the table's columns.
      more: `label`, `note`, `inferred` (column -> why), `settings_inferred`, `recovered`, ... where there is any.
    """

    method: str
    group: Any
    values: tuple[float, ...]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The method, with the row's label where one is needed to tell rows apart."""
        return " ".join(part for part in (self.method, self.more.get("label", "")) if part)


@dataclass(frozen=True)
class Table:
    """One printed table.

    Attributes:
      paper, number: "upcracknet", "IV".
      train, test: data sets.
      columns: each with `printed`, `means`, `key` (a name of `metrics.definitions.METRICS`, or None, with a `why`).
      decimals: as printed.
    """

    paper: str
    number: str
    title: str
    train: str | None
    test: str
    columns: tuple[dict[str, Any], ...]
    decimals: int
    rows: tuple[Row, ...]

    def column(self, name: str) -> int:
        """The place of a column by its key or its printed name."""
        for place, column in enumerate(self.columns):
            if name in (column["key"], column["printed"]):
                return place
        raise KeyError(f"table {self.number} of {self.paper} has no column {name!r}")

    def row(self, name: str | int) -> Row:
        """A row by its method, or by its number from 1 on."""
        for number, row in enumerate(self.rows, 1):
            if name in (number, row.method):
                return row
        raise KeyError(f"table {self.number} of {self.paper} has no row {name!r}")

    def value(self, row: Row | str | int, column: str) -> float:
        """A printed number, in percent, by what its column really holds (`key`) or by the column's printed name."""
        return (row if isinstance(row, Row) else self.row(row)).values[self.column(column)]


@functools.cache
def tables() -> dict[tuple[str, str], Table]:
    """(paper, number) -> table, in the papers' order."""
    found = {}
    for paper, one in _read("tables.json").items():
        for number, table in one["tables"].items():
            rows = tuple(_row(row) for row in table["rows"])
            data, columns = table["data"], tuple(table["columns"])
            found[paper, number] = Table(
                paper, number, table["title"], data["train"], data["test"], columns, table["decimals"], rows
            )
    return found


def printed_row(experiment: str, member: str) -> tuple[Table, Row] | None:
    """Table and row of a paper that a member of one of its ablations repeats; None for every other experiment."""
    paper, number, members = ABLATIONS.get(experiment, ("", "", ()))
    if member not in members:
        return None
    table = tables()[paper, number]
    return table, table.rows[members.index(member)]


def citation(paper: str) -> str:
    """The paper in one line."""
    return str(_read("tables.json")[paper]["citation"])


@functools.cache
def claims() -> tuple[dict[str, Any], ...]:
    """The sentences: `id`, `paper`, `where`, `says`, `verdict` (true, false, unclear), `why`, `check`, `limits`."""
    return tuple(_read("claims.json"))


def prevalence(precision: float, recall: float, accuracy: float) -> float:
    """The share of crack pixels that makes a pooled row possible, all in percent.

    With TP = R p, FP = TP (1 - P) / P and FN = p - TP, accuracy = 1 - FP - FN gives
    p = (1 - A) / (R (1 - P) / P + 1 - R). The same test images must give the same p in every row.
    """
    p, r, a = precision / 100, recall / 100, accuracy / 100
    return 100 * (1 - a) / (r * (1 - p) / p + 1 - r)


def rates(share: float, accuracy: float, f1: float) -> tuple[float, float]:
    """Precision and recall of a pooled row from the share of crack pixels, the accuracy and F1, all in percent.

    2 TP / (2 TP + e) = F1 with e = 1 - A errors gives TP; FN = p - TP, FP = e - FN. There is one solution.
    """
    p, e, f = share / 100, 1 - accuracy / 100, f1 / 100
    tp = f * e / (2 * (1 - f))
    fp = e - (p - tp)
    return 100 * tp / (tp + fp), 100 * tp / p


def holds(paper: str, check: dict[str, Any]) -> bool:
    """Whether a claim's check holds in the paper's tables.

    Kinds: `value` (a printed number), `difference` (first row less second, of `table2` where that is another table),
    `ranking` (1 is the greatest), `range` (smallest and greatest difference to others), `count` (rows of a group),
    `all` (of several).
    """
    if check["kind"] == "all":
        return all(holds(paper, one) for one in check["checks"])
    table = tables()[paper, check["table"]]
    if check["kind"] == "count":
        return len(_among(table, check["among"])) == check["claimed"]
    if check["kind"] == "difference":
        other = tables()[paper, check.get("table2", check["table"])]
        first, second = check["rows"]
        difference = table.value(first, check["column"]) - other.value(second, check["column"])
        return abs(difference - check["claimed"]) <= check["tolerance"]
    row = table.row(check["row"])
    value = table.value(row, check["column"])
    if check["kind"] == "value":
        return abs(value - check["claimed"]) <= check["tolerance"]
    others = [table.value(one, check["column"]) for one in _among(table, check.get("among")) if one is not row]
    if check["kind"] == "ranking":
        return 1 + sum(other > value for other in others) == check["rank"]
    assert check["kind"] == "range", check
    sign = 1 if check["sign"] == "row_minus_other" else -1
    differences = [sign * (value - other) for other in others]
    ends = (min(differences), max(differences))
    return all(abs(end - claimed) <= check["tolerance"] for end, claimed in zip(ends, check["claimed"], strict=True))


def _among(table: Table, asked: Any) -> list[Row]:
    """All rows, those of a group, or those listed by method, group or number."""
    if asked is None:
        return list(table.rows)
    wanted = [asked] if isinstance(asked, str) else asked
    return [row for n, row in enumerate(table.rows, 1) if row.method in wanted or row.group in wanted or n in wanted]


def _row(row: dict[str, Any]) -> Row:
    more = {name: value for name, value in row.items() if name not in ("method", "group", "values", "row")}
    return Row(row["method"], row["group"], tuple(row["values"]), more)


@functools.cache
def _read(name: str) -> Any:
    return json.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
