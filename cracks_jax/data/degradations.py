"""Five ways in which a road photograph gets worse, each at five severities, for curves of F1 against severity.

Images are uint8 RGB (h, w, 3), read as sRGB. Light is linear, float32 in [0, 1]: there, shadow, stain and exposure
are factors, motion is a mean and sensor noise has its textbook variance. NumPy and OpenCV only.

Five severities of one corruption are Hendrycks & Dietterich's design (2019, "Benchmarking neural network robustness
to common corruptions and perturbations"). Otherwise than there, an image keeps its outline, blobs, direction and
noise pattern at every severity, so that a curve shows strength alone. Nothing moves: an image's mask stays true.

The strengths below were set by looking at photographs: 1 is plain to see but mild; at 5 fine cracks get lost, but a
person still finds the wide ones. They were not tuned on the result of any method.
"""

import hashlib
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from cracks_jax.data.elements import whole
from cracks_jax.data.pavement import noise as smooth_noise
from cracks_jax.errors import UsageError

KINDS = ("shadow", "stain", "exposure", "motion_blur", "noise")
SEVERITIES = (1, 2, 3, 4, 5)

# Share of the light that is left in the core: from thin cloud or bare twigs to deep shade on a sunny day.
SHADOW_LEFT = (0.65, 0.48, 0.34, 0.22, 0.13)
# From water that has nearly dried to fresh tar.
STAIN_LEFT = (0.70, 0.52, 0.37, 0.25, 0.16)
# In stops (factors of two). Fewer upwards: a sensor clips what is too bright, but only dims what is too dark.
STOPS_OVER = (0.5, 0.9, 1.3, 1.7, 2.1)
STOPS_UNDER = (0.7, 1.4, 2.2, 3.0, 3.8)
# How far the camera travels while the shutter is open, as a share of the shorter side: 2 to 17 px of 256.
BLUR_LENGTH = (0.008, 0.014, 0.024, 0.040, 0.065)
# Electrons that a white pixel collects: each severity has rather less than half the light of the one before.
NOISE_ELECTRONS = (600, 260, 115, 50, 22)
# Standard deviation of reading one pixel, in electrons; a usual figure, the same at every severity.
READ_ELECTRONS = 3.0

# Share of the image in shadow (drawn from this range), and share that is stained.
SHADOW_SHARE = (0.25, 0.45)
STAIN_SHARE = 0.2
# Standard deviation of the blur of both their edges, as a share of the shorter side: dark to light in 15 px of 256.
EDGE = 0.015

Light = Float[np.ndarray, "h w 3"]
Plane = Float[np.ndarray, "h w"]


def degrade(
    image: UInt8[np.ndarray, "h w 3"], kind: str, severity: int, *, key: str, seed: int = 0
) -> UInt8[np.ndarray, "h w 3"]:
    """A worse copy of `image`: one of KINDS at one of SEVERITIES, or an equal copy at severity 0.

    A pure function of its arguments. `key` is the image's stem: with `seed` and `kind` it fixes everything random,
    which is scaled to the shorter side (but for `noise`, which belongs to pixels). `exposure` is too bright for half
    of all keys and too dark for the others; pure white cannot become brighter. UsageError for an unknown kind or
    severity and for what is no such image.
    """
    _check(image, kind, severity)
    if severity == 0:
        return image.copy()
    light = _EFFECTS[kind](to_light(image), severity - 1, _generator(seed, kind, key))
    return from_light(light)


