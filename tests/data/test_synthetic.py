"""Drawn pavements: the same from the same numbers, masks where the cracks are, and readable as a data set."""

import time

import cv2
import numpy as np
import pytest

from cracks_jax.data import synthetic
from cracks_jax.data.datasets import open_dataset, split_validation
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.errors import UsageError


def test_a_picture_is_a_function_of_seed_and_position():
    image, mask = synthetic.draw_pavement(3, 5, (64, 96), cracked=True)
    again, mask_again = synthetic.draw_pavement(3, 5, (64, 96), cracked=True)
    assert image.shape == (64, 96, 3) and image.dtype == np.uint8
    assert mask.shape == (64, 96) and mask.dtype == bool
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    for seed, position in ((4, 5), (3, 6)):
        assert (synthetic.draw_pavement(seed, position, (64, 96), cracked=True)[0] != image).mean() > 0.5


def test_masks_lie_where_the_pavement_got_darker():
    """The witness is the same pavement without the crack: only there may it be darker."""
    for position in range(8):
        plain, empty = synthetic.draw_pavement(0, position, (128, 128), cracked=False)
        image, mask = synthetic.draw_pavement(0, position, (128, 128), cracked=True)
        assert not empty.any()
        loss = (plain.astype(float) - image).mean(-1)
        assert loss[mask].mean() > 8
        near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        assert loss[mask].mean() > 2 * loss[near & ~mask].mean()


def test_cracks_are_darker_than_their_surroundings_and_of_a_plausible_share():
    shares, differences = [], []
    for position in range(24):
        image, mask = synthetic.draw_pavement(1, position, (128, 128), cracked=True)
        grey = image.mean(-1)
        around = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~mask
        shares.append(mask.mean())
        differences.append(grey[around].mean() - grey[mask].mean())
    assert min(shares) > 0
    assert 0.01 < np.mean(shares) < 0.08  # CFD 1.6 %, DeepCrack 2.9 and 4.3 %, Crack500 6.4 %
    assert np.mean(differences) > 15
    assert np.mean(np.array(differences) > 0) > 0.9


def test_widths_run_from_hairlines_to_a_few_pixels():
    """Twice the greatest distance to the background is the width of the widest place."""
    widest = []
    for position in range(16):
        _, mask = synthetic.draw_pavement(2, position, (128, 128), cracked=True)
        distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
        widest.append(2 * np.quantile(distance[mask], 0.9))
    assert min(widest) < 3.5
    assert 3.5 < max(widest) < 10


def test_a_drawn_data_set_opens_like_any_other(tmp_path):
    seen = []
    manifest = synthetic.draw_dataset(
        tmp_path / "drawn",
        seed=1,
        train=4,
        test=2,
        undamaged=10,
        size=(48, 64),
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(i + 1, 16) for i in range(16)]
    train, test = (open_dataset(tmp_path / "drawn", split, need_masks=True) for split in ("train", "test"))
    undamaged = open_dataset(tmp_path / "drawn", "undamaged")
    assert (len(train), len(test), len(undamaged)) == (4, 2, 10)
    assert manifest["counts"] == {"train": 4, "test": 2, "undamaged": 10}
    assert manifest["crack_share"]["undamaged"] == 0 < manifest["crack_share"]["train"]
    share = np.mean([read_mask(record.mask).mean() for record in train])
    assert manifest["crack_share"]["train"] == pytest.approx(share)
    image, mask = synthetic.draw_pavement(1, synthetic.PARTS["test"] + 1, (48, 64), cracked=True)
    np.testing.assert_array_equal(read_image(test.records[1].image), image)
    np.testing.assert_array_equal(read_mask(test.records[1].mask), mask)
    training, validation = split_validation(undamaged, 0.1)
    assert len(training) + len(validation) == 10


def test_drawing_again_draws_nothing_and_other_settings_are_refused(tmp_path):
    settings = {"train": 1, "test": 1, "undamaged": 1, "size": (32, 32)}
    first = synthetic.draw_dataset(tmp_path / "drawn", **settings)
    begun = time.perf_counter()
    assert synthetic.draw_dataset(tmp_path / "drawn", **settings) == first
    assert time.perf_counter() - begun < 0.1
    assert synthetic.draw_dataset(tmp_path / "twin", **settings)["digest"] == first["digest"]
    with pytest.raises(UsageError, match="holds something else"):
        synthetic.draw_dataset(tmp_path / "drawn", **settings, seed=1)


def test_impossible_requests_are_refused(tmp_path):
    with pytest.raises(UsageError, match="at least 32 pixels"):
        synthetic.draw_pavement(0, 0, (16, 64), cracked=True)
    with pytest.raises(UsageError, match="expected no negative number"):
        synthetic.draw_pavement(-1, 0, cracked=True)
    with pytest.raises(UsageError, match="at least one in all"):
        synthetic.draw_dataset(tmp_path / "none", train=0, test=0, undamaged=0)


def test_drawing_is_quick():
    """224 pictures of 192x192 within 15 s leave 67 ms for one; a busy machine is allowed twice that."""
    begun = time.process_time()
    for position in range(8):
        synthetic.draw_pavement(0, position, cracked=True)
    assert (time.process_time() - begun) / 8 < 0.134
