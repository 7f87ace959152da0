"""Every metric by its exact name: formula, source and unit, computed from the sums of `metrics/tally.py`.

Each function takes sums with any number of axes in front (one for each resample, say) and returns an array of those
axes. All are fractions in [0, 1], `best_threshold` a score; NaN stands for 0/0. Crack is the positive class. TP, FP,
FN, TN are pixels of all images together (pooled) unless the name says `image_mean`; then each image has its own metric,
and the mean is over the images that count (`tally.image_sums`, crack_free).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from cracks_jax.metrics.curve import THRESHOLDS
from cracks_jax.metrics.tally import LINE_RADIUS, RADII, Sums

Values = Float[np.ndarray, "..."]
Metric = Callable[[Sums], Values]

METRICS: dict[str, Metric] = {}


def _metric(function: Metric) -> Metric:
    METRICS[function.__name__] = function
    return function


def _share(part: Values, whole: Values) -> Values:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _rule(sums: Sums) -> tuple[Values, ...]:
    return tuple(np.moveaxis(sums["rule"], -1, 0))


def _f1(tp: Values, fp: Values, fn: Values) -> Values:
    return _share(2 * tp, 2 * tp + fp + fn)


def _harmonic(p: Values, r: Values) -> Values:
    """2 p r / (p + r); as in F1 of counts, where one of the two is undefined the other's errors make it 0."""
    total, product = np.nan_to_num(p) + np.nan_to_num(r), np.nan_to_num(p) * np.nan_to_num(r)
    value = np.where(total > 0, 2 * product / np.where(total > 0, total, 1), 0)
    return np.where(np.isnan(p) & np.isnan(r), np.nan, value)


# ------------------------------------------------------------------------------- at the rule's threshold, pooled


@_metric
def precision(sums: Sums) -> Values:
    """TP / (TP + FP): the share of the prediction that is crack. Pooled; printed as Recall in UP-CrackNet's tables."""
    tp, fp, _, _ = _rule(sums)
    return _share(tp, tp + fp)


@_metric
def recall(sums: Sums) -> Values:
    """TP / (TP + FN): the share of crack that was predicted. Pooled; printed as Precision in UP-CrackNet's tables."""
    tp, _, fn, _ = _rule(sums)
    return _share(tp, tp + fn)


@_metric
def f1(sums: Sums) -> Values:
    """2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall (van Rijsbergen 1979), also Dice's. Pooled."""
    tp, fp, fn, _ = _rule(sums)
    return _f1(tp, fp, fn)


@_metric
def iou(sums: Sums) -> Values:
    """TP / (TP + FP + FN) of the crack alone (Jaccard 1912); F1 / (2 - F1). Pooled; UP-CrackNet's IoU."""
    tp, fp, fn, _ = _rule(sums)
    return _share(tp, tp + fp + fn)


@_metric
def accuracy(sums: Sums) -> Values:
    """(TP + TN) / all pixels. Pooled; CrackSeg's OA. Where 4 % are crack, predicting none of it reaches 96 %."""
    tp, fp, fn, tn = _rule(sums)
    return _share(tp + tn, tp + fp + fn + tn)


@_metric
def miou(sums: Sums) -> Values:
    """Half of IoU of crack + IoU of background, each pooled (CrackSeg eq. 8, read over two classes)."""
    tp, fp, fn, tn = _rule(sums)
    return (_share(tp, tp + fp + fn) + _share(tn, tn + fp + fn)) / 2


# ------------------------------------------------------------------------- averages over the two classes, pooled


def _by_class(sums: Sums) -> dict[str, Values]:
    """Precision, recall, F1 of (background, crack), and each class's share of the true pixels; classes last."""
    tp, fp, fn, tn = _rule(sums)
    both = {
        "precision": (_share(tn, tn + fn), _share(tp, tp + fp)),
        "recall": (_share(tn, tn + fp), _share(tp, tp + fn)),
        "f1": (_f1(tn, fn, fp), _f1(tp, fp, fn)),
        "share": (_share(tn + fp, tp + fp + fn + tn), _share(tp + fn, tp + fp + fn + tn)),
    }
    return {name: np.stack(values, -1) for name, values in both.items()}


def _weighted(sums: Sums, name: str) -> Values:
    """A class that no true pixel belongs to has no weight, whatever its metric."""
    rates = _by_class(sums)
    parts = np.where(rates["share"] > 0, rates["share"] * rates[name], 0)
    return np.where(np.isnan(rates["share"]).any(-1), np.nan, parts.sum(-1))


