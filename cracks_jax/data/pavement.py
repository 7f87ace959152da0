"""Drawn pavement without a crack: stones in a binder, light, shadows, stains, joints, paint.

Everything is drawn at twice the final size in linear brightness around 0..1 and reduced at the end, so edges
are anti-aliased. Lengths are in pixels of the final picture. NumPy and OpenCV only.
"""

import cv2
import numpy as np
from jaxtyping import Float

# Drawn at this multiple of the final size.
OVER = 2

Plane = Float[np.ndarray, "h w"]
Colour = Float[np.ndarray, "h w 3"]


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Plane:
    """Smooth noise of mean 0 and deviation 1 whose features are about `cell` pixels wide."""
    rows, columns = (max(2, round(length / cell) + 2) for length in shape)
    field = rng.standard_normal((rows, columns)).astype(np.float32)
    height, width = max(shape[0], round(rows * cell)), max(shape[1], round(columns * cell))
    smooth = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]
    return (smooth - smooth.mean()) / (smooth.std() + 1e-6)


def draw_surface(rng: np.random.Generator, size: tuple[int, int]) -> Colour:
    """An uncracked pavement of `size` (h, w), at OVER times that size; brightness about 0..1."""
    shape = (size[0] * OVER, size[1] * OVER)
    concrete = rng.random() < 0.3
    grey = _concrete(rng, shape) if concrete else _asphalt(rng, shape)
    colour = grey[..., None] * _tint(rng, shape, concrete)
    if rng.random() < 0.12:
        colour = _paint(rng, colour)
    if rng.random() < 0.35:
        colour = _stains(rng, colour)
    if rng.random() < (0.3 if concrete else 0.15):
        colour = _joint(rng, colour)
    if rng.random() < 0.1:
        colour = _sealed_line(rng, colour)
    return colour


