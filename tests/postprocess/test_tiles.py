import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cracks_jax.postprocess.tiles import Tiles, Whole, pad_reflect, plan

SIZES = [(1, 1), (7, 50), (32, 32), (33, 31), (100, 70), (65, 128)]


def score_tiled(image, score, tile, overlap):
    """Every tile scored by itself, one after another."""
    tiles = Tiles(image, tile, overlap)
    complete = [tiles.add(score(window)) for window in tiles.windows()]
    assert complete == [False] * (len(complete) - 1) + [True]
    return tiles.scores


def _first_channel(window: np.ndarray) -> np.ndarray:
    return window[..., 0] / np.float32(255)


@settings(max_examples=25, deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), st.integers(0, 15))
def test_tiles_cover_the_image_and_neighbours_overlap(height, width, overlap):
    boxes = plan(height, width, 16, overlap)
    covered = np.zeros((height, width), int)
    for box in boxes:
        assert box.y + box.h <= height and box.x + box.w <= width and (box.h, box.w) == (16, 16)
        covered[box.slices] += 1
    assert covered.min() >= 1
    for starts in (sorted({b.y for b in boxes}), sorted({b.x for b in boxes})):
        assert all(b - a <= 16 - overlap for a, b in zip(starts, starts[1:], strict=False))


def test_no_more_tiles_than_needed():
    assert len(plan(16, 16, 16, 8)) == 1
    assert [b.x for b in plan(16, 32, 16, 0)] == [0, 16]
    assert [b.x for b in plan(16, 24, 16, 8)] == [0, 8]


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="image side 10 is below the tile 16"):
        plan(10, 20, 16, 4)
    for overlap in (16, -1):
        with pytest.raises(ValueError, match="overlap"):
            plan(20, 20, 16, overlap)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 33), (32, 64), (33, 100)])
def test_padding_reflects_as_scipy_mirrors_however_wide_it_is(rng, shape):
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    padded, box = pad_reflect(image, 32)
    assert padded.shape[0] % 32 == padded.shape[1] % 32 == 0
    assert all(side - old < 32 for side, old in zip(padded.shape[:2], shape, strict=True))
    np.testing.assert_array_equal(padded[box.slices], image)
    grid = np.indices(padded.shape[:2], float) - np.array([box.y, box.x], float)[:, None, None]
    expected = ndimage.map_coordinates(image[..., 1].astype(float), grid, order=0, mode="mirror")
    np.testing.assert_array_equal(padded[..., 1], expected)


def test_padding_takes_masks_and_leaves_exact_multiples_alone(rng):
    mask = rng.random((16, 24)) < 0.5
    padded, box = pad_reflect(mask, 8)
    np.testing.assert_array_equal(padded, mask)
    assert box == (0, 0, 16, 24)
    assert pad_reflect(mask[:, :17], 16)[0].shape == (16, 32)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="without pixels"):
        pad_reflect(np.zeros((0, 4, 3), np.uint8), 8)
    with pytest.raises(ValueError, match="multiples of 0"):
        pad_reflect(np.zeros((4, 4, 3), np.uint8), 0)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("overlap", [0, 5, 8, 31])
def test_a_score_that_needs_no_neighbours_comes_back_bit_for_bit(rng, shape, overlap):
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    scores = score_tiled(image, _first_channel, 32, overlap)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, _first_channel(image))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-7, 1.0])
def test_a_constant_stays_exactly_constant(value):
    image = np.zeros((70, 90, 3), np.uint8)
    scores = score_tiled(image, lambda w: np.full(w.shape[:2], value, np.float32), 32, 11)
    assert (scores == np.float32(value)).all()


def test_a_filter_narrower_than_the_margin_shows_no_seam(rng):
    """A 3x3 mean that is wrong at every window's border is nearly right after blending, and right inside."""
    image = rng.integers(0, 256, (90, 100, 3), dtype=np.uint8)

    def score(window: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(window[..., 0] / np.float32(255), 3, mode="constant", cval=0.0)

    whole = ndimage.uniform_filter(image[..., 0] / np.float32(255), 3, mode="mirror")
    butted, blended = (np.abs(score_tiled(image, score, 48, o) - whole).max() for o in (0, 24))
    assert blended < 0.06 < 0.2 < butted


def test_windows_that_disagree_are_joined_without_a_step():
    """Two windows score 0 and 1: the seam rises by no more than twice the ramp's step."""
    values = iter([0.0, 1.0])
    image = np.zeros((48, 80, 3), np.uint8)
    seam = score_tiled(image, lambda w: np.full(w.shape[:2], next(values), np.float32), 64, 16)
    steps = np.diff(seam, axis=1)
    assert seam.min() == 0 and seam.max() == 1 and steps.min() >= 0 and steps.max() <= 0.07


def test_every_window_has_the_same_size_and_is_seen_once(rng):
    seen = []

    def score(window: np.ndarray) -> np.ndarray:
        seen.append(window.shape)
        return _first_channel(window)

    score_tiled(rng.integers(0, 256, (50, 200, 3), dtype=np.uint8), score, 64, 16)
    assert set(seen) == {(64, 64, 3)} and len(seen) == len(plan(66, 216, 64, 16))


def test_a_score_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="32x32"):
        score_tiled(np.zeros((40, 40, 3), np.uint8), lambda w: np.zeros((16, 16), np.float32), 32, 8)


def test_a_whole_image_is_one_padded_window_and_comes_back_cropped(rng):
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    whole = Whole(image, 32, 16)
    (window,) = whole.windows()
    assert window.shape == (96, 96, 3) and whole.shape == (96, 96)
    assert whole.add(_first_channel(window))
    np.testing.assert_array_equal(whole.scores, _first_channel(image))
    with pytest.raises(ValueError, match="96x96"):
        Whole(image, 32, 16).add(np.zeros((40, 50), np.float32))
