"""What happens to one image on its way into a batch: scaled, cropped, flipped, corrupted (NumPy and OpenCV).

Images are uint8 RGB (h, w, 3), masks uint8 0/1 (h, w) with crack = 1, `keep` uint8 (1, h, w, 1) with
1 = kept, `corrupted` uint8 (1, h, w, 3). Every draw comes from the generator that is passed in, in a
fixed order: the factor, the offsets y and x, the two mirrorings, the corruption.
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

import cv2
import numpy as np
from jaxtyping import UInt8

from cracks_jax.errors import UsageError
from cracks_jax.ops.corruption import JUMBLED_CELLS, KINDS, Kind, check_side, draw, jumbled

Element = dict[str, np.ndarray]

# What the masks are compared with: nothing is hidden, and the input is the image itself, or the image and noise.
Control = Literal["identity", "noise"]
CONTROLS: tuple[str, ...] = get_args(Control)
NOISE = 0.1


@dataclass(frozen=True)
class Pipeline:
    """What happens to one image on its way into a batch. Wrong values raise UsageError.

    Attributes:
      crop: side of the square that a network sees, px.
      resize: every image is first made resize x resize, its shape ignored (UP-CrackNet: 286); None keeps it.
      scale: the image is enlarged by a factor drawn uniformly between these two (CrackSeg: 1 to 2).
      flip_horizontal, flip_vertical: mirror with probability one half.
      corruption: None gives image and mask (segmentation); 'squares', 'stripes' or 'jumbled' give the image
        and its corrupted twin (restoration; masks are not read). Controls that hide nothing: 'identity' (the twin is
        the image: a plain autoencoder) and 'noise'.
      noise: of 'noise', the standard deviation as a share of the range of a pixel, in each channel by itself.
      corrupt_before: corrupt the crop-sized uint8 image before it is resized and cropped, as UP-CrackNet's
        authors do: the removed squares grow with the resize, their grid shifts with the crop, and their edges
        are soft. `keep` is then the warped mask cut at one half. Otherwise corrupted = image x keep exactly.
      jumble_cells: cell sides in px that 'jumbled' draws from.

    An image smaller than the crop after scaling is padded by reflection, its mask too.
    """

    crop: int = 256
    resize: int | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip_horizontal: bool = True
    flip_vertical: bool = False
    corruption: Literal[Kind, Control] | None = None
    corrupt_before: bool = False
    jumble_cells: tuple[int, ...] = JUMBLED_CELLS
    noise: float = NOISE

    def __post_init__(self) -> None:
        for name in ("scale", "jumble_cells"):
            value = getattr(self, name)
            demand(isinstance(value, (tuple, list)), f"{name} is {value!r}; give numbers in a list")
            # A list is what JSON gives back; equal settings must hash equally.
            object.__setattr__(self, name, tuple(value))
        for name in ("flip_horizontal", "flip_vertical", "corrupt_before"):
            value = getattr(self, name)
            demand(isinstance(value, bool), f"{name} is {value!r}; give true or false")
        demand(whole(self.crop), f"crop is {self.crop!r}; give a whole number of pixels, at least 1")
        demand(
            self.resize is None or (whole(self.resize) and self.resize >= self.crop),
            f"resize is {self.resize!r}; give none, or a whole number of pixels from crop ({self.crop}) up",
        )
        demand(
            len(self.scale) == 2
            and all(isinstance(s, (int, float)) for s in self.scale)
            and 0 < self.scale[0] <= self.scale[1] < float("inf"),
            f"scale is {self.scale!r}; give two factors above 0, the lesser first, such as (1.0, 2.0)",
        )
        self._check_corruption()

    def _check_corruption(self) -> None:
        if self.corruption is None:
            demand(not self.corrupt_before, "corrupt_before is true without a corruption; name a corruption")
            return
        kinds = ", ".join((*KINDS, *CONTROLS))
        demand(
            self.corruption in (*KINDS, *CONTROLS),
            f"corruption is {self.corruption!r}; give none or one of {kinds}",
        )
        demand(
            isinstance(self.noise, (int, float)) and 0 < self.noise <= 1,
            f"noise is {self.noise!r}; give a share of a pixel's range, above 0 and at most 1",
        )
        demand(
            self.corruption not in CONTROLS or not self.corrupt_before,
            f"corrupt_before is true, but {self.corruption} hides nothing; give false",
        )
        try:
            check_side(self.crop)
        except ValueError as error:
            raise UsageError(f"pipeline setting crop: {error}") from error
        demand(
            not self.corrupt_before or self.resize is not None,
            "corrupt_before is true without a resize to come before; give resize (286 for a crop of 256)",
        )
        # Three sets need three cells, and a side that 16 divides holds one or at least four.
        offered = [cell for cell in JUMBLED_CELLS if cell < self.crop]
        demand(
            self.corruption != "jumbled"
            or (self.jumble_cells != () and set(self.jumble_cells) <= set(offered)),
            f"jumble_cells is {self.jumble_cells!r}; give one or more of {', '.join(map(str, offered))}",
        )


def whole(value: object, least: int = 1) -> bool:
    """Whether `value` is an integer (no bool) from `least` up."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= least)