def draw_light(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    """How much light falls on each pixel of the enlarged picture: uneven, now and then with a shadow."""
    shape = (size[0] * OVER, size[1] * OVER)
    slope = _ramp(shape, rng.uniform(0, 2 * np.pi)) * rng.uniform(0, 0.14)
    light = 1 + slope + noise(rng, shape, 0.7 * min(shape)) * rng.uniform(0, 0.06)
    if rng.random() < 0.3:
        light = light * _shadow(rng, shape)
    return light.astype(np.float32)


def _asphalt(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Light and dark stones of two sizes in a darker binder, with wear in large patches."""
    coarse = float(np.exp(rng.uniform(np.log(0.8), np.log(3.2)))) * OVER
    contrast = rng.uniform(0.045, 0.11)
    plane = np.full(shape, rng.uniform(0.38, 0.6), np.float32)
    plane += contrast * 0.9 * _stones(rng, shape, 1.6 * coarse)
    plane += contrast * rng.uniform(0.6, 1.3) * _stones(rng, shape, 4.0 * coarse)
    for cell, share in ((1.0, 0.35), (2.0, 0.35), (12.0, 0.15), (40.0, 0.15)):
        plane += contrast * share * noise(rng, shape, cell * OVER)
    holes = noise(rng, shape, 2.2 * coarse) - rng.uniform(1.9, 2.6)
    return plane - contrast * 1.3 * np.clip(holes, 0, 1)


def _concrete(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Fine-grained and light, with a broom finish now and then and weathering in patches."""
    contrast = rng.uniform(0.025, 0.06)
    plane = np.full(shape, rng.uniform(0.55, 0.75), np.float32)
    for cell, share in ((1.0, 0.6), (2.0, 0.5), (5.0, 0.35), (20.0, 0.35), (60.0, 0.5)):
        plane += contrast * share * noise(rng, shape, cell * OVER)
    plane += contrast * 0.7 * _stones(rng, shape, 4.0 * OVER)
    if rng.random() < 0.4:
        stretched = noise(rng, (shape[0], max(2, shape[1] // 24)), 1.5 * OVER)
        plane += contrast * 0.5 * cv2.resize(stretched, shape[::-1], interpolation=cv2.INTER_LINEAR)
    holes = noise(rng, shape, 3.0 * OVER) - rng.uniform(2.3, 3.0)
    return plane - contrast * 3 * np.clip(holes, 0, 1)


def _stones(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> Plane:
    """Broken stones of random size and tone around random points; about 0 between them, mostly -2..2."""
    count = max(1, int(shape[0] * shape[1] / spacing**2))
    # Broken, not round: distances are bent by noise of the stones' own size.
    bent = 0.16 * spacing * noise(rng, shape, 0.5 * spacing)
    ground = np.full(shape, 255, np.uint8)
    ground[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
    distance, nearest = cv2.distanceTransformWithLabels(
        ground, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    radius = spacing * rng.uniform(0.2, 0.62, count + 1).astype(np.float32)
    tone = rng.normal(0.25, 0.9, count + 1).astype(np.float32)
    inside = np.clip((radius[nearest] - distance - bent) / 1.2, 0, 1)
    return inside * tone[nearest] - 0.15 * (1 - inside)


def _tint(rng: np.random.Generator, shape: tuple[int, int], concrete: bool) -> Colour:
    """Warm or cool, a little differently from stone to stone: the three channels as multiples of grey."""
    warmth = rng.normal(0.06 if concrete else 0.01, 0.045) + 0.008 * noise(rng, shape, 5.0 * OVER)
    return np.stack([1 + warmth, 1 + 0.2 * warmth, 1 - warmth], -1).astype(np.float32)


def _ramp(shape: tuple[int, int], angle: float) -> Plane:
    """A plane that rises along `angle` from about -1 to 1 over the picture."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    return x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))


def _distance_to_line(rng: np.random.Generator, shape: tuple[int, int], wobble: float) -> Plane:
    """Signed distance in (enlarged) pixels to a random line through the picture, bent by `wobble` pixels."""
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.12) if rng.random() < 0.7 else rng.uniform(0, np.pi)
    half = min(shape) / 2
    distance = (_ramp(shape, angle) - rng.uniform(-0.7, 0.7)) * half
    return distance + wobble * noise(rng, shape, 30.0 * OVER)


def _shadow(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """The light that a soft-edged shadow leaves: of something straight (a wall, a pole) or of leaves."""
    depth = rng.uniform(0.25, 0.55)
    softness = rng.uniform(1.5, 9) * OVER
    kind = rng.random()
    if kind < 0.4:
        edge = _distance_to_line(rng, shape, 0.0)
    elif kind < 0.7:
        edge = rng.uniform(6, 22) * OVER - np.abs(_distance_to_line(rng, shape, 0.0))
    else:
        leaves = noise(rng, shape, rng.uniform(14, 40) * OVER) + 0.35 * noise(rng, shape, 7.0 * OVER)
        edge = 10 * OVER * (leaves - rng.uniform(0.2, 1.0))
        softness = max(softness, 8 * OVER)
    return 1 - depth * np.clip(0.5 + edge / softness, 0, 1)


def _stains(rng: np.random.Generator, colour: Colour) -> Colour:
    """Dark drops and puddles of oil: blurred, frayed, some with a darker core."""
    shape = colour.shape[:2]
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    frayed = noise(rng, shape, 9.0 * OVER) * 0.2 + noise(rng, shape, 2.0 * OVER) * 0.1
    left = np.ones(shape, np.float32)
    for _ in range(rng.integers(1, 4)):
        centre_y, centre_x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        radius = rng.uniform(4, 26) * OVER
        reach = np.hypot((y - centre_y) * rng.uniform(0.6, 1.5), x - centre_x) / radius + frayed
        left *= 1 - rng.uniform(0.12, 0.5) * np.clip((1.3 - reach) / rng.uniform(0.5, 1.2), 0, 1)
    return colour * left[..., None]


def _joint(rng: np.random.Generator, colour: Colour) -> Colour:
    """A straight dark groove of even width, such as a sawn joint: a dark line that is no crack."""
    shape = colour.shape[:2]
    half = rng.uniform(0.8, 2.8) * OVER
    distance = np.abs(_distance_to_line(rng, shape, 0.0))
    depth = rng.uniform(0.25, 0.6) * (1 + 0.12 * noise(rng, shape, 6.0 * OVER))
    return colour * (1 - depth * np.clip((half - distance) / OVER + 0.5, 0, 1))[..., None]


def _sealed_line(rng: np.random.Generator, colour: Colour) -> Colour:
    """A band of tar along a line, smooth and dark, its edges slightly wavy."""
    shape = colour.shape[:2]
    half = rng.uniform(3, 7) * OVER
    distance = np.abs(_distance_to_line(rng, shape, 4.0 * OVER)) + 0.8 * OVER * noise(rng, shape, 5.0 * OVER)
    cover = 0.9 * np.clip((half - distance) / (1.5 * OVER) + 0.5, 0, 1)
    tar = rng.uniform(0.14, 0.26) + 0.02 * noise(rng, shape, 3.0 * OVER)
    return colour * (1 - cover)[..., None] + (tar * cover)[..., None]


def _paint(rng: np.random.Generator, colour: Colour) -> Colour:
    """A worn lane marking, white or yellow: paint fills the texture and has come off in places."""
    shape = colour.shape[:2]
    half = rng.uniform(9, 24) * OVER
    distance = np.abs(_distance_to_line(rng, shape, 0.0))
    worn = np.clip(1.5 + 0.6 * noise(rng, shape, 3.0 * OVER) + 0.5 * noise(rng, shape, 14.0 * OVER), 0, 1)
    cover = rng.uniform(0.6, 0.95) * worn * np.clip((half - distance) / (1.5 * OVER) + 0.5, 0, 1)
    tone = [0.86, 0.85, 0.82] if rng.random() < 0.7 else [0.8, 0.66, 0.28]
    painted = np.array(tone, np.float32) + 0.35 * (colour - colour.mean((0, 1)))
    return colour * (1 - cover[..., None]) + painted * cover[..., None]
