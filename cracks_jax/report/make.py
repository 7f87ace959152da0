"""A report from top to bottom: what is there, its tables, its figures, the page."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cracks_jax.data.datasets import Dataset, Record
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods.presets import DETECTION_PRESETS
from cracks_jax.metrics.definitions import METRICS
from cracks_jax.report import pictures, plots
from cracks_jax.report.ablations import ablations
from cracks_jax.report.across import across
from cracks_jax.report.entries import Entry, differing_images, entries
from cracks_jax.report.facts import facts
from cracks_jax.report.gather import Found, gather
from cracks_jax.report.judges import Judge, open_judges, read
from cracks_jax.report.model import Cell, Column, Pictures, Plot, Report, Row, Table
from cracks_jax.report.page import write
from cracks_jax.report.paired import against_the_floor
from cracks_jax.report.results import definition, percent, results

# In the order in which they stand on the page; the first two need records alone.
FIGURES = ("curves", "pr", "method-grid", "restoration", "feature-maps", "failures")
_FROM_RECORDS = FIGURES[:2]
_WORST = 10


@dataclass(frozen=True)
class Shown:
    """Which images are at hand, and what is made of them.

    Attributes:
      dataset: labelled images; None: the report is made from records alone.
      images: their stems, in this order; none named: the first `limit`.
      limit: of the images in `method-grid`.
      preset: UP-CrackNet's detection in the pictures; None: each run's own.
      figures: names out of FIGURES.
    """

    dataset: Dataset | None = None
    images: Sequence[str] = ()
    limit: int = 12
    preset: str | None = None
    figures: Sequence[str] = FIGURES

    def __post_init__(self) -> None:
        unknown = [name for name in self.figures if name not in FIGURES]
        if unknown:
            raise UsageError(f"--figures {unknown[0]}: there is no such figure; expected some of {', '.join(FIGURES)}")
        if self.limit < 1:
            raise UsageError(f"--limit {self.limit}: expected at least 1 image")
        if self.preset not in (None, *DETECTION_PRESETS):
            raise UsageError(f"--preset {self.preset}: expected one of {', '.join(DETECTION_PRESETS)}")
        of_images = [name for name in self.figures if name not in _FROM_RECORDS]
        if self.dataset is None and of_images and tuple(self.figures) != FIGURES:
            raise UsageError(f"--figures {of_images[0]}: is drawn from images; name labelled ones with --data")
        if self.dataset is None and (self.images or self.preset):
            raise UsageError("--images and --preset choose pictures; name the images' data set with --data")
        if self.images:
            _ = self.records  # says which image is not there before anything is computed

    @property
    def records(self) -> list[Record]:
        assert self.dataset is not None
        if not self.images:
            return list(self.dataset.records[: self.limit])
        chosen = {record.stem: record for record in self.dataset.subset(self.images)}
        return [chosen[stem] for stem in dict.fromkeys(self.images)]


def report(paths: Sequence[Path], out: Path, shown: Shown | None = None) -> Path:
    """Writes report.html, report.md and figures/ into `out`; the page's path.

    Raises:
      CracksError: nothing is there to report, or `out` cannot be written.
      UsageError: an image that was named is not in the data set.
    """
    shown = shown or Shown()
    found = gather(paths)
    scored = entries(found)
    problems = [*found.problems, *differing_images(scored)]
    figures: list[Plot | Pictures] = [*_from_records(found, scored, shown)]
    figures += _from_images(found, scored, shown, problems)
    tables = (*results(scored), *across(scored), *ablations(found.runs, scored),
              *against_the_floor(scored), *_worst_images(scored, shown))  # fmt: skip
    made = Report(
        title="Crack detection: what was run and what came of it",
        lead=_lead(found, shown),
        problems=tuple(dict.fromkeys(problems)),
        runs=tuple(facts(run) for run in found.runs),
        tables=tables,
        figures=tuple(figures),
        definitions=tuple((name, definition(name)) for name in METRICS),
    )
    return write(made, out)[0]


def _lead(found: Found, shown: Shown) -> str:
    runs, scores = (f"{n} {word}{'' if n == 1 else 's'}" for n, word in
                    ((len(found.runs), "training"), (len(found.scores), "evaluation")))  # fmt: skip
    images = "" if shown.dataset is None else f" Pictures are of {shown.dataset.label}."
    return (
        f"{runs} and {scores}, from their records on disk.{images} Numbers are percent and of the crack class, pooled "
        "over pixels, unless their name says otherwise; what a metric is stands under Definitions. In commands, names "
        "of runs and data sets stand for wherever they lie on your machine."
    )


def _from_records(found: Found, scored: Sequence[Entry], shown: Shown) -> list[Plot]:
    curves = plots.learning_curves(found.runs) if "curves" in shown.figures else []
    return curves + (plots.precision_recall(scored) if "pr" in shown.figures else [])


def _from_images(found: Found, scored: Sequence[Entry], shown: Shown, problems: list[str]) -> Iterable[Pictures]:
    if shown.dataset is None or set(shown.figures) <= set(_FROM_RECORDS):
        return
    dataset, records = shown.dataset, shown.records
    judges = open_judges(found.runs, shown.preset, problems)
    watched = _Watched(problems)
    if "method-grid" in shown.figures:
        yield pictures.method_grid(judges, records, watched)
    of_images: tuple[tuple[str, Callable[[], Iterable[Pictures]]], ...] = (
        ("restoration", lambda: pictures.restoration(judges, records, watched)),
        ("feature-maps", lambda: pictures.feature_maps(judges, records, watched)),
        ("failures", lambda: _failures(judges, dataset, scored, watched)),
    )
    for name, make in of_images:
        if name in shown.figures:
            made = list(make())
            if not made and tuple(shown.figures) != FIGURES:
                problems.append(f"{name}: none of the runs that are at hand with a checkpoint has one")
            yield from made


def _failures(
    judges: Sequence[Judge], dataset: Dataset, scored: Sequence[Entry], watched: "_Watched"
) -> list[Pictures]:
    made = list(pictures.failures(judges, dataset, scored, watched))
    if not made:
        watched.problems.append(
            f"failures: no record ranks the images of {dataset.label}; `cracks-jax evaluate RUN --data {dataset.label} "
            "--out RUN/scores` makes one"
        )
    return made


@dataclass(frozen=True)
class _Watched:
    """Shows how far a figure is; an image that cannot be read is told and passed over, as is what cannot be scored."""

    problems: list[str]

    def __call__(self, what: str, records: Sequence[Record]) -> Iterable[Record]:
        often = 0.2 if sys.stderr.isatty() else 15
        for record in tqdm(records, desc=what, unit="image", file=sys.stderr, mininterval=often):
            try:
                read(record)
            except CracksError as error:
                self.problems.append(_without_folders(error, record))
            else:
                yield record


def _without_folders(error: CracksError, record: Record) -> str:
    said = str(error)
    for path in (record.image, record.mask):
        said = said.replace(str(path), path.name) if path is not None else said
    return said


def _worst_images(scored: Sequence[Entry], shown: Shown) -> list[Table]:
    """The worst images of each data set by name and number: what `failures` shows where the images are at hand."""
    ranked = [entry for entry in scored if entry.scores[0].images]
    if "failures" not in shown.figures or not ranked:
        return []
    rows = []
    for entry in ranked:
        worst = sorted((one["f1"], one["image"]) for one in entry.scores[0].images if one["f1"] is not None)[:_WORST]
        words = (entry.who, entry.detection, entry.rule, f"{entry.data}, {entry.geometry}")
        head = [Cell(word, word) for word in words]
        rows += [Row((*head, Cell(image, image), Cell(percent(f1), f1))) for f1, image in worst]
    columns = [Column(name) for name in ("method", "detection", "rule", "data", "image")]
    columns.append(Column("f1 of the image", "f1", definition("f1")))
    caption = f"The {_WORST} images with the lowest F1 in each evaluation that kept its images' counts."
    return [Table("worst-images", "The worst images", tuple(columns), tuple(rows), caption)]
