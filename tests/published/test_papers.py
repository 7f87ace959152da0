"""The papers' numbers are consistent where the papers are, and the verdicts follow from them."""

import itertools

import numpy as np
import pytest

from cracks_jax.metrics.definitions import METRICS
from cracks_jax.published.papers import PAPERS, citation, claims, holds, prevalence, rates, tables

UP = {number: table for (paper, number), table in tables().items() if paper == "upcracknet"}
CS = {number: table for (paper, number), table in tables().items() if paper == "crackseg"}
ENET = ("V", "ENet")  # inconsistent in the paper itself


def _rows(numbers=UP):
    return [(number, row) for number in numbers for row in UP[number].rows if (number, row.method) != ENET]


def test_every_table_and_row_is_there():
    assert [len(table.rows) for table in CS.values()] == [7, 5, 6]
    assert [len(table.rows) for table in UP.values()] == [9, 3, 14, 14, 14, 14, 14, 14]
    assert list(CS) == ["3", "4", "5"] and list(UP) == ["I", "II", "III", "IV", "V", "VI", "VII", "VIII"]
    assert all(len(row.values) == len(table.columns) for table in tables().values() for row in table.rows)
    assert all("doi" in citation(paper) for paper in PAPERS)


def test_columns_name_our_metrics():
    for table in tables().values():
        for column in table.columns:
            assert column["means"] and (column["key"] in METRICS or column["why"])
    for number, table in UP.items():
        if number != "II":
            printed = [(column["printed"].split(" ")[0], column["key"]) for column in table.columns]
            assert ("Precision", "recall") in printed and ("Recall", "precision") in printed


def _span(function, values, half=0.0005):
    """The function's least and greatest value where every number may be off by half of its last digit."""
    found = [function(*(v + s * half for v, s in zip(values, signs, strict=True)))
             for signs in itertools.product((-1, 1), repeat=len(values))]  # fmt: skip
    return min(found), max(found)


@pytest.mark.parametrize(("number", "row"), _rows(), ids=lambda value: getattr(value, "name", value))
def test_f1_and_iou_follow_from_precision_and_recall(number, row):
    table = UP[number]
    f1 = table.value(row, "f1")
    low, high = _span(lambda f: 100 * f / (200 - f), [f1])
    assert low - 0.0006 <= table.value(row, "iou") <= high + 0.0006
    if number != "II":
        low, high = _span(lambda p, r: 2 * p * r / (p + r), [table.value(row, "precision"), table.value(row, "recall")])
        assert low - 0.0006 <= f1 <= high + 0.0006


@pytest.mark.parametrize(
    ("number", "share"),
    [("I", 5.589), ("III", 5.590), ("VIII", 5.590), ("IV", 4.379), ("VI", 4.351), ("V", 1.743), ("VII", 1.743)],
)
def test_one_share_of_crack_fits_a_table_only_after_the_exchange(number, share):
    """To two digits behind the decimal point of a percent; as printed, rows need shares that are points apart."""
    table = UP[number]
    rows = [row for n, row in _rows([number])]
    right = [prevalence(*(table.value(row, key) for key in ("precision", "recall", "accuracy"))) for row in rows]
    printed = [prevalence(*(table.value(row, key) for key in ("recall", "precision", "accuracy"))) for row in rows]
    np.testing.assert_allclose(right, share, atol=0.002)
    assert max(printed) - min(printed) > 5


def test_enet_in_table_v_fits_neither_way():
    values = {key: UP["V"].value("ENet", key) for key in ("precision", "recall", "accuracy", "f1")}
    p, r = values["precision"], values["recall"]
    for first, second in ((p, r), (r, p)):
        assert abs(prevalence(first, second, values["accuracy"]) - 1.743) > 0.5
    assert abs(2 * p * r / (p + r) - values["f1"]) > 0.001


def test_table_ii_is_recovered_from_accuracy_f1_and_the_share_of_crack():
    """Its last row is Table III's network, whose precision and recall are printed there."""
    for row in UP["II"].rows:
        found = rates(5.5895, UP["II"].value(row, "accuracy"), UP["II"].value(row, "f1"))
        assert found == pytest.approx((row.more["recovered"]["precision"], row.more["recovered"]["recall"]), abs=0.02)
    last = UP["II"].rows[-1].more["recovered"]
    assert last["precision"] == pytest.approx(UP["III"].value("UP-CrackNet", "precision"), abs=0.01)
    assert last["recall"] == pytest.approx(UP["III"].value("UP-CrackNet", "recall"), abs=0.01)


def test_crackseg_table_3_fits_no_pooled_confusion_matrix():
    """A crack's F1 of 97.92 and an accuracy of 98.79 give TP = IoU e / (1 - IoU), and a mean IoU of 97, not 73.53."""
    iou = CS["3"].value("CrackSeg", "F-score") / (200 - CS["3"].value("CrackSeg", "F-score"))
    errors = 1 - CS["3"].value("CrackSeg", "accuracy") / 100
    tp = iou * errors / (1 - iou)
    tn = 1 - errors - tp
    assert 100 * (iou + tn / (tn + errors)) / 2 == pytest.approx(97.1, abs=0.1)
    assert CS["3"].value("CrackSeg", "miou") == 73.53


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim["id"])
def test_verdicts_follow_from_the_tables(claim):
    assert claim["verdict"] in ("true", "false", "unclear") and claim["says"] and claim["why"]
    assert claim["paper"] in PAPERS
    if claim["check"] and claim["verdict"] != "unclear":
        assert holds(claim["paper"], claim["check"]) == (claim["verdict"] == "true")
    if claim.get("limits"):
        assert holds(claim["paper"], claim["limits"])


def test_the_named_claims_are_there():
    says = {claim["id"]: claim for claim in claims()}
    assert len(says) == len(claims())
    text = " ".join(claim["says"] for claim in claims())
    for words in ("0.85", "0.96", "1.185", "Deepcrack19"):
        assert words in text
