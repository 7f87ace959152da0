"""`evaluate`: the numbers are what NumPy and scikit-learn make of the same pixels, each choice is what was asked."""

import json
import shutil
import threading

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from sklearn import metrics as sk

from cracks_jax import predict, scoring
from cracks_jax.data.images import read_image, read_mask
from tests.tiny import quick_compile, short_trunk  # noqa: F401
from tests.tiny_runs import command, contents, pavements, runs

pytestmark = pytest.mark.usefixtures("quick_compile")
FLOOR = ("--method", "background_difference")
KEYS = (
    "precision recall f1 iou accuracy miou best_threshold best_f1 best_iou images crack_share rule geometry"
).split()


def evaluate(*words, json_only=True):
    return command("evaluate", *words, *(["--json"] if json_only else [])).ok()


# ------------------------------------------------------------------------------ the floor, from NumPy and SciPy


def floor(image: np.ndarray) -> np.ndarray:
    """score = blur(clip(blur(grey, 60) - grey, 0), 2), by SciPy; `mirror` is OpenCV's border."""
    grey = (image.astype(np.float64) / 255) @ [0.299, 0.587, 0.114]
    darker = np.clip(ndimage.gaussian_filter(grey, 60, mode="mirror") - grey, 0, None)
    return ndimage.gaussian_filter(darker, 2, mode="mirror")


def pooled(folder):
    """Score maps and masks of a folder's images, in one long vector each, and image by image."""
    maps = [floor(read_image(path)) for path in sorted((folder / "images").iterdir())]
    masks = [read_mask(path) for path in sorted((folder / "masks").iterdir())]
    return np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks]), maps, masks


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The first of the thresholds (i/1024)^2 with the greatest F1, and that F1, from the sorted scores."""
    order = np.argsort(scores)
    first = np.searchsorted(scores[order], (np.arange(1024) / 1024) ** 2, side="right")
    hits_from = np.append(np.cumsum(truth[order][::-1])[::-1], 0)
    f1 = 2 * hits_from[first] / (scores.size - first + truth.sum())
    return (np.argmax(f1) / 1024) ** 2, f1.max()


@pytest.fixture(scope="module")
def deepcrack(cracks_data, tmp_path_factory):
    """Every thirtieth labelled image of DeepCrack's training and of its test split."""
    out = tmp_path_factory.mktemp("deepcrack")
    for split in ("train", "test"):
        for part in ("images", "masks"):
            (out / split / part).mkdir(parents=True)
            for path in sorted((cracks_data / "deepcrack" / split / part).iterdir())[::30]:
                shutil.copy(path, out / split / part)
    return out


def test_the_floor_on_real_images_with_a_threshold_from_training_masks_is_what_scipy_gives(deepcrack):
    found = evaluate(*FLOOR, "--data", f"{deepcrack}:test", "--rule", "validation",
                     "--calibration", f"{deepcrack}:train").json  # fmt: skip
    threshold, _ = best_threshold(*pooled(deepcrack / "train")[:2])
    scores, truth, _, masks = pooled(deepcrack / "test")
    assert found["thresholds"] == {"all sizes": pytest.approx(threshold)}
    assert found["f1"] == pytest.approx(sk.f1_score(truth, scores > threshold), abs=1e-4)
    assert found["iou"] == pytest.approx(sk.jaccard_score(truth, scores > threshold), abs=1e-4)
    assert found["best_f1"] == pytest.approx(best_threshold(scores, truth)[1], abs=1e-4)
    assert (found["images"], found["crack_share"]) == (len(masks), pytest.approx(truth.mean()))
    assert (found["rule"], found["geometry"], found["method"]) == ("validation", "native", "background_difference")
    assert found["f1"] > 0.7  # 80.3 on all of them


def test_otsu_is_taken_image_by_image_and_is_the_floors_own_rule():
    found = evaluate(*FLOOR, "--data", f"{pavements()}:test").json
    _, truth, maps, _ = pooled(pavements() / "test")
    decided = np.concatenate([(m > threshold_otsu(m.astype(np.float32))).ravel() for m in maps])
    assert list(found)[: len(KEYS)] == KEYS and found["rule"] == "otsu" and found["thresholds"] == {}
    assert found["precision"] == pytest.approx(sk.precision_score(truth, decided), abs=2e-3)
    assert found["recall"] == pytest.approx(sk.recall_score(truth, decided), abs=2e-3)
    assert found["miou"] == pytest.approx(sk.jaccard_score(truth, decided, average="macro"), abs=2e-3)
    assert found["accuracy"] == pytest.approx((truth == decided).mean(), abs=2e-3)


