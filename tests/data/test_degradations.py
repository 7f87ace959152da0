"""Degraded photographs: the stated models, by other means; the same each time; worse with every severity; in place."""

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from cracks_jax.data import degradations, synthetic
from cracks_jax.data.degradations import KINDS, SEVERITIES, degrade
from cracks_jax.data.images import read_image
from cracks_jax.errors import UsageError

STEMS = ("a", "11125-1", "Überweg", "bad\udcff", "", "IMG_6526-3")


def linear(value: float) -> float:
    """IEC 61966-2-1 for one 8-bit value."""
    value = value / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def srgb(light: float) -> int:
    light = min(max(light, 0.0), 1.0)
    return round(255 * (12.92 * light if light <= 0.0031308 else 1.055 * math.pow(light, 1 / 2.4) - 0.055))


LINEAR = np.array([linear(value) for value in range(256)])


def flat(value: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def pavement(height: int, width: int) -> np.ndarray:
    return synthetic.draw_pavement(0, 1, (height, width), cracked=True)[0]


def all_severities(image: np.ndarray, kind: str, key: str) -> list[np.ndarray]:
    return [degrade(image, kind, severity, key=key) for severity in (0, *SEVERITIES)]


def distances(image: np.ndarray, kind: str, key: str) -> np.ndarray:
    return np.array([np.abs(worse.astype(float) - image).mean() for worse in all_severities(image, kind, key)])


def test_light_and_back_is_the_same_for_every_value():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    light = degradations.to_light(image)
    assert light.dtype == np.float32
    np.testing.assert_allclose(light[..., 0].ravel(), LINEAR, rtol=1e-6)
    np.testing.assert_array_equal(degradations.from_light(light), image)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_0_is_an_equal_copy_and_no_severity_touches_the_input(kind):
    image = pavement(48, 64)
    before = image.copy()
    image.setflags(write=False)
    copy = degrade(image, kind, 0, key="a")
    np.testing.assert_array_equal(copy, image)
    assert not np.shares_memory(copy, image)
    for worse in all_severities(image, kind, "a")[1:]:
        assert worse.shape == image.shape and worse.dtype == np.uint8
        assert not np.shares_memory(worse, image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_degradation_is_a_function_of_its_arguments(kind):
    image = pavement(64, 80)
    worse = degrade(image, kind, 3, key="a")
    np.random.seed(1)  # noqa: NPY002  the global state must not matter
    np.testing.assert_array_equal(degrade(image, kind, 3, key="a", seed=0), worse)
    np.testing.assert_array_equal(degrade(image[::-1, ::-1].copy()[::-1, ::-1], kind, np.int64(3), key="a"), worse)
    by_key = {degrade(image, kind, 3, key=str(number)).tobytes() for number in range(12)}
    by_seed = {degrade(image, kind, 3, key="a", seed=seed).tobytes() for seed in range(12)}
    expected = 2 if kind == "exposure" else 12
    assert len(by_key) == len(by_seed) == expected


def test_another_process_gives_the_same_pixels():
    code = (
        "import hashlib, numpy as np; from cracks_jax.data.degradations import KINDS, degrade\n"
        "image = (np.arange(40 * 56 * 3).reshape(40, 56, 3) * 7919 % 251).astype(np.uint8)\n"
        "print(*(hashlib.sha256(degrade(image, kind, 3, key='a', seed=2)).hexdigest() for kind in KINDS))"
    )
    image = (np.arange(40 * 56 * 3).reshape(40, 56, 3) * 7919 % 251).astype(np.uint8)
    here = [hashlib.sha256(degrade(image, kind, 3, key="a", seed=2)).hexdigest() for kind in KINDS]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == here


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(33, 47), (96, 128), (192, 144)])
def test_every_severity_is_further_from_the_drawn_original(kind, size):
    image = pavement(*size)
    for stem in STEMS:
        assert (np.diff(distances(image, kind, stem)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_severity_is_further_from_the_real_original(kind, cracks_data):
    paths = sorted((cracks_data / "deepcrack" / "test" / "images").iterdir())[::30]
    assert len(paths) > 5
    for path in paths:
        found = distances(read_image(path), kind, path.stem)
        assert (np.diff(found) > 0).all(), path.stem
        assert found[1] > 0.5, path.stem  # mild, but there


@pytest.mark.parametrize("kind", ["shadow", "stain", "noise"])
def test_each_pixel_goes_its_own_way_only_further(kind):
    """The same outline, blobs and pattern at every severity: no pixel turns back."""
    image = flat(150)
    steps = np.stack(all_severities(image, kind, "a")).astype(int) - 150
    assert (np.abs(np.diff(np.abs(steps), axis=0)).sum((1, 2, 3)) > 0).all()
    assert (np.diff(np.abs(steps), axis=0) >= 0).all()
    assert (steps[1:] * steps[:-1] >= 0).all()


@pytest.mark.parametrize("kind", ["shadow", "stain"])
@pytest.mark.parametrize("stem", STEMS)
def test_shade_and_stain_darken_their_share_and_leave_the_rest_alone(kind, stem):
    least, most = degradations.SHADOW_SHARE if kind == "shadow" else (degradations.STAIN_SHARE,) * 2
    left = {"shadow": degradations.SHADOW_LEFT, "stain": degradations.STAIN_LEFT}[kind]
    white = degrade(flat(255, 192, 256), kind, 5, key=stem)
    half = LINEAR[white[..., 0]] < (1 + left[-1]) / 2
    assert least - 0.02 < half.mean() < most + 0.02
    # Nothing shows more than a dimmed white: what is white here stays as it was in any image.
    clean = (white == 255).all(-1)
    assert 1 - most - 0.2 < clean.mean() < 1 - least

    image = pavement(192, 256)
    for severity, factor in zip(SEVERITIES, left, strict=True):
        worse = degrade(image, kind, severity, key=stem)
        np.testing.assert_array_equal(worse[clean], image[clean])
        assert (worse <= image).all()
        # The core: every channel keeps exactly the stated part of its light.
        core = degrade(flat(200, 192, 256), kind, severity, key=stem).min((0, 1))
        np.testing.assert_array_equal(core, srgb(factor * linear(200)))


@pytest.mark.parametrize("kind", ["shadow", "stain"])
@pytest.mark.parametrize("side", [96, 384])
def test_edges_are_as_soft_as_the_image_is_large(kind, side):
    """The steepest that a blurred edge can fall is its depth / (sqrt(2 pi) deviation); askew edges show 0.7 of it."""
    for stem in STEMS:
        light = LINEAR[degrade(flat(255, side, side), kind, 5, key=stem)[..., 0]]
        step = side // 64  # over one pixel of the larger image, 8 bits are too coarse
        fall = max(np.abs(light[step:] - light[:-step]).max(), np.abs(light[:, step:] - light[:, :-step]).max()) / step
        steepest = (1 - light.min()) / (math.sqrt(2 * math.pi) * degradations.EDGE * side)
        assert 0.6 < fall / steepest < 1.08


def test_exposure_is_a_gain_in_linear_light():
    # By hand: 128 is light 0.21586; 2.2 stops less is 0.04698, which is 61; 0.9 more is 0.40281, which is 170.
    seen = {int(degrade(flat(128), "exposure", severity, key=k)[0, 0, 0]) for severity in (2, 3) for k in "abcdef"}
    assert {61, 170} <= seen

    ramp = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    for stem in STEMS:
        over = degrade(flat(128), "exposure", 1, key=stem)[0, 0, 0] > 128
        for level, severity in enumerate(SEVERITIES):
            stops = degradations.STOPS_OVER[level] if over else -degradations.STOPS_UNDER[level]
            expected = [srgb(linear(value) * 2**stops) for value in range(256)]
            found = degrade(ramp, "exposure", severity, key=stem)
            assert np.abs(found[:, 0, :] - np.array(expected)[:, None]).max() == 0


def test_half_of_the_keys_are_too_bright_at_every_severity_alike():
    image = flat(128, 2, 2)
    over = [[degrade(image, "exposure", s, key=f"{n}")[0, 0, 0] > 128 for s in SEVERITIES] for n in range(300)]
    assert all(len(set(signs)) == 1 for signs in over)
    assert 0.42 < np.mean(over) < 0.58


def motion(kind: str, key: str, seed: int = 0) -> float:
    """The direction, drawn as the documentation says: Philox keyed by SHA-256 of seed, kind and key."""
    digest = hashlib.sha256(f"{seed}\0{kind}\0{key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).uniform(0, np.pi)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("stem", ["a", "b", "11125-1"])
def test_motion_blur_is_the_mean_of_shifted_images_in_linear_light(severity, stem, rng):
    """The witness shifts by scipy, bilinearly, mirrored about the border pixels."""
    image = rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)
    angle, length = motion("motion_blur", stem), degradations.BLUR_LENGTH[severity - 1] * 90
    light, count = LINEAR[image], 401
    mean = np.zeros_like(light)
    for step in (np.arange(count) / (count - 1) - 0.5) * length * (count - 1) / count:
        shift = (step * math.sin(angle), step * math.cos(angle), 0)
        mean += ndimage.shift(light, shift, order=1, mode="mirror") / count
    expected = np.vectorize(srgb)(mean)
    worse = degrade(image, "motion_blur", severity, key=stem).astype(int)
    assert np.abs(worse - expected).max() <= 1
    assert (worse != expected).mean() < 0.02  # the two take their steps at different places


@pytest.mark.parametrize(
    ("length", "angle", "expected"),
    [
        (0.0, 0.3, [[1.0]]),
        (2.0, 0.0, [[0, 0, 0], [0.25, 0.5, 0.25], [0, 0, 0]]),
        (2.0, np.pi / 2, [[0, 0.25, 0], [0, 0.5, 0], [0, 0.25, 0]]),
        # One pixel each way along the diagonal: (1-|t|)^2, |t|(1-|t|) and t^2, integrated over -1..1 and halved.
        (2 * np.sqrt(2), np.pi / 4, [[1 / 6, 1 / 12, 0], [1 / 12, 1 / 3, 1 / 12], [0, 1 / 12, 1 / 6]]),
    ],
)
def test_line_kernels_agree_with_integrals_by_hand(length, angle, expected):
    kernel = degradations.line_kernel(length, angle)
    border = (len(kernel) - len(expected)) // 2
    np.testing.assert_allclose(kernel, np.pad(expected, border), atol=1e-4)


@pytest.mark.parametrize("length", [0.1, 1.0, 3.3, 12.0, 60.5])
@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
def test_line_kernels_keep_light_and_place(length, angle):
    """Symmetric to the last bit, sum 1; the spread along the line is a uniform line's and a triangle's, length^2/12."""
    kernel = degradations.line_kernel(length, angle)
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
    assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, abs=1e-12)
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - kernel.shape[0] // 2
    spread = (kernel * (x**2 + y**2)).sum()
    assert length**2 / 12 * 0.98 < spread < length**2 / 12 + 0.5  # bilinear shifts add up to 1/4 per axis


def test_a_centred_crack_stays_centred_under_motion():
    image = flat(220, 129, 129)
    image[:, 63:66] = 20
    columns = np.arange(129)
    for stem in STEMS:
        for worse in all_severities(image, "motion_blur", stem):
            dark = linear(220) - LINEAR[worse[64, :, 0]]
            assert (dark * columns).sum() / dark.sum() == pytest.approx(64, abs=0.02)
            assert dark[64] == dark.max()
            np.testing.assert_allclose(worse.astype(int), worse[::-1, ::-1], atol=1)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("value", [100, 188])
def test_noise_is_counted_electrons_and_the_error_of_reading_them(severity, value, rng):
    """The witness counts: true Poisson electrons, read with an error of 3, cut at black and white."""
    white = degradations.NOISE_ELECTRONS[severity - 1]
    counted = (rng.poisson(linear(value) * white, 400_000) + rng.normal(0, 3, 400_000)) / white
    counted = np.clip(counted, 0, 1)
    found = LINEAR[degrade(flat(value, 200, 200), "noise", severity, key="a")]
    assert found.mean() == pytest.approx(counted.mean(), rel=0.01)
    assert found.var() == pytest.approx(counted.var(), rel=0.04)
    # Pixels and channels are independent.
    channels = np.corrcoef(found.reshape(-1, 3).T)
    assert np.abs(channels - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(found[:, 1:].ravel(), found[:, :-1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("kind", ["shadow", "stain", "exposure", "motion_blur"])
def test_an_image_twice_as_large_is_hurt_alike(kind):
    small = cv2.GaussianBlur(pavement(128, 192), (0, 0), 1.5)
    large = cv2.resize(small, (384, 256), interpolation=cv2.INTER_LINEAR)
    for stem in STEMS[:4]:
        reduced = cv2.resize(degrade(large, kind, 4, key=stem), (192, 128), interpolation=cv2.INTER_AREA)
        worse = degrade(small, kind, 4, key=stem).astype(float)
        assert np.abs(reduced - worse).mean() < 0.25 * np.abs(worse - small).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 47), (300, 7)])
def test_any_size_and_flat_images_work(kind, size):
    for value in (0, 90, 255):
        for severity in SEVERITIES:
            worse = degrade(flat(value, *size), kind, severity, key="a")
            assert worse.shape == (*size, 3) and worse.dtype == np.uint8
            if kind == "motion_blur":
                assert (worse == value).all()
            if kind != "noise" and value == 0:
                assert (worse == 0).all()


@pytest.mark.parametrize(
    ("kind", "severity", "named"),
    [
        ("fog", 1, "'fog'.*shadow, stain, exposure, motion_blur, noise"),
        ("noise", 6, "severity is 6;.*1, 2, 3, 4, 5"),
        ("noise", -1, "severity is -1"),
        ("noise", 2.0, "severity is 2.0"),
        ("noise", True, "severity is True"),
        ("noise", "3", "severity is '3'"),
    ],
)
def test_a_wrong_kind_or_severity_is_named(kind, severity, named):
    with pytest.raises(UsageError, match=named):
        degrade(flat(90), kind, severity, key="a")


@pytest.mark.parametrize(
    "image",
    [flat(90)[..., 0], flat(90).astype(np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_rgb_image_is_named(image):
    with pytest.raises(UsageError, match=r"image is (uint8|float32) \("):
        degrade(image, "noise", 0, key="a")
