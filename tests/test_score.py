from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn import metrics as sk

from cracks_jax.data.images import write_mask
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.score import run

KEYS = (
    "precision recall f1 iou accuracy miou best_threshold best_f1 best_iou images crack_share "
    "rule geometry matched"
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
    assert list(result) == KEYS
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
    with pytest.raises(CracksError, match=r"predictions: no \.png, \.npy file"):
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
