"""From an image to its score map: geometry, windows and tiles, with stand-ins for a network that can be read off."""

import dataclasses
from dataclasses import dataclass, field

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cracks_jax.methods.detection import Detection
from cracks_jax.methods.floor import BackgroundDifference
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.predict import Scorer, in_geometry, mask_in_geometry, smooth, stack_scorer
from cracks_jax.runtime.calls import OutOfMemory
from tests import tiny
from tests.tiny import quick_compile  # noqa: F401


@dataclass(frozen=True, eq=False)
class RedOfPixel:
    """Score = red channel, whatever is around; `seen` lists the sizes of the windows it was compiled for."""

    side_multiple: int = 32
    seen: list = field(default_factory=list)

    def score(self, state, images, key, how):
        self.seen.append(images.shape[1:3])
        return images[..., 0]


@dataclass(frozen=True)
class MeanOfWindow:
    """Every pixel gets the mean of its window, as if batch statistics were all there is."""

    side_multiple: int = 16

    def score(self, state, images, key, how):
        return jnp.broadcast_to(images.mean((1, 2, 3), keepdims=True)[..., 0], images.shape[:3])


def _image(rng, h, w):
    return rng.integers(0, 256, (h, w, 3), np.uint8)


def _red(image):
    return image[..., 0].astype(np.float32) / 255


def test_native_pads_to_the_networks_multiple_and_crops_back(rng):
    """At least 16 px on every side: 82 x 102 at least, so 96 x 128."""
    image, method = _image(rng, 50, 70), RedOfPixel()
    score = Scorer(method, {}, Detection())(image)
    assert set(method.seen) == {(96, 128)} and score.dtype == np.float32
    np.testing.assert_allclose(score, _red(image), atol=1e-6)


def test_native_pads_by_reflection_shared_between_the_sides(rng):
    image = _image(rng, 14, 30)
    padded = np.pad(image, ((17, 17), (17, 17), (0, 0)), mode="reflect")
    score = Scorer(MeanOfWindow(), {}, Detection())(image)
    np.testing.assert_allclose(score, np.full((14, 30), padded.mean() / 255), rtol=1e-5)


