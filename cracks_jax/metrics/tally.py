"""Sums over images, of which every metric is made: of the images as they are, and of each bootstrap resample of them.

An image becomes a fixed number of sums, whatever its size (`image_sums`). A `Tally` adds them up, once as they are and
once for each resample with a weight for the image, so its memory does not grow with the number of images, and tallies
of other processes and hosts merge by addition. What is computed from sums: `metrics/definitions.py`.

Resamples are Poisson's (Chamandy et al. 2012, Google technical report 'Estimating uncertainty for massive data
streams'): an image is drawn k times with the probability that it is drawn k times out of very many images. Its draws
are a function of its name and of the seed alone, so two methods that score the same images are resampled alike.
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from cracks_jax.metrics.counts import Counts
from cracks_jax.metrics.curve import BINS, Curve
from cracks_jax.metrics.tolerance import centre_line_counts, near_counts

RESAMPLES = 1000
RADII = (2, 5)
LINE_RADIUS = 4
# What an image without cracks is in a mean over images.
LEFT_OUT, PERFECT_IF_EMPTY = "left_out", "perfect_if_empty"
CRACK_FREE = (LEFT_OUT, PERFECT_IF_EMPTY)

Sums = Mapping[str, Float[np.ndarray, "..."]]

# Name -> shape of one image's part.
LAYOUT: dict[str, tuple[int, ...]] = {
    "images": (),
    "rule": (4,),  # tp, fp, fn, tn of the decision
    "crack": (BINS + 1,),  # the curve: pixels by the number of thresholds below their score
    "background": (BINS + 1,),
    "own_best": (4,),  # tp, fp, fn, tn at the image's own best threshold
    "near_2": (2,),  # predicted pixels near a crack, crack pixels near a prediction
    "near_5": (2,),
    "lines": (3,),  # tp, fp, fn of centre lines
    "centres": (4,),  # predicted centre line, of it on crack; true centre line, of it predicted
    "counted": (),  # 1 where the image has a part in the means over images
    "image_rates": (6,),  # its precision, recall, f1, iou, accuracy, miou
    "image_f1": (BINS,),  # by threshold
    "image_miou": (BINS,),
    "image_best_f1": (),
}
_GROUP = 16  # images that are added at a time
_SIZES = [math.prod(shape) for shape in LAYOUT.values()]
_ENDS = np.cumsum(_SIZES)


def image_sums(
    score: Float[np.ndarray, "h w"],
    decision: Bool[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
    crack_free: str = LEFT_OUT,
) -> Sums:
    """What one image adds.

    Args:
      score: float32 in [0, 1].
      decision: what a threshold rule made of the score.
      mask: the truth.
      crack_free: `left_out`: an image without a crack has no part in means over images; `perfect_if_empty`: there its
        precision, recall, F1 and IoU are 1 where nothing is predicted and 0 otherwise.

    Raises:
      ValueError: shapes differ, a score is not finite or outside [0, 1], or `crack_free` is another word.
    """
    return score_sums(score, mask, crack_free) | decision_sums(decision, mask, crack_free)


def score_sums(
    score: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], crack_free: str = LEFT_OUT
) -> dict[str, np.ndarray]:
    """The part of `image_sums` that is the same for every decision over one score map."""
    curve = Curve.of(score, mask)
    at = curve.counts.astype(np.float64)
    by_threshold, counted = image_rates(at), _counted(mask, crack_free)
    return {
        "images": np.ones(()),
        "crack": curve.crack.astype(np.float64),
        "background": curve.background.astype(np.float64),
        "own_best": at[_own_best(at)],
        "counted": np.array(counted),
        "image_f1": counted * by_threshold[:, 2],
        "image_miou": counted * by_threshold[:, 5],
        "image_best_f1": counted * by_threshold[:, 2].max(),
    }


def decision_sums(
    decision: Bool[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], crack_free: str = LEFT_OUT
) -> dict[str, np.ndarray]:
    """The part of `image_sums` that is of one decision."""
    decision, mask = np.asarray(decision, bool), np.asarray(mask, bool)
    counts = Counts.of(decision, mask)
    of_rule = np.array([counts.tp, counts.fp, counts.fn, counts.tn], np.float64)
    lines, centres = centre_line_counts(decision, mask, LINE_RADIUS)
    return {
        "rule": of_rule,
        **{f"near_{radius}": near_counts(decision, mask, radius).astype(np.float64) for radius in RADII},
        "lines": lines.astype(np.float64),
        "centres": centres.astype(np.float64),
        "image_rates": _counted(mask, crack_free) * image_rates(of_rule),
    }


def _counted(mask: Bool[np.ndarray, "h w"], crack_free: str) -> float:
    """1 where the image has a part in means over images."""
    if crack_free not in CRACK_FREE:
        raise ValueError(f"crack_free is {crack_free!r}; expected one of {', '.join(CRACK_FREE)}")
    return float(np.any(mask) or crack_free == PERFECT_IF_EMPTY)


def image_rates(counts: Float[np.ndarray, "... 4"]) -> Float[np.ndarray, "... 6"]:
    """Precision, recall, F1, IoU, accuracy, miou of one image's counts, all defined.

    A crack that nobody predicts has precision 0. Without a crack, precision, recall, F1 and IoU are 1 where nothing is
    predicted and 0 otherwise; the background's IoU of an image that is crack all over, alike.
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    empty = (tp + fp + fn == 0).astype(np.float64)

    def share(part: np.ndarray, whole: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)

    no_background = (tn + fp + fn == 0).astype(np.float64)
    iou, background = share(tp, tp + fp + fn, empty), share(tn, tn + fp + fn, no_background)
    rates = [
        share(tp, tp + fp, empty),
        share(tp, tp + fn, empty),
        share(2 * tp, 2 * tp + fp + fn, empty),
        iou,
        share(tp + tn, tp + fp + fn + tn, np.zeros_like(tp)),
        (iou + background) / 2,
    ]
    return np.stack(rates, -1)


