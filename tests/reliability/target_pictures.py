"""Pictures, masks, score maps and videos as doors; and what all targets share."""

import io
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.io import savemat

from cracks_jax.data import images
from cracks_jax.data.video import frames
from cracks_jax.errors import CracksError
from tests.reliability import mutate
from tests.reliability.bombs import picture, zipped
from tests.reliability.fuzz import NotSound

Give = Callable[[random.Random], None]
UNCHANGED = 0.02  # of the inputs are good ones


def sound(holds: bool, what: str) -> None:
    if not holds:
        raise NotSound(what)


def mutated(draw: random.Random, seeds: dict[str, bytes]) -> tuple[str, bytes]:
    """(name, content) of one of the seeds, changed."""
    name = draw.choice(list(seeds))
    if draw.random() < UNCHANGED:
        return name, seeds[name]
    content = mutate.data(draw, seeds[name], tuple(seeds.values()))
    # Half of the pictures get their checksums back, so that what was changed is not refused for them alone.
    return name, mutate.with_checksums(content) if draw.random() < 0.5 else content


def write(path: Path, content: bytes) -> None:
    """As a new file: some file systems write one that is emptied first to the disk itself."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def from_file(path: Path, read: Callable[[Path], Any]) -> Any:
    """What is read; where it is refused, the message must name the file."""
    try:
        return read(path)
    except CracksError as error:
        sound(str(path) in str(error), f"a message that does not name {path}: {error}")
        raise


# ------------------------------------------------------------------------------------------------- pictures

_KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08" + bytes(40)}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"big_tiff": True}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"exif": b"Exif\0\0" + bytes(20)}),
)


def _pictures() -> dict[str, bytes]:
    """All formats, and the depths and channels of two of them, in 24 x 16."""
    grey = np.arange(384, dtype=np.uint8).reshape(16, 24)
    deep = grey.astype(np.uint16) * 257
    found = {f"{n}.{kind.lower()}": picture(kind, **options) for n, (kind, options) in enumerate(_KINDS)}
    kinds = {"grey": grey, "deep": deep, "colour": np.stack([grey] * 3, -1), "alpha": np.stack([deep] * 4, -1)}
    for name, pixels in kinds.items():
        found |= {f"{name}{suffix}": cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".tif")}
    return found


def _labels() -> dict[str, bytes]:
    mask = np.zeros((16, 24), np.uint8)
    mask[5:7] = 255
    found = {f"mask{suffix}": cv2.imencode(suffix, mask)[1].tobytes() for suffix in (".png", ".bmp", ".tif")}
    truth = np.empty((1, 1), [("Segmentation", object), ("Boundaries", object)])
    truth[0, 0] = (mask // 255 + 1, mask > 0)
    for name, packed in (("plain.mat", False), ("packed.mat", True)):
        stream = io.BytesIO()
        savemat(stream, {"groundTruth": truth}, do_compression=packed)
        found[name] = stream.getvalue()
    return found


def _scores() -> dict[str, bytes]:
    score = np.linspace(0, 1, 384).reshape(16, 24)
    found = {"grey.png": cv2.imencode(".png", (score * 255).astype(np.uint8))[1].tobytes()}
    for name, array in (("a", score), ("b", score.astype(">f4")), ("c", score > 0.5), ("d", np.asfortranarray(score))):
        stream = io.BytesIO()
        np.save(stream, array)
        found[f"{name}.npy"] = stream.getvalue()
    return found | {"a.npz": zipped({"a.npy": found["a.npy"]})}


def image(folder: Path) -> Give:
    seeds = _pictures()

    def give(draw: random.Random) -> None:
        name, content = mutated(draw, seeds)
        path = folder / name
        write(path, content)
        if draw.random() < 0.2:
            small = from_file(path, lambda path: images.read_thumbnail(path, 8))
            sound(small.shape == (8, 8) and small.dtype == np.float32, "thumbnail")
            sound(0 <= small.min() <= small.max() <= 255, "thumbnail beyond 0 to 255")
        else:
            found = from_file(path, images.read_image)
            sound(found.ndim == 3 and found.shape[2] == 3 and found.dtype == np.uint8 and found.size > 0, "image")
            sound(found.size <= 3 * images.MAX_PIXELS, "more pixels than are decoded")
            sound(content != seeds[name] or found.shape == (16, 24, 3), "the seed has another size")

    return give


def mask(folder: Path) -> Give:
    seeds = _labels()

    def give(draw: random.Random) -> None:
        name, content = mutated(draw, seeds)
        path = folder / name
        write(path, content)
        found = from_file(path, images.read_mask)
        sound(found.ndim == 2 and found.dtype == bool and found.size > 0, "mask")
        sound(content != seeds[name] or found[5:7].all() and found.sum() == 48, "the seed is another mask")

    return give


def score(folder: Path) -> Give:
    seeds = _scores()

    def give(draw: random.Random) -> None:
        name, content = mutated(draw, seeds)
        path = folder / name
        write(path, content)
        found = from_file(path, images.read_score)
        sound(found.ndim == 2 and found.dtype == np.float32 and 0 <= found.min() <= found.max() <= 1, "score map")

    return give


def videos(folder: Path) -> Give:
    seeds = {}
    for name, code in (("a.avi", "MJPG"), ("a.mp4", "mp4v")):
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*code), 10, (48, 32))
        for level in range(4):
            writer.write(np.full((32, 48, 3), 60 * level, np.uint8))
        writer.release()
        seeds[name] = (folder / name).read_bytes()

    def give(draw: random.Random) -> None:
        name, content = mutated(draw, seeds)
        path = folder / name
        write(path, content)
        for number, frame in from_file(path, lambda path: list(itertools.islice(frames(path), 1000))):
            sound(frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8 and number < 1000, "frame")

    return give
