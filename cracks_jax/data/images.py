"""The only door to pixels on disk: one image, one mask or one score map, read with checks or written whole.

Images: uint8 (h, w, 3) RGB. Masks: bool (h, w), True = crack; on disk 8-bit PNG, 0 and 255. Scores: float32
(h, w) in [0, 1]. JPEG, PNG, TIFF (its first page), BMP and WebP are told apart by their content, not by their
name. Everything that is wrong with a file is a CracksError that names it. Written files appear whole or not
at all. NumPy and OpenCV only: worker processes import this and must not start jax.

What is read may mean harm. A picture that claims more than `MAX_PIXELS` is refused before it is decoded, a file of
more than `MAX_BYTES` before it is read, a name that could steer a terminal whatever the file holds.
"""

import io
import os
import re
import stat
import unicodedata
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from cracks_jax.data.headers import FORMATS, DamagedPicture, check_whole, claimed_size
from cracks_jax.data.matlab import read_segmentation
from cracks_jax.errors import CracksError
from cracks_jax.untrusted import read_array, read_arrays

# 16384 x 16384, or 268 megapixels: more than any camera, and 0.8 GB once it is decoded.
MAX_PIXELS = 2**28
# No compression at all, and 8 bytes for each of those pixels.
MAX_BYTES = 8 * MAX_PIXELS
UNSAFE_NAME = "its name holds control characters, or bytes that are not UTF-8; expected text (rename it)"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".mat")

# What OpenCV would print about a bad file is said once, with the path, by the errors below.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# Grey stays grey and 16 bit stays 16 bit, but alpha is dropped and the EXIF rotation is applied
# (IMREAD_UNCHANGED would keep the one and ignore the other).
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
# The AigleRN family publishes some ground truths dark on white: there the rarer value is the crack.
_EITHER_POLARITY = re.compile(r"GT_(AIGLE_RN|ESAR|LCMS|LRIS|TEMPEST2)_", re.IGNORECASE)
# CrackForest's .mat labels: 1 background, 2 and 4 crack, 3 other.
_CFD_CRACK = (2, 4)


class LabelError(CracksError):
    """A mask that can be read but does not hold two labels."""


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """One image as 8-bit RGB: grey is repeated, alpha dropped, 16 bit scaled to 8, EXIF rotation applied.

    OpenCV multiplies a TIFF's colours by its alpha: opaque pixels keep theirs, transparent ones turn dark.
    Raises CracksError: missing, empty, truncated or undecodable file, a folder, a format or depth not taken.
    """
    return _to_rgb8(_decode(path, _AS_STORED), path)


def read_thumbnail(path: str | Path, side: int) -> Float[np.ndarray, "side side"]:
    """Grey thumbnail in [0, 255], squashed to a square; quick: JPEGs are decoded at a quarter size."""
    grey = _decode(path, cv2.IMREAD_REDUCED_GRAYSCALE_4)
    return thumbnail(grey, side)