def _own_best(at: Float[np.ndarray, "1024 4"]) -> int:
    """The threshold of an image's best F1; of equally good ones that with the fewest errors, then the lowest."""
    tp, fp, fn, _ = at.T
    f1 = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    best = np.flatnonzero(f1 == f1.max())
    return int(best[np.argmin((fp + fn)[best])])


class Tally:
    """Sums of images, row 0 as they are and a row for each resample.

    Args:
      resamples: how many; 0: none, and no intervals.
      seed: of the resamples.
    """

    def __init__(self, resamples: int = RESAMPLES, seed: int = 0):
        self.resamples, self.seed = resamples, seed
        self._rows = np.zeros((1 + resamples, sum(_SIZES)))
        self._names = 0  # a sum over the images' names: the same for the same images in any order
        self._waiting: list[tuple[str, Float[np.ndarray, " k"]]] = []

    def add(self, name: str, sums: Sums) -> None:
        """Adds an image. The same images in the same order give the same bits; in another order, rounding differs.

        Args:
          name: by which it is drawn into resamples: the same for every method that scores it.
          sums: of `image_sums`.
        """
        self._waiting.append((name, np.concatenate([np.ravel(sums[part]) for part in LAYOUT])))
        self._names = (self._names + _number(name)) % 2**64
        if len(self._waiting) == _GROUP:
            self._add_waiting()

    def _add_waiting(self) -> None:
        """Several images at a time: one matrix product instead of passes over all rows."""
        if self._waiting:
            parts = np.stack([part for _, part in self._waiting])
            weights = [np.append(1.0, draws(name, self.resamples, self.seed)) for name, _ in self._waiting]
            self._rows += np.stack(weights).T @ parts
            self._waiting = []

    def __add__(self, other: "Tally") -> "Tally":
        """The tally of both: of two processes, hosts or data sets.

        Raises:
          ValueError: they are resampled differently.
        """
        if (self.resamples, self.seed) != (other.resamples, other.seed):
            raise ValueError(
                f"tallies of {self.resamples} resamples with seed {self.seed} and of {other.resamples} with seed "
                f"{other.seed} do not merge; both must be the same"
            )
        both = Tally(self.resamples, self.seed)
        self._add_waiting()
        other._add_waiting()
        both._rows = self._rows + other._rows
        both._names = (self._names + other._names) % 2**64
        return both

    @property
    def names(self) -> str:
        """Which images, in any order: 16 hexadecimal digits."""
        return f"{self._names:016x}"

    @property
    def sums(self) -> Sums:
        """Of the images as they are."""
        self._add_waiting()
        return _parts(self._rows[0])

    @property
    def resampled(self) -> Sums:
        """Of each resample: the first axis."""
        self._add_waiting()
        return _parts(self._rows[1:])


def draws(name: str, resamples: int, seed: int) -> Float[np.ndarray, " n"]:
    """How often each resample draws the image of this name: Poisson with mean 1."""
    # Raw bits: NumPy promises the same stream for ever for these, not for its distributions.
    key = np.frombuffer(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "<u8")
    uniform = (np.random.Philox(key=key).random_raw(resamples) >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(_POISSON, uniform, side="right").astype(np.float64)


# P(k <= 0), P(k <= 1), ...: beyond 18 the rest is below a uniform number's resolution.
_POISSON = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(19)])


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _parts(rows: Float[np.ndarray, "... k"]) -> Sums:
    pieces = np.split(rows, _ENDS[:-1], axis=-1)
    front = rows.shape[:-1]
    return {name: piece.reshape((*front, *shape)) for (name, shape), piece in zip(LAYOUT.items(), pieces, strict=True)}
