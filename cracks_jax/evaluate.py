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
from cracks_jax.metrics.definitions import METRICS
from cracks_jax.metrics.tally import LEFT_OUT, Tally, decision_sums, score_sums
from cracks_jax.metrics.uncertainty import summary
from cracks_jax.predict import Scorer, mask_in_geometry
from cracks_jax.scoring import Scoring


def evaluate(dataset: Dataset, scoring: Scoring, crack_free: str = LEFT_OUT) -> dict[str, Any]:
    """Every metric at the rule's threshold, and those at the best threshold of this very split (optimistic).

    Args:
      crack_free: what an image without cracks is in means over images, see `metrics.tally.image_sums`.

    Raises:
      CracksError: an image without mask, or a mask of another size than its image.
    """
    (metrics,) = pooled(dataset, scoring.scorer, [scoring.thresholds], crack_free)
    return {**metrics, **scoring.names}


def pooled(
    dataset: Dataset, scorer: Scorer, rules: Sequence[Thresholds], crack_free: str = LEFT_OUT
) -> list[dict[str, Any]]:
    """The metrics of each rule from one pass over the images; every score map is made once."""
    tallies = [Tally() for _ in rules]
    for record in tqdm(dataset.records, desc="scoring", unit="image", file=sys.stderr, mininterval=_interval()):
        score, mask = _scored(record, scorer)
        of_score = score_sums(score, mask, crack_free)
        for tally, rule in zip(tallies, rules, strict=True):
            tally.add(record.stem, of_score | decision_sums(rule.mask(score), mask, crack_free))
    return [
        {
            **summary(tally, rule=str(rule.rule), geometry=scorer.how.geometry, crack_free=crack_free),
            "thresholds": rule.found,
            "data": dataset.label,
            "data_digest": dataset.digest(),
        }
        for tally, rule in zip(tallies, rules, strict=True)
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
    """The metrics for reading: shares in percent, each with its interval, the optimistic ones marked."""
    lines, intervals = [], metrics.get("intervals", {})
    for name, value in metrics.items():
        if name in ("intervals", "data_digest") or value == [] or (value is None and name not in intervals):
            continue
        if name == "thresholds":
            lines += [f"threshold {size:>9}: {t:.5f}" for size, t in value.items()]
        elif name in _PERCENT or (name in METRICS and name != "best_threshold"):
            note = "  (optimistic: threshold chosen on this split)" if name in _OPTIMISTIC else ""
            lines.append(f"{name:20} {_percent(value)}{_between(intervals.get(name))}{note}")
        else:
            lines.append(f"{name:20} {'undefined (0/0)' if value is None else value}")
    return "\n".join(lines)


_PERCENT = ("best_f1", "best_iou", "crack_share")
_OPTIMISTIC = ("best_f1", "best_iou", "ods", "ois", "ods_image_mean", "ois_image_mean", "miou_image_mean_best")


def _percent(value: float | None) -> str:
    return "undefined (0/0)" if value is None else f"{100 * value:.2f} %"


def _between(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"  ({100 * ends[0]:.2f} to {100 * ends[1]:.2f})"


def _interval() -> float:
    return 0.2 if sys.stderr.isatty() else 15
