import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from cracks_jax.metrics.tolerance import centre_line_counts, near_counts, within


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (17, 23), elements=st.sampled_from([False] * 12 + [True])), st.sampled_from([0, 1, 2, 4, 5]))
def test_within_is_the_exact_euclidean_distance(mask, radius):
    expected = distance_transform_edt(~mask) <= radius if mask.any() else mask
    np.testing.assert_array_equal(within(mask, radius), expected)


def test_near_counts_by_hand():
    """A line of 10 and one of 10 beside it, 3 px away: nothing within 2, all within 5."""
    pred, mask = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    pred[5, 3:13] = mask[8, 3:13] = True
    assert near_counts(pred, mask, 2).tolist() == [0, 0]
    assert near_counts(pred, mask, 3).tolist() == [10, 10]
    mask[8, 3:8] = False  # only half of the crack is there: the prediction's far end is 5.83 px from it, and less
    assert near_counts(pred, mask, 5).tolist() == [9, 5]


def test_centre_lines_by_hand():
    """Lines one pixel wide are their own skeletons: 20 true, 16 predicted, 5 px beside it in their second half."""
    pred, mask = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    mask[10, 5:25] = True
    pred[10, 5:13] = pred[15, 17:25] = True
    counts, inside = centre_line_counts(pred, mask, 4)
    # True pixels up to x = 16 are at most 4 px from x = 12; the second half of the prediction is near nothing.
    assert counts.tolist() == [12, 8, 8]
    assert inside.tolist() == [16, 8, 20, 8]


def test_centre_lines_are_of_skeletons(rng):
    mask = np.zeros((60, 60), bool)
    mask[20:27, 5:55] = True
    pred = np.roll(mask, 2, axis=0)
    lines, truth = skeletonize(pred), skeletonize(mask)
    _, inside = centre_line_counts(pred, mask, 4)
    assert inside.tolist() == [lines.sum(), (lines & mask).sum(), truth.sum(), (truth & pred).sum()]


@pytest.mark.parametrize("fill", [(False, False), (True, False), (False, True), (True, True)])
def test_empty_and_full_masks(fill):
    pred, mask = (np.full((12, 15), value) for value in fill)
    hits = np.count_nonzero(pred & mask)
    assert near_counts(pred, mask, 2).tolist() == [hits, hits]
    counts, inside = centre_line_counts(pred, mask, 4)
    assert (counts >= 0).all() and inside[0] == inside[1] + (0 if fill[1] else inside[0])
