import cv2
import numpy as np
import pytest
from scipy import ndimage

from cracks_jax.postprocess.filters import bilateral, bilateral_uint8, gaussian


@pytest.mark.parametrize("shape", [(40, 50), (5, 7), (1, 9)])
@pytest.mark.parametrize("sigma", [0.5, 2.0, 6.0])
def test_gaussian_equals_scipy(rng, shape, sigma):
    """Also where the kernel is wider than the image."""
    score = rng.random(shape, dtype=np.float32)
    expected = ndimage.gaussian_filter(score.astype(np.float64), sigma, mode="mirror", truncate=4.0)
    blurred = gaussian(score, sigma)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, expected, atol=2e-6)


def test_no_sigma_no_blur_and_a_bad_one_is_refused(rng):
    score = rng.random((6, 6), dtype=np.float32)
    np.testing.assert_array_equal(gaussian(score, 0), score)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma"):
            gaussian(score, bad)


def _bilateral_by_definition(grey: np.ndarray, d: int, sigma_color: float, sigma_space: float) -> np.ndarray:
    """Three equal channels: the colour distance is three times the grey one; a disc takes part."""
    radius = d // 2
    padded = np.pad(grey.astype(np.float64), radius, mode="reflect")
    total, weights = np.zeros(grey.shape), np.zeros(grey.shape)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx > radius * radius:
                continue
            y, x = radius + dy, radius + dx
            other = padded[y : y + grey.shape[0], x : x + grey.shape[1]]
            colour = np.exp(-((3 * (other - grey)) ** 2) / (2 * sigma_color**2))
            weight = colour * np.exp(-(dy * dy + dx * dx) / (2 * sigma_space**2))
            total += weight * other
            weights += weight
    return total / weights


@pytest.mark.parametrize("settings", [(25, 450.0, 15.0), (9, 60.0, 3.0)])
def test_bilateral_equals_its_definition(rng, settings):
    score = rng.random((33, 40), dtype=np.float32)
    score[10:14] = 0
    filtered = bilateral(score, *settings)
    assert filtered.dtype == np.float32
    np.testing.assert_allclose(filtered, _bilateral_by_definition(score * 255.0, *settings) / 255, atol=2e-4)


def test_bilateral_on_grey_levels_equals_its_definition_to_one_level(rng):
    grey = rng.integers(0, 256, (33, 40), dtype=np.uint8)
    filtered = bilateral_uint8(grey)
    assert filtered.dtype == np.uint8
    assert np.abs(filtered - _bilateral_by_definition(grey, 25, 450.0, 15.0)).max() <= 1
    np.testing.assert_array_equal(filtered, cv2.bilateralFilter(cv2.merge([grey] * 3), 25, 450, 15)[..., 0])


def test_bilateral_of_a_constant_is_that_constant_and_takes_small_images():
    for shape in ((1, 1), (3, 20), (30, 30)):
        np.testing.assert_allclose(bilateral(np.full(shape, 0.3, np.float32)), 0.3, atol=1e-6)


def test_grey_levels_must_be_uint8():
    with pytest.raises(ValueError, match="float32"):
        bilateral_uint8(np.zeros((4, 4), np.float32))
