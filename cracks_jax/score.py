"""The verb `score`: any tool's predictions against masks, file by file, every number under its exact name.

Predictions are 8 or 16 bit PNG (0 and 255, or grey score maps), .npy or .npz (bool, or scores in [0, 1]), masks are
images; the two are matched by stem and compared at their own size (geometry `as_given`), or as `resize` says.

Worker processes read and measure files; what they find is added up in the order of the stems, so their number changes
no bit of a result, and memory does not grow with the number of files.
"""

import functools
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from cracks_jax.data.images import MASK_SUFFIXES, read_mask, read_score
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.metrics.tally import LEFT_OUT, Sums, Tally, image_sums
from cracks_jax.metrics.uncertainty import summary
from cracks_jax.surroundings import cores

PREDICTION_SUFFIXES = (".png", ".npy", ".npz")
NAMED = 20  # as many unmatched files as a message names; the rest are counted
RESIZE = ("prediction", "mask")
_GROUP = 16  # files that a worker takes at a time
_FEW = 64  # fewer pairs than this are done before a second process has started

Pair = tuple[Path, Path]


class Matching(NamedTuple):
    """Pairs of prediction and mask of one stem, sorted by stem; the stems that are in one folder alone."""

    pairs: list[Pair]
    masks_alone: list[str]
    predictions_alone: list[str]


def run(
    predictions: str | Path,
    masks: str | Path,
    threshold: float = 0.5,
    *,
    resize: str | None = None,
    unmatched: bool = False,
    crack_free: str = LEFT_OUT,
    workers: int | None = None,
) -> dict[str, Any]:
    """The metrics of a folder of predictions against a folder of masks.

    Args:
      predictions: folder of .png, .npy and .npz files; files of other kinds in it are not looked at.
      masks: folder of masks, one per prediction, with the same stem.
      threshold: crack = score > threshold, compared in float32, 0 <= threshold < 1. A prediction of 0 and
        255, or of booleans, is decided already: no threshold in this range changes it.
      resize: where sizes differ, `prediction`: to its mask's size (bilinear, or nearest where it holds two values
        alone); `mask`: to its prediction's size (nearest); None: that is an error.
      unmatched: score the pairs although some files are alone; they are listed in the result.
      crack_free: what an image without cracks is in a mean over images, see `metrics.tally.image_sums`.
      workers: processes; None: as many as there are cores. 0: this one.

    Returns:
      The keys of `metrics.uncertainty.summary`, with rule `value:THRESHOLD` and geometry `as_given` (or
      `prediction_resized`, `mask_resized`), and `matched`, the number of pairs, `masks_alone` and `predictions_alone`.

    Raises:
      UsageError: the threshold is outside [0, 1), or another setting makes no sense.
      CracksError: a folder is missing or empty, a prediction or a mask is alone, sizes differ, a file cannot
        be read, scores are not finite or outside [0, 1], or predictions hold 0 and 1 instead of 0 and 255.
    """
    if not 0 <= threshold < 1:
        raise UsageError(f"threshold is {threshold}; scores lie in [0, 1], so it must be at least 0 and below 1")
    if resize not in (None, *RESIZE):
        raise UsageError(f"--resize {resize}: expected one of {', '.join(RESIZE)}")
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers}: expected 0 (this process) or more")
    found = match(Path(predictions), Path(masks), unmatched)
    tally, greatest = Tally(), 0.0
    measure = functools.partial(_measured, threshold=threshold, resize=resize, crack_free=crack_free)
    with tqdm(total=len(found.pairs), desc="scoring", unit="image", file=sys.stderr, mininterval=0.5) as bar:
        for group, (sums, highest) in _in_order(measure, _groups(found.pairs), _processes(workers, len(found.pairs))):
            for (prediction, _), one in zip(group, sums, strict=True):
                tally.add(prediction.stem, one)
            greatest = max(greatest, highest)
            bar.update(len(group))
    if 0 < greatest < 1.5 / 255 and all(prediction.suffix.lower() == ".png" for prediction, _ in found.pairs):
        raise CracksError(
            f"{predictions}: no pixel of any prediction is above 1 of 255, as in masks saved as 0 and 1; "
            "expected 0 and 255, or grey levels (multiply by 255, or save score maps as .npy)"
        )
    geometry = "as_given" if resize is None else f"{resize}_resized"
    result = summary(tally, rule=f"value:{float(threshold)}", geometry=geometry, crack_free=crack_free)
    return {
        **result,
        "matched": len(found.pairs),
        "masks_alone": found.masks_alone,
        "predictions_alone": found.predictions_alone,
    }


