"""UP-CrackNet's detection presets: each error map, filter and threshold against NumPy and OpenCV written anew."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax import predict
from cracks_jax.calibrate import Thresholds
from cracks_jax.errors import UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.floor import BackgroundDifference
from cracks_jax.methods.presets import DETECTION_PRESETS, default_detection, detection_preset
from cracks_jax.methods.restoration import Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.postprocess.thresholds import parse_rule
from cracks_jax.predict import Scorer
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick_compile")
KEY = jax.random.key(0)


@pytest.fixture
def fixed_restorer(monkeypatch):
    """In place of the generator: a smooth function of what the network sees, easy to compute without JAX."""
    predict._compiled.cache_clear()
    monkeypatch.setattr(Restoration, "restore", lambda self, state, x, key, how: _restored(x, jnp))
    yield
    predict._compiled.cache_clear()


def _restored(x, module):
    return module.clip(0.6 * x[..., ::-1] + 0.2 * module.roll(x, 3, -2) + 0.05, -1, 1)


def _road(rng, h=64, w=80):
    """A photograph with range to spare, so that stretching it changes it."""
    grey = cv2.GaussianBlur(rng.uniform(60, 190, (h, w, 3)).astype(np.float32), (0, 0), 1.5)
    grey[h // 2 : h // 2 + 3] -= 40
    return np.clip(grey, 30, 220).astype(np.uint8)


def _luma(rgb):
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def _stretch(x):
    return (x - x.min()) / (x.max() - x.min())


def _authors_map(image):
    """UPCRACKNET.md section 6, the authors' rows: stretched 8-bit input, greys and difference stretched, 8 bit."""
    seen = np.trunc(_stretch(image.astype(np.float64)) * 255)
    x = seen / 255 * 2 - 1
    restored = _restored(x, np)
    a, b = _stretch(_luma((x + 1) / 2)), _stretch(_luma((restored + 1) / 2))
    return np.trunc(_stretch(np.abs(a - b)) * 255).astype(np.uint8)


def test_the_authors_map_equals_opencv_and_numpy_up_to_a_level(rng, fixed_restorer):
    """float32 may fall on the other side of a truncation: one level, at few pixels."""
    method, how = tiny.restoration(), DETECTION_PRESETS["authors"]
    image = _road(rng)
    ours = method.score({}, jnp.asarray(image[None], jnp.float32) / 255, KEY, how)[0]
    ours = np.asarray(ours) * 255
    np.testing.assert_allclose(ours, np.round(ours), atol=1e-4)
    off = np.abs(ours - _authors_map(image).astype(np.float64)).round()
    assert off.max() <= 1 and (off > 0).mean() < 0.01


def test_the_authors_whole_chain_is_8_bit_from_filter_to_otsu(rng, fixed_restorer):
    """resize256, map, bilateral (25, 450, 15) on three equal uint8 channels, OpenCV's Otsu: the same mask."""
    image = _road(rng, 200, 300)
    scorer = Scorer(tiny.restoration(), {}, DETECTION_PRESETS["authors"])
    score = scorer(image)
    grey = _authors_map(cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR))
    smooth = cv2.bilateralFilter(cv2.merge([grey] * 3), 25, 450, 15)[..., 0]
    assert score.shape == (256, 256)
    np.testing.assert_allclose(score * 255, np.round(score * 255), atol=1e-4)
    assert np.abs(score * 255 - smooth).max() <= 1.01
    # Otsu by OpenCV on our own smoothed map, so that a level's rounding above does not move it.
    levels = np.round(score * 255).astype(np.uint8)
    threshold, mask = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    ours = Thresholds(parse_rule("otsu"), scorer).mask(score)
    assert Thresholds(parse_rule("otsu"), scorer).at(score) == pytest.approx(threshold / 255)
    np.testing.assert_array_equal(ours, mask > 0)


