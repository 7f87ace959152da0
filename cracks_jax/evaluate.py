"""The verb `evaluate`: score a labelled split and say how well, every number by its exact name."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cracks_jax.cost import Stopwatch, size
from cracks_jax.data.datasets import Dataset, Record
from cracks_jax.data.images import read_image, read_mask
from cracks_jax.errors import CracksError, shown
from cracks_jax.methods.detection import Detection
from cracks_jax.metrics.counts import Counts
from cracks_jax.metrics.curve import Curve
from cracks_jax.metrics.definitions import METRICS
from cracks_jax.metrics.tally import LEFT_OUT, Tally, decision_sums, score_sums
from cracks_jax.metrics.uncertainty import summary
from cracks_jax.predict import in_geometry, mask_in_geometry, smooth
from cracks_jax.runtime.overlap import Behind, ahead
from cracks_jax.scoring import Scoring
from cracks_jax.surroundings import cores

# Bytes of images that are decoded ahead, and as many again that wait for their filter and their counts.
WAITING = 2**26
# Of an image, by rule: its threshold and what it adds.
_Found = list[tuple[float, dict[str, np.ndarray]]]


@dataclass(frozen=True)
class Judged:
    """What one rule makes of a data set.

    Attributes:
      metrics: every metric and what it is of, as `evaluate` prints them.
      images: by image `image`, `threshold`, `tp`, `fp`, `fn`, `tn`, `f1`, `iou`.
      curve: pixels of crack and of background by the number of thresholds below their score.
    """

    metrics: dict[str, Any]
    images: list[dict[str, Any]]
    curve: Curve


def evaluate(dataset: Dataset, scoring: Scoring, crack_free: str = LEFT_OUT) -> Judged:
    """Every metric at the rule's threshold, and those at the best threshold of this very split (optimistic).

    Args:
      crack_free: what an image without cracks is in means over images, see `metrics.tally.image_sums`.

    Raises:
      CracksError: an image without mask, or a mask of another size than its image.
    """
    return judge(dataset, [scoring], crack_free)[0]


def judge(dataset: Dataset, scorings: Sequence[Scoring], crack_free: str = LEFT_OUT) -> list[Judged]:
    """Several rules over one scorer, from one pass over the images; every score map is made once."""
    scorer = scorings[0].scorer
    tallies: list[Tally] = [Tally() for _ in scorings]
    images: list[list[dict[str, Any]]] = [[] for _ in scorings]
    watch = Stopwatch()

    def finish(stem: str, raw: np.ndarray, mask: np.ndarray) -> tuple[str, _Found]:
        with watch.part("filter"):
            score = smooth(raw, scorer.how)
        thresholds = [scoring.thresholds.at(score) for scoring in scorings]
        with watch.part("metrics"):
            of_score = score_sums(score, mask, crack_free)
            return stem, [(t, of_score | decision_sums(score > t, mask, crack_free)) for t in thresholds]

    def add(finished: tuple[str, _Found]) -> None:
        stem, found = finished
        for (threshold, sums), tally, listed in zip(found, tallies, images, strict=True):
            tally.add(stem, sums)
            listed.append(_of_image(stem, threshold, sums["rule"]))
        bar.update()

    with (
        tqdm(total=len(dataset), desc="scoring", unit="image", file=sys.stderr, mininterval=_interval()) as bar,
        ahead(_pairs(dataset, scorer.how, watch), lambda one: one[1].size, WAITING) as read,
        Behind(_helpers(), WAITING, add) as behind,
    ):
        for stem, image, mask in read:
            with watch.part("network", image.shape):
                raw = scorer.raw(image)
            behind.give(image.size, finish, stem, raw, mask)
    about = {"data": dataset.label, "data_digest": dataset.digest()}
    cost = watch.cost() | size(scorer.method, scorer.how)
    return [
        Judged(_metrics(scoring, tally, crack_free) | about | scoring.names | {"cost": cost}, listed, _curve(tally))
        for scoring, tally, listed in zip(scorings, tallies, images, strict=True)
    ]


def _pairs(dataset: Dataset, how: Detection, watch: Stopwatch) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Stem, image and mask of each record, in the geometry of detection."""
    for record in dataset.records:
        with watch.part("reading"):
            image, mask = _pair(record)
            both = in_geometry(image, how), mask_in_geometry(mask, how)
        yield record.stem, *both


