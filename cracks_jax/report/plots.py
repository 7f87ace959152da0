"""The report's drawings as SVG by matplotlib: learning curves, precision-recall curves.

Lines of the axes and letters take the page's own colour, so that a drawing reads on light and on dark; letters stay
text. The same arguments give the same SVG.
"""

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from cracks_jax.report.entries import CRACKSEG, METHODS, Entry, method_of, of_place
from cracks_jax.report.gather import FoundRun, printable
from cracks_jax.report.model import Plot
from cracks_jax.report.sound import is_number

# Told apart by every common kind of colour vision, on white and on black (Okabe and Ito 2008, the darkest left out).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("solid", "dashed", "dotted", (0, (5, 1, 1, 1)))
_INK = "#010203"  # becomes the page's own colour
_POINTS = 400  # of a line; a drawing cannot show more
_LONGEST = 80  # letters of a name in a legend
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "cracks_jax", "font.family": "sans-serif", "font.size": 9,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": "#8c8c8c", "grid.alpha": 0.35,
    "legend.frameon": False, "axes.prop_cycle": cycler(color=_COLOURS),
}  # fmt: skip
# What a training records, in the words and the order of the papers.
_QUANTITIES = {
    "loss": "total loss", "mae": "MAE", "ssim": "1 - SSIM", "msgms": "MSGMS", "style": "style loss",
    "adversarial": "adversarial loss of the generator", "discriminator_loss": "loss of the discriminator",
    "accuracy": "accuracy on the batch",
}  # fmt: skip
_PLAIN = {"event", "step", "epoch"}
Line = list[tuple[float, float]]


def learning_curves(runs: Sequence[FoundRun]) -> list[Plot]:
    """Losses, learning rates and validation of all runs of a method on common axes, as CrackSeg's Figure 7."""
    plots = []
    for method in (*METHODS.values(), ""):
        found = [run for run in runs if method_of(run) == method and run.records]
        panels = {**_recorded(found, "train"), **_rates(found), **_recorded(found, "validation")}
        if panels:
            names = ", ".join(run.name for run in found)
            alt = f"Learning curves by step of {names}: {', '.join(panels)}."
            of = method or "unknown method"
            plots.append(Plot(f"curves-{of}", f"curves: {of}", _panels(panels), alt))
    return plots


def _recorded(runs: Sequence[FoundRun], event: str) -> dict[str, dict[str, Line]]:
    """Panel -> run -> line, of every number that was recorded."""
    panels: dict[str, dict[str, Line]] = defaultdict(dict)
    names = dict.fromkeys([*_QUANTITIES, *(name for run in runs for record in run.records for name in record)])
    for name in (name for name in names if name not in _PLAIN):
        for run in runs:
            line = [(record["step"], record[name]) for record in run.records
                    if record["event"] == event and is_number(record.get(name))]  # fmt: skip
            if line:
                panels[f"{event}: {_QUANTITIES.get(name, name.replace('_', ' '))}"][run.name] = line
    return panels


def _rates(runs: Sequence[FoundRun]) -> dict[str, dict[str, Line]]:
    """Learning rates at the recorded steps, as the schedule had them."""
    panels: dict[str, dict[str, Line]] = defaultdict(dict)
    for run in runs:
        images = run.description.get("data", {}).get("train", 0)
        steps = [record["step"] for record in run.records if record["event"] == "train" and record["step"] > 0]
        if run.experiment is None or images < 1 or not steps:
            continue
        training = run.experiment.training
        factor = training.rate_factor(images / training.batch_size)
        rates = {"learning rate": training.learning_rate}
        if method_of(run) != CRACKSEG:
            rates["learning rate of the discriminator"] = training.discriminator_learning_rate
        for name, rate in rates.items():
            panels[name][run.name] = [(step, float(rate * factor(step - 1))) for step in steps]
    return panels


def precision_recall(found: Sequence[Entry]) -> list[Plot]:
    """One drawing for each data set and geometry: a line for each score map, a mark where each rule cuts it."""
    plots = []
    for (data, geometry), here in of_place(found).items():
        drawn = [entry for entry in here if any(score.curve for score in entry.scores)]
        if drawn:
            title = f"pr: {data}, {geometry}"
            plots.append(Plot(f"pr-{data}-{geometry}", title, _precision_recall(drawn), _pr_words(drawn, data)))
    return plots


