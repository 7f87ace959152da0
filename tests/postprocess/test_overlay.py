"""The overlay is the photograph everywhere but on and just around the mask, and thin cracks stay visible in it."""

import numpy as np
import pytest
from scipy import ndimage

from cracks_jax.postprocess.overlay import COLOUR, overlay


@pytest.fixture
def road(rng):
    return rng.integers(60, 160, (40, 60, 3), dtype=np.uint8)


def test_without_crack_the_photograph_comes_back_and_is_not_shared(road):
    before = road.copy()
    found = overlay(road, np.zeros(road.shape[:2], bool))
    np.testing.assert_array_equal(found, before)
    found[:] = 0
    np.testing.assert_array_equal(road, before)


def test_the_mask_is_tinted_the_ring_around_it_is_solid_and_the_rest_is_untouched(road, rng):
    mask = rng.random(road.shape[:2]) < 0.01
    found = overlay(road, mask)
    ring = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
    np.testing.assert_array_equal(found[~mask & ~ring], road[~mask & ~ring])
    assert (found[ring] == COLOUR).all()
    halfway = (road[mask].astype(float) + np.asarray(COLOUR)) / 2
    np.testing.assert_allclose(found[mask], halfway, atol=0.5)


def test_a_hairline_is_still_seen_when_a_large_photograph_is_shown_at_a_quarter():
    road = np.full((1500, 2000, 3), 110, np.uint8)
    mask = np.zeros(road.shape[:2], bool)
    mask[700, 100:1900] = True
    shown = overlay(road, mask).reshape(375, 4, 500, 4, 3).mean((1, 3))  # each shown pixel is the mean of 4x4
    assert (np.abs(shown[175, 30:470] - 110).max(-1) > 60).all()


def test_masks_of_0_and_255_of_0_and_1_and_boolean_ones_look_the_same(road):
    mask = np.zeros(road.shape[:2], np.uint8)
    mask[5, 5:20] = 255
    np.testing.assert_array_equal(overlay(road, mask), overlay(road, mask > 0))
    np.testing.assert_array_equal(overlay(road, mask // 255), overlay(road, mask > 0))


@pytest.mark.parametrize("shape", [(20, 60), (40, 60, 1)])
def test_a_mask_of_another_size_is_refused(road, shape):
    with pytest.raises(ValueError, match="the same"):
        overlay(road, np.zeros(shape, bool))
