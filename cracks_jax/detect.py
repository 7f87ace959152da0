"""The verb `detect`: photographs, folders and videos -> masks, overlays, score maps and one table of measurements.

  OUT/masks/NAME.png         0 and 255, at the photograph's size
  OUT/overlays/NAME.png      the photograph with the mask drawn into it
  OUT/scores/NAME.npy        on request: float32, what the threshold was applied to, in the geometry of detection
  OUT/measurements.csv       one row per photograph or frame, written when its files are there

In geometry resize256 the score map is 256x256. Its mask is enlarged to the photograph's size by nearest neighbour:
mask, overlay and measurements are in the photograph's pixels, only the score map stays as it was scored.

NAME is the file's stem; below a folder that was given, the path from there with "/" as "__"; a video's frames get
their number behind it. Of two equal names the later one gets "-2". Every file is found below a folder, in sorted
order, by its suffix and whatever its folder is called; hidden files, and what `detect` wrote there, are left out.

Reading, the network and writing overlap: a thread decodes ahead, others write masks and overlays and measure behind.
Rows come in the order of the input all the same, and what is held at a time does not grow with the number of images.

Detecting into the same OUT again replaces the files and rows of the same name and keeps the others.
"""

import csv
import errno
import io
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from tqdm import tqdm

from cracks_jax.calibrate import Thresholds
from cracks_jax.data.images import (
    IMAGE_SUFFIXES,
    UNSAFE_NAME,
    is_safe_name,
    read_image,
    write_bytes,
    write_image,
    write_mask,
    write_score,
)
from cracks_jax.data.video import VIDEO_SUFFIXES, check_every, count_frames, frames
from cracks_jax.errors import CracksError, UsageError, shown
from cracks_jax.postprocess.measurements import measure
from cracks_jax.postprocess.overlay import overlay
from cracks_jax.predict import Scorer
from cracks_jax.runtime.overlap import Behind, ahead

CSV = "measurements.csv"
FOLDERS = ("masks", "overlays", "scores")
# How many pixels of photographs are decoded ahead, and how many are being written, measured and drawn behind: one
# photograph of 12 megapixels and two, or many small ones. A pixel takes 3 bytes there and about 30 here.
READ_AHEAD = 2**24
WRITE_BEHIND = 2**25
# File systems take 255 bytes; a frame's number, a suffix and a temporary file's ending must fit as well.
_NAME_BYTES = 200


@dataclass(frozen=True)
class Summary:
    """What came of it: photographs and frames written, (file, reason) of what was skipped, and the table."""

    written: int
    skipped: list[tuple[str, str]]
    csv: Path


@dataclass(frozen=True)
class Source:
    """One file to detect in: `file` names it in the table (never an absolute path), `name` names its results."""

    path: Path
    file: str
    name: str
    is_video: bool


def detect(
    inputs: Sequence[Path],
    out: Path,
    scorer: Scorer,
    thresholds: Thresholds,
    *,
    scores: bool = False,
    mm_per_px: float | None = None,
    every: int = 1,
    say: Callable[[str], None],
) -> Summary:
    """Masks, overlays and measurements of every input; a bad file is said, skipped, and the rest is done.

    Whatever ends the work early, what was written stays, and every row of the table stands for finished files.

    Args:
      inputs: image files, folders (every image below them) and videos.
      out: folder to write to; made where there is none.
      scores: write score maps too.
      mm_per_px: adds columns in millimetres.
      every: of a video, only each `every`-th frame.
      say: takes one line per bad file.

    Raises:
      UsageError: `mm_per_px` or `every` is not positive, or `out` holds masks that `detect` did not write.
      CracksError: nothing was found, nothing of it was good, or `out` cannot be written.
    """
    check_every(every)
    measured = tuple(measure(np.zeros((1, 1), bool), mm_per_px))  # the table's columns; refuses a wrong mm_per_px
    names = Names()
    sources, skipped = find(inputs, names)
    for file, reason in skipped:
        say(f"skipped {shown(file)}: {reason}")
    if not sources:
        raise CracksError(_nothing(inputs, skipped))
    total = sum(count_frames(source.path, every) if source.is_video else 1 for source in sources)
    written = 0
    with (
        Table(out / CSV, ("name", "file", "frame", "width", "height", "threshold", *measured)) as table,
        tqdm(desc="detecting", unit="image", total=total, file=sys.stderr, mininterval=_interval()) as bar,
    ):

        def skip(source: Source, error: Exception) -> None:
            reason = str(error).removeprefix(f"{shown(source.path)}: ")
            skipped.append((source.file, reason))
            bar.update(0 if source.is_video else 1)  # a video's good frames are counted already
            with bar.external_write_mode(file=sys.stderr):
                say(f"skipped {shown(source.path)}: {reason}")

        def finished(row: dict[str, Any]) -> None:
            nonlocal written
            table.add(row)
            written += 1
            bar.update()

        with (
            closing(_pictures(sources, every)) as pictures,
            ahead(pictures, _Picture.pixels, READ_AHEAD) as read,
            Behind(min(4, os.cpu_count() or 1), WRITE_BEHIND, finished) as behind,
        ):
            for picture, score in _scored(read, scorer, skip):
                source, frame = picture.source, picture.frame
                name = source.name if frame is None else names.claim(f"{source.name}-{frame:06d}")
                head = {"name": name, "file": source.file, "frame": frame, "threshold": thresholds.at(score)}
                behind.give(picture.pixels(), _finish, out, head, picture.image, score, scores, mm_per_px)
    if not written:
        raise CracksError(_nothing(inputs, skipped))
    return Summary(written, skipped, out / CSV)


