"""Thresholds fixed beforehand: canvases by hand, quantiles at the scored size, and the best of labelled images."""

import dataclasses
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from cracks_jax.calibrate import SEAM, Thresholds, UndamagedWindow, canvases, undamaged_windows
from cracks_jax.data.datasets import open_dataset
from cracks_jax.data.images import write_image, write_mask
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.presets import DETECTION_PRESETS
from cracks_jax.metrics.curve import Curve
from cracks_jax.postprocess.thresholds import otsu, parse_rule
from cracks_jax.predict import Scorer
from cracks_jax.runtime.records import write_json


@dataclass(frozen=True, eq=False)
class RedIsTheError:
    """Score = red / 2; `seen` lists the sizes that were scored."""

    side_multiple: int = 1
    seen: list = field(default_factory=list)

    def score(self, state, images, key, how):
        self.seen.append(images.shape[1:3])
        return images[..., 0] / 2


def _window(value, h=20, w=20, photo=(100, 200)):
    return UndamagedWindow(np.full((h, w, 3), value, np.uint8), photo)


def _windows(rng, n=5, side=40):
    return [UndamagedWindow(rng.integers(0, 256, (side, side, 3), np.uint8), (128, 256)) for _ in range(n)]


# --- canvases


def test_each_window_fills_a_picture_of_the_scored_size_with_mirrored_copies(rng):
    """20x30 in 50x70 by hand: copies turned over at every border, the last ones cut; no two windows share a picture."""
    windows = [UndamagedWindow(rng.integers(0, 256, (20, 30, 3), np.uint8), (100, 100)) for _ in range(3)]
    found = list(canvases(windows, (50, 70), False))
    assert len(found) == 3
    for window, (picture, _) in zip(windows, found, strict=True):
        row = np.concatenate([window.image, window.image[:, ::-1], window.image], 1)
        np.testing.assert_array_equal(picture, np.concatenate([row, row[::-1], row])[:50, :70])


def test_seams_are_left_out_and_outer_borders_are_not():
    """8 px on either side of every inner border; the picture's own border is detection's border too."""
    _, inner = next(canvases([_window(1, 40, 40)], (80, 100), False))
    rows = [y for y in range(80) if not 40 - SEAM <= y < 40 + SEAM]
    columns = [x for x in range(100) if not (40 - SEAM <= x < 40 + SEAM or 80 - SEAM <= x < 80 + SEAM)]
    expected = np.zeros((80, 100), bool)
    expected[np.ix_(rows, columns)] = True
    np.testing.assert_array_equal(inner, expected)


def test_a_window_larger_than_the_scored_size_is_cut_and_has_no_seam(rng):
    window = _windows(rng, 1, 40)[0]
    picture, inner = next(canvases([window], (24, 32), False))
    np.testing.assert_array_equal(picture, window.image[:24, :32])
    assert inner.all()


