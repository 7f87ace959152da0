"""Colour on the device: every image its own draw, in range, and nothing at strength zero."""

import colorsys

import jax
import numpy as np
import pytest

from cracks_jax.data.augment import Colour, jitter_colour

OFF = Colour(0.0, 0.0, 0.0)


@pytest.fixture
def images(rng):
    return rng.uniform(0.3, 0.7, (6, 8, 8, 3)).astype(np.float32)


def test_zero_strength_is_the_identity(images):
    np.testing.assert_array_equal(jitter_colour(jax.random.key(0), images, OFF), images)


def test_brightness_adds_one_number_to_each_image_and_another_to_the_next(images):
    shift = np.asarray(jitter_colour(jax.random.key(0), images, Colour(0.2, 0.0, 0.0))) - images
    each = shift.mean((1, 2, 3))
    np.testing.assert_allclose(shift, np.broadcast_to(each[:, None, None, None], shift.shape), atol=1e-6)
    assert len(set(np.round(each, 6))) == len(images) and np.abs(each).max() <= 0.2


def test_contrast_scales_the_distance_to_the_mean_of_each_channel(images):
    out = np.asarray(jitter_colour(jax.random.key(1), images, Colour(0.0, 0.2, 0.0)))
    np.testing.assert_allclose(out.mean((1, 2)), images.mean((1, 2)), atol=1e-5)
    factor = out.std((1, 2)) / images.std((1, 2))
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), rtol=1e-3)
    assert len(set(np.round(factor[:, 0], 5))) == len(images) and (abs(factor - 1) <= 0.2 + 1e-3).all()


def test_saturation_scales_hsv_saturation_alone(images):
    """Against colorsys, pixel by pixel."""
    out = np.asarray(jitter_colour(jax.random.key(2), images, Colour(0.0, 0.0, 0.2)))
    for before, after in zip(images, out, strict=True):
        hsv = np.array([colorsys.rgb_to_hsv(*p) for p in before.reshape(-1, 3).tolist()])
        new = np.array([colorsys.rgb_to_hsv(*p) for p in after.reshape(-1, 3).tolist()])
        np.testing.assert_allclose(new[:, 2], hsv[:, 2], atol=1e-5)
        factor = new[:, 1] / hsv[:, 1]
        np.testing.assert_allclose(factor, factor.mean(), rtol=1e-3)
        assert abs(factor.mean() - 1) <= 0.2 + 1e-3


def test_one_key_gives_one_result_under_jit_and_stays_in_range(rng):
    images = rng.uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)
    eager = np.asarray(jitter_colour(jax.random.key(5), images))
    np.testing.assert_allclose(jax.jit(jitter_colour)(jax.random.key(5), images), eager, atol=1e-6)
    assert eager.dtype == np.float32 and eager.min() >= 0 and eager.max() <= 1
    assert not np.allclose(jitter_colour(jax.random.key(6), images), eager)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_strength_out_of_range_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"colour {name} is 1.5"):
        Colour(**{name: 1.5})
