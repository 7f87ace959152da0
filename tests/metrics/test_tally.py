"""Sums that merge, resamples that are the same for every method, and intervals that are right."""

import numpy as np
import pytest

from cracks_jax.metrics.tally import CRACK_FREE, LAYOUT, Tally, draws, image_sums
from cracks_jax.metrics.uncertainty import compare, intervals, over_seeds, summary, values


def _sums(rng, noise=0.3, size=(20, 20)):
    mask = rng.random(size) < 0.2
    score = np.clip(mask * 0.6 + noise * rng.random(size), 0, 1).astype(np.float32)
    return image_sums(score, score > 0.5, mask)


def _tally(names, sums, **settings):
    tally = Tally(**settings)
    for name, one in zip(names, sums, strict=True):
        tally.add(name, one)
    return tally


def test_tallies_of_parts_merge_to_that_of_the_whole(rng):
    names, sums = [f"image{i}" for i in range(11)], [_sums(rng) for _ in range(11)]
    whole = _tally(names, sums, resamples=20)
    parts = _tally(names[:4], sums[:4], resamples=20) + _tally(names[4:], sums[4:], resamples=20)
    for name in LAYOUT:
        np.testing.assert_allclose(parts.sums[name], whole.sums[name], rtol=1e-13)
        np.testing.assert_allclose(parts.resampled[name], whole.resampled[name], rtol=1e-13)
    assert parts.names == whole.names != _tally(names[:10], sums[:10], resamples=20).names
    assert whole.sums["images"] == 11 and whole.sums["rule"].sum() == 11 * 400


def test_same_order_gives_the_same_bits_and_memory_does_not_grow(rng):
    names, sums = [f"image{i}" for i in range(50)], [_sums(rng) for _ in range(50)]
    one, two = (_tally(names, sums, resamples=10) for _ in range(2))
    for name in LAYOUT:
        np.testing.assert_array_equal(one.resampled[name], two.resampled[name])
    assert one._rows.shape == Tally(resamples=10)._rows.shape and not one._waiting


def test_resamples_are_sums_weighted_by_draws(rng):
    names, sums = ["a", "b", "c"], [_sums(rng) for _ in range(3)]
    tally = _tally(names, sums, resamples=5, seed=7)
    weights = np.stack([draws(name, 5, 7) for name in names])
    expected = np.einsum("ir,ik->rk", weights, np.stack([one["rule"] for one in sums]))
    np.testing.assert_allclose(tally.resampled["rule"], expected)


def test_draws_are_poisson_and_a_function_of_name_and_seed():
    many = draws("a", 200_000, 0)
    for k, p in enumerate((0.36788, 0.36788, 0.18394, 0.06131)):
        assert np.mean(many == k) == pytest.approx(p, abs=0.005)
    np.testing.assert_array_equal(draws("a", 50, 0), draws("a", 50, 0))
    assert (draws("a", 50, 0) != draws("b", 50, 0)).any() and (draws("a", 50, 0) != draws("a", 50, 1)).any()
    assert draws("a", 12, 0).tolist() == many[:12].tolist()


def test_intervals_cover_the_truth_about_as_often_as_they_say(rng):
    """Accuracy of images that are right with probability q each: 95 % intervals over 60 experiments of 80 images."""
    inside = 0
    for experiment in range(60):
        rates = rng.beta(8, 2, 80)
        sums = []
        for rate in rates:
            mask = np.zeros((8, 8), bool)
            wrong = rng.random((8, 8)) > rate
            sums.append(image_sums(wrong.astype(np.float32), wrong, mask))
        tally = _tally([f"{experiment}/{i}" for i in range(80)], sums, resamples=300)
        low, high = intervals(tally)["accuracy"]
        inside += low <= 0.8 <= high
    assert 50 <= inside <= 60  # 57 expected; below 50 has a probability of about 1e-4


def test_undefined_metrics_have_no_interval():
    empty = np.zeros((9, 9), bool)
    tally = _tally(["a"], [image_sums(empty.astype(np.float32), empty, empty)], resamples=30)
    assert intervals(tally)["f1"] is None and values(tally)["f1"] is None
    assert intervals(tally)["accuracy"] == (1, 1)
    assert intervals(Tally(resamples=0))["accuracy"] is None


def test_a_small_steady_difference_is_found_by_pairing(rng):
    """One method errs on one pixel more in every image; images differ far more than methods do."""
    names, better, worse = [f"{i}" for i in range(40)], [], []
    for _ in names:
        mask = np.zeros((30, 30), bool)
        mask[10, : rng.integers(5, 30)] = True
        mask[15, 10:20] = True
        wrong = rng.random((30, 30)) < rng.random() * 0.2
        wrong[15, 12] = False
        p = mask ^ wrong
        q = p.copy()
        q[15, 12] = False
        better.append(image_sums(p.astype(np.float32), p, mask))
        worse.append(image_sums(q.astype(np.float32), q, mask))
    first, second = (_tally(names, sums, resamples=400) for sums in (better, worse))
    found = compare(first, second, "f1")
    low, high = found.interval
    assert 0 < low < found.value < high and found.p == pytest.approx(1 / 400)
    a, b = intervals(first)["f1"], intervals(second)["f1"]
    assert a[0] < b[1]  # the two intervals overlap: apart, they say nothing
    same = compare(first, first, "f1")
    assert same.value == 0 and same.p == 1
    assert compare(second, first, "f1").value == -found.value
    with pytest.raises(ValueError, match="same images"):
        compare(first, _tally(names[:39], worse[:39], resamples=400), "f1")
    with pytest.raises(ValueError, match="is no metric"):
        compare(first, second, "f2")


def test_seeds_have_a_mean_and_a_sample_deviation():
    assert over_seeds([0.5, 0.7, 0.9]) == pytest.approx((0.7, 0.2))
    assert over_seeds([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="no values"):
        over_seeds([])


def test_wrong_settings_are_refused(rng):
    mask = np.zeros((4, 4), bool)
    with pytest.raises(ValueError, match=f"expected one of {', '.join(CRACK_FREE)}"):
        image_sums(mask.astype(np.float32), mask, mask, "ignored")
    with pytest.raises(ValueError, match="do not merge"):
        Tally(resamples=3) + Tally(resamples=4)
    with pytest.raises(ValueError, match="must be equal"):
        image_sums(np.zeros((4, 5), np.float32), mask, mask)


def test_summary_begins_with_the_fixed_keys_in_order():
    mask = np.array([[True, False], [False, False]])
    score = np.array([[0.2, 0.9], [0.1, 0.0]], np.float32)
    tally = _tally(["a"], [image_sums(score, score > 0.5, mask)], resamples=5)
    found = summary(tally, rule="value:0.5", geometry="native")
    keys = (
        "precision recall f1 iou accuracy miou best_threshold best_f1 best_iou images crack_share rule geometry"
    ).split()
    assert list(found)[: len(keys)] == keys
    # By hand: at 0.5 only the wrong pixel is above; at best the crack and the wrong pixel are.
    assert (found["precision"], found["recall"], found["f1"], found["iou"]) == (0, 0, 0, 0)
    assert found["accuracy"] == 0.5 and found["miou"] == 0.25
    assert found["best_f1"] == found["ods"] == pytest.approx(2 / 3) and found["best_iou"] == pytest.approx(0.5)
    assert 0.1 <= found["best_threshold"] < 0.2
    assert (found["images"], found["crack_share"], found["rule"]) == (1, 0.25, "value:0.5")