def test_resize256_shrinks_a_window_as_its_photograph():
    """A 64x64 window of a 512x1024 photograph becomes 32 px high and 16 wide: it and its mirror image in 32 px."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 200
    window = UndamagedWindow(image, (512, 1024))
    picture, inner = next(canvases([window], (32, 32), True))
    expected = cv2.resize(image, (16, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(picture[:, :16], expected)
    np.testing.assert_array_equal(picture[:, 16:], expected[:, ::-1])
    assert inner[:, :8].all() and not inner[:, 8:24].any() and inner[:, 24:].all()


def test_photographs_sizes_come_from_the_manifest_or_are_crack500s(tmp_path, rng):
    """448 px is the crop that windows without a manifest were cut from."""
    for stem in ("a", "b"):
        write_image(tmp_path / "images" / f"{stem}.png", rng.integers(0, 255, (16, 16, 3), np.uint8))
    dataset = open_dataset(str(tmp_path))
    assert [w.photo for w in undamaged_windows(tmp_path, dataset)] == [(448, 448)] * 2
    items = [{"stem": s, "photo": [100 * n, 50], "source": s, "box": [0, 0, 1, 1]} for n, s in enumerate("ab", 1)]
    write_json(tmp_path / "manifest.json", {"items": items})
    found = undamaged_windows(tmp_path, dataset)
    assert [w.photo for w in found] == [(100, 50), (200, 50)]
    np.testing.assert_array_equal(found[0].image.shape, (16, 16, 3))


# --- quantiles


def test_the_quantile_is_numpys_over_all_pixels_away_from_seams(rng):
    """Undamaged error above the threshold: at most 1 - q of the pixels, and no smaller threshold does."""
    windows = _windows(rng)
    thresholds = Thresholds(parse_rule("undamaged:0.9"), Scorer(RedIsTheError(), {}, Detection()), undamaged=windows)
    found = thresholds.at(np.zeros((50, 90), np.float32))
    errors = np.concatenate(
        [picture[inner][:, 0].astype(np.float32) / 255 / 2 for picture, inner in canvases(windows, (50, 90), False)]
    )
    assert (errors > found + 1e-6).mean() <= 0.1 < (errors > found - 1e-6).mean()
    assert found == pytest.approx(np.quantile(errors, 0.9, method="inverted_cdf"))


def test_the_quantile_is_taken_at_the_scored_size_and_once_per_size(rng):
    method = RedIsTheError()
    thresholds = Thresholds(parse_rule("undamaged"), Scorer(method, {}, Detection()), undamaged=_windows(rng))
    for shape in ((48, 64), (64, 48), (48, 64), (48, 64)):
        thresholds.at(np.zeros(shape, np.float32))
    assert list(dict.fromkeys(method.seen)) == [(48, 64), (64, 48)]
    assert set(thresholds.found) == {"64x48", "48x64"}


def test_the_quantile_goes_through_detections_filter(rng):
    windows, size = _windows(rng), (60, 60)
    plain, blurred = (
        Thresholds(
            parse_rule("undamaged:0.99"), Scorer(RedIsTheError(), {}, Detection(filter=name)), undamaged=windows
        ).at(np.zeros(size, np.float32))
        for name in ("none", "gaussian")
    )
    values = [
        cv2.GaussianBlur(picture[..., 0].astype(np.float32) / 255 / 2, (17, 17), 2)[inner]
        for picture, inner in canvases(windows, size, False)
    ]
    assert blurred == pytest.approx(np.quantile(np.concatenate(values), 0.99, method="inverted_cdf"), abs=1e-5)
    assert blurred < plain


def test_the_authors_map_has_no_absolute_threshold(rng):
    scorer = Scorer(RedIsTheError(), {}, DETECTION_PRESETS["authors"])
    with pytest.raises(UsageError, match="--rule undamaged:0.99 needs absolute errors, but the preset authors"):
        Thresholds(parse_rule("undamaged:0.99"), scorer, undamaged=_windows(rng))


# --- other rules


@pytest.fixture
def labelled(tmp_path, rng):
    """Four images whose crack pixels are brighter in red, not perfectly so."""
    for stem in "abcd":
        mask = rng.uniform(0, 1, (30, 40)) > 0.8
        image = rng.integers(0, 160, (30, 40, 3), np.uint8)
        image[mask, 0] = rng.integers(90, 256, int(mask.sum()), np.uint8)
        write_image(tmp_path / "images" / f"{stem}.png", image)
        write_mask(tmp_path / "masks" / f"{stem}.png", mask)
    return open_dataset(str(tmp_path), need_masks=True)


@pytest.mark.parametrize("geometry", ["native", "resize256"])
def test_validation_takes_the_threshold_with_the_best_pooled_f1(labelled, geometry):
    from cracks_jax.data.images import read_image, read_mask
    from cracks_jax.predict import mask_in_geometry

    how = Detection(geometry=geometry)
    scorer = Scorer(RedIsTheError(), {}, how)
    found = Thresholds(parse_rule("validation"), scorer, labelled=labelled).at(np.zeros((9, 9), np.float32))
    scores = [scorer(read_image(r.image)).ravel() for r in labelled]
    masks = [mask_in_geometry(read_mask(r.mask), how).ravel() for r in labelled]
    score, mask = np.concatenate(scores), np.concatenate(masks)

    def f1(threshold):
        crack = score > threshold
        return 2 * (crack & mask).sum() / (crack.sum() + mask.sum())

    grid = (np.arange(1024) / 1024) ** 2
    assert f1(found) == pytest.approx(max(f1(t) for t in grid)) and found in grid


def test_validation_scores_the_labelled_images_once_for_all_sizes(labelled):
    method = RedIsTheError()
    thresholds = Thresholds(parse_rule("validation"), Scorer(method, {}, Detection()), labelled=labelled)
    values = {thresholds.at(np.zeros(shape, np.float32)) for shape in ((8, 8), (30, 40))}
    assert len(values) == 1 and thresholds.found == {"all sizes": values.pop()} and set(method.seen) == {(30, 40)}


def test_images_without_a_crack_give_no_threshold(tmp_path, rng):
    write_image(tmp_path / "images" / "a.png", np.zeros((8, 8, 3), np.uint8))
    write_mask(tmp_path / "masks" / "a.png", np.zeros((8, 8), bool))
    labelled = open_dataset(str(tmp_path), need_masks=True)
    curve = Curve.of(np.zeros((8, 8), np.float32), np.zeros((8, 8), bool))
    thresholds = Thresholds(parse_rule("validation"), Scorer(RedIsTheError(), {}, Detection()), labelled=labelled)
    assert curve.best_f1() == (None, None)
    with pytest.raises(CracksError, match="no labelled crack pixel, so no threshold can be chosen on it"):
        thresholds.at(np.zeros((8, 8), np.float32))


def test_otsu_reads_the_map_alone_and_a_value_is_itself(rng):
    score = rng.uniform(0, 1, (20, 20)).astype(np.float32) ** 3
    scorer = Scorer(RedIsTheError(), {}, Detection())
    assert Thresholds(parse_rule("otsu"), scorer).at(score) == pytest.approx(float(otsu(score)))
    assert Thresholds(parse_rule("0.25"), scorer).at(score) == 0.25
    np.testing.assert_array_equal(Thresholds(parse_rule("0.25"), scorer).mask(score), score > 0.25)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("undamaged", "--rule undamaged:0.995 needs undamaged windows; name a prepared folder with --calibration"),
        ("validation", "--rule validation needs labelled images; name a data set with --calibration"),
    ],
)
def test_a_rule_without_its_images_says_what_to_name(rule, message):
    scorer = Scorer(RedIsTheError(), {}, dataclasses.replace(Detection(), rule=rule))
    with pytest.raises(UsageError, match=message):
        Thresholds(parse_rule(rule), scorer)