@dataclass(frozen=True)
class _Picture:
    """A photograph or frame as it was read, or what is wrong with its file."""

    source: Source
    frame: int | None
    image: UInt8[np.ndarray, "h w 3"]
    error: ValueError | None = None

    def pixels(self) -> int:
        return self.image.shape[0] * self.image.shape[1]


def _pictures(sources: Sequence[Source], every: int) -> Generator[_Picture, None, None]:
    """Every photograph and every frame, read when it is asked for."""
    for source in sources:
        try:
            if source.is_video:
                for frame, image in frames(source.path, every):
                    yield _Picture(source, frame, image)
            else:
                yield _Picture(source, None, read_image(source.path))
        except UsageError:
            raise
        except ValueError as error:
            yield _Picture(source, None, np.empty((0, 0, 3), np.uint8), error)


def _scored(
    pictures: Iterator[_Picture], scorer: Scorer, skip: Callable[[Source, Exception], None]
) -> Iterator[tuple[_Picture, Float[np.ndarray, "H W"]]]:
    """Each picture and its score map, in order.

    What is wrong with the file, or stops it from being scored, is skipped here; what happens to a picture afterwards
    (a full disk, say) is not the file's fault and is never caught.
    """
    bad: set[Path] = set()  # a video that failed at one frame is not tried at the next

    def good() -> Iterator[tuple[_Picture, UInt8[np.ndarray, "h w 3"]]]:
        for picture in pictures:
            if picture.error is not None:
                skip(picture.source, picture.error)
            elif picture.source.path not in bad:
                yield picture, picture.image

    for picture, found in scorer.stream(good()):
        if not isinstance(found, ValueError) and not np.isfinite(found).all():
            found = CracksError("its score map is not finite; use another checkpoint")
        if not isinstance(found, ValueError):
            if picture.source.path not in bad:
                yield picture, found
        elif picture.source.path not in bad:
            bad.add(picture.source.path)
            skip(picture.source, found)


def _finish(
    out: Path,
    head: dict[str, Any],
    image: UInt8[np.ndarray, "h w 3"],
    score: Float[np.ndarray, "H W"],
    scores: bool,
    mm_per_px: float | None,
) -> dict[str, Any]:
    """Writes the files of one picture and returns its row."""
    mask = _enlarged(score > head["threshold"], image.shape[:2])
    _write(out, head["name"], image, mask, score if scores else None)
    return {**head, "width": image.shape[1], "height": image.shape[0], **measure(mask, mm_per_px)}


def _write(
    out: Path,
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    score: Float[np.ndarray, "H W"] | None,
) -> None:
    """The files of one picture. Where no score map is wanted, an earlier one goes: it would belong to another mask."""
    write_mask(out / "masks" / f"{name}.png", mask)
    write_image(out / "overlays" / f"{name}.png", overlay(image, mask))
    score_path = out / "scores" / f"{name}.npy"
    if score is None:
        score_path.unlink(missing_ok=True)
    else:
        write_score(score_path, score)