def test_resize256_is_opencvs_bilinear_for_images_and_nearest_for_masks(rng):
    image, how = _image(rng, 90, 300), Detection(geometry="resize256")
    method = RedOfPixel()
    score = Scorer(method, {}, how)(image)
    assert set(method.seen) == {(256, 256)}  # as the papers' networks saw it: no margin
    squeezed = cv2.resize(image, (256, 256), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(score, _red(squeezed), atol=1e-6)
    np.testing.assert_array_equal(in_geometry(image, how), squeezed)
    mask = rng.uniform(0, 1, (90, 300)) > 0.5
    nearest = cv2.resize(mask.astype(np.uint8) * 255, (256, 256), interpolation=cv2.INTER_NEAREST) > 127
    np.testing.assert_array_equal(mask_in_geometry(mask, how), nearest)
    native = Detection()
    assert in_geometry(image, native) is image and mask_in_geometry(mask, native) is mask


def test_tiles_of_a_large_image_are_windows_of_the_networks_multiple(rng):
    """Tile 100 becomes 96; every tile is compiled once, seams are blended, and each pixel keeps its score."""
    image, method = _image(rng, 200, 333), RedOfPixel()
    score = Scorer(method, {}, Detection(tile=100, overlap=20, window_pixels=10_000))(image)
    assert method.seen == [(96, 96)] * 2  # the kernels, the scores
    np.testing.assert_allclose(score, _red(image), atol=1e-6)


def test_a_window_is_whole_up_to_the_limit_and_tiled_above_it(rng):
    """Seen by a score that depends on the window: one value below the limit, several above. The margin counts."""
    image = _image(rng, 128, 128)
    image[:, 64:] //= 8
    whole = Scorer(MeanOfWindow(), {}, Detection(tile=64, overlap=0, window_pixels=160 * 160))(image)
    tiled = Scorer(MeanOfWindow(), {}, Detection(tile=64, overlap=0, window_pixels=160 * 160 - 1))(image)
    assert np.ptp(whole) == 0
    np.testing.assert_allclose(tiled[:64, :64], image[:64, :64].mean() / 255, rtol=1e-5)
    np.testing.assert_allclose(tiled[64:, 64:], image[64:, 64:].mean() / 255, rtol=1e-5)


def test_the_overlap_never_exceeds_half_a_tile(rng):
    image = _image(rng, 200, 200)
    score = Scorer(RedOfPixel(), {}, Detection(tile=64, overlap=60, window_pixels=100))(image)
    np.testing.assert_allclose(score, _red(image), atol=1e-6)


def test_a_score_does_not_depend_on_what_was_scored_before(rng):
    first, second = _image(rng, 40, 50), _image(rng, 90, 33)
    scorer = Scorer(MeanOfWindow(), {}, Detection(filter="gaussian"))
    alone = Scorer(MeanOfWindow(), {}, Detection(filter="gaussian"))(second)
    scorer(first)
    np.testing.assert_array_equal(scorer(second), alone)


def test_a_second_state_of_one_method_compiles_nothing(rng):
    """Validation after validation, a training scores the same sizes with another state."""
    image, method = _image(rng, 64, 64), RedOfPixel()
    for state in range(3):
        Scorer(method, {"weight": np.float32(state)}, Detection())(image)
    assert method.seen == [(96, 96)] * 2  # the kernels, the scores


def test_the_floor_is_never_cut_into_tiles(rng):
    """Its background is a blur over the image: a tile would change what the background is."""
    image, method = _image(rng, 96, 128), BackgroundDifference(background=10.0)
    tiled = Scorer(method, {}, Detection(tile=64, overlap=0, window_pixels=64))(image)
    expected = method.score({}, image[None].astype(np.float32) / 255, None, Detection())[0]
    np.testing.assert_array_equal(tiled, expected)


@pytest.mark.parametrize("kind", ["none", "gaussian", "bilateral"])
def test_filters_keep_scores_in_range(rng, kind):
    score = (rng.uniform(0, 1, (40, 40)) > 0.5).astype(np.float32)
    out = smooth(score, Detection(filter=kind, filter_sigma=1.5))
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
    if kind == "none":
        assert out is score
    if kind == "gaussian":
        np.testing.assert_allclose(out, cv2.GaussianBlur(score, (13, 13), 1.5), atol=1e-6)


def _stacks(scorer):
    """Sizes of the stacks (n, h, w) that a scorer's network is called with from now on."""
    sizes, real = [], scorer.calls.score

    def score(stack):
        sizes.append(stack.shape[:3])
        return real(stack)

    scorer.calls.score = score
    return sizes


NETWORKS = {
    "upcracknet": (lambda: tiny.restoration(depth=4), Detection(batch_norm="batch", dropout=True)),
    "upcracknet, hidden": (lambda: tiny.restoration(depth=4), Detection(batch_norm="batch", restore="hidden")),
    "crackseg": (tiny.crackseg, Detection()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_network_scores_tiles_and_photographs_alike_however_many_share_a_call(rng, quick_compile, name):  # noqa: F811
    """Dropout and batch statistics are each window's own: only rounding differs, and no mask does."""
    make, how = NETWORKS[name]
    how = dataclasses.replace(how, tile=64, overlap=16, window_pixels=96 * 96)
    method = make()
    state = tiny.state_of(method)
    # One is cut into tiles of 64, the others are one window each; the small ones share calls with the tiles.
    images = [_image(rng, h, w) for h, w in ((70, 150), (20, 30), (24, 30), (30, 18))]
    alone = Scorer(method, state, how, seed=3)
    expected = [alone(image) for image in images]
    scorer = Scorer(method, state, how, seed=3, tile_batch=4)
    sizes = _stacks(scorer)
    found = list(scorer.stream(enumerate(images)))
    assert [tag for tag, _ in found] == list(range(len(images)))
    assert max(size[0] for size in sizes) == 4 and {size[1:] for size in sizes} == {(64, 64)}
    for (_, score), one in zip(found, expected, strict=True):
        np.testing.assert_allclose(score, one, atol=2e-5)
        threshold = np.quantile(one, 0.9) + 1e-4
        assert (np.abs(one - threshold) < 2e-5).any() or ((score > threshold) == (one > threshold)).all()


def test_only_windows_of_equal_shape_share_a_call_whichever_order_they_come_in(rng):
    wide, high = [_image(rng, 40, 90) for _ in range(4)], [_image(rng, 90, 40) for _ in range(4)]
    mixed = [image for pair in zip(wide, high, strict=True) for image in pair]
    scorer = Scorer(RedOfPixel(), {}, Detection(), tile_batch=4)
    sizes = _stacks(scorer)
    found = list(scorer.stream(enumerate(mixed)))
    assert sizes == [(4, 96, 128), (4, 128, 96)]
    assert [tag for tag, _ in found] == list(range(8))
    for (_, score), image in zip(found, mixed, strict=True):
        np.testing.assert_allclose(score, _red(image), atol=1e-6)


def test_tiles_of_two_photographs_share_a_call(rng):
    images = [_image(rng, 100, 140) for _ in range(2)]
    how = Detection(tile=64, overlap=0, window_pixels=64 * 64)
    scorer = Scorer(RedOfPixel(), {}, how, tile_batch=6)
    sizes = _stacks(scorer)
    found = list(scorer.stream(enumerate(images)))
    assert sizes == [(6, 64, 64)] * 2
    for (_, score), image in zip(found, images, strict=True):
        np.testing.assert_allclose(score, _red(image), atol=1e-6)


def test_images_wait_for_others_only_up_to_a_number_of_pixels(rng, monkeypatch):
    monkeypatch.setattr("cracks_jax.predict.WAITING_PIXELS", 3 * 40 * 50)
    scorer = Scorer(RedOfPixel(), {}, Detection(), tile_batch=100)
    taken = []

    def images():
        for number in range(10):
            taken.append(number)
            yield number, _image(rng, 40, 50)

    for number, _ in scorer.stream(images()):
        assert taken[-1] <= number + 4
    assert len(taken) == 10


def test_an_image_that_cannot_be_scored_costs_no_other_its_map(rng):
    @dataclass(frozen=True, eq=False)
    class NoSquares(RedOfPixel):
        def score(self, state, images, key, how):
            if images.shape[1] == images.shape[2]:
                raise ValueError("no squares")
            return images[..., 0]

    images = [_image(rng, 40, 90), _image(rng, 40, 40), np.zeros((0, 4, 3), np.uint8), _image(rng, 40, 90)]
    found = dict(Scorer(NoSquares(), {}, Detection(), tile_batch=2).stream(enumerate(images)))
    assert list(found) == [0, 1, 2, 3]
    assert "no squares" in str(found[1]) and "without pixels" in str(found[2])
    for number in (0, 3):
        np.testing.assert_allclose(found[number], _red(images[number]), atol=1e-6)
    with pytest.raises(ValueError, match="no squares"):
        Scorer(NoSquares(), {}, Detection())(images[1])


def test_out_of_memory_in_the_network_makes_calls_smaller_and_every_map_is_there(rng, capsys):
    images = [_image(rng, 40, 50) for _ in range(9)]
    scorer = Scorer(RedOfPixel(), {}, Detection(), tile_batch=8)
    real = scorer.calls.score

    def small_memory(stack):
        if len(stack) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(stack)

    scorer.calls.score = small_memory
    for number, score in scorer.stream(enumerate(images)):
        np.testing.assert_allclose(score, _red(images[number]), atol=1e-6)
    assert capsys.readouterr().err.count("out of memory with") == 2  # 8 to 4, 4 to 2
    scorer.calls.score = lambda stack: small_memory(np.repeat(stack, 9, 0))
    with pytest.raises(OutOfMemory, match="--tile 64"):
        list(scorer.stream(enumerate(images)))


def test_wide_network_scores_the_same_with_its_kernels_prepared(rng):
    """Channels enough for every form of convolution: the scorer's map against the method's own, traced as it is."""
    method = Segmentation(narrow=2, variant="table4_baseline")
    image = rng.integers(0, 256, (256, 256, 3), np.uint8)
    like = {"image": jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)}
    state = jax.jit(lambda key: method.init(key, like))(jax.random.key(0))
    how = Detection(filter="none", geometry="native", batch_norm="running")
    score = jax.jit(lambda state, x: method.score(state, x, jax.random.key(0), how))
    plain = score(state, image[None] / np.float32(255))
    stack = stack_scorer(method, state, how)
    np.testing.assert_allclose(stack(image[None]), plain, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(stack(np.stack([image, image]))[0], stack(np.stack([image, image]))[1])