@_metric
def macro_precision(sums: Sums) -> Values:
    """The mean of the precision of crack and of background, each pooled (scikit-learn's average="macro")."""
    return _by_class(sums)["precision"].mean(-1)


@_metric
def macro_recall(sums: Sums) -> Values:
    """The mean of the recall of crack and of background, each pooled (scikit-learn's average="macro")."""
    return _by_class(sums)["recall"].mean(-1)


@_metric
def macro_f1(sums: Sums) -> Values:
    """The mean of the F1 of crack and of background, each pooled (scikit-learn's average="macro")."""
    return _by_class(sums)["f1"].mean(-1)


@_metric
def micro_precision(sums: Sums) -> Values:
    """Right pixels of both classes / all pixels: with one label a pixel, the accuracy (average="micro")."""
    return accuracy(sums)


@_metric
def micro_recall(sums: Sums) -> Values:
    """Right pixels of both classes / all pixels: with one label a pixel, the accuracy (average="micro")."""
    return accuracy(sums)


@_metric
def micro_f1(sums: Sums) -> Values:
    """Right pixels of both classes / all pixels: with one label a pixel, the accuracy (average="micro")."""
    return accuracy(sums)


@_metric
def weighted_precision(sums: Sums) -> Values:
    """Precision of crack and of background by their share of the true pixels (average="weighted"); nearest to
    CrackSeg's Table 3, and not identical to it.
    """
    return _weighted(sums, "precision")


@_metric
def weighted_recall(sums: Sums) -> Values:
    """Recall of crack and of background by their share of the true pixels (average="weighted"): the accuracy."""
    return _weighted(sums, "recall")


@_metric
def weighted_f1(sums: Sums) -> Values:
    """F1 of crack and of background by their share of the true pixels (average="weighted")."""
    return _weighted(sums, "f1")


# ----------------------------------------------------------------------- at the rule's threshold, means over images


def _image_mean(sums: Sums, place: int) -> Values:
    return _share(sums["image_rates"][..., place], sums["counted"])


@_metric
def precision_image_mean(sums: Sums) -> Values:
    """The mean over images of each image's precision; 0 where a crack is there and nothing predicted."""
    return _image_mean(sums, 0)


@_metric
def recall_image_mean(sums: Sums) -> Values:
    """The mean over images of each image's recall."""
    return _image_mean(sums, 1)


@_metric
def f1_image_mean(sums: Sums) -> Values:
    """The mean over images of each image's F1: every image counts alike, however much crack it shows."""
    return _image_mean(sums, 2)


@_metric
def iou_image_mean(sums: Sums) -> Values:
    """The mean over images of each image's crack IoU."""
    return _image_mean(sums, 3)


@_metric
def accuracy_image_mean(sums: Sums) -> Values:
    """The mean over images of each image's share of right pixels."""
    return _image_mean(sums, 4)


@_metric
def miou_image_mean(sums: Sums) -> Values:
    """The mean over images of half of IoU of crack + IoU of background, at the rule's threshold."""
    return _image_mean(sums, 5)


# ---------------------------------------------------------------------------------------- over 1,024 thresholds


def _pooled_at(sums: Sums) -> tuple[Values, Values, Values]:
    """TP, FP, FN at every threshold, last axis."""
    crack, background = sums["crack"], sums["background"]
    fn, tn = np.cumsum(crack, -1)[..., :-1], np.cumsum(background, -1)[..., :-1]
    return crack.sum(-1, keepdims=True) - fn, background.sum(-1, keepdims=True) - tn, fn


def _greatest(values: Values) -> Values:
    """Over the last axis, without NaN; NaN where there is nothing else."""
    best = np.where(np.isnan(values), -1.0, values).max(-1)
    return np.where(best < 0, np.nan, best)


@_metric
def ods(sums: Sums) -> Values:
    """The greatest pooled F1 that one threshold for all images reaches (optimal dataset scale; Arbelaez et al. 2011,
    BSDS), out of 1,024. The threshold is chosen on the very images that are scored: optimistic. Equal to `best_f1`.
    """
    return _greatest(_f1(*_pooled_at(sums)))