def test_the_undamaged_quantile_of_a_named_folder_is_numpys():
    windows = pavements() / "undamaged"
    found = evaluate(*FLOOR, "--data", f"{pavements()}:test", "--rule", "undamaged:0.9",
                     "--calibration", f"{pavements()}:undamaged").json  # fmt: skip
    errors = np.concatenate([floor(read_image(path)).ravel() for path in (windows / "images").iterdir()])
    assert found["rule"] == "undamaged:0.9"
    assert found["thresholds"] == {"64x48": pytest.approx(np.quantile(errors, 0.9, method="inverted_cdf"), rel=1e-4)}


@pytest.mark.parametrize("rule", ["otsu", "undamaged:0.9", "validation"])
def test_threads_that_filter_and_count_behind_the_network_change_no_number(monkeypatch, rule):
    """As beside an accelerator; rules that calibrate do it once, whichever thread comes first."""
    calibration = ["--calibration", f"{pavements()}:{'undamaged' if rule[0] == 'u' else 'train'}"] * (rule != "otsu")
    words = (*FLOOR, "--data", f"{pavements()}:test", "--rule", rule, *calibration)
    alone = evaluate(*words).json
    used = set()

    def smooth(raw, how):
        used.add(threading.get_ident())
        return predict.smooth(raw, how)

    monkeypatch.setattr("cracks_jax.evaluate.smooth", smooth)
    monkeypatch.setattr("cracks_jax.evaluate._helpers", lambda: 3)
    together = evaluate(*words).json
    assert used and threading.get_ident() not in used
    del alone["cost"], together["cost"]
    assert together == alone


def test_resize256_shrinks_images_bilinearly_and_masks_by_nearest_neighbour():
    found = evaluate(*FLOOR, "--data", f"{pavements()}:test", "--geometry", "resize256", "--rule", "0.02").json
    _, _, _, masks = pooled(pavements() / "test")
    truth = np.concatenate([cv2.resize(m.astype(np.uint8), (256, 256), interpolation=0).ravel() for m in masks])
    images = [read_image(path) for path in sorted((pavements() / "test" / "images").iterdir())]
    scores = np.concatenate([floor(cv2.resize(image, (256, 256), interpolation=1)).ravel() for image in images])
    assert found["geometry"] == "resize256"
    assert found["crack_share"] == pytest.approx(truth.mean())
    assert found["f1"] == pytest.approx(sk.f1_score(truth, scores > 0.02), abs=1e-4)


def test_the_table_marks_what_is_optimistic():
    text = evaluate(*FLOOR, "--data", f"{pavements()}:test", json_only=False).out
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "optimistic" in lines["best_f1"] and "optimistic" in lines["best_iou"]
    assert "optimistic" not in lines["f1"] and lines["rule"].split() == ["rule", "otsu"]


# ---------------------------------------------------------------------------------------------- trained runs


def on_drawn(run, *words):
    """All but what a machine takes for it."""
    return {k: v for k, v in evaluate(run, "--data", f"{runs().drawn(run)}:test", *words).json.items() if k != "cost"}


@pytest.mark.parametrize(
    ("preset", "rule", "geometry"),
    [(None, "undamaged:0.995", "native"), ("default", "undamaged:0.995", "native"), ("paper", "otsu", "resize256"),
     ("authors", "otsu", "resize256")],
)  # fmt: skip
def test_a_preset_names_rule_and_geometry_and_gives_the_same_numbers_twice(preset, rule, geometry):
    run = runs().restoration
    words = () if preset is None else ("--preset", preset)
    before = contents(run)
    first, second = on_drawn(run, *words), on_drawn(run, *words)
    assert first == second and contents(run) == before
    assert list(first)[: len(KEYS)] == KEYS
    assert (first["rule"], first["geometry"], first["preset"]) == (rule, geometry, preset)
    assert first["detection_preset"] == (preset or "default")
    described = json.loads((run / "metrics.json").read_text())
    assert (first["run_id"], first["checkpoint"]) == (described["run_id"], described["best_step"])
    assert 0 <= first["f1"] <= first["best_f1"] <= 1 and first["images"] == 2


