from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn import metrics as sk

from cracks_jax.data.images import write_mask
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.metrics.definitions import METRICS
from cracks_jax.score import run

# The contract's first keys; behind them follow all other metrics.
KEYS = (
    "precision recall f1 iou accuracy miou best_threshold best_f1 best_iou images crack_share rule geometry"
).split()


@pytest.fixture
def folders(tmp_path, rng):
    """Two masks, of different sizes, and the folder for their predictions."""
    predictions, masks = tmp_path / "predictions", tmp_path / "masks"
    truths = {"a": rng.random((20, 30)) < 0.2, "b": rng.random((16, 12)) < 0.2}
    predictions.mkdir()
    for stem, mask in truths.items():
        write_mask(masks / f"{stem}.png", mask)
    return predictions, masks, truths


def _scores(truths: dict[str, np.ndarray], rng) -> dict[str, np.ndarray]:
    return {
        stem: np.clip(0.3 * mask + 0.8 * rng.random(mask.shape), 0, 1).astype(np.float32)
        for stem, mask in truths.items()
    }


def _pooled(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([arrays[stem].reshape(-1) for stem in sorted(arrays)])


def test_score_maps_give_the_pooled_metrics_of_scikit_learn(folders, rng):
    predictions, masks, truths = folders
    scores = _scores(truths, rng)
    for stem, score in scores.items():
        np.save(predictions / f"{stem}.npy", score)
    result = run(predictions, masks)
    y, p = _pooled(truths), _pooled(scores) > 0.5
    assert list(result)[: len(KEYS)] == KEYS and METRICS.keys() <= result.keys() >= {"matched", "intervals"}
    low, high = result["intervals"]["f1"]
    assert low <= result["f1"] <= high
    assert result["f1"] == pytest.approx(sk.f1_score(y, p))
    assert result["precision"] == pytest.approx(sk.precision_score(y, p))
    assert result["miou"] == pytest.approx(sk.jaccard_score(y, p, average="macro"))
    assert result["best_f1"] >= result["f1"]
    assert (result["images"], result["matched"], result["rule"], result["geometry"]) == (
        2, 2, "value:0.5", "as_given"
    )  # fmt: skip
    lower = run(predictions, masks, threshold=0.25)
    assert lower["rule"] == "value:0.25"
    assert lower["recall"] == pytest.approx(sk.recall_score(y, _pooled(scores) > 0.25))


def test_masks_of_0_and_255_and_booleans_score_the_same_at_any_threshold(folders, rng):
    predictions, masks, truths = folders
    decided = {stem: score > 0.5 for stem, score in _scores(truths, rng).items()}
    write_mask(predictions / "a.png", decided["a"])
    np.save(predictions / "b.npy", decided["b"])
    result = run(predictions, masks)
    y, p = _pooled(truths), _pooled(decided)
    assert result["iou"] == pytest.approx(sk.jaccard_score(y, p))
    assert result["best_f1"] == result["f1"]
    assert run(predictions, masks, threshold=0.99)["f1"] == result["f1"]


def test_grey_maps_are_divided_by_255(folders):
    predictions, masks, truths = folders
    for stem, mask in truths.items():
        cv2.imwrite(str(predictions / f"{stem}.png"), np.where(mask, 128, 127).astype(np.uint8))
    assert run(predictions, masks)["f1"] == 1.0
    assert run(predictions, masks, threshold=0.49)["recall"] == 1.0
    assert run(predictions, masks, threshold=0.49)["accuracy"] < 0.5


def test_other_files_in_the_folder_are_not_looked_at(folders):
    predictions, masks, truths = folders
    for stem, mask in truths.items():
        write_mask(predictions / f"{stem}.png", mask)
    (predictions / "measurements.csv").write_text("image\n")
    assert run(predictions, masks)["f1"] == 1.0


def test_files_that_stand_alone_are_named_on_both_sides(folders):
    predictions, masks, truths = folders
    write_mask(predictions / "a.png", truths["a"])
    write_mask(predictions / "stranger.png", truths["a"])
    with pytest.raises(CracksError) as error:
        run(predictions, masks)
    message = str(error.value)
    assert "without a prediction" in message and ": b" in message
    assert "without a mask" in message and "stranger" in message
    assert error.value.exit_code == 1


def _write_all(predictions: Path, truths: dict[str, np.ndarray]) -> None:
    for stem, mask in truths.items():
        write_mask(predictions / f"{stem}.png", mask)


def test_another_size_is_refused_with_both_sizes_and_files(folders):
    predictions, masks, truths = folders
    _write_all(predictions, truths)
    write_mask(predictions / "b.png", np.ones((8, 6), bool))
    with pytest.raises(CracksError, match=r"predictions/b\.png.*6x8.*masks/b\.png.*12x16"):
        run(predictions, masks)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.5])
def test_scores_that_are_not_finite_or_out_of_range_are_refused(folders, bad):
    predictions, masks, truths = folders
    _write_all(predictions, truths)
    (predictions / "a.png").unlink()
    np.save(predictions / "a.npy", np.full((20, 30), bad, np.float32))
    with pytest.raises(CracksError, match=r"a\.npy"):
        run(predictions, masks)


def test_masks_saved_as_0_and_1_are_refused_instead_of_scoring_nothing(folders):
    predictions, masks, truths = folders
    for stem, mask in truths.items():
        cv2.imwrite(str(predictions / f"{stem}.png"), mask.astype(np.uint8))
    with pytest.raises(CracksError, match="0 and 255"):
        run(predictions, masks)


