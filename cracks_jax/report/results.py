"""Tables of results: methods by metrics for each data set, ours beside the floor and the papers."""

from collections.abc import Sequence

from cracks_jax.metrics.definitions import METRICS
from cracks_jax.published import papers
from cracks_jax.report.entries import FLOOR, UPCRACKNET, Entry, of_place
from cracks_jax.report.model import Cell, Column, Row, Table
from cracks_jax.report.sound import is_number

# Conventions to choose from, the first is shown; together they hold every metric.
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "crack pixels, pooled": ("f1", "iou", "precision", "recall", "accuracy", "miou", "ods", "ap"),
    "means over images": tuple(name for name in METRICS if name.endswith("_image_mean")),
    "best thresholds (optimistic)": ("ods", "ois", "ods_image_mean", "ois_image_mean", "miou_image_mean_best", "ap",
                                     "best_threshold"),
    "with tolerance": ("f1_2px", "precision_2px", "recall_2px", "f1_5px", "precision_5px", "recall_5px", "cliou_4px",
                       "cldice"),
    "both classes": tuple(name for name in METRICS if name.startswith(("macro_", "micro_", "weighted_"))),
    "cost": ("parameters", "gflop_256", "images_per_second", "peak_memory_mib"),
}  # fmt: skip
_COST = {
    "parameters": ("parameters", "Trainable parameters of the networks."),
    "gflop_256": ("GFLOP at 256 x 256", "10^9 operations to score one image of 256 x 256 pixels as detection does it, "
                  "2 per multiply-add, taps on padding left out (cracks_jax/cost.py)."),
    "images_per_second": ("images/s", "Image in memory to filtered score map, one after another on the device of "
                          "the record; calls that compile are left out."),
    "peak_memory_mib": ("peak memory, MiB", "Largest resident size of the evaluating process, data and compilation "
                        "included."),
}  # fmt: skip
# Their data sets by our names, at the size at which the papers score.
PAPER_TESTS = {"deepcrack:test": "DeepCrack", "crack500:test": "Crack500", "cfd": "CFD", "cfd:without042": "CFD"}
PAPER_GEOMETRY = "resize256"
_OPTIMISTIC = ("ods", "ois", "ods_image_mean", "ois_image_mean", "miou_image_mean_best")


def results(found: Sequence[Entry]) -> list[Table]:
    """One table for each data set and geometry."""
    return [_results(place, rows) for place, rows in of_place(found).items()]


def _results(place: tuple[str, str], found: Sequence[Entry]) -> Table:
    data, geometry = place
    printed = papers_of(data, geometry)
    groups = [name for name, keys in CONVENTIONS.items() if any(_any(found, key) for key in keys)]
    head = [Column(name) for name in ("method", "trained on", "detection", "rule")]
    keys = [(group, key) for group in groups for key in CONVENTIONS[group] if _any(found, key)]
    several = len({entry.digest for entry in found}) > 1
    rows = [Row((*who(entry, several), *(_cell(entry, key) for _, key in keys)), kind(entry)) for entry in found]
    rows += [Row((*_printed_who(table, row), *(_printed(table, row, key) for _, key in keys)), "paper")
             for table, row in printed]  # fmt: skip
    images = sorted({entry.row["images"] for entry in found})
    caption = f"{' or '.join(map(str, images))} images, {geometry}. Percent; small: the 95 % interval over images"
    caption += ", or its deviation over seeds." if any(len(entry.scores) > 1 for entry in found) else "."
    if printed:
        numbers = ", ".join(dict.fromkeys(f"{table.number}" for table, _ in printed))
        caption += (
            f" Rows of the paper are of UP-CrackNet's Tables {numbers}, precision and recall exchanged back; its test "
            "images are not exactly these."
        )
    columns = head + [Column(_label(key), key, definition(key), group) for group, key in keys]
    return Table(f"results-{data}-{geometry}", f"Results on {data}, {geometry}", tuple(columns), tuple(rows), caption,
                 tuple(groups))  # fmt: skip


def definition(key: str) -> str:
    """What a column means: the metric's docstring, or the cost's sentence."""
    if key in _COST:
        return _COST[key][1]
    return " ".join((METRICS[key].__doc__ or "").split())


def _label(key: str) -> str:
    return _COST[key][0] if key in _COST else f"{key} (optimistic)" if key in _OPTIMISTIC else key


def _any(found: Sequence[Entry], key: str) -> bool:
    """Whether anyone recorded it; records of earlier versions hold fewer metrics."""
    return any(_number(entry, key) is not None for entry in found)


def _number(entry: Entry, key: str) -> float | None:
    if key not in _COST:
        return entry.value(key)
    value = entry.row.get("cost", {}).get(key)
    return value if is_number(value) else None


def kind(entry: Entry) -> str:
    return FLOOR if entry.method == FLOOR else "ours"


def who(entry: Entry, several: bool = False) -> tuple[Cell, ...]:
    """The head of a row; `several`: other rows are of other images."""
    seeds = [str(seed) for seed in entry.seeds if seed is not None]
    notes = [f"seed {', '.join(seeds)}"] if seeds else []
    notes += [f"images {entry.digest[:8]}"] if several else []
    note = "; ".join(notes)
    name = f"{FLOOR}: {entry.who}" if entry.method == FLOOR else entry.who
    words = (entry.trained_on or "-", entry.detection, entry.rule)
    return (Cell(name, name, note), *(Cell(word, word) for word in words))


def _cell(entry: Entry, key: str) -> Cell:
    value = _number(entry, key)
    if value is None:
        return Cell("-")
    if key in _COST:
        return Cell(f"{value:,}", float(value))
    if key == "best_threshold":
        return Cell(f"{value:.4f}", value)
    return Cell(percent(value), value, spread(entry, key))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def spread(entry: Entry, key: str) -> str:
    """The interval over images, or the deviation over seeds."""
    deviation, ends = entry.deviation(key), entry.interval(key)
    if deviation is not None:
        return f"± {100 * deviation:.1f}, {len(entry.values(key))} seeds"
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


# ------------------------------------------------------------------------------------------------- the papers


def papers_of(data: str, geometry: str) -> list[tuple[papers.Table, papers.Row]]:
    """The rows that the papers print for a data set, in-domain before transfer."""
    test = PAPER_TESTS.get(data) if geometry == PAPER_GEOMETRY else None
    if test is None:
        return []
    found = [table for table in comparisons() if table.test == test]
    return [(table, row) for table in sorted(found, key=lambda t: t.train != test) for row in table.rows]


def comparisons() -> list[papers.Table]:
    """UP-CrackNet's Tables III to VIII: methods compared, in-domain and transferred."""
    ablations = ("I", "II")
    return [t for (paper, number), t in papers.tables().items() if paper == "upcracknet" and number not in ablations]


def _printed_who(table: papers.Table, row: papers.Row) -> tuple[Cell, ...]:
    rule = "otsu" if row.name == UPCRACKNET else "as printed"
    words = (table.train or "-", "paper", rule)
    note = f"Ma et al. 2024, Table {table.number}"
    return (Cell(row.name, row.name, note), *(Cell(word, word) for word in words))


def _printed(table: papers.Table, row: papers.Row, key: str) -> Cell:
    value = printed_value(table, row, key)
    return Cell("-") if value is None else Cell(f"{value:.1f}", value / 100)


def printed_value(table: papers.Table, row: papers.Row, key: str) -> float | None:
    """A printed number in percent by what its column really holds; None where the table has no such column."""
    try:
        return table.value(row, key)
    except KeyError:
        return None
