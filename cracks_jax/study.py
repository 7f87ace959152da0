"""Studies: what an experiment file names is trained where it is missing, scored, and kept as records.

Each record names its metric, rule, geometry, data and digest, checkpoint, software and device, and the
`cracks-jax evaluate` command that repeats it. The floor is scored by the same rules in the same geometry, tuned on
training images only: its undamaged quantile on a run's own windows, its labelled threshold on the training masks.
What is on disk already is not made again.
"""

import dataclasses
import importlib.util
import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cracks_jax.data.datasets import open_dataset, parse_spec
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.experiment import FORMS, Experiment
from cracks_jax.launch.job import SCORES, SWEEP
from cracks_jax.methods.restoration import Restoration
from cracks_jax.report.judges import FLOOR_METHOD
from cracks_jax.runs import EXPERIMENT, METRICS, RECORDS, UNDAMAGED, Run, open_run
from cracks_jax.runtime.records import read_json
from cracks_jax.scores import keep_scores
from cracks_jax.scoring import Request
from cracks_jax.train import train

GEOMETRIES = ("native", "resize256")
QUANTILES = ("undamaged:0.98", "undamaged:0.99", "undamaged:0.995", "undamaged:0.998")
SWEEPS = "sweeps"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """Trainings, each scored on the same data sets beside the floor.

    Attributes:
      trainings: what is trained.
      tests: labelled data, NAME[:SPLIT], none of it trained on by all.
      floors: where the floor's thresholds come from: labelled training images -> the training whose undamaged windows
        give the quantile (None: no quantile).
      geometries: at which all are scored.
    """

    trainings: tuple[Experiment, ...]
    tests: tuple[str, ...]
    floors: dict[str, Experiment | None]
    geometries: tuple[str, ...] = GEOMETRIES

    def carry_out(self, runs: Path, out: Path, say: Say) -> None:
        """Trains into `runs` and writes records into `out`: a folder for each training, and one for the floor."""
        for experiment in self.trainings:
            run = trained(experiment, runs, say)
            keep_records(run, out / run.name)
            score_run(run, self.tests, out / run.name / SCORES, say, geometries=self.geometries)
        for labelled, windows in self.floors.items():
            folder = None if windows is None else trained(windows, runs, say)
            score_floor(labelled, folder, self.tests, out / "floor", say, self.geometries)


def load_study(spec: str) -> Any:
    """What `study(form)` of an experiment file `FILE.py[:FORM]` gives; `carry_out` does it.

    Raises:
      UsageError: there is no such file or form, or the file defines no study.
    """
    name, _, form = spec.partition(":") if ".py:" in spec else (spec, "", "paper")
    path = Path(name)
    if not path.is_file() or form not in FORMS:
        raise UsageError(f"{spec}: expected FILE.py[:FORM], an experiment file and one of {', '.join(FORMS)}")
    found = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    if not hasattr(module, "study"):
        raise UsageError(f"{path}: defines no study(form); `cracks-jax train` trains what it defines")
    return module.study(form)


def trained(experiment: Experiment, runs: Path, say: Say) -> Path:
    """The finished run of an experiment below `runs`; trained now where it is not there."""
    folder = runs / f"{experiment.label}-{experiment.run_id}"
    metrics = folder / METRICS
    if not metrics.is_file() or read_json(metrics).get("run_id") != experiment.run_id:
        say(f"training {folder.name}")
        train(experiment, folder)
    return folder


def keep_records(run: Path, folder: Path) -> None:
    """A run's records without its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (EXPERIMENT, RECORDS, METRICS):
        shutil.copyfile(run / name, folder / name)


def keep_runs(runs: Sequence[Path], out: Path, say: Say) -> None:
    """Records and scores of finished runs, each in its own folder `<label>-<run_id>` below `out`, as it is committed.

    What is there already is written anew, and nothing is deleted.
    """
    for run in runs:
        description = read_json(run / EXPERIMENT)
        words = (description["name"], description["form"], description["member"], description["run_id"])
        folder = out / "-".join(filter(None, words))
        keep_records(run, folder)
        if (run / SCORES).is_dir():
            # A file that is being written, or was left by a writer that was killed, is no record.
            ignored = shutil.ignore_patterns("*.tmp", ".*")
            shutil.copytree(run / SCORES, folder / SCORES, ignore=ignored, dirs_exist_ok=True)
        say(f"kept {folder.name}")


def keep_sweeps(folders: Sequence[Path], out: Path, say: Say) -> None:
    """What the sweeps in these folders have noted of their starts, as `out`/sweeps/<folder's name>.json."""
    for folder in folders:
        if (folder / SWEEP).is_file():
            (out / SWEEPS).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / SWEEP, out / SWEEPS / f"{folder.resolve().name}.json")
            say(f"kept {SWEEPS}/{folder.resolve().name}.json")


