import numpy as np
import pytest
from sklearn import metrics as sk

from cracks_jax.metrics.counts import Counts


def test_every_metric_equals_scikit_learn(rng):
    mask, pred = rng.random((40, 50)) < 0.2, rng.random((40, 50)) < 0.3
    counts = Counts.of(pred, mask)
    y, p = mask.reshape(-1), pred.reshape(-1)
    assert sk.confusion_matrix(y, p).tolist() == [[counts.tn, counts.fp], [counts.fn, counts.tp]]
    assert counts.precision == pytest.approx(sk.precision_score(y, p))
    assert counts.recall == pytest.approx(sk.recall_score(y, p))
    assert counts.f1 == pytest.approx(sk.f1_score(y, p))
    assert counts.iou == pytest.approx(sk.jaccard_score(y, p))
    assert counts.accuracy == pytest.approx(sk.accuracy_score(y, p))
    assert counts.miou == pytest.approx(sk.jaccard_score(y, p, average="macro"))
    assert counts.crack_share == pytest.approx(y.mean())


def test_counts_of_two_images_add_to_the_counts_of_all_pixels(rng):
    mask, pred = rng.random((2, 9, 7)) < 0.4, rng.random((2, 9, 7)) < 0.4
    both = Counts.of(pred[0], mask[0]) + Counts.of(pred[1], mask[1])
    assert both == Counts.of(pred.reshape(18, 7), mask.reshape(18, 7))
    assert both.total == 126


def test_pooled_f1_is_not_the_mean_of_the_images():
    """By hand: one image 1 of 1 right, the other 1 of 9 found. Pooled F1 4 / 12, mean 0.6."""
    easy, hard = Counts(tp=1, tn=9), Counts(tp=1, fn=8, tn=1)
    assert (easy + hard).f1 == pytest.approx(1 / 3)
    assert (easy.f1 + hard.f1) / 2 == pytest.approx(0.6)


def test_anything_but_zero_is_crack():
    pred, mask = np.array([[0, 255, 1]], np.uint8), np.array([[0, 1, 0]])
    assert Counts.of(pred, mask) == Counts(tp=1, fp=1, fn=0, tn=1)


def test_what_is_zero_by_zero_is_none():
    """No crack and none predicted: accuracy is perfect, precision, recall, F1 and IoU are undefined."""
    quiet = Counts(tn=5)
    assert (quiet.precision, quiet.recall, quiet.f1, quiet.iou, quiet.miou) == (None,) * 5
    assert quiet.accuracy == 1 and quiet.crack_share == 0
    full = Counts(tp=5)
    assert full.iou == 1 and full.miou is None
    assert Counts().accuracy is None and Counts().crack_share is None
    false_alarm = Counts(fp=1, tn=1)
    assert false_alarm.precision == 0 and false_alarm.recall is None and false_alarm.f1 == 0


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        Counts.of(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
