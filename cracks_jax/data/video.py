"""The door to videos: their frames one at a time, uint8 (h, w, 3) RGB, upright where the file says which way is up.

NumPy and OpenCV only. One frame is in memory at a time, however long the video is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from cracks_jax.data.images import check_file, check_pixels
from cracks_jax.errors import CracksError, UsageError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")

# What FFmpeg would print about a damaged video is said once, with the path, by the errors below.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# A header's number of frames is an estimate (length times frame rate), so only a large shortfall means damage.
_WHOLE = 0.9


def frames(path: str | Path, every: int = 1) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """(number, picture) of frames 0, every, 2 * every, ...; the frames between are not converted.

    Raises:
      UsageError: `every` is below 1.
      CracksError: the video is missing, does not open, holds no frame, or (after its last frame) ends long before
        its header says.
    """
    check_every(every)
    number = 0
    with _opened(path) as capture:
        while capture.grab():
            if number % every == 0:
                decoded, picture = capture.retrieve()
                if decoded and picture is not None:
                    yield number, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            number += 1
        announced = _announced(capture)
    if number == 0:
        raise CracksError(f"{path}: no frame of this video can be decoded; convert it (for example to H.264 .mp4)")
    if number < _WHOLE * announced:
        raise CracksError(
            f"{path}: the video ends after {number} of {announced} frames; it is truncated or damaged "
            "(copy it again; the frames before were read)"
        )


def count_frames(path: str | Path, every: int = 1) -> int:
    """About how many frames `frames` will give, as the header has it; 0 where it does not say or cannot be read."""
    try:
        with _opened(path) as capture:
            return -(-_announced(capture) // every)
    except CracksError:
        return 0


def check_every(every: int) -> None:
    """UsageError where every N-th frame makes no sense."""
    if every < 1:
        raise UsageError(f"--every {every}: expected 1 (each frame) or more (each N-th frame of a video)")


def _announced(capture: cv2.VideoCapture) -> int:
    # Streams without a length announce negative or absurd numbers.
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 1e9 else 0


@contextmanager
def _opened(path: str | Path) -> Iterator[cv2.VideoCapture]:
    check_file(path)
    # FFmpeg alone where there is one: further readers print about what they cannot read, or take "%" for a pattern.
    reader = cv2.CAP_FFMPEG if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) else cv2.CAP_ANY
    # An absolute path is never taken for a protocol such as "road:1.avi".
    capture = cv2.VideoCapture(str(Path(path).resolve()), reader)
    try:
        if not capture.isOpened():
            raise CracksError(
                f"{path}: cannot be opened as a video; it is damaged or its format is not known to OpenCV "
                "(copy it again, or convert it, for example to H.264 .mp4)"
            )
        sides = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        check_pixels(path, *(max(0, int(side)) for side in sides))
        yield capture
    finally:
        capture.release()