@_metric
def best_threshold(sums: Sums) -> Values:
    """The threshold of `ods`; the lowest of several. A score, not a fraction."""
    values = _f1(*_pooled_at(sums))
    places = np.where(np.isnan(values), -1.0, values).argmax(-1)
    return np.where(np.isnan(values).all(-1), np.nan, THRESHOLDS.astype(np.float64)[places])


@_metric
def ois(sums: Sums) -> Values:
    """F1 of TP, FP, FN summed over images, each at its own best threshold (optimal image scale; Arbelaez et al. 2011,
    BSDS). Optimistic.
    """
    tp, fp, fn, _ = np.moveaxis(sums["own_best"], -1, 0)
    return _f1(tp, fp, fn)


@_metric
def ods_image_mean(sums: Sums) -> Values:
    """The greatest mean over images of each image's F1 that one threshold reaches: what recent crack papers print as
    ODS. Not BSDS's, which pools pixels (`ods`). Optimistic.
    """
    return _greatest(_share(sums["image_f1"], sums["counted"][..., None]))


@_metric
def ois_image_mean(sums: Sums) -> Values:
    """The mean over images of each image's F1 at its own best threshold: what recent crack papers print as OIS. Not
    BSDS's, which pools pixels (`ois`). Optimistic.
    """
    return _share(sums["image_best_f1"], sums["counted"])


@_metric
def miou_image_mean_best(sums: Sums) -> Values:
    """The greatest mean over images of half of IoU of crack + IoU of background that one threshold reaches: what recent
    crack papers print as mIoU. Far above `miou` and `iou` of the same masks; optimistic.
    """
    return _greatest(_share(sums["image_miou"], sums["counted"][..., None]))


@_metric
def ap(sums: Sums) -> Values:
    """Average precision: the sum over thresholds of precision x the recall that this threshold adds (scikit-learn's
    average_precision_score on scores rounded to the 1,024 thresholds). Pooled.
    """
    tp, fp = (np.cumsum(sums[name][..., ::-1], -1) for name in ("crack", "background"))
    added = _share(sums["crack"][..., ::-1], sums["crack"].sum(-1, keepdims=True))
    # Where nothing is predicted yet, nothing is added either.
    return np.where(added > 0, added * _share(tp, tp + fp), added).sum(-1)


# ------------------------------------------------------------------------------------------------ with tolerance


def _near(radius: int) -> tuple[Metric, Metric, Metric]:
    def near_precision(sums: Sums) -> Values:
        tp, fp, _, _ = _rule(sums)
        return _share(sums[f"near_{radius}"][..., 0], tp + fp)

    def near_recall(sums: Sums) -> Values:
        tp, _, fn, _ = _rule(sums)
        return _share(sums[f"near_{radius}"][..., 1], tp + fn)

    def near_f1(sums: Sums) -> Values:
        return _harmonic(near_precision(sums), near_recall(sums))

    near_precision.__doc__ = (
        f"The share of predicted pixels at most {radius} px from a crack, pooled; Euclidean. CrackForest's (Shi et al. "
        "2016) is at 5 px."
    )
    near_recall.__doc__ = f"The share of crack pixels at most {radius} px from a predicted one, pooled; Euclidean."
    near_f1.__doc__ = f"The harmonic mean of precision_{radius}px and recall_{radius}px."
    return near_f1, near_precision, near_recall


for _radius in RADII:
    for _name, _function in zip(("f1", "precision", "recall"), _near(_radius), strict=True):
        METRICS[f"{_name}_{_radius}px"] = _function


def _line_iou(sums: Sums) -> Values:
    tp, fp, fn = np.moveaxis(sums["lines"], -1, 0)
    return _share(tp, tp + fp + fn)


_line_iou.__doc__ = (
    f"IoU of centre lines with {LINE_RADIUS} px of tolerance: true centre line near a predicted one / (that + "
    "predicted centre line near no true one + true near no predicted one), pooled (Benz & Rodehorst 2024, "
    "OmniCrack30k: clIoU)."
)
METRICS[f"cliou_{LINE_RADIUS}px"] = _line_iou


@_metric
def cldice(sums: Sums) -> Values:
    """The harmonic mean of the share of the predicted centre line that is on crack and of the share of the true centre
    line that is predicted (Shit et al. 2021, clDice), of pixels pooled over images.
    """
    predicted, on_crack, true, found = np.moveaxis(sums["centres"], -1, 0)
    return _harmonic(_share(on_crack, predicted), _share(found, true))
