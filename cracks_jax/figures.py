"""Pictures for people: sheets of photographs and answers, and learning curves. PNG by matplotlib, without a display.

Photographs are uint8 (h, w, 3) RGB; masks bool (h, w), True = crack. The same arguments give the same file.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cracks_jax.errors import CracksError

RGB = UInt8[np.ndarray, "h w 3"]
# Told apart by every common kind of colour vision, on a darkened photograph (Okabe and Ito's orange and sky blue).
FOUND, FALSE_ALARM, MISSED = (255, 255, 255), (230, 159, 0), (86, 180, 233)
_DIMMED = 0.4
_DPI = 110
_CELL = 1.55  # inches


def white_on_black(mask: Bool[np.ndarray, "h w"]) -> RGB:
    return np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, -1)


def answer(photograph: RGB, found: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> RGB:
    """The photograph, dark and grey, with every pixel that is crack or was called crack in the colour of its case."""
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    out = np.repeat((_DIMMED * grey).astype(np.uint8)[..., None], 3, -1)
    for where, colour in ((found & truth, FOUND), (found & ~truth, FALSE_ALARM), (truth & ~found, MISSED)):
        out[where] = colour
    return out


def sheet(
    path: Path, rows: Sequence[Sequence[RGB]], *, title: str, across: Sequence[str], down: Sequence[str], legend: bool
) -> None:
    """A table of equally large pictures; `across` names its columns and `down` its rows ("" for no name)."""
    count, columns = len(rows), len(rows[0])
    height = count * _CELL + 1.0
    figure = Figure(figsize=(columns * _CELL + 0.5, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            place = axes[row, column]
            # Shown near their own size: averaging would thin out hairlines, nearest neighbour keeps them whole.
            place.imshow(picture, interpolation="nearest")
            place.set(xticks=[], yticks=[])
            if row == 0 and across[column]:
                place.set_title(across[column], fontsize=7)
            if column == 0 and down[row]:
                place.set_ylabel(down[row], fontsize=8)
    figure.suptitle(title, fontsize=10)
    if legend:
        cases = (("found", FOUND), ("false alarm", FALSE_ALARM), ("missed", MISSED))
        patches = [Patch(facecolor=tuple(np.divide(c, 255)), edgecolor="0.6", label=name) for name, c in cases]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _save(figure, path)


def curves(path: Path, panels: Mapping[str, tuple[str, Mapping[str, Sequence[tuple[float, float]]]]]) -> None:
    """Panels of lines: title -> (label of the y axis, line's name -> its (step, value) points)."""
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.9 * rows), dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, (title, (unit, lines)) in zip(axes, panels.items(), strict=False):
        _panel(place, title, unit, lines)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    _save(figure, path)


def _panel(place: Axes, title: str, unit: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for name, points in lines.items():
        x, y = zip(*points, strict=True) if points else ((), ())
        place.plot(x, y, marker="o" if len(points) < 12 else None, markersize=3, linewidth=1.2, label=name)
    place.set_title(title, fontsize=9)
    place.set_xlabel("step", fontsize=8)
    place.set_ylabel(unit, fontsize=8)
    place.tick_params(labelsize=7)
    place.grid(alpha=0.3)
    if len(lines) > 1:
        place.legend(fontsize=7)


def points(records: Iterable[Mapping[str, Any]], event: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of one recorded quantity, where it was recorded."""
    return [(r["step"], r[name]) for r in records if r["event"] == event and r.get(name) is not None]


def _save(figure: Figure, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without matplotlib's version in it the file depends on the picture alone.
        figure.savefig(path, metadata={"Software": None})
    except OSError as error:
        raise CracksError(f"{path}: cannot be written ({error.strerror}); free space or name another folder") from error
