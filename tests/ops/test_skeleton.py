"""Skeletons: scikit-image's but for large full masks, which take time that grows with their pixels."""

import cv2
import numpy as np
import pytest
from skimage.morphology import skeletonize

from cracks_jax.ops import skeleton as module
from cracks_jax.ops.skeleton import LARGE_SHARE, MANY_PIXELS, skeleton
from cracks_jax.postprocess.measurements import skeleton_length


def _blobs(rng, side, size):
    return cv2.GaussianBlur(rng.random((side, side)).astype(np.float32), (0, 0), size) > 0.5


def test_a_mask_that_is_small_or_mostly_empty_has_scikit_images_skeleton(rng):
    masks = [rng.random((40, 50)) < share for share in (0.1, 0.5, 0.9, 0.99)] + [_blobs(rng, 200, 3)]
    large = np.zeros((1500, 2000), np.uint8)
    for column in range(100, 2000, 200):
        cv2.line(large, (column, 20), (column - 60, 1480), 1, 47)
    assert MANY_PIXELS < np.count_nonzero(large) < LARGE_SHARE * large.size
    for mask in (*masks, np.ones((128, 300), bool), np.zeros((5, 5), bool), large > 0):
        np.testing.assert_array_equal(skeleton(mask), skeletonize(mask))


def test_a_large_full_mask_keeps_its_parts_and_its_holes_and_nearly_its_length(rng, monkeypatch):
    monkeypatch.setattr(module, "MANY_PIXELS", 0)
    monkeypatch.setattr(module, "LARGE_SHARE", 0)
    bars, ring = np.zeros((2, 300, 300), np.uint8)
    cv2.line(bars, (30, 40), (270, 250), 1, 31)
    cv2.line(bars, (40, 260), (250, 30), 1, 15)
    cv2.circle(ring, (150, 150), 100, 1, 45)
    # Of patches as wide as long, the library keeps more side branches.
    for mask, off in ((bars > 0, 0.03), (ring > 0, 0.03), (np.pad(_blobs(rng, 300, 12), 20), 0.15)):
        found = skeleton(mask)
        assert not (found & ~mask).any()
        assert _parts(found, 8) == _parts(mask, 8) and _parts(~found, 4) == _parts(~mask, 4)
        assert skeleton_length(found) == pytest.approx(skeleton_length(skeletonize(mask)), rel=off)


def _parts(mask, connectivity):
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[0]


def test_the_work_grows_with_the_pixels_and_not_with_the_thickness(monkeypatch):
    """Looks at pixels, counted: four times the area, about four times the looks."""
    looks = []
    real = module._codes
    monkeypatch.setattr(module, "_codes", lambda flat, places, around: looks.append(places.size) or real(
        flat, places, around))  # fmt: skip
    totals = []
    for side in (750, 1500):
        looks.clear()
        skeleton(np.ones((side, side), bool))
        totals.append(sum(looks) / side**2)
    assert 0 < totals[0] < 6 and totals[1] < 6
