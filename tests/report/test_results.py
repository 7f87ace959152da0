"""The tables of results: every cell is a record's number, seeds are put together, the papers stand beside."""

import pytest

from cracks_jax.metrics.definitions import METRICS
from cracks_jax.report.across import across
from cracks_jax.report.entries import differing_images
from cracks_jax.report.results import CONVENTIONS, papers_of, results
from tests.report import made
from tests.tiny_runs import command


@pytest.fixture
def run(tmp_path):
    """A run on DeepCrack, in its folder; its records go into `scores`."""
    one = made.smoke(data__name="deepcrack", data__split="train", data__recipe_settings={})
    made.run(tmp_path / "run", one)
    return one, tmp_path / "run" / "scores"


def tables(folder, make=results):
    return {table.name: table for table in make(made.found(folder)[1])}


# --------------------------------------------------------------------------------------------------- numbers


def test_every_cell_is_the_records_number_in_percent_with_its_interval(run, tmp_path):
    one, scores = run
    made.score(scores, "otsu", one)
    (table,) = tables(tmp_path).values()
    (row,) = made.rows(table)
    for name, value in made.VALUES.items():
        cell = row[name]
        if name == "best_threshold":
            assert (cell.text, cell.value) == (f"{value:.4f}", value)
        else:
            assert (cell.text, cell.value) == (f"{100 * value:.1f}", value), name
            assert cell.note == f"{100 * value - 1:.1f} to {100 * value + 2:.1f}"
    assert row["parameters"].text == "57,189,060" and row["gflop_256"].text == "36.25"
    assert [row[name].text for name in ("method", "trained on", "detection", "rule")] == [
        "upcracknet_deepcrack-smoke-masks", "deepcrack:train", "default", "otsu"
    ]  # fmt: skip


def test_each_convention_shows_its_metrics_and_no_metric_is_in_none(run, tmp_path):
    one, scores = run
    made.score(scores, "otsu", one)
    (table,) = tables(tmp_path).values()
    assert set(METRICS) <= {key for keys in CONVENTIONS.values() for key in keys}
    assert table.groups == tuple(CONVENTIONS)
    for group, keys in CONVENTIONS.items():
        assert [column.key for column in table.columns if column.group == group] == list(keys)
    assert all(column.definition for column in table.columns if column.key)


def test_what_is_best_on_the_images_themselves_says_so(run, tmp_path):
    one, scores = run
    made.score(scores, "otsu", one)
    (table,) = tables(tmp_path).values()
    labels = {column.key: column.label for column in table.columns}
    for key in ("ods", "ois", "ods_image_mean", "ois_image_mean", "miou_image_mean_best"):
        assert labels[key] == f"{key} (optimistic)"
    assert labels["f1"] == "f1" and labels["ap"] == "ap"


def test_two_seeds_are_one_row_with_mean_and_sample_deviation(tmp_path):
    """By hand: 40 and 44 have the mean 42 and the deviation 4 / sqrt(2) = 2.83."""
    for seed, f1 in ((0, 0.40), (1, 0.44)):
        one = made.smoke(seed=seed)
        made.run(tmp_path / f"seed{seed}", one)
        path = made.score(tmp_path / f"seed{seed}" / "scores", "otsu", one, f1=f1)
        if seed == 1:
            path.write_text(path.read_text().replace(f'"iou": {made.VALUES["iou"]}', '"iou": null'))
    (table,) = tables(tmp_path).values()
    (row,) = made.rows(table)
    assert (row["f1"].text, row["f1"].note) == ("42.0", "± 2.8, 2 seeds")
    assert row["f1"].value == pytest.approx(0.42)
    assert row["method"].note == "seed 0, 1"
    assert (row["iou"].text, row["iou"].note) == (f"{100 * made.VALUES['iou']:.1f}", ""), "of the other it is 0/0"
    assert "deviation over seeds" in table.caption


def test_trainings_of_other_settings_are_no_seeds(tmp_path):
    """`--set` keeps an experiment's name: the two must not be averaged."""
    ids = []
    for name, rate, f1 in (("a", 1e-4, 0.4), ("b", 2e-4, 0.6)):
        one = made.smoke(training__learning_rate=rate)
        ids.append(one.run_id)
        made.run(tmp_path / name, one)
        made.score(tmp_path / name / "scores", "otsu", one, f1=f1)
    (table,) = tables(tmp_path).values()
    shown = {row["method"].text: row["f1"].text for row in made.rows(table)}
    name = "upcracknet_deepcrack-smoke-masks"
    assert shown == {f"{name} ({ids[0]})": "40.0", f"{name} ({ids[1]})": "60.0"}


