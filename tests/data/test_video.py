"""Videos come frame by frame, in order and in RGB; what cannot be read is one clear error and no noise."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from cracks_jax.data.video import count_frames, frames
from cracks_jax.errors import CracksError, UsageError


def record(path, pictures, code="MJPG"):
    """A video of RGB pictures, by OpenCV's own writer."""
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return path


def shades(count):
    """Picture i is red 20 * i everywhere, green 200, blue 0: its number can be read off, its channels told apart."""
    return [np.full((48, 64, 3), (20 * i, 200, 0), np.uint8) for i in range(count)]


@pytest.fixture
def noisy(tmp_path, rng):
    """Pictures that compress badly, so that half the file is about half the frames."""
    return record(tmp_path / "noisy.avi", [rng.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(40)])


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.MOV", "mp4v"), ("a.mkv", "MJPG")])
def test_frames_come_in_order_with_their_numbers_and_in_rgb(tmp_path, name, code):
    path = record(tmp_path / name, shades(8), code)
    found = list(frames(path))
    assert [number for number, _ in found] == list(range(8))
    for number, picture in found:
        assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
        np.testing.assert_allclose(picture.mean((0, 1)), (20 * number, 200, 0), atol=8)


@pytest.mark.parametrize("every", [2, 3, 100])
def test_every_nth_frame_keeps_its_number_in_the_video(tmp_path, every):
    path = record(tmp_path / "a.avi", shades(8))
    found = list(frames(path, every))
    assert [number for number, _ in found] == list(range(0, 8, every))
    assert count_frames(path, every) == len(found)
    for number, picture in found:
        np.testing.assert_allclose(picture[..., 0].mean(), 20 * number, atol=8)


def test_a_video_that_breaks_off_gives_its_frames_and_then_says_so(noisy):
    whole = noisy.read_bytes()
    noisy.write_bytes(whole[: len(whole) // 2])
    read = []
    with pytest.raises(CracksError, match=r"noisy\.avi: the video ends after \d+ of 40 frames"):
        for number, _ in frames(noisy):
            read.append(number)
    assert 10 < len(read) < 30 and read == list(range(len(read)))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"", "empty"), (b"no video at all " * 200, "cannot be opened as a video")],
)
def test_what_is_no_video_is_one_clear_error(tmp_path, content, said):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CracksError, match=f"bad.mp4: .*{said}"):
        list(frames(path))
    assert count_frames(path) == 0


def test_a_damaged_video_prints_nothing_of_its_own(tmp_path, noisy):
    """FFmpeg writes to the process's standard error by itself, so only another process can witness it."""
    damaged = bytearray(noisy.read_bytes())
    damaged[len(damaged) // 3 : len(damaged) // 2] = bytes(len(damaged) // 2 - len(damaged) // 3)
    noisy.write_bytes(damaged)
    record(tmp_path / "cut.mp4", shades(8), "mp4v")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "cut.mp4").read_bytes()[:-300])
    code = """
import sys
from cracks_jax.data.video import frames
assert "jax" not in sys.modules
for path in sys.argv[1:]:
    try:
        list(frames(path))
    except ValueError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code, noisy, tmp_path / "cut.mp4"], capture_output=True, check=True)
    assert done.stdout == b"" and done.stderr == b""


def test_every_below_one_is_refused(noisy):
    with pytest.raises(UsageError, match="--every 0"):
        list(frames(noisy, 0))
