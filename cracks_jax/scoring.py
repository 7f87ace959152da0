"""From a command's words to what scores an image and what cuts its score: shared by evaluate and detect."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from cracks_jax.calibrate import Thresholds, UndamagedWindow, undamaged_windows
from cracks_jax.data.datasets import Dataset, find_root, open_dataset, parse_spec
from cracks_jax.data.images import read_mask
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.presets import default_detection, detection_preset, preset_of
from cracks_jax.methods.registry import Method, floor_method
from cracks_jax.postprocess.thresholds import Rule, parse_rule
from cracks_jax.predict import Scorer
from cracks_jax.runs import Run, open_run
from cracks_jax.settings import replace_all


@dataclass(frozen=True)
class Request:
    """What was asked for: a run or a method without a network, and how to score.

    `tile_batch`: windows in one call of the network, None for as many as memory is sure to hold. One by one, as
    `evaluate` scores, gives the same bits whatever the machine.
    """

    run: Path | None = None
    method: str | None = None
    preset: str | None = None
    rule: str | None = None
    geometry: str | None = None
    tile: int | None = None
    settings: Sequence[str] = ()
    checkpoint: str = "best"
    calibration: str | None = None
    tile_batch: int | None = 1


@dataclass(frozen=True)
class Scoring:
    """What scores and what thresholds, and how a result names them."""

    scorer: Scorer
    thresholds: Thresholds
    names: dict[str, Any]


def open_scoring(request: Request) -> Scoring:
    """The scorer and thresholds of a request; nothing is computed yet."""
    return open_scorings(request, [request.rule])[0]


def open_scorings(request: Request, rules: Sequence[str | None]) -> list[Scoring]:
    """One scorer under several rules (None: the run's or the preset's own), so that a map made once serves all."""
    if (request.run is None) == (request.method is None):
        raise UsageError("name either a trained run or, with --method, a method without a network, and not both")
    if request.run is None and request.checkpoint != "best":
        raise UsageError(f"--checkpoint {request.checkpoint}: --method {request.method} has none; leave it out")
    method: Method
    if request.run is None:
        assert request.method is not None
        method, run = floor_method(request.method), None
        how, seed = _chosen(default_detection(method), method, request), 0
        names: dict[str, Any] = {"method": request.method}
    else:
        run = open_run(request.run)
        method, seed = run.experiment.method, run.experiment.seed
        how = _chosen(run.experiment.detection, method, request)
    parsed = [parse_rule(how.rule if rule is None else rule) for rule in rules]
    state: Any = {}
    if run is not None:
        jax.config.update("jax_default_matmul_precision", run.experiment.matmul_precision)
        step, state = run.state(request.checkpoint)
        names = {"run_id": run.experiment.run_id, "experiment": run.experiment.label, "checkpoint": step}
    # What was asked for, and what was done: a run may have a preset's settings as its own.
    names |= {"preset": request.preset, "detection_preset": preset_of(method, how)}
    scorer = Scorer(method, state, how, seed=seed, tile_batch=request.tile_batch)
    found = []
    for rule in parsed:
        labelled, undamaged = _calibration(rule, run, request.calibration)
        found.append(Scoring(scorer, Thresholds(rule, scorer, labelled=labelled, undamaged=undamaged), names))
    return found


def _chosen(how: Detection, method: Any, request: Request) -> Detection:
    """The preset over the run's own choice, explicit flags over both."""
    if request.preset is not None:
        how = detection_preset(method, request.preset)
    settings = []
    for text in request.settings:
        path, equals, value = text.partition("=")
        if not equals or not path.startswith("detection."):
            raise UsageError(f"--set {text}: expected detection.FIELD=VALUE, for example detection.filter=gaussian")
        settings.append((path.removeprefix("detection."), value))
    how = replace_all(how, settings, "detection.")
    if request.geometry is not None:
        how = dataclasses.replace(how, geometry=request.geometry)  # type: ignore[arg-type]
    if request.tile is not None:
        # Asked for by hand, tiles are used wherever an image is larger than one of them.
        overlap = min(how.overlap, request.tile // 2)
        how = dataclasses.replace(how, tile=request.tile, overlap=overlap, window_pixels=request.tile**2)
    return how


def _calibration(
    rule: Rule, run: Run | None, named: str | None
) -> tuple[Dataset | None, Sequence[UndamagedWindow]]:
    """The images that fix the threshold: those that were named, or those that the run held out."""
    if rule.kind == "validation":
        if named is not None:
            return open_dataset(*parse_spec(named), need_masks=True), ()
        if run is None:
            raise UsageError(
                "--rule validation of a method without a run needs --calibration NAME_OR_PATH[:SPLIT] with masks"
            )
        return run.labelled_validation(), ()
    if rule.kind == "undamaged":
        if named is not None:
            name, split = parse_spec(named)
            dataset = open_dataset(name, split)
            _check_undamaged(dataset, named)
            return None, undamaged_windows(find_root(name), dataset)
        found = run.undamaged() if run is not None else None
        if found is None:
            raise UsageError(
                "--rule undamaged needs undamaged windows: UP-CrackNet runs keep theirs, anything else names a folder "
                "made by `cracks-jax data prepare undamaged` with --calibration"
            )
        return None, undamaged_windows(*found)
    return None, ()


def _check_undamaged(dataset: Dataset, named: str) -> None:
    """A quantile of the error on cracks would be a threshold above them: where masks tell, they must be empty."""
    for record in dataset.records:
        if record.mask is not None and read_mask(record.mask).any():
            raise CracksError(
                f"{record.mask}: this image is cracked, but --rule undamaged takes its threshold from images without "
                f"cracks; cut windows with `cracks-jax data prepare undamaged {named} --out DIR` and name DIR"
            )
