"""`cracks-jax data check`: is a data set whole? Pairs, sizes, label values, crack share, near-duplicates.

Broken are: files that cannot be read, images or masks without their partner, masks of another size or with
other values than two labels. Near-duplicates across splits and masks that look inverted are warnings: they
make results doubtful, not impossible.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cracks_jax.data import layouts
from cracks_jax.data.datasets import choose_split, discover, parse_spec
from cracks_jax.data.duplicates import SIDE, near_duplicates, signature
from cracks_jax.data.images import LabelError, read_image, read_mask, thumbnail
from cracks_jax.errors import CracksError, shown

Progress = Callable[[int, int], None]
_SHOWN = 10


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split; each finding names its file.

    Attributes:
      crack_share: fraction of the pixels of all readable masks that are crack; None without masks.
      sizes: "width x height" -> number of images.
    """

    name: str
    images: int
    masks: int
    crack_share: float | None
    sizes: dict[str, int]
    unmatched: tuple[str, ...]
    wrong_sizes: tuple[str, ...]
    wrong_labels: tuple[str, ...]
    unreadable: tuple[str, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """Every finding that makes the split unusable."""
        return (*self.unreadable, *self.unmatched, *self.wrong_sizes, *self.wrong_labels)


@dataclass(frozen=True)
class Report:
    """The state of a data set; `near_duplicates` are (split/stem, split/stem, correlation) across splits."""

    name: str
    splits: tuple[SplitReport, ...]
    near_duplicates: tuple[tuple[str, str, float], ...]

    @property
    def ok(self) -> bool:
        return not any(split.broken for split in self.splits)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes results doubtful."""
        alike = tuple(
            f"near-duplicates across splits: {a} and {b} (correlation {c:.3f})"
            for a, b, c in self.near_duplicates
        )
        inverted = tuple(
            f"{split.name or self.name}: crack share {split.crack_share:.1%}; are the masks inverted?"
            for split in self.splits
            if split.crack_share is not None and split.crack_share > 0.5
        )
        return alike + inverted

    @property
    def verdict(self) -> str:
        """One line: broken, usable with warnings, or whole."""
        findings = sum(len(split.broken) for split in self.splits)
        if findings:
            return f"{self.name}: broken ({findings} {_plural('finding', findings)})"
        if self.warnings:
            return f"{self.name}: usable, with {len(self.warnings)} {_plural('warning', len(self.warnings))}"
        return f"{self.name}: whole"

    def text(self) -> str:
        """For people: a table of splits, the findings (the first ten of each kind), the verdict last."""
        return "\n".join(shown(line) for line in (*self._table(), *self._findings(), self.verdict))

    def _table(self) -> Iterator[str]:
        width = max([len(split.name or "(all)") for split in self.splits] + [5])
        yield f"{'split':<{width}}  images   masks   crack share   sizes (w x h)"
        for split in self.splits:
            share = "-" if split.crack_share is None else f"{split.crack_share:.2%}"
            common = Counter(split.sizes).most_common(3)
            sizes = ", ".join(f"{size} ({count})" for size, count in common)
            more = f", and {len(split.sizes) - 3} more" if len(split.sizes) > 3 else ""
            name = split.name or "(all)"
            yield f"{name:<{width}}  {split.images:>6}  {split.masks:>6}  {share:>12}   {sizes}{more}"

    def _findings(self) -> Iterator[str]:
        for split in self.splits:
            for title in ("unreadable", "unmatched", "wrong_sizes", "wrong_labels"):
                heading = f"{split.name or '(all)'}: {title.replace('_', ' ')}"
                yield from _section(heading, getattr(split, title))
        yield from _section("warnings", self.warnings)


@dataclass(frozen=True)
class _Pair:
    """What reading one image and its mask told; `shape` is (h, w)."""

    shape: tuple[int, int] | None = None
    signature: np.ndarray | None = None
    crack: int = 0
    pixels: int = 0
    unreadable: tuple[str, ...] = ()
    wrong_size: str | None = None
    wrong_label: str | None = None


def check(root: str | Path, progress: Progress | None = None) -> Report:
    """Reads every file of a data set (a name or a path, perhaps with `:SPLIT`) once; `progress(done, total)`.

    Raises CracksError only where there is no data set at all; what is wrong inside it is in the report.
    """
    name, wanted = parse_spec(str(root))
    folder, splits = discover(name)
    chosen = list(splits.values()) if wanted is None else [choose_split(splits, name, wanted)]
    chosen = [split for split in chosen if wanted is not None or not split.derived]
    matched = [(split, layouts.match(split)) for split in chosen]
    total = sum(len(matching.pairs) for _, matching in matched)
    reports, keys, vectors = [], [], []
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for split, matching in matched:
            found = []
            for pair in pool.map(_inspect, matching.pairs):
                found.append(pair)
                done += 1
                if progress:
                    progress(done, total)
            reports.append(_summarise(split, matching, found))
            for (image, _), pair in zip(matching.pairs, found, strict=True):
                keys.append((split.name, image.stem))
                flat = np.zeros(SIDE * SIDE, np.float32)
                vectors.append(flat if pair.signature is None else pair.signature)
    label = folder.name or folder.resolve().name
    return Report(label, tuple(reports), tuple(_across(keys, vectors)))


def _inspect(pair: tuple[Path, Path | None]) -> _Pair:
    image_path, mask_path = pair
    unreadable: list[str] = []
    shape, vector, mask, wrong_label = None, None, None, None
    try:
        image = read_image(image_path)
        shape, vector = image.shape[:2], signature(thumbnail(image, SIDE))
    except CracksError as error:
        unreadable.append(str(error))
    if mask_path is not None:
        try:
            mask = read_mask(mask_path)
        except LabelError as error:
            wrong_label = str(error)
        except CracksError as error:
            unreadable.append(str(error))
    wrong_size = None
    if mask is not None and shape is not None and mask.shape != shape:
        wrong_size = (
            f"{mask_path}: mask is {_size(mask.shape)} but its image is {_size(shape)}; masks must have "
            "their image's size"
        )
    return _Pair(
        shape=shape,
        signature=vector,
        crack=0 if mask is None else int(mask.sum()),
        pixels=0 if mask is None else mask.size,
        unreadable=tuple(unreadable),
        wrong_size=wrong_size,
        wrong_label=wrong_label,
    )


def _summarise(split: layouts.Split, matching: layouts.Matching, found: list[_Pair]) -> SplitReport:
    pixels = sum(pair.pixels for pair in found)
    unmatched = [f"{path}: a second file of this stem" for path in matching.duplicates]
    unmatched += [f"{path}: mask without image" for path in matching.without_image]
    if split.masks is not None:
        unmatched += [f"{path}: image without mask" for path in matching.without_mask]
    if not split.images:
        unmatched.append(f"split {split.name or '(all)'}: no images found")
    return SplitReport(
        name=split.name,
        images=len(split.images),
        masks=len(split.masks or ()),
        crack_share=sum(pair.crack for pair in found) / pixels if pixels else None,
        sizes=dict(Counter(_size(pair.shape) for pair in found if pair.shape is not None)),
        unmatched=tuple(unmatched),
        wrong_sizes=tuple(pair.wrong_size for pair in found if pair.wrong_size is not None),
        wrong_labels=tuple(pair.wrong_label for pair in found if pair.wrong_label is not None),
        unreadable=tuple(message for pair in found for message in pair.unreadable),
    )


def _across(keys: list[tuple[str, str]], vectors: list[np.ndarray]) -> Iterator[tuple[str, str, float]]:
    if len({split for split, _ in keys}) < 2:
        return
    for i, j, correlation in near_duplicates(np.stack(vectors)):
        if keys[i][0] != keys[j][0]:
            a, b = ("/".join(part for part in key if part) for key in (keys[i], keys[j]))
            yield a, b, correlation


def _section(title: str, lines: tuple[str, ...]) -> Iterator[str]:
    if lines:
        yield ""
        yield f"{title} ({len(lines)}):"
        yield from (f"  {line}" for line in lines[:_SHOWN])
        if len(lines) > _SHOWN:
            yield f"  ... and {len(lines) - _SHOWN} more"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
