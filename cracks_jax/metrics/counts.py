"""Pixel counts of one decision against masks, and the metrics that follow from them.

Counts are sums over pixels, so those of two images, two processes or two data sets merge by addition, and
every metric is computed once, from the sums (pooled, also called micro: UPCRACKNET.md section 7). A mean of
per-image metrics is another number, and nothing here computes it. Crack is the positive class, without
tolerance. Metrics are fractions; 0/0 is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool


def ratio(numerator: float, denominator: float) -> float | None:
    """The fraction, or None for 0/0: an undefined metric is neither perfect nor zero."""
    return numerator / denominator if denominator else None


@dataclass(frozen=True)
class Counts:
    """True and false positives, false and true negatives, in pixels; `a + b` is the counts of both."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def of(cls, pred: Bool[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> "Counts":
        """Counts of a predicted mask against the true one; anything but 0 is crack.

        Raises:
          ValueError: the two have different shapes.
        """
        if pred.shape != mask.shape:
            raise ValueError(f"prediction has shape {pred.shape} and mask {mask.shape}; they must be equal")
        pred, mask = np.asarray(pred, bool), np.asarray(mask, bool)
        tp = int(np.count_nonzero(pred & mask))
        predicted, cracked = int(np.count_nonzero(pred)), int(np.count_nonzero(mask))
        return cls(tp, predicted - tp, cracked - tp, mask.size - predicted - cracked + tp)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def total(self) -> int:
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float | None:
        """Share of the predicted crack pixels that are crack."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the crack pixels that were predicted."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float | None:
        """Intersection over union of the crack class; F1 / (2 - F1) for pooled counts."""
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def background_iou(self) -> float | None:
        return ratio(self.tn, self.tn + self.fp + self.fn)

    @property
    def accuracy(self) -> float | None:
        return ratio(self.tp + self.tn, self.total)

    @property
    def miou(self) -> float | None:
        """Mean of the pooled IoU of crack and of background; None where either is."""
        crack, background = self.iou, self.background_iou
        return None if crack is None or background is None else (crack + background) / 2

    @property
    def crack_share(self) -> float | None:
        """Share of all pixels that the masks call crack."""
        return ratio(self.tp + self.fn, self.total)

    def metrics(self) -> Mapping[str, float | None]:
        """The six metrics of one decision, in the order in which they are reported."""
        names = ("precision", "recall", "f1", "iou", "accuracy", "miou")
        return {name: getattr(self, name) for name in names}
