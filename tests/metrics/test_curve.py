from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from cracks_jax.metrics.counts import Counts
from cracks_jax.metrics.curve import BINS, THRESHOLDS, Curve, thresholds_below

UNIT = st.floats(0, 1, width=32)


def _around_every_threshold() -> np.ndarray:
    below, above = np.nextafter(THRESHOLDS, np.float32(-1)), np.nextafter(THRESHOLDS, np.float32(2))
    return np.concatenate([THRESHOLDS, above, np.clip(below, 0, 1), np.float32([0, 1])])


def test_thresholds_are_exact_squares():
    assert THRESHOLDS.dtype == np.float32 and THRESHOLDS.shape == (1024,)
    assert all(Fraction(float(t)) == Fraction(i, 1024) ** 2 for i, t in enumerate(THRESHOLDS))


def test_a_score_on_a_threshold_is_not_above_it_and_the_next_float_is():
    scores = _around_every_threshold()
    brute = (scores[:, None] > THRESHOLDS[None, :]).sum(1)
    np.testing.assert_array_equal(thresholds_below(scores), brute)
    np.testing.assert_array_equal(brute[:BINS], np.arange(BINS))
    np.testing.assert_array_equal(brute[BINS : 2 * BINS], np.arange(BINS) + 1)


@settings(max_examples=25, deadline=None)
@given(arrays(np.float32, (4, 5), elements=UNIT), arrays(bool, (4, 5)))
def test_counts_equal_thresholding_by_brute_force(score, mask):
    curve = Curve.of(score, mask)
    for index in (0, 1, 5, 300, 512, 1023):
        assert curve.counts_at(index) == Counts.of(score > THRESHOLDS[index], mask)


def test_counts_at_all_thresholds_equal_brute_force(rng):
    score = rng.permutation(_around_every_threshold())[None]
    mask = rng.random(score.shape) < 0.3
    expected = [[c.tp, c.fp, c.fn, c.tn] for c in (Counts.of(score > t, mask) for t in THRESHOLDS)]
    np.testing.assert_array_equal(Curve.of(score, mask).counts, expected)


def test_curves_merge_by_addition(rng):
    score, mask = rng.random((2, 6, 7), dtype=np.float32), rng.random((2, 6, 7)) < 0.2
    parts = [Curve.of(s, m) for s, m in zip(score, mask, strict=True)]
    whole = Curve.of(score.reshape(12, 7), mask.reshape(12, 7))
    np.testing.assert_array_equal(sum(parts, Curve.empty()).counts, whole.counts)


def test_best_f1_is_close_to_the_best_over_every_threshold_of_scikit_learn(rng):
    mask = rng.random((80, 90)) < 0.1
    score = (np.clip(0.15 * mask + 0.1 * rng.random((80, 90)), 0, 1) ** 2).astype(np.float32)
    threshold, best = Curve.of(score, mask).best_f1()
    precision, recall, _ = sk.precision_recall_curve(mask.reshape(-1), score.reshape(-1))
    finest = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert best == pytest.approx(finest, abs=2e-3) and best <= finest + 1e-12
    assert best == Counts.of(score > np.float32(threshold), mask).f1


def test_best_iou_belongs_to_the_same_threshold_and_is_the_greatest(rng):
    score, mask = rng.random((30, 30), dtype=np.float32), rng.random((30, 30)) < 0.5
    curve = Curve.of(score, mask)
    threshold, iou = curve.best_iou()
    assert threshold == curve.best_f1()[0]
    assert iou == max(curve.counts_at(i).iou or 0 for i in range(BINS))


def test_the_lowest_of_equal_thresholds_is_named():
    mask = np.array([[True, False]])
    assert Curve.of(mask.astype(np.float32), mask).best_f1() == (0.0, 1.0)


def test_nothing_to_find_gives_none():
    assert Curve.empty().best_f1() == (None, None) and Curve.empty().best_iou() == (None, None)
    silent = Curve.of(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool))
    assert silent.best_f1() == (None, None)
    alarm = Curve.of(np.full((2, 2), 0.5, np.float32), np.zeros((2, 2), bool))
    assert alarm.best_f1() == (0.0, 0.0)


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan, np.inf])
def test_scores_outside_the_unit_interval_are_refused(bad):
    with pytest.raises(ValueError, match="finite and in"):
        Curve.of(np.array([[0.5, bad]], np.float32), np.zeros((1, 2), bool))
