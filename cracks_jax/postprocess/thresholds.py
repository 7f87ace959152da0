"""How a score map becomes a mask: the threshold rules and their names. Crack = score > threshold.

`otsu` reads the image alone; `undamaged` a quantile of the error on windows without cracks, `validation` the
best threshold on labelled validation images (`metrics.curve.Curve.best_f1`); a number is itself.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from cracks_jax.errors import CracksError, UsageError

OTSU_BINS = 256
DEFAULT_QUANTILE = 0.995
ACCEPTED = "otsu, validation, undamaged, undamaged:Q with 0 < Q < 1, argmax, or a number in [0, 1)"


@dataclass(frozen=True)
class Rule:
    """A threshold rule by name; `str(rule)` is the name under which results are recorded.

    Attributes:
      kind: which rule.
      quantile: of the error on undamaged windows; for kind "undamaged" only.
      value: the threshold; for kind "value" only.
    """

    kind: Literal["otsu", "validation", "undamaged", "value"]
    quantile: float | None = None
    value: float | None = None

    def __str__(self) -> str:
        number = self.quantile if self.kind == "undamaged" else self.value
        return self.kind if number is None else f"{self.kind}:{number}"


def parse_rule(text: str) -> Rule:
    """The rule that a text names: "otsu", "validation", "undamaged[:Q]", "argmax", "0.5" or "value:0.5".

    "argmax" is the value 0.5: of two softmax classes, crack is the greater where its score is above 0.5.

    Raises:
      UsageError: the text names no rule; the message lists what is accepted.
    """
    kind, _, number = text.strip().partition(":")
    if kind in ("otsu", "validation") and not number:
        return Rule(kind)  # type: ignore[arg-type]
    if kind == "argmax" and not number:
        return Rule("value", value=0.5)
    if kind == "undamaged":
        quantile = _number(number, text) if number else DEFAULT_QUANTILE
        if 0 < quantile < 1:
            return Rule("undamaged", quantile=quantile)
        raise UsageError(f"threshold rule '{text}': quantile {number} is not between 0 and 1; say {ACCEPTED}")
    value = _number(number if kind == "value" else text, text)
    if 0 <= value < 1:
        return Rule("value", value=value)
    raise UsageError(f"threshold rule '{text}': scores lie in [0, 1], {value:g} splits none; say {ACCEPTED}")


def _number(part: str, text: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise UsageError(f"threshold rule '{text}' is unknown; say {ACCEPTED}") from None


def otsu(score: np.ndarray) -> float:
    """Otsu's threshold of one image: the split with the greatest variance between the two classes.

    Args:
      score: float (h, w): 256 equal bins between its own least and greatest score, the threshold is the
        centre of the last bin below the split (as scikit-image). uint8 (h, w): one bin per grey level, the
        threshold is the last level below the split (as scikit-image and OpenCV).

    Returns:
      The threshold in the units of `score`. A constant image has no crack: the threshold is its value.

    Raises:
      ValueError: the image is empty or a score is not finite.
    """
    if not score.size:
        raise ValueError(f"an image of shape {score.shape} has no threshold; Otsu needs at least one pixel")
    low, high = score.min(), score.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"scores go from {low} to {high}; Otsu's threshold needs finite scores")
    if low == high:
        return float(low)
    if score.dtype == np.uint8:
        counts, centres = np.bincount(score.reshape(-1), minlength=256), np.arange(256.0)
    else:
        try:
            counts, edges = np.histogram(score, bins=OTSU_BINS, range=(float(low), float(high)))
        except ValueError:  # an image that is all but constant: float32 has fewer steps between its ends than bins
            counts, edges = np.histogram(score.astype(np.float64), bins=OTSU_BINS, range=(float(low), float(high)))
        centres = (edges[:-1] + edges[1:]) / 2
    return float(centres[_split(counts.astype(np.float64), centres.astype(np.float64))])


def _split(counts: Float[np.ndarray, " n"], centres: Float[np.ndarray, " n"]) -> int:
    """Index of the last bin of the lower class; the first of several equally good splits."""
    below, mass = np.cumsum(counts)[:-1], np.cumsum(counts * centres)
    above = counts.sum() - below
    both = (below > 0) & (above > 0)
    mean_below = mass[:-1] / np.maximum(below, 1)
    mean_above = (mass[-1] - mass[:-1]) / np.maximum(above, 1)
    return int(np.argmax(np.where(both, below * above * (mean_below - mean_above) ** 2, -1.0)))


def quantile_threshold(errors: Iterable[np.ndarray], q: float) -> float:
    """The least error that at least a share q of all undamaged pixels does not exceed.

    So at most 1 - q of the undamaged pixels lie above the threshold. Exact: all values are held as float32.

    Args:
      errors: score maps of undamaged windows, of any shapes, pixels to be left out already removed.
      q: 0 < q < 1, fixed beforehand.

    Raises:
      UsageError: q is not between 0 and 1.
      CracksError: there is no pixel, or an error is not finite.
    """
    if not 0 < q < 1:
        raise UsageError(f"quantile {q} of the undamaged error; it must lie between 0 and 1 (default 0.995)")
    parts = [np.asarray(part, np.float32).reshape(-1) for part in errors]
    values = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if not values.size:
        raise CracksError("the rule 'undamaged' found no pixel; it needs at least one undamaged window")
    if not np.isfinite(values).all():
        raise CracksError("the error on undamaged windows is not finite; use another checkpoint")
    # Rounded first: q * n may land a rounding error above a whole number, which would move one rank up.
    rank = max(math.ceil(round(q * values.size, 6)), 1) - 1
    return float(np.partition(values, rank)[rank])