def test_two_predictions_of_one_stem_are_refused(folders):
    predictions, masks, truths = folders
    _write_all(predictions, truths)
    np.save(predictions / "a.npy", truths["a"])
    with pytest.raises(CracksError, match="a.png: has the stem of a.npy"):
        run(predictions, masks)


def test_missing_and_empty_folders_and_broken_files_are_named(folders, tmp_path):
    predictions, masks, truths = folders
    with pytest.raises(CracksError, match=r"nowhere: no such folder"):
        run(tmp_path / "nowhere", masks)
    with pytest.raises(CracksError, match=r"predictions: no \.png, \.npy, \.npz file"):
        run(predictions, masks)
    with pytest.raises(CracksError, match=r"a\.png: is a file"):
        run(masks / "a.png", masks)
    _write_all(predictions, truths)
    (predictions / "a.png").write_bytes(b"")
    with pytest.raises(CracksError, match=r"predictions/a\.png"):
        run(predictions, masks)


@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan")])
def test_a_threshold_outside_the_scores_is_a_wrong_command(folders, bad):
    with pytest.raises(UsageError, match="threshold"):
        run(folders[0], folders[1], threshold=bad)


def test_worker_processes_change_no_bit(tmp_path, rng):
    predictions, masks = tmp_path / "predictions", tmp_path / "masks"
    predictions.mkdir()
    for number in range(40):
        mask = rng.random((24, 30)) < 0.1
        write_mask(masks / f"{number:02d}.png", mask)
        np.save(predictions / f"{number:02d}.npy", np.clip(0.4 * mask + 0.6 * rng.random(mask.shape), 0, 1))
    assert run(predictions, masks, workers=2) == run(predictions, masks, workers=0)


def test_an_error_in_a_worker_process_is_the_error_of_the_command(tmp_path, rng):
    predictions, masks = tmp_path / "predictions", tmp_path / "masks"
    predictions.mkdir()
    for number in range(40):
        write_mask(masks / f"{number:02d}.png", rng.random((24, 30)) < 0.1)
        np.save(predictions / f"{number:02d}.npy", np.full((24, 30), np.nan if number == 33 else 0.5, np.float32))
    with pytest.raises(CracksError, match=r"33\.npy"):
        run(predictions, masks, workers=2)


def test_npz_files_hold_one_array(folders):
    predictions, masks, truths = folders
    for stem, mask in truths.items():
        np.savez_compressed(predictions / f"{stem}.npz", mask.astype(np.float32))
    assert run(predictions, masks)["f1"] == 1.0
    np.savez(predictions / "a.npz", truths["a"], truths["a"])
    with pytest.raises(CracksError, match=r"a\.npz: not a readable array \(holds 2 arrays; expected one"):
        run(predictions, masks)
    (predictions / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CracksError, match="a.npz: not a readable array"):
        run(predictions, masks)


def test_sizes_that_differ_are_brought_together_as_asked(folders):
    """Masks twice as large as predictions, pixel for pixel: either way nothing is lost."""
    predictions, masks, truths = folders
    for stem, mask in truths.items():
        write_mask(predictions / f"{stem}.png", mask)
        write_mask(masks / f"{stem}.png", np.kron(mask, np.ones((2, 2), bool)))
    for how in ("prediction", "mask"):
        result = run(predictions, masks, resize=how)
        assert (result["f1"], result["geometry"]) == (1.0, f"{how}_resized")
    for stem, mask in truths.items():  # a score map is enlarged smoothly
        (predictions / f"{stem}.png").unlink()
        np.save(predictions / f"{stem}.npy", (mask * 0.5 + np.linspace(0, 0.1, mask.shape[1])).astype(np.float32))
    large = {stem: cv2.resize(np.load(predictions / f"{stem}.npy"), None, fx=2, fy=2) for stem in truths}
    p = _pooled(large) > 0.4
    y = _pooled({stem: np.kron(mask, np.ones((2, 2), bool)) for stem, mask in truths.items()})
    assert run(predictions, masks, 0.4, resize="prediction")["f1"] == pytest.approx(sk.f1_score(y, p))
    with pytest.raises(UsageError, match="--resize both"):
        run(predictions, masks, resize="both")


def test_files_that_stand_alone_may_be_left_out_and_are_listed(folders):
    predictions, masks, truths = folders
    write_mask(predictions / "a.png", truths["a"])
    write_mask(predictions / "stranger.png", truths["a"])
    result = run(predictions, masks, unmatched=True)
    assert (result["matched"], result["masks_alone"], result["predictions_alone"]) == (1, ["b"], ["stranger"])
    (predictions / "a.png").unlink()
    with pytest.raises(CracksError, match="without a mask"):
        run(predictions, masks, unmatched=True)


def test_images_without_cracks_count_in_means_as_asked(folders):
    predictions, masks, _ = folders
    nothing = np.zeros((10, 10), bool)
    crack = nothing.copy()
    crack[2, 2:8] = True
    for stem, mask, found in (("a", crack, crack), ("b", nothing, nothing)):
        write_mask(masks / f"{stem}.png", mask)
        write_mask(predictions / f"{stem}.png", found)
    one, both = (run(predictions, masks, crack_free=word) for word in ("left_out", "perfect_if_empty"))
    assert (one["images_in_means"], both["images_in_means"]) == (1, 2)
    assert one["f1_image_mean"] == both["f1_image_mean"] == 1
    write_mask(predictions / "b.png", crack)
    one, both = (run(predictions, masks, crack_free=word) for word in ("left_out", "perfect_if_empty"))
    assert (one["f1_image_mean"], both["f1_image_mean"]) == (1, 0.5) and one["f1"] == both["f1"] == 2 / 3
