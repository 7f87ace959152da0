"""Each method against the floor on the same images: the difference of F1, its interval and a paired test."""

from collections.abc import Sequence

import numpy as np

from cracks_jax.metrics.uncertainty import compare_counts
from cracks_jax.report.entries import FLOOR, Entry, of_place
from cracks_jax.report.model import Cell, Column, Row, Table

_COUNTS = ("tp", "fp", "fn", "tn")
_TEST = (
    "Two-sided, of no difference: twice the smaller share of 1,000 bootstrap resamples of the images on one side of "
    "zero, at least 0.001; both methods are resampled alike (cracks_jax/metrics/uncertainty.py)."
)
# A decision that needs labels is compared with the floor that has some.
_LABELLED = "validation"


def against_the_floor(found: Sequence[Entry]) -> list[Table]:
    """One table over all data sets, of evaluations that kept their images' counts; none where there is no such pair."""
    rows = []
    for (data, geometry), here in of_place([entry for entry in found if entry.scores[0].images]).items():
        for entry in here:
            if entry.method != FLOOR and (floor := _floor_of(entry, here)) is not None:
                rows.append(_row(entry, floor, f"{data}, {geometry}"))
    if not rows:
        return []
    columns = [Column(name) for name in ("method", "detection", "rule", "data", "the floor's rule")]
    columns += [Column("F1 less the floor's", "f1"), Column("p", "p", _TEST)]
    caption = (
        "Points of F1, pooled, with the 95 % interval over images. A rule is compared with the same rule of the floor; "
        "argmax, which was learned from labels, with the floor whose threshold was."
    )
    return [Table("against-the-floor", "Against the floor, image by image", tuple(columns), tuple(rows), caption)]


def _floor_of(entry: Entry, here: Sequence[Entry]) -> Entry | None:
    """The floor by the same rule, on the same images; of several the one tuned on what the method was trained on."""
    rule = _LABELLED if entry.rule.startswith("value:") else entry.rule
    names = {image["image"] for image in entry.scores[0].images}
    fitting = [
        one for one in here
        if one.method == FLOOR and one.rule == rule and {image["image"] for image in one.scores[0].images} == names
    ]  # fmt: skip
    return max(fitting, key=lambda one: (one.trained_on == entry.trained_on, one.trained_on), default=None)


def _row(entry: Entry, floor: Entry, place: str) -> Row:
    names = sorted(image["image"] for image in floor.scores[0].images)
    found = compare_counts("f1", names, _counts(entry, names), _counts(floor, names))
    ends = "" if found.interval is None else f"{100 * found.interval[0]:+.1f} to {100 * found.interval[1]:+.1f}"
    value = Cell("-") if found.value is None else Cell(f"{100 * found.value:+.1f}", found.value, ends)
    p = Cell("-") if found.p is None else Cell(f"{found.p:.3f}", found.p)
    tuned = f"{floor.rule} ({floor.trained_on})" if floor.trained_on else floor.rule
    words = (entry.who, entry.detection, entry.rule, place, tuned)
    return Row((*(Cell(word, word) for word in words), value, p))


def _counts(entry: Entry, names: Sequence[str]) -> np.ndarray:
    by_name = {image["image"]: [image[name] for name in _COUNTS] for image in entry.scores[0].images}
    return np.array([by_name[name] for name in names], np.float64)
