"""Records of evaluations: what is written is what was measured, and damage is named."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from cracks_jax import scores
from cracks_jax.errors import CracksError
from cracks_jax.metrics.curve import Curve
from tests.tiny import quick_compile  # noqa: F401
from tests.tiny_runs import command, pavements

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The floor on three drawn pavements, kept by `evaluate --out`."""
    out = tmp_path_factory.mktemp("record")
    answer = command("evaluate", "--method", "background_difference", "--data", f"{pavements()}:test", "--out", out,
                     "--json").ok()  # fmt: skip
    (path,) = out.glob("*.json")
    return path, answer.json


def test_a_record_holds_what_was_printed_and_no_folder_of_this_machine(record):
    path, printed = record
    row = scores.load(path).row
    assert {name: row[name] for name in printed} == printed
    assert str(pavements().parent) not in path.read_text()
    assert row["command"].startswith(f"cracks-jax evaluate --data {pavements().name}:test --method background_diff")


def test_the_images_add_up_to_the_pooled_metrics(record):
    path, printed = record
    images = scores.load(path).images
    assert len(images) == printed["images"] == 3
    tp, fp, fn = (sum(image[name] for image in images) for name in ("tp", "fp", "fn"))
    assert printed["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    for image in images:
        assert image["iou"] == pytest.approx(image["f1"] / (2 - image["f1"]), rel=1e-4)
    assert len({image["threshold"] for image in images}) == 3, "Otsu's is each image's own"


def test_the_curve_lies_on_scikit_learns(rng):
    score = rng.random((60, 80)).astype(np.float32) ** 3
    mask = rng.random((60, 80)) < score
    points = scores.curve_points(Curve.of(score, mask))
    precision, recall, thresholds = precision_recall_curve(mask.ravel(), score.ravel())
    assert 50 < len(points) <= 200
    for threshold, p, r in points:
        place = np.searchsorted(thresholds, threshold, side="right")
        assert (p, r) == (pytest.approx(precision[place]), pytest.approx(recall[place]))
    assert [t for t, _, _ in points] == sorted(t for t, _, _ in points)
    assert points[0][2] == pytest.approx(recall[np.searchsorted(thresholds, 0, side="right")])


def test_a_mask_without_crack_has_no_curve():
    assert scores.curve_points(Curve.of(np.full((4, 4), 0.5, np.float32), np.zeros((4, 4), bool))) == []


def test_a_record_with_its_json_alone_is_read_and_a_damaged_table_is_named(record, tmp_path):
    path, _ = record
    alone = tmp_path / path.name
    alone.write_text(path.read_text())
    assert (scores.load(alone).images, scores.load(alone).curve) == ((), ())
    table = alone.with_suffix(".images.csv")
    table.write_text("image,tp\na,x\n")
    with pytest.raises(CracksError, match="images.csv: cannot be read as a record's table"):
        scores.load(alone)
    alone.write_text(json.dumps({"f1": 0.5}))
    with pytest.raises(CracksError, match="no record of an evaluation"):
        scores.load(alone)


def test_undefined_metrics_of_an_image_are_empty_places(record):
    path, _ = record
    with path.with_suffix(".images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"image", "threshold", "tp", "fp", "fn", "tn", "f1", "iou"}
