import cv2
import numpy as np
import pytest
from skimage.filters import threshold_otsu

from cracks_jax.errors import CracksError, UsageError
from cracks_jax.postprocess.thresholds import Rule, otsu, parse_rule, quantile_threshold


def _two_modes(rng) -> np.ndarray:
    score = rng.normal(0.1, 0.03, (60, 70))
    score[20:24] = rng.normal(0.6, 0.1, (4, 70))
    return np.clip(score, 0, 1).astype(np.float32)


def test_otsu_equals_scikit_image_on_scores(rng):
    for score in (_two_modes(rng), rng.random((50, 50), dtype=np.float32) ** 2, _two_modes(rng) * 1e-5):
        assert otsu(score) == pytest.approx(threshold_otsu(score), rel=1e-6)


def test_otsu_equals_scikit_image_and_opencv_on_grey_levels(rng):
    for grey in ((_two_modes(rng) * 255).astype(np.uint8), rng.integers(40, 90, (30, 30), dtype=np.uint8)):
        assert otsu(grey) == threshold_otsu(grey) == cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[0]


@pytest.mark.parametrize("level", [0.5, 1e-40, 0.9999])
@pytest.mark.parametrize("steps", [1, 2, 200, 300])
def test_otsu_splits_an_image_that_is_all_but_constant(level, steps):
    """Fewer steps of float32 between its darkest and brightest pixel than there are bins."""
    low = np.float32(level)
    high = low + steps * np.spacing(low)
    score = np.array([[low, low, low], [low, high, low]], np.float32)
    assert low <= otsu(score) < high
    np.testing.assert_array_equal(score > np.float32(otsu(score)), score == high)


def test_otsu_does_not_change_with_the_scale_of_the_scores(rng):
    score = _two_modes(rng)
    np.testing.assert_array_equal(score > otsu(score), score / 4 > otsu(score / 4))


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_constant_image_has_no_crack(value):
    score = np.full((5, 5), value, np.float32)
    assert not (score > otsu(score)).any()


def test_two_values_are_told_apart():
    score = np.array([[0.2, 0.2, 0.2, 0.9]], np.float32)
    np.testing.assert_array_equal(score > otsu(score), [[False, False, False, True]])


def test_otsu_refuses_what_has_no_threshold():
    with pytest.raises(ValueError, match="at least one pixel"):
        otsu(np.zeros((0, 4), np.float32))
    with pytest.raises(ValueError, match="finite"):
        otsu(np.array([[0.1, np.nan]], np.float32))


@pytest.mark.parametrize(
    ("text", "rule", "name"),
    [
        ("otsu", Rule("otsu"), "otsu"),
        ("validation", Rule("validation"), "validation"),
        ("undamaged", Rule("undamaged", quantile=0.995), "undamaged:0.995"),
        ("undamaged:0.99", Rule("undamaged", quantile=0.99), "undamaged:0.99"),
        ("0.5", Rule("value", value=0.5), "value:0.5"),
        ("argmax", Rule("value", value=0.5), "value:0.5"),
        (" 1e-3 ", Rule("value", value=0.001), "value:0.001"),
        ("0", Rule("value", value=0.0), "value:0.0"),
    ],
)
def test_rules_are_read_and_named(text, rule, name):
    assert parse_rule(text) == rule
    assert str(rule) == name
    assert parse_rule(name) == rule


@pytest.mark.parametrize(
    "text",
    ", otso, otsu:3, validation:0.5, argmax:1, 1, -0.1, nan, inf, value".split(", ")
    + ["undamaged:2", "undamaged:0", "undamaged:x"],
)
def test_what_is_no_rule_is_refused_with_what_is_accepted(text):
    with pytest.raises(UsageError, match="otsu, validation, undamaged"):
        parse_rule(text)


def test_at_most_the_given_share_of_undamaged_pixels_is_above_the_quantile(rng):
    errors = [rng.random((10, 20), dtype=np.float32), rng.random((80, 10), dtype=np.float32)]
    pooled = np.concatenate([e.reshape(-1) for e in errors])
    for q in (0.98, 0.99, 0.995, 0.998, 0.9983):
        threshold = quantile_threshold(iter(errors), q)
        assert threshold == np.quantile(pooled, q, method="inverted_cdf")
        assert (pooled > threshold).mean() <= 1 - q + 1e-12 and threshold in pooled


def test_the_quantile_by_hand():
    assert quantile_threshold([np.arange(1, 1001, dtype=np.float32)], 0.995) == 995
    assert quantile_threshold([np.float32([7])], 0.5) == 7


def test_a_quantile_of_nothing_or_of_nan_is_refused():
    with pytest.raises(CracksError, match="undamaged"):
        quantile_threshold([], 0.99)
    with pytest.raises(CracksError, match="not finite"):
        quantile_threshold([np.float32([0.1, np.nan])], 0.99)
    with pytest.raises(UsageError, match="1.5"):
        quantile_threshold([np.float32([0.1])], 1.5)