def to_light(image: UInt8[np.ndarray, "h w 3"]) -> Light:
    """sRGB to linear light in [0, 1] (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return table.astype(np.float32)[image]


def from_light(light: Light) -> UInt8[np.ndarray, "h w 3"]:
    """Linear light to sRGB (IEC 61966-2-1), clipped to [0, 1] and rounded; undoes `to_light` exactly."""
    light = np.clip(light, 0, 1)
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * value).astype(np.uint8)


def line_kernel(length: float, angle: float) -> Float[np.ndarray, "k k"]:
    """Motion over `length` px at `angle` (radians, from x towards y), about the centre; k is odd, the sum is 1.

    It is the mean of bilinearly shifted images, so it grows smoothly with `length`, from one pixel at 0 on.
    """
    count = 2 * int(np.ceil(32 * length)) + 2
    steps = ((np.arange(count) + 0.5) / count - 0.5) * length
    radius = int(np.ceil(length / 2))
    pixels = np.arange(-radius, radius + 1)
    down, right = (
        np.clip(1 - np.abs(pixels - steps[:, None] * slope), 0, 1) for slope in (np.sin(angle), np.cos(angle))
    )
    kernel = down.T @ right
    # Equal to the last bit when turned by half a turn: nothing may move.
    kernel = kernel + kernel[::-1, ::-1]
    return kernel / kernel.sum()


def _check(image: np.ndarray, kind: str, severity: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UsageError(f"image is {image.dtype} {image.shape}; give uint8 RGB of shape (h, w, 3)")
    if kind not in KINDS:
        raise UsageError(f"degradation is {kind!r}; give one of {', '.join(KINDS)}")
    if not whole(severity, 0) or severity > SEVERITIES[-1]:
        raise UsageError(f"severity is {severity!r}; give 0 (unchanged) or one of {', '.join(map(str, SEVERITIES))}")


def _generator(seed: int, kind: str, key: str) -> np.random.Generator:
    # surrogatepass: a stem may come from a file name that is no valid UTF-8.
    digest = hashlib.sha256(f"{seed}\0{kind}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _shadow(light: Light, level: int, rng: np.random.Generator) -> Light:
    """A tree's crown over one side of the image, or a trunk or pole across it."""
    shape = light.shape[:2]
    short = min(shape)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.2)
    share, crown = rng.uniform(*SHADOW_SHARE), rng.random() < 0.5
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = (y - (shape[0] - 1) / 2) / short, (x - (shape[1] - 1) / 2) / short
    across = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) - np.float32(offset)
    if crown:
        leaves = smooth_noise(rng, shape, 0.25 * short) + 0.3 * smooth_noise(rng, shape, 0.06 * short)
        field = across + 0.1 * leaves
    else:
        field = -np.abs(across)
    return _dim(light, _cover(field, share), SHADOW_LEFT[level])


def _stain(light: Light, level: int, rng: np.random.Generator) -> Light:
    """A few frayed patches, mostly a fifth to a third of the shorter side wide."""
    shape = light.shape[:2]
    short = min(shape)
    field = smooth_noise(rng, shape, 0.2 * short) + 0.15 * smooth_noise(rng, shape, 0.05 * short)
    return _dim(light, _cover(field, STAIN_SHARE), STAIN_LEFT[level])


def _cover(field: Plane, share: float) -> Plane:
    """1 in the given share of pixels, where `field` is highest, 0 elsewhere, with a smooth edge between."""
    # A share of pixels, not a fixed level: no image gets off lightly by its draw.
    inside = (field >= np.quantile(field, 1 - share)).astype(np.float32)
    return cv2.GaussianBlur(inside, (0, 0), EDGE * min(field.shape))


def _dim(light: Light, cover: Plane, left: float) -> Light:
    return light * (1 - (1 - left) * cover)[..., None]


def _exposure(light: Light, level: int, rng: np.random.Generator) -> Light:
    over = rng.random() < 0.5
    stops = STOPS_OVER[level] if over else -STOPS_UNDER[level]
    return light * np.float32(2.0**stops)


def _motion_blur(light: Light, level: int, rng: np.random.Generator) -> Light:
    kernel = line_kernel(BLUR_LENGTH[level] * min(light.shape[:2]), rng.uniform(0, np.pi))
    return cv2.filter2D(light, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)


def _noise(light: Light, level: int, rng: np.random.Generator) -> Light:
    """Shot and read noise: variance x / N + (r / N)^2 at light x, N electrons at white, r electrons of reading.

    Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", with their
    normal approximation of the Poisson part, so that one pattern serves every severity. Each pixel and channel is
    drawn by itself: no colour filter is interpolated, nothing compressed.
    """
    electrons = NOISE_ELECTRONS[level]
    deviation = np.sqrt(light / electrons + (READ_ELECTRONS / electrons) ** 2)
    return light + deviation * rng.standard_normal(light.shape, np.float32)


_EFFECTS: dict[str, Callable[[Light, int, np.random.Generator], Light]] = {
    "shadow": _shadow,
    "stain": _stain,
    "exposure": _exposure,
    "motion_blur": _motion_blur,
    "noise": _noise,
}