def test_the_papers_map_is_the_square_through_the_bilateral_filter_on_255(rng, fixed_restorer):
    image = _road(rng, 128, 96)
    method, how = tiny.restoration(), DETECTION_PRESETS["paper"]
    squeezed = cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR)
    x = squeezed / 255 * 2 - 1
    square = (((x - _restored(x, np)) / 2) ** 2).mean(-1)
    raw = method.score({}, jnp.asarray(squeezed[None], jnp.float32) / 255, KEY, how)[0]
    np.testing.assert_allclose(raw, square, atol=1e-6)
    expected = cv2.bilateralFilter(cv2.merge([(square * 255).astype(np.float32)] * 3), 25, 450, 15)[..., 0] / 255
    np.testing.assert_allclose(Scorer(method, {}, how)(image), expected, atol=1e-5)


def test_the_default_map_is_the_difference_of_greys_behind_a_gaussian(rng, fixed_restorer):
    image = _road(rng, 48, 64)
    x = np.pad(image, ((16, 16), (16, 16), (0, 0)), mode="reflect") / 255 * 2 - 1
    difference = np.abs(_luma((x + 1) / 2) - _luma((_restored(x, np) + 1) / 2))[16:-16, 16:-16]
    expected = cv2.GaussianBlur(difference.astype(np.float32), (17, 17), 2)
    score = Scorer(tiny.restoration(), {}, DETECTION_PRESETS["default"])(image)
    assert score.shape == (48, 64)
    np.testing.assert_allclose(score, expected, atol=1e-6)


def test_darker_counts_only_what_is_darker_than_restored(monkeypatch):
    """Restored as mid-grey everywhere: a pixel of 0.3 is 0.2 darker, one of 0.9 is brighter."""
    monkeypatch.setattr(Restoration, "restore", lambda self, state, x, key, how: jnp.zeros_like(x))
    image = jnp.full((1, 16, 16, 3), 0.5).at[0, 3, 4].set(0.3).at[0, 8, 9].set(0.9)
    method = tiny.restoration()
    darker = method.score({}, image, KEY, Detection(error="darker"))[0]
    expected = np.zeros((16, 16))
    expected[3, 4] = 0.2
    np.testing.assert_allclose(darker, expected, atol=1e-6)
    assert float(method.score({}, image, KEY, Detection(error="absolute"))[0, 8, 9]) == pytest.approx(0.4, abs=1e-6)


def test_hidden_restoration_judges_each_pixel_unseen(rng):
    """What a smallest square holds changes its surroundings' restoration, never its own; batch statistics included."""
    method = tiny.restoration()
    state = tiny.state_of(method)
    image = jnp.asarray(rng.uniform(-1, 1, (1, 48, 32, 3)), jnp.float32)
    square = (slice(None), slice(18, 20), slice(4, 6))  # a square of side / 8 = 2 px
    changed = image.at[square].set(-image[square])
    for norm in ("batch", "running"):
        how = Detection(batch_norm=norm, restore="hidden")
        hidden = jax.jit(partial(method.restore_hidden, key=KEY, how=how))
        before, after = (hidden(state, x) for x in (image, changed))
        assert before.shape == image.shape
        np.testing.assert_array_equal(before[square], after[square])
        assert not np.array_equal(before, after)
        assert not np.allclose(method.restore(state, image, KEY, how), before, atol=1e-4)


def test_hidden_restoration_is_the_mean_over_the_three_sizes(monkeypatch):
    """A restorer that answers with the share it was shown gives one half under each size of squares."""
    seen = []

    def share(self, state, x, key, how):
        seen.append(np.asarray(x))
        return jnp.broadcast_to((x > -1).mean((1, 2), keepdims=True), x.shape)

    monkeypatch.setattr(Restoration, "restore", share)
    restored = tiny.restoration().restore_hidden({}, jnp.zeros((1, 32, 32, 3)), KEY, Detection(restore="hidden"))
    np.testing.assert_allclose(restored, 0.5)
    hidden = np.concatenate(seen)[..., 0] == -1
    np.testing.assert_array_equal(hidden.sum(0), 3)
    assert [int(np.flatnonzero(np.diff(line))[0]) + 1 for line in hidden[:, 0]] == [8, 8, 4, 4, 2, 2]


