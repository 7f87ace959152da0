"""Robustness: what is recorded is what the same methods find on the same degraded photographs; an area by hand."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from cracks_jax import pages, robustness
from cracks_jax.data.datasets import open_dataset
from cracks_jax.data.degradations import KINDS, SEVERITIES, degrade
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.metrics.tally import Tally, image_sums
from cracks_jax.metrics.uncertainty import compare, compare_counts, interval_of_counts, intervals
from cracks_jax.runs import open_run
from cracks_jax.scoring import Request, open_scoring
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_runs import pavements, runs

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def studied(quick_compile, tmp_path_factory):  # noqa: F811
    """The tiny restoration run and the floor on three drawn pavements, all kinds and severities."""
    out = tmp_path_factory.mktemp("robust")
    run = runs().restoration
    experiment = open_run(run).experiment
    link = out / "runs" / f"{experiment.label}-{experiment.run_id}"
    link.parent.mkdir()
    link.symlink_to(run)
    study = robustness.Robustness((experiment,), f"{pavements()}:test", f"{pavements()}:train", geometry="native")
    study.carry_out(out / "runs", out, lambda line: None)
    return out, study


def test_every_kind_severity_and_rule_has_one_row(studied):
    rows = json.loads((studied[0] / robustness.NAME).read_text())["rows"]
    places = [(row["method"], row["rule"], row["kind"], row["severity"]) for row in rows]
    assert len(places) == len(set(places)) == 6 * (1 + len(KINDS) * len(SEVERITIES))


def test_a_row_is_what_scikit_learn_finds_on_the_photographs_degraded_anew(studied):
    rows = json.loads((studied[0] / robustness.NAME).read_text())["rows"]
    (row,) = [r for r in rows if (r["kind"], r["severity"], r["rule"]) == ("noise", 3, "validation")]
    labelled = f"{pavements()}:train"
    scoring = open_scoring(Request(method="background_difference", rule="validation", calibration=labelled))
    found, truth = [], []
    for record in open_dataset(pavements(), "test"):
        image = degrade(read_image(record.image), "noise", 3, key=record.stem)
        found.append(scoring.thresholds.mask(scoring.scorer(image)).ravel())
        truth.append(read_mask(record.mask).ravel())
    assert row["f1"] == pytest.approx(f1_score(np.concatenate(truth), np.concatenate(found)))


def test_it_goes_on_where_it_stopped_and_starts_anew_on_other_images(studied, tmp_path):
    out, study = studied
    path = out / robustness.NAME
    whole = path.read_text()
    cut = json.loads(whole)
    cut["rows"] = [row for row in cut["rows"] if row["kind"] != "noise"]
    path.write_text(json.dumps(cut))
    said: list[str] = []
    study.carry_out(out / "runs", out, said.append)
    assert len(said) == len(SEVERITIES) and json.loads(path.read_text())["rows"] == json.loads(whole)["rows"]
    again: list[str] = []
    study.carry_out(out / "runs", out, again.append)
    assert again == []


def test_the_area_is_one_where_nothing_hurts_and_by_hand_otherwise():
    assert robustness.area([0.5] * 6) == pytest.approx(0.5)
    assert robustness.area([1.0, 0.8, 0.6, 0.4, 0.2, 0.0]) == pytest.approx(0.5)
    assert robustness.area([0.9, 0.5, 0.1]) == pytest.approx((0.7 + 0.3) / 2)


def test_the_table_shows_every_line_and_the_drawing_has_a_panel_for_each_kind(studied, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- robustness: begin -->\n<!-- robustness: end -->\n")
    pages.write_tables(studied[0], [page])
    text = page.read_text()
    record = json.loads((studied[0] / robustness.NAME).read_text())
    for row in record["rows"]:
        assert f"| {row['method'].replace('background_difference', 'floor')}, {row['rule']} |" in text
    drawing = (tmp_path / "pictures" / "robustness.svg").read_text()
    assert all(kind.replace("_", " ") in drawing for kind in KINDS) and "currentColor" not in drawing


def test_intervals_of_counts_are_those_of_a_tally(rng):
    names, counts, tally = [f"i{n}" for n in range(20)], [], Tally()
    for name in names:
        mask = rng.random((12, 14)) < 0.3
        score = np.clip(mask * 0.4 + rng.random(mask.shape) * 0.6, 0, 1).astype(np.float32)
        sums = image_sums(score, score > 0.5, mask)
        tally.add(name, sums)
        counts.append(sums["rule"])
    assert interval_of_counts("f1", names, np.stack(counts)) == pytest.approx(intervals(tally)["f1"])


def test_a_paired_test_of_counts_is_that_of_tallies(rng):
    names, counts, tallies = [f"i{n}" for n in range(20)], ([], []), (Tally(), Tally())
    for name in names:
        mask = rng.random((12, 14)) < 0.3
        for noise, listed, tally in zip((0.5, 0.6), counts, tallies, strict=True):
            score = np.clip(mask * 0.4 + rng.random(mask.shape) * noise, 0, 1).astype(np.float32)
            sums = image_sums(score, score > 0.5, mask)
            tally.add(name, sums)
            listed.append(sums["rule"])
    ours = compare_counts("f1", names, *map(np.stack, counts))
    theirs = compare(*tallies, "f1")
    assert (ours.value, ours.p) == (pytest.approx(theirs.value), theirs.p)
    assert ours.interval == pytest.approx(theirs.interval)