def test_records_of_runs_that_are_not_at_hand_are_rows_of_their_own(tmp_path):
    for seed in (0, 1):
        made.score(tmp_path, f"s{seed}", made.smoke(seed=seed), f1=0.3 + seed / 10)
    (table,) = tables(tmp_path).values()
    assert sorted(row["f1"].text for row in made.rows(table)) == ["30.0", "40.0"]
    assert {row["trained on"].text for row in made.rows(table)} == {"-"}


def test_the_same_evaluation_kept_twice_is_one_row_and_no_deviation(run, tmp_path):
    one, scores = run
    made.score(scores, "otsu", one)
    made.score(tmp_path / "copies", "otsu", one)
    (table,) = tables(tmp_path).values()
    (row,) = made.rows(table)
    assert row["f1"].note.endswith(f"to {100 * made.VALUES['f1'] + 2:.1f}")


def test_records_of_an_earlier_version_show_what_they_hold(run, tmp_path):
    one, scores = run
    plain = {name: None for name in METRICS if name not in ("f1", "iou", "precision", "recall")}
    made.score(scores, "otsu", one, tables=False, intervals=None, cost=None, detection_preset=None, **plain)
    (table,) = tables(tmp_path).values()
    assert [column.key for column in table.columns if column.key] == ["f1", "iou", "precision", "recall"]
    assert table.groups == ("crack pixels, pooled",)
    (row,) = made.rows(table)
    assert (row["f1"].text, row["f1"].note, row["detection"].text) == (f"{100 * made.VALUES['f1']:.1f}", "", "default")


def test_other_versions_of_a_data_set_are_told_and_kept_apart(run, tmp_path):
    one, scores = run
    made.score(scores, "a", one, data_digest="a" * 64, images=237)
    made.score(tmp_path / "old", "b", one, data_digest="b" * 64, images=235)
    _, entries = made.found(tmp_path)
    (table,) = results(entries)
    assert [row["method"].note for row in made.rows(table)] == ["seed 0; images aaaaaaaa", "seed 0; images bbbbbbbb"]
    assert table.caption.startswith("235 or 237 images")
    assert len(differing_images(entries)) == 1 and "aaaaaaaa, bbbbbbbb" in differing_images(entries)[0]
    assert differing_images(entries[:1]) == []


# ------------------------------------------------------------------------------------------- floor and papers


def test_the_floor_is_a_row_of_its_kind_and_comes_first(run, tmp_path):
    one, scores = run
    made.score(scores, "otsu", one)
    made.score(tmp_path / "floor", "a", rule="undamaged:0.995", calibration="runs/one/undamaged")
    made.score(tmp_path / "floor", "b", rule="otsu", calibration="deepcrack:train")
    (table,) = tables(tmp_path).values()
    assert [row.kind for row in table.rows] == ["floor", "floor", "ours"]
    otsu, undamaged = made.rows(table, "floor")
    assert [cell.text for cell in list(otsu.values())[:4]] == ["floor: background_difference", "-", "default", "otsu"]
    assert undamaged["trained on"].text == "runs/one/undamaged", "what its threshold was taken from"


# Recall, precision, accuracy, F1 and IoU: columns printed as P, R, ... hold recall, then precision (section 9).
TABLE_4 = {
    "SCADN": (66.879, 34.128, 92.897, 45.194, 29.194),
    "RIAD": (90.079, 20.742, 84.494, 33.720, 20.279),
    "Deepcrack19": (88.785, 68.923, 97.756, 77.603, 63.403),
    "Deepcrack18": (71.720, 88.403, 98.350, 79.192, 65.552),
    "UP-CrackNet": (63.412, 88.852, 98.049, 74.006, 58.738),
}
TABLE_6 = {"RIAD": (86.545, 16.620, 80.529, 27.884, 16.201), "UP-CrackNet": (72.464, 79.531, 97.990, 75.833, 61.073)}


@pytest.mark.parametrize(("trained", "printed"), [("DeepCrack", TABLE_4), ("Crack500", TABLE_6)])
def test_the_papers_rows_have_precision_and_recall_exchanged_back(run, tmp_path, trained, printed):
    one, scores = run
    made.score(scores, "otsu", one, geometry="resize256")
    (table,) = tables(tmp_path).values()
    assert len(made.rows(table, "paper")) == 28, "Tables IV and VI"
    for name, numbers in printed.items():
        (row,) = made.rows(table, "paper", method=name, trained_on=trained)
        for key, number in zip(("recall", "precision", "accuracy", "f1", "iou"), numbers, strict=True):
            assert row[key].text == f"{number:.1f}" and row[key].value == pytest.approx(number / 100)
        assert row["ods"].text == "-" and row["rule"].text == ("otsu" if name == "UP-CrackNet" else "as printed")
    order = [(row.kind, row.cells[1].text) for row in table.rows]
    assert order == [("ours", "deepcrack:train"), *[("paper", "DeepCrack")] * 14, *[("paper", "Crack500")] * 14]