def demand(holds: bool, message: str) -> None:
    """UsageError with `message` unless it holds."""
    if not holds:
        raise UsageError(f"pipeline setting {message}")


@dataclass(frozen=True)
class Geometry:
    """One drawn placement: resize to (height, width), reflect up to the crop, cut at (y, x), mirror."""

    height: int
    width: int
    y: int
    x: int
    crop: int
    mirror_x: bool
    mirror_y: bool

    def apply(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        """(h, w) or (h, w, c) -> (crop, crop[, c]); the same placement for image, mask and corrupted twin."""
        array = resize_image(array, self.height, self.width, interpolation)
        array = _reflect_to(array, self.crop)[self.y : self.y + self.crop, self.x : self.x + self.crop]
        array = array[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]
        return np.ascontiguousarray(array)


def draw_geometry(settings: Pipeline, height: int, width: int, rng: np.random.Generator) -> Geometry:
    """A placement for an image of this size: every factor, offset and mirroring equally likely."""
    if settings.resize is not None:
        height = width = settings.resize
    factor = rng.uniform(*settings.scale)
    height, width = max(1, round(height * factor)), max(1, round(width * factor))
    y = int(rng.integers(max(height - settings.crop, 0) + 1))
    x = int(rng.integers(max(width - settings.crop, 0) + 1))
    mirror_x, mirror_y = (bool(draw) for draw in rng.random(2) < 0.5)
    mirror_x, mirror_y = mirror_x and settings.flip_horizontal, mirror_y and settings.flip_vertical
    return Geometry(height, width, y, x, settings.crop, mirror_x, mirror_y)


def resize_image(array: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    """(h, w) or (h, w, c) at another size by OpenCV; the array itself where it has that size."""
    if array.shape[:2] == (height, width):
        return array
    return cv2.resize(array, (width, height), interpolation=interpolation)


def _reflect_to(array: np.ndarray, side: int) -> np.ndarray:
    missing_y, missing_x = max(side - array.shape[0], 0), max(side - array.shape[1], 0)
    if not missing_y and not missing_x:
        return array
    top, left = missing_y // 2, missing_x // 2
    return cv2.copyMakeBorder(array, top, missing_y - top, left, missing_x - left, cv2.BORDER_REFLECT_101)


def draw_keep(settings: Pipeline, rng: np.random.Generator) -> UInt8[np.ndarray, "side side"]:
    """One corruption mask of the crop's size, each of the kind's masks equally likely; 1 = kept."""
    assert settings.corruption is not None
    if settings.corruption in CONTROLS:
        return np.ones((settings.crop, settings.crop), np.uint8)
    if settings.corruption == "jumbled":
        cell = int(rng.choice(settings.jumble_cells))
        return jumbled(settings.crop, cell, rng)[int(rng.integers(3)), :, :, 0]
    return draw(cast(Kind, settings.corruption), settings.crop, rng)[0, :, :, 0]


def segmentation_element(
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "h w"],
    settings: Pipeline,
    rng: np.random.Generator,
) -> Element:
    """One `image` and its `mask`, placed alike: the image bilinearly, the mask by nearest neighbour."""
    geometry = draw_geometry(settings, image.shape[0], image.shape[1], rng)
    # INTER_NEAREST_EXACT samples pixel centres, as the bilinear resize does; plain INTER_NEAREST is shifted.
    return {
        "image": geometry.apply(image, cv2.INTER_LINEAR),
        "mask": geometry.apply(mask, cv2.INTER_NEAREST_EXACT),
    }


def restoration_element(
    image: UInt8[np.ndarray, "h w 3"], settings: Pipeline, rng: np.random.Generator
) -> Element:
    """One `image`, its `corrupted` twin and what was kept (`keep`), by the order that the settings name."""
    if settings.corrupt_before:
        # The authors' images are already of the crop's size at this point (UPCRACKNET.md section 3).
        image = resize_image(image, settings.crop, settings.crop, cv2.INTER_LINEAR)
    geometry = draw_geometry(settings, image.shape[0], image.shape[1], rng)
    keep = draw_keep(settings, rng)
    placed = geometry.apply(image, cv2.INTER_LINEAR)
    if settings.corrupt_before:
        corrupted = geometry.apply(image * keep[..., None], cv2.INTER_LINEAR)
        keep = (geometry.apply(keep.astype(np.float32), cv2.INTER_LINEAR) >= 0.5).astype(np.uint8)
    else:
        corrupted = placed * keep[..., None]
        if settings.corruption == "noise":
            drawn = placed + 255 * settings.noise * rng.standard_normal(placed.shape, np.float32)
            corrupted = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
    return {"image": placed, "corrupted": corrupted[None], "keep": keep[None, :, :, None]}