def test_an_explicit_flag_wins_over_the_preset_and_settings_change_one_thing():
    run = runs().restoration
    preset = on_drawn(run, "--preset", "paper")
    flags = on_drawn(run, "--preset", "paper", "--geometry", "native", "--rule", "0.25")
    assert (flags["geometry"], flags["rule"]) == ("native", "value:0.25")
    changed = on_drawn(run, "--preset", "paper", "--set", "detection.filter=none")
    assert (changed["rule"], changed["geometry"]) == (preset["rule"], preset["geometry"])
    assert (flags["detection_preset"], changed["detection_preset"]) == ("paper", "own")
    assert changed["best_threshold"] != preset["best_threshold"] or changed["best_f1"] != preset["best_f1"]


def test_the_undamaged_rule_takes_the_windows_that_the_run_kept_and_never_the_scored_images():
    """Windows and images have one size here, so the quantile is NumPy's over the windows' own score maps."""
    run = runs().restoration
    found = on_drawn(run, "--rule", "undamaged:0.9")
    kept = sorted((run / "undamaged" / "images").iterdir())
    held_out = json.loads((run / "experiment.json").read_text())["data"]["validation"]
    assert [path.stem for path in kept] == held_out and len(held_out) == 2
    scorer = scoring.open_scoring(scoring.Request(run=run)).scorer
    errors = np.concatenate([scorer(read_image(path)).ravel() for path in kept])
    assert found["thresholds"] == {"48x48": pytest.approx(float(np.quantile(errors, 0.9, method="inverted_cdf")))}


def test_the_floor_is_calibrated_on_the_windows_of_a_run():
    run = runs().restoration
    found = evaluate(*FLOOR, "--data", f"{runs().drawn(run)}:test", "--rule", "undamaged:0.9",
                     "--calibration", run / "undamaged").json  # fmt: skip
    errors = np.concatenate([floor(read_image(path)).ravel() for path in (run / "undamaged" / "images").iterdir()])
    assert found["thresholds"] == {"48x48": pytest.approx(np.quantile(errors, 0.9, method="inverted_cdf"), rel=1e-4)}


def test_checkpoints_are_best_last_or_a_step(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs().restoration, run)
    steps = {which: on_drawn(run, "--checkpoint", which)["checkpoint"] for which in ("best", "last", "4")}
    best = json.loads((run / "metrics.json").read_text())["best_step"]
    assert steps == {"best": best, "last": 4, "4": 4}


def test_tiles_cover_what_is_larger_than_one_and_are_part_of_the_result():
    run = runs().restoration
    whole, tiled = on_drawn(run, "--rule", "0.3"), on_drawn(run, "--rule", "0.3", "--tile", "96")
    assert whole == tiled  # 48 px and the reflected margin fit into one
    assert on_drawn(run, "--preset", "paper", "--tile", "64") != on_drawn(run, "--preset", "paper")


def test_crackseg_is_scored_at_argmax_by_its_running_averages(short_trunk):  # noqa: F811
    run = runs().segmentation
    found = on_drawn(run)
    assert (found["rule"], found["geometry"]) == ("value:0.5", "native")
    assert found == on_drawn(run, "--rule", "argmax") == on_drawn(run)
    scorer = scoring.open_scoring(scoring.Request(run=run)).scorer
    test = runs().drawn(run) / "test"
    decided = np.concatenate([(scorer(read_image(p)) > 0.5).ravel() for p in sorted((test / "images").iterdir())])
    truth = np.concatenate([read_mask(p).ravel() for p in sorted((test / "masks").iterdir())])
    assert found["accuracy"] == pytest.approx((decided == truth).mean())
    assert found["iou"] == pytest.approx(sk.jaccard_score(truth, decided))
    held_out = on_drawn(run, "--rule", "validation", "--calibration", f"{runs().drawn(run)}:train")
    assert held_out["thresholds"].keys() == {"all sizes"}
    command("evaluate", run, "--data", f"{runs().drawn(run)}:test", "--preset", "paper").refused(2, "UP-CrackNet")