def test_the_papers_rows_stand_only_where_data_and_size_are_theirs(run, tmp_path):
    one, scores = run
    for place, (data, geometry) in enumerate(
        (("deepcrack:test", "native"), ("deepcrack:train", "resize256"), ("pavement:test", "resize256"))
    ):
        made.score(scores, f"s{place}", one, data=data, geometry=geometry)
        assert papers_of(data, geometry) == []
    assert not any(row.kind == "paper" for table in tables(tmp_path).values() for row in table.rows)
    assert len(tables(tmp_path)) == 3


# -------------------------------------------------------------------------------- trained on one, tested on another


def test_the_drop_is_the_number_in_domain_less_the_number_here(run, tmp_path):
    one, scores = run
    made.score(scores, "home", one, f1=0.5, iou=0.3)
    made.score(scores, "away", one, data="cfd", f1=0.3, iou=0.35)
    made.score(scores, "other-rule", one, data="cfd", rule="undamaged:0.995", f1=0.2)
    (table,) = tables(tmp_path, across).values()
    row = _by_test(table, "otsu")
    assert row["f1", "deepcrack:test"].text == "50.0" and row["f1", "deepcrack:test"].note.endswith("in-domain")
    assert row["f1", "cfd"].text == "30.0" and row["f1", "cfd"].note.endswith("; drop 20.0")
    assert row["f1", "cfd"].note.startswith(f"{100 * made.VALUES['f1'] - 1:.1f} to "), "its interval stays"
    assert row["iou", "cfd"].note.endswith("; drop -5.0")
    lone = _by_test(table, "undamaged:0.995")
    assert "drop" not in lone["f1", "cfd"].note and lone["f1", "deepcrack:test"].text == "-"
    assert not any(row.kind == "paper" for row in table.rows), "native"


def _by_test(table, rule: str, **words: str):
    """(metric, data set) -> cell of the row with that rule."""
    (row,) = (row for row in table.rows if row.cells[3].text == rule and all(
        row.cells[["method", "trained_on"].index(name)].text == word for name, word in words.items()))  # fmt: skip
    return {(column.key, column.label): cell for column, cell in zip(table.columns, row.cells, strict=True)}


def test_the_papers_matrix_has_its_drops_and_both_forms_of_cfd(run, tmp_path):
    """UP-CrackNet trained on Crack500: F1 61.808 there, 49.909 on CFD (11.899 lower), 75.833 on DeepCrack (14.025
    higher); true precision 58.609 and 41.253."""
    one, scores = run
    for place, data in enumerate(("deepcrack:test", "cfd", "cfd:without042", "pavement:test")):
        made.score(scores, f"s{place}", one, data=data, geometry="resize256")
    (table,) = tables(tmp_path, across).values()
    row = _by_test(table, "otsu", method="UP-CrackNet", trained_on="Crack500")
    for data in ("cfd", "cfd:without042"):
        assert (row["f1", data].text, row["f1", data].note) == ("49.9", "drop 11.9")
        assert (row["iou", data].text, row["iou", data].note) == ("33.3", "drop 11.5")
        assert (row["precision", data].text, row["precision", data].note) == ("41.3", "drop 17.4")
    assert (row["f1", "deepcrack:test"].text, row["f1", "deepcrack:test"].note) == ("75.8", "drop -14.0")
    assert row["f1", "pavement:test"].text == "-"
    own = _by_test(table, "otsu", method="UP-CrackNet", trained_on="DeepCrack")
    assert (own["f1", "deepcrack:test"].text, own["f1", "deepcrack:test"].note) == ("74.0", "in-domain")
    assert (own["f1", "cfd"].text, own["f1", "cfd"].note) == ("46.8", "drop 27.2")


def test_there_is_no_matrix_of_one_data_set_nor_a_printed_row_for_sets_that_the_paper_has_not(run, tmp_path):
    one, scores = run
    made.score(scores, "a", one, geometry="resize256", data="pavement:test")
    assert tables(tmp_path, across) == {}
    made.score(scores, "b", one, geometry="resize256", data="other:test")
    (table,) = tables(tmp_path, across).values()
    assert [row.kind for row in table.rows] == ["ours"]


def test_the_numbers_stand_on_the_page(run, tmp_path):
    one, scores = run
    made.score(scores, "otsu", one, f1=0.123449, geometry="resize256")
    out = tmp_path / "out"
    command("report", tmp_path / "run", "--out", out).ok()
    for name in ("report.html", "report.md"):
        text = (out / name).read_text()
        assert "12.3" in text and "74.0" in text and "± " not in text
