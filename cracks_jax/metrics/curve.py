"""Counts at 1,024 thresholds at once, mergeable.

Scores are float32 in [0, 1]; crack = score > threshold, strictly. The thresholds are (i/1024)^2, so that
squared errors, which crowd near 0, are resolved too; the first reads "score > 0" (DESIGN.md section 3).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from cracks_jax.metrics.counts import Counts

BINS = 1024
# i^2 / 2^20 needs 20 bits: every threshold is exact in float32, so comparing float32 scores with it is too.
THRESHOLDS: Float[np.ndarray, "1024"] = ((np.arange(BINS) / BINS) ** 2).astype(np.float32)


def thresholds_below(score: Float[np.ndarray, "h w"]) -> Int64[np.ndarray, "h w"]:
    """How many thresholds lie strictly below each score: 0 for score 0, 1024 for a score of 1.

    i^2 / 2^20 < s is i < sqrt(2^20 s), so the number is the ceiling. In float64 it is exact: a float32 next
    to a threshold differs from it by at least 2^-24 of its value, its root by 2^-26, far above the rounding.
    """
    root = np.multiply(score, float(BINS * BINS), dtype=np.float64)
    np.sqrt(root, out=root)
    np.ceil(root, out=root)
    return root.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Curve:
    """Pixels by the number of thresholds below their score; `a + b` is the curve of both.

    Attributes:
      crack: crack pixels, int64 (1025,).
      background: background pixels, int64 (1025,).
    """

    crack: Int64[np.ndarray, "1025"]
    background: Int64[np.ndarray, "1025"]

    @classmethod
    def empty(cls) -> "Curve":
        """The curve of no pixels: where a sum starts."""
        return cls(np.zeros(BINS + 1, np.int64), np.zeros(BINS + 1, np.int64))

    @classmethod
    def of(cls, score: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> "Curve":
        """The curve of one score map against its mask (anything but 0 is crack).

        Raises:
          ValueError: shapes differ, or a score is not finite or outside [0, 1].
        """
        if score.shape != mask.shape:
            raise ValueError(f"score map has shape {score.shape} and mask {mask.shape}; they must be equal")
        score = np.asarray(score, np.float32)
        check_scores(score)
        bins = thresholds_below(score)
        bins += (BINS + 1) * np.asarray(mask, bool)
        histogram = np.bincount(bins.reshape(-1), minlength=2 * (BINS + 1))
        return cls(crack=histogram[BINS + 1 :], background=histogram[: BINS + 1])

    def __add__(self, other: "Curve") -> "Curve":
        return Curve(self.crack + other.crack, self.background + other.background)

    @property
    def counts(self) -> Int64[np.ndarray, "1024 4"]:
        """tp, fp, fn, tn at every threshold."""
        fn, tn = np.cumsum(self.crack)[:-1], np.cumsum(self.background)[:-1]
        return np.stack([self.crack.sum() - fn, self.background.sum() - tn, fn, tn], axis=1)

    def counts_at(self, index: int) -> Counts:
        """Counts of the decision score > THRESHOLDS[index]."""
        return Counts(*(int(n) for n in self.counts[index]))

    def best_f1(self) -> tuple[float | None, float | None]:
        """Threshold with the greatest F1, and that F1; the lowest of several that are equally good.

        Optimistic on the split that it was chosen on. (None, None) where F1 is undefined at every threshold.
        """
        tp, fp, fn, _ = self.counts.T
        errors = fp + fn
        defined = 2 * tp + errors > 0
        if not defined.any():
            return None, None
        index = int(np.argmax(np.where(defined, 2 * tp / np.maximum(2 * tp + errors, 1), -1.0)))
        return float(THRESHOLDS[index]), self.counts_at(index).f1

    def best_iou(self) -> tuple[float | None, float | None]:
        """Threshold with the greatest crack IoU, and that IoU: the threshold of `best_f1`.

        IoU = F1 / (2 - F1) grows with F1, so one threshold is best for both.
        """
        threshold, _ = self.best_f1()
        if threshold is None:
            return None, None
        return threshold, self.counts_at(int(np.searchsorted(THRESHOLDS, threshold))).iou


def check_scores(score: Float[np.ndarray, "h w"]) -> None:
    """Raises ValueError where a score is not finite or outside [0, 1]."""
    low, high = (float(score.min()), float(score.max())) if score.size else (0.0, 0.0)
    if not (low >= 0.0 and high <= 1.0):  # also true for NaN
        raise ValueError(f"scores go from {low:g} to {high:g}; they must be finite and in [0, 1]")