def thumbnail(image: UInt8[np.ndarray, "h w *c"], side: int) -> Float[np.ndarray, "side side"]:
    """Grey thumbnail in [0, 255] of an image already read, squashed to a square by area averaging."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)


def read_mask(path: str | Path) -> Bool[np.ndarray, "h w"]:
    """One mask, True = crack, from 0/255, 0/1 or boolean pixels, or from CrackForest's .mat labels.

    A colour file whose channels are equal counts as grey. Anything between the two values, as JPEG
    compression leaves it, is refused: whoever made the mask must decide what a half-crack is.
    """
    if Path(path).suffix.lower() == ".mat":
        return _read_mat(path)
    labels = _decode(path, _AS_STORED)
    if labels.ndim == 3:
        if not (labels == labels[..., :1]).all():
            raise LabelError(
                f"{path}: this mask has colours; expected one channel with 0 = background and 255 = crack "
                "(save it as an 8-bit grey PNG; if it is a photograph, it is in the wrong folder)"
            )
        labels = labels[..., 0]
    mask = _binary(labels, path)
    if _EITHER_POLARITY.match(Path(path).name) and mask.mean() > 0.5:
        return ~mask
    return mask


def read_score(path: str | Path) -> Float[np.ndarray, "h w"]:
    """One score map in [0, 1]: a .npy or .npz of floats (or of 0 and 1), or a grey image over its full range."""
    if Path(path).suffix.lower() not in (".npy", ".npz"):
        pixels = _decode(path, _AS_STORED)
        if pixels.ndim == 3:
            if not (pixels == pixels[..., :1]).all():
                raise CracksError(f"{path}: this prediction has colours; expected a grey image or a .npy map")
            pixels = pixels[..., 0]
        return pixels.astype(np.float32) / np.float32(_full_range(pixels, path))
    data = read_bytes(path)
    try:
        score = _array(data)
    except ValueError as error:
        raise CracksError(f"{path}: not a readable array ({error})") from error
    if score.ndim != 2 or score.size == 0 or score.dtype.kind not in "fbui":
        raise CracksError(f"{path}: array of {score.dtype} {score.shape}; expected a score map (h, w)")
    if score.dtype.kind != "f" and score.max() > 1:
        raise CracksError(f"{path}: {score.dtype} values up to {score.max()}; expected floats in [0, 1]")
    if not ((score >= 0).all() and (score <= 1).all()):
        raise CracksError(f"{path}: scores {score.min()} to {score.max()}; expected finite values in [0, 1]")
    return score.astype(np.float32)


def write_image(path: str | Path, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes an image in the format of the suffix (JPEG at quality 95), creating folders as needed."""
    write_bytes(path, _encode(path, cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)))


def write_mask(path: str | Path, mask: Shaped[np.ndarray, "h w"]) -> None:
    """Writes a mask (nonzero = crack) as 0 and 255; the suffix must name a lossless format."""
    if Path(path).suffix.lower() not in (".png", ".bmp", ".tif", ".tiff"):
        raise CracksError(f"{path}: masks are written as PNG; any lossy format would blur their edges")
    write_bytes(path, _encode(path, (np.asarray(mask) != 0).astype(np.uint8) * 255))


def write_score(path: str | Path, score: Float[np.ndarray, "h w"]) -> None:
    """Writes a score map as float32 .npy."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(score, np.float32), allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def read_bytes(path: str | Path) -> bytes:
    """The file's content; CracksError where there is none, or where name or size are not to be trusted."""
    size = check_file(path)
    if size > MAX_BYTES:
        raise CracksError(
            f"{path}: the file is {size} bytes large; at most {MAX_BYTES} are read (cut what it holds into parts)"
        )
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CracksError(f"{path}: cannot be read ({error.strerror})") from error


