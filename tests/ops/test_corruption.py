"""Corruption masks: right squares, right ratio, complementary, drawn evenly, refused with the side that works."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chisquare

from cracks_jax.ops import corruption

SIDES = (16, 32, 112, 128, 256, 272)
EVEN_KINDS = {"squares": corruption.multiscale_squares, "stripes": corruption.stripes}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("kind", "count"), [("squares", 6), ("stripes", 12)])
def test_squares_and_stripes_keep_half_and_come_in_complementary_pairs(kind, count, side):
    masks = EVEN_KINDS[kind](side)
    assert masks.shape == (count, side, side, 1) and masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 1}
    np.testing.assert_array_equal(masks.sum((1, 2, 3)), side * side // 2)
    np.testing.assert_array_equal(masks[0::2] + masks[1::2], 1)
    assert len({mask.tobytes() for mask in masks}) == count


def test_squares_at_256_are_the_authors_checkerboards_of_128_64_and_32_pixels():
    masks = corruption.multiscale_squares(256)[..., 0]
    for scale, k in enumerate((128, 64, 32)):
        n = 256 // k
        expected = np.kron(np.indices((n, n)).sum(0) % 2, np.ones((k, k), int))
        np.testing.assert_array_equal(masks[2 * scale], expected)
        np.testing.assert_array_equal(masks[2 * scale + 1], 1 - expected)
    assert masks[0, 0, 0] == 0 and masks[1, 0, 0] == 1


def test_stripes_at_256_are_64_32_and_16_pixels_wide_first_vertical_then_horizontal():
    masks = corruption.stripes(256)[..., 0]
    for i, width in enumerate((64, 32, 16)):
        line = np.tile(np.repeat([0, 1], width), 256 // (2 * width))
        np.testing.assert_array_equal(masks[2 * i], np.tile(line, (256, 1)))
        np.testing.assert_array_equal(masks[6 + 2 * i], np.tile(line, (256, 1)).T)
    assert masks[0, 0, 0] == 0 and masks[1, 0, 0] == 1


def test_smallest_side_worked_by_hand():
    """A side of 16: squares of 2 px in the finest scale, stripes of a single pixel."""
    row = np.array([0, 0, 1, 1] * 4)
    np.testing.assert_array_equal(corruption.multiscale_squares(16)[4, 0, :, 0], row)
    np.testing.assert_array_equal(corruption.multiscale_squares(16)[4, 2, :, 0], 1 - row)
    np.testing.assert_array_equal(corruption.stripes(16)[10, :, 5, 0], [0, 1] * 8)


@pytest.mark.parametrize(
    ("side", "cell"), [(s, c) for s in SIDES for c in corruption.JUMBLED_CELLS if (s, c) != (16, 16)]
)
def test_jumbled_masks_remove_a_third_each_and_every_pixel_once(side, cell, rng):
    cells = (side // cell) ** 2
    masks = corruption.jumbled(side, cell, rng)
    assert masks.shape == (3, side, side, 1) and masks.dtype == np.uint8
    np.testing.assert_array_equal((1 - masks).sum(0), 1)
    removed = (1 - masks).sum((1, 2, 3)) / cell**2
    assert set(removed) <= {cells // 3, -(-cells // 3)}
    blocks = masks[..., 0].reshape(3, side // cell, cell, side // cell, cell)
    assert (blocks.min((2, 4)) == blocks.max((2, 4))).all(), "a cell is kept or removed whole"


def test_jumbled_cells_are_spread_at_random():
    """Every cell falls into every set equally often (chi-square over 600 draws, fixed seed)."""
    rng = np.random.default_rng(1)
    counts = sum(1 - corruption.jumbled(32, 4, rng)[:, ::4, ::4, 0].astype(int) for _ in range(600))
    assert np.ptp(counts) > 0 and abs(counts - 200).max() < 5 * np.sqrt(600 * 2 / 9)


@pytest.mark.parametrize(("kind", "count"), [("squares", 6), ("stripes", 12)])
def test_draw_takes_every_mask_equally_often(kind, count):
    masks = [mask.tobytes() for mask in EVEN_KINDS[kind](16)]
    rng = np.random.default_rng(2)
    drawn = [masks.index(corruption.draw(kind, 16, rng)[0].tobytes()) for _ in range(200 * count)]
    assert chisquare(np.bincount(drawn, minlength=count)).pvalue > 0.01


def test_draw_takes_every_jumbled_cell_equally_often():
    """The cell size of a drawn mask is the greatest whose blocks are whole; 128 px hold so many that none is missed."""
    rng = np.random.default_rng(3)
    counts = dict.fromkeys(corruption.JUMBLED_CELLS, 0)
    for _ in range(400):
        mask = corruption.draw("jumbled", 128, rng)
        assert mask.shape == (1, 128, 128, 1) and 0.6 < mask.mean() < 0.72
        counts[_cell_of(mask[0, :, :, 0])] += 1
    assert chisquare(list(counts.values())).pvalue > 0.01


def _cell_of(mask: np.ndarray) -> int:
    side = len(mask)
    for cell in sorted(corruption.JUMBLED_CELLS, reverse=True):
        blocks = mask.reshape(side // cell, cell, side // cell, cell)
        if (blocks.min((1, 3)) == blocks.max((1, 3))).all():
            return cell
    raise AssertionError("no cell size fits")


@pytest.mark.parametrize("kind", corruption.KINDS)
def test_same_generator_state_same_mask_and_the_caller_may_write_into_it(kind):
    first, second = (corruption.draw(kind, 48, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    first[:] = 7
    np.testing.assert_array_equal(corruption.draw(kind, 48, np.random.default_rng(4)), second)


@pytest.mark.parametrize("kind", corruption.KINDS)
def test_smallest_side_draws_every_kind(kind, rng):
    for _ in range(20):
        assert 0.4 < corruption.draw(kind, 16, rng).mean() < 0.8


@pytest.mark.parametrize(
    ("side", "nearest"),
    [(250, 256), (120, 128), (119, 112), (136, 144), (15, 16), (1, 16), (0, 16), (-32, 16), (24, 32), (263, 256)],
)
def test_other_sides_are_refused_with_the_nearest_that_works(side, nearest, rng):
    message = rf"side {side} px.* nearest side that works is {nearest} px"
    for call in (
        corruption.check_side,
        corruption.multiscale_squares,
        corruption.stripes,
        lambda s: corruption.jumbled(s, 4, rng),
        lambda s: corruption.draw("squares", s, rng),
    ):
        with pytest.raises(ValueError, match=message):
            call(side)
    corruption.check_side(nearest)


def test_odd_cells_too_few_cells_and_unknown_kinds_are_refused(rng):
    with pytest.raises(ValueError, match=r"cell of 3 px is not offered; use one of 2, 4, 8, 16 px"):
        corruption.jumbled(48, 3, rng)
    with pytest.raises(ValueError, match=r"holds 1 cell of 16 px.* at most 8 px or a side of 32 px"):
        corruption.jumbled(16, 16, rng)
    with pytest.raises(ValueError, match=r"'circles' is not known; use one of squares, stripes, jumbled"):
        corruption.draw("circles", 64, rng)


def test_worker_processes_get_masks_without_importing_jax():
    code = "import sys, cracks_jax.ops.corruption; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
