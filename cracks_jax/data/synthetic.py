"""Drawn pavements with exact crack masks: the data set that needs no download.

A picture is a pure function of (seed, position): same numbers, same picture. The pavement and its light are
drawn first and do not depend on whether a crack runs through. A mask holds the pixels that a crack covers by
more than half; the crack is drawn at four times the size of the picture, so coverage is known to a sixteenth.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from cracks_jax.data import pavement
from cracks_jax.data.elements import whole
from cracks_jax.data.images import write_image, write_mask
from cracks_jax.data.manifest import filled_aside, finished, write_manifest
from cracks_jax.errors import UsageError

# Cracks are drawn at this multiple of the picture's size.
CRACK_OVER = 4
# Each part of a drawn data set takes its positions from its own block, so no pavement occurs twice.
PARTS = {"train": 0, "test": 1 << 20, "undamaged": 2 << 20}
# Streams of random numbers: the pavement must not depend on the crack.
_PAVEMENT, _CRACK, _SENSOR = range(3)


def draw_pavement(
    seed: int, position: int, size: tuple[int, int] = (192, 192), *, cracked: bool
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """One drawn photograph (RGB) and its mask (True = crack; all False where not `cracked`).

    Args:
      seed, position: non-negative; together they determine the picture.
      size: (h, w) in pixels, each at least 32.
      cracked: whether a crack runs through; the pavement is the same either way.
    """
    if min(size) < 32:
        raise UsageError(f"size {size[0]}x{size[1]}: drawn pavements have at least 32 pixels on each side")
    if seed < 0 or position < 0:
        raise UsageError(f"seed {seed}, position {position}: expected no negative number")
    rng = _generator(seed, _PAVEMENT, position)
    surface = pavement.draw_surface(rng, size)
    light = pavement.draw_light(rng, size)
    coverage = np.zeros(size, np.float32)
    if cracked:
        crack = _generator(seed, _CRACK, position)
        coverage = _coverage(_draw_crack(crack, size), size)
        surface = _darken(crack, surface, coverage)
    return _photograph(_generator(seed, _SENSOR, position), surface * light[..., None], size), coverage > 0.5


def draw_dataset(
    out: str | Path,
    *,
    seed: int = 0,
    train: int = 96,
    test: int = 32,
    undamaged: int = 96,
    size: tuple[int, int] = (192, 192),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draws `train` and `test` pictures with masks and `undamaged` ones without, in the open layout.

    Writes `out/train/{images,masks}`, `out/test/{images,masks}`, `out/undamaged/images` and
    `out/manifest.json`, and returns the manifest. Where `out` already holds the same data set nothing is
    drawn; where it holds anything else a UsageError is raised. `progress(done, total)` is called after every
    picture.
    """
    wanted = {"train": train, "test": test, "undamaged": undamaged}
    for name, value in {"seed": seed, **wanted}.items():
        if not whole(value, least=0):
            raise UsageError(f"drawn data: {name} is {value!r}; expected a whole number, none negative")
    if not sum(wanted.values()):
        raise UsageError("drawn data: asked for no picture; expected at least one in all")
    if not (isinstance(size, (tuple, list)) and len(size) == 2 and all(whole(side, least=32) for side in size)):
        raise UsageError(f"drawn data: size is {size!r}; expected [height, width], at least 32 pixels each")
    size = (size[0], size[1])
    out = Path(out)
    head = {"recipe": "drawn", "settings": {"seed": seed, **wanted, "size": list(size)}}
    found = finished(out, head)
    if found is not None:
        return found
    done, total = 0, sum(wanted.values())
    digest = hashlib.sha256()
    shares = {}
    with filled_aside(out) as folder:
        for part, count in wanted.items():
            pixels = 0
            for number in range(count):
                pixels += _draw_record(
                    folder / part, f"{number:04d}", seed, PARTS[part] + number, size, digest
                )
                done += 1
                if progress is not None:
                    progress(done, total)
            shares[part] = pixels / max(1, count * size[0] * size[1])
        manifest = {**head, "counts": wanted, "crack_share": shares, "digest": digest.hexdigest()}
        write_manifest(folder, manifest)
    return manifest


def _draw_record(
    folder: Path, stem: str, seed: int, position: int, size: tuple[int, int], digest: Any
) -> int:
    """Draws one picture into its part's folder; returns its number of crack pixels."""
    cracked = folder.name != "undamaged"
    image, mask = draw_pavement(seed, position, size, cracked=cracked)
    write_image(folder / "images" / f"{stem}.png", image)
    digest.update(image.tobytes())
    if cracked:
        write_mask(folder / "masks" / f"{stem}.png", mask)
        digest.update(np.packbits(mask).tobytes())
    return int(mask.sum())


def _generator(seed: int, stream: int, position: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream, position))