def finished_runs(paths: Sequence[Path], say: Say) -> list[Path]:
    """The finished runs among the paths, and those in folders of runs among them; what is passed over is said.

    Raises:
      CracksError: there is none.
    """
    found = []
    for path in paths:
        below = sorted(path.glob(f"*/{EXPERIMENT}")) if not (path / EXPERIMENT).is_file() else []
        folders = [one.parent for one in below] or [path]
        found += [folder for folder in folders if (folder / METRICS).is_file()]
        for folder in folders:
            if not (folder / METRICS).is_file():
                why = "not finished" if (folder / EXPERIMENT).is_file() else "no run directory"
                say(f"passed over {folder.name}: {why}")
    if not found:
        raise CracksError(f"{', '.join(map(str, paths))}: no finished run; `cracks-jax sweep` or `train` make them")
    return found


def score_run(
    run: Path, data: Sequence[str], out: Path, say: Say, labelled: str | None = None,
    geometries: Sequence[str] = GEOMETRIES,
) -> None:  # fmt: skip
    """The run under its rules in each geometry; UP-CrackNet also by preset hidden, the paper's and the authors'.

    The labelled threshold comes from the photographs that the run held out, or from `labelled`; a run on pictures
    without masks has none of its own, and then none is scored.
    """
    opened = open_run(run)
    unsupervised = isinstance(opened.experiment.method, Restoration)
    rules = ("undamaged:0.995", "otsu") if unsupervised else ("0.5",)
    own = labelled is None and _has_labels(opened)
    for spec in data:
        dataset = open_dataset(*parse_spec(spec), need_masks=True)
        for geometry, preset in itertools.product(geometries, (None, "hidden") if unsupervised else (None,)):
            request = Request(run=run, preset=preset, geometry=geometry)
            keep_scores(request, (*rules, "validation") if own else rules, dataset, spec, out, say)
            if labelled is not None:
                named = dataclasses.replace(request, calibration=labelled)
                keep_scores(named, ("validation",), dataset, spec, out, say)
        for preset in ("paper", "authors") if unsupervised else ():
            keep_scores(Request(run=run, preset=preset), ("otsu",), dataset, spec, out, say)


def _has_labels(run: Run) -> bool:
    try:
        return run.labelled_validation().has_masks
    except CracksError:
        return False


def score_floor(
    labelled: str, undamaged: Path | None, data: Sequence[str], out: Path, say: Say,
    geometries: Sequence[str] = GEOMETRIES,
) -> None:  # fmt: skip
    """The floor by Otsu, by the best threshold on labelled training images, and by a run's undamaged windows."""
    for spec, geometry in itertools.product(data, geometries):
        dataset = open_dataset(*parse_spec(spec), need_masks=True)
        request = Request(method=FLOOR_METHOD, geometry=geometry)
        keep_scores(request, ("otsu",), dataset, spec, out, say)
        keep_scores(dataclasses.replace(request, calibration=labelled), ("validation",), dataset, spec, out, say)
        if undamaged is not None:
            windows = dataclasses.replace(request, calibration=str(undamaged / UNDAMAGED))
            keep_scores(windows, ("undamaged:0.995",), dataset, spec, out, say)


def factorial(run: Path, spec: str, geometry: str, out: Path, say: Say) -> None:
    """Batch norm x dropout x filter x rule on one trained UP-CrackNet (40 rows); absolute error, best checkpoint."""
    dataset = open_dataset(*parse_spec(spec), need_masks=True)
    for norm, dropout, smoothing in itertools.product(("batch", "running"), (False, True), ("gaussian", "bilateral")):
        settings = (
            f"detection.batch_norm={norm}",
            f"detection.dropout={str(dropout).lower()}",
            f"detection.filter={smoothing}",
        )
        request = Request(run=run, geometry=geometry, settings=settings)
        keep_scores(request, ("otsu", *QUANTILES), dataset, spec, out, say)