def _label(entry: Entry) -> str:
    detection = "" if entry.detection == "default" else f", {entry.detection}"
    return f"{entry.who}{detection}"


def _precision_recall(found: Sequence[Entry]) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 5.0), layout="constrained")
        axes = figure.subplots()
        _equal_f1(axes)
        places: dict[tuple[str, str], int] = {}
        drawn: set[tuple[str, str, str]] = set()
        for entry in found:
            label = _label(entry)
            place = places.setdefault((label, entry.digest), len(places))
            colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)]
            for score in entry.scores:
                # One line for all rules that cut one map; a line for each seed, in one colour.
                line = (label, entry.digest, str(score.row.get("run_id")))
                if score.curve and line not in drawn:
                    first = line[:2] not in {one[:2] for one in drawn}
                    drawn.add(line)
                    _, precision, recall = zip(*score.curve, strict=True)
                    axes.plot(recall, precision, color=colour, linestyle=dash, linewidth=1.6,
                              label=legible(label) if first else None)  # fmt: skip
                p, r = score.row.get("precision"), score.row.get("recall")
                if p is not None and r is not None:
                    axes.plot(r, p, marker="o", color=colour, markersize=5, markeredgecolor=_INK, linestyle="none")
                    axes.annotate(legible(entry.rule), (r, p), textcoords="offset points", xytext=(5, 4), fontsize=7)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
        figure.legend(loc="outside lower center", ncols=1, fontsize=8)
        return _svg(figure)


def _equal_f1(axes: Axes) -> None:
    """Faint lines of equal F1."""
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / (2 - f1), 1, 60)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="#8c8c8c", linewidth=0.6, alpha=0.6)
        axes.annotate(f"F1 {f1:.1f}", (1, f1 / (2 - f1)), fontsize=6, color="#8c8c8c", ha="right", va="bottom")


def _pr_words(found: Sequence[Entry], data: str) -> str:
    marks = [f"{_label(entry)} by {entry.rule}: precision {entry.value('precision') or 0:.2f}, recall "
             f"{entry.value('recall') or 0:.2f}" for entry in found]  # fmt: skip
    return f"Precision against recall on {data}. " + "; ".join(marks) + "."


def legible(name: str) -> str:
    """As a drawing can take it: not longer than it is wide, no formula, and not hidden from the legend."""
    text = printable(name)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]}…{text[-(_LONGEST // 2) :]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def lines(panels: dict[str, dict[str, Line]], name: str, title: str, alt: str, x: str, caption: str = "") -> Plot:
    """Any panels of lines: title of a panel -> name of a line -> its points."""
    return Plot(name, title, _panels(panels, x), alt, caption)


def _panels(panels: dict[str, dict[str, Line]], x: str = "step") -> str:
    """Panels in two columns, one legend for all: a run has its colour in every panel."""
    with matplotlib.rc_context(_STYLE):
        rows = -(-len(panels) // 2)
        names = list(dict.fromkeys(name for found in panels.values() for name in found))
        figure = Figure(figsize=(8.0, 2.3 * rows + 0.25 * len(names) + 0.2), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        for place, (title, found) in zip(axes, panels.items(), strict=False):
            for name, line in found.items():
                number = names.index(name)
                steps, values = zip(*_thinned(line), strict=True)
                style = {"color": _COLOURS[number % len(_COLOURS)],
                         "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)]}  # fmt: skip
                mark = "o" if len(line) < 15 else None
                place.plot(steps, values, label=legible(name), linewidth=1.2, marker=mark, markersize=3, **style)
            place.set_title(legible(title), fontsize=9)
            place.set_xlabel(x, fontsize=8)
            place.grid(True)
        for place in axes[len(panels) :]:
            place.set_axis_off()
        shown = [pair for place in axes for pair in zip(*place.get_legend_handles_labels(), strict=True)]
        first = {label: line for line, label in shown}
        figure.legend(first.values(), first.keys(), loc="outside lower center", ncols=1, fontsize=8)
        return _svg(figure)


def _thinned(line: Line) -> Line:
    """At most some points of it, the last among them."""
    return line if len(line) <= _POINTS else [*line[: -1 : -(-len(line) // (_POINTS - 1))], line[-1]]


def _svg(figure: Figure) -> str:
    """The SVG element alone, without file header and date, in the page's colour."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # The page sizes it; its own size in points would not fit a phone.
    head, end, rest = svg.partition(">")
    return re.sub(r' (width|height)="[^"]*"', "", head) + end + rest
