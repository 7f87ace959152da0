"""How sure a number is: intervals over images, spread over seeds, and whether one method beats another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cracks_jax.metrics.definitions import METRICS
from cracks_jax.metrics.tally import LEFT_OUT, RESAMPLES, Tally, draws

LEVEL = 0.95


def values(tally: Tally) -> dict[str, float | None]:
    """Every metric of the images as they are; 0/0 is None."""
    return {name: _plain(metric(tally.sums)) for name, metric in METRICS.items()}


def intervals(tally: Tally, level: float = LEVEL) -> dict[str, tuple[float, float] | None]:
    """For every metric the quantiles of its resamples that leave (1 - level) / 2 on either side.

    The percentile bootstrap over images (Efron & Tibshirani 1993, ch. 13): what other images of the same kind would
    have given. It says nothing of another training. None where the metric is undefined in every resample, or without
    resamples.
    """
    return {name: _interval(metric(tally.resampled), level) for name, metric in METRICS.items()}


def summary(tally: Tally, *, rule: str, geometry: str, crack_free: str = LEFT_OUT) -> dict[str, Any]:
    """The keys that `evaluate` and `score` print, in their order: every metric, then what it is of.

    Args:
      tally: of the images, their score maps and what the rule made of them.
      rule: the threshold rule by name, e.g. "otsu", "undamaged:0.995", "value:0.5".
      geometry: "native", "resize256", "as_given", ...
      crack_free: what an image without cracks was in means over images.

    Returns:
      A dict for JSON. `best_f1` and `best_iou` are at `best_threshold` of these very images, hence optimistic;
      `intervals` holds [low, high] of every metric over resamples of the images.
    """
    found, sums = values(tally), tally.sums
    best_f1 = found["ods"]
    tp, fp, fn, tn = (float(n) for n in sums["rule"])
    pixels = tp + fp + fn + tn
    return {
        **{name: found[name] for name in _FIRST},
        "best_threshold": found["best_threshold"],
        "best_f1": best_f1,
        "best_iou": None if best_f1 is None else best_f1 / (2 - best_f1),
        "images": int(sums["images"]),
        "crack_share": (tp + fn) / pixels if pixels else None,
        "rule": rule,
        "geometry": geometry,
        **{name: value for name, value in found.items() if name not in (*_FIRST, "best_threshold")},
        "images_in_means": int(sums["counted"]),
        "images_without_crack": crack_free,
        "resamples": tally.resamples,
        "intervals": {name: None if ends is None else list(ends) for name, ends in intervals(tally).items()},
    }


_FIRST = ("precision", "recall", "f1", "iou", "accuracy", "miou")


@dataclass(frozen=True)
class Difference:
    """One metric of two methods on the same images.

    Attributes:
      value: the first method's less the second's.
      interval: of the difference, over resamples of the images.
      p: two-sided, of no difference: twice the smaller share of resamples on one side of zero, at least 1/resamples.
    """

    value: float | None
    interval: tuple[float, float] | None
    p: float | None


def compare(first: Tally, second: Tally, name: str, level: float = LEVEL) -> Difference:
    """A paired bootstrap test: both methods are resampled by the same draws, so images hard for both cancel.

    Raises:
      ValueError: the two are not of the same images, or are resampled differently; or there is no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"{name!r} is no metric; expected one of {', '.join(METRICS)}")
    if first.names != second.names or (first.resamples, first.seed) != (second.resamples, second.seed):
        raise ValueError("the tallies are not of the same images with the same resamples; score both on one data set")
    metric = METRICS[name]
    return _difference(
        metric(first.sums) - metric(second.sums), metric(first.resampled) - metric(second.resampled), level
    )


def compare_counts(
    name: str, images: Sequence[str], first: np.ndarray, second: np.ndarray, level: float = LEVEL
) -> Difference:
    """`compare` for a metric of the counts at the rule alone, such as f1, from each image's counts.

    Args:
      images: their names.
      first, second: tp, fp, fn, tn of each image by two methods, (images, 4).
    """
    weights, metric = _weights(images), METRICS[name]
    value = metric({"rule": first.sum(0)}) - metric({"rule": second.sum(0)})
    return _difference(value, metric({"rule": weights @ first}) - metric({"rule": weights @ second}), level)


def interval_of_counts(
    name: str, images: Sequence[str], counts: np.ndarray, level: float = LEVEL
) -> tuple[float, float] | None:
    """The interval of a metric of the counts at the rule alone, over the same resamples as a Tally's.

    Args:
      images: their names.
      counts: tp, fp, fn, tn of each, (images, 4).
    """
    return _interval(METRICS[name]({"rule": _weights(images) @ counts}), level)


def _weights(images: Sequence[str]) -> np.ndarray:
    """How often each resample draws each image, (resamples, images)."""
    return np.stack([draws(image, RESAMPLES, 0) for image in images], axis=1)


def _difference(value: np.ndarray, found: np.ndarray, level: float) -> Difference:
    found = found[~np.isnan(found)]
    if np.isnan(value) or not found.size:
        return Difference(_plain(value), None, None)
    side = float(min(np.mean(found <= 0), np.mean(found >= 0)))
    return Difference(float(value), _interval(found, level), min(1.0, max(2 * side, 1 / found.size)))


def over_seeds(found: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over trainings that differ in the seed alone; of one, no deviation."""
    if not found:
        raise ValueError("no values; expected one for each seed")
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else None


def _interval(found: np.ndarray, level: float) -> tuple[float, float] | None:
    found = found[~np.isnan(found)]
    if not found.size:
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _plain(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
