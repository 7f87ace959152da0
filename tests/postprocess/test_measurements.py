"""Each expected number is worked out by hand from the drawing."""

import math

import numpy as np
import pytest
from skimage.draw import circle_perimeter, disk

from cracks_jax.errors import UsageError
from cracks_jax.postprocess.measurements import measure, skeleton_length


def _drawn(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def test_a_horizontal_line_is_as_long_as_its_pixels():
    mask = np.zeros((10, 40), bool)
    mask[5, 10:30] = True
    assert measure(mask) == {
        "crack_share": 0.05,
        "area_px": 20,
        "components": 1,
        "length_px": 20.0,
        "mean_width_px": 1.0,
    }


def test_a_diagonal_line_counts_the_root_of_two_per_pixel():
    result = measure(np.eye(30, dtype=bool))
    assert result["components"] == 1
    assert result["length_px"] == pytest.approx(30 * math.sqrt(2))
    assert result["mean_width_px"] == pytest.approx(1 / math.sqrt(2))


def test_a_bar_loses_about_one_width_at_its_ends():
    mask = np.zeros((30, 120), bool)
    mask[10:17, 10:110] = True
    result = measure(mask)
    assert result["area_px"] == 700
    assert 100 - 8 <= result["length_px"] <= 100
    assert 7 <= result["mean_width_px"] < 7.7


def test_a_square_ring_is_as_long_as_its_steps():
    """12 pixels around a 4x4 square, 11 right angles and straights: 12 steps, the corners not cut short."""
    ring = _drawn("####", "#..#", "#..#", "####")
    assert skeleton_length(ring) == 12


def test_a_round_ring_is_nearly_its_circumference():
    mask = np.zeros((120, 120), bool)
    mask[disk((60, 60), 42)] = True
    mask[disk((60, 60), 38)] = False
    result = measure(mask)
    assert result["components"] == 1
    assert result["length_px"] == pytest.approx(2 * math.pi * 40, rel=0.08)  # staircases are up to 8 % longer
    assert result["mean_width_px"] == pytest.approx(4, rel=0.1)
    thin = np.zeros((120, 120), bool)
    thin[circle_perimeter(60, 60, 40)] = True
    assert measure(thin)["length_px"] == pytest.approx(2 * math.pi * 40, rel=0.08)


def test_a_corner_is_two_steps_and_two_half_ends():
    assert skeleton_length(_drawn("##", ".#")) == 3


def test_a_fork_has_three_ends():
    """Stem of 3, two diagonal arms of 2: 2 straight and 4 diagonal steps, ends 1/2 + 2 x sqrt(2)/2."""
    fork = _drawn("#...#", ".#.#.", "..#..", "..#..", "..#..")
    assert skeleton_length(fork) == pytest.approx(2.5 + 5 * math.sqrt(2))


def test_two_components_are_counted_and_diagonal_neighbours_joined():
    mask = _drawn("##....", "......", "...#..", "....#.")
    result = measure(mask)
    assert result["components"] == 2 and result["area_px"] == 4
    assert result["length_px"] == pytest.approx(2 + 2 * math.sqrt(2))


def test_a_lone_pixel_is_one_long_and_one_wide():
    mask = np.zeros((5, 5), bool)
    mask[0, 4] = True
    assert measure(mask) == {
        "crack_share": 0.04,
        "area_px": 1,
        "components": 1,
        "length_px": 1.0,
        "mean_width_px": 1.0,
    }


def test_a_full_mask_is_one_component():
    result = measure(np.ones((9, 9), bool))
    assert result["crack_share"] == 1 and result["components"] == 1 and result["length_px"] >= 1


def test_no_crack_has_no_width():
    assert measure(np.zeros((4, 5), bool), mm_per_px=2.0) == {
        "crack_share": 0.0, "area_px": 0, "components": 0, "length_px": 0.0, "mean_width_px": None,
        "area_mm2": 0.0, "length_mm": 0.0, "mean_width_mm": None,
    }  # fmt: skip


def test_millimetres_scale_lengths_once_and_areas_twice():
    mask = np.zeros((10, 40), np.uint8)
    mask[5, 10:30] = 255
    result = measure(mask, mm_per_px=0.5)
    assert (result["area_mm2"], result["length_mm"], result["mean_width_mm"]) == (5.0, 10.0, 0.5)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_length_is_refused(bad):
    with pytest.raises(UsageError, match="mm-per-px"):
        measure(np.zeros((4, 5), bool), mm_per_px=bad)


def test_a_mask_with_channels_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 5, 3\)"):
        measure(np.zeros((4, 5, 3), bool))