def _enlarged(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask at the photograph's (height, width): its own in native geometry."""
    if mask.shape == size:
        return mask
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0


def _nothing(inputs: Sequence[Path], skipped: list[tuple[str, str]]) -> str:
    given = ", ".join(str(path) for path in inputs[:3]) + (", ..." if len(inputs) > 3 else "")
    if skipped:
        file, reason = skipped[0]
        return f"{given}: nothing could be read; {len(skipped)} skipped, first {file}: {reason}"
    return f"{given or 'no input'}: nothing to detect in; give images, folders of images, or videos"


def _interval() -> float:
    return 0.2 if sys.stderr.isatty() else 15


# --------------------------------------------------------------------------------------- what to detect in


class Names:
    """Names for results, each given once; file systems that ignore case are thought of."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def claim(self, wanted: str) -> str:
        """`wanted`, or with the first free number behind it; the end of what is too long for a file's name."""
        wanted = wanted.encode()[-_NAME_BYTES:].decode(errors="ignore")
        name, number = wanted, 2
        while name.casefold() in self._taken:
            name, number = f"{wanted}-{number}", number + 1
        self._taken.add(name.casefold())
        return name


def find(inputs: Sequence[Path], names: Names) -> tuple[list[Source], list[tuple[str, str]]]:
    """Every file of the inputs once, and (input, reason) of those that lead to none."""
    sources: list[Source] = []
    skipped: list[tuple[str, str]] = []
    seen: set[Path] = set()
    for given in inputs:
        found = [(given, given.name)]
        if given.is_dir():
            found, problems = _images_below(given)
            skipped += problems
            if not found and not problems:
                kinds = ", ".join(IMAGE_SUFFIXES)
                skipped.append((str(given), f"no image below this folder ({kinds}); videos are given one by one"))
        elif not given.exists():
            skipped.append((str(given), "no such file or folder"))
            continue
        for path, relative in found:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if not is_safe_name(relative):  # it would stand in the table, and the results would be called so
                skipped.append((str(path), UNSAFE_NAME))
                continue
            name = names.claim(str(Path(relative).with_suffix("")).replace(os.sep, "__"))
            is_video = path.suffix.lower() in VIDEO_SUFFIXES
            sources.append(Source(path, Path(relative).as_posix(), name, is_video))
    return sources, skipped


def _images_below(folder: Path) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    """(path, path from the folder) of every image below a folder, sorted, and (folder, reason) of unreadable ones."""
    problems: list[tuple[str, str]] = []

    def failed(error: OSError) -> None:
        problems.append((str(error.filename), f"cannot be listed ({error.strerror})"))

    found = []
    for root, folders, files in os.walk(folder, onerror=failed):
        results = FOLDERS if CSV in files else ()  # of this call or of another: pictures of ours, not photographs
        folders[:] = [name for name in folders if name[0] != "." and name not in results]
        found += [Path(root) / name for name in files if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return [(path, str(path.relative_to(folder))) for path in sorted(found)], problems


# --------------------------------------------------------------------------------------------- the table


class Table:
    """`measurements.csv`, on disk row by row: an interruption loses nothing, a full disk leaves only whole rows.

    Rows of an earlier call stay, those of the same name are replaced. While the work goes on a replaced row stands
    twice, the later one holding; leaving the table, or opening it again, brings it in order.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path = path
        before, self._rows = self._read(columns)
        self.columns = [*columns, *(name for name in before if name not in columns)]
        self._write_all()
        self._doubled = False

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self._doubled:
            try:
                self._write_all()
            except CracksError:
                if kind is None:  # otherwise what went wrong first is what must be said
                    raise

    def add(self, row: dict[str, Any]) -> None:
        """One row; on disk when this returns."""
        row = {column: "" if row.get(column) is None else str(row[column]) for column in self.columns}
        self._doubled |= row["name"] in self._rows
        self._append(self._text([row]).encode())
        self._rows[row["name"]] = row

    def _append(self, data: bytes) -> None:
        try:
            with open(self.path, "ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    whole = file.write(data) == len(data)
                except OSError:
                    file.truncate(end)
                    raise
                if not whole:
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise CracksError(
                f"{self.path}: cannot be written ({error.strerror}); free some space and run the same command again"
            ) from error

    def _write_all(self) -> None:
        header = self._text([dict(zip(self.columns, self.columns, strict=True))])
        write_bytes(self.path, (header + self._text(self._rows.values())).encode())

    def _text(self, rows: Any) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n", restval="").writerows(rows)
        return text.getvalue()

    def _read(self, columns: Sequence[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
        """The columns and rows of an earlier call; refuses what `detect` did not write, so that nothing is lost."""
        out = self.path.parent
        if not self.path.exists():
            for folder in FOLDERS:
                if (out / folder).is_dir() and any((out / folder).iterdir()):
                    raise UsageError(
                        f"{out}: its {folder}/ is not from `cracks-jax detect` (there is no {CSV}), and files of the "
                        "same name would be lost; name another folder with --out"
                    )
            return [], {}
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                before = list(reader.fieldnames or ())
                # A last row that was cut off while it was written has no value in its last columns.
                rows = {row["name"]: row for row in reader if None not in row.values()} if "name" in before else {}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CracksError(f"{self.path}: cannot be read ({error}); move it away or name another folder") from error
        missing = [column for column in columns if column not in before and "_mm" not in column]
        if missing:
            raise UsageError(
                f"{self.path}: has no column {missing[0]!r}, so it is not from `cracks-jax detect`; "
                "move it away or name another folder with --out"
            )
        return before, rows