def check_file(path: str | Path) -> int:
    """The file's size in bytes; CracksError where there is none with a name and content that can be read."""
    if not is_safe_name(Path(path).name):
        raise CracksError(f"{path}: {UNSAFE_NAME}")
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise CracksError(f"{path}: no such file") from error
    except OSError as error:
        raise CracksError(f"{path}: cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(found.st_mode):
        raise CracksError(f"{path}: is a folder; expected a file")
    if not stat.S_ISREG(found.st_mode):  # what would wait for ever, or never end
        raise CracksError(f"{path}: is a pipe or a device; expected a file")
    if not os.access(path, os.R_OK):
        raise CracksError(f"{path}: cannot be read (Permission denied)")
    if not found.st_size:
        raise CracksError(f"{path}: the file is empty (0 bytes); copy or download it again")
    return found.st_size


def check_pixels(path: str | Path, width: int, height: int) -> None:
    """CracksError where a picture of this size is not decoded."""
    if width * height > MAX_PIXELS:
        raise CracksError(
            f"{path}: claims to be a picture of {width}x{height} pixels; at most {MAX_PIXELS} pixels are decoded (cut "
            "a larger photograph into parts)"
        )


def is_safe_name(name: str) -> bool:
    """Whether a file's name can go into tables, records and terminals: text, without control characters."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all: a temporary neighbour is filled, then renamed over the target."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself is gone or is a file: nothing of ours is in it
        raise CracksError(
            f"{path}: cannot be written ({error.strerror}); free some space or name another folder"
        ) from error


def _encode(path: str | Path, bgr: np.ndarray) -> bytes:
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise CracksError(f"{path}: cannot write '{suffix}'; expected one of {', '.join(IMAGE_SUFFIXES)}")
    try:
        return cv2.imencode(suffix, bgr)[1].tobytes()
    except cv2.error as error:
        raise CracksError(f"{path}: {bgr.dtype} {bgr.shape} cannot be encoded as {suffix}") from error


def _decode(path: str | Path, flags: int) -> Shaped[np.ndarray, "h w *c"]:
    """Pixels as OpenCV gives them (BGR), from a file that is known to be complete and not too large."""
    data = read_bytes(path)
    try:
        size = claimed_size(data)
        if size is None:
            raise CracksError(f"{path}: not an image this package reads; expected {FORMATS}")
        check_pixels(path, *size)
        check_whole(data)
    except DamagedPicture as error:
        raise CracksError(
            f"{path}: the file is truncated or damaged ({len(data)} bytes, {error}); copy or download it again"
        ) from error
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise CracksError(f"{path}: cannot be decoded as an image; it is damaged or too large") from error
    if pixels is None or pixels.size == 0:
        raise CracksError(f"{path}: cannot be decoded as an image; it is damaged (copy or download it again)")
    return pixels


def _full_range(pixels: np.ndarray, path: str | Path) -> int:
    if pixels.dtype == np.uint8:
        return 255
    if pixels.dtype == np.uint16:
        return 65535
    raise CracksError(f"{path}: pixels are {pixels.dtype}; expected 8 or 16 bit unsigned (convert the file)")


def _to_rgb8(pixels: np.ndarray, path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    if _full_range(pixels, path) != 255:
        # 65535 = 257 * 255: rounding keeps 8-bit values that were widened exactly. 16 bits suffice for it.
        whole = pixels // 257
        whole += pixels - 257 * whole > 128
        pixels = whole.astype(np.uint8)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB)


def _binary(labels: np.ndarray, path: str | Path) -> Bool[np.ndarray, "h w"]:
    top = labels.max()
    allowed = {np.dtype(np.uint8): (0, 1, 255), np.dtype(np.uint16): (0, 1, 255, 65535)}
    mask = labels != 0
    if top in allowed.get(labels.dtype, ()) and np.array_equal(labels[mask], np.full(mask.sum(), top)):
        return mask
    values = np.unique(labels)
    more = f", ... ({values.size} in all)" if values.size > 8 else ""
    shown = ", ".join(str(value) for value in values[:8]) + more
    raise LabelError(
        f"{path}: mask values are {shown}; expected 0 and 255, or 0 and 1 (save it as an 8-bit PNG with "
        "0 = background and 255 = crack; cut compressed or blurred masks at a level you choose, such as 128)"
    )


def _read_mat(path: str | Path) -> Bool[np.ndarray, "h w"]:
    data = read_bytes(path)
    try:
        labels = read_segmentation(data)
    except ValueError as error:
        raise CracksError(f"{path}: {error}") from error
    values = np.unique(labels)
    if labels.ndim != 2 or not set(values.tolist()) <= {1, 2, 3, 4}:
        raise LabelError(f"{path}: labels {values[:8].tolist()} of {labels.shape}; expected 1 to 4 in (h, w)")
    return np.isin(labels, _CFD_CRACK)


def _array(data: bytes) -> np.ndarray:
    """The array of a .npy file, or the only one of a .npz file."""
    if data[:2] != b"PK":
        return read_array(io.BytesIO(data), MAX_BYTES)
    arrays = read_arrays(io.BytesIO(data), MAX_BYTES)
    if len(arrays) != 1:
        raise ValueError(f"holds {len(arrays)} arrays; expected one score map (h, w)")
    return next(iter(arrays.values()))