def _draw_crack(rng: np.random.Generator, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """One or two cracks with their branches at CRACK_OVER times the size, 255 where there is crack."""
    canvas = np.zeros((size[0] * CRACK_OVER, size[1] * CRACK_OVER), np.uint8)
    widest = float(np.exp(rng.uniform(np.log(1.5), np.log(6.0))))
    for _ in range(rng.choice([1, 1, 1, 1, 2, 2])):
        _walk_through(rng, canvas, widest * rng.uniform(0.7, 1.0))
    return _fray(rng, canvas)


def _walk_through(rng: np.random.Generator, canvas: UInt8[np.ndarray, "H W"], width: float) -> None:
    """A crack from one side of the picture towards the other."""
    height, length = canvas.shape[0] / CRACK_OVER, canvas.shape[1] / CRACK_OVER
    heading = rng.uniform(0, 2 * np.pi)
    middle = np.array([height, length]) * rng.uniform(0.3, 0.7, 2)
    reach = 0.75 * max(height, length)
    start = middle - reach * np.array([np.sin(heading), np.cos(heading)])
    steps = int(2 * reach / 2.5 * rng.uniform(0.6, 1.0))
    _walk(rng, canvas, start, heading, width, steps, children=int(rng.integers(0, 3)), generation=0)


def _walk(
    rng: np.random.Generator,
    canvas: UInt8[np.ndarray, "H W"],
    start: Float[np.ndarray, "2"],
    heading: float,
    width: float,
    steps: int,
    *,
    children: int,
    generation: int,
) -> None:
    """Draws a random walk that keeps its heading on the whole, changes its width, ends thin, and branches."""
    restless = rng.uniform(0.6, 1.3)
    row = (1, steps)
    bends, zigzag = pavement.noise(rng, row, 16.0)[0], pavement.noise(rng, row, 3.0)[0]
    angles = heading + restless * (0.3 * bends + 0.4 * zigzag + 0.25 * rng.standard_normal(steps))
    stride = rng.uniform(1.5, 4.5, steps)
    points = start + np.cumsum(np.stack([np.sin(angles), np.cos(angles)], 1) * stride[:, None], 0)
    swell = np.exp(0.3 * pavement.noise(rng, row, 9.0)[0] + 0.2 * pavement.noise(rng, row, 2.0)[0])
    taper = np.minimum(1, np.linspace(steps, 0, steps) / 15)
    widths = np.clip(width * swell * taper, 1.1, 7.0)
    for i in range(steps - 1):
        ends = [tuple(int(round(v * CRACK_OVER * 16)) for v in points[j][::-1]) for j in (i, i + 1)]
        thickness = max(1, round(float(widths[i]) * CRACK_OVER))
        cv2.line(canvas, ends[0], ends[1], 255, thickness, cv2.LINE_8, shift=4)
    if generation < 2:
        for _ in range(children):
            at = int(rng.integers(steps // 6, max(steps // 6 + 1, steps - 4)))
            turn = rng.choice([-1, 1]) * rng.uniform(0.6, 1.4)
            _walk(
                rng,
                canvas,
                points[at],
                float(angles[at]) + turn,
                float(widths[at]) * rng.uniform(0.4, 0.7),
                max(8, int(steps * rng.uniform(0.15, 0.6))),
                children=int(rng.random() < 0.3),
                generation=generation + 1,
            )


def _fray(rng: np.random.Generator, canvas: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Ragged edges: every point is fetched from a little way off, the way differing from stone to stone."""
    shape = canvas.shape
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    reach = rng.uniform(0.3, 0.8) * CRACK_OVER
    dy, dx = (
        reach * (pavement.noise(rng, shape, 2.0 * CRACK_OVER) + pavement.noise(rng, shape, 5.0 * CRACK_OVER))
        for _ in range(2)
    )
    return cv2.remap(canvas, x + dx, y + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def _coverage(canvas: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """The share of every pixel that is crack."""
    return cv2.resize(canvas.astype(np.float32) / 255, size[::-1], interpolation=cv2.INTER_AREA)


def _darken(
    rng: np.random.Generator, surface: pavement.Colour, coverage: Float[np.ndarray, "h w"]
) -> pavement.Colour:
    """The surface with the crack in it: deep here, filled with dust there, its rims a little worn."""
    shape = surface.shape[:2]
    covered = cv2.resize(coverage, shape[::-1], interpolation=cv2.INTER_LINEAR)
    filled = 1 + 0.2 * pavement.noise(rng, shape, 14.0 * pavement.OVER)
    filled += 0.15 * pavement.noise(rng, shape, 1.5 * pavement.OVER)
    depth = np.clip(rng.uniform(0.35, 0.8) * filled, 0.12, 0.9)
    rim = cv2.GaussianBlur(covered, (0, 0), 1.5 * pavement.OVER) * np.float32(rng.uniform(0, 0.25))
    return (surface * ((1 - depth * covered) * (1 - rim))[..., None]).astype(np.float32)


def _photograph(
    rng: np.random.Generator, scene: pavement.Colour, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """What the camera makes of the scene: a slightly soft lens, its pixels, their noise, 8 bits."""
    soft = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.4, 0.8) * pavement.OVER)
    pixels = cv2.resize(soft, size[::-1], interpolation=cv2.INTER_AREA)
    grain = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(0.004, 0.014))
    return np.clip(np.round((pixels + grain) * 255), 0, 255).astype(np.uint8)