def _helpers() -> int:
    """Threads that filter and count while the network goes on; none where the network has all cores already."""
    return 0 if jax.default_backend() == "cpu" else cores()


def _metrics(scoring: Scoring, tally: Tally, crack_free: str) -> dict[str, Any]:
    rule, geometry = scoring.thresholds, scoring.scorer.how.geometry
    found = summary(tally, rule=str(rule.rule), geometry=geometry, crack_free=crack_free)
    return found | {"thresholds": rule.found}


def _of_image(stem: str, threshold: float, counts: np.ndarray) -> dict[str, Any]:
    found = Counts(*(int(n) for n in counts))
    of_counts = {"tp": found.tp, "fp": found.fp, "fn": found.fn, "tn": found.tn}
    return {"image": stem, "threshold": threshold, **of_counts, "f1": found.f1, "iou": found.iou}


def _curve(tally: Tally) -> Curve:
    return Curve(*(tally.sums[part].astype(np.int64) for part in ("crack", "background")))


def _pair(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """One image and its mask."""
    if record.mask is None:
        raise CracksError(f"{record.image}: has no mask; `evaluate` needs labels (`detect` does not)")
    image, mask = read_image(record.image), read_mask(record.mask)
    if mask.shape != image.shape[:2]:
        raise CracksError(
            f"{record.mask}: mask is {mask.shape[1]}x{mask.shape[0]} but its image is "
            f"{image.shape[1]}x{image.shape[0]}; masks must have their image's size "
            "(`cracks-jax data check` lists every such pair)"
        )
    return image, mask


def table(metrics: dict[str, Any]) -> str:
    """The metrics for reading: shares in percent, each with its interval, the optimistic ones marked."""
    lines, intervals = [], metrics.get("intervals", {})
    for name, value in metrics.items():
        if name == "cost":
            lines += [f"{part:20} {'unknown' if held is None else held}" for part, held in _flat(value)]
        elif name in ("intervals", "data_digest") or value == [] or (value is None and name not in intervals):
            continue
        elif name == "thresholds":
            lines += [f"threshold {size:>9}: {t:.5f}" for size, t in value.items()]
        elif name in _PERCENT or (name in METRICS and name != "best_threshold"):
            note = "  (optimistic: threshold chosen on this split)" if name in _OPTIMISTIC else ""
            lines.append(f"{name:20} {_percent(value)}{_between(intervals.get(name))}{note}")
        else:
            lines.append(f"{name:20} {'undefined (0/0)' if value is None else value}")
    if intervals:
        lines.append(f"(low to high): the 95 % interval over {metrics.get('resamples')} resamples of the images")
    return "\n".join(map(shown, lines))


def _flat(cost: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The cost's numbers with their names; what an image takes by part, in milliseconds."""
    for name, held in cost.items():
        if isinstance(held, dict):
            yield from ((f"{part}, ms/image", None if s is None else f"{1000 * s:.1f}") for part, s in held.items())
        else:
            yield name, held


_PERCENT = ("best_f1", "best_iou", "crack_share")
_OPTIMISTIC = ("best_f1", "best_iou", "ods", "ois", "ods_image_mean", "ois_image_mean", "miou_image_mean_best")


def _percent(value: float | None) -> str:
    return "undefined (0/0)" if value is None else f"{100 * value:.2f} %"


def _between(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"  ({100 * ends[0]:.2f} to {100 * ends[1]:.2f})"


def _interval() -> float:
    return 0.2 if sys.stderr.isatty() else 15
