"""The floor: methods without a network against SciPy, and the interface that they share with every method."""

import numpy as np
import pytest
from scipy import ndimage

from cracks_jax.methods.detection import Detection
from cracks_jax.methods.floor import BackgroundDifference, Darkness
from cracks_jax.methods.registry import SYSTEMS, floor_method, method_class, method_kind


def _grey(images):
    return images @ np.array([0.299, 0.587, 0.114])


def test_background_difference_is_what_is_darker_than_its_surroundings(rng):
    images = rng.uniform(0, 1, (2, 40, 60, 3)).astype(np.float32)
    method = BackgroundDifference(background=6.0, smooth=2.0)
    grey = _grey(images)
    for image, score in zip(grey, method.score({}, images, None, Detection()), strict=True):
        blur = lambda x, s: ndimage.gaussian_filter(x, s, mode="mirror", radius=round(4 * s))  # noqa: E731
        expected = blur(np.clip(blur(image, 6.0) - image, 0, None), 2.0)
        np.testing.assert_allclose(score, expected, atol=2e-3)


def test_darkness_is_one_minus_grey_smoothed(rng):
    images = rng.uniform(0, 1, (1, 30, 40, 3)).astype(np.float32)
    expected = ndimage.gaussian_filter(1 - _grey(images)[0], 2.0, mode="mirror")
    np.testing.assert_allclose(Darkness().score({}, images, None, Detection())[0], expected, atol=2e-3)


@pytest.mark.parametrize("method", [Darkness(), BackgroundDifference()])
def test_the_state_is_empty_and_training_changes_nothing(method, rng):
    state = method.init(None, None)
    assert state == {} and method.train_step(state, {}, {}, None) == ({}, {})
    score = method.score(state, rng.uniform(0, 1, (1, 8, 9, 3)), None, Detection())
    assert score.shape == (1, 8, 9) and score.dtype == np.float32 and score.min() >= 0 and score.max() <= 1


def test_names_and_kinds_go_both_ways():
    assert floor_method("background_difference") == BackgroundDifference(background=60.0, smooth=2.0)
    for method, _, side in SYSTEMS.values():
        assert method_class(method_kind(method)) is type(method) and side == 256


@pytest.mark.parametrize("name", ["upcracknet", "nothing"])
def test_a_method_that_needs_training_is_refused(name):
    from cracks_jax.errors import UsageError

    with pytest.raises(UsageError, match=f"--method {name}: only methods without a network run without training"):
        floor_method(name)