# ------------------------------------------------------------------------------------------------ one pair


def _measured(
    pairs: Sequence[Pair], threshold: float, resize: str | None, crack_free: str
) -> tuple[list[Sums], float]:
    """What each pair adds, and the greatest score among them."""
    sums, greatest = [], 0.0
    for prediction, truth in pairs:
        score, mask = _of_one_size(prediction, truth, resize)
        sums.append(image_sums(score, score > np.float32(threshold), mask, crack_free))
        greatest = max(greatest, float(score.max()))
    return sums, greatest


def _of_one_size(
    prediction: Path, truth: Path, resize: str | None
) -> tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    score, mask = read_score(prediction), read_mask(truth)
    if score.shape == mask.shape:
        return score, mask
    if resize is None:
        raise CracksError(
            f"{prediction}: prediction is {_size(score.shape)} but its mask {truth} is {_size(mask.shape)}; "
            "they must have one size (resize the prediction, or say --resize prediction or --resize mask)"
        )
    if resize == "mask":
        return score, cv2.resize(mask.astype(np.uint8), score.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    decided = np.unique(score).size <= 2
    how = cv2.INTER_NEAREST if decided else cv2.INTER_LINEAR
    return np.clip(cv2.resize(score, mask.shape[::-1], interpolation=how), 0, 1), mask


# ------------------------------------------------------------------------------------------------ processes


def _processes(workers: int | None, pairs: int) -> int:
    if workers is not None:
        return min(workers, -(-pairs // _GROUP))  # more would have nothing to do
    return cores() if pairs >= _FEW and cores() > 1 else 0


def _groups(pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
    return [pairs[start : start + _GROUP] for start in range(0, len(pairs), _GROUP)]


def _in_order(measure: Any, groups: list[Sequence[Pair]], processes: int) -> Iterator[tuple[Sequence[Pair], Any]]:
    """Each group with what came of it, in order; never more groups under way than the processes need."""
    if not processes:
        yield from ((group, measure(group)) for group in groups)
        return
    # Not forked: another library's threads in this process would leave their locks taken.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_one_thread) as pool:
        under_way: list[tuple[Sequence[Pair], Future[Any]]] = []
        try:
            for group in groups:
                under_way.append((group, pool.submit(measure, group)))
                if len(under_way) > 2 * processes:
                    first, found = under_way.pop(0)
                    yield first, found.result()
            yield from ((group, found.result()) for group, found in under_way)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    cv2.setNumThreads(1)


# ------------------------------------------------------------------------------------------------ matching


def match(predictions: Path, masks: Path, unmatched: bool = False) -> Matching:
    """What belongs together by stem; CracksError where a file is alone, unless that is allowed, or nothing matches."""
    predicted, truths = _by_stem(predictions, PREDICTION_SUFFIXES), _by_stem(masks, MASK_SUFFIXES)
    missing, unknown = sorted(truths.keys() - predicted.keys()), sorted(predicted.keys() - truths.keys())
    both = sorted(predicted.keys() & truths.keys())
    problems = []
    if missing:
        problems.append(f"{masks}: masks without a prediction in {predictions}: {_names(missing)}")
    if unknown:
        problems.append(f"{predictions}: predictions without a mask in {masks}: {_names(unknown)}")
    if problems and not (unmatched and both):
        remedy = "rename, add or remove" + (", or say --unmatched to score the pairs alone" if both else "")
        raise CracksError("; ".join(problems) + f"; every stem must be in both folders ({remedy})")
    return Matching([(predicted[stem], truths[stem]) for stem in both], missing, unknown)
def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise CracksError(f"{folder}: {found}; expected a folder of {', '.join(suffixes)} files")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in files:
            raise CracksError(
                f"{path}: has the stem of {files[path.stem].name}; each stem must be there once (remove one)"
            )
        files[path.stem] = path
    if not files:
        raise CracksError(
            f"{folder}: no {', '.join(suffixes)} file in it; put the files straight into this folder"
        )
    return files


def _names(stems: Iterable[str]) -> str:
    stems = list(stems)
    rest = f" and {len(stems) - NAMED} more" if len(stems) > NAMED else ""
    return ", ".join(stems[:NAMED]) + rest


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
