"""Every metric against an independent one: scikit-learn, brute force over images and thresholds, hand-worked cases."""

import numpy as np
import pytest
from sklearn import metrics as sk

from cracks_jax.metrics.curve import BINS, THRESHOLDS, Curve, thresholds_below
from cracks_jax.metrics.definitions import METRICS
from cracks_jax.metrics.tally import LEFT_OUT, PERFECT_IF_EMPTY, Tally, image_sums
from cracks_jax.metrics.uncertainty import values

SIZE = (24, 31)


def _blank(value):
    return np.full(SIZE, value, np.float32)


def _images(kind, rng):
    """(score, mask) of three images."""
    random = [(rng.random(SIZE, dtype=np.float32) ** 3, rng.random(SIZE) < share) for share in (0.05, 0.3, 0.02)]
    one = np.zeros(SIZE, bool)
    one[7, 9] = True
    return {
        "random": random,
        "no crack at all": [(score, np.zeros(SIZE, bool)) for score, _ in random],
        "all crack": [(score, np.ones(SIZE, bool)) for score, _ in random],
        "nothing predicted": [(_blank(0), mask) for _, mask in random],
        "nothing anywhere": [(_blank(0), np.zeros(SIZE, bool))] * 3,
        "one pixel": [(one.astype(np.float32), one), (_blank(0), one), (one.astype(np.float32), ~one)],
        "constant score": [(_blank(0.7), mask) for _, mask in random],
        "one without crack": [*random[:2], (random[2][0], np.zeros(SIZE, bool))],
    }[kind]


KINDS = ("random", "no crack at all", "all crack", "nothing predicted", "nothing anywhere", "one pixel")
KINDS += ("constant score", "one without crack")


def _found(images, crack_free=LEFT_OUT):
    tally = Tally(resamples=0)
    for number, (score, mask) in enumerate(images):
        tally.add(str(number), image_sums(score, score > 0.5, mask, crack_free))
    return values(tally)


def _same(found, expected):
    if expected is None or np.isnan(expected):
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.fixture(params=KINDS)
def images(request, rng):
    return _images(request.param, rng)


def _flat(images):
    return (
        np.concatenate([mask.reshape(-1) for _, mask in images]),
        np.concatenate([score.reshape(-1) for score, _ in images]),
    )


def test_pooled_metrics_are_scikit_learns(images):
    found = _found(images)
    y, score = _flat(images)
    p = score > 0.5
    nan = {"zero_division": np.nan}
    _same(found["precision"], sk.precision_score(y, p, **nan))
    _same(found["recall"], sk.recall_score(y, p, **nan))
    _same(found["f1"], sk.f1_score(y, p, **nan))
    _same(found["iou"], sk.jaccard_score(y, p) if (y | p).any() else None)
    _same(found["accuracy"], sk.accuracy_score(y, p))
    for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        _same(found[f"micro_{name}"], function(y, p, average="micro"))
        each = function(y, p, average=None, labels=[False, True], **nan)
        _same(found[f"macro_{name}"], np.mean(each))
        share = np.array([1 - y.mean(), y.mean()])
        _same(found[f"weighted_{name}"], np.sum(np.where(share > 0, share * each, 0)))


def test_miou_and_f1_and_iou_hang_together(images):
    found = _found(images)
    if found["f1"] is not None:
        assert found["iou"] == pytest.approx(found["f1"] / (2 - found["f1"]))
    y, score = _flat(images)
    if found["miou"] is not None:
        assert found["miou"] == pytest.approx(sk.jaccard_score(y, score > 0.5, average="macro"))
    assert found["weighted_recall"] == pytest.approx(found["accuracy"])


def test_metrics_over_thresholds_are_those_of_every_threshold_in_turn(images):
    found = _found(images)
    y, score = _flat(images)

    def f1(y, p):
        return 2 * (y & p).sum() / (y.sum() + p.sum()) if (y | p).any() else np.nan

    pooled = [f1(y, score > t) for t in THRESHOLDS]
    if np.isnan(pooled).all():
        assert found["ods"] is None and found["best_threshold"] is None
    else:
        _same(found["ods"], np.nanmax(pooled))
        assert found["best_threshold"] == THRESHOLDS[int(np.nanargmax(pooled))]
    curve = sum((Curve.of(score, mask) for score, mask in images), Curve.empty())
    assert (found["best_threshold"], found["ods"]) == pytest.approx(curve.best_f1())
    if y.any():
        _same(found["ap"], sk.average_precision_score(y, thresholds_below(score)))
    else:
        assert found["ap"] is None


