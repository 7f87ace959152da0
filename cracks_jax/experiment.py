"""What an experiment is: a tree of frozen dataclasses, and the ways between file, object and JSON.

Everything but `machine` is the science: it is hashed into `run_id` and must match when a run is resumed.
An experiment file's whole interface is `experiment(form) -> Experiment | dict[str, Experiment]`.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import operator
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cracks_jax.data.elements import NOISE, Pipeline
from cracks_jax.data.order import Policy
from cracks_jax.data.prepare import RESERVED
from cracks_jax.errors import CracksError, UsageError
from cracks_jax.methods import optimiser
from cracks_jax.methods.detection import Detection
from cracks_jax.methods.presets import LOSSES
from cracks_jax.methods.registry import method_class, method_kind
from cracks_jax.methods.restoration import LOSS_WEIGHTS, Restoration
from cracks_jax.methods.segmentation import Segmentation
from cracks_jax.networks.crackseg import LEAST_SIDE
from cracks_jax.networks.upcracknet import MIN_PATCH_SIDE
from cracks_jax.runtime.randomness import SEED_LIMIT
from cracks_jax.settings import build, replace_all
from cracks_jax.untrusted import check_bounds

FORMS = ("paper", "cpu", "smoke")
# UPCRACKNET 6b; patience counts validations, one per epoch.
_EPOCHS = {"default": 200, "paper": 200, "authors": 300}
_PATIENCE = 20
# Settings that came after the first runs, with the default that does what was done before them. There they are left
# out of what is hashed: a run that is on disk keeps its name.
_LATER: dict[tuple[str, ...], Any] = {
    ("data", "bad_images"): "fail",
    ("data", "pipeline", "noise"): NOISE,
    ("training", "skip_non_finite"): 0,
    ("method", "accumulate"): 1,
}
# Machine settings by the names that they had in older runs.
_RENAMED = {"strategy": "parallel"}


@dataclass(frozen=True)
class Data:
    """Which images are trained on.

    Attributes:
      name: a data set under $CRACKS_DATA, or a path (only its last part is recorded); A+B for two as one.
      split: which part of it; None where it has none.
      recipe: a `cracks-jax data prepare` recipe applied first, or None.
      recipe_settings: that recipe's settings, where they differ from its defaults.
      validation: share of the training photographs that is held out to select the best checkpoint.
      pipeline: crop, scale, flips and corruption.
      bad_images: what an image (or its mask) that cannot be read does: it ends the run (`fail`), or all are read before
        the training, and the next image takes its place (`replace`) or the epochs are shorter (`drop`).
    """

    name: str = "deepcrack"
    split: str | None = "train"
    recipe: str | None = None
    recipe_settings: dict[str, Any] = field(default_factory=dict)
    validation: float = 0.1
    pipeline: Pipeline = field(default_factory=Pipeline)
    bad_images: Policy = "fail"

    def __post_init__(self) -> None:
        _demand(self.name != "", "data.name", self.name, "a data set's name or path")
        _demand(0 < self.validation < 1, "data.validation", self.validation, "a share between 0 and 1")
        for name in RESERVED & self.recipe_settings.keys():
            raise UsageError(f"data.recipe_settings.{name} is no setting of a recipe; use data.{name} or leave it out")


@dataclass(frozen=True)
class Training:
    """How long and how a method is trained. Lengths are steps (one batch each); patience counts validations.

    `skip_non_finite`: so many steps whose numbers are not finite are left out; the next one ends the training.
    `loss_weights` and the learning rates travel to the compiled step as traced numbers: changing one compiles nothing.
    `pretrained` (the trunk) and `style_weights` (the style loss's extractor) are files under $CRACKS_WEIGHTS, or paths.
    """

    steps: int = 11_840
    batch_size: int = 8
    preset: Literal["default", "paper", "authors"] = "default"
    schedule: Literal["constant", "exponential", "poly"] = "poly"
    schedule_decay: float = 0.99
    schedule_power: float = 0.9
    final_learning_rate: float = 1e-6
    learning_rate: float = 1e-4
    discriminator_learning_rate: float = 4e-4
    weight_decay: float = 0.0
    loss_weights: dict[str, float] = field(default_factory=dict)
    colour: float = 0.0
    validate_every: int = 592
    patience: int | None = None
    skip_non_finite: int = 0
    pretrained: str | None = None
    style_weights: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every"):
            _demand(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "at least 1")
        _demand(self.skip_non_finite >= 0, "training.skip_non_finite", self.skip_non_finite, "0 (stop at once) or more")
        _demand(self.patience is None or self.patience >= 1, "training.patience", self.patience, "none, or at least 1")
        # The schedule divides by it: its end is a share of the first rate.
        _demand(0 < self.learning_rate < math.inf, "training.learning_rate", self.learning_rate, "more than 0")
        for name in ("discriminator_learning_rate", "final_learning_rate", "weight_decay"):
            _demand(0 <= getattr(self, name) < math.inf, f"training.{name}", getattr(self, name), "at least 0")
        _demand(0 < self.schedule_decay <= 1, "training.schedule_decay", self.schedule_decay, "above 0, at most 1")
        _demand(0 < self.schedule_power < math.inf, "training.schedule_power", self.schedule_power, "more than 0")
        _demand(0 <= self.colour <= 1, "training.colour", self.colour, "0 (off) to 1")
        for name, weight in self.loss_weights.items():
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            _demand(number and 0 <= weight < math.inf, f"training.loss_weights.{name}", weight, "a number, at least 0")
        # 1 and 1.0 are one science.
        object.__setattr__(self, "loss_weights", {name: float(w) for name, w in self.loss_weights.items()})

    def rate_factor(self, steps_per_epoch: float) -> Callable[[int], float]:
        """Step (from 0) -> what both learning rates are multiplied by there."""
        return optimiser.schedule(
            self.schedule,
            steps=self.steps,
            steps_per_epoch=steps_per_epoch,
            decay=self.schedule_decay,
            power=self.schedule_power,
            end=self.final_learning_rate / self.learning_rate,
        )


@dataclass(frozen=True)
class Machine:
    """What may differ between two attempts at one run without changing its result's meaning.

    `decoded_mb`: memory for decoded images, in MiB for each worker: an image that is still there is not decoded again.
    `compilation_cache`: where compiled programs are kept between starts: `user` (the user's cache folder, or what
    JAX_COMPILATION_CACHE_DIR names), a path, or none.
    `parallel`: how a batch is split over devices: `jit` over a mesh, or `pmap`.
    `shard`: what is split over the devices beside the batch, to save memory: `none` (each holds the whole state), the
    `optimiser`'s arrays, or the `parameters` with them. With jit alone.
    `on_write_error`: what a checkpoint or a record that cannot be written does: `stop`, or `continue` without it until
    the next one (the last checkpoint must be written in any case).
    """

    workers: int = 0
    decoded_mb: int = 512
    devices: int | None = None
    parallel: Literal["jit", "pmap"] = "jit"
    shard: Literal["none", "optimiser", "parameters"] = "none"
    log_every: int = 20
    checkpoint_every: int = 500
    cache: str = "runs/prepared"
    compilation_cache: str | None = "user"
    on_write_error: Literal["stop", "continue"] = "stop"

    def __post_init__(self) -> None:
        _demand(self.workers >= 0, "machine.workers", self.workers, "0 (decode in this process) or more")
        _demand(self.decoded_mb >= 0, "machine.decoded_mb", self.decoded_mb, "0 (decode every time) or more")
        _demand(self.devices is None or self.devices >= 1, "machine.devices", self.devices, "none (all), or at least 1")
        _demand(self.shard == "none" or self.parallel == "jit", "machine.shard", self.shard, "none with pmap")
        for name in ("log_every", "checkpoint_every"):
            _demand(getattr(self, name) >= 1, f"machine.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True)
class Experiment:
    """One training, completely described. `name` is the experiment file's stem."""

    name: str
    form: str
    method: Segmentation | Restoration
    member: str | None = None
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    detection: Detection = field(default_factory=Detection)
    seed: int = 0
    matmul_precision: Literal["default", "high", "highest"] = "highest"
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        """What no part can see by itself: that method, windows and loss weights fit together."""
        _demand(0 <= self.seed < SEED_LIMIT, "seed", self.seed, f"0 to {SEED_LIMIT - 1}")
        parts, batch = getattr(self.method, "accumulate", 1), self.training.batch_size
        _demand(batch % parts == 0, "method.accumulate", parts, f"a divisor of training.batch_size, {batch}")
        if isinstance(self.method, Restoration):
            _check_weights(self.training.loss_weights, tuple(LOSS_WEIGHTS))
            _check_windows(self.method, self.data.pipeline)
        elif isinstance(self.method, Segmentation):
            _check_weights(self.training.loss_weights, ())
            crop = self.data.pipeline.crop
            _demand(crop >= LEAST_SIDE, "data.pipeline.crop", crop, f"at least {LEAST_SIDE} px for CrackSeg")
        else:
            raise UsageError(
                f"method {type(self.method).__name__} has nothing to train; use it as it is: "
                f"`cracks-jax detect --method {method_kind(self.method)}`"
            )

    @property
    def run_id(self) -> str:
        """Eight hex digits of the SHA-256 of the science."""
        text = json.dumps(science(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """`<file>-<form>[-<member>]`: the readable part of a run directory's name."""
        return "-".join(part for part in (self.name, self.form, self.member) if part)


def _demand(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {value!r}; expected {expected}")


def _check_weights(weights: dict[str, float], known: tuple[str, ...]) -> None:
    unknown = sorted(set(weights) - set(known))
    if unknown:
        terms = f"its terms are {', '.join(known)}" if known else "CrackSeg has one loss without weights"
        raise UsageError(f"training.loss_weights.{unknown[0]}: there is no such loss term; {terms}")
    missing = sorted(set(known) - set(weights))
    if missing:
        raise UsageError(f"training.loss_weights names no {', '.join(missing)}; take LOSS_WEIGHTS and change some")


def _check_windows(method: Restoration, pipeline: Pipeline) -> None:
    """The generator halves a window `depth` times; what is left must be at least one pixel."""
    if pipeline.corruption is None:
        raise UsageError(
            "data.pipeline.corruption is none; UP-CrackNet learns from squares, stripes or jumbled, or as a control "
            "from identity or noise"
        )
    most = (pipeline.crop & -pipeline.crop).bit_length() - 1
    if method.depth > most:
        raise UsageError(
            f"method.depth is {method.depth}; windows of {pipeline.crop} px (data.pipeline.crop) can be halved {most} "
            f"times: expected 2 to {most}, or another crop"
        )
    _demand(pipeline.crop >= MIN_PATCH_SIDE, "data.pipeline.crop", pipeline.crop, f"at least {MIN_PATCH_SIDE} px")


def science(experiment: Experiment, *, unused: bool = False) -> dict[str, Any]:
    """What is hashed: every setting but `machine` and unused later ones, with a data path reduced to its last part.

    `unused`: those later ones too, for a record that is to hold every setting.
    """
    tree = dataclasses.asdict(experiment)
    del tree["machine"]
    tree["method"] = {"kind": method_kind(experiment.method), **tree["method"]}
    # Paths are this machine's: records hold names, and digests beside them.
    for part, name in (("data", "name"), ("training", "pretrained"), ("training", "style_weights")):
        if tree[part][name] is not None:
            # Of data sets that are used as one (A+B), each has its own.
            tree[part][name] = "+".join(Path(one).name for one in tree[part][name].split("+"))
    for (*parts, name), default in _LATER.items():
        holder = functools.reduce(operator.getitem, parts, tree)
        if not unused and holder.get(name) == default:
            del holder[name]
    return json.loads(json.dumps(tree))


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Every setting of science and machine; the caches' places are left out, as every path is."""
    machine = dataclasses.asdict(experiment.machine)
    del machine["cache"], machine["compilation_cache"]
    return {"science": science(experiment, unused=True), "machine": machine}


def from_json(tree: dict[str, Any], source: str = "experiment.json") -> Experiment:
    """The experiment that `to_json` described; CracksError where it was written by another version or by hand."""
    try:
        check_bounds(tree)
        values = dict(tree["science"])
        method = dict(values.pop("method"))
        values["method"] = build(method_class(method.pop("kind")), method, "method")
        values["machine"] = {_RENAMED.get(name, name): value for name, value in tree["machine"].items()}
        return build(Experiment, values, "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = str(error) if isinstance(error, CracksError) else repr(error)
        raise CracksError(f"{source}: not an experiment of this version ({found}); train it again") from error


def parse_file(spec: str) -> tuple[Path, str]:
    """Path and form of `FILE.py[:FORM]`; UsageError where there is no such file or form."""
    path_text, form = spec, "paper"
    head, colon, tail = spec.rpartition(":")
    if colon and head.endswith(".py"):
        path_text, form = head, tail
    path = Path(path_text)
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"{path_text}: no such experiment file; give a Python file such as experiments/crackseg_deepcrack.py"
        )
    if form not in FORMS:
        raise UsageError(f"{spec}: unknown form {form!r}; a form is one of {', '.join(FORMS)}")
    return path, form


def load_file(spec: str, member: str | None = None) -> Experiment:
    """The experiment of `FILE.py[:FORM]`, one member of it where the file defines a table."""
    path, form = parse_file(spec)
    found = load_members(path, form)
    if "" in found:
        if member is not None:
            raise UsageError(f"{path} defines one experiment, not a table: leave out --member {member}")
        return found[""]
    if member is not None and member not in found:
        raise UsageError(f"{path} has no member {member!r}; it has {', '.join(found)}")
    return found[member if member is not None else next(iter(found))]


def load_members(path: Path, form: str) -> dict[str, Experiment]:
    """All that an experiment file defines, by member; one experiment alone is called ""."""
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "experiment") and hasattr(module, "study"):
            raise UsageError(f"a study of several trainings; `python tools/study.py carry-out {path}` carries it out")
        found = module.experiment(form)
    except CracksError as error:
        raise UsageError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # a user's file may fail in any way; the message must name it
        raise UsageError(f"{path}: cannot be read as an experiment: {type(error).__name__}: {error}") from error
    if found == {}:
        raise UsageError(f"{path}: experiment({form!r}) gave no member: an empty grid or list; give one at least")
    members = found if isinstance(found, dict) else {"": found}
    if not all(isinstance(name, str) and isinstance(one, Experiment) for name, one in members.items()):
        raise UsageError(
            f"{path}: experiment({form!r}) gave {type(found).__name__}; it must give an Experiment, or a dict of them "
            "by name"
        )
    _check_names(path, members)
    return {name: dataclasses.replace(one, member=name or None) for name, one in members.items()}


def _check_names(path: Path, members: dict[str, Experiment]) -> None:
    """A member's name is part of its run directory's, also where a file system knows no capitals."""
    seen: dict[str, str] = {}
    for name in members:
        if name and not re.fullmatch(r"[A-Za-z0-9_.,=+-]{1,100}", name):
            raise UsageError(f"{path}: member {name!r}: use letters, digits and _ . , = + - in a member's name")
        if name.lower() in seen:
            raise UsageError(f"{path}: members {seen[name.lower()]} and {name} would have one id; rename one of them")
        seen[name.lower()] = name


def apply_settings(experiment: Experiment, settings: typing.Sequence[str]) -> Experiment:
    """Each `path.to.field=value` applied in turn. `training.preset` comes first: it sets several fields at once."""
    pairs = []
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {text}: expected path.to.field=value, for example training.steps=100")
        pairs.append((path.strip(), value.strip()))
    presets = [(path, value) for path, value in pairs if path == "training.preset"]
    for pair in presets:
        name = replace_all(experiment, [pair]).training.preset  # says what a preset may be
        experiment = with_training_preset(experiment, name)
    return replace_all(experiment, [pair for pair in pairs if pair not in presets])


def with_training_preset(experiment: Experiment, name: str) -> Experiment:
    """The experiment with every training choice of a preset (UPCRACKNET 6b).

    Lengths are in steps, so a preset's epochs enter as their ratio: `authors` trains 300 for the others' 200.
    """
    if not isinstance(experiment.method, Restoration):
        raise UsageError(f"training.preset={name}: presets belong to UP-CrackNet; this trains CrackSeg")
    authors, before = name == "authors", experiment.training
    steps = round(before.steps * _EPOCHS[name] / _EPOCHS[before.preset])
    patience = _PATIENCE if before.preset == "authors" else before.patience
    weights = {**LOSS_WEIGHTS, **before.loss_weights, "discriminator": 0.5 if authors else 1.0}
    return dataclasses.replace(
        experiment,
        method=dataclasses.replace(experiment.method, losses=LOSSES[name], unbiased_running_var=authors),
        data=dataclasses.replace(
            experiment.data, pipeline=dataclasses.replace(experiment.data.pipeline, corrupt_before=authors)
        ),
        training=dataclasses.replace(
            before,
            preset=typing.cast(Any, name),
            steps=steps,
            patience=None if authors else patience,
            loss_weights=weights,
        ),
    )
