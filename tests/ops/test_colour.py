"""Standardising is (x - mean) / deviation with the pretrained networks' published numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.ops.colour import imagenet_standardise


def test_imagenets_mean_becomes_zero_and_a_deviation_more_becomes_one(strict):
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = np.stack([mean, mean + deviation, np.zeros(3), np.ones(3)]).reshape(2, 1, 2, 3).astype(np.float32)
    y = np.asarray(imagenet_standardise(jnp.asarray(x))).reshape(4, 3)
    np.testing.assert_allclose(y[0], 0, atol=1e-6)
    np.testing.assert_allclose(y[1], 1, atol=1e-6)
    np.testing.assert_allclose(y[2], [-2.117904, -2.035714, -1.804444], atol=1e-5)
    np.testing.assert_allclose(y[3], [2.248908, 2.428571, 2.64], atol=1e-5)


def test_single_images_and_half_precision_pass_and_grey_is_refused():
    assert imagenet_standardise(jnp.zeros((4, 4, 3), jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="image has 1 channels"):
        imagenet_standardise(jnp.zeros((4, 4, 1)))