def _image_metrics(score, mask, threshold):
    """precision, recall, f1, iou, accuracy, miou of one image, in words of their own."""
    p = score > threshold
    hits, wrong, missed = (p & mask).sum(), (p & ~mask).sum(), (~p & mask).sum()
    empty = float(hits + wrong + missed == 0)
    iou = hits / (hits + wrong + missed) if not empty else 1.0
    rest = (~p & ~mask).sum()
    background = rest / (rest + wrong + missed) if rest + wrong + missed else 1.0
    precision = hits / p.sum() if p.any() else empty
    recall = hits / mask.sum() if mask.any() else empty
    f1 = 2 * hits / (2 * hits + wrong + missed) if not empty else 1.0
    return precision, recall, f1, iou, (p == mask).mean(), (iou + background) / 2


@pytest.mark.parametrize("crack_free", [LEFT_OUT, PERFECT_IF_EMPTY])
def test_image_means_are_means_of_each_image_alone(images, crack_free):
    found = _found(images, crack_free)
    counted = [one for one in images if one[1].any() or crack_free == PERFECT_IF_EMPTY]
    names = [f"{name}_image_mean" for name in ("precision", "recall", "f1", "iou", "accuracy", "miou")]
    if not counted:
        assert all(found[name] is None for name in (*names, "ods_image_mean", "ois_image_mean", "miou_image_mean_best"))
        return
    for name, column in zip(names, zip(*(_image_metrics(*one, 0.5) for one in counted), strict=True), strict=True):
        _same(found[name], np.mean(column))
    each = np.array([[_image_metrics(*one, t) for t in THRESHOLDS] for one in counted])
    _same(found["ods_image_mean"], each[:, :, 2].mean(0).max())
    _same(found["ois_image_mean"], each[:, :, 2].max(1).mean())
    _same(found["miou_image_mean_best"], each[:, :, 5].mean(0).max())


def test_ois_sums_the_counts_at_each_images_own_best_threshold(rng):
    images = _images("random", rng)
    tp = errors = 0
    for score, mask in images:
        best = max(THRESHOLDS, key=lambda t, s=score, m=mask: 2 * (m & (s > t)).sum() / (m.sum() + (s > t).sum()))
        p = score > best
        tp, errors = tp + (p & mask).sum(), errors + (p ^ mask).sum()
    assert _found(images)["ois"] == pytest.approx(2 * tp / (2 * tp + errors))
    assert _found(images)["ois"] >= _found(images)["ods"] - 1e-12


def test_an_image_without_crack_adds_to_ois_what_its_best_threshold_predicts():
    """Every F1 there is 0: the one with the fewest errors, here the 2 pixels that score 1, which no threshold loses."""
    score = _blank(0.2)
    score[3, 4:6] = 1
    cracked = np.zeros(SIZE, bool)
    cracked[0, :4] = True
    found = _found([(score, np.zeros(SIZE, bool)), (cracked.astype(np.float32), cracked)])
    assert found["ois"] == pytest.approx(2 * 4 / (2 * 4 + 2))


def test_tolerance_by_hand():
    """A crack of 10 px and a prediction 3 px beside it that is twice as long."""
    mask, p = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    mask[10, 10:20] = p[13, 10:30] = True
    found = _found([(p.astype(np.float32), mask)])
    assert (found["f1"], found["f1_2px"], found["precision_2px"], found["recall_2px"]) == (0, 0, 0, 0)
    # Within 5 px: 14 columns, 10 to 23 (4 beyond the crack's end, as 3, 4, 5 is a triangle); all of the crack.
    assert (found["precision_5px"], found["recall_5px"]) == (14 / 20, 1)
    assert found["f1_5px"] == pytest.approx(2 * 0.7 / 1.7)
    # Within 4 px: columns 10 to 21 (sqrt 7 = 2.6 beyond the end); 8 of the prediction are near nothing.
    assert found["cliou_4px"] == pytest.approx(10 / (10 + 8))
    assert found["cldice"] == 0


def test_perfect_predictions_are_perfect_by_every_name(rng):
    mask = np.zeros((50, 60), bool)
    mask[20:24, 5:50] = True
    found = _found([(mask.astype(np.float32), mask)] * 2)
    assert {name: value for name, value in found.items() if value != 1} == {"best_threshold": 0.0}


def test_every_metric_says_what_it_is():
    for name, metric in METRICS.items():
        assert metric.__doc__ and len(metric.__doc__) > 40, name
    needed = (
        "precision recall f1 iou accuracy miou ods best_threshold ois ods_image_mean ois_image_mean "
        "miou_image_mean_best ap f1_2px f1_5px cliou_4px cldice"
    )
    assert set(needed.split()) <= METRICS.keys() and BINS == 1024
