"""The verb `evaluate`: score a labelled split and say how well, every number by its exact name."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from cracks_jax.calibrate import Thresholds
from cracks_jax.data.datasets import Dataset, Record
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.errors import CracksError
from cracks_jax.metrics.counts import Counts
from cracks_jax.metrics.curve import Curve, summarise
from cracks_jax.predict import Scorer, mask_in_geometry
from cracks_jax.scoring import Scoring


def evaluate(dataset: Dataset, scoring: Scoring) -> dict[str, Any]:
    """Metrics at the rule's threshold, and at the best threshold of this very split (optimistic), pooled over pixels.

    Raises:
      CracksError: an image without mask, or a mask of another size than its image.
    """
    (metrics,) = pooled(dataset, scoring.scorer, [scoring.thresholds])
    return {**metrics, **scoring.names}


def pooled(dataset: Dataset, scorer: Scorer, rules: Sequence[Thresholds]) -> list[dict[str, Any]]:
    """The metrics of each rule from one pass over the images; every score map is made once."""
    counts, curve = [Counts() for _ in rules], Curve.empty()
    for record in tqdm(dataset.records, desc="scoring", unit="image", file=sys.stderr, mininterval=_interval()):
        score, mask = _scored(record, scorer)
        counts = [one + Counts.of(rule.mask(score), mask) for one, rule in zip(counts, rules, strict=True)]
        curve += Curve.of(score, mask)
    return [
        {
            **summarise(one, curve, images=len(dataset), rule=str(rule.rule), geometry=scorer.how.geometry),
            "thresholds": rule.found,
            "data": dataset.label,
            "data_digest": dataset.digest(),
        }
        for one, rule in zip(counts, rules, strict=True)
    ]


def _scored(record: Record, scorer: Scorer) -> tuple[np.ndarray, np.ndarray]:
    """One image's score map and its mask in the same geometry."""
    if record.mask is None:
        raise CracksError(f"{record.image}: has no mask; `evaluate` needs labels (`detect` does not)")
    image, mask = read_image(record.image), read_mask(record.mask)
    if mask.shape != image.shape[:2]:
        raise CracksError(
            f"{record.mask}: mask is {mask.shape[1]}x{mask.shape[0]} but its image is "
            f"{image.shape[1]}x{image.shape[0]}; masks must have their image's size "
            "(`cracks-jax data check` lists every such pair)"
        )
    return scorer(image), mask_in_geometry(mask, scorer.how)


def table(metrics: dict[str, Any]) -> str:
    """The metrics for reading: shares in percent, the optimistic ones marked."""
    lines = []
    for name, value in metrics.items():
        if name in _PERCENT:
            shown = "undefined (0/0)" if value is None else f"{100 * value:.2f} %"
            note = "  (optimistic: threshold chosen on this split)" if name in ("best_f1", "best_iou") else ""
            lines.append(f"{name:16} {shown}{note}")
        elif name == "thresholds":
            lines += [f"threshold {size:>9}: {t:.5f}" for size, t in value.items()]
        elif name != "data_digest" and value is not None:
            lines.append(f"{name:16} {value}")
    return "\n".join(lines)


_PERCENT = (
    "precision", "recall", "f1", "iou", "accuracy", "miou", "best_f1", "best_iou", "crack_share",
)  # fmt: skip


def _interval() -> float:
    return 0.2 if sys.stderr.isatty() else 15
