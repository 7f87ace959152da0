"""The verb `score`: any tool's predictions against masks, file by file, pooled over all pixels.

Predictions are 8 or 16 bit PNG (0 and 255, or grey score maps) or .npy (bool, or scores in [0, 1]), masks are
images; the two are matched by stem and compared at their own size (geometry `as_given`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cracks_jax.data.images import MASK_SUFFIXES, read_mask, read_score
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.metrics.counts import Counts
from cracks_jax.metrics.curve import Curve, summarise

PREDICTION_SUFFIXES = (".png", ".npy")
NAMED = 20  # as many unmatched files as a message names; the rest are counted


def run(predictions: str | Path, masks: str | Path, threshold: float = 0.5) -> dict[str, Any]:
    """Pooled metrics of a folder of predictions against a folder of masks.

    Args:
      predictions: folder of .png and .npy files; files of other kinds in it are not looked at.
      masks: folder of masks, one per prediction, with the same stem.
      threshold: crack = score > threshold, compared in float32, 0 <= threshold < 1. A prediction of 0 and
        255, or of booleans, is decided already: no threshold in this range changes it.

    Returns:
      The keys of `metrics.curve.summarise`, with rule `value:THRESHOLD` and geometry `as_given`, and
      `matched`, the number of pairs.

    Raises:
      UsageError: the threshold is outside [0, 1).
      CracksError: a folder is missing or empty, a prediction or a mask is alone, sizes differ, a file cannot
        be read, scores are not finite or outside [0, 1], or predictions hold 0 and 1 instead of 0 and 255.
    """
    if not 0 <= threshold < 1:
        raise UsageError(
            f"threshold is {threshold}; scores lie in [0, 1], so it must be at least 0 and below 1"
        )
    pairs = match(Path(predictions), Path(masks))
    counts, curve = Counts(), Curve.empty()
    greatest = 0.0
    for prediction, truth in pairs:
        score, mask = read_score(prediction), read_mask(truth)
        if score.shape != mask.shape:
            raise CracksError(
                f"{prediction}: prediction is {_size(score.shape)} but its mask {truth} is "
                f"{_size(mask.shape)}; they must have one size (resize the prediction, not the mask)"
            )
        counts += Counts.of(score > threshold, mask)
        curve += Curve.of(score, mask)
        greatest = max(greatest, float(score.max()))
    if 0 < greatest < 1.5 / 255 and all(prediction.suffix.lower() == ".png" for prediction, _ in pairs):
        raise CracksError(
            f"{predictions}: no pixel of any prediction is above 1 of 255, as in masks saved as 0 and 1; "
            "expected 0 and 255, or grey levels (multiply by 255, or save score maps as .npy)"
        )
    result = summarise(
        counts, curve, images=len(pairs), rule=f"value:{float(threshold)}", geometry="as_given"
    )
    return {**result, "matched": len(pairs)}


def match(predictions: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pairs of prediction and mask of one stem, sorted by stem; CracksError where any file is alone."""
    predicted, truths = _by_stem(predictions, PREDICTION_SUFFIXES), _by_stem(masks, MASK_SUFFIXES)
    missing, unknown = sorted(truths.keys() - predicted.keys()), sorted(predicted.keys() - truths.keys())
    problems = []
    if missing:
        problems.append(f"{masks}: masks without a prediction in {predictions}: {_names(missing)}")
    if unknown:
        problems.append(f"{predictions}: predictions without a mask in {masks}: {_names(unknown)}")
    if problems:
        raise CracksError(
            "; ".join(problems) + "; every stem must be in both folders (rename, add or remove)"
        )
    return [(predicted[stem], truths[stem]) for stem in sorted(predicted)]


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