def test_bgr_weights_a_grey_as_rgb_does(rng, monkeypatch):
    """The order in which the network sees channels changes what it sees, not what a grey is."""
    monkeypatch.setattr(Restoration, "restore", lambda self, state, x, key, how: jnp.zeros_like(x))
    from cracks_jax.methods.presets import LOSSES

    image = jnp.asarray(rng.uniform(0, 1, (1, 16, 16, 3)), jnp.float32)
    maps = [tiny.restoration(losses=LOSSES[n]).score({}, image, KEY, Detection()) for n in ("default", "authors")]
    np.testing.assert_allclose(*maps, atol=1e-6)
    np.testing.assert_allclose(maps[0][0], np.abs(_luma(image[0]) - 0.5), atol=1e-6)


@pytest.mark.parametrize("preset", ["default", "hidden", "paper", "authors"])
def test_every_preset_scores_with_a_trained_state(rng, preset):
    """Real networks: finite, in [0, 1], at the geometry's size; the same image twice gives the same map."""
    method = tiny.restoration()
    how = DETECTION_PRESETS[preset]
    scorer = Scorer(method, tiny.state_of(method), how, seed=3)
    image = _road(rng, 40, 56)
    first = scorer(image)
    assert first.shape == ((40, 56) if how.geometry == "native" else (256, 256))
    assert np.isfinite(first).all() and first.min() >= 0 and first.max() <= 1 and first.std() > 0
    np.testing.assert_array_equal(scorer(image), first)
    if how.dropout:
        other = Scorer(method, tiny.state_of(method), how, seed=4)(image)
        assert not np.array_equal(other, first), "dropout is on: another seed draws another mask"


def test_batch_statistics_are_those_of_one_window(rng):
    """A window's score is the same alone and among others; with running averages another one."""
    method = tiny.restoration()
    state = tiny.state_of(method)
    images = jnp.asarray(rng.uniform(0, 1, (3, 32, 32, 3)) * np.array([1, 0.5, 0.2])[:, None, None, None], jnp.float32)
    how = Detection(batch_norm="batch")
    score = jax.jit(lambda images: method.score(state, images, KEY, how))
    together = score(images)
    for i in range(3):
        np.testing.assert_allclose(together[i], score(images[i : i + 1])[0], atol=2e-6)
    running = jax.jit(lambda: method.score(state, images, KEY, Detection(batch_norm="running")))()
    assert float(jnp.abs(running - together).max()) > 1e-4


def test_a_flat_image_scores_zero_in_the_authors_map():
    """Stretching a range of zero divides by nothing."""
    method, how = tiny.restoration(), DETECTION_PRESETS["authors"]
    flat = jnp.full((1, 32, 32, 3), 0.5)
    score = jax.jit(lambda state, x: method.score(state, x, KEY, how))(tiny.state_of(method), flat)
    assert np.isfinite(score).all()


def test_detection_without_a_preset():
    """UP-CrackNet: default; CrackSeg: argmax; the floor: Otsu. Presets belong to UP-CrackNet."""
    assert default_detection(tiny.restoration()) == DETECTION_PRESETS["default"]
    assert default_detection(Segmentation()).rule == "0.5"
    assert default_detection(BackgroundDifference()).rule == "otsu"
    assert DETECTION_PRESETS["default"].rule == "undamaged:0.995"
    assert detection_preset(tiny.restoration(), "paper") == DETECTION_PRESETS["paper"]
    with pytest.raises(UsageError, match="--preset paper: presets belong to UP-CrackNet runs"):
        detection_preset(Segmentation(), "paper")
    with pytest.raises(UsageError, match="--preset best: expected one of default, hidden, paper, authors"):
        detection_preset(tiny.restoration(), "best")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 32}, "detection.tile is 32; a tile has at least 64 px"),
        ({"tile": 128, "overlap": 128}, "detection.overlap is 128; expected 0 to below the tile's 128 px"),
        ({"filter_sigma": 0.0}, "detection.filter_sigma is 0.0; expected more than 0, and at most 1000 px"),
    ],
)
def test_impossible_detections_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Detection(**settings)
